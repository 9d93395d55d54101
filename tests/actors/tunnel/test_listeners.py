"""Listeners alone: which there are, and whether they accept."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.tunnel_parts import PartBench, Teller
from tunnelfleet.actors import events
from tunnelfleet.actors.addresses import TcpAddress
from tunnelfleet.actors.config import ApiService, Limits, NoListener
from tunnelfleet.actors.kernel import ExitReason, StartChild, StopChild
from tunnelfleet.actors.kernel.watch import NORMAL
from tunnelfleet.actors.tunnel.listeners import Listeners, is_listener
from tunnelfleet.actors.tunnel.messages import ChildEnded, ListenerBound, SetAccepting
from tunnelfleet.proto import Mode, TunnelError

HERE = TcpAddress("127.0.0.1", 5555)


class Setting(PartBench):
    """The listeners of a source."""

    def __init__(self, mode: Mode = Mode.SOURCE, **settings: Any) -> None:
        super().__init__(mode, **settings)
        self.stopped: list[str] = []
        self.listeners = Listeners(self.common, self.stopped.append)

    @property
    def children(self) -> list[str]:
        """The children that were wanted, by id."""
        return [m.spec.id for m in self.transport.told if isinstance(m, StartChild)]

    def bind(self, service_id: str) -> Teller:
        listener: Any = Teller()
        self.listeners.bound(ListenerBound(service_id, listener, HERE))
        told: Teller = listener
        return told


def test_a_source_listens_for_the_services_that_have_an_address() -> None:
    services = {"SSH": HERE, "API": ApiService(), "DOOR": NoListener()}
    setting = Setting(services=services)
    setting.listeners.start()
    assert setting.children == ["listener SSH"]
    (start,) = setting.transport.told
    start.spec.start()
    (arguments,) = setting.started
    assert arguments[:3] == ("SSH", HERE, setting.tunnel)


def test_a_destination_has_none() -> None:
    setting = Setting(Mode.DESTINATION)
    setting.listeners.start()
    setting.listeners.announced(("SSH",))
    assert setting.transport.told == []


@pytest.mark.parametrize(
    ("child_id", "is_one"),
    [("listener SSH", True), ("websocket", False), ("stream 1 listener", False)],
)
def test_a_listener_is_known_by_its_id(child_id: str, is_one: bool) -> None:
    assert is_listener(child_id) is is_one


def test_each_listener_is_told_once_whether_to_accept_and_a_late_one_at_once() -> None:
    setting = Setting()
    first = setting.bind("SSH")
    for accepting in (True, True, False, True):
        setting.listeners.set_accepting(accepting)
    late = setting.bind("HTTP")
    assert first.told == [SetAccepting(x) for x in (False, True, False, True)]
    assert late.told == [SetAccepting(True)]
    assert setting.stats.listening == {"SSH": (str(HERE),), "HTTP": (str(HERE),)}


def test_those_of_announced_services_come_and_go_with_them() -> None:
    setting = Setting(services=None)
    setting.listeners.start()
    assert setting.children == []
    setting.listeners.announced(("A", "B"))
    assert setting.children == ["listener 1 A", "listener 2 B"]
    setting.common.context.bound["A"] = HERE
    setting.listeners.announced(("B", "C"))
    assert setting.children[2:] == ["listener 3 C"]
    assert setting.stopped == ["listener 1 A"]
    assert setting.common.context.bound == {}, "its port is free for others"


def test_they_are_at_most_as_many_as_the_limit_says(caplog: pytest.LogCaptureFixture) -> None:
    setting = Setting(services=None, limits=Limits(max_free_listeners=1))
    for _ in range(2):
        setting.listeners.announced(("A", "B", "C"))
    assert setting.children == ["listener 1 A"]
    assert "2 of 3 announced services are not listened on" in setting.stats.last_event
    assert caplog.text.count("are not listened on") == 1, "once in a while"


def test_the_end_of_a_listener_is_told_and_its_successor_stays() -> None:
    setting = Setting()
    old, new = setting.bind("SSH"), setting.bind("SSH")
    failed = ExitReason.failed(TunnelError("cannot listen"))
    setting.listeners.ended(ChildEnded("listener SSH", old, failed))  # type: ignore[arg-type]
    assert "SSH" in setting.stats.listening
    setting.listeners.ended(ChildEnded("listener SSH", new, failed))  # type: ignore[arg-type]
    assert setting.stats.listening == {}
    closed = [m for m in setting.relay.told if isinstance(m, events.ListenerClosed)]
    assert [each.reason for each in closed] == ["cannot listen", "cannot listen"]
    assert setting.stats.failed_listens == 2
    setting.listeners.ended(ChildEnded("listener SSH", new, NORMAL))  # type: ignore[arg-type]
    assert setting.stats.failed_listens == 2


def test_all_are_closed_with_the_tunnel() -> None:
    setting = Setting(services={"A": HERE, "B": HERE})
    setting.listeners.start()
    listener = setting.bind("A")
    setting.listeners.set_accepting(True)
    setting.listeners.close()
    assert listener.told[-1] == SetAccepting(False)
    assert setting.transport.told[2:] == [StopChild("listener A"), StopChild("listener B")]


def test_none_is_left_when_their_supervisor_has_failed() -> None:
    """Nobody tells of their ends then, and what is announced is listened on anew."""
    setting = Setting(services=None)
    setting.listeners.announced(("SSH",))
    setting.bind("SSH")
    setting.listeners.set_accepting(True)
    setting.listeners.forget()
    assert setting.stats.listening == {}
    assert [type(m) for m in setting.relay.told][-1] is events.ListenerClosed
    setting.listeners.announced(("SSH",))
    assert setting.children == ["listener 1 SSH", "listener 2 SSH"]
    assert setting.bind("SSH").told == [SetAccepting(False)]
