"""A service, a shared runtime, and tunnel clients that write down what their callbacks got.

with Bench() as bench:
    pair = bench.pair(["SSH"])
    pair.source.send_stream_start("SSH").result(WAIT_SECONDS)
    pair.at_destination.wait(StreamStarted)
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self, TypeVar

from tests.support.rig import CONNECTS_PER_SECOND, FAST_LIMITS
from tests.support.waiting import WAIT_SECONDS
from tunnelfleet.runtime import ApiEvent, Mode, SecureTunnel, TunnelRuntime
from tunnelfleet.runtime.service import TunnelService

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tunnelfleet.runtime import TunnelEvent
    from tunnelfleet.runtime.service import TunnelTokens

E = TypeVar("E", bound=ApiEvent)

CALLBACK_NAMES = (
    "on_connection_success",
    "on_connection_failure",
    "on_connection_shutdown",
    "on_send_message_complete",
    "on_message_received",
    "on_stream_started",
    "on_stream_stopped",
    "on_connection_started",
    "on_connection_reset",
    "on_input_ended",
    "on_session_reset",
    "on_stopped",
)
LIMITS = replace(FAST_LIMITS, data_payload_bytes=64_512)


class Transcript:
    """What the callbacks of one client got, in order."""

    def __init__(self) -> None:
        self._events: list[ApiEvent] = []
        self._threads: set[int] = set()
        self._changed = threading.Condition()

    def __call__(self, _tunnel: SecureTunnel, event: ApiEvent) -> None:
        with self._changed:
            self._events.append(event)
            self._threads.add(threading.get_ident())
            self._changed.notify_all()

    def callbacks(self, but: Sequence[str] = ()) -> dict[str, Any]:
        """Options that make it every callback of a client."""
        return {name: self for name in CALLBACK_NAMES if name not in but}

    def all(self) -> list[ApiEvent]:
        """Every event so far."""
        with self._changed:
            return list(self._events)

    def names(self) -> list[str]:
        """Their types."""
        return [type(event).__name__ for event in self.all()]

    def of(self, kind: type[E]) -> list[E]:
        """Those of a type."""
        return [event for event in self.all() if isinstance(event, kind)]

    def wait(self, kind: type[E], count: int = 1, timeout_seconds: float = WAIT_SECONDS) -> list[E]:
        """Wait for so many of a type; returns those there are."""
        return self.wait_until(lambda: len(self.of(kind)) >= count, kind, timeout_seconds)

    def wait_until(
        self, true: Callable[[], bool], kind: type[E], timeout_seconds: float = WAIT_SECONDS
    ) -> list[E]:
        """Wait for a condition, looked at with every event."""
        with self._changed:
            came = self._changed.wait_for(true, timeout_seconds)
        assert came, f"no {kind.__name__} in {timeout_seconds:g} s; there were {self.names()}"
        return self.of(kind)


@dataclass(frozen=True)
class ClientPair:
    """Both ends of a tunnel, and what they heard."""

    name: str
    tokens: TunnelTokens
    source: SecureTunnel
    destination: SecureTunnel
    at_source: Transcript
    at_destination: Transcript


class ClientBench:
    """A service and a runtime, for as many clients as a test likes.

    Args:
        tls: whether the service speaks TLS.
        on_event: of the runtime.
    """

    def __init__(
        self, *, tls: bool = False, on_event: Callable[[TunnelEvent], None] | None = None
    ) -> None:
        self.service = TunnelService(tls=tls)
        self._on_event = on_event
        self._stack = contextlib.ExitStack()
        self.runtime: TunnelRuntime

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.service)
            context = self.service.ssl_context() if self.service.ca_path else None
            self.runtime = stack.enter_context(
                TunnelRuntime(
                    connect_rate_per_second=CONNECTS_PER_SECOND,
                    ssl_context=context,
                    on_event=self._on_event,
                )
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._stack.close()

    def client(self, mode: Mode | str, token: str, **options: Any) -> SecureTunnel:
        """A client in the shared runtime; it is not started."""
        options = {"limits": LIMITS, "runtime": self.runtime, **options}
        return SecureTunnel(token, mode, self.service.endpoint, **options)

    def pair(
        self,
        services: Sequence[str] = ("SSH",),
        *,
        name: str = "tunnel",
        start: bool = True,
        source: dict[str, Any] | None = None,
        destination: dict[str, Any] | None = None,
        but: Sequence[str] = (),
    ) -> ClientPair:
        """Both ends of a new tunnel, every callback written down, connected."""
        tokens = self.service.open_tunnel(name, services)
        heard = Transcript(), Transcript()
        ends = (
            self.client(
                "source", tokens.source_token, **(heard[0].callbacks(but) | (source or {}))
            ),
            self.client(
                "destination",
                tokens.destination_token,
                **(heard[1].callbacks(but) | (destination or {})),
            ),
        )
        pair = ClientPair(name, tokens, *ends, *heard)
        if start:
            for end in reversed(ends):
                end.start()
            for end in ends:
                end.wait_connected(WAIT_SECONDS)
        return pair
