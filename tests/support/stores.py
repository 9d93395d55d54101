"""Stores and entries for the tests of the gateway's state."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

from tunnelfleet.actors import events
from tunnelfleet.runtime.gateway.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

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
