"""The TLS of a service: the certificate it was given or makes, and where clients then reach it.

Owns the server's context and its renewal, the folder of a made certificate for as long as it is
needed, and the rule that an endpoint is told only under a name that is in the certificate. Must not
know connections or tunnels.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509

from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.tls import make_ssl_context

from .certificates import (
    CERTIFICATE_NAME,
    RENEW_BEFORE_DAYS,
    days_left,
    ensure_certificate,
    load_certificate,
    server_context,
)
from .files import TemporaryFolder
from .names import checked_names, names_of, reachable_hosts


class ServerTls:
    """How a service proves who it is.

    Args:
        host: where it listens.
        enabled: False serves without TLS.
        certificate: PEM of a given certificate; None makes one.
        private_key: PEM of its key.
        state_dir: where a made one is kept; None uses a folder that goes with ``forget``.
        names: names and addresses to put into a made certificate too.

    Attributes:
        context: for handshakes from now on; None without TLS, and before ``prepare``.
        ca_path: PEM to trust for a made certificate, once it is made.
        hosts: where clients connect to, the best first; complete after ``prepare``.

    Raises:
        ConfigError: these do not go together, or a name is none.
    """

    def __init__(
        self,
        host: str,
        *,
        enabled: bool,
        certificate: Path | None,
        private_key: Path | None,
        state_dir: Path | None,
        names: Sequence[str],
    ) -> None:
        if (certificate is None) != (private_key is None):
            raise ConfigError("a certificate and its private key go together; give both or none")
        if names and (not enabled or certificate is not None):
            raise ConfigError(
                "names are for the certificate that the service makes for itself; "
                "without it, leave them out"
            )
        self.enabled = enabled
        self.context: ssl.SSLContext | None = None
        self.ca_path: Path | None = None
        self.hosts: tuple[str, ...] = (host,)
        self._host = host
        self._given = None
        if certificate is not None and private_key is not None:
            self._given = certificate, private_key
        self._state_dir = state_dir
        self._names = checked_names(names)
        self._temporary: TemporaryFolder | None = None

    @property
    def is_given(self) -> bool:
        """Whether the certificate was given, and so can be given anew."""
        return self._given is not None

    def prepare(self) -> None:
        """Read or make the certificate.

        Raises:
            ConfigError: that is not possible; what was prepared before stays.
        """
        if self.enabled:
            self.context = self._made() if self._given is None else self._read(*self._given)
        self.hosts = reachable_hosts(self._host, self._names, self._given_certificate())

    @property
    def is_ageing(self) -> bool:
        """Whether a certificate that was made, and is kept, is to be made anew.

        One in a temporary folder has no authority that could sign another one.
        """
        if not self.enabled or self._given is not None or self._state_dir is None:
            return False
        certificate = self._certificate()
        return certificate is not None and days_left(certificate) <= RENEW_BEFORE_DAYS

    def _certificate(self) -> x509.Certificate | None:
        """The one that is in use."""
        if self._given is not None:
            return load_certificate(self._given[0])
        if self.ca_path is None:
            return None
        return load_certificate(self.ca_path.with_name(CERTIFICATE_NAME))

    def describe(self) -> str:
        """Return for whom and until when the certificate is good, for people."""
        certificate = self._certificate()
        if certificate is None:
            return ""
        names = ", ".join(names_of(certificate)) or "nobody"
        return f"for {names}, until {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"

    def _given_certificate(self) -> x509.Certificate | None:
        return None if self._given is None else load_certificate(self._given[0])

    def client_context(self) -> ssl.SSLContext:
        """Return a client's context that trusts the certificate."""
        if self.ca_path is not None:
            return make_ssl_context(self.ca_path)
        context = make_ssl_context()
        if self._given is not None:
            context.load_verify_locations(self._given[0])
            # Its authority is not known here; the certificate itself is what is trusted.
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        return context

    def forget(self) -> None:
        """Remove a made certificate that is not to be kept."""
        if self._temporary is not None:
            self._temporary.remove()
            self._temporary = self.ca_path = None

    @staticmethod
    def _read(certificate: Path, private_key: Path) -> ssl.SSLContext:
        try:
            return server_context(certificate, private_key)
        except OSError as error:
            raise ConfigError(
                f"the certificate {certificate} with the key {private_key} cannot be used: "
                f"{_why(error)}; give the PEM files of a certificate and its key, "
                "or neither to have one made"
            ) from error

    def _made(self) -> ssl.SSLContext:
        try:
            folder = self._state_dir
            if folder is None:
                if self._temporary is None:
                    self._temporary = TemporaryFolder()
                folder = self._temporary.path
            files = ensure_certificate(
                folder, self._host, self._names, keep_authority=folder is self._state_dir
            )
            self.ca_path = files.ca
            return server_context(files.certificate, files.private_key)
        except OSError as error:
            where = error.filename or self._state_dir or "the temporary directory"
            raise ConfigError(
                f"no certificate can be kept: {where}: {_why(error)}; give a folder for it "
                "that this user may write"
            ) from error


def _why(error: OSError) -> str:
    """What went wrong, without the number and the file name of an OSError."""
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).replace("_", " ").lower()
    return error.strerror or str(error)
