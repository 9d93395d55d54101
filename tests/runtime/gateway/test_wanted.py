from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from tests.support.fleet import wanted
from tunnelfleet.proto import Mode
from tunnelfleet.runtime import Backoff, Endpoint, HttpProxy, Limits, TcpAddress
from tunnelfleet.runtime.gateway.wanted import (
    IN_PLACE_LIMITS,
    Change,
    change_between,
    changed_keys,
)

CHANGES: dict[str, tuple[Any, Change]] = {
    "mode": (Mode.SOURCE, Change.RESTART),
    "endpoint": (Endpoint.parse("ws://b"), Change.RESTART),
    "access_token": ("u" * 40, Change.NEW_TOKEN),
    "client_token": ("c" * 32, Change.NEW_TOKEN),
    "services": ({"SSH": TcpAddress("127.0.0.1", 23)}, Change.RESTART),
    "bind": ("10.0.0.1", Change.RESTART),
    "version": (2, Change.RESTART),
    "bandwidth": (5.0, Change.RESTART),
    "marks": (False, Change.RESTART),
    "pacing": (False, Change.RESTART),
    "http_proxy": (HttpProxy("proxy", 1), Change.RESTART),
    "ca": ("ca.pem", Change.RESTART),
    "ca_fingerprint": ("x", Change.RESTART),
    "limits": (Limits(max_connections=3), Change.IN_PLACE),
    "labels": ({"site": "metz"}, Change.IN_PLACE),
    "ssl_context": (object(), Change.NONE),
    "place": ("elsewhere:1", Change.NONE),
}


def test_the_table_is_whole() -> None:
    assert set(CHANGES) | {"name"} == {each.name for each in fields(wanted())}


@pytest.mark.parametrize("key", CHANGES)
def test_what_it_takes_to_change_a_key(key: str) -> None:
    value, change = CHANGES[key]
    before = wanted()
    assert change_between(before, replace(before, **{key: value})) is change
    assert change_between(replace(before, **{key: value}), before) is change


def test_the_larger_change_counts() -> None:
    before = wanted()
    after = replace(before, labels={"a": "b"}, access_token="u" * 40)
    assert change_between(before, after) is Change.NEW_TOKEN
    assert change_between(before, replace(after, bind="::1")) is Change.RESTART


@pytest.mark.parametrize("key", [each.name for each in fields(Limits) if each.name != "backoff"])
def test_limits_are_taken_over_or_need_a_restart(key: str) -> None:
    before = wanted()
    value = getattr(before.limits, key)
    limits = replace(before.limits, **{key: type(value)(value / 2)})
    expected = Change.IN_PLACE if key in IN_PLACE_LIMITS else Change.RESTART
    assert change_between(before, replace(before, limits=limits)) is expected


def test_delays_need_a_restart() -> None:
    before = wanted()
    limits = replace(before.limits, backoff=Backoff(min_seconds=0.1))
    assert change_between(before, replace(before, limits=limits)) is Change.RESTART


def test_tokens_are_not_shown_and_a_derived_one_is_a_second_choice() -> None:
    tunnel = wanted(access_token="t" * 40)
    assert "t" * 40 not in repr(tunnel)
    assert tunnel.to_config("d" * 32).client_token == "d" * 32
    assert replace(tunnel, client_token="c" * 32).to_config("d" * 32).client_token == "c" * 32


def test_bind_is_where_a_source_listens_and_a_destination_comes_from() -> None:
    tunnel = wanted(bind="10.0.0.1")
    assert tunnel.to_config("d" * 32).local_bind == "10.0.0.1"
    source = replace(tunnel, mode=Mode.SOURCE, services=None)
    assert source.to_config("d" * 32).bind_host == "10.0.0.1"


def test_the_keys_that_have_changed_are_those_of_an_entry() -> None:
    before = wanted()
    assert changed_keys(before, before) == []
    after = replace(before, labels={"a": "b"}, ca="ca.pem", ca_fingerprint="x", place="there")
    assert changed_keys(before, after) == ["ca", "labels"]
