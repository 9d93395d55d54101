"""What watches over a service's applications: ListenerActor accepts them, StreamActor has sockets.

A listener hands accepted sockets to TunnelActor; while the tunnel cannot take them they wait in
the backlog, and after a grace time they are refused. A stream's actor starts, watches and ends the
SocketActors of its connections; bytes do not pass through it. Neither knows the wire.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import socket
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from pykka import ActorRef

from tunnelfleet.actors.addresses import Address, TcpAddress, UnixAddress
from tunnelfleet.actors.kernel import NORMAL, DispatchedActor, ExitReason, Terminated, Timer
from tunnelfleet.actors.kernel.actor import Handlers
from tunnelfleet.actors.net.dial import Lookups
from tunnelfleet.actors.net.name_lookup import LookUp, Resolved, SocketAddress, known_addresses
from tunnelfleet.actors.net.socket_io import (
    AcceptedSocket,
    abort_quietly,
    close_socket,
    is_exhausted,
    peer_of,
)
from tunnelfleet.actors.tunnel.messages import (
    Accepted,
    ConnectionKey,
    ListenerBound,
    LocalClosed,
    OpenLocal,
    SetAccepting,
    SocketsExhausted,
    StopStream,
)
from tunnelfleet.proto import TunnelError

from .socket_actor import SocketActor

if TYPE_CHECKING:
    from tunnelfleet.actors.config import Limits


class _GraceEnded(NamedTuple):
    """The tunnel has been away too long."""


class _RestEnded(NamedTuple):
    """Try to accept again."""


TURN_ACCEPTS = 64
"""Sockets accepted in one turn before other actors have theirs."""
EXHAUSTED_PAUSE_SECONDS = 1.0
"""How long accepting rests when the process has no file descriptor left."""


class ListenerActor(DispatchedActor):
    """Listens for one service.

    Args:
        service_id: the service, or `ANY_SERVICE`.
        address: where to listen; port 0 takes a free one.
        tunnel: the TunnelActor.
        limits: the tunnel's limits.
        bound: keeps the address of a service over restarts, so that a free port stays the same.
        lookups: of the runtime, for host names.
    """

    def __init__(
        self,
        service_id: str,
        address: Address,
        tunnel: ActorRef[Any],
        limits: Limits,
        bound: dict[str, Address],
        lookups: Lookups,
    ) -> None:
        super().__init__()
        self._service_id = service_id
        self._address = bound.get(service_id, address)
        self._tunnel = tunnel
        self._limits = limits
        self._bound = bound
        self._lookups = lookups
        self._sockets: list[socket.socket] = []
        self._lookup: LookUp | None = None
        self._accepting = False
        self._refusing = False
        self._reading = False
        self._grace: Timer | None = None

    def on_start(self) -> None:
        """Look up the address, bind and listen; what cannot be listened on ends the actor."""
        address = self._address
        addresses = known_addresses(address)
        if addresses is None and isinstance(address, TcpAddress):
            tunnel = self._tunnel.actor_urn
            lookup = self._lookups.names.look_up(address.host, address.port, tunnel)
            self._lookup = lookup
            self.pipe_to_self(lookup.outcome, lambda done: done.result())
        else:
            self._open(addresses or ())

    def _on_resolved(self, message: Resolved) -> None:
        self._lookup = None
        if message.error:
            self._fail(message.error)
        else:
            self._open(message.addresses)

    def _fail(self, reason: str) -> None:
        text = f"cannot listen on {self._address}: {reason}"
        self.exit(ExitReason.failed(TunnelError(text)))

    def _open(self, addresses: tuple[SocketAddress, ...]) -> None:
        try:
            self._sockets = _listen_on_all(addresses, self._limits.listen_backlog)
        except OSError as error:
            if is_exhausted(error):
                self._tell_exhausted("listen", error)
            self._fail(error.strerror or str(error))
            return
        address, *others = [_bound_address(sock, self._address) for sock in self._sockets]
        if isinstance(self._address, TcpAddress) and isinstance(address, TcpAddress):
            # The name, not one of its addresses: after a restart it is listened on at all again.
            self._address = TcpAddress(self._address.host, address.port)
        self._bound[self._service_id] = self._address
        self._tunnel.tell(ListenerBound(self._service_id, self.actor_ref, address, tuple(others)))
        self._start_grace()

    def _tell_exhausted(self, operation: str, error: OSError) -> None:
        self._lookups.exhaustion.note(f"{operation} at {self._address}", error)
        self._tunnel.tell(SocketsExhausted(operation))

    def on_receive(self, message: Any) -> Any:
        """Handle a change of mind of TunnelActor, or a timer."""
        if isinstance(message, SetAccepting):
            self._set_accepting(message.accepting)
        elif isinstance(message, Resolved):
            self._on_resolved(message)
        elif isinstance(message, _GraceEnded):
            self._refusing = True
            self._read_if_wanted()
        elif isinstance(message, _RestEnded):
            self._read_if_wanted()
        else:
            return super().on_receive(message)
        return None

    def _set_accepting(self, accepting: bool) -> None:
        if accepting == self._accepting:
            return
        self._accepting = accepting
        if accepting:
            self._refusing = False
            if self._grace is not None:
                self._grace.cancel()
        else:
            self._start_grace()
        self._read_if_wanted()

    def _start_grace(self) -> None:
        self._grace = self.schedule(self._limits.offline_grace_seconds, _GraceEnded())

    def _read_if_wanted(self) -> None:
        wanted = self._accepting or self._refusing
        if not self._sockets or wanted == self._reading:
            return
        self._reading = wanted
        for listener in self._sockets:
            if wanted:
                self.add_reader(listener, functools.partial(self._on_acceptable, listener))
            else:
                self.remove_reader(listener)

    def _on_acceptable(self, listener: socket.socket) -> None:
        for _ in range(TURN_ACCEPTS):
            try:
                sock, address = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if is_exhausted(error):
                    self._tell_exhausted("accept", error)
                    self._rest()
                    return
                continue
            if self._refusing or not self._tunnel.is_alive():
                abort_quietly(sock)
            else:
                peer, user = peer_of(sock, address)
                self._tunnel.tell(Accepted(self._service_id, AcceptedSocket(sock), peer, user))

    def _rest(self) -> None:
        self._reading = False
        for listener in self._sockets:
            self.remove_reader(listener)
        self.schedule(EXHAUSTED_PAUSE_SECONDS, _RestEnded())

    def _on_end(self, reason: ExitReason) -> None:
        """Close the listening sockets, however the actor ended."""
        super()._on_end(reason)
        if self._lookup is not None:
            self._lookup.give_up()
            self._lookup = None
        self._release()

    def _release(self) -> None:
        sockets, self._sockets = self._sockets, []
        for listener in sockets:
            close_socket(listener)
        if sockets and isinstance(self._address, UnixAddress):
            with contextlib.suppress(OSError):
                os.unlink(self._address.path)


FREE_PORT_ATTEMPTS = 16
"""Ports that are tried until one is free on each address of a name."""


def _listen_on_all(addresses: tuple[SocketAddress, ...], backlog: int) -> list[socket.socket]:
    """Listen on each of the addresses that this machine has, all with one port.

    Raises:
        OSError: it has none of them, or one is taken.
    """
    # IPv4 first: the first one is the address that people are shown where there is room for one.
    ordered = sorted(addresses, key=lambda each: each[0] == socket.AF_INET6)
    for attempt in range(FREE_PORT_ATTEMPTS):
        try:
            return _listen_once(ordered, backlog)
        except OSError as error:
            # A free port of the first address may be taken on another one.
            wants_free_port = len(ordered) > 1 and not ordered[0][1][1]
            is_last = attempt == FREE_PORT_ATTEMPTS - 1
            if error.errno != errno.EADDRINUSE or not wants_free_port or is_last:
                raise
    raise AssertionError


_NOT_HERE = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
"""An address of a name that this machine does not have: the others are listened on."""


def _listen_once(addresses: list[SocketAddress], backlog: int) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    missing = OSError(errno.EADDRNOTAVAIL, "it has no address")
    with contextlib.ExitStack() as opened:
        for family, target in addresses:
            where = target
            if sockets and not target[1]:
                where = (target[0], sockets[0].getsockname()[1], *target[2:])
            try:
                sock = _listen(family, where, backlog, is_alone=len(addresses) == 1)
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                missing = error
            else:
                sockets.append(opened.enter_context(sock))
        if not sockets:
            raise missing
        opened.pop_all()
    return sockets


def _listen(
    family: socket.AddressFamily, target: Any, backlog: int, *, is_alone: bool
) -> socket.socket:
    if family == socket.AF_UNIX:
        _remove_stale(target)
    sock = socket.socket(family, socket.SOCK_STREAM)
    if family != socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        if family == socket.AF_INET6 and not is_alone:
            # Else `::` would take the port of `0.0.0.0`, too.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(target)
        sock.listen(backlog)
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def _remove_stale(path: str) -> None:
    """Remove a socket that a former process left behind; one that still answers is in use."""
    if not os.path.exists(path) or not stat.S_ISSOCK(os.stat(path).st_mode):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        if probe.connect_ex(path) == errno.ECONNREFUSED:
            os.unlink(path)


def _bound_address(sock: socket.socket, address: Address) -> Address:
    if isinstance(address, UnixAddress):
        return address
    name = sock.getsockname()
    return TcpAddress(name[0], name[1])


class LocalEnd(NamedTuple):
    """What a stream's SocketActors need: `address` is None in source mode."""

    address: Address | None
    local_bind: str | None
    limits: Limits
    lookups: Lookups


