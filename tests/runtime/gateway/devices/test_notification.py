from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunnelfleet.runtime.gateway.devices.notification import (
    MAX_PAYLOAD_BYTES,
    BadNotification,
    Notification,
    parse_notification,
    thing_of,
    topic_of,
)

TOKEN = "secret-" + "t" * 60
GOOD: dict[str, Any] = {
    "clientAccessToken": TOKEN,
    "clientMode": "destination",
    "region": "eu-west-1",
    "services": ["SSH"],
}


def payload(**changes: Any) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


def test_what_aws_publishes() -> None:
    found = parse_notification("press-4", payload())
    assert found == Notification("press-4", TOKEN, ("SSH",), "eu-west-1")
    assert TOKEN not in repr(found)
    assert TOKEN not in found.token_hash


def test_what_may_be_there_or_not() -> None:
    found = parse_notification("a", payload(services=[], more={"x": 1}))
    assert found.services == ()
    less = {key: value for key, value in GOOD.items() if key not in ("services", "region")}
    found = parse_notification("a", json.dumps(less).encode())
    assert (found.services, found.region) == ((), "")
    assert parse_notification("a", payload(services=["A", "A"])).services == ("A",)


BAD = {
    "nothing": b"",
    "no JSON": b"{",
    "no UTF-8": b'"\xff"',
    "a list": b"[]",
    "a number": b"1",
    "nested": b"[" * 10_000,
    "nested objects": b'{"a":' * 3_000,
    "a huge number": b'{"a": ' + b"1" * 10_000 + b"}",
    "huge": payload(more="x" * MAX_PAYLOAD_BYTES),
    "a source's": payload(clientMode="source"),
    "no mode": payload(clientMode=None),
    "no token": payload(clientAccessToken=None),
    "an empty token": payload(clientAccessToken=""),
    "a token with a line end": payload(clientAccessToken=f"{TOKEN}\r\nX: y"),
    "a token of a lone surrogate": payload(clientAccessToken="\ud800"),
    "a long token": payload(clientAccessToken="t" * 9_000),
    "a number as token": payload(clientAccessToken=4),
    "services of text": payload(services="SSH"),
    "too many services": payload(services=[str(n) for n in range(17)]),
    "a service of number": payload(services=[4]),
    "an empty service": payload(services=[""]),
    "a service of escapes": payload(services=["\x1b[2J"]),
    "a long service": payload(services=["s" * 129]),
    "a region with a host": payload(region="evil.example.com/"),
    "a region of list": payload(region=["eu-west-1"]),
    "a long region": payload(region="a" * 65),
}


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_one_says_why_and_repeats_nothing(name: str) -> None:
    with pytest.raises(BadNotification) as caught:
        parse_notification("press-4", BAD[name])
    text = str(caught.value)
    assert text
    assert len(text) < 100
    assert TOKEN not in text
    assert text.isprintable()


@settings(max_examples=80)
@given(st.binary(max_size=300))
def test_whatever_comes_is_good_or_bad(data: bytes) -> None:
    try:
        parse_notification("a", data)
    except BadNotification:
        return


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)


@settings(max_examples=80)
@given(st.sampled_from(sorted(GOOD)), JSON)
def test_whatever_a_key_has_is_good_or_bad(key: str, value: object) -> None:
    try:
        found = parse_notification("a", payload(**{key: value}))
    except BadNotification:
        return
    assert found.access_token.isascii()
    assert all(each.isprintable() for each in found.services)


def test_topics() -> None:
    assert topic_of("press-4") == "$aws/things/press-4/tunnels/notify"
    assert thing_of(topic_of("press-4")) == "press-4"
    for other in ("", "$aws/things//tunnels/notify", "$aws/things/a/b/tunnels/notify", "x"):
        assert thing_of(other) is None
