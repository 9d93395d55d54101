"""ListenerActor: one listening socket of a source.

It accepts local applications and hands their sockets to TunnelActor. While the tunnel cannot take
them they wait in the backlog; after a grace time they are refused, so that nobody waits for ever.
It knows its service id and nothing of streams.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tunnelfleet.proto import TunnelError

from .config import TcpAddress, UnixAddress
from .connector import Resolved, resolve_numeric
from .kernel import DispatchedActor, ExitReason
from .messages import Accepted, ListenerBound, SetAccepting
from .socket_io import abort_quietly, close_quietly

if TYPE_CHECKING:
    from pykka import ActorRef

    from .config import Address, Limits
    from .connector import Connector, SocketAddress
    from .kernel import Timer

__all__ = ["ListenerActor"]

TURN_ACCEPTS = 64
"""Sockets accepted in one turn before other actors have theirs."""
EXHAUSTED_PAUSE_SECONDS = 1.0
"""How long accepting rests when the process has no file descriptor left."""


class _GraceEnded(NamedTuple):
    """The tunnel has been away too long."""


class _RestEnded(NamedTuple):
    """Try to accept again."""


class ListenerActor(DispatchedActor):
    """Listens for one service.

    Args:
        service_id: the service, or `ANY_SERVICE`.
        address: where to listen; port 0 takes a free one.
        tunnel: the TunnelActor.
        limits: the tunnel's limits.
        bound: keeps the address of a service over restarts, so that a free port stays the same.
        connector: looks up host names.
    """

    def __init__(
        self,
        service_id: str,
        address: Address,
        tunnel: ActorRef[Any],
        limits: Limits,
        bound: dict[str, Address],
        connector: Connector,
    ) -> None:
        super().__init__()
        self._service_id = service_id
        self._address = bound.get(service_id, address)
        self._tunnel = tunnel
        self._limits = limits
        self._bound = bound
        self._connector = connector
        self._socket: socket.socket | None = None
        self._accepting = False
        self._refusing = False
        self._listening = False
        self._grace: Timer | None = None

    def on_start(self) -> None:
        """Look up the address, bind and listen; what cannot be listened on ends the actor."""
        addresses = resolve_numeric(self._address)
        if addresses is None and isinstance(self._address, TcpAddress):
            self.pipe_to_self(self._connector.resolve(self._address), lambda done: done.result())
        else:
            self._open(addresses or ())

    def _on_resolved(self, message: Resolved) -> None:
        if message.error:
            self._fail(message.error)
        else:
            self._open(message.addresses)

    def _fail(self, reason: str) -> None:
        text = f"cannot listen on {self._address}: {reason}"
        self.exit(ExitReason.failed(TunnelError(text)))

    def _open(self, addresses: tuple[SocketAddress, ...]) -> None:
        family, target = addresses[0]
        try:
            self._socket = _listen(family, target, self._limits.listen_backlog)
        except OSError as error:
            self._fail(error.strerror or str(error))
            return
        self._bound[self._service_id] = _bound_address(self._socket, self._address)
        self._tunnel.tell(
            ListenerBound(self._service_id, self.actor_ref, self._bound[self._service_id])
        )
        self._start_grace()

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
        if self._socket is None or wanted == self._listening:
            return
        self._listening = wanted
        if wanted:
            self.add_reader(self._socket, self._on_acceptable)
        else:
            self.remove_reader(self._socket)

    def _on_acceptable(self) -> None:
        assert self._socket is not None
        for _ in range(TURN_ACCEPTS):
            try:
                sock, _peer = self._socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._rest()
                    return
                continue
            if self._refusing or not self._tunnel.is_alive():
                abort_quietly(sock)
            else:
                self._tunnel.tell(Accepted(self._service_id, sock))

    def _rest(self) -> None:
        assert self._socket is not None
        self._listening = False
        self.remove_reader(self._socket)
        self.schedule(EXHAUSTED_PAUSE_SECONDS, _RestEnded())

    def _on_end(self, reason: ExitReason) -> None:
        """Close the listening socket, however the actor ended."""
        super()._on_end(reason)
        self._release()

    def _release(self) -> None:
        if self._socket is None:
            return
        close_quietly(self._socket)
        self._socket = None
        if isinstance(self._address, UnixAddress):
            with contextlib.suppress(OSError):
                Path(self._address.path).unlink()


def _listen(family: socket.AddressFamily, target: Any, backlog: int) -> socket.socket:
    if family == socket.AF_UNIX:
        _remove_stale(Path(target))
    sock = socket.socket(family, socket.SOCK_STREAM)
    if family != socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(target)
        sock.listen(backlog)
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def _remove_stale(path: Path) -> None:
    """Remove a socket that a former process left behind; one that still answers is in use."""
    if not path.exists() or not stat.S_ISSOCK(path.stat().st_mode):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        if probe.connect_ex(str(path)) == errno.ECONNREFUSED:
            path.unlink()


def _bound_address(sock: socket.socket, address: Address) -> Address:
    if isinstance(address, UnixAddress):
        return address
    name = sock.getsockname()
    return TcpAddress(name[0], name[1])
