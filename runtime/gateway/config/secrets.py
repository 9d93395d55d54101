"""What an entry names by a file: a token, the secret of a deployment, authorities to trust.

Owns which tunnels share a TLS context (those whose authorities have the same content), how a
certificate that was replaced is noticed, and how secrets are read and compared. No text shows one.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import ssl
import stat
from pathlib import Path
from typing import NamedTuple

from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime import make_ssl_context
from tunnelfleet.runtime.reading import open_at_once

from .paths import create_private_file

MAX_CA_BYTES = 16 * 1_048_576
"""The size of all files of one `ca`; all public authorities together have less than a million."""
MAX_CA_FILES = 10_000
MAX_CONTEXTS = 64
"""How many contexts are kept that nobody has asked for since `begin`: each has its certificates."""


class Authorities:
    """The TLS contexts of a fleet: one for each file or folder of authorities and its content.

    It is kept over reloads, so that what has not changed is the same context. The contexts of what
    no tunnel names any more go with `forget_others`.
    """

    def __init__(self) -> None:
        self._contexts: dict[tuple[str | None, str], ssl.SSLContext] = {}
        self._used: set[tuple[str | None, str]] = set()
        self._read: dict[Path | None, tuple[ssl.SSLContext, str]] = {}
        """Since `begin`: thousands of tunnels name one file, and it is read once."""
        self.files: set[Path] = set()
        """What was read since `begin`."""

    def begin(self) -> None:
        """Begin a new reading of the configuration."""
        self._used.clear()
        self._read.clear()
        self.files.clear()

    def forget_others(self) -> None:
        """Drop the contexts that nobody has asked for since `begin`."""
        for key in self._contexts.keys() - self._used:
            del self._contexts[key]

    def get(self, path: Path | None) -> tuple[ssl.SSLContext, str]:
        """Return the context that trusts these authorities, and a fingerprint of what was read.

        Raises:
            ConfigError: it cannot be read, or holds no certificate.
        """
        found = self._read.get(path)
        if found is None:
            found = self._read[path] = self._look(path)
        return found

    def _look(self, path: Path | None) -> tuple[ssl.SSLContext, str]:
        fingerprint = "" if path is None else _fingerprint(path)
        key = (None if path is None else str(path), fingerprint)
        if path is not None:
            self.files.add(path)
        context = self._contexts.get(key)
        if context is None:
            is_folder = path is not None and path.is_dir()
            context = make_ssl_context(
                ca_file=None if is_folder else path, ca_dir=path if is_folder else None
            )
            self._contexts[key] = context
        self._used.add(key)
        self._forget_oldest()
        return context, fingerprint

    def _forget_oldest(self) -> None:
        """Whoever reads one tunnel at a time never says that it has read all there are."""
        beyond = len(self._contexts) - MAX_CONTEXTS
        if beyond > 0:
            for key in [each for each in self._contexts if each not in self._used][:beyond]:
                del self._contexts[key]


def _fingerprint(path: Path) -> str:
    """Return a digest of the content, so that replaced certificates count as a change."""
    digest = hashlib.sha256()
    left_bytes = MAX_CA_BYTES
    try:
        for file in _files_of(path):
            content = _read(file, left_bytes)
            left_bytes -= len(content)
            digest.update(file.name.encode() + b"\0" + content + b"\0")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    return digest.hexdigest()


def _files_of(path: Path) -> list[Path]:
    """Return the file, or the files of a folder; none that a reader could wait for."""
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        found = sorted(path.iterdir())
        if len(found) > MAX_CA_FILES:
            raise ConfigError(f"{path} has more than {MAX_CA_FILES} files; it is the wrong folder")
        return [each for each in found if each.is_file()]
    if not stat.S_ISREG(mode):
        raise ConfigError(f"{path} is neither a file nor a folder; name a PEM file")
    return [path]


def _read(file: Path, limit_bytes: int) -> bytes:
    with file.open("rb") as opened:
        content = opened.read(limit_bytes + 1)
    if len(content) > limit_bytes:
        raise ConfigError(f"{file} is too large: a ca has at most {MAX_CA_BYTES} bytes in all")
    return content


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
    return read_deployment_secret(path)


def read_deployment_secret(path: Path) -> tuple[bytes, str]:
    """Read the secret of the deployment, without a line end behind it.

    Returns:
        The secret, and a warning about its file or an empty text.

    Raises:
        ConfigError: it cannot be read, or is shorter than `MIN_SECRET_BYTES`.
    """
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


MAX_SECRET_BYTES = 65_536
"""The longest file with a secret; a longer one is the wrong file."""


def read_private(path: Path, limit_bytes: int = MAX_SECRET_BYTES) -> tuple[bytes, str]:
    """Read a file that others should not; a warning if they can, or an empty text.

    Raises:
        ConfigError: it cannot be read, or is larger.
    """
    try:
        # A pipe that nobody writes to would be waited for in `open` already.
        with open(path, "rb", opener=open_at_once) as file:
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
