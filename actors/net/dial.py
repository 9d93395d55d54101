"""Dial: from an address to a connected socket, without blocking.

Owns the look-up of the name, the sockets that are being connected, and which address is tried when
(RFC 8305, "happy eyeballs"): the families take turns, and while an address does not answer the next
one is tried beside it. It is a part of the actor that dials, and runs in that actor's turns. It
knows no deadline, which is its owner's, and neither tunnels nor what the socket is for.
"""

from __future__ import annotations

import errno
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

from tunnelfleet.actors.addresses import Address, TcpAddress
from tunnelfleet.actors.kernel import DispatchedActor, Timer

from .name_lookup import LookUp, NameLookups, Resolved, SocketAddress, known_addresses
from .socket_io import EXHAUSTED, ExhaustionLog, abort_quietly, close_socket


class Lookups(Protocol):
    """What all dials and listeners of a runtime share; it outlives them.

    Attributes:
        names: looks up host names.
        exhaustion: logs that no socket is left.
    """

    names: NameLookups
    exhaustion: ExhaustionLog


class DialStep(NamedTuple):
    """A message of a dial to its own actor, which calls `run()` when it gets it."""

    method: Callable[..., None]
    arguments: tuple[Any, ...]

    def run(self) -> None:
        """Take the step."""
        self.method(*self.arguments)


class DialFailed(NamedTuple):
    """Nothing could be connected to.

    Attributes:
        reason: of the last address, for people.
        is_exhausted: the process or the system had no socket to give.
    """

    reason: str
    is_exhausted: bool = False


NO_ROOM_SECONDS = 0.05
"""How often a Unix socket is tried whose application has not accepted those in front."""
MAX_ADDRESSES = 16
"""How many addresses of a name are tried."""


