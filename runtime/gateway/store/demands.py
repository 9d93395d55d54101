"""Tunnels on demand in their table: what a gateway that was killed has to take up, or to close.

Owns what is kept of them: a row is written before OpenTunnel is called, so that a tunnel whose
answer nobody got is looked for; its tokens come when it is open, and are sealed. An hour after it
was opened a row that is over is removed: until then it counts for the limit of an hour. Gateways
that share a fleet take the rows of one whose lease is over, each those of its own shards.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import ColumnElement, delete, literal_column, select, update

from tunnelfleet.proto import TunnelError
from tunnelfleet.runtime.gateway.config import Authorities
from tunnelfleet.runtime.gateway.config.entry import entry_of
from tunnelfleet.runtime.gateway.config.fleet import CloudPlace
from tunnelfleet.runtime.gateway.wanted import WantedTunnel

from .database import DEMANDS, FLEET, GATEWAYS
from .tunnels import read_entry, seal_entry

if TYPE_CHECKING:
    from collections.abc import Collection

    from .database import Database
    from .sealing import Sealer


PLACE = "on demand"
KEPT_SECONDS = 3_600.0
"""What is over counts for so long after it was opened."""
LOST_SECONDS = 24 * 3_600.0
"""After which a tunnel has ended, whoever opened it: AWS's longest lifetime twice."""
_NOW: ColumnElement[float] = literal_column("extract(epoch FROM clock_timestamp())::float8")
"""By the server's clock, as leases are."""
_GONE = select(GATEWAYS.c.name).where(
    GATEWAYS.c.lease_until <= _NOW,
    select(FLEET.c.grace_until).where(FLEET.c.id == 1).scalar_subquery() <= _NOW,
)
"""The gateways of the fleet that anybody may take from. One that left in good order is none."""


@dataclass(frozen=True, slots=True)
class StoredDemand:
    """A tunnel on demand as it is kept. Times are in seconds of the Unix epoch.

    Attributes:
        request: tells it from all others, and is in the tunnel's description at the service.
        thing: its name.
        place: whose OpenTunnel was called.
        begun_at: when it was called.
        tunnel_id: of the service; empty if its answer was not got.
        ends_at: when the service ends the tunnel.
        is_over: whether it is closed.
        tunnel: as the fleet runs it; None if it is not open, or what is kept cannot be used.
        problem: why not.
    """

    request: str
    thing: str
    place: CloudPlace
    begun_at: float
    tunnel_id: str = ""
    ends_at: float = 0.0
    is_over: bool = False
    tunnel: WantedTunnel | None = field(default=None, repr=False)
    problem: str = ""


class LeftDemand(NamedTuple):
    """A tunnel of a gateway that is gone."""

    request: str
    thing: str