class StreamActor(DispatchedActor):
    """One stream. It ends with its TunnelActor, whoever else knows of it.

    Args:
        tunnel: the TunnelActor.
        local_end: what its sockets connect to.
        start_socket: starts a SocketActor, with the arguments of one.
    """

    def __init__(
        self,
        tunnel: ActorRef[Any],
        local_end: LocalEnd,
        start_socket: Callable[..., ActorRef[Any]] = SocketActor.start,
    ) -> None:
        super().__init__()
        self._tunnel = tunnel
        self._local_end = local_end
        self._start_socket = start_socket
        self._keys: dict[ActorRef[Any], ConnectionKey] = {}
        """Of all its sockets, those of connections too that are over on the wire."""
        self._stopping = False

    def on_start(self) -> None:
        """Watch the TunnelActor.

        It tells the TransportSupervisor of this stream, and both may be killed before that is
        heard: then nobody else would ever end it.
        """
        self.watch(self._tunnel)

    def _open_local(self, message: OpenLocal) -> None:
        local = self._local_end
        key = message.key
        ref = self._start_socket(
            key,
            self.actor_ref,
            self._tunnel,
            local.limits,
            local.lookups,
            sock=message.accepted,
            address=local.address,
            local_bind=local.local_bind,
        )
        self._keys[ref] = key
        self.watch(ref)

    def _on_terminated(self, message: Terminated) -> None:
        if message.ref == self._tunnel:
            self.exit()
            return
        key = self._keys.pop(message.ref, None)
        if key is None:
            return
        reason = f"its actor failed: {message.reason}" if message.reason.is_failure else ""
        self._tunnel.tell(LocalClosed(key, reason, message.reason == NORMAL))
        self._exit_when_empty()

    def _stop_stream(self, _message: StopStream) -> None:
        self._stopping = True
        self._exit_when_empty()

    def _exit_when_empty(self) -> None:
        if self._stopping and not self._keys:
            self.exit()

    HANDLERS: ClassVar[Handlers] = {
        OpenLocal: _open_local,
        StopStream: _stop_stream,
        Terminated: _on_terminated,
    }
