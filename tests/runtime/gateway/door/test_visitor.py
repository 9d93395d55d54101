"""One client of a front door, where its tunnel does what tunnels seldom do."""

from __future__ import annotations

import contextlib
import socket
import threading
from concurrent.futures import Future
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.doors import door_answer, http_request
from tests.support.rig import receive_rest
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.actors.config import Limits
from tunnelfleet.actors.kernel import DispatchedActor, DispatchedFuture, Dispatcher
from tunnelfleet.actors.tunnel.messages import HandOverLost
from tunnelfleet.proto import NotConnected, TunnelClosed
from tunnelfleet.runtime.gateway.config.door_users import DoorUsers, PasswordHash
from tunnelfleet.runtime.gateway.door.fleet_view import Away, Entrance, Unlisted
from tunnelfleet.runtime.gateway.door.hall import (
    CountedSocket,
    Crowd,
    DoorCounters,
    DoorLimits,
    GiveWay,
)
from tunnelfleet.runtime.gateway.door.identity import Identity, UnixPeer
from tunnelfleet.runtime.gateway.door.resolver import NobodyYet
from tunnelfleet.runtime.gateway.door.visitor import VisitorActor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tunnelfleet.actors.tunnel.messages import HandOver

GRACE_SECONDS = 0.3


class ScriptedTunnel:
    """Answers the sockets that it is given as a test says."""

    def __init__(self) -> None:
        self.config = SimpleNamespace(
            name="press-4", limits=Limits(offline_grace_seconds=GRACE_SECONDS)
        )
        self.script: list[Callable[[HandOver, DispatchedFuture[Any]], object]] = []
        self.given: list[HandOver] = []

    def hand_over(self, message: HandOver) -> DispatchedFuture[Any]:
        self.given.append(message)
        future: DispatchedFuture[Any] = DispatchedFuture()
        self.script.pop(0)(message, future)
        return future


class ScriptedHall:
    """What a client finds: everybody may reach one tunnel."""

    def __init__(self, tunnel: ScriptedTunnel, **limits: Any) -> None:
        self.tunnel = tunnel
        self.limits = DoorLimits(**limits)
        self.counters = DoorCounters()
        self.identity = Identity(1)
        self.crowd: Crowd[Any] = Crowd(self.limits)
        self.view = self
        self.others: Any = None
        self.refused: list[str] = []

    def users(self) -> None:
        return None

    def enter(self, _text: str, _port: int | None, _user: str) -> Entrance:
        return Entrance(self.tunnel, "SSH")  # type: ignore[arg-type]

    def subscribe(self, subscriber: Any, tunnel: str) -> None:
        pass

    def make_room(self, client: Any) -> None:
        self.crowd.enter(client)

    def denied(self, _denial: Any, text: str, **_who: Any) -> None:
        self.refused.append(text)


class Visit:
    """A client at a door, and the tunnel behind it."""

    def __init__(self, dispatcher: Dispatcher, **limits: Any) -> None:
        self.tunnel = ScriptedTunnel()
        self.hall = ScriptedHall(self.tunnel, **limits)
        self.door = DispatchedActor.start(dispatcher=dispatcher)
        self._dispatcher = dispatcher

    def begin(
        self,
        *script: Callable[[HandOver, DispatchedFuture[Any]], object],
        connect: Callable[[], tuple[socket.socket, socket.socket]] = socket.socketpair,
    ) -> None:
        """Connect and ask for the tunnel, which answers by this script."""
        self.tunnel.script += script
        ours, self.client = connect()
        ours.setblocking(False)
        self.client.settimeout(WAIT_SECONDS)
        self.client.sendall(http_request("press-4"))
        sock = CountedSocket(ours, self.hall.counters)
        self.ref = VisitorActor.start(sock, "", self.door, self.hall, dispatcher=self._dispatcher)

    def wait_over(self) -> None:
        eventually(lambda: not self.ref.is_alive())

    def close(self) -> None:
        self.door.stop()
        self.wait_over()
        self.hall.identity.close()
        self.client.close()
        for message in self.tunnel.given:
            message.sock.close()


@pytest.fixture
def dispatcher() -> Iterator[Dispatcher]:
    with Dispatcher("test") as made:
        yield made


@pytest.fixture
def visit(dispatcher: Dispatcher) -> Iterator[Callable[..., Visit]]:
    with contextlib.ExitStack() as made:

        def make(**limits: Any) -> Visit:
            visit = Visit(dispatcher, **limits)
            made.callback(visit.close)
            return visit

        yield make


