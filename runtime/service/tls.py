"""The TLS of a service: the certificate it was given or makes, and where clients then reach it.

A made one is signed by a private authority, there a second time under the name by which OpenSSL
looks it up, for a client that wants a folder (`-c` of the C++ localproxy). In a folder that lasts
the authority's key is kept; else it signs once. Each file is replaced as a whole, in an order in
which whatever a crash leaves is seen not to match, and is made anew.

Files are read or made by one call (`ServerTls.read`) and used from another on (`ServerTls.use`): a
folder may hang, and the thread that relays must not wait for it.
"""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import ssl
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tunnelfleet.actors.kernel.log import get_logger
from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.reading import read_at_once
from tunnelfleet.runtime.tls import MAX_PEM_BYTES, OwnCertificate, make_ssl_context

from .files import TemporaryFolder, locked_folder, read_file, write_file
from .names import certificate_names, checked_names, names_of, reachable_hosts

VALID_DAYS = 365
AUTHORITY_VALID_DAYS = 3650
RENEW_BEFORE_DAYS = 30
CLOCK_SKEW_DAYS = 1
CERTIFICATE_NAME = "server.pem"
"""Of the file with a certificate that was made, beside that of its authority."""

READ_SECONDS = 10.0
"""How long who asks for a given certificate anew waits for its files."""
MAX_READERS = 16
"""So many threads read it at a time at most; those that wait for a folder stay until it answers."""
READER_NAME: Final = "tunnelfleet-certificate"

_CA_NAME = "tunnelfleet embedded service CA"
_PEM = serialization.Encoding.PEM

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """Where the certificate of a service lies.

    Attributes:
        ca: PEM that a client is told to trust.
        certificate: PEM of the server's certificate.
        private_key: PEM of its key, readable by its owner alone.
    """

    ca: Path
    certificate: Path
    private_key: Path

    def own(self) -> OwnCertificate:
        """Read the certificate and its key.

        Raises:
            ConfigError: the files cannot be read, or are no certificate and its key.
        """
        return OwnCertificate.read(self.certificate, self.private_key)


@dataclass(frozen=True, slots=True)
class _Authority:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey | None


def ensure_certificate(
    folder: Path, host: str, names: Sequence[str] = (), *, keep_authority: bool = False
) -> CertificateFiles:
    """Return the certificate of ``folder``, made anew when absent, ageing, or not what is wanted.

    Args:
        folder: where the files are or will be; created if need be.
        host: name or address on which the service listens. Loopback is in the certificate anyway,
            and so are the addresses of this machine when it listens on all of them.
        names: further names and addresses under which clients reach it.
        keep_authority: keep the authority's key, so that a new certificate needs no new authority.

    Raises:
        OSError: the folder cannot be written.
    """
    files = CertificateFiles(folder / "ca.pem", folder / CERTIFICATE_NAME, folder / "server.key")
    wanted = certificate_names(host, names)
    with locked_folder(folder):
        authority = _load_authority(files.ca)
        if authority is None or not _is_usable(files, authority, wanted):
            if authority is None or authority.key is None:
                authority = _make_authority(files.ca, keep_key=keep_authority)
            _make_certificate(files, authority, wanted)
        by_hash = files.ca.with_name(f"{_openssl_hash(_CA_NAME)}.0")
        content = authority.certificate.public_bytes(_PEM)
        if read_file(by_hash) != content:
            write_file(by_hash, content)
    return files


def load_certificate(path: Path) -> x509.Certificate | None:
    """Return the first certificate of a PEM file that was given; None if there is none in it.

    Waits a little for whoever writes to a pipe.
    """
    try:
        return _all_of(read_at_once(path, MAX_PEM_BYTES))[0]
    except (OSError, ValueError, IndexError):
        return None


def _all_of(pem: bytes) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(pem)


