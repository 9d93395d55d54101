"""The tunnels that the management API knows: open ones, and closed ones for a while.

Owns what AWS says of a tunnel beside its tokens, the order and the pages of lists, and how long a
closed tunnel is remembered. Must not know the service that relays, nor any token. Every method may
be called from any thread; none but ``flush`` blocks.
"""

from __future__ import annotations

import base64
import binascii
import bisect
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final, Protocol

from tunnelfleet.actors.kernel.moments import CLOCK, Clock
from tunnelfleet.proto import MAX_ID_CHARACTERS, Mode, printable

from .model import ResourceNotFound, ValidationFailed

DEFAULT_PAGE: Final = 100
"""So many tunnels a page, if the caller does not say how many; AWS's most."""


_TOKEN_PREFIX: Final = "v1:"  # noqa: S105 (of a place in a list)


class Status(StrEnum):
    """The status of a tunnel, as the model has it."""

    OPEN = "OPEN"
    CLOSED = "CLOSED"


@dataclass(frozen=True, slots=True)
class TunnelRecord:
    """What the API tells of a tunnel.

    Attributes:
        tunnel_id: its id, which is its name in the service.
        number: rises with each tunnel that is opened.
        created_at: unix time.
        updated_at: unix time of its last change.
        status: whether it is open.
        description: of its opener, or None.
        thing: the thing whose device is the destination, or None.
        services: service ids; None if it was opened without a destination.
        lifetime_minutes: after so many it ends; None: never.
        tags: key -> value.
        connected_at: unix time at which each side was last connected or disconnected.
    """

    tunnel_id: str
    number: int
    created_at: float
    updated_at: float
    status: Status = Status.OPEN
    description: str | None = None
    thing: str | None = None
    services: tuple[str, ...] | None = None
    lifetime_minutes: int | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    connected_at: Mapping[Mode, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return it as it is kept."""
        return {
            "created_at": self.created_at,
            "updated_at": self.updated_at,
            "status": self.status.value,
            "description": self.description,
            "thing": self.thing,
            "services": None if self.services is None else list(self.services),
            "lifetime_minutes": self.lifetime_minutes,
            "tags": dict(self.tags),
            "connected_at": {mode.value: when for mode, when in self.connected_at.items()},
        }

    @classmethod
    def from_json(cls, tunnel_id: str, number: int, body: Mapping[str, Any]) -> TunnelRecord:
        """Return what was kept."""
        services = body["services"]
        return cls(
            tunnel_id,
            number,
            body["created_at"],
            body["updated_at"],
            Status(body["status"]),
            body["description"],
            body["thing"],
            None if services is None else tuple(services),
            body["lifetime_minutes"],
            body["tags"],
            {Mode(mode): when for mode, when in body["connected_at"].items()},
        )


class RecordKeeper(Protocol):
    """Where records are kept; nothing but ``flush`` blocks."""

    def load_records(self) -> list[tuple[str, int, dict[str, Any]]]:
        """Return what is kept: id, number, body."""

    def put_record(self, tunnel_id: str, number: int, body: Mapping[str, Any] | None) -> None:
        """Keep this soon in the place of what is kept; None forgets it."""

    def flush(self) -> None:
        """Return when everything that was put is kept."""


CLOSED_KEPT_SECONDS: Final = 3 * 3600.0
MAX_CLOSED: Final = 10_000
"""So many closed tunnels are remembered; of more the oldest go."""


class RecordTable:
    """The records of a service.

    Args:
        keeper: where they are kept; None keeps them in memory.
        clock: what its callers read the time from.
    """

    def __init__(self, keeper: RecordKeeper | None = None, clock: Clock = CLOCK) -> None:
        self._clock = clock
        self._keeper = keeper
        self._lock = threading.Lock()
        self._by_id: dict[str, TunnelRecord] = {}
        self._ids: dict[int, str] = {}
        self._numbers: list[int] = []
        """In order, so that a page begins with a search and not with a walk."""
        self._closed: dict[str, float] = {}
        """Closed tunnels in the order in which they were closed -> at which moment."""
        self._last_number = 0
        if keeper is not None:
            kept = [TunnelRecord.from_json(*each) for each in keeper.load_records()]
            for record in sorted(kept, key=lambda each: each.number):
                self._insert(record)
            for record in sorted(kept, key=lambda each: each.updated_at):
                if record.status is Status.CLOSED:
                    # The clock may have been ahead then.
                    closed_at = min(clock.moment(record.updated_at), clock.now())
                    self._closed[record.tunnel_id] = closed_at

    def flush(self) -> None:
        """Return when everything that changed is kept. Raises StateError if that takes too long."""
        if self._keeper is not None:
            self._keeper.flush()

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[TunnelRecord]:
        with self._lock:
            return iter(list(self._by_id.values()))

    @property
    def open_count(self) -> int:
        """How many are open."""
        with self._lock:
            return len(self._by_id) - len(self._closed)

    def find(self, tunnel_id: str) -> TunnelRecord | None:
        """Return a record, if it is there."""
        with self._lock:
            return self._by_id.get(tunnel_id)

    def get(self, tunnel_id: str) -> TunnelRecord:
        """Return a record.

        Raises:
            ResourceNotFound: it is not there.
        """
        record = self.find(tunnel_id)
        if record is None:
            raise ResourceNotFound(f"Tunnel {printable(tunnel_id, MAX_ID_CHARACTERS)} not found")
        return record

    def add(self, tunnel_id: str, now: float, **fields: Any) -> TunnelRecord:
        """Make the record of a tunnel that is opened; one that is there of this id is replaced."""
        with self._lock:
            self._forget(tunnel_id)
            record = TunnelRecord(tunnel_id, self._last_number + 1, now, now, **fields)
            self._insert(record)
            self._put(record)
        return record

    def change(self, tunnel_id: str, **fields: Any) -> TunnelRecord | None:
        """Change fields of a record that may have gone; return what it is now."""
        with self._lock:
            record = self._by_id.get(tunnel_id)
            if record is None:
                return None
            if "updated_at" in fields:
                # The clock may have been set back.
                fields["updated_at"] = max(fields["updated_at"], record.updated_at)
            record = self._by_id[tunnel_id] = replace(record, **fields)
            self._put(record)
        return record

    def note_connection(self, tunnel_id: str, mode: Mode, when: float) -> None:
        """A client of this side has come or gone."""
        with self._lock:
            record = self._by_id.get(tunnel_id)
            if record is not None:
                times = {**record.connected_at, mode: when}
                record = self._by_id[tunnel_id] = replace(record, connected_at=times)
                self._put(record)

    def close(self, tunnel_id: str, now: float) -> None:
        """Mark a tunnel as closed, and forget those that were closed long ago."""
        with self._lock:
            record = self._by_id.get(tunnel_id)
            if record is not None and record.status is Status.OPEN:
                record = replace(
                    record, status=Status.CLOSED, updated_at=max(now, record.updated_at)
                )
                self._by_id[tunnel_id] = record
                self._closed[tunnel_id] = self._clock.moment(now)
                self._put(record)
        self.forget_old(now)

    def forget(self, tunnel_id: str) -> None:
        """Forget a tunnel, if it is there."""
        with self._lock:
            self._forget(tunnel_id)

    def forget_old(self, now: float) -> None:
        """Forget what was closed long ago, and the oldest if there is too much."""
        moment = self._clock.moment(now)
        with self._lock:
            while self._closed:
                tunnel_id, closed_at = next(iter(self._closed.items()))
                is_old = moment - closed_at > CLOSED_KEPT_SECONDS
                if not is_old and len(self._closed) <= MAX_CLOSED:
                    return
                self._forget(tunnel_id)

    def page(
        self, thing: str | None, limit: int, next_token: str | None
    ) -> tuple[list[TunnelRecord], str | None]:
        """Return a page, the newest tunnel first, and the token of the next page.

        Tunnels that are opened or closed meanwhile neither repeat others nor hide them.

        Args:
            thing: only the tunnels of this thing; None: all.
            limit: so many at most.
            next_token: what the page before came with.

        Raises:
            ValidationFailed: the token is none that this made.
        """
        before = None if next_token is None else _number(next_token)
        found: list[TunnelRecord] = []
        with self._lock:
            end = len(self._numbers)
            if before is not None:
                end = bisect.bisect_left(self._numbers, before)
            for index in range(end - 1, -1, -1):
                record = self._by_id[self._ids[self._numbers[index]]]
                if thing is not None and record.thing != thing:
                    continue
                if len(found) == limit:
                    return found, _token(found[-1].number)
                found.append(record)
        return found, None

    def _insert(self, record: TunnelRecord) -> None:
        self._by_id[record.tunnel_id] = record
        self._ids[record.number] = record.tunnel_id
        self._numbers.append(record.number)
        self._last_number = max(self._last_number, record.number)

    def _forget(self, tunnel_id: str) -> None:
        record = self._by_id.pop(tunnel_id, None)
        self._closed.pop(tunnel_id, None)
        if record is None:
            return
        del self._ids[record.number]
        del self._numbers[bisect.bisect_left(self._numbers, record.number)]
        if self._keeper is not None:
            self._keeper.put_record(tunnel_id, record.number, None)

    def _put(self, record: TunnelRecord) -> None:
        if self._keeper is not None:
            self._keeper.put_record(record.tunnel_id, record.number, record.to_json())


def _token(number: int) -> str:
    return base64.urlsafe_b64encode(f"{_TOKEN_PREFIX}{number}".encode()).decode()


def _number(token: str) -> int:
    try:
        text = base64.urlsafe_b64decode(token.encode("ascii")).decode("ascii")
        if not text.startswith(_TOKEN_PREFIX):
            raise ValueError(text)
        return int(text.removeprefix(_TOKEN_PREFIX))
    except (ValueError, binascii.Error):
        raise ValidationFailed("nextToken is not one that ListTunnels returned") from None
