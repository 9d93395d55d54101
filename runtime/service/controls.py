"""What a program may have a service do to its tunnels: faults on command.

Owns the controls of a running tunnel (drop, black hole, delay, throttle, reset, messages of any
content) and of the handshakes to come. It does not know sockets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from tunnelfleet.actors.transport.codec import Opcode
from tunnelfleet.proto import ConfigError, Message, Mode, encode_frame

from .events import ServiceEventKind
from .handshake import FaultPlan, Refusal
from .relay import RelayedTunnel

_Result = TypeVar("_Result")


class ServiceControls:
    """Commands to a service, callable from any thread.

    All raise ConfigError when the tunnel is not open or the service not running.
    """

    def _do(self, work: Callable[[], _Result]) -> _Result:
        raise NotImplementedError

    def _tunnel(self, name: str) -> RelayedTunnel:
        raise NotImplementedError

    def _tell(
        self, kind: ServiceEventKind, name: str, detail: str = "", mode: Mode | None = None
    ) -> None:
        raise NotImplementedError

    def _remember_bandwidth(self, name: str, bytes_per_second: float | None) -> None:
        raise NotImplementedError

    def _faults(self) -> FaultPlan:
        raise NotImplementedError

    def drop(self, name: str, mode: Mode | None = None) -> None:
        """Reset the TCP connection of a client (None: of both), without a CLOSE."""

        def drop_it() -> None:
            for client in self._tunnel(name).clients(mode):
                self._tell(ServiceEventKind.DROPPED, name, mode=client.mode)
                client.wire.abort("dropped on command")

        self._do(drop_it)

    def black_hole(self, name: str, mode: Mode | None = None) -> None:
        """Keep the TCP connection of a client (None: of both), and never read or write it again."""

        def silence_it() -> None:
            for client in self._tunnel(name).clients(mode):
                self._tell(ServiceEventKind.BLACK_HOLED, name, mode=client.mode)
                client.wire.silence()

        self._do(silence_it)

    def session_reset(self, name: str) -> None:
        """Send SESSION_RESET to both clients."""
        self._do(lambda: self._tunnel(name).reset_session())

    def stream_reset(self, name: str, service_id: str | None = None) -> int:
        """Send STREAM_RESET of a service's active stream (None: of each) to both clients.

        Returns:
            How many streams were reset.
        """
        return self._do(lambda: self._tunnel(name).reset_streams(service_id))

    def corrupt_next(self, name: str, mode: Mode, count: int = 1) -> None:
        """Make no messages of the next frames that are relayed to a side; their length stays."""
        self._do(lambda: self._tunnel(name).corrupt_next(mode, count))

    def stall(self, name: str, mode: Mode) -> None:
        """Stop reading a side's client, and those that come after it, until ``resume_reading``."""
        self._do(lambda: self._tunnel(name).stall(mode))

    def resume_reading(self, name: str, mode: Mode) -> None:
        """Read a stalled side again."""
        self._do(lambda: self._tunnel(name).resume_reading(mode))

    def delay(self, name: str, seconds: float) -> None:
        """Hold every message of a tunnel back for so long, in each direction; 0 ends it."""
        if not 0 <= seconds < float("inf"):
            raise ConfigError(f"a delay must be 0 or more seconds, not {seconds}")
        self._do(lambda: self._tunnel(name).set_delay(seconds))

    def throttle(self, name: str, bytes_per_second: float | None) -> None:
        """Limit each direction of a tunnel; None lifts the limit."""

        def throttle_it() -> None:
            self._tunnel(name).set_bandwidth(bytes_per_second)
            self._remember_bandwidth(name, bytes_per_second)

        self._do(throttle_it)

    def refuse_next(
        self,
        name: str | None,
        status: int,
        body: str = "",
        count: int = 1,
        retry_after: float | None = None,
    ) -> None:
        """Refuse the next requests of a tunnel (None: of anybody) with a status.

        Args:
            name: the tunnel, or None.
            status: HTTP status, 400 to 599.
            body: HTTP body.
            count: how many requests.
            retry_after: seconds for a ``Retry-After`` header, or None for no header.
        """
        if not 400 <= status <= 599:
            raise ConfigError(f"a request is refused with a status of 400 to 599, not {status}")

        def plan() -> None:
            if name is not None:
                self._tunnel(name)
            self._faults().refusals[name] = Refusal(status, body, count, retry_after)

        self._do(plan)

    def silence_next(self, count: int = 1) -> None:
        """Accept the next connections and requests, and never answer them."""
        self._do(lambda: setattr(self._faults(), "silences_left", count))

    def garbage_next(self, count: int = 1) -> None:
        """Answer the next requests with bytes that are not HTTP, and close."""
        self._do(lambda: setattr(self._faults(), "garbage_left", count))

    def send_message(self, name: str, mode: Mode, message: Message) -> None:
        """Send a tunnel message to a client, whether or not the protocol allows it."""
        self.send_raw(name, mode, encode_frame(message))

    def send_raw(self, name: str, mode: Mode, websocket_payload: bytes) -> None:
        """Send a binary WebSocket message with any payload to a client."""
        self._do(lambda: self._tunnel(name).inject(mode, Opcode.BINARY, websocket_payload))

    def send_text(self, name: str, mode: Mode, text: str) -> None:
        """Send a WebSocket text message, which is a protocol error, to a client."""
        self._do(lambda: self._tunnel(name).inject(mode, Opcode.TEXT, text.encode()))

    def send_ping(self, name: str, mode: Mode) -> None:
        """Send an empty ping to a client."""
        self._do(lambda: self._tunnel(name).inject(mode, Opcode.PING, b""))

    def send_close(self, name: str, mode: Mode) -> None:
        """Send an empty CLOSE to a client and leave the connection open."""
        self._do(lambda: self._tunnel(name).inject(mode, Opcode.CLOSE, b""))
