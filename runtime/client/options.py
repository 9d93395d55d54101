"""What a user gives a tunnel client: its options, its callbacks, and who else takes the events.

Owns names, types, checks and defaults, once for the builder and for the keyword call, and the
configuration that follows. Whoever takes events is held to a pace: an actor gets no more than it
handles, an event loop no more than it takes.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, Self, TypeAlias, TypedDict, TypeVar

from pykka import ActorRef, Future

from tunnelfleet.actors.addresses import Address, HttpProxy, parse_address
from tunnelfleet.actors.api import messages
from tunnelfleet.actors.api.messages import ApiEvent, MessageReceived, Stopped
from tunnelfleet.actors.callbacks import EVENT_COST_BYTES, CallbackQueue
from tunnelfleet.actors.config import ANY_SERVICE, ApiService, Limits, TunnelConfig
from tunnelfleet.proto import ConfigError, Endpoint, Mode, ProtocolVersion, generate_client_token
from tunnelfleet.runtime.runtime import TunnelRuntime
from tunnelfleet.runtime.tls import make_ssl_context

from .sending import check_text

Services: TypeAlias = "Mapping[str, Address | ApiService | str]"


_Client = TypeVar("_Client")


class SecureTunnelOptions(TypedDict, Generic[_Client], total=False):
    """The options of a tunnel client beside its token, mode and endpoint.

    A callback gets the client as its first argument, a `SecureTunnel`.
    """

    name: str
    client_token: str
    root_ca: str | Path
    tls_context: ssl.SSLContext
    http_proxy: HttpProxy | str
    bandwidth: float
    version: ProtocolVersion | str
    services: Services
    limits: Limits
    half_close: bool
    marks: bool
    pacing: bool
    runtime: TunnelRuntime
    events_to: ActorRef[Any]
    on_connection_success: Callable[[_Client, messages.ConnectionSuccess], object]
    on_connection_failure: Callable[[_Client, messages.ConnectionFailure], object]
    on_connection_shutdown: Callable[[_Client, messages.ConnectionShutdown], object]
    on_send_message_complete: Callable[[_Client, messages.SendMessageComplete], object]
    on_message_received: Callable[[_Client, messages.MessageReceived], object]
    on_stream_started: Callable[[_Client, messages.StreamStarted], object]
    on_stream_stopped: Callable[[_Client, messages.StreamStopped], object]
    on_connection_started: Callable[[_Client, messages.ConnectionStarted], object]
    on_connection_reset: Callable[[_Client, messages.ConnectionReset], object]
    on_input_ended: Callable[[_Client, messages.InputEnded], object]
    on_session_reset: Callable[[_Client, messages.SessionReset], object]
    on_stopped: Callable[[_Client, messages.Stopped], object]


CALLBACKS: Mapping[str, type[messages.ApiEvent]] = {
    "on_connection_success": messages.ConnectionSuccess,
    "on_connection_failure": messages.ConnectionFailure,
    "on_connection_shutdown": messages.ConnectionShutdown,
    "on_send_message_complete": messages.SendMessageComplete,
    "on_message_received": messages.MessageReceived,
    "on_stream_started": messages.StreamStarted,
    "on_stream_stopped": messages.StreamStopped,
    "on_connection_started": messages.ConnectionStarted,
    "on_connection_reset": messages.ConnectionReset,
    "on_input_ended": messages.InputEnded,
    "on_session_reset": messages.SessionReset,
    "on_stopped": messages.Stopped,
}
"""The event that each callback gets."""


def callbacks_of(
    options: SecureTunnelOptions[Any],
) -> dict[type[messages.ApiEvent], Callable[[Any, Any], object]]:
    """Return the callbacks among the options, by the event that each gets.

    Raises:
        ConfigError: one cannot be called.
    """
    given: Mapping[str, Any] = options
    found: dict[type[messages.ApiEvent], Callable[[Any, Any], object]] = {}
    for name, kind in CALLBACKS.items():
        callback = given.get(name)
        if callback is not None and not callable(callback):
            raise ConfigError(f"{name} is not a function: it is called with (tunnel, event)")
        if callback is not None:
            found[kind] = callback
    return found


def make_config(
    access_token: str,
    mode: Mode | str,
    endpoint: Endpoint | str,
    options: SecureTunnelOptions[Any],
) -> TunnelConfig:
    """Return the configuration of a client's tunnel; see `SecureTunnel` for the arguments.

    Raises:
        ConfigError: an option cannot work.
    """
    unknown = set(options) - set(SecureTunnelOptions.__annotations__)
    if unknown:
        raise ConfigError(f"a SecureTunnel has no option {', '.join(sorted(unknown))}")
    check_text("access_token", access_token)
    try:
        mode = Mode(mode)
    except ValueError:
        raise ConfigError(f"bad mode {mode!r}: it is 'source' or 'destination'") from None
    if isinstance(endpoint, str):
        endpoint = Endpoint.parse(endpoint)
    proxy = options.get("http_proxy")
    return TunnelConfig(
        name=options.get("name") or f"{mode}-{uuid.uuid4().hex[:8]}",
        mode=mode,
        endpoint=endpoint,
        access_token=access_token,
        # It is kept as long as the client, as an access token accepts only one client token.
        client_token=options.get("client_token") or generate_client_token(),
        services=_targets(options.get("services", {})),
        version=_version(options.get("version", ProtocolVersion.V3)),
        bandwidth_bytes_per_second=options.get("bandwidth"),
        http_proxy=HttpProxy.parse(proxy) if isinstance(proxy, str) else proxy,
        ssl_context=_ssl_context(options),
        limits=options.get("limits") or Limits(),
        marks=options.get("marks", True),
        pacing=options.get("pacing", True),
    )


def _version(given: ProtocolVersion | str) -> ProtocolVersion:
    try:
        return ProtocolVersion.parse(given)
    except ValueError as error:
        raise ConfigError(f"bad version: {error}") from None


def _targets(services: Services) -> Mapping[str, Address | ApiService]:
    targets: dict[str, Address | ApiService] = {
        service_id: parse_address(target) if isinstance(target, str) else target
        for service_id, target in services.items()
    }
    targets.setdefault(ANY_SERVICE, ApiService())
    return targets


def _ssl_context(options: SecureTunnelOptions[Any]) -> ssl.SSLContext | None:
    root_ca, context = options.get("root_ca"), options.get("tls_context")
    if root_ca is None:
        return context
    if context is not None:
        raise ConfigError("root_ca and tls_context exclude each other: give one of them")
    return make_ssl_context(Path(root_ca))


MAX_UNHANDLED = 64
"""How many events the actor may have in its inbox before the tunnel waits for it."""


class ActorDelivery:
    """Delivers to one actor; a callable for callback threads.

    Args:
        receiver: any pykka actor. What its handler returns is ignored, what it raises is counted
            and logged as an error of a callback.
    """

    def __init__(self, receiver: ActorRef[Any]) -> None:
        self._receiver = receiver
        self._unhandled: deque[Future[Any]] = deque()

    def __call__(self, event: ApiEvent) -> None:
        """Send one event, once the actor has handled those long before it."""
        if not self._receiver.is_alive():
            self._unhandled.clear()
            return
        self._unhandled.append(self._receiver.ask(event, block=False))
        if len(self._unhandled) > MAX_UNHANDLED:
            self._unhandled.popleft().get()


HIGH_WATER_BYTES = 262_144
"""Events, with their payloads, that may wait for a loop before the callback queue rests."""


class EventStream:
    """The events of a tunnel from now on, for `async for`; made by `SecureTunnel.events`.

    It ends after `Stopped`. A loop that does not take events holds the tunnel back. Leaving the
    loop and dropping the stream, or `close`, ends that.

    Args:
        loop: the event loop that takes them.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._events: deque[ApiEvent] = deque()
        self._bytes = 0
        self._woken = False
        self._parked: CallbackQueue | None = None
        self._closed = False
        self._arrived = asyncio.Event()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ApiEvent:
        while True:
            with self._lock:
                event = self._take()
                closed = self._closed
                self._arrived.clear()
                self._woken = False
            if event is not None:
                return event
            if closed:
                raise StopAsyncIteration
            await self._arrived.wait()

    def _take(self) -> ApiEvent | None:
        if not self._events:
            return None
        event = self._events.popleft()
        self._bytes -= _size_bytes(event)
        if self._parked is not None and self._bytes <= HIGH_WATER_BYTES // 2:
            self._unpark()
        if isinstance(event, Stopped):
            self._closed = True
        return event

    def put(self, event: ApiEvent, callback_queue: CallbackQueue) -> None:
        """Hand an event over; called on the tunnel's callback thread."""
        with self._lock:
            if self._closed:
                return
            self._events.append(event)
            self._bytes += _size_bytes(event)
            if self._bytes > HIGH_WATER_BYTES and self._parked is None:
                self._parked = callback_queue
                callback_queue.park()
            wake, self._woken = not self._woken, True
        if wake:
            try:
                self._loop.call_soon_threadsafe(self._arrived.set)
            except RuntimeError:
                # The loop is closed: nobody will take anything.
                self.close()

    def close(self) -> None:
        """Take no more events. Any thread."""
        with self._lock:
            self._closed = True
            self._events.clear()
            self._unpark()

    def __del__(self) -> None:
        self._unpark()

    def _unpark(self) -> None:
        callback_queue, self._parked = self._parked, None
        if callback_queue is not None:
            callback_queue.unpark()


def _size_bytes(event: ApiEvent) -> int:
    if isinstance(event, MessageReceived):
        return EVENT_COST_BYTES + len(event.message.payload)
    return EVENT_COST_BYTES
