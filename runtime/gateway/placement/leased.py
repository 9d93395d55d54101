"""Gateways that share a fleet by leases: the shell around the protocol in `lease`.

Owns one thread, which asks the store of the leases what is due, hears what others tell, and carries
the protocol's actions out: connects are suspended and allowed, the fleet of this gateway is told
its shards. What other threads bring about (a stop, tunnels that have ended) waits in an inbox. What
is to be seen of the fleet can be read by any thread at any time. Which store it is, PostgreSQL or
the directory of a Ray cluster, is for whoever makes it to say.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
from collections import deque
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from tunnelfleet.actors.kernel.moments import boot_seconds
from tunnelfleet.proto import ConfigError, printable
from tunnelfleet.runtime.gateway.store.tunnels import TUNNEL_CHANGED

from .lease import (
    NOT_JOINED,
    Lease,
    LeaseAnswer,
    LeasePhase,
    LeaseTimes,
    Resume,
    Share,
    Suspend,
    TellFleet,
)
from .metrics import PlacementCounters, placement_metrics
from .shards import SHARDS, Assigned, Revoked, shard_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from prometheus_client import Metric

    from .lease import Action, LeaseRequest
    from .members import FleetTable
    from .shards import Member


GOODBYE_SECONDS = 3.0
"""What the end may take; a store that is away is left with a lease that runs out."""
MAX_CAUSE_CHARACTERS = 300
MAX_WAKE_BYTES = 4_096
"""Read at once of the pipe that wakes the thread."""
MAX_VERSION_DIGITS = 18
"""Of the number of a change: what is longer is none that the store counts."""
MILLISECONDS = 1_000
FAILED = "the thread of the lease has failed"

logger = logging.getLogger(__name__)


class MayConnect(Protocol):
    """What may connect: a `TunnelRuntime`. Nothing of it waits."""

    def suspend_connects(self, reason: str) -> None:
        """Let nobody connect."""

    def resume_connects(self, valid_seconds: float | None = None) -> None:
        """Let them connect, for so long."""

    def change_connect_rate(self, rate_per_second: float) -> None:
        """Let so many connect in a second."""


class LeaseStore(Protocol):
    """Where the leases of a fleet are kept. Asked by one thread, but for `cut`."""

    address: str | None
    """Where other gateways reach this one; goes with the next heartbeat."""

    @property
    def descriptor(self) -> int | None:
        """Becomes readable when there is something to hear; None for nothing of the kind."""

    def do(self, request: LeaseRequest) -> LeaseAnswer:
        """Carry a request out. Waits.

        Raises:
            OSError: nobody knows whether it was done. Any other exception counts as this one, and
                its traceback is logged.
            ConfigError: this gateway may not take part.
        """

    def hear(self) -> None:
        """Take what others have told, without waiting.

        Raises:
            OSError: the connection has ended.
        """

    def close(self) -> None:
        """Let go of the connection; the next request makes another."""

    def cut(self) -> None:
        """End a request that takes too long; from any thread. It raises where it was asked."""


class FollowsTunnels(Protocol):
    """Who follows the tunnels that were added at run time. Nothing of it waits."""

    def tunnels_are_at(self, version: int) -> None:
        """A heartbeat was answered: there were so many changes of tunnels so far."""

    def tunnel_changed(self, version: int, name: str) -> None:
        """The change of this number was of this tunnel."""

    def shards_assigned(self, shards: frozenset[int]) -> None:
        """These shards are this gateway's."""

    def shards_gone(self, shards: frozenset[int]) -> None:
        """Nothing of these shards, which were revoked, runs here any more."""


class _Order(Enum):
    """What other threads ask of the one here."""

    LEAVE = "leave"
    STOP = "stop"
    TELL_ANEW = "tell anew"


class _Seen(NamedTuple):
    """What other threads may look at, as of one moment."""

    table: FleetTable | None = None
    at: float = 0.0
    """When the store told it, by this machine's clock."""
    confirmed_at: float = float("-inf")
    valid_until: float = float("-inf")
    owned: int = 0
    phase: LeasePhase = LeasePhase.OUT
    trouble: str = ""


class _RequestEnd(NamedTuple):
    """What became of a request."""

    answer: LeaseAnswer
    trouble: str = ""
    mistake: Exception | None = None
    """What nobody has foreseen, for the log."""


