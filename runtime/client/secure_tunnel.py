"""SecureTunnel: one end of a tunnel as a client, with callbacks or asyncio.

What the device SDK for C++ calls SecureTunnel (docs/protocol.md section 5). Owns a client's run,
from start to stop and again, and who gets its events. How a tunnel works is in
`tunnelfleet.actors`.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from concurrent.futures import Future
from functools import partial
from types import TracebackType
from typing import NoReturn, Self, Unpack

from tunnelfleet.actors.api.messages import (
    ApiEvent,
    ConnectionFailure,
    ConnectionSuccess,
    Message,
    SendFuture,
    SendQueueFull,
    Stopped,
)
from tunnelfleet.actors.api.outbox import Outbox
from tunnelfleet.actors.callbacks import CallbackStats
from tunnelfleet.actors.config import Limits
from tunnelfleet.actors.kernel import ForkGuard
from tunnelfleet.actors.tunnel.context import Credentials
from tunnelfleet.proto import Endpoint, HandshakeError, Mode, TunnelClosed, TunnelError
from tunnelfleet.runtime.runtime import TunnelRuntime
from tunnelfleet.runtime.tunnel import TunnelStatus

from .options import (
    CALLBACKS,
    ActorDelivery,
    EventStream,
    SecureTunnelOptions,
    callbacks_of,
    make_config,
)
from .sending import Sending, awaitable, call_soon, check_seconds, check_text, data_of


class _Run:
    """Everything that belongs to one start of a client."""

    def __init__(self, runtime: TunnelRuntime, *, owns_runtime: bool) -> None:
        self._runtime = runtime
        self.owns_runtime = owns_runtime
        self.outbox: Outbox
        self.started: SendFuture[tuple[str, ...]]
        self.stopped: SendFuture[None]
        self.stopping = False
        self.fork_guard = ForkGuard("the tunnel client")

    @property
    def runtime(self) -> TunnelRuntime:
        """The runtime that has the tunnel, also after a host's supervisor has made a new one."""
        return self._runtime.present


STOP_SECONDS = 30.0
"""How long leaving a `with` waits for the tunnel to stop."""
ALL_EVENTS = frozenset(CALLBACKS.values())
OWN_EVENTS: frozenset[type[ApiEvent]] = frozenset({ConnectionSuccess, ConnectionFailure, Stopped})
"""The events that a client needs for its own state."""