class Dial:
    """One attempt to connect to an address.

    Args:
        actor: whose turns it runs in; it passes on each `DialStep` that it gets.
        lookups: of the runtime.
        address: where to connect.
        tunnel: stands for the tunnel that asks; look-ups are fair over tunnels.
        next_address_after_seconds: how long an address has before the next is tried beside it.
        local_bind: source address or host of an IP connection, or None.
        on_open: called with the connected socket, which does not block and is the callee's from
            then on.
        on_failed: called instead when there is nothing left to try.

    `prepare` looks up the name and does no more; `start` looks it up if that was not done.
    """

    __slots__ = (
        "_actor",
        "_address",
        "_addresses",
        "_candidates",
        "_delay_seconds",
        "_failure",
        "_local_bind",
        "_lookup",
        "_lookups",
        "_on_failed",
        "_on_open",
        "_pending",
        "_serial",
        "_sources",
        "_timer",
        "_tunnel",
        "phase",
    )

    def __init__(
        self,
        actor: DispatchedActor,
        lookups: Lookups,
        address: Address,
        *,
        tunnel: str,
        next_address_after_seconds: float,
        on_open: Callable[[socket.socket], None],
        on_failed: Callable[[DialFailed], None],
        local_bind: str | None = None,
    ) -> None:
        self._actor = actor
        self._lookups = lookups
        self._address = address
        self._tunnel = tunnel
        self._delay_seconds = next_address_after_seconds
        self._local_bind = local_bind if isinstance(address, TcpAddress) else None
        self._on_open: Callable[[socket.socket], None] | None = on_open
        self._on_failed: Callable[[DialFailed], None] | None = on_failed
        self._lookup: LookUp | None = None
        self._serial = 0
        """The number of the look-up. An answer to an earlier one is ignored."""
        self._sources: tuple[SocketAddress, ...] = ()
        self._addresses: tuple[SocketAddress, ...] | None = None
        self._candidates: deque[SocketAddress] = deque()
        self._pending: dict[socket.socket, None] = {}
        self._timer: Timer | None = None
        self._failure = DialFailed("no address")
        self.phase = "looking up the name"
        """What the dial is doing, in words for people."""

    def prepare(self, on_ready: Callable[[], None]) -> None:
        """Look up the name of the address, and call `on_ready`, perhaps before this returns.

        If the name is not found, `on_failed` is called instead.
        """

        def keep(addresses: tuple[SocketAddress, ...]) -> None:
            self._addresses = addresses
            self.phase = "waiting"
            on_ready()

        self._resolve(self._address, keep)

    def forget_addresses(self) -> None:
        """Look the name up anew in `start`: what `prepare` found is too old."""
        self._addresses = None

    def start(self) -> None:
        """Begin. The callbacks may be called before this returns."""
        if self._local_bind is None:
            self._take_sources(())
        else:
            self._resolve(TcpAddress(self._local_bind, 0), self._take_sources)

    def cancel(self) -> None:
        """Give up: no callback is called any more. Harmless when it is over.

        What the kernel has connected meanwhile is reset: an application there must not take it for
        a connection that came, and ended in good order without a byte.
        """
        # The dial must not keep its actor alive, since actors are freed by reference count.
        self._on_open = self._on_failed = None
        self._serial += 1
        if self._lookup is not None:
            self._lookup.give_up()
            self._lookup = None
        self._candidates.clear()
        self._end_timer()
        for sock in self._pending:
            self._actor.remove_writer(sock)
            abort_quietly(sock)
        self._pending.clear()

    # -- names

    def _resolve(self, address: Address, then: Callable[[tuple[SocketAddress, ...]], None]) -> None:
        found = known_addresses(address)
        if found is not None:
            then(found)
            return
        assert isinstance(address, TcpAddress)
        self.phase = f"looking up {address.host}"
        self._serial += 1
        serial = self._serial
        lookup = self._lookups.names.look_up(address.host, address.port, self._tunnel)
        self._lookup = lookup
        self._actor.pipe_to_self(
            lookup.outcome,
            lambda outcome: DialStep(self._on_resolved, (serial, outcome.result(), then)),
        )

    def _on_resolved(
        self,
        serial: int,
        resolved: Resolved,
        then: Callable[[tuple[SocketAddress, ...]], None],
    ) -> None:
        if serial != self._serial:
            return
        self._lookup = None
        if resolved.error:
            self._fail(DialFailed(resolved.error))
        else:
            then(resolved.addresses)

    def _take_sources(self, sources: tuple[SocketAddress, ...]) -> None:
        self._sources = sources
        if self._addresses is not None:
            self._begin(self._addresses)
        else:
            self._resolve(self._address, self._begin)

    # -- addresses

    def _begin(self, addresses: tuple[SocketAddress, ...]) -> None:
        self.phase = "TCP connect"
        self._candidates.extend(list(interleave(addresses))[:MAX_ADDRESSES])
        self._try_next()

    def _try_next(self) -> None:
        """Try the next address that does not fail at once."""
        self._end_timer()
        while self._candidates:
            pending = len(self._pending)
            sock = self._connect(*self._candidates.popleft())
            if sock is not None:
                self._open(sock)
                return
            if self._timer is not None:
                # There is no room yet.
                return
            if len(self._pending) > pending:
                if self._candidates:
                    step = DialStep(self._on_delay_over, ())
                    self._timer = self._actor.schedule(self._delay_seconds, step)
                return
        if not self._pending:
            self._fail(self._failure)

    def _on_delay_over(self) -> None:
        self._timer = None
        self._try_next()

    def _connect(self, family: socket.AddressFamily, target: Any) -> socket.socket | None:
        """Begin to connect; return the socket if it is connected already."""
        sock: socket.socket | None = None
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
            sock.setblocking(False)
            self._bind(sock, family)
            code = sock.connect_ex(target)
            if code == errno.EINPROGRESS:
                self._actor.add_writer(sock, lambda sock=sock: self._on_progress(sock))  # type: ignore[misc]
                self._pending[sock] = None
                return None
        except OSError as error:
            code = error.errno or errno.EIO
        if code == errno.EAGAIN and family == socket.AF_UNIX:
            # Its application has not accepted those in front: connect(2) would wait, if it blocked.
            self._candidates.appendleft((family, target))
            self._timer = self._actor.schedule(NO_ROOM_SECONDS, DialStep(self._on_delay_over, ()))
        elif sock is not None and code in (0, errno.EISCONN):
            return sock
        else:
            self._note_failure(code)
        if sock is not None:
            close_socket(sock)
        return None

    def _bind(self, sock: socket.socket, family: socket.AddressFamily) -> None:
        if self._local_bind is None:
            return
        for source_family, source in self._sources:
            if source_family == family:
                sock.bind(source)
                return
        raise OSError(errno.EADDRNOTAVAIL, f"{self._local_bind} is of another family")

    def _note_failure(self, code: int) -> None:
        is_exhausted = code in EXHAUSTED
        self._failure = DialFailed(os.strerror(code), is_exhausted)
        if is_exhausted:
            error = OSError(code, os.strerror(code))
            self._lookups.exhaustion.note(f"connecting to {self._address}", error)

    def _on_progress(self, sock: socket.socket) -> None:
        del self._pending[sock]
        self._actor.remove_writer(sock)
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code == 0:
            self._open(sock)
            return
        close_socket(sock)
        self._note_failure(code)
        self._try_next()

    def _open(self, sock: socket.socket) -> None:
        """The first socket that is connected wins; the others are closed."""
        on_open = self._on_open
        self.cancel()
        assert on_open is not None
        on_open(sock)

    def _fail(self, failed: DialFailed) -> None:
        on_failed = self._on_failed
        self.cancel()
        assert on_failed is not None
        on_failed(failed)

    def _end_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def interleave(addresses: Iterable[SocketAddress]) -> list[SocketAddress]:
    """The addresses in the order of RFC 8305 section 4: families take turns, the first one first.

    Within a family their order stays.
    """
    families: dict[socket.AddressFamily, deque[SocketAddress]] = {}
    for address in addresses:
        families.setdefault(address[0], deque()).append(address)
    ordered: list[SocketAddress] = []
    while families:
        for family in list(families):
            ordered.append(families[family].popleft())
            if not families[family]:
                del families[family]
    return ordered
