"""Reading the secrets of a gateway: access tokens, the bearer token, the secret of a deployment.

Owns how a file with a secret is read and when it is worth a warning. An operator's file may be a
link, as Kubernetes mounts secrets so; a file that the gateway makes itself never is. No error
repeats any of the content.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import stat
from pathlib import Path
from typing import NamedTuple

from tunnelfleet.proto import ConfigError

from .paths import create_private_file


class SecretText(NamedTuple):
    """What was in a file, and a warning about the file or an empty text."""

    text: str
    warning: str

    def __repr__(self) -> str:
        return "SecretText(...)"


def read_secret(path: Path) -> SecretText:
    """Read a file with one secret; blanks and line ends around it do not count.

    Raises:
        ConfigError: it cannot be read, is empty, or is no file with a secret.
    """
    content, warning = read_private(path)
    try:
        text = content.decode("ascii").strip()
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is no text; write the token alone into it") from None
    if not text:
        raise ConfigError(f"{path} is empty; write the token into it")
    return SecretText(text, warning)


MIN_SECRET_BYTES = 32
SECRET_NAME = "client-token-secret"  # noqa: S105 - the name of a file
"""The name of the file that is made beside the state."""


def ensure_secret(path: Path | None, folder: Path) -> tuple[bytes, str]:
    """Return the secret of the deployment, which client tokens are derived from.

    Args:
        path: the operator's file; None takes the one in `folder`, and makes it at the first start.
        folder: of the state.

    Returns:
        The secret, and a warning about its file or an empty text.

    Raises:
        ConfigError: it cannot be read or made, or is shorter than `MIN_SECRET_BYTES`.
    """
    if path is None:
        path = folder / SECRET_NAME
        if path.is_symlink():
            raise ConfigError(
                f"{path} is a link, and a gateway makes no such thing; remove it, "
                "or name its target as gateway.client_token_secret_file"
            )
        if not path.exists():
            create_private_file(path, os.urandom(MIN_SECRET_BYTES).hex().encode() + b"\n")
    content, warning = read_private(path)
    secret = content.removesuffix(b"\n").removesuffix(b"\r")
    if len(secret) < MIN_SECRET_BYTES:
        raise ConfigError(
            f"{path} has {len(secret)} bytes, and a secret needs at least {MIN_SECRET_BYTES}; "
            "make one with: openssl rand -hex 32"
        )
    return secret, warning


class ClientTokens:
    """Derives client tokens, so that nothing has to be written before a connect.

    A gateway that was killed, or another one that takes over, has the same pair again, and AWS
    lets the same pair connect again.

    Args:
        secret: of the deployment.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def __repr__(self) -> str:
        return "ClientTokens(...)"

    def derive(self, access_token: str) -> str:
        """Return the client token that goes with an access token: HMAC-SHA256 in hex."""
        return hmac.new(self._secret, access_token.encode(), hashlib.sha256).hexdigest()


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


MAX_SECRET_BYTES = 65_536
"""The longest file with a secret; a longer one is the wrong file."""


def read_private(path: Path, limit_bytes: int = MAX_SECRET_BYTES) -> tuple[bytes, str]:
    """Read a file that others should not; a warning if they can, or an empty text.

    Raises:
        ConfigError: it cannot be read, or is larger.
    """
    try:
        # A pipe that nobody writes to would be waited for in `open` already.
        with open(path, "rb", opener=_open_at_once) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ConfigError(f"{path} is no file; name a file with the secret")
            content = file.read(limit_bytes + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    if len(content) > limit_bytes:
        raise ConfigError(f"{path} is larger than {limit_bytes} bytes; it is the wrong file")
    is_open = bool(status.st_mode & stat.S_IROTH)
    return content, f"everybody can read {path}; run: chmod o-rwx {path}" if is_open else ""
