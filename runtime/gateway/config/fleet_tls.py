"""The certificates by which the gateways of a fleet know each other.

Owns the two TLS contexts that follow from three files, and what is asked of a certificate: it is of
the fleet's own authority and names its gateway. The files are tried against each other when they
are read, so that a mistake is told with its line in the file and changes nothing that runs.
"""

from __future__ import annotations

import ssl
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tunnelfleet.proto import ConfigError, printable

from .secrets import read_private

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


MAX_PEM_BYTES = 1_048_576
"""The largest file of certificates; a larger one is the wrong file."""
WARNING_DAYS = 30
"""A certificate that is over within so many days is warned of."""
_TRIES = 8
"""Flights of a handshake, and more."""


class FleetFileError(ConfigError):
    """One of the three files cannot be used.

    Args:
        key: which, by its key in `[gateway]`.
        text: why, and what to do.
    """

    def __init__(self, key: str, text: str) -> None:
        super().__init__(text)
        self.key = key


@dataclass(frozen=True, slots=True)
class FleetTls:
    """How a gateway shows who it is, and looks who others are.

    Attributes:
        server: for those who call.
        client: for calling others.
    """

    server: ssl.SSLContext
    client: ssl.SSLContext


def names_in(certificate: Mapping[str, Any] | None) -> frozenset[str]:
    """The gateways that a certificate is for, as `getpeercert()` tells it."""
    if not certificate:
        return frozenset()
    names = {value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"}
    for part in certificate.get("subject", ()):
        names |= {value for kind, value in part if kind == "commonName"}
    return frozenset(names)


def read_fleet_tls(cert: Path, key: Path, ca: Path, name: str) -> tuple[FleetTls, dict[str, str]]:
    """Read the files of a gateway.

    Args:
        cert: its certificate, and those between it and the authority.
        key: of the certificate.
        ca: the fleet's authority; nobody else is trusted.
        name: of the gateway.

    Returns:
        The contexts, and warnings by the key that they are about.

    Raises:
        FleetFileError: they cannot be used.
    """
    warning = ""
    for field, path in (("fleet_cert", cert), ("fleet_ca", ca), ("fleet_key", key)):
        try:
            _content, warning = read_private(path, MAX_PEM_BYTES)
        except ConfigError as error:
            raise FleetFileError(field, str(error)) from None
    tls = FleetTls(
        _context(ssl.PROTOCOL_TLS_SERVER, cert, key, ca),
        _context(ssl.PROTOCOL_TLS_CLIENT, cert, key, ca),
    )
    try:
        shown = _try(tls)
    except ssl.SSLError as error:
        reason = getattr(error, "verify_message", "") or error.reason or str(error)
        text = f"{cert} is refused by those who trust {ca}: {printable(str(reason).lower())}"
        raise FleetFileError("fleet_cert", f"{text}; issue it with that authority") from None
    found = names_in(shown)
    if name not in found:
        names = ", ".join(map(printable, sorted(found))) or "nobody"
        text = f"{cert} is for {names}, and this gateway is called {name}"
        raise FleetFileError("fleet_cert", f"{text}: issue one with that DNS name")
    warnings = {"fleet_key": warning, "fleet_cert": _ends_soon(cert, shown)}
    return tls, {key: text for key, text in warnings.items() if text}


def _ends_soon(cert: Path, shown: Mapping[str, Any] | None) -> str:
    """A warning if the certificate is over within `WARNING_DAYS`; else an empty text."""
    ends = str((shown or {}).get("notAfter", ""))
    if not ends or ssl.cert_time_to_seconds(ends) - time.time() > WARNING_DAYS * 86_400:
        return ""
    return f"{cert} is over on {ends}, and others refuse it then; issue another one, and reload"


def _context(protocol: int, cert: Path, key: Path, ca: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # The names are those of gateways, and who is called has to have one of them: see `names_in`.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    # Whoever comes again shows its certificate again: the authority may have changed.
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    try:
        context.load_verify_locations(ca)
    except (ssl.SSLError, OSError):
        raise FleetFileError("fleet_ca", f"{ca} has no certificate in PEM") from None
    try:
        context.load_cert_chain(cert, key, password=_no_passphrase)
    except FleetFileError:
        raise
    except (ssl.SSLError, OSError) as error:
        text = f"{key} is not the key of {cert}, or one of the two is no PEM"
        reason = printable(str(getattr(error, "reason", None) or error)).lower()
        raise FleetFileError("fleet_key", f"{text} ({reason})") from None
    return context


def _no_passphrase() -> str:
    text = "the key has a passphrase, and nobody is there to type it"
    raise FleetFileError("fleet_key", f"{text}: take it off with openssl pkey -in OLD -out NEW")


def _try(tls: FleetTls) -> Mapping[str, Any] | None:
    """Let the gateway call itself, in memory; returns its certificate as others see it.

    Raises:
        ssl.SSLError: others would refuse it, as a caller or as one who is called.
    """
    upwards, downwards = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = tls.client.wrap_bio(downwards, upwards)
    server = tls.server.wrap_bio(upwards, downwards, server_side=True)
    waiting = [client, server]
    for _ in range(_TRIES):
        for each in tuple(waiting):
            try:
                each.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(each)
        if not waiting:
            return client.getpeercert()
    raise ssl.SSLError("the handshake does not end")
