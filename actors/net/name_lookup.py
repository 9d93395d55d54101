"""Host names become addresses, on threads of their own.

Owns the look-ups that run and wait, and who may run next. Nobody can interrupt a thread that waits
for a name server, so nothing here ever waits for one: whoever asked may give up at any time, and a
look-up that nobody wants any more is dropped unless it runs already. One that runs at the end of
the runtime is left behind. The same name asked twice is looked up once. Which look-up is next
follows the rule of `fair_slots`, with a tunnel for the group and a host for the member.

What has no need of a name server never comes here: numeric addresses and `localhost`.
"""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections import deque
from concurrent.futures import Future, InvalidStateError
from typing import Any, NamedTuple, TypeAlias

from tunnelfleet.actors.addresses import Address, UnixAddress

from .daemon_threads import DaemonThreads
from .fair_slots import FairSlots

SocketAddress: TypeAlias = tuple[socket.AddressFamily, Any]
_Name: TypeAlias = tuple[str, int]


class Resolved(NamedTuple):
    """A host name was looked up; `error` is set when it was not found."""

    addresses: tuple[SocketAddress, ...]
    error: str


LOCALHOST = ("::1", "127.0.0.1")
"""RFC 6761 section 6.3: always the loopback addresses, and no name server is asked."""


def known_addresses(address: Address) -> tuple[SocketAddress, ...] | None:
    """Return where to connect for an address that needs no look-up, else None."""
    if isinstance(address, UnixAddress):
        return ((socket.AF_UNIX, address.path),)
    if address.host.lower().rstrip(".") == "localhost":
        return tuple(found for host in LOCALHOST for found in _numeric(host, address.port))
    return _numeric(address.host, address.port) or None


_CLASSIC = re.compile(r"[0-9][0-9a-fA-FxX.]*")
"""May be an IPv4 address as inet_aton(3) takes it, such as 127.1."""


def _numeric(host: str, port: int) -> tuple[SocketAddress, ...]:
    try:
        if _CLASSIC.fullmatch(host):
            return ((socket.AF_INET, (socket.inet_ntoa(socket.inet_aton(host)), port)),)
        number, percent, scope_id = host.partition("%")
        packed = socket.inet_pton(socket.AF_INET6, number)
        scope = _scope(scope_id) if percent else 0
    except (ValueError, OSError):
        return ()
    return ((socket.AF_INET6, (socket.inet_ntop(socket.AF_INET6, packed), port, 0, scope)),)


MAX_SCOPE = 2**32 - 1
"""The largest scope of an IPv6 address: sin6_scope_id has 32 bits."""
MAX_SCOPE_DIGITS = len(str(MAX_SCOPE))


def _scope(text: str) -> int:
    if not text.isdecimal():
        return socket.if_nametoindex(text)
    number = int(text[:MAX_SCOPE_DIGITS])
    if len(text) > MAX_SCOPE_DIGITS or number > MAX_SCOPE:
        raise ValueError("no interface has such a number")
    return number


class LookUp:
    """One wish for the addresses of a name.

    Attributes:
        outcome: resolves to `Resolved`; never, once it was given up.
    """

    __slots__ = ("_lookups", "_name", "outcome")

    def __init__(self, lookups: NameLookups, name: _Name) -> None:
        self._lookups = lookups
        self._name = name
        self.outcome: Future[Resolved] = Future()

    def give_up(self) -> None:
        """Give the look-up up. This does nothing when it is over. Any thread."""
        self._lookups._give_up(self._name, self)  # noqa: SLF001 - it is a part of NameLookups
        # The query would otherwise keep who asked alive for as long as this object.
        self.outcome = Future()


class _Query:
    """A name and port that are looked up, or wait for it, and all who want to know."""

    __slots__ = ("askers", "group", "started_at")

    def __init__(self, group: str) -> None:
        self.group = group
        self.askers: list[LookUp] = []
        self.started_at: float | None = None


LOOKUP_THREADS = 6
"""How many look-ups run at once."""
LOOKUPS_PER_TUNNEL = 3
"""How many of these one tunnel may have."""
LOOKUPS_PER_NAME = 2
"""How many of these may be for one name with different ports."""
MAX_WAITING_LOOKUPS = 10_000
"""How many look-ups may wait. Further ones fail at once."""
SLOW_LOOKUP_SECONDS = 1.0
"""A name whose look-up took longer shares half of the threads with others like it."""