class LeasedPlacement:
    """An engine of placement: which shards of a fleet this gateway has.

    A mistake of ours on the way suspends connects and is told in `trouble`; the thread goes on
    after the time that a store has that is away.

    Args:
        store: of the leases.
        kind: of the store, for people, as in the key `placement`.
        name: of the gateway, unique in the fleet.
        connects: whose connects need the lease.
        connect_rate: connects a second of the whole fleet.
        times: how long a lease holds that is not renewed.
        shards: into how many the fleet is cut.
        listener: told what follows for the tunnels that were added at run time.
    """

    def __init__(
        self,
        store: LeaseStore,
        *,
        kind: str,
        name: str,
        connects: MayConnect,
        connect_rate: float,
        times: LeaseTimes,
        shards: int = SHARDS,
        listener: FollowsTunnels | None = None,
    ) -> None:
        self._store = store
        self._kind = kind
        self._times = times
        self._connects = connects
        self._connect_rate = connect_rate
        self._shards = shards
        self._listener = listener
        self._lease = Lease(name, self._times)
        self._tell: Callable[[Assigned | Revoked], None] = lambda _message: None
        self._inbox: deque[_Order | frozenset[int]] = deque()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="tunnelfleet-lease", daemon=True)
        self._asked_at: float | None = None
        self._ends_at: float | None = None
        self._stop_is_asked = threading.Event()
        """Ends a pause after a mistake, so that the order to stop is taken."""
        self._mistakes = 0
        """Of ours, in a row."""
        self._is_in_doubt = False
        """Whether the fleet may have missed something that the lease has said."""
        self._logged = ""
        """The kind of trouble that was logged last; empty after all was well."""
        self._seen = _Seen()
        self.counters = PlacementCounters()

    # -- as an engine

    def start(self, tell: Callable[[Assigned | Revoked], None]) -> None:
        """Join the fleet, or tell anew what is assigned."""
        self._tell = tell
        if self._thread.ident is not None:
            self._order(_Order.TELL_ANEW)
            return
        self._connects.suspend_connects(NOT_JOINED)
        self._thread.start()

    def vacated(self, shards: frozenset[int]) -> None:
        """The tunnels of these shards have ended here."""
        self._order(shards)
        if self._listener is not None:
            self._listener.shards_gone(shards)

    def leave(self) -> None:
        """Hand over all shards."""
        self._order(_Order.LEAVE)

    def stop(self) -> None:
        """Leave the fleet at once, whatever still runs: it connects no more."""
        self._connects.suspend_connects("the gateway is being stopped")
        self._stop_is_asked.set()
        self._order(_Order.STOP)

    def close(self) -> None:
        """Wait for the end of the thread."""
        if self._thread.ident is not None:
            self._thread.join(GOODBYE_SECONDS)
            if self._thread.is_alive():
                self._store.cut()
                self._thread.join(GOODBYE_SECONDS)
            if self._thread.is_alive():
                # It still waits on them.
                return
        for descriptor in (self._wake_read, self._wake_write):
            if descriptor >= 0:
                os.close(descriptor)
        self._wake_read = self._wake_write = -1

    def look(self) -> None:
        """Cut off a request that the store does not answer; to be called each second."""
        asked_at = self._asked_at
        if asked_at is not None and boot_seconds() - asked_at > self._times.request_seconds:
            self._store.cut()

    def _order(self, wish: _Order | frozenset[int]) -> None:
        self._inbox.append(wish)
        if self._wake_write >= 0:
            # Where it would wait, the thread is woken already.
            with contextlib.suppress(BlockingIOError):
                os.write(self._wake_write, b"\0")

    # -- looking, from any thread

    def announce(self, address: str | None) -> None:
        """Tell the others where this gateway is reached, with the next heartbeat."""
        self._store.address = address

    def members(self) -> tuple[Member, ...]:
        """The gateways of the fleet, sorted by name; nobody while the store was not reached."""
        seen = self._seen
        return () if seen.table is None else seen.table.as_members(boot_seconds() - seen.at)

    def owner(self, name: str) -> Member | None:
        """The gateway that has the shard of a tunnel of this name; None for nobody."""
        table = self._seen.table
        if table is None:
            return None
        found = table.owners[shard_of(name, self._shards)]
        if found is None:
            return None
        members = (each for each in self.members() if each.name == found.name)
        return next((each for each in members if each.epoch == found.epoch), None)

    def owner_names(self) -> tuple[str | None, ...]:
        """The gateway that has each shard, by number; None for nobody."""
        table = self._seen.table
        if table is None:
            return (None,) * self._shards
        return tuple(None if each is None else each.name for each in table.owners)

    def unowned(self) -> frozenset[int]:
        """The shards that no gateway with a fresh lease has; all while nothing is known."""
        seen = self._seen
        if seen.table is None:
            return frozenset(range(self._shards))
        return seen.table.unowned(boot_seconds() - seen.at)

    @property
    def is_confirmed(self) -> bool:
        """Whether this gateway's lease holds for certain."""
        return boot_seconds() < self._seen.valid_until

    @property
    def trouble(self) -> str:
        """What is wrong with the lease, for people; empty if nothing is."""
        seen = self._seen
        if self.is_confirmed:
            return ""
        if seen.phase is LeasePhase.LEFT:
            return "the gateway has left the fleet"
        if seen.table is None or seen.phase is LeasePhase.OUT:
            return seen.trouble or NOT_JOINED
        age = boot_seconds() - seen.confirmed_at
        why = f": {seen.trouble}" if seen.trouble else ""
        return f"the lease was last confirmed {age:.0f} s ago; what runs goes on{why}"

    def status(self) -> dict[str, Any]:
        """How the lease is, for `/readyz` and the admin API."""
        seen = self._seen
        return {
            "kind": self._kind,
            "joined": seen.phase in (LeasePhase.IN, LeasePhase.LEAVING),
            "confirmed": self.is_confirmed,
            "trouble": self.trouble,
            "members": sum(each.fresh for each in self.members()),
            "shards": seen.owned,
            "shards_without_owner": len(self.unowned()),
        }

    def collect(self) -> Iterator[Metric]:
        """The metrics of the lease."""
        seen = self._seen
        age = boot_seconds() - seen.confirmed_at
        members = sum(each.fresh for each in self.members())
        return placement_metrics(self.counters, age, seen.owned, members, len(self.unowned()))

    # -- the thread

    def _run(self) -> None:
        try:
            while not self._is_over():
                try:
                    self._turn()
                except Exception as mistake:  # noqa: BLE001 - it is logged, once for each kind
                    self._recover(mistake)
        finally:
            if not self._is_over():
                self._has_died()
            self._store.close()

    def _recover(self, mistake: Exception) -> None:
        """Go on after a mistake of ours: nothing connects until the store has answered again.

        The fleet may have missed what it was to be told of shards that are lost, so it is told all
        anew before that, and before the rest connects.
        """
        self._mistakes += 1
        self._is_in_doubt = True
        self._connects.suspend_connects(FAILED)
        trouble = f"{FAILED} ({type(mistake).__name__}), and tries again: {_cause(mistake)}"
        self._publish(trouble)
        self._log(trouble, mistake)
        if self._ends_at is not None:
            # No second try at the end: the lease runs out.
            self._ends_at = boot_seconds()
            return
        self._stop_is_asked.wait(self._times.retry_after(self._mistakes))
        self._lease.interrupted(boot_seconds())
        self._inbox.append(_Order.TELL_ANEW)

    def _has_died(self) -> None:
        """The thread ends, and was not asked to: without a lease nothing connects any more."""
        self._is_in_doubt = True
        trouble = f"{FAILED}; start the gateway again"
        self._publish(trouble)
        self._log(trouble)
        self._connects.suspend_connects(FAILED)

    def _is_over(self) -> bool:
        if self._ends_at is None:
            return False
        return self._lease.phase is LeasePhase.LEFT or boot_seconds() >= self._ends_at

    def _turn(self) -> None:
        while self._inbox:
            self._take(self._inbox.popleft())
        request = self._lease.next_request(boot_seconds())
        if request is None:
            self._wait()
        else:
            self._ask(request)

    def _take(self, wish: _Order | frozenset[int]) -> None:
        now = boot_seconds()
        match wish:
            case _Order.LEAVE:
                self._act(self._lease.leave(now))
            case _Order.TELL_ANEW:
                self._act(self._lease.tell_anew())
            case _Order.STOP:
                self._ends_at = now + GOODBYE_SECONDS
                self._act(self._lease.leave(now))
                # Nothing of them connects any more: that is as good as an end.
                self._act(self._lease.vacated(frozenset(range(self._shards)), now))
            case shards:
                self._act(self._lease.vacated(shards, now))

    def _ask(self, request: LeaseRequest) -> None:
        asked_at = boot_seconds()
        answer, trouble, mistake = self._ask_store(request, asked_at)
        now = boot_seconds()
        self.counters.asked(now - asked_at, failed=bool(trouble))
        before = self._lease.takeovers
        if trouble:
            actions = self._lease.failed(request, now)
        else:
            # All was told anew before this was asked.
            self._is_in_doubt = False
            actions = self._lease.answered(request, answer, now)
        self.counters.takeovers += self._lease.takeovers - before
        if self._lease.taken_seconds:
            trouble = (
                "another process with the name of this gateway has a lease: it is over in "
                f"{self._lease.taken_seconds:.0f} s at the latest if that process has ended; "
                "otherwise give each gateway a name of its own"
            )
        self._publish(trouble)
        self._act(actions)
        if not trouble:
            if answer.table is not None and self._listener is not None:
                self._listener.tunnels_are_at(answer.table.tunnels_version)
            self._mistakes = 0
        # At last: what has failed until here is told of each time, and logged once.
        self._log(trouble, mistake)

    def _ask_store(self, request: LeaseRequest, asked_at: float) -> _RequestEnd:
        self._asked_at = asked_at
        try:
            return _RequestEnd(self._store.do(request))
        except ConfigError as error:
            return _RequestEnd(LeaseAnswer(), str(error))
        except OSError as error:
            trouble = f"the store does not confirm the lease: {_cause(error)}"
            return _RequestEnd(LeaseAnswer(), trouble)
        except Exception as mistake:  # noqa: BLE001 - it is logged, once for each kind
            kind = type(mistake).__name__
            trouble = f"the store's answer cannot be used ({kind}): {_cause(mistake)}"
            return _RequestEnd(LeaseAnswer(), trouble, mistake)
        finally:
            self._asked_at = None

    def _wait(self) -> None:
        descriptors = [self._wake_read]
        of_store = self._store.descriptor
        if of_store is not None:
            descriptors.append(of_store)
        now = boot_seconds()
        ends = [self._lease.due_at - now, self._times.lease_seconds]
        if self._ends_at is not None:
            ends.append(self._ends_at - now)
        # Not select(), which takes no descriptor from 1,024 on.
        poll = select.poll()
        for descriptor in descriptors:
            poll.register(descriptor, select.POLLIN)
        ready = dict(poll.poll(max(0.0, min(ends)) * MILLISECONDS))
        if self._wake_read in ready:
            os.read(self._wake_read, MAX_WAKE_BYTES)
        if of_store in ready:
            try:
                self._store.hear()
            except OSError:
                # The next request finds out what is wrong, and soon.
                self._lease.notified(boot_seconds())

    def on_notification(self, text: str) -> None:
        """The store has told something that another gateway has done; in the engine's thread."""
        word, _, rest = text.partition(" ")
        if word == TUNNEL_CHANGED:
            version, _, name = rest.partition(" ")
            is_number = version.isdecimal() and len(version) <= MAX_VERSION_DIGITS
            if is_number and self._listener is not None:
                self._listener.tunnel_changed(int(version), name)
        else:
            self._lease.notified(boot_seconds())

    def _publish(self, trouble: str) -> None:
        lease, before = self._lease, self._seen
        is_news = lease.table is not before.table
        may_hold = lease.epoch > 0 and not self._is_in_doubt
        self._seen = _Seen(
            lease.table,
            boot_seconds() if is_news else before.at,
            lease.confirmed_at,
            lease.valid_until if may_hold else float("-inf"),
            len(lease.owned),
            lease.phase,
            trouble,
        )

    def _log(self, trouble: str, mistake: Exception | None = None) -> None:
        """Log a trouble when it is of another kind than the last one, and its end."""
        kind = trouble.partition(":")[0]
        if kind == self._logged:
            return
        self._logged = kind
        if trouble:
            event = {"event": "lease_unconfirmed"}
            logger.error("%s", trouble, exc_info=mistake, extra=event)
        else:
            logger.warning("the lease is confirmed again", extra={"event": "lease_confirmed"})

    def _act(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case Suspend(reason):
                    self._connects.suspend_connects(reason)
                case Resume() if self._is_in_doubt:
                    # Not before the store has answered again.
                    pass
                case Resume(seconds):
                    self._connects.resume_connects(seconds)
                case Share(members):
                    self._connects.change_connect_rate(self._connect_rate / members)
                case TellFleet(message):
                    self._tell(message)
                    if self._listener is not None and isinstance(message, Assigned):
                        self._listener.shards_assigned(message.shards)
        self._seen = self._seen._replace(owned=len(self._lease.owned), phase=self._lease.phase)


def _cause(error: Exception) -> str:
    return printable(str(error), MAX_CAUSE_CHARACTERS)
