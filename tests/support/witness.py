"""What the fault tests share: a witness, quick limits, ways to reach into a runtime.

Owns the judgement of who noticed a fault: a `Witness` is a connection that is echoed without a
break while something else is broken, and every byte of it is compared. Must not know any fault.
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import pytest

from tests.support.actors import crash
from tests.support.rig import FAST_LIMITS, connect, receive_exactly
from tests.support.waiting import eventually
from tunnelfleet.actors.kernel import kill
from tunnelfleet.runtime import (
    Limits,
    Mode,
    TcpAddress,
    TunnelConfig,
    TunnelState,
    TunnelStateChanged,
)

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from pykka import ActorRef

    from tests.support.rig import Pair, Rig
    from tunnelfleet.runtime import Address, Endpoint, Tunnel, TunnelRuntime

ROUND_BYTES = 512
PAUSE_SECONDS = 0.002
ROUNDS_TO_TRUST = 5
STOP_SECONDS = 60.0
END_SECONDS = 60.0
DISCARD_PORT = 9
FORGED_TOKEN = "a" * 64

FAULT_LIMITS: Limits = replace(
    FAST_LIMITS,
    linger_seconds=1.0,
    offline_grace_seconds=0.3,
    stop_timeout_seconds=1.0,
)
"""Quick to notice, to come back and to give up; pings as by default."""

QUICKLY_BACK = replace(
    FAULT_LIMITS,
    backoff=replace(FAULT_LIMITS.backoff, max_seconds=FAULT_LIMITS.backoff.min_seconds),
)
"""However often in a row it is lost."""


class Witness:
    """A connection that echoes all the time, on a thread of its own; a context manager.

    Args:
        address: of a listener whose far end echoes.
    """

    def __init__(self, address: Address) -> None:
        self._socket = connect(address)
        self._stop = threading.Event()
        self._error: Exception | None = None
        self._rounds = 0
        self._thread = threading.Thread(target=self._run, name="witness", daemon=True)

    @property
    def rounds(self) -> int:
        """How often it was echoed, every byte right."""
        return self._rounds

    @property
    def is_running(self) -> bool:
        """Whether it has noticed nothing and goes on."""
        return self._thread.is_alive()

    def __enter__(self) -> Self:
        self._thread.start()
        self.check()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._stop.set()
        self._thread.join(STOP_SECONDS)
        self._socket.close()

    def check(self) -> None:
        """Fail unless it noticed nothing so far and goes on echoing."""
        wanted = self._rounds + ROUNDS_TO_TRUST
        eventually(lambda: self._rounds >= wanted or self._error is not None, "echoes of a witness")
        assert self._error is None, f"the witness noticed: {self._error!r}"

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                sent = self._rounds.to_bytes(8, "big") * (ROUND_BYTES // 8)
                self._socket.sendall(sent)
                assert receive_exactly(self._socket, ROUND_BYTES) == sent
                self._rounds += 1
                self._stop.wait(PAUSE_SECONDS)
        except (OSError, AssertionError) as error:
            self._error = error


@contextlib.contextmanager
def undisturbed(rig: Rig) -> Iterator[Witness]:
    """A tunnel beside the others that must not notice what happens inside; yields its witness."""
    pair = rig.pair({"WITNESS": rig.backends.echo().address}, name="witness")
    with Witness(pair.address()) as witness:
        yield witness
        witness.check()
        for tunnel in (pair.source, pair.destination):
            status = tunnel.status()
            assert status.state == "connected"
            seen = (status.connect_attempts, status.session_resets, status.connections_opened)
            assert seen == (1, 0, 1), status


def open_alone(
    rig: Rig,
    endpoint: Endpoint,
    *,
    mode: Mode = Mode.SOURCE,
    limits: Limits = FAULT_LIMITS,
    token: str = FORGED_TOKEN,
) -> Tunnel:
    """One end of a tunnel, at any endpoint, that is not waited for."""
    config = TunnelConfig(
        name="alone",
        mode=mode,
        endpoint=endpoint,
        access_token=token,
        services={"SSH": TcpAddress("127.0.0.1", 0 if mode is Mode.SOURCE else DISCARD_PORT)},
        limits=limits,
    )
    return rig.runtime.open_tunnel(config)


def wait_reconnected(tunnel: Tunnel, label: str, reconnects: int = 1) -> None:
    """Wait until a tunnel has come back so often after losses of that label, and no others."""
    eventually(
        lambda: tunnel.stats.reconnects.get(label) == reconnects,
        f"{reconnects} reconnects of {tunnel} after {label}, not {tunnel.stats.reconnects}",
    )
    assert dict(tunnel.stats.reconnects) == {label: reconnects}
    tunnel.wait_for(TunnelState.CONNECTED, END_SECONDS)


def reasons_of(rig: Rig, tunnel: Tunnel, state: TunnelState = TunnelState.BACKOFF) -> list[str]:
    """What people were told each time a tunnel entered that state.

    A thread of its own tells them, after the state has changed: what there is to tell of the way to
    the present state is waited for.
    """

    def told() -> list[TunnelStateChanged]:
        return [
            event
            for event in rig.events.all()
            if isinstance(event, TunnelStateChanged) and event.tunnel == tunnel.name
        ]

    def is_all_told() -> bool:
        now, losses = tunnel.stats.state, sum(tunnel.stats.reconnects.values())
        states = [event.state for event in told()]
        # Of a tunnel of the same name that was closed before.
        lives = states.count(TunnelState.STOPPED) - (now is TunnelState.STOPPED)
        for _ in range(lives):
            del states[: states.index(TunnelState.STOPPED) + 1]
        return states[-1:] == [now] and states.count(TunnelState.BACKOFF) >= losses

    eventually(is_all_told, f"all events of {tunnel}")
    return [event.reason for event in told() if event.state is state]


def assert_carries(pair: Pair, service_id: str | None = None) -> None:
    """A new connection goes through."""
    data = bytes(range(256)) * 40
    with pair.connect(service_id) as client:
        client.sendall(data)
        assert receive_exactly(client, len(data)) == data


def assert_ends(sock: socket.socket, after: str = "the fault") -> None:
    """A local connection is closed or reset from the tunnel's side, in time."""
    sock.settimeout(END_SECONDS)
    try:
        while sock.recv(65_536):
            pass
    except TimeoutError:
        pytest.fail(f"a local connection is still open {END_SECONDS:g} s after {after}")
    except (ConnectionResetError, BrokenPipeError):
        return


