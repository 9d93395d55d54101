"""A private certificate authority of one certificate, for a service without a real one.

Owns TLS of the server side: making, writing and reusing ``ca.pem``, ``server.pem`` and
``server.key`` in a folder. The authority is there a second time under the name by which OpenSSL
looks it up, so that the folder can be given to a client that wants one, as the C++ localproxy's
``-c`` does. The authority's key signs once and is forgotten, so that trusting ``ca.pem`` trusts
this service and nothing else. Must not know the service that uses them.
"""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import os
import socket
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from pathlib import Path

VALID_DAYS = 365
RENEW_BEFORE_DAYS = 30
CLOCK_SKEW_DAYS = 1
KEY_FILE_MODE = 0o600

_CA_NAME = "tunnelfleet embedded service CA"
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


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


def ensure_certificate(folder: Path, host: str) -> CertificateFiles:
    """Return the certificate of ``folder``, made anew when absent, ageing or of another host.

    Args:
        folder: where the three files are or will be; created if need be.
        host: name or address under which clients reach the service, besides loopback.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = CertificateFiles(folder / "ca.pem", folder / "server.pem", folder / "server.key")
    if not _is_usable(files, host):
        _make(files, host)
    return files


def server_context(certificate: Path, private_key: Path) -> ssl.SSLContext:
    """Return a server's context for TLS 1.2 and newer.

    Raises:
        OSError: the files cannot be read, or are no certificate and its key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # With none, the request waits 40 ms for the delayed ACK of TLS's Finished (measured).
    context.num_tickets = 1
    context.load_cert_chain(certificate, private_key)
    return context


def _is_usable(files: CertificateFiles, host: str) -> bool:
    if not (files.ca.is_file() and files.private_key.is_file() and files.certificate.is_file()):
        return False
    try:
        certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound):
        return False
    left = certificate.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    return left > datetime.timedelta(days=RENEW_BEFORE_DAYS) and set(_names(host)) <= set(names)


def _make(files: CertificateFiles, host: str) -> None:
    ca_key = ec.generate_private_key(ec.SECP256R1())
    server_key = ec.generate_private_key(ec.SECP256R1())
    ca = _ca_certificate(ca_key)
    server = _server_certificate(ca, ca_key, server_key, host)
    _write(files.private_key, _private_pem(server_key), KEY_FILE_MODE)
    pem = serialization.Encoding.PEM
    _write(files.certificate, server.public_bytes(pem), 0o644)
    _write(files.ca, ca.public_bytes(pem), 0o644)
    _write(files.ca.with_name(f"{_openssl_hash(_CA_NAME)}.0"), ca.public_bytes(pem), 0o644)


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
        _builder(name, name, key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _server_certificate(
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    key: ec.EllipticCurvePrivateKey,
    host: str,
) -> x509.Certificate:
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    return (
        _builder(_common_name("tunnelfleet embedded service"), ca.subject, key)
        .add_extension(x509.SubjectAlternativeName(_names(host)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(authority, critical=False)
        .sign(ca_key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=CLOCK_SKEW_DAYS))
        .not_valid_after(now + datetime.timedelta(days=VALID_DAYS))
    )


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _names(host: str) -> list[x509.GeneralName]:
    texts = dict.fromkeys((*_LOOPBACK_NAMES, *_reachable_names(host)))
    return [_general_name(text) for text in texts if text]


def _reachable_names(host: str) -> tuple[str, ...]:
    """Return the host itself, or for a wildcard address the names of this machine."""
    if host in {"0.0.0.0", "::"}:  # noqa: S104 (compared, not bound)
        return (socket.gethostname(),)
    return (host,)


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


def _write(path: Path, content: bytes, mode: int) -> None:
    """Write with the mode in force before the content is there."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.write(content)