def server_context(own: OwnCertificate) -> ssl.SSLContext:
    """Return a server's context for TLS 1.2 and newer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Each takes 6 KiB of a client, for as long as it is connected, and hardly any client comes
    # back with one. `Wire` has the ACK sent that a ticket would have carried.
    context.num_tickets = 0
    own.load_into(context)
    return context


def _load_authority(ca: Path) -> _Authority | None:
    """Return the authority of a folder, if it is one that will last; its key, if it is there."""
    certificate = _parse_certificate(read_file(ca))
    if certificate is None or days_left(certificate) <= RENEW_BEFORE_DAYS:
        return None
    try:
        extension = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    except (ValueError, x509.ExtensionNotFound):
        return None
    if not extension.value.ca:
        return None
    return _Authority(certificate, _matching_key(ca.with_suffix(".key"), certificate))


def _is_usable(files: CertificateFiles, authority: _Authority, wanted: Sequence[str]) -> bool:
    certificate = _parse_certificate(read_file(files.certificate))
    if certificate is None or _matching_key(files.private_key, certificate) is None:
        return False
    try:
        certificate.verify_directly_issued_by(authority.certificate)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return set(wanted) <= set(names_of(certificate)) and days_left(certificate) > RENEW_BEFORE_DAYS


def _parse_certificate(content: bytes | None) -> x509.Certificate | None:
    try:
        return None if content is None else x509.load_pem_x509_certificate(content)
    except ValueError:
        return None


def _matching_key(path: Path, certificate: x509.Certificate) -> ec.EllipticCurvePrivateKey | None:
    """Return the key in a file, if it is the one of this certificate."""
    content = read_file(path, private=True)
    try:
        key = None if content is None else serialization.load_pem_private_key(content, None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            return None
        return key if _public_pem(key) == _public_pem(certificate) else None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None


def _public_pem(owner: ec.EllipticCurvePrivateKey | x509.Certificate) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return owner.public_key().public_bytes(_PEM, form)


def days_left(certificate: x509.Certificate) -> float:
    """Return for how many days it is still good; less than 0 when it is not."""
    left = certificate.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    return left / datetime.timedelta(days=1)


def _make_authority(ca: Path, *, keep_key: bool) -> _Authority:
    if read_file(ca) is not None:
        _log.warning("%s cannot be used any more and is made anew: give it to the clients", ca)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _ca_certificate(key)
    # The key first: a crash behind it leaves a key that does not match, and so neither.
    if keep_key:
        write_file(ca.with_suffix(".key"), _private_pem(key))
    write_file(ca, certificate.public_bytes(_PEM))
    return _Authority(certificate, key)


def _make_certificate(files: CertificateFiles, authority: _Authority, names: Sequence[str]) -> None:
    assert authority.key is not None
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _server_certificate(authority.certificate, authority.key, key, names)
    write_file(files.private_key, _private_pem(key))
    write_file(files.certificate, certificate.public_bytes(_PEM))


def _ca_certificate(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = _common_name(_CA_NAME)
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        _builder(name, name, key, AUTHORITY_VALID_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _server_certificate(
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    key: ec.EllipticCurvePrivateKey,
    names: Sequence[str],
) -> x509.Certificate:
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    return (
        _builder(_common_name("tunnelfleet embedded service"), ca.subject, key, VALID_DAYS)
        .add_extension(
            x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(authority, critical=False)
        .sign(ca_key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, valid_days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=CLOCK_SKEW_DAYS))
        .not_valid_after(now + datetime.timedelta(days=valid_days))
    )


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general_name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _openssl_hash(common_name: str) -> str:
    """Return what ``openssl x509 -hash`` prints for a subject that is one short common name.

    It is the SHA-1 of the name's canonical DER form: lower case, UTF-8, without the outer sequence.
    """
    text = common_name.lower().encode()
    value = b"\x06\x03\x55\x04\x03" + b"\x0c" + bytes([len(text)]) + text
    pair = b"\x30" + bytes([len(value)]) + value
    digest = hashlib.sha1(b"\x31" + bytes([len(pair)]) + pair, usedforsecurity=False).digest()
    return f"{int.from_bytes(digest[:4], 'little'):08x}"


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """What a service proves who it is with, as it was read or made.

    Attributes:
        hosts: where clients connect to, the best first.
        context: for handshakes; None without TLS.
        ca_path: PEM to trust for a certificate that was made.
        shown: the certificate, with those of the authorities between; empty without TLS.
    """

    hosts: tuple[str, ...]
    context: ssl.SSLContext | None = None
    ca_path: Path | None = None
    shown: tuple[x509.Certificate, ...] = ()


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
        enabled: whether it serves with TLS.

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
        self._used = ServerIdentity((host,))
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

    @property
    def context(self) -> ssl.SSLContext | None:
        """For handshakes from now on; None without TLS, and before ``prepare``."""
        return self._used.context

    @property
    def ca_path(self) -> Path | None:
        """PEM to trust for a made certificate, once it is made."""
        return self._used.ca_path

    @property
    def hosts(self) -> tuple[str, ...]:
        """Where clients connect to, the best first; complete after ``prepare``."""
        return self._used.hosts

    def prepare(self) -> None:
        """Read or make the certificate, and use it. One that came from a pipe stays.

        Raises:
            ConfigError: that is not possible; what was prepared before stays.
        """
        self.use(self.read())

    def use(self, identity: ServerIdentity) -> None:
        """Show this in handshakes from now on. Reads no file."""
        self._used = identity

    def read(self, *, anew: bool = False) -> ServerIdentity:
        """Read or make the certificate, for ``use``. It waits for its folder, on any thread.

        Args:
            anew: whether one that was given is to be another one than before. Else one that came
                from a pipe, which can be read only once, is the same again.

        Raises:
            ConfigError: that is not possible.
        """
        if not self.enabled:
            given = None if self._given is None else load_certificate(self._given[0])
            return ServerIdentity(reachable_hosts(self._host, self._names, given))
        if self._given is None:
            return self._made()
        if self.context is None or (pipe := _pipe_among(self._given)) is None:
            return self._read_given(*self._given)
        if anew:
            raise ConfigError(f"{pipe} is a pipe, which can be read only once; give a file")
        return self._used

    @property
    def given_path(self) -> Path | None:
        """Of the certificate that was given."""
        return None if self._given is None else self._given[0]

    @property
    def is_ageing(self) -> bool:
        """Whether a certificate that was made, and is kept, is to be made anew. Reads no file.

        One in a temporary folder has no authority that could sign another one.
        """
        if self._given is not None or self._state_dir is None:
            return False
        certificate = self._certificate()
        return certificate is not None and days_left(certificate) <= RENEW_BEFORE_DAYS

    def _certificate(self) -> x509.Certificate | None:
        """The one that is in use."""
        return next(iter(self._used.shown), None)

    def describe(self) -> str:
        """Return for whom and until when the certificate is good, for people."""
        certificate = self._certificate()
        if certificate is None:
            return ""
        names = ", ".join(names_of(certificate)) or "nobody"
        return f"for {names}, until {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"

    def client_context(self) -> ssl.SSLContext:
        """Return a client's context that trusts the certificate."""
        if self.ca_path is not None:
            return make_ssl_context(self.ca_path)
        context = make_ssl_context()
        if shown := self._used.shown:
            der = [each.public_bytes(serialization.Encoding.DER) for each in shown]
            context.load_verify_locations(cadata=b"".join(der))
            # Its authority is not known here; the certificate itself is what is trusted.
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        return context

    def forget(self) -> None:
        """Remove a made certificate that is not to be kept."""
        if self._temporary is not None:
            self._temporary.remove()
            self._temporary = None
            self._used = replace(self._used, ca_path=None, shown=())

    def _read_given(self, certificate: Path, private_key: Path) -> ServerIdentity:
        try:
            own = OwnCertificate.read(certificate, private_key)
            context, shown = server_context(own), _all_of(own.certificate)
        except ConfigError as error:
            raise ConfigError(f"{error}; without both a certificate is made") from None
        except ValueError:
            text = f"{certificate} has a certificate that cannot be read: give PEM files"
            raise ConfigError(text) from None
        hosts = reachable_hosts(self._host, self._names, shown[0])
        return ServerIdentity(hosts, context, None, tuple(shown))

    def _made(self) -> ServerIdentity:
        try:
            folder = self._state_dir
            if folder is None:
                if self._temporary is None:
                    self._temporary = TemporaryFolder()
                folder = self._temporary.path
            files = ensure_certificate(
                folder, self._host, self._names, keep_authority=folder is self._state_dir
            )
            own = files.own()
        except OSError as error:
            where = error.filename or self._state_dir or "the temporary directory"
            raise ConfigError(
                f"no certificate can be kept: {where}: {_why(error)}; give a folder for it "
                "that this user may write"
            ) from error
        hosts = reachable_hosts(self._host, self._names, None)
        return ServerIdentity(hosts, server_context(own), files.ca, tuple(_all_of(own.certificate)))