class DemandTable:
    """The tunnels on demand of a gateway.

    Args:
        database: where they are.
        gateway: whose they are.
        sealer: seals what is secret.
        authorities: keeps TLS contexts; of this table alone.
    """

    def __init__(
        self, database: Database, gateway: str, sealer: Sealer, authorities: Authorities
    ) -> None:
        self._database = database
        self._gateway = gateway
        self._sealer = sealer
        self._authorities = authorities

    def begin(self, demand: StoredDemand) -> None:
        """Note that OpenTunnel is about to be called.

        Raises:
            StoreError: it is not noted.
        """
        place = demand.place
        row = {
            "gateway": self._gateway,
            "request": demand.request,
            "thing": demand.thing,
            "place": json.dumps([place.region, place.endpoint_url, place.profile]),
            "begun_at": demand.begun_at,
            "ends_at": 0.0,
            "tunnel_id": "",
            "entry": "",
            "sealed": b"",
            "key_id": "",
            "is_over": 0,
        }
        mine = (DEMANDS.c.gateway == self._gateway, DEMANDS.c.request == demand.request)
        with self._database.writing() as connection:
            # It was throttled before, perhaps.
            connection.execute(delete(DEMANDS).where(*mine))
            connection.execute(DEMANDS.insert(), row)

    def opened(self, request: str, tunnel_id: str, ends_at: float, tunnel: WantedTunnel) -> None:
        """Keep the tunnel that it has opened.

        Raises:
            StoreError: it is not kept.
        """
        kept = seal_entry(self._sealer, request, entry_of(tunnel))
        self._change(request, tunnel_id=tunnel_id, ends_at=ends_at, **kept)

    def over(self, request: str, now: float) -> None:
        """A tunnel is closed, or was not opened; its tokens are forgotten.

        So are the rows, of whichever gateway, whose tunnels must have ended: that gateway may never
        be started again.

        Raises:
            StoreError: it is still kept as open.
        """
        self._change(request, is_over=1, entry="", sealed=b"", key_id="")
        is_own = DEMANDS.c.gateway == self._gateway
        # What this gateway has open it closes itself, however old the clock says that it is.
        statement = delete(DEMANDS).where(
            (is_own & (DEMANDS.c.is_over == 1) & (DEMANDS.c.begun_at < now - KEPT_SECONDS))
            | (~is_own & (DEMANDS.c.begun_at < now - LOST_SECONDS))
        )
        with self._database.writing() as connection:
            connection.execute(statement)

    def _change(self, request: str, **values: Any) -> None:
        statement = update(DEMANDS).where(
            DEMANDS.c.gateway == self._gateway, DEMANDS.c.request == request
        )
        with self._database.writing() as connection:
            connection.execute(statement.values(**values))

    # -- those of other gateways, in a fleet that shares its state

    def left(self) -> list[LeftDemand]:
        """What gateways have open whose lease is over.

        Raises:
            StoreError: it cannot be read.
        """
        statement = select(DEMANDS.c.request, DEMANDS.c.thing).where(*self._is_left())
        with self._database.reading() as connection:
            return [LeftDemand(*row) for row in connection.execute(statement)]

    def take_over(self, requests: Collection[str]) -> list[StoredDemand]:
        """Make some of them this gateway's own, as far as they are left still.

        Returns:
            Those that it has got, the newest first.

        Raises:
            StoreError: it has got none.
        """
        # Whoever else takes them in the same moment gets the others.
        statement = (
            select(DEMANDS)
            .where(*self._is_left(), DEMANDS.c.request.in_(requests))
            .order_by(DEMANDS.c.begun_at.desc())
            .with_for_update(skip_locked=True)
        )
        taken = []
        with self._database.writing() as connection:
            for row in connection.execute(statement).all():
                found = self._read(row, self._sealer.of(row.gateway))
                kept = {}
                if found.tunnel is not None:
                    kept = seal_entry(self._sealer, row.request, entry_of(found.tunnel))
                connection.execute(
                    update(DEMANDS)
                    .where(DEMANDS.c.gateway == row.gateway, DEMANDS.c.request == row.request)
                    .values(gateway=self._gateway, **kept)
                )
                taken.append(found)
        return taken

    def _is_left(self) -> tuple[Any, ...]:
        others = DEMANDS.c.gateway != self._gateway
        return others, DEMANDS.c.is_over == 0, DEMANDS.c.gateway.in_(_GONE)

    def is_taken(self, request: str) -> bool:
        """Whether another gateway has taken a tunnel of this one, whose lease was over.

        Raises:
            StoreError: it cannot be read.
        """
        statement = select(DEMANDS.c.gateway).where(DEMANDS.c.request == request)
        with self._database.reading() as connection:
            owners = connection.execute(statement).scalars().all()
        return bool(owners) and self._gateway not in owners

    # -- its own

    def load(self) -> list[StoredDemand]:
        """All that is kept, the newest first.

        Raises:
            StoreError: it cannot be read.
        """
        statement = select(DEMANDS).where(DEMANDS.c.gateway == self._gateway)
        with self._database.reading() as connection:
            rows = connection.execute(statement.order_by(DEMANDS.c.begun_at.desc())).all()
        return [self._read(row, self._sealer) for row in rows]

    def _read(self, row: Any, sealer: Sealer) -> StoredDemand:
        tunnel, problem = None, ""
        if row.entry and not row.is_over:
            try:
                tunnel = read_entry(sealer, row.request, row, self._authorities, PLACE)
            except TunnelError as error:
                problem = str(error)
        return StoredDemand(
            row.request,
            row.thing,
            CloudPlace(*json.loads(row.place)),
            row.begun_at,
            row.tunnel_id,
            row.ends_at,
            bool(row.is_over),
            tunnel,
            problem,
        )
