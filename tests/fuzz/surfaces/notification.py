"""What a broker delivers to a gateway with devices (runtime/gateway/devices)."""

from __future__ import annotations

import json

from tests.fuzz.harness import TURNS, Harness, Source, is_line
from tests.support.notifications import BROKER, SECTION
from tunnelfleet.runtime.gateway.config.entry import entry_of
from tunnelfleet.runtime.gateway.devices.book import DeviceBook, LinkSeen, Sections
from tunnelfleet.runtime.gateway.devices.notification import (
    MAX_SERVICES,
    BadNotification,
    Notification,
    parse_notification,
    thing_of,
    topic_of,
)

MAX_SHOWN = 200


def run(data: bytes) -> None:
    source = Source(data)
    topic = source.take(source.byte() % 64).decode("utf-8", "replace")
    thing = thing_of(topic)
    if thing is not None:
        assert topic_of(thing) == topic
        assert "/" not in thing
    book = DeviceBook()
    book.sections = Sections([SECTION])
    links = source.byte()
    payload = source.rest()
    for number, (name, each) in enumerate(
        [("press-4", payload), ("press-4", payload), ("press-5", payload.swapcase())]
    ):
        told = read(name, each)
        if told is not None:
            take(book, told, links, 1_000.0 + number)


def read(thing: str, payload: bytes) -> Notification | None:
    try:
        with TURNS:
            told = parse_notification(thing, payload)
    except BadNotification as error:
        assert is_line(str(error), MAX_SHOWN)
        return None
    assert len(told.access_token) < 16 or told.access_token not in repr(told)
    assert len(told.services) <= MAX_SERVICES
    assert all(is_line(each, MAX_SHOWN) for each in told.services)
    return told


def take(book: DeviceBook, told: Notification, links: int, now: float) -> None:
    with TURNS:
        decision = book.take(str(BROKER), told, now)
    # Nobody is led elsewhere than to what the files offer.
    offered = set(SECTION.services)
    if decision.wish is not None:
        assert decision.tunnel is not None
        services = decision.wish.services
        assert services is not None
        assert services.keys() <= offered
        assert services.keys() <= set(told.services) or not told.services
        json.dumps(entry_of(decision.wish))
    assert not set(decision.refused) & offered
    assert len(book.tunnels) <= SECTION.tunnels_per_thing * len(SECTION.things)
    if decision.tunnel is not None and links & 1:
        name = next(iter(book.tunnels))
        book.link_up(name)
        if links & 2:
            book.link_down(name, now)
        assert isinstance(LinkSeen(), tuple)


GOOD = {
    "clientAccessToken": "t" * 40,
    "clientMode": "destination",
    "region": "eu-west-1",
    "services": ["SSH"],
}
TOPIC = b"$aws/things/press-4/tunnels/notify"


def seed(links: int = 0, **changes: object) -> bytes:
    payload = json.dumps({**GOOD, **changes}).encode()
    return bytes((len(TOPIC),)) + TOPIC + bytes((links,)) + payload


HARNESS = Harness(
    run=run,
    covers=[
        "runtime/gateway/devices/notification.py",
        "runtime/gateway/devices/book.py",
    ],
    seeds=[
        seed(),
        seed(1, services=["SSH", "HTTP", "VNC"]),
        seed(3, services=[]),
        seed(clientMode="source"),
        seed(services="SSH"),
        seed(services=[1]),
        seed(region="\N{SNOWMAN}"),
        seed(clientAccessToken="a b"),
        seed(clientAccessToken=None),
        b"\0\0[]",
        b"\0\0" + b"[" * 2_000,
        b'\0\0{"clientMode":1' + b"0" * 5_000 + b"}",
        b"\0\0\xff",
    ],
    words=[b'"clientMode"', b'"destination"', b'"services"', b'"clientAccessToken"', b"\\ud800"],
    max_bytes=6_144,
)
