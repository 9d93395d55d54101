"""From a wanted tunnel back to its entry."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnelfleet.runtime.gateway.config import Authorities, read_tunnel
from tunnelfleet.runtime.gateway.config.entry import entry_of

TOKENS = st.text("abcXYZ019-_.", min_size=1, max_size=80)
TARGETS = st.one_of(
    st.builds(lambda host, port: f"{host}:{port}", st.sampled_from(["h", "::1"]), st.just(22)).map(
        lambda text: text.replace("::1:", "[::1]:")
    ),
    st.sampled_from(["unix:/run/app.sock", "unix:relative", "/run/x"]),
)
NAMES = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=20)
ENTRIES = st.fixed_dictionaries(
    {
        "name": NAMES,
        "mode": st.sampled_from(["source", "destination"]),
        "endpoint": st.sampled_from(
            ["ws://127.0.0.1:1", "wss://h.example:8443", "wss://h.example"]
        ),
        "access_token": TOKENS,
        "services": st.dictionaries(st.sampled_from(["SSH", "APP", "X"]), TARGETS, min_size=1),
    },
    optional={
        "client_token": st.text("abc019-", min_size=32, max_size=64),
        "labels": st.dictionaries(st.sampled_from(["site", "line"]), NAMES),
        "version": st.sampled_from(["V1", "V2", "V3"]),
        "bandwidth": st.one_of(st.integers(1, 10_000_000), st.floats(1.0, 1e9)),
        "marks": st.booleans(),
        "pacing": st.booleans(),
        "http_proxy": st.sampled_from(
            ["http://p.example:3128", "https://u:p%2F%40%3a@p.example:1", "http://u%20:@h:1"]
        ),
        "limits": st.fixed_dictionaries(
            {}, optional={"max_connections": st.integers(1, 9), "linger_seconds": st.just(3)}
        ),
        "restart": st.fixed_dictionaries({}, optional={"factor": st.just(3.5)}),
    },
)
AUTHORITIES = Authorities()


@given(ENTRIES)
def test_read_again_it_is_the_same_wish(entry: dict[str, Any]) -> None:
    targets = list(entry["services"].values())
    if len(set(targets)) < len(targets):
        # Two services cannot listen in one place.
        entry["mode"] = "destination"
    wish = read_tunnel(entry, AUTHORITIES)
    again = read_tunnel(entry_of(wish), AUTHORITIES)
    assert again == wish
    assert (again.access_token, again.client_token) == (wish.access_token, wish.client_token)
    assert entry_of(again) == entry_of(wish)


def test_what_is_as_by_default_is_left_out() -> None:
    entry = {
        "name": "a",
        "mode": "destination",
        "endpoint": "ws://127.0.0.1:1",
        "access_token": "t" * 40,
        "services": {"SSH": "127.0.0.1:22"},
    }
    assert entry_of(read_tunnel(entry, AUTHORITIES)) == entry


@pytest.mark.parametrize("services", [None, {"SSH": 0}])
def test_a_source_s_free_ports(services: Any) -> None:
    entry = {
        "name": "a",
        "mode": "source",
        "endpoint": "ws://127.0.0.1:1",
        "access_token": "t" * 40,
        **({"services": services} if services else {}),
    }
    wish = read_tunnel(entry, AUTHORITIES)
    assert read_tunnel(entry_of(wish), AUTHORITIES) == wish
