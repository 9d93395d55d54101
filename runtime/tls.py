"""TLS for tunnels: one context for all of them.

Owns how a client trusts the service: the system's authorities, a file or a folder of them, or, on
demand, anybody; and how a certificate of one's own is read, with its key. It opens no connection.
TLS 1.2 or newer (docs/protocol.md section 1).
"""

from __future__ import annotations

import contextlib
import errno
import os
import ssl
import stat
from collections.abc import Iterator
from typing import Any, Final, NamedTuple, TypeAlias

from tunnelfleet.proto import ConfigError

from .reading import read_at_once

_Path: TypeAlias = "str | os.PathLike[str]"
_Stamp: TypeAlias = tuple[int, int, int, int, int]

MAX_CA_BYTES = 16 * 1_048_576
"""Of a file of authorities that is read anew; all public ones together have less than a million."""


class FollowingContext(ssl.SSLContext):
    """A context that looks, before each handshake, whether its file of authorities was replaced.

    A service gets a certificate of another authority while clients are connected; they come back,
    and the file has both, or the new one, by then. Those that were trusted stay so: OpenSSL forgets
    none. A folder needs no looking at, for OpenSSL reads it at each handshake.
    """

    _followed: _Path | None = None
    _seen: _Stamp | None = None

    def follow(self, ca_file: _Path | None) -> None:
        """Look at this file, which is about to be read; None looks at none."""
        self._followed, self._seen = ca_file, _stamp(ca_file)

    def _look(self) -> None:
        path, stamp = self._followed, _stamp(self._followed)
        if path is None or stamp is None or stamp == self._seen:
            return
        # The kernel brings pykka, and commands that only ask a gateway have a context, too.
        from tunnelfleet.actors.kernel.log import get_logger  # noqa: PLC0415

        self._seen, log = stamp, get_logger(__name__)
        try:
            if stamp[0] > MAX_CA_BYTES:
                raise OSError(errno.EFBIG, f"it has more than {MAX_CA_BYTES} bytes")
            self.load_verify_locations(cafile=path)
        except OSError as error:
            reason = (
                "it holds no certificate" if isinstance(error, ssl.SSLError) else error.strerror
            )
            log.warning("%s was replaced and cannot be used, what it had stays: %s", path, reason)
        else:
            log.debug("%s was replaced; the authorities in it are trusted from now on", path)

    def wrap_socket(self, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        """See `ssl.SSLContext.wrap_socket`."""
        self._look()
        return super().wrap_socket(*args, **kwargs)

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """See `ssl.SSLContext.wrap_bio`."""
        self._look()
        return super().wrap_bio(*args, **kwargs)


def _stamp(path: _Path | None) -> _Stamp | None:
    """Return what tells a file from another one, or from what it was; None if it is no file."""
    try:
        found = None if path is None else os.stat(path)
    except OSError:
        return None
    if found is None or not stat.S_ISREG(found.st_mode):
        return None
    return found.st_size, found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns


def make_ssl_context(
    ca_file: str | os.PathLike[str] | None = None,
    ca_dir: str | os.PathLike[str] | None = None,
    *,
    verify: bool = True,
) -> ssl.SSLContext:
    """Return a context for connecting to the tunneling service.

    Args:
        ca_file: PEM file of the authorities to trust; with neither file nor folder, the system's.
            When it is replaced, what it has then is trusted from the next handshake on as well.
        ca_dir: folder of PEM files named by hash (`openssl rehash`).
        verify: False accepts any certificate for any host: for tests only.

    Raises:
        ConfigError: the file or folder cannot be read or holds no certificate.
    """
    context = FollowingContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    if ca_file is None and ca_dir is None:
        context.load_default_certs()
        return context
    if ca_dir is not None and not os.path.isdir(ca_dir):
        raise ConfigError(f"cannot read the folder of CA certificates {ca_dir}: no such folder")
    try:
        # Looked at before: what is written in between is read once more.
        context.follow(ca_file)
        context.load_verify_locations(cafile=ca_file, capath=ca_dir)
    except ssl.SSLError:
        raise ConfigError(f"{ca_file} holds no certificate: give a PEM file") from None
    except OSError as error:
        raise ConfigError(
            f"cannot read the CA certificates {ca_file}: {error.strerror or error}"
        ) from None
    return context


MAX_PEM_BYTES: Final = 1_048_576


class OwnCertificate(NamedTuple):
    """A certificate and its key, read once each, as they may come from pipes.

    Attributes:
        certificate: PEM, with those of the authorities between.
        private_key: PEM of its key.
        names: of the two files, for people.
    """

    certificate: bytes
    private_key: bytes
    names: tuple[_Path, _Path]

    @classmethod
    def read(cls, certificate: _Path, private_key: _Path) -> OwnCertificate:
        """Read them. Waits a little for whoever writes to a pipe.

        Args:
            certificate: PEM file; it may have the key, too.
            private_key: PEM file of the key, without a password.

        Raises:
            ConfigError: a file cannot be read.
        """
        shown = _read_pem("certificate", certificate)
        is_one = os.fspath(certificate) == os.fspath(private_key)
        key = shown if is_one else _read_pem("private key", private_key)
        return cls(shown, key, (certificate, private_key))

    def load_into(self, context: ssl.SSLContext) -> None:
        """Have a context show this certificate.

        Raises:
            ConfigError: they are no certificate and its key.
        """
        with contextlib.ExitStack() as stack:
            # OpenSSL is given files by Python, and these are not to be on a disk.
            shown, key = (stack.enter_context(_in_memory(each)) for each in self[:2])
            try:
                # Without a password OpenSSL would ask for one on the terminal, and wait.
                context.load_cert_chain(shown, key, password="")
            except OSError as error:
                raise ConfigError(_why_no_pair(error, *self.names)) from None


def load_own_certificate(context: ssl.SSLContext, certificate: _Path, private_key: _Path) -> None:
    """Have a context show the certificate in a file.

    Args:
        context: of a server, or of a client whose peer wants to see one.
        certificate: PEM file, with those of the authorities between.
        private_key: PEM file of its key, without a password.

    Raises:
        ConfigError: a file cannot be read, or they are no certificate and its key.
    """
    OwnCertificate.read(certificate, private_key).load_into(context)


def _read_pem(what: str, path: _Path) -> bytes:
    try:
        content = read_at_once(path, MAX_PEM_BYTES)
    except OSError as error:
        raise ConfigError(f"cannot read the {what} {path}: {error.strerror}") from None
    if len(content) > MAX_PEM_BYTES:
        raise ConfigError(f"the {what} {path} has more than {MAX_PEM_BYTES} bytes")
    return content


@contextlib.contextmanager
def _in_memory(content: bytes) -> Iterator[str]:
    """The path of a file in memory, while the block runs."""
    try:
        with os.fdopen(os.memfd_create("tunnelfleet-pem"), "wb") as file:
            file.write(content)
            file.flush()
            yield f"/proc/self/fd/{file.fileno()}"
    except OSError as error:
        raise ConfigError(f"cannot take a certificate into memory: {error.strerror}") from None


def _why_no_pair(error: OSError, certificate: _Path, private_key: _Path) -> str:
    if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
        return f"{private_key} is not the key of {certificate}: give the one it was made with"
    return (
        f"{certificate} and {private_key} are no certificate and its key: give PEM files, the key "
        "without a password"
    )