def takes(message: HandOver, future: DispatchedFuture[Any]) -> None:
    message.sock.send(message.greeting)
    future.set(None)


def fails(error: Exception) -> Callable[[HandOver, DispatchedFuture[Any]], object]:
    return lambda _message, future: future.set_exception((type(error), error, None))


def raises(error: Exception) -> Callable[[HandOver, DispatchedFuture[Any]], object]:
    def hand_over(_message: HandOver, _future: DispatchedFuture[Any]) -> None:
        raise error

    return hand_over


def never(_message: HandOver, _future: DispatchedFuture[Any]) -> None:
    pass


@pytest.mark.parametrize("first", [fails(NotConnected()), raises(TunnelClosed("not started"))])
def test_a_tunnel_that_was_just_lost_is_asked_again(
    visit: Callable[..., Visit], first: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunnelfleet.runtime.gateway.door.visitor.LOOK_AGAIN_SECONDS", 0.01)
    one = visit()
    one.begin(first, takes)
    assert door_answer(one.client) == (200, "")
    one.wait_over()
    assert one.hall.counters.handed_over["http"] == 1
    assert one.hall.counters.open == 1, "it is the tunnel's"
    assert one.tunnel.given[-1].peer.startswith("pid=")


class MovingTunnel:
    """A tunnel that was added at run time, and that no gateway has."""

    def __init__(self) -> None:
        self.asked = 0

    def enter(self, _text: str, _port: int | None, _user: str) -> Unlisted:
        return Unlisted((Away("press-4", None, None, GRACE_SECONDS),))

    def find(self, names: Sequence[str]) -> Future[str]:
        self.asked += 1
        found: Future[str] = Future()
        found.set_result(names[0])
        return found

    def way_to(self, _name: str) -> NobodyYet:
        return NobodyYet("is about to be taken over")


def test_a_tunnel_that_is_always_about_to_move_is_waited_for_as_long_as_its_grace(
    visit: Callable[..., Visit], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunnelfleet.runtime.gateway.door.visitor.LOOK_AGAIN_SECONDS", 0.05)
    one, moving = visit(), MovingTunnel()
    one.hall.view = moving  # type: ignore[assignment]
    one.hall.others = moving
    one.begin()
    status, reason = door_answer(one.client)
    assert status == 503
    assert reason.startswith("tunnel press-4 is about to be taken over")
    assert moving.asked > 1, "it looked again before it gave up"


def test_and_only_so_long(visit: Callable[..., Visit], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunnelfleet.runtime.gateway.door.visitor.LOOK_AGAIN_SECONDS", 0.05)
    one = visit()
    one.begin(*[fails(NotConnected())] * 100)
    status, reason = door_answer(one.client)
    assert status == 503
    assert reason.startswith("tunnel press-4 has lost its connection")


def test_an_error_that_nobody_foresaw_is_logged_and_told(
    visit: Callable[..., Visit], caplog: pytest.LogCaptureFixture
) -> None:
    one = visit()
    one.begin(fails(ZeroDivisionError("bang")))
    assert door_answer(one.client)[0] == 502
    assert "bang" in caplog.text


def test_a_tunnel_that_is_lost_with_the_socket_is_nothing_to_speak_of(
    visit: Callable[..., Visit],
) -> None:
    """What it has said may be the application's: a refusal behind that would be, too."""

    def greets_and_is_lost(message: HandOver, future: DispatchedFuture[Any]) -> None:
        message.sock.send(b"greeting")
        error = HandOverLost("its worker has ended")
        future.set_exception((HandOverLost, error, None))

    one = visit()
    one.begin(greets_and_is_lost)
    one.wait_over()
    assert receive_rest(one.client) == b"greeting"
    eventually(lambda: one.hall.counters.open == 0)
    assert one.hall.refused == []


def test_a_tunnel_that_does_not_answer_costs_the_client_its_connection(
    visit: Callable[..., Visit],
) -> None:
    one = visit(answer_seconds=0.05)
    one.begin(never)
    assert one.client.recv(1) == b""
    one.wait_over()


def test_a_tunnel_that_greets_and_does_not_answer_is_a_cut_for_both(
    visit: Callable[..., Visit],
) -> None:
    """The client was told that it is connected; the tunnel reads as if it were."""
    taken: list[socket.socket] = []

    def greets(message: HandOver, _future: DispatchedFuture[Any]) -> None:
        message.sock.send(message.greeting)
        taken.append(message.sock)

    one = visit(answer_seconds=0.05)
    one.begin(greets, connect=tcp_pair)
    assert door_answer(one.client) == (200, "")
    with pytest.raises(ConnectionResetError):
        one.client.recv(1)
    one.wait_over()
    with pytest.raises(ConnectionResetError):
        taken[0].recv(1)


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname(), WAIT_SECONDS)
        return listener.accept()[0], client


def test_while_a_tunnel_is_asked_the_socket_is_not_closed_by_a_door_that_ends(
    visit: Callable[..., Visit],
) -> None:
    one = visit()
    asked = threading.Event()
    answers: list[tuple[HandOver, DispatchedFuture[Any]]] = []

    def later(message: HandOver, future: DispatchedFuture[Any]) -> None:
        answers.append((message, future))
        asked.set()

    one.begin(later)
    assert asked.wait(WAIT_SECONDS)
    one.door.stop()
    message, future = answers[0]
    takes(message, future)
    assert door_answer(one.client) == (200, "")
    one.wait_over()
    message.sock.send(b"still open")
    assert one.client.recv(10) == b"still open"


def test_a_visitor_that_was_killed_leaves_a_refused_socket_to_nobody(
    visit: Callable[..., Visit],
) -> None:
    one = visit()
    answers: list[DispatchedFuture[Any]] = []
    one.begin(lambda _message, future: answers.append(future))
    eventually(lambda: bool(answers))
    one.ref.kill()
    one.wait_over()
    assert one.hall.counters.open == 1
    error = NotConnected()
    answers[0].set_exception((NotConnected, error, None))
    eventually(lambda: one.hall.counters.open == 0)
    assert one.client.recv(1) == b""


def test_a_client_without_credentials_is_not_let_in(
    visit: Callable[..., Visit], monkeypatch: pytest.MonkeyPatch
) -> None:
    def of(_sock: socket.socket) -> UnixPeer:
        raise OSError("no")

    monkeypatch.setattr(UnixPeer, "of", of)
    one = visit()
    one.begin()
    one.wait_over()
    eventually(lambda: one.hall.counters.open == 0)


def test_a_user_whose_name_is_not_known_is_a_number(
    visit: Callable[..., Visit], monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody(uid: int) -> Any:
        raise KeyError(uid)

    monkeypatch.setattr("pwd.getpwuid", nobody)
    one = visit()
    one.begin(takes)
    assert door_answer(one.client) == (200, "")
    assert one.tunnel.given[0].user.startswith("uid=")


def test_who_has_said_where_it_goes_gives_way_to_nobody(visit: Callable[..., Visit]) -> None:
    one = visit()
    answers: list[tuple[HandOver, DispatchedFuture[Any]]] = []
    one.begin(lambda message, future: answers.append((message, future)))
    eventually(lambda: bool(answers))
    assert one.hall.crowd.oldest() is None
    takes(*answers[0])
    assert door_answer(one.client) == (200, "")
    one.wait_over()


def test_a_word_to_give_way_that_comes_too_late_cuts_nobody(visit: Callable[..., Visit]) -> None:
    """It was on its way when the client said where it wants to go."""
    one = visit(answer_seconds=WAIT_SECONDS)
    answers: list[tuple[HandOver, DispatchedFuture[Any]]] = []
    one.begin(lambda message, future: answers.append((message, future)))
    eventually(lambda: bool(answers))
    one.ref.tell(GiveWay())
    takes(*answers[0])
    one.wait_over()
    assert one.hall.counters.handed_over["http"] == 1
    assert door_answer(one.client) == (200, "")
    answers[0][0].sock.send(b"on")
    assert one.client.recv(10) == b"on"


def test_nobody_gets_a_name_by_a_password_that_looks_like_one() -> None:
    identity = Identity(1)
    users = DoorUsers({"mallory": PasswordHash.make("ops\0x")})
    try:
        checked = identity.check(users, "mallory", "ops\0x")
        assert isinstance(checked, Future)
        assert checked.result(WAIT_SECONDS)
        identity.remember_login(users, "mallory", "ops\0x")
        assert identity.check(users, "mallory", "ops\0x") is True
        other = identity.check(users, "mallory\0ops", "x")
        assert isinstance(other, Future)
        assert not other.result(WAIT_SECONDS)
    finally:
        identity.close()
