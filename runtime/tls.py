"""TLS for tunnels: one context for all of them.

Owns how a client trusts the service: the system's authorities, a file or a folder of them, or, on
demand, anybody; and how a certificate of one's own is read, with its key. It opens no connection.
TLS 1.2 or newer (docs/protocol.md section 1).
"""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Iterator
from typing import Final, NamedTuple, TypeAlias

from tunnelfleet.proto import ConfigError

_Path: TypeAlias = "str | os.PathLike[str]"


def make_ssl_context(
    ca_file: str | os.PathLike[str] | None = None,
    ca_dir: str | os.PathLike[str] | None = None,
    *,
    verify: bool = True,
) -> ssl.SSLContext:
    """Return a context for connecting to the tunneling service.

    Args:
        ca_file: PEM file of the authorities to trust; with neither file nor folder, the system's.
        ca_dir: folder of PEM files named by hash (`openssl rehash`).
        verify: False accepts any certificate for any host: for tests only.

    Raises:
        ConfigError: the file or folder cannot be read or holds no certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
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
        """Read them. Waits for whoever writes to a pipe.

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
        with open(path, "rb") as file:
            content = file.read(MAX_PEM_BYTES + 1)
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
