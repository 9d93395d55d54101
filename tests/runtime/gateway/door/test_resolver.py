"""Names that no tunnel has: the doors ask a resolver, and their clients wait for its answer."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.doors import DoorFleet, door_answer, http_request, socks_request
from tests.support.rig import FAST_LIMITS, echo, receive_exactly
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.actors.kernel import DispatchedFuture
from tunnelfleet.runtime.gateway import SetWanted
from tunnelfleet.runtime.gateway.config import DoorRule
from tunnelfleet.runtime.gateway.door import DoorLimits
from tunnelfleet.runtime.gateway.door.fleet_view import ON_DEMAND
from tunnelfleet.runtime.gateway.door.handshake import Denial
from tunnelfleet.runtime.gateway.door.resolver import Answer, AskedTunnel, Elsewhere, Local, Refused

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SERVICES = ("SSH", "HTTP")
BRIEF = replace(FAST_LIMITS, offline_grace_seconds=0.2)


class ScriptedResolver:
    """Knows the names that begin with `pump-`, and answers as a test says."""

    def __init__(self) -> None:
        self.asked: list[AskedTunnel] = []
        self.answers: list[DispatchedFuture[Answer]] = []
        self.now_at: dict[str, str] = {}

    def name_of(self, text: str) -> str | None:
        return text if text.startswith("pump-") and ":" not in text else None

    def services_of(self, name: str) -> tuple[str, ...]:
        return SERVICES

    def current(self, name: str) -> str | None:
        return self.now_at.get(name)

    def resolve(self, asked: AskedTunnel) -> DispatchedFuture[Answer]:
        future: DispatchedFuture[Answer] = DispatchedFuture()
        self.asked.append(asked)
        self.answers.append(future)
        return future

    def wait_asked(self, count: int = 1) -> list[AskedTunnel]:
        eventually(lambda: len(self.answers) == count)
        return self.asked


@pytest.fixture
def resolver() -> ScriptedResolver:
    return ScriptedResolver()


@pytest.fixture
def fleet(tmp_path: Path, resolver: ScriptedResolver) -> Iterator[DoorFleet]:
    with DoorFleet(tmp_path) as running:
        running.resolver = resolver
        yield running


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunnelfleet.runtime.gateway.door.visitor.LOOK_AGAIN_SECONDS", 0.01)


def wish(fleet: DoorFleet, name: str, **given: Any) -> None:
    """A tunnel that the resolver has opened."""
    tunnel = fleet.tunnel(name, services=dict.fromkeys(SERVICES), service_ids=SERVICES, **given)
    fleet.gateway.ask(SetWanted(ON_DEMAND, {name: tunnel}))


@pytest.mark.parametrize(
    ("request_", "welcome"),
    [(http_request("pump-1:ssh"), 39), (socks_request("ssh.pump-1"), 12)],
)
def test_a_client_waits_and_gets_the_tunnel(
    fleet: DoorFleet, resolver: ScriptedResolver, request_: bytes, welcome: int
) -> None:
    fleet.open()
    with fleet.client(request_ + b"early") as sock:
        (asked,) = resolver.wait_asked()
        assert (asked.name, asked.service_id) == ("pump-1", "SSH")
        assert asked.peer == "{}:{}".format(*sock.getsockname())
        wish(fleet, "pump-1~2")
        resolver.answers[0].set(Local("pump-1~2"))
        receive_exactly(sock, welcome)
        assert receive_exactly(sock, 5) == b"early"
        assert echo(sock, b"hello") == b"hello"
    assert fleet.door_crowd.waiting == 0
    # From now on nobody has to be asked.
    resolver.now_at["pump-1"] = "pump-1~2"
    with fleet.client(http_request("pump-1:HTTP")) as sock:
        assert door_answer(sock) == (200, "")
    assert len(resolver.asked) == 1


@pytest.mark.parametrize(
    ("answer", "status", "says"),
    [
        (Refused(Denial.BUSY, "50 are open"), 503, "50 are open"),
        (Refused(Denial.NAME, "no such thing"), 404, "no such thing"),
        (Elsewhere(), 503, "tunnel pump-1 is with another gateway of the fleet"),
        (Local("pump-1"), 503, "tunnel pump-1 has ended; try again"),
    ],
)
def test_answers(
    fleet: DoorFleet, resolver: ScriptedResolver, answer: Answer, status: int, says: str
) -> None:
    fleet.open()
    with fleet.client(http_request("pump-1:SSH")) as sock:
        resolver.wait_asked()
        resolver.answers[0].set(answer)
        assert door_answer(sock) == (status, says)


def test_an_error_is_logged_and_told(
    fleet: DoorFleet, resolver: ScriptedResolver, caplog: pytest.LogCaptureFixture
) -> None:
    fleet.open()
    with fleet.client(http_request("pump-1:SSH")) as sock:
        resolver.wait_asked()
        error = ZeroDivisionError("bang")
        resolver.answers[0].set_exception((type(error), error, None))
        assert door_answer(sock)[0] == 502
    assert "bang" in caplog.text


def test_nobody_waits_for_ever(fleet: DoorFleet, resolver: ScriptedResolver) -> None:
    fleet.limits = DoorLimits(resolve_seconds=0.1)
    fleet.open()
    assert fleet.ask("pump-1:SSH") == (503, "nobody has answered for this name; try again")
    # The answer that comes too late is nobody's.
    resolver.answers[0].set(Local("pump-1"))
    eventually(lambda: fleet.door_crowd.waiting == 0)


def test_a_client_that_leaves_gives_its_place_up(
    fleet: DoorFleet, resolver: ScriptedResolver
) -> None:
    fleet.limits = DoorLimits(max_waiting=2)
    fleet.open()
    with contextlib.ExitStack() as stack:
        stays = stack.enter_context(fleet.client(http_request("pump-1:SSH")))
        with fleet.client(http_request("pump-2:SSH") + b"early"):
            resolver.wait_asked(2)
            status, text = fleet.ask("pump-3:SSH")
            assert (status, text.partition(",")[0]) == (503, "too many clients wait for tunnels")
            gone = resolver.asked[1].client
        eventually(lambda: not gone.is_alive() and fleet.door_crowd.waiting == 1)
        assert len(resolver.asked) == 2
        resolver.answers[0].set(Refused(Denial.BUSY, "later"))
        assert door_answer(stays) == (503, "later")
    resolver.answers[1].set(Local("pump-2"))


def test_what_can_be_refused_is_refused_before_anybody_is_asked(
    fleet: DoorFleet, resolver: ScriptedResolver
) -> None:
    fleet.open()
    for target, status, says in [
        ("valve-1:SSH", 404, "there is no tunnel 'valve-1:SSH' in this fleet"),
        ("pump-1", 404, "tunnel pump-1 has several services: HTTP, SSH; ask for one of them"),
        ("pump-1:FTP", 404, "tunnel pump-1 has no service 'FTP', but HTTP, SSH"),
    ]:
        found, text = fleet.ask(target)
        assert (found, says in text) == (status, True), text
    fleet.rules(DoorRule(("alice",), ("pump-*",), ()), DoorRule((), ("pump-2",), ("HTTP",)))
    for target in ("pump-1:SSH", "pump-1", "pump-2:SSH", "pump-1:FTP"):
        status, text = fleet.ask(target)
        assert (status, "no rule allows it" in text) == (403, True), text
    assert resolver.asked == []
    # A service that is the only one which a rule allows need not be named.
    with fleet.client(http_request("pump-2")):
        assert resolver.wait_asked()[0].service_id == "HTTP"
        resolver.answers[0].set(Refused(Denial.BUSY, "later"))


def test_a_tunnel_of_the_fleet_comes_first(fleet: DoorFleet, resolver: ScriptedResolver) -> None:
    fleet.open(fleet.tunnel("pump-1", services={"SSH": None}))
    fleet.wait_state("pump-1", "connected")
    assert fleet.ask("pump-1") == (200, "")
    assert resolver.asked == []


def test_one_that_lost_its_connection_is_waited_for(
    fleet: DoorFleet, resolver: ScriptedResolver
) -> None:
    fleet.open()
    wish(fleet, "pump-1", limits=BRIEF)
    fleet.wait_state("pump-1", "connected")
    resolver.now_at["pump-1"] = "pump-1"
    fleet.service.stop()
    fleet.wait_state("pump-1", "backoff")
    status, text = fleet.ask("pump-1:SSH")
    assert (status, text.startswith("tunnel pump-1 is ")) == (503, True), text


def test_a_door_that_fails_takes_those_who_wait_along(
    fleet: DoorFleet, resolver: ScriptedResolver
) -> None:
    fleet.open()
    with fleet.client(http_request("pump-1:SSH")) as sock:
        (asked,) = resolver.wait_asked()
        fleet.crash()
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(1) == b""
        eventually(lambda: not asked.client.is_alive())
    with socket.create_connection((fleet.address.host, fleet.address.port), WAIT_SECONDS) as again:
        again.sendall(http_request("pump-1:SSH"))
        resolver.wait_asked(2)
        resolver.answers[1].set(Refused(Denial.BUSY, "later"))
        assert door_answer(again) == (503, "later")


def test_one_that_the_resolver_lets_go_is_asked_for_anew_while_it_drains(
    fleet: DoorFleet, resolver: ScriptedResolver
) -> None:
    fleet.open()
    wish(fleet, "pump-1")
    fleet.wait_state("pump-1", "connected")
    resolver.now_at["pump-1"] = "pump-1"
    with fleet.client(http_request("pump-1:SSH")) as stays:
        assert door_answer(stays) == (200, "")
        del resolver.now_at["pump-1"]
        fleet.gateway.ask(SetWanted(ON_DEMAND, {}))
        fleet.wait_state("pump-1", "draining")
        with fleet.client(http_request("pump-1:SSH")) as sock:
            resolver.wait_asked()
            resolver.answers[0].set(Refused(Denial.BUSY, "it is tried again in 9 s"))
            status, text = door_answer(sock)
            assert (status, "it is tried again in 9 s" in text) == (503, True), text
