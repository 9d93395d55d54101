"""The tunneling service that comes with tunnelfleet: AWS's data plane on one's own machine.

Owns the public class: its thread and event loop, the listener, TLS, and the way from any thread
onto that loop. How connections, tokens and tunnels behave is in the modules beside it.

It does not run on aiohttp's server, which cannot be made to obey docs/protocol.md sections 1 and 4:
``WebSocketResponse`` ends with a CLOSE that carries a status code, limits messages where the limit
is on frames, holds a fragmented message until it is whole, and sits on transports that read ahead
(see ``wire``). So sockets, the upgrade and WebSocket frames are handled here, on asyncio.

Above 400 lines because it is the whole public contract: half of it is docstrings and signatures.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, TypeVar

from tunnelfleet.actors.addresses import TcpAddress, is_loopback
from tunnelfleet.actors.kernel import ForkGuard
from tunnelfleet.actors.kernel.log import get_logger
from tunnelfleet.actors.kernel.loop_io import new_event_loop
from tunnelfleet.actors.kernel.moments import CLOCK
from tunnelfleet.actors.net.socket_io import close_socket
from tunnelfleet.actors.token_bucket import Throttle, kernel_buffer_bytes
from tunnelfleet.proto import CannotListen, ConfigError, Mode

from .client import Client, ServiceListener
from .controls import ServiceControls
from .events import ServiceEvent, ServiceEventKind, TunnelSnapshot
from .files import remove_leftovers
from .handshake import ClientAdmission
from .tls import CertificateReloads, ServerTls
from .tunnels import Origin, ServiceTunnels, checked_lifetime

if TYPE_CHECKING:
    from .events import ServiceStats
    from .handshake import FaultPlan
    from .relay import RelayedTunnel
    from .tls import ServerIdentity
    from .tokens import TunnelTokens
    from .tunnels import TunnelArchive

MAX_CLIENTS: Final = 25_000
"""Connections beyond this are closed as they come."""

COMMAND_SECONDS: Final = 10.0
"""How long a call from another thread waits for the service's thread."""

_log = get_logger(__name__)
_Result = TypeVar("_Result")


RENEW_CHECK_SECONDS = 3_600.0
"""How often one looks whether a made certificate runs out."""
CLOCK_SECONDS = 10.0
"""How often one looks whether the clock was set, and it runs out for that."""