def assert_is_refused(address: Address, timeout_seconds: float = END_SECONDS) -> None:
    """A new local connection ends without having carried a byte, in time."""
    try:
        with connect(address, timeout_seconds) as sock:
            assert sock.recv(1) == b""
    except (ConnectionResetError, ConnectionRefusedError):
        return


def actors(runtime: TunnelRuntime, name: str, tunnel: str | None = None) -> list[ActorRef[Any]]:
    """The live actors of a class, of one tunnel (by its name) or of all."""
    found: list[ActorRef[Any]] = []
    for dispatcher in runtime.dispatchers:
        for cell in list(dispatcher._cells):
            actor = cell.actor
            if type(actor).__name__ == name and tunnel in (None, cell.label):
                found.append(cell.ref)
    return found


def actor(runtime: TunnelRuntime, name: str, tunnel: str | None = None) -> ActorRef[Any]:
    """The only live actor of a class."""
    eventually(lambda: len(actors(runtime, name, tunnel)) == 1, f"one {name} of {tunnel}")
    return actors(runtime, name, tunnel)[0]


def crash_and_wait(ref: ActorRef[Any]) -> None:
    """Make an actor raise in its own turn, and wait for its end."""
    crash(ref)
    eventually(lambda: not ref.is_alive(), f"the end of {ref}")


def kill_and_wait(ref: ActorRef[Any]) -> None:
    """End an actor without a hook of it, and wait for its end."""
    kill(ref)
    eventually(lambda: not ref.is_alive(), f"the end of {ref}")