class CertificateReloads:
    """Takes a given certificate anew, as often as somebody asks.

    Each time it is read on a thread of its own: who asks waits `READ_SECONDS` for a folder that
    hangs, and the thread that relays does not wait at all.

    Args:
        tls: whose certificate was given.
    """

    def __init__(self, tls: ServerTls) -> None:
        self._tls = tls
        self._lock = threading.Lock()
        self._asked = self._used = 0
        self._readers: list[threading.Thread] = []

    def read(self) -> tuple[int, ServerIdentity]:
        """Read it, for ``use``.

        Returns:
            The number of this call, and what was read.

        Raises:
            ConfigError: it cannot be used, or not be read in time.
        """
        path, answer = self._tls.given_path, Future[ServerIdentity]()
        with self._lock:
            self._readers = [each for each in self._readers if each.is_alive()]
            if len(self._readers) >= MAX_READERS:
                text = f"{path} is still being read for {MAX_READERS} who asked before"
                raise ConfigError(f"{text}; see whether its folder answers, and ask again")
            self._asked += 1
            number = self._asked
            reader = threading.Thread(
                target=self._read, args=(answer,), name=READER_NAME, daemon=True
            )
            reader.start()
            self._readers.append(reader)
        try:
            return number, answer.result(READ_SECONDS)
        except TimeoutError:
            text = f"{path} or its key cannot be read within {READ_SECONDS:g} s"
            raise ConfigError(f"{text}; see whether the folder answers, and ask again") from None

    def use(self, number: int, identity: ServerIdentity) -> bool:
        """Use what was read, on the service's thread; return False if it was overtaken.

        Who asks later reads later, too, so what is in use then is newer.
        """
        if number < self._used:
            return False
        self._used = number
        self._tls.use(identity)
        return True

    def _read(self, answer: Future[ServerIdentity]) -> None:
        try:
            answer.set_result(self._tls.read(anew=True))
        except Exception as error:  # noqa: BLE001 (raised again in the caller's thread)
            answer.set_exception(error)


def _pipe_among(paths: Sequence[Path]) -> Path | None:
    """The first of these that is a pipe, as `<(command)` of a shell is."""
    return next((path for path in paths if path.is_fifo()), None)


def _why(error: OSError) -> str:
    """What went wrong, without the number and the file name of an OSError."""
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).replace("_", " ").lower()
    return error.strerror or str(error)
