"""Stores and entries for the tests of the gateway's state."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, select

from tunnelfleet.actors import events
from tunnelfleet.runtime.gateway.store import Store
from tunnelfleet.runtime.gateway.store.database import FLEET, GATEWAYS, Database

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection

SECRET = b"s" * 32
BASE = float(int(time.time())) - 3_600
"""Before the first connection; not so long ago that it is removed."""
TOKEN = "token-" + "t" * 40


def make_store(url: str, **given: Any) -> Store:
    """A store of gateway `gw`, not open."""
    return Store(url, **{"gateway": "gw", "secret": SECRET, **given})


@contextlib.contextmanager
def opened(url: str, **given: Any) -> Iterator[Store]:
    """An open store while the block runs."""
    store = make_store(url, **given)
    store.open()
    try:
        yield store
    finally:
        store.close()


def entry(name: str, **keys: Any) -> dict[str, Any]:
    """The keys of a tunnel, as the API takes them."""
    return {
        "name": name,
        "mode": "destination",
        "endpoint": "ws://127.0.0.1:1",
        "access_token": f"{TOKEN}-{name}",
        "services": {"SSH": "127.0.0.1:22"},
        **keys,
    }


def opening(number: int = 1, tunnel: str = "press-4", **given: Any) -> events.ConnectionOpened:
    """A connection begins."""
    keys: dict[str, Any] = {
        "serial": number,
        "peer": f"192.0.2.1:{1000 + number}",
        "user": "alice",
        "opened_at": BASE + number,
        "channel_id": "channel-1",
        **given,
    }
    return events.ConnectionOpened(tunnel, "SSH", 1, number, **keys)


def closing(number: int = 1, tunnel: str = "press-4", **given: Any) -> events.ConnectionClosed:
    """The same connection ends."""
    keys: dict[str, Any] = {
        "ended_by": "local",
        "serial": number,
        "peer": f"192.0.2.1:{1000 + number}",
        "user": "alice",
        "opened_at": BASE + number,
        "sent_bytes": 10 * number,
        "received_bytes": 20 * number,
        "channel_id": "channel-1",
        **given,
    }
    reason = keys.pop("reason", "closed by the local application")
    return events.ConnectionClosed(tunnel, "SSH", 1, number, reason, **keys)


def put_gateway(url: str, name: str, lease_seconds: float) -> None:
    """Have a fleet whose table knows a gateway; a lease below zero is over."""
    forget_gateway(url, name)
    now, lives = time.time(), {"run": "r", "epoch": 1, "is_leaving": 0, "version": "1", "serial": 1}
    with _writing(url) as connection:
        if not connection.execute(select(FLEET.c.id)).all():
            fleet = {"shards": 256, "key_id": "k", "epoch": 1, "version": 1, "tunnels_version": 0}
            connection.execute(FLEET.insert(), {"id": 1, "grace_until": 0.0, **fleet})
        times = {"beat_at": now, "lease_until": now + lease_seconds}
        connection.execute(GATEWAYS.insert(), {"name": name, **times, **lives})


def forget_gateway(url: str, name: str) -> None:
    """Have the fleet's table know it no more."""
    with _writing(url) as connection:
        connection.execute(delete(GATEWAYS).where(GATEWAYS.c.name == name))


@contextlib.contextmanager
def _writing(url: str) -> Iterator[Connection]:
    database = Database(url)
    try:
        with database.writing() as connection:
            yield connection
    finally:
        database.close()