class TunnelService(ServiceControls):
    """Pairs the sources and destinations of tunnels and relays between them.

    It runs on a thread of its own from ``start`` to ``stop``; every method may be called from
    any thread. Tunnels, and what their tokens were used for, outlive ``stop``, ``kill`` and
    ``restart``.

    Args:
        host: address to listen on.
        port: port to listen on; 0 picks a free one, which is then kept.
        tls: False serves plain ``ws``, on a loopback address only.
        certificate: PEM of a certificate to use; None makes one (see ``ca_path``).
        private_key: PEM of its key.
        state_dir: where a made certificate and its authority are kept; None uses a folder that goes
            with ``stop``.
        names: names and addresses to put into a made certificate, besides ``host``, loopback, and
            all addresses of this machine if it listens on all of them.
        bandwidth_bytes_per_second: limit of each direction of each tunnel; None is no limit.
        connects_per_second: how many clients may connect on average, others are refused with 429;
            None: as many as like.
        on_event: called with each event on the service's thread; it must not block.
        keeper: where tunnels, digests of their tokens and what those were used for are kept, so
            that they outlive the process too; None keeps them in memory.

    Raises:
        ConfigError: plain ``ws`` off loopback, a certificate without its key, names that are none
            or not for a made certificate, a bad bandwidth, what is kept cannot be read.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: bool = True,
        certificate: Path | None = None,
        private_key: Path | None = None,
        state_dir: Path | None = None,
        names: Sequence[str] = (),
        bandwidth_bytes_per_second: float | None = None,
        connects_per_second: float | None = None,
        on_event: Callable[[ServiceEvent], None] | None = None,
        keeper: TunnelArchive | None = None,
    ) -> None:
        if not tls and not is_loopback(host):
            raise ConfigError(
                f"plain ws is for loopback only, not {host}; listen on 127.0.0.1, or use TLS"
            )
        if bandwidth_bytes_per_second is not None:
            Throttle(bandwidth_bytes_per_second, 0.0)
        if connects_per_second is not None and not 0 < connects_per_second < float("inf"):
            raise ConfigError(
                f"connects_per_second takes more than 0, not {connects_per_second}; "
                "None is no limit"
            )
        self._host, self._port = host, port
        self._tls = ServerTls(
            host,
            enabled=tls,
            certificate=certificate,
            private_key=private_key,
            state_dir=state_dir,
            names=names,
        )
        self._reloads = CertificateReloads(self._tls)
        self._bandwidth = bandwidth_bytes_per_second
        self._observers = [] if on_event is None else [on_event]
        self._lock = threading.RLock()
        self._fork_guard: ForkGuard | None = None
        """Of the process in which it was started."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._listener: ServiceListener | None = None
        self._tunnels = ServiceTunnels(keeper, bandwidth_bytes_per_second, self._emit)
        self._clients: set[Client] = set()
        self._admission = ClientAdmission(
            self._tunnels.book.issued,
            self._tunnels.relayed,
            self._emit,
            self._clients.discard,
            connects_per_second,
        )

    # start and end

    def start(self) -> Self:
        """Listen and serve. Does nothing when running.

        Raises:
            ConfigError: the address cannot be listened on, the certificate cannot be used, or the
                process has no descriptors left.
        """
        self._check_process()
        with self._lock:
            if self._thread is not None:
                return self
            remove_leftovers()
            loop = _new_loop()
            try:
                self._tls.prepare()
                self._listener = self._open_listener()
            except BaseException:
                self._tls.forget()
                loop.close()
                raise
            self._port = self._listener.port
            self._fork_guard = ForkGuard("the tunneling service")
            self._loop = loop
            self._tunnels.begin(self._loop)
            self._listener.attach(self._loop)
            self._thread = threading.Thread(
                target=self._run, args=(self._loop,), name="tunnelfleet-service", daemon=True
            )
            self._thread.start()
        return self

    def stop(self, timeout_seconds: float = 5.0) -> None:
        """Close every connection and the listener, and end the thread. Does nothing when stopped.

        Args:
            timeout_seconds: how long to wait for the thread.

        Raises:
            TimeoutError: the thread did not end in time, because ``on_event`` blocks it.
        """
        self._halt("the service stopped", abort=False, timeout_seconds=timeout_seconds)
        with self._lock:
            if self._thread is None:
                self._tls.forget()

    def kill(self) -> None:
        """End as if the process were killed: every socket is reset at once, without a farewell."""
        self._halt("the service was killed", abort=True, timeout_seconds=COMMAND_SECONDS)

    def restart(self) -> None:
        """Kill the service and start it on the same port, with tunnels and tokens as they are."""
        self.kill()
        self.start()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._fork_guard is None or not self._fork_guard.is_foreign:
            self.stop()

    # where it is

    @property
    def endpoint(self) -> str:
        """The URL that clients connect to, such as ``wss://127.0.0.1:8443``.

        Of a service that listens on every address the first name that it was given, else the
        address of this machine's default route; what the certificate is for in any case.
        """
        return self.endpoints[0]

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Every URL that clients may connect to, the best first. Complete once it is started."""
        scheme = "wss" if self._tls.enabled else "ws"
        return tuple(f"{scheme}://{self._authority(host)}" for host in self._tls.hosts)

    @property
    def port(self) -> int:
        """The port; 0 before the first ``start`` when a free one is to be picked."""
        return self._port

    @property
    def ca_path(self) -> Path | None:
        """PEM to trust for a certificate the service made; None with a given one or without TLS."""
        return self._tls.ca_path

    @property
    def has_tls(self) -> bool:
        """Whether it serves wss."""
        return self._tls.enabled

    def server_context(self) -> ssl.SSLContext | None:
        """Return the context of handshakes from now on; None without TLS and before ``start``."""
        return self._tls.context

    def ssl_context(self) -> ssl.SSLContext:
        """Return a client's context that trusts this service. Only while it is running."""
        return self._tls.client_context()

    def check_certificate(self) -> None:
        """Read a given certificate now, to be told before ``start`` what is wrong with it.

        Raises:
            ConfigError: it cannot be used.
        """
        if self._tls.is_given:
            self._tls.prepare()

    def reload_certificate(self) -> None:
        """Take the given certificate and key anew from their files, without a restart.

        Handshakes from now on use them; connections that stand stay as they are. Of several calls
        at a time the last one counts. It waits for the files: ``on_event`` leaves it to a thread.

        Raises:
            ConfigError: no certificate was given, the files cannot be read in time, or what they
                hold cannot be used: the service goes on with what it has.
        """
        if not self._tls.is_given:
            raise ConfigError("no certificate was given; the service made the one it uses")
        self._check_process()
        number, identity = self._reloads.read()

        def use_it() -> None:
            if self._reloads.use(number, identity):
                self._tell(ServiceEventKind.CERTIFICATE_RELOADED, "", self._tls.describe())

        self._do(use_it)

    def _authority(self, host: str) -> str:
        return str(TcpAddress(host, self._port))

    # tunnels

    def open_tunnel(
        self,
        name: str,
        services: Sequence[str] = (),
        *,
        bandwidth_bytes_per_second: float | None = None,
        lifetime_seconds: float | None = None,
        origin: Origin = Origin.CALL,
    ) -> TunnelTokens:
        """Open a tunnel and return its tokens.

        Args:
            name: how it is called in this service.
            services: its service ids, announced to both clients; may be empty (V1).
            bandwidth_bytes_per_second: limit of each direction; None takes the service's.
            lifetime_seconds: after so long it is closed; None: never.
            origin: ``START`` for a tunnel that every start of the service opens. If it was kept,
                its clients keep their tokens beside the new ones until those are used.

        Raises:
            ConfigError: a name or service id is not usable, or the name is taken.
        """
        if bandwidth_bytes_per_second is not None:
            Throttle(bandwidth_bytes_per_second, 0.0)
        lifetime = checked_lifetime(lifetime_seconds)

        return self._change(
            lambda: self._tunnels.open(
                name,
                services,
                bandwidth_bytes_per_second=bandwidth_bytes_per_second,
                lifetime_seconds=lifetime,
                origin=origin,
            )
        )

    def close_tunnel(self, name: str) -> None:
        """Close a tunnel and disconnect its clients. Raises ConfigError if unknown."""
        self._change(lambda: self._tunnels.close(name, "the tunnel was closed"))

    def close_unclaimed(self) -> None:
        """Close the tunnels that a former start opened as its own and this one did not open."""
        self._change(self._tunnels.close_unclaimed)

    def rotate(
        self, name: str, mode: Mode | None = None, services: Sequence[str] | None = None
    ) -> TunnelTokens:
        """Revoke the token of a mode (None: both), disconnect its client, and issue a new one.

        Args:
            name: the tunnel.
            mode: whose token.
            services: give the tunnel these services. They are announced when a client connects, so
                the other side's client is disconnected too; its token stays good.

        Returns:
            The tunnel's tokens. That of the other mode is "" if it was issued before the service
            was started anew: only its client knows it.

        Raises:
            ConfigError: the tunnel is unknown, or a service id is not usable.
        """
        return self._change(lambda: self._tunnels.rotate(name, mode, services))

    def tokens(self, name: str) -> TunnelTokens:
        """Return a tunnel's current tokens.

        Raises:
            ConfigError: it is unknown, or its tokens were issued before a restart of the process.
        """
        return self._do(lambda: self._tunnels.book.issued.tokens(name))

    def tunnels(self) -> list[TunnelSnapshot]:
        """Return every open tunnel as it is now. Empty while the service is not running."""
        return self._do(lambda: [tunnel.snapshot() for tunnel in self._tunnels.relayed.values()])

    def tunnel(self, name: str) -> TunnelSnapshot:
        """Return an open tunnel as it is now.

        Raises:
            ConfigError: it is not open, or the service is not running.
        """
        return self._do(lambda: self._tunnel(name).snapshot())

    def open_names(self) -> list[str]:
        """Return the names of all open tunnels, whether or not the service is running."""
        return self._do(lambda: list(self._tunnels.book.issued))

    def stats(self) -> ServiceStats:
        """Return what the service has and did so far, in numbers."""
        return self._do(
            lambda: self._tunnels.stats.stats(
                [tunnel.snapshot() for tunnel in self._tunnels.relayed.values()], len(self._clients)
            )
        )

    def is_alive(self) -> Future[bool]:
        """Return a future that is done when the service's thread takes its turn."""
        alive: Future[bool] = Future()
        with self._lock:
            if self._loop is None:
                alive.set_result(False)
            else:
                self._loop.call_soon_threadsafe(_fulfil, alive, lambda: True)
        return alive

    def services(self, name: str) -> tuple[str, ...]:
        """Return an open tunnel's service ids. Raises ConfigError if it is not open."""
        return self._do(lambda: self._tunnels.book.issued.services(name))

    def _tunnel(self, name: str) -> RelayedTunnel:
        return self._tunnels.running(name)

    def _remember_bandwidth(self, name: str, bytes_per_second: float | None) -> None:
        self._tunnels.book.set_bandwidth(name, bytes_per_second)

    def _faults(self) -> FaultPlan:
        return self._admission.faults

    # the thread

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        self._renew_later(loop)
        try:
            loop.run_forever()
        finally:
            asyncio.set_event_loop(None)
            loop.close()

    def _renew_later(
        self, loop: asyncio.AbstractEventLoop, begun: tuple[float, float] | None = None
    ) -> None:
        """Look at the certificate in an hour, or soon after the clock was set.

        Args:
            loop: of the service.
            begun: the moment at which this wait began, and how far the clock was ahead then.
        """
        since, offset = begun = begun or (CLOCK.now(), CLOCK.offset)
        if CLOCK.offset != offset or CLOCK.now() >= since + RENEW_CHECK_SECONDS:
            self._renew_if_ageing(loop)
        else:
            pause = min(CLOCK_SECONDS, RENEW_CHECK_SECONDS)
            loop.call_later(pause, self._renew_later, loop, begun)

    def _renew_if_ageing(self, loop: asyncio.AbstractEventLoop) -> None:
        """Make a kept certificate anew before it has run out; handshakes from then on use it."""
        if not self._tls.is_ageing:
            self._renew_later(loop)
            return

        def renew() -> None:
            made: ServerIdentity | ConfigError
            try:
                made = self._tls.read()
            except ConfigError as error:
                made = error
            with contextlib.suppress(RuntimeError):  # the service has ended meanwhile
                loop.call_soon_threadsafe(self._renewed, loop, made)

        # Its folder may be locked by another process, and the relay must not wait for that.
        threading.Thread(target=renew, name="tunnelfleet-renewal", daemon=True).start()

    def _renewed(self, loop: asyncio.AbstractEventLoop, made: ServerIdentity | ConfigError) -> None:
        if isinstance(made, ConfigError):
            self._tell(ServiceEventKind.CERTIFICATE_REFUSED, "", str(made))
        else:
            self._tls.use(made)
            self._tell(ServiceEventKind.CERTIFICATE_RELOADED, "", self._tls.describe())
        self._renew_later(loop)

    def _do(self, work: Callable[[], _Result]) -> _Result:
        """Do something to the service's state: on its thread while it runs, else here.

        Raises:
            TimeoutError: the service's thread is held up by ``on_event``.
            ForkedProcessError: it runs in the process that this one was forked from.
        """
        self._check_process()
        if self._thread is threading.current_thread():
            return work()  # from on_event; the lock may be held by who waits for this thread
        with self._lock:
            loop = self._loop
            if loop is None:
                return work()
            future: Future[_Result] = Future()
            loop.call_soon_threadsafe(_fulfil, future, work)
        return future.result(COMMAND_SECONDS)

    def _change(self, work: Callable[[], _Result]) -> _Result:
        """Do something, and return when it is kept.

        Raises:
            StateError: it is not kept in time; it is done, and kept as soon as it can be.
        """
        result = self._do(work)
        if self._thread is not threading.current_thread():
            self._tunnels.book.flush()
        return result

    def _check_process(self) -> None:
        # Before the lock, which a thread that is not in this process may hold.
        if self._fork_guard is not None:
            self._fork_guard.check()

    def _halt(self, reason: str, *, abort: bool, timeout_seconds: float) -> None:
        self._check_process()
        if self._thread is threading.current_thread():
            raise RuntimeError("on_event must not stop the service; do it from another thread")
        with self._lock:
            thread, loop = self._thread, self._loop
            if thread is None or loop is None:
                return
            loop.call_soon_threadsafe(self._end_all, reason, abort)
            thread.join(timeout_seconds)
            if thread.is_alive():
                raise TimeoutError("the service's thread does not end; does on_event block?")
            self._thread = self._loop = self._fork_guard = None
            self._tunnels.end()

    def _end_all(self, reason: str, abort: bool) -> None:
        assert self._loop is not None
        self._tunnels.pause()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for client in list(self._clients):
            if abort:
                client.wire.abort(reason)
            else:
                client.wire.close(reason)
        self._loop.call_soon(self._loop.stop)

    # connections

    def _open_listener(self) -> ServiceListener:
        bandwidth = self._bandwidth
        size = None if bandwidth is None else kernel_buffer_bytes(bandwidth)
        try:
            return ServiceListener(
                self._host, self._port, self._receive, buffer_bytes=size, has_room=self._has_room
            )
        except OSError as error:
            raise CannotListen("the service", self._authority(self._host), error) from error

    def _has_room(self) -> bool:
        assert self._loop is not None
        return self._admission.has_room(self._loop.time())

    def _receive(self, sock: socket.socket) -> None:
        assert self._loop is not None
        if len(self._clients) >= MAX_CLIENTS:
            close_socket(sock)
            return
        channel_id = uuid.uuid4().hex
        try:
            client = Client(sock, self._loop, self._tls.context, self._admission, channel_id)
        except OSError:
            close_socket(sock)  # gone before its turn
            return
        self._clients.add(client)
        self._admission.arrived(client, self._loop.time())

    # events

    def subscribe(self, observer: Callable[[ServiceEvent], None]) -> None:
        """Call this with each event too, on the service's thread; it must not block."""
        self._do(lambda: self._observers.append(observer))

    def _tell(
        self, kind: ServiceEventKind, name: str, detail: str = "", mode: Mode | None = None
    ) -> None:
        self._emit(ServiceEvent(kind, name, mode, detail))

    def _emit(self, event: ServiceEvent) -> None:
        """Deliver later on the loop, so that an observer may call the service."""
        self._tunnels.stats.note(event)
        if not self._observers:
            return
        event = event.made_printable()
        if self._loop is None:
            self._deliver(event)
        else:
            self._loop.call_soon(self._deliver, event)

    def _deliver(self, event: ServiceEvent) -> None:
        for observer in self._observers:
            try:
                observer(event)
            except Exception:  # noqa: BLE001 (a user's callback must not end the service)
                _log.exception("on_event failed for %s", event.kind)


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        return new_event_loop()
    except OSError as error:
        why = error.strerror or str(error)
        raise ConfigError(
            f"the service cannot start: {why}; raise the limit of open files"
        ) from error


def _fulfil(future: Future[_Result], work: Callable[[], _Result]) -> None:
    try:
        future.set_result(work())
    except Exception as error:  # noqa: BLE001 (raised again in the caller's thread)
        future.set_exception(error)