class NameLookups:
    """Looks up names for the tunnels of a runtime. Any thread.

    Args:
        threads: how many look-ups run at once.
    """

    def __init__(self, threads: int = LOOKUP_THREADS) -> None:
        self._pool = DaemonThreads(threads, "tunnelfleet-names")
        self._lock = threading.Lock()
        self._slots: FairSlots[_Name] = FairSlots(threads, LOOKUPS_PER_TUNNEL, SLOW_LOOKUP_SECONDS)
        self._queries: dict[_Name, _Query] = {}
        self._entered: dict[str, int] = {}
        """How many queries of a host run or wait in the slots' queue."""
        self._held_back: dict[str, deque[_Name]] = {}
        """The queries of a host beyond `LOOKUPS_PER_NAME`."""
        self._is_closed = False

    def look_up(self, host: str, port: int, tunnel: str) -> LookUp:
        """Begin to look up a name.

        Args:
            host: the name.
            port: it comes back in the addresses.
            tunnel: stands for the tunnel that asks; tunnels take turns.
        """
        name = (host, port)
        asker = LookUp(self, name)
        with self._lock:
            query = self._queries.get(name)
            if query is not None:
                query.askers.append(asker)
                return asker
            refusal = self._refusal()
            if not refusal:
                query = self._queries[name] = _Query(tunnel)
                query.askers.append(asker)
                self._enter_or_hold_back(name)
        if refusal:
            asker.outcome.set_result(Resolved((), f"cannot look up {host!r}: {refusal}"))
        else:
            self._run_next()
        return asker

    def close(self) -> None:
        """Look nothing up any more. Threads that wait for a name server are left behind."""
        with self._lock:
            self._is_closed = True
            self._queries.clear()
        self._pool.close(0.0)

    # With the lock held.

    def _refusal(self) -> str:
        """Return why no look-up is taken now, or an empty text."""
        if self._is_closed:
            return "the runtime has ended"
        if len(self._queries) >= MAX_WAITING_LOOKUPS:
            return f"{MAX_WAITING_LOOKUPS} other names wait"
        return ""

    def _enter_or_hold_back(self, name: _Name) -> None:
        host = name[0]
        if self._entered.get(host, 0) >= LOOKUPS_PER_NAME:
            self._held_back.setdefault(host, deque()).append(name)
        else:
            self._entered[host] = self._entered.get(host, 0) + 1
            self._slots.ask(name, self._queries[name].group, host)

    def _leave(self, name: _Name) -> None:
        """Note that a query of a host is over, and let the host's next one take its place."""
        host = name[0]
        self._entered[host] -= 1
        if not self._entered[host]:
            del self._entered[host]
        held_back = self._held_back.get(host)
        if held_back:
            self._enter_or_hold_back(held_back.popleft())
            if not held_back:
                del self._held_back[host]

    def _drop(self, name: _Name) -> None:
        """Forget a query that does not run."""
        del self._queries[name]
        held_back = self._held_back.get(name[0])
        if held_back is not None and name in held_back:
            held_back.remove(name)
            if not held_back:
                del self._held_back[name[0]]
        else:
            self._slots.give_back(name, time.monotonic(), succeeded=False)
            self._leave(name)

    # Without it.

    def _give_up(self, name: _Name, asker: LookUp) -> None:
        with self._lock:
            query = self._queries.get(name)
            if query is None or asker not in query.askers:
                return
            query.askers.remove(asker)
            if query.askers or query.started_at is not None:
                return
            self._drop(name)
        self._run_next()

    def _run_next(self) -> None:
        """Begin as many look-ups as may run."""
        while True:
            now = time.monotonic()
            with self._lock:
                name = None if self._is_closed else self._slots.take_next(now)
                if name is None:
                    return
                self._queries[name].started_at = now
            if not self._pool.submit(lambda name=name: self._run(name)):  # type: ignore[misc]
                self._finish(name, Resolved((), f"cannot look up {name[0]!r}: no thread for it"))

    def _run(self, name: _Name) -> None:
        resolved = Resolved((), f"cannot look up {name[0]!r}")
        try:
            resolved = _resolve(*name)
        finally:
            self._finish(name, resolved)
            self._run_next()

    def _finish(self, name: _Name, resolved: Resolved) -> None:
        now = time.monotonic()
        with self._lock:
            query = self._queries.pop(name, None)
            if query is None:
                # All is over.
                return
            assert query.started_at is not None
            was_quick = now - query.started_at <= SLOW_LOOKUP_SECONDS
            self._slots.give_back(name, now, succeeded=was_quick and not resolved.error)
            self._leave(name)
        for asker in query.askers:
            with contextlib.suppress(InvalidStateError):
                asker.outcome.set_result(resolved)


_getaddrinfo = socket.getaddrinfo


def _resolve(host: str, port: int) -> Resolved:
    # It is looked up in its module, where hosts and tests may put their own function. Python's own
    # loads 1 MB of tables to encode a text, even one in ASCII.
    is_pythons = socket.getaddrinfo is _getaddrinfo and host.isascii()
    try:
        found = socket.getaddrinfo(
            host.encode() if is_pythons else host, port, type=socket.SOCK_STREAM
        )
    except (OSError, UnicodeError) as error:
        text = getattr(error, "strerror", None) or error
        return Resolved((), f"cannot look up {host!r}: {text}")
    except Exception as error:  # noqa: BLE001 - a host's own resolver may raise anything
        return Resolved((), f"cannot look up {host!r}: {type(error).__name__}: {error}")
    addresses = dict.fromkeys((family, sockaddr) for family, _, _, _, sockaddr in found)
    return Resolved(tuple(addresses), "" if addresses else f"{host!r} has no address")
