"""A socket that somebody else has accepted becomes a connection of a source."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.tunnel_rig import TunnelRig, source_rig
from tests.support.waiting import WAIT_SECONDS
from tunnelfleet.actors.config import Limits, NoListener
from tunnelfleet.actors.tunnel.actor import TunnelActor
from tunnelfleet.actors.tunnel.messages import Drain, HandOver
from tunnelfleet.proto import (
    ConfigError,
    Mode,
    NotConnected,
    ServiceIdUnknown,
    TooManyConnections,
    TunnelClosed,
    WrongMode,
)

if TYPE_CHECKING:
    from collections.abc import Callable


def hand_over(rig: TunnelRig, service_id: str = "SSH") -> tuple[Any, socket.socket]:
    """Hand a socket over; returns the answer's future and the application's end."""
    ours, theirs = socket.socketpair()
    rig.kept += [ours, theirs]
    ours.setblocking(False)
    theirs.setblocking(False)
    answer = rig.tunnel.ask(HandOver(service_id, ours, b"welcome", "127.0.0.1", "a"), block=False)
    rig.settle()
    return answer, theirs


def test_a_socket_is_carried_and_greeted(rig: Callable[..., TunnelRig]) -> None:
    tunnel = source_rig(rig)
    tunnel.sent()
    answer, application = hand_over(tunnel)
    assert answer.get(timeout=WAIT_SECONDS)[:3] == ("SSH", 1, 1)
    assert application.recv(100) == b"welcome"
    assert tunnel.seen() == ["SSH/1/1 opens"]
    assert len(tunnel.sent()) == 1
    tunnel.app_does("SSH/1/1", lambda app: app.read(b"hello"))
    assert "hello" in tunnel.sent()[0]


def test_a_second_one_joins_the_stream(rig: Callable[..., TunnelRig]) -> None:
    tunnel = source_rig(rig)
    keys = [hand_over(tunnel)[0].get(timeout=WAIT_SECONDS)[:3] for _ in range(2)]
    assert keys == [("SSH", 1, 1), ("SSH", 1, 2)]


def test_a_socket_that_broke_meanwhile_ends_like_any_other(rig: Callable[..., TunnelRig]) -> None:
    tunnel = source_rig(rig)
    ours, theirs = socket.socketpair()
    tunnel.kept += [ours]
    theirs.close()
    answer = tunnel.tunnel.ask(HandOver("SSH", ours, b"welcome"), block=False)
    assert answer.get(timeout=WAIT_SECONDS).service_id == "SSH"
    assert tunnel.seen() == ["SSH/1/1 opens"]


@pytest.mark.parametrize(
    ("prepare", "service_id", "error"),
    [
        (lambda rig: rig.lose(), "SSH", NotConnected),
        (lambda rig: None, "FTP", ServiceIdUnknown),
        (lambda rig: hand_over(rig), "SSH", TooManyConnections),
        (lambda rig: (hand_over(rig), rig.tell(Drain())), "SSH", TunnelClosed),
        (lambda rig: (hand_over(rig), rig.quiesce()), "SSH", TunnelClosed),
    ],
)
def test_a_refused_socket_stays_the_asker_s(
    rig: Callable[..., TunnelRig],
    prepare: Callable[[TunnelRig], object],
    service_id: str,
    error: type[Exception],
) -> None:
    tunnel = source_rig(rig, limits=Limits(max_connections=1))
    prepare(tunnel)
    answer, application = hand_over(tunnel, service_id)
    with pytest.raises(error):
        answer.get(timeout=WAIT_SECONDS)
    with pytest.raises(BlockingIOError):
        application.recv(1)
    assert tunnel.tunnel.is_alive()


def test_a_destination_takes_none(rig: Callable[..., TunnelRig]) -> None:
    tunnel = rig(Mode.DESTINATION)
    tunnel.connect()
    answer, _application = hand_over(tunnel)
    with pytest.raises(WrongMode):
        answer.get(timeout=WAIT_SECONDS)


def test_a_service_without_a_listener_is_carried_all_the_same(
    rig: Callable[..., TunnelRig],
) -> None:
    tunnel = source_rig(rig, services={"SSH": NoListener(), "HTTP": NoListener()})
    assert tunnel.listeners == {}
    answer, _application = hand_over(tunnel, "HTTP")
    assert answer.get(timeout=WAIT_SECONDS)[:3] == ("HTTP", 1, 1)


def test_a_destination_needs_an_address(rig: Callable[..., TunnelRig]) -> None:
    with pytest.raises(ConfigError, match="service 'SSH' of destination 'press-4' has no address"):
        rig(Mode.DESTINATION, services={"SSH": NoListener()})


def test_a_tunnel_that_fails_right_after_has_taken_the_socket(
    rig: Callable[..., TunnelRig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else whoever handed it over would hand it to another, with a second greeting."""
    tunnel = source_rig(rig)

    def fail(_actor: TunnelActor) -> None:
        raise RuntimeError("in a test")

    monkeypatch.setattr(TunnelActor, "_settle", fail)
    answer, application = hand_over(tunnel)
    assert answer.get(timeout=WAIT_SECONDS)[:3] == ("SSH", 1, 1)
    assert application.recv(100) == b"welcome"
