"""A fleet application of pykka actors that supervises a tunnel runtime among its own actors.

    python examples/embedded_in_actor_app.py

    SupervisorActor (the host's)
     |- tunnels      the TunnelRuntime, as a child
     |- journal      a ThreadingActor that gets the fleet's events
     `- operations   a ThreadingActor that opens and closes tunnels

Crash one of them and the others go on; stop the supervisor and all end in order. A runtime that has
failed is replaced by a new one with the same tunnels: `runtime.present` is the one that runs.
"""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

import pykka
from local_tunnel import a_tunnel

from tunnelfleet.actors.kernel import (
    ChildSpec,
    Dispatcher,
    SupervisorActor,
    TerminationReporter,
    WhichChildren,
)
from tunnelfleet.runtime import (
    Message,
    MessageReceived,
    SecureTunnel,
    StreamStarted,
    Tunnel,
    TunnelEvent,
    TunnelRuntime,
    TunnelState,
    TunnelStateChanged,
    make_ssl_context,
)

if TYPE_CHECKING:
    from local_tunnel import Given


class OpenDevice(NamedTuple):
    """Command to Operations: open the device's end."""

    token: str
    endpoint: str


class CloseDevice(NamedTuple):
    """Command to Operations: close it."""


class Journal(TerminationReporter, pykka.ThreadingActor):
    """Prints what happens to tunnels."""

    def __init__(self, runtime: TunnelRuntime) -> None:
        super().__init__()
        self._runtime = runtime

    def on_start(self) -> None:
        """Ask for the events that it is about."""
        self._runtime.present.subscribe(self.actor_ref, kinds=[TunnelStateChanged])

    def on_receive(self, message: Any) -> Any:
        """Write one down."""
        if isinstance(message, TunnelEvent):
            print(f"journal: {message.tunnel} is {getattr(message, 'state', '')}")


class Operations(TerminationReporter, pykka.ThreadingActor):
    """Opens and closes tunnels, and answers what comes through them."""

    def __init__(self, runtime: TunnelRuntime) -> None:
        super().__init__()
        self._runtime = runtime
        self._device: SecureTunnel | None = None

    def on_receive(self, message: Any) -> Any:
        """Carry out a command, or handle an event of the device's tunnel."""
        if isinstance(message, OpenDevice):
            return self._open(message)
        if isinstance(message, CloseDevice) and self._device is not None:
            self._device.stop()
        elif isinstance(message, StreamStarted):
            print(f"operations: somebody opened {message.service_id}")
        elif isinstance(message, MessageReceived) and self._device is not None:
            self._device.send_message(Message(message.message.payload.upper(), "CTRL"))
        return None

    def _open(self, command: OpenDevice) -> Tunnel:
        # Every event of this tunnel is a message to this actor, no faster than it handles them.
        self._device = SecureTunnel(
            command.token,
            "destination",
            command.endpoint,
            name="device",
            runtime=self._runtime,
            events_to=self.actor_ref,
        )
        self._device.start()
        return self._runtime.present.tunnel("device")


def ask_the_device(given: Given) -> str:
    """Somebody at the other end, with a runtime of their own."""
    answers: queue.Queue[bytes] = queue.Queue()
    client = SecureTunnel(
        given.source_token,
        "source",
        given.endpoint,
        tls_context=make_ssl_context(given.root_ca) if given.root_ca else make_ssl_context(),
        on_message_received=lambda _tunnel, event: answers.put(event.message.payload),
    )
    with client:
        client.wait_connected(10)
        client.send_stream_start("CTRL").result(10)
        client.send_message(Message(b"are you there?", "CTRL")).result(10)
        return answers.get(timeout=10).decode()


def main() -> None:
    """Start the application, use it, stop it."""
    with a_tunnel(["CTRL"]) as given, Dispatcher("fleet application").start() as dispatcher:
        context = make_ssl_context(given.root_ca) if given.root_ca else None
        runtime = TunnelRuntime(ssl_context=context)
        children = [
            runtime.child_spec("tunnels"),
            ChildSpec(id="journal", start=lambda: Journal.start(runtime)),
            ChildSpec(id="operations", start=lambda: Operations.start(runtime)),
        ]
        host = SupervisorActor.start(children, dispatcher=dispatcher, register=True)
        operations = next(c.ref for c in host.ask(WhichChildren()) if c.id == "operations")
        assert operations is not None
        tunnel = operations.ask(OpenDevice(given.destination_token, given.endpoint))
        tunnel.wait_for(TunnelState.CONNECTED, 10)
        print(f"answer: {ask_the_device(given)}")
        operations.tell(CloseDevice())
        tunnel.wait_for(TunnelState.STOPPED, 10)
        print(f"threads: {threading.active_count()}")
        # Everything that is an actor ends, in order: operations, journal, then the tunnels.
        pykka.ActorRegistry.stop_all()


if __name__ == "__main__":
    main()
