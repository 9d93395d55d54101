"""What users of a shared fleet see when gateways die, freeze and are cut off: real processes."""

from __future__ import annotations

import contextlib
import signal
import socket
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.forwarding import Authority, ForwardingFleet, ForwardingGateway
from tests.support.rig import connect, echo, receive_exactly, receive_rest
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.actors.addresses import parse_address

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.long, pytest.mark.timeout(600), pytest.mark.programs("openssl")]

NAMES = ("one", "three", "two")
WELCOME = b"HTTP/1.1 200 Connection established\r\n\r\n"
GRACE = "{ offline_grace_seconds = 60 }"


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[ForwardingFleet]:
    with ForwardingFleet(tmp_path) as running:
        yield running


class Three:
    """Three gateways, and a tunnel of the one that is harmed."""

    def __init__(self, fleet: ForwardingFleet) -> None:
        (self.tunnel,) = fleet.names_of("two", NAMES, 1)
        fleet.rig.add(
            self.tunnel, fleet.rig.echo_address(), services='{ SSH = "door" }', limits=GRACE
        )
        self.one, self.two, self.three = (fleet.start(name) for name in ("one", "two", "three"))
        fleet.wait_shared(self.one, self.two, self.three)

    def client(self, gateway: ForwardingGateway) -> socket.socket:
        """A client of a gateway's door that has asked for the tunnel."""
        sock = connect(parse_address(gateway.door), 6 * WAIT_SECONDS)
        sock.sendall(f"CONNECT {self.tunnel} HTTP/1.1\r\n\r\n".encode())
        return sock

    def carried(self, gateway: ForwardingGateway) -> socket.socket:
        """The same, when it is carried."""
        sock = self.client(gateway)
        assert receive_exactly(sock, len(WELCOME)) == WELCOME
        assert echo(sock, b"hello") == b"hello"
        return sock


@pytest.fixture
def three(fleet: ForwardingFleet) -> Three:
    return Three(fleet)


def test_the_owner_is_killed_in_mid_transfer(three: Three) -> None:
    with three.carried(three.one) as sock, three.carried(three.three) as other:
        three.two.kill()
        for each in (sock, other):
            with pytest.raises(ConnectionResetError):
                receive_rest(each)
    began = time.monotonic()
    # Who asks anew waits, and gets it from whoever takes over.
    with three.client(three.one) as sock:
        assert receive_exactly(sock, len(WELCOME)) == WELCOME
        assert echo(sock, b"again") == b"again"
    print(
        f"\nkilled: a client that asked at once was carried after {time.monotonic() - began:.1f} s"
    )
    found = three.one.json("ls", "--fleet", three.tunnel)
    (row,) = found["tunnels"]
    assert row["gateway"] in ("one", "three")
    assert row["state"] == "connected"


def test_the_owner_freezes(three: Three) -> None:
    with three.carried(three.one) as sock:
        three.two.signal(signal.SIGSTOP)
        try:
            began = time.monotonic()
            with pytest.raises(ConnectionResetError):
                receive_rest(sock)
            cut = time.monotonic() - began
            found = three.one.json("ls", "--fleet")
        finally:
            three.two.signal(signal.SIGCONT)
    print(f"\nfrozen: its client was reset after {cut:.1f} s")
    (away,) = [each for each in found["gateways"] if each["name"] == "two"]
    assert not away["reached"]
    assert "was not heard of" in away["trouble"] or "did not answer" in away["trouble"]


def test_the_owner_stops_in_good_order(three: Three) -> None:
    with three.carried(three.one) as sock:
        three.two.signal(signal.SIGTERM)
        with pytest.raises(ConnectionResetError):
            receive_rest(sock)
    with three.client(three.three) as sock:
        assert receive_exactly(sock, len(WELCOME)) == WELCOME
        assert echo(sock, b"again") == b"again"


def test_the_forwarding_gateway_is_killed_in_mid_transfer(three: Three) -> None:
    with three.carried(three.one) as sock:
        three.one.kill()
        # The kernel closes what a killed process had: this side cannot be told more.
        with contextlib.suppress(ConnectionResetError):
            assert receive_rest(sock) == b""
    eventually(lambda: three.two.json("connections", three.tunnel) == [], pause_seconds=0.5)
    # It was cut there, too, and the audit does not take that for an end.
    eventually(lambda: len(ends(three)) == 1 and "" not in ends(three), pause_seconds=0.5)
    assert "closed by the local application" not in ends(three)


def ends(three: Three) -> list[str]:
    """Why the connections of the tunnel ended."""
    records = three.two.json("audit", three.tunnel, "--kind", "connection")
    return [each["reason"] or "" for each in records]


def test_the_store_is_away(fleet: ForwardingFleet, three: Three) -> None:
    with three.carried(three.one) as sock:
        fleet.postgres.stop()
        try:
            three.one.wait_event("lease_unconfirmed")
            assert echo(sock, b"still") == b"still"
            found = three.one.json("ls", "--fleet")
            assert all(each["state"] == "connected" for each in found["tunnels"] if each["gateway"])
        finally:
            fleet.postgres.start()
        three.one.wait_event("lease_confirmed")
        assert echo(sock, b"after") == b"after"


def test_certificates_are_replaced_while_it_runs(fleet: ForwardingFleet, three: Three) -> None:
    folder = fleet.authority.folder
    other = Authority(folder.parent / "other")
    for name in NAMES:
        other.issue(name)
    with three.carried(three.one) as sock:
        # Another authority, and nobody else has it: gateway two is alone.
        for kind in ("two.pem", "two.key", "fleet-ca.pem"):
            copied = folder.parent / "two" / kind
            copied.write_bytes((other.folder / kind).read_bytes())
            copied.chmod(0o600)
        own = folder.parent / "two" / "own.toml"
        text = own.read_text().replace(str(folder), str(folder.parent / "two"))
        own.write_text(text)
        three.two.signal(signal.SIGHUP)
        three.two.wait_event("reloaded")
        assert echo(sock, b"goes on") == b"goes on"
    found = three.one.json("ls", "--fleet")
    (row,) = [each for each in found["gateways"] if each["name"] == "two"]
    assert not row["reached"]
    assert "certificate is refused" in row["trouble"]
    assert three.one.metric("forward_failures_total", reason="handshake") > 0
