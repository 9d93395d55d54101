"""The TLS contexts of a fleet: one for each file or folder of authorities and its content.

Owns which tunnels share a context, and how a certificate that was replaced is noticed.
"""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime import make_ssl_context

if TYPE_CHECKING:
    import ssl


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