class SecureTunnel(Sending):
    """A tunnel client. Its options never change. All methods may be called from any thread.

    Made by a `SecureTunnelBuilder`, or at once with the same options by keyword:

        tunnel = SecureTunnel(token, "destination", endpoint, on_message_received=print_it)

    Args:
        access_token: the client access token of `mode`.
        mode: `"source"` or `"destination"`, or a `Mode`.
        endpoint: of the service: a host, `host:port`, or a `wss://` or `ws://` URL.
        **options: `client_token`: makes reconnecting possible, generated when it is not given;
            `root_ca`: PEM file of the authorities to trust; `tls_context`: instead of that;
            `http_proxy`: an `HttpProxy` or its URL; `bandwidth`: bytes a second to stay below;
            `version`: that a source speaks, V3 if not said; `services`: services of this tunnel
            that go to sockets, as in `TunnelConfig` (all others go to the callbacks); `limits`;
            `half_close`: a connection that the peer has ended in good order stays, to be sent on,
            until this side ends it: `InputEnded` says so, in place of `ConnectionReset` or
            `StreamStopped`; `marks`: False does not tell the kinds of end apart (docs/protocol.md
            section 3a); `pacing`: False does not find out by pings how fast to send; `name`: in the
            runtime, for logs and metrics; `runtime`: a running `TunnelRuntime` to share, else the
            client starts and stops one of its own; `events_to`: an actor that gets
            every event as a message, and holds back the tunnel when it is slow; `on_...`:
            callbacks, each called as `callback(tunnel, event)` on a thread of the runtime, in
            order.

    Raises:
        ConfigError: an option cannot work. The message says which, and what would.
    """

    def __init__(
        self,
        access_token: str,
        mode: Mode | str,
        endpoint: Endpoint | str,
        **options: Unpack[SecureTunnelOptions[SecureTunnel]],
    ) -> None:
        self._given_runtime = options.get("runtime")
        self._callbacks = callbacks_of(options)
        self._half_close = options.get("half_close", False)
        events_to = options.get("events_to")
        self._actor = None if events_to is None else ActorDelivery(events_to)
        self._config = make_config(access_token, mode, endpoint, options)
        self._streams: list[weakref.ref[EventStream]] = []
        self._lock = threading.Lock()
        self._run: _Run | None = None
        self._callback_stats = CallbackStats()

    def __repr__(self) -> str:
        run = self._run
        if run is not None and run.fork_guard.is_foreign:
            state = "running in another process"
        else:
            state = self.status().state if run is not None else "not started"
        return f"<SecureTunnel {self.name!r} {self.mode} {state}>"

    @property
    def name(self) -> str:
        """Its name in its runtime."""
        return self._config.name

    @property
    def mode(self) -> Mode:
        """Source or destination."""
        return self._config.mode

    @property
    def endpoint(self) -> Endpoint:
        """Where its service is."""
        return self._config.endpoint

    @property
    def limits(self) -> Limits:
        """Its bounds."""
        return self._config.limits

    @property
    def callback_stats(self) -> CallbackStats:
        """The counters of its callbacks since its last start, which go on counting."""
        return self._callback_stats

    # -- run

    def start(self) -> Future[tuple[str, ...]]:
        """Connect, and connect again whenever the connection is lost, until `stop`.

        Returns:
            A future of the tunnel's service ids, resolved at the first success. It raises
            `HandshakeError` when the service refuses the token: then nothing is tried again before
            `replace_token`. It raises `TunnelClosed` when the client is stopped before.

        Raises:
            TunnelError: it is started already, or its runtime does not run.
        """
        self._check_process()
        runtime = self._given_runtime
        with self._lock:
            if self._run is not None:
                raise TunnelError(f"tunnel {self.name!r} is started already: stop it first")
            run = _Run(
                runtime or TunnelRuntime(connect_concurrency=1), owns_runtime=runtime is None
            )
            try:
                self._open(run)
            except BaseException:
                self._run = None
                if run.owns_runtime:
                    run.runtime.stop()
                raise
        return run.started

    def _open(self, run: _Run) -> None:
        if run.owns_runtime:
            run.runtime.start()
        threads = run.runtime.callback_threads
        callback_queue = threads.queue(
            self.name, partial(self._deliver, run), self.limits.event_backlog_bytes
        )
        self._callback_stats = callback_queue.stats
        run.outbox = Outbox(self.name, self.limits, callback_queue, half_close=self._half_close)
        run.outbox.wanted = self._wanted()
        run.started, run.stopped = SendFuture(callback_queue), SendFuture(callback_queue)
        # From here on callbacks may come, and use the client.
        self._run = run
        run.runtime.open_tunnel(self._config, outbox=run.outbox)

    def stop(self) -> Future[None]:
        """Send what was accepted, break the connection, and become idle; does not wait.

        Returns:
            A future, resolved when everything is over and `on_stopped` has returned. Waiting for it
            in a callback of the same tunnel would wait for oneself.
        """
        self._check_process()
        with self._lock:
            run = self._run
            if run is None:
                done: Future[None] = Future()
                done.set_result(None)
                return done
            again, run.stopping = run.stopping, True
        if not again:
            run.outbox.close(TunnelClosed(f"tunnel {self.name!r} is stopped: start it first"))
            try:
                run.runtime.begin_close(self.name)
            except (KeyError, TunnelClosed):
                # Its runtime was stopped and has stopped the tunnel as well.
                run.outbox.finish(TunnelClosed("the tunnel is stopped"))
        return run.stopped

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        run = self._run
        # A forked child that leaves the block has nothing to stop.
        if run is None or not run.fork_guard.is_foreign:
            self.stop().result(STOP_SECONDS)

    def wait_connected(self, timeout_seconds: float) -> tuple[str, ...]:
        """Wait for the first connection after `start`; returns the tunnel's service ids.

        Raises:
            TimeoutError: not within the time; the text says what is in the way.
            HandshakeError: the service refused the token.
            TunnelClosed: it is not started, or was stopped.
        """
        check_seconds("wait_connected", timeout_seconds, may_be_none=False)
        run = self._running()
        try:
            return run.started.result(timeout_seconds)
        except TimeoutError:
            status = self.status()
            raise TimeoutError(
                f"tunnel {self.name!r} is not connected after {timeout_seconds:g} s: "
                f"it is {status.state} ({status.reason or status.last_event})"
            ) from None

    def status(self) -> TunnelStatus:
        """Return how the tunnel is now.

        Raises:
            TunnelClosed: it is not started.
        """
        try:
            return self._running().runtime.tunnel(self.name).status()
        except KeyError:
            self._raise_not_started()

    def replace_token(
        self, access_token: str, client_token: str | None = None
    ) -> Future[tuple[str, ...]]:
        """Use another access token, as after a rotation or a refusal; until it is stopped.

        Returns:
            A future, as `start` does, of the next success.

        Raises:
            ConfigError: a token is malformed.
            TunnelClosed: it is not started.
        """
        check_text("replace_token: access_token", access_token)
        if client_token is not None:
            check_text("replace_token: client_token", client_token)
        run = self._running()
        Credentials(access_token, client_token)
        with self._lock:
            if run.started.done():
                run.started = SendFuture(run.outbox.callback_queue)
        run.runtime.replace_token(self.name, access_token, client_token)
        return run.started

    def _running(self) -> _Run:
        run = self._run
        if run is None:
            self._raise_not_started()
        run.fork_guard.check()
        return run

    def _check_process(self) -> None:
        """Raise in a forked child, before taking any lock that a parent's thread may hold."""
        if self._run is not None:
            self._run.fork_guard.check()

    def _open_outbox(self) -> Outbox:
        return self._running().outbox

    def _raise_not_started(self) -> NoReturn:
        raise TunnelClosed(f"tunnel {self.name!r} is not started: call start() first")

    # -- asyncio

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await awaitable(self.stop())

    async def connected(self) -> tuple[str, ...]:
        """Do what `wait_connected` does, for asyncio."""
        return await awaitable(self._running().started)

    async def send(self, message: Message) -> None:
        """Send as `send_message` does, for asyncio: return once it is written, or raise."""
        future: SendFuture[None] = self._future()
        outbox = self._open_outbox()
        while True:
            try:
                outbox.submit([data_of(message, future)], 0.0)
                break
            except SendQueueFull:
                loop = asyncio.get_running_loop()
                room = asyncio.Event()
                outbox.when_room(partial(call_soon, loop, room.set))
                await room.wait()
        await awaitable(future)

    def events(self) -> EventStream:
        """Return all events from now on, for `async for`; make it before `start` to miss none.

        It ends after `Stopped`. Whoever does not take events holds the tunnel back.

        Raises:
            RuntimeError: no event loop is running.
        """
        stream = EventStream(asyncio.get_running_loop())
        with self._lock:
            self._streams = [each for each in self._streams if each() is not None]
            self._streams.append(weakref.ref(stream))
            if self._run is not None:
                self._run.outbox.wanted = self._wanted()
        return stream

    # -- events, on the threads of the runtime

    def _wanted(self) -> frozenset[type[ApiEvent]]:
        if self._actor is not None or self._streams:
            return ALL_EVENTS
        return OWN_EVENTS | frozenset(self._callbacks)

    def _deliver(self, run: _Run, event: ApiEvent) -> None:
        if isinstance(event, Stopped):
            self._on_stopped(run, event)
            return
        if isinstance(event, ConnectionSuccess):
            run.started.settle(None, event.service_ids)
        elif isinstance(event, ConnectionFailure):
            error = event.error
            if isinstance(error, HandshakeError) and not error.retryable:
                run.started.settle(error, None)
        self._tell_user(run, event)

    def _tell_user(self, run: _Run, event: ApiEvent) -> None:
        for reference in self._streams:
            stream = reference()
            if stream is not None:
                stream.put(event, run.outbox.callback_queue)
        try:
            callback = self._callbacks.get(type(event))
            if callback is not None:
                callback(self, event)
        finally:
            if self._actor is not None:
                self._actor(event)

    def _on_stopped(self, run: _Run, event: Stopped) -> None:
        with self._lock:
            self._run = None
        run.started.settle(TunnelClosed("the tunnel was stopped before it was connected"), None)
        try:
            self._tell_user(run, event)
        finally:
            if run.owns_runtime:
                # This thread belongs to the runtime, so it must not wait here.
                threading.Thread(
                    target=_end_runtime, args=(run,), name="tunnelfleet-stop", daemon=True
                ).start()
            else:
                run.stopped.settle(None, None)


def _end_runtime(run: _Run) -> None:
    try:
        run.runtime.stop()
    finally:
        run.stopped.settle(None, None)
