"""The host forks while a runtime runs: the parent loses nothing, and the child is told."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.actors import Probe
from tests.support.forks import fork, idle_child, in_child
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.actors.addresses import TcpAddress
from tunnelfleet.actors.config import TunnelConfig
from tunnelfleet.actors.events import TunnelState
from tunnelfleet.actors.kernel import Dispatcher, ForkedProcessError
from tunnelfleet.proto import Endpoint, Mode
from tunnelfleet.runtime import Message, SecureTunnel, TunnelRuntime
from tunnelfleet.runtime.service import TunnelService

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Process:
    """Everything that a host can have running when it forks."""

    def __init__(self) -> None:
        self.service = TunnelService(tls=False).start()
        tokens = self.service.open_tunnel("press-4", ["SSH"])
        self.runtime = TunnelRuntime().start()
        self.config = TunnelConfig(
            name="press-4",
            mode=Mode.SOURCE,
            endpoint=Endpoint.parse(self.service.endpoint),
            access_token=tokens.source_token,
            services={"SSH": TcpAddress("127.0.0.1", 0)},
        )
        self.tunnel = self.runtime.open_tunnel(self.config)
        self.client = SecureTunnel(tokens.destination_token, "destination", self.service.endpoint)
        self.client.start()
        self.client.wait_connected(WAIT_SECONDS)
        self.tunnel.wait_for(TunnelState.CONNECTED, WAIT_SECONDS)
        self.dispatcher = Dispatcher("host").start()
        self.actor = Probe.start(dispatcher=self.dispatcher)

    @property
    def listener(self) -> tuple[str, int]:
        address = self.tunnel.wait_listening("SSH", WAIT_SECONDS)
        assert isinstance(address, TcpAddress)
        return address.host, address.port

    def works(self) -> bool:
        """Whether all of it is as it was."""
        assert self.actor.ask("hello", timeout=WAIT_SECONDS) == "hello"
        assert self.tunnel.status().state is TunnelState.CONNECTED
        assert self.client.status().state is TunnelState.CONNECTED
        (snapshot,) = self.service.tunnels()
        with socket.create_connection(self.listener, timeout=WAIT_SECONDS):
            pass
        return snapshot.source_connected and snapshot.destination_connected

    def stop(self) -> None:
        self.client.stop().result(WAIT_SECONDS)
        self.runtime.stop()
        self.service.stop()
        self.dispatcher.stop()


@pytest.fixture
def process() -> Iterator[Process]:
    made = Process()
    yield made
    made.stop()


def leave(thing: Any) -> str:
    thing.__exit__(None, None, None)
    return "left"


CALLS: dict[str, Callable[[Process], object]] = {
    "runtime.start": lambda p: p.runtime.start(),
    "runtime.stop": lambda p: p.runtime.stop(),
    "runtime.open_tunnel": lambda p: p.runtime.open_tunnel(p.config),
    "runtime.close_tunnel": lambda p: p.runtime.close_tunnel("press-4"),
    "runtime.begin_close": lambda p: p.runtime.begin_close("press-4"),
    "runtime.drain_tunnel": lambda p: p.runtime.drain_tunnel("press-4"),
    "runtime.replace_token": lambda p: p.runtime.replace_token("press-4", "t"),
    "runtime.tunnel": lambda p: p.runtime.tunnel("press-4"),
    "runtime.tunnels": lambda p: p.runtime.tunnels(),
    "runtime.actor_ref": lambda p: p.runtime.actor_ref,
    "runtime.subscribe": lambda p: p.runtime.subscribe(p.actor),
    "runtime.unsubscribe": lambda p: p.runtime.unsubscribe(p.actor),
    "runtime.stats": lambda p: p.runtime.stats(),
    "runtime.wait_until": lambda p: p.runtime.wait_until(lambda: False, 60.0),
    "tunnel.wait_for": lambda p: p.tunnel.wait_for(TunnelState.STOPPED, 60.0),
    "tunnel.wait_listening": lambda p: p.tunnel.wait_listening("HTTP", 60.0),
    "client.start": lambda p: p.client.start(),
    "client.stop": lambda p: p.client.stop(),
    "client.status": lambda p: p.client.status(),
    "client.wait_connected": lambda p: p.client.wait_connected(60.0),
    "client.replace_token": lambda p: p.client.replace_token("t"),
    "client.send_message": lambda p: p.client.send_message(Message(b"x")),
    "client.send_stream_start": lambda p: p.client.send_stream_start(),
    "service.start": lambda p: p.service.start(),
    "service.stop": lambda p: p.service.stop(),
    "service.kill": lambda p: p.service.kill(),
    "service.restart": lambda p: p.service.restart(),
    "service.open_tunnel": lambda p: p.service.open_tunnel("lathe-1"),
    "service.close_tunnel": lambda p: p.service.close_tunnel("press-4"),
    "service.rotate": lambda p: p.service.rotate("press-4"),
    "service.tunnels": lambda p: p.service.tunnels(),
    "actor.ask": lambda p: p.actor.ask("hello"),
    "actor.ask without waiting": lambda p: p.actor.ask("hello", block=False),
    "actor.tell": lambda p: p.actor.tell("hello"),
    "actor.stop": lambda p: p.actor.stop(),
    "actor.kill": lambda p: p.actor.kill(),
    "actor.actor_stopped.wait": lambda p: p.actor.actor_stopped.wait(),
    "dispatcher.call_soon": lambda p: p.dispatcher.call_soon(print),
    "dispatcher.stop": lambda p: p.dispatcher.stop(),
    "Actor.start": lambda p: Probe.start(dispatcher=p.dispatcher),
}


def test_every_call_in_a_child_says_what_is_wrong(process: Process) -> None:
    def call_all() -> dict[str, str]:
        said = {}
        for name, call in CALLS.items():
            try:
                said[name] = f"returned {call(process)!r}"
            except ForkedProcessError as error:
                said[name] = "told" if "make a new one" in str(error) else str(error)
        return said

    assert eval(in_child(call_all)) == dict.fromkeys(CALLS, "told")
    assert process.works()


def test_while_locks_are_held_a_child_is_told_all_the_same(process: Process) -> None:
    """Another thread may hold any of them at the moment of the fork."""
    held: list[Any] = [
        process.runtime._registry._lock,
        process.runtime._engine._phase_changed,
        process.runtime._changes._changed,
        process.client._lock,
        process.service._lock,
        process.dispatcher.lock,
    ]

    def call_all() -> int:
        told = 0
        for call in CALLS.values():
            try:
                call(process)
            except ForkedProcessError:
                told += 1
        return told

    def fork_with_locks() -> str:
        for lock in held:
            lock.acquire()
        try:
            return in_child(call_all)
        finally:
            for lock in held:
                lock.release()

    assert fork_with_locks() == str(len(CALLS))
    assert process.works()


def test_a_child_that_leaves_the_blocks_stops_nothing(process: Process) -> None:
    things = [process.client, process.runtime, process.service, process.dispatcher]
    assert in_child(lambda: [leave(thing) for thing in things]) == repr(["left"] * 4)
    assert in_child(lambda: repr(process.client)).count("another process") == 1
    assert process.works()


def test_a_child_may_run_tunnels_of_its_own(process: Process) -> None:
    def run() -> bool:
        mine = Process()
        try:
            return mine.works()
        finally:
            mine.stop()

    assert in_child(run) == "True"
    assert process.works()


def test_a_fork_in_an_actor_leaves_its_dispatcher_to_the_parent(process: Process) -> None:
    def fork_here(_actor: object) -> int:
        return fork()

    pid = process.actor.ask(fork_here, timeout=WAIT_SECONDS)
    # The child's copy of the thread has nothing more to do, and with it the child ends.
    _, status = os.waitpid(pid, 0)
    assert status == 0
    assert process.works()


def test_what_is_closed_is_closed_although_a_child_holds_it(process: Process) -> None:
    listener, service_port = process.listener, process.service.port
    accepted = socket.create_connection(listener, timeout=WAIT_SECONDS)
    eventually(lambda: process.tunnel.status().connections_active == 1)
    with idle_child(), accepted:
        process.runtime.close_tunnel("press-4")
        eventually(lambda: not process.service.tunnels()[0].source_connected)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(listener, timeout=WAIT_SECONDS)
        # The source's connection takes a moment to go, and is not to be taken for the next one.
        eventually(lambda: len(process.service._clients) == 1)
        with socket.create_connection(("127.0.0.1", service_port), timeout=WAIT_SECONDS) as silent:
            eventually(lambda: len(process.service._clients) == 2)
            process.service.stop()
            assert silent.recv(1) == b""
        eventually(lambda: process.client.status().state is not TunnelState.CONNECTED)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", service_port), timeout=WAIT_SECONDS)


def test_a_killed_service_resets_although_a_child_holds_its_sockets(process: Process) -> None:
    with socket.create_connection(
        ("127.0.0.1", process.service.port), timeout=WAIT_SECONDS
    ) as silent:
        eventually(lambda: len(process.service._clients) == 3)
        with idle_child():
            process.service.kill()
            with pytest.raises(ConnectionResetError):
                silent.recv(1)
