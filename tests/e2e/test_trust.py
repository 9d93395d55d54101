"""TLS: a service that is not trusted is not spoken to, and the tunnel says why."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.support.programs import require_program, run_program
from tests.support.rig import FAST_LIMITS, Rig, echo
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.runtime import (
    Endpoint,
    Mode,
    TcpAddress,
    TunnelConfig,
    TunnelState,
    make_ssl_context,
)
from tunnelfleet.runtime.service import ServiceEvent, ServiceEventKind, TunnelService
from tunnelfleet.runtime.service.tls import ensure_certificate

if TYPE_CHECKING:
    import ssl
    from pathlib import Path

    from tests.support.backends import Server

SLOW_CONNECT_SECONDS = 8.0
NOWHERE = TcpAddress("127.0.0.1", 9)


def refusal(rig: Rig, context: ssl.SSLContext) -> str:
    """The reason of a tunnel that cannot connect with this context."""
    pair = rig.pair({"SSH": NOWHERE}, ssl_context=context, wait=False)
    status = pair.source.wait_for(TunnelState.BACKOFF, WAIT_SECONDS)
    assert status.connect_failures > 0
    seen = [event.kind for event in rig.service_events.all()]
    assert ServiceEventKind.CLIENT_CONNECTED not in seen
    return status.reason


def test_another_authority(rig: Rig) -> None:
    with TunnelService(tls=True) as other:
        reason = refusal(rig, other.ssl_context())
    assert "certificate verify failed" in reason
    assert "give the certificate of that authority" in reason
    assert "_ssl.c" not in reason


def test_only_the_authorities_of_the_system(rig: Rig) -> None:
    assert "certificate verify failed" in refusal(rig, make_ssl_context())


def test_another_host_name(tmp_path: Path) -> None:
    openssl = require_program("openssl")
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subject = ["-subj", "/CN=elsewhere", "-addext", "subjectAltName=DNS:elsewhere.example"]
    made = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    run_program([openssl, "req", "-x509", *made, *subject, "-keyout", key, "-out", certificate])
    with Rig(tls=True, certificate=certificate, private_key=key) as rig:
        reason = refusal(rig, make_ssl_context(certificate))
        assert "127.0.0.1" in reason
        pair = rig.pair(
            {"SSH": rig.backends.echo().address}, ssl_context=make_ssl_context(verify=False)
        )
        with pair.connect() as client:
            assert echo(client, b"hello") == b"hello"


def wants_tls_of(server: Server) -> TunnelConfig:
    """A tunnel to something that does not answer as TLS does."""
    return TunnelConfig(
        name="wants TLS",
        mode=Mode.SOURCE,
        endpoint=Endpoint.parse(f"wss://{server.address}"),
        access_token="a-token-that-is-never-sent",
        limits=replace(FAST_LIMITS, connect_timeout_seconds=SLOW_CONNECT_SECONDS),
    )


def test_a_service_that_speaks_no_tls(rig: Rig) -> None:
    tunnel = rig.runtime.open_tunnel(wants_tls_of(rig.backends.echo()))
    assert "TLS" in tunnel.wait_for(TunnelState.BACKOFF, WAIT_SECONDS).reason


def test_a_handshake_that_never_ends_does_not_hold_up_the_end(rig: Rig) -> None:
    server = rig.backends.never_reads()
    with rig.make_runtime() as runtime:
        runtime.open_tunnel(wants_tls_of(server))
        server.wait_active(1)
        began = time.monotonic()
    assert time.monotonic() - began < SLOW_CONNECT_SECONDS / 2


def test_a_context_that_refuses_the_service_is_the_tunnels_own(rig: Rig) -> None:
    """The tunnel beside it, with the runtime's context, connects."""
    bad = rig.pair({"SSH": NOWHERE}, ssl_context=make_ssl_context(), wait=False)
    good = rig.pair({"SSH": rig.backends.echo().address})
    with good.connect() as client:
        assert echo(client, b"hello") == b"hello"
    status = bad.source.wait_for(TunnelState.BACKOFF, WAIT_SECONDS)
    assert "certificate verify failed" in status.reason


@pytest.mark.parametrize("name", ["ca_file", "ca_dir"])
def test_the_authority_in_a_file_and_in_a_folder(rig: Rig, tmp_path: Path, name: str) -> None:
    ca = rig.service.ca_path
    assert ca is not None
    if name == "ca_dir":
        (tmp_path / "ca.pem").write_bytes(ca.read_bytes())
        run_program([require_program("openssl"), "rehash", tmp_path])
        context = make_ssl_context(ca_dir=tmp_path)
    else:
        context = make_ssl_context(ca)
    pair = rig.pair({"SSH": rig.backends.echo().address}, ssl_context=context)
    with pair.connect() as client:
        assert echo(client, b"hello") == b"hello"


def test_tunnels_follow_a_service_to_another_authority(tmp_path: Path) -> None:
    """Its certificate is replaced while they are connected, and so is the file that they trust."""
    names = ("ca.pem", "server.pem", "server.key")
    given = tmp_path / "given"
    given.mkdir()

    def put(authority: str) -> None:
        ensure_certificate(tmp_path / authority, "127.0.0.1")
        for name in names:
            aside = given / "aside"
            aside.write_bytes((tmp_path / authority / name).read_bytes())
            aside.replace(given / name)

    put("old")
    with Rig(tls=True, certificate=given / "server.pem", private_key=given / "server.key") as rig:
        pair = rig.pair(
            {"SSH": rig.backends.echo().address}, ssl_context=make_ssl_context(given / "ca.pem")
        )
        put("new")
        rig.service.reload_certificate()
        before = len(rig.service_events.all())
        rig.service.drop(pair.name)
        eventually(lambda: _connects(rig.service_events.all()[before:]) == 2)
        with pair.connect() as client:
            assert echo(client, b"hello") == b"hello"


def _connects(events: list[ServiceEvent]) -> int:
    return sum(event.kind is ServiceEventKind.CLIENT_CONNECTED for event in events)
