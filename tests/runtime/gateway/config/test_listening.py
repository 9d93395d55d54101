from __future__ import annotations

import pytest

from tunnelfleet.runtime import parse_address
from tunnelfleet.runtime.gateway.wanted import ListeningPlaces


@pytest.mark.parametrize(
    ("one", "other", "excludes"),
    [
        ("127.0.0.1:22", "127.0.0.1:22", True),
        ("127.0.0.1:22", "127.0.0.1:23", False),
        ("127.0.0.1:22", "127.0.0.2:22", False),
        ("127.0.0.1:22", "localhost:22", True),
        ("127.0.0.1:22", "0.0.0.0:22", True),
        ("[::]:22", "127.0.0.1:22", True),
        ("[::1]:22", "127.0.0.1:22", False),
        ("/run/a.sock", "unix:/run/a.sock", True),
        ("/run/a.sock", "/run/b.sock", False),
    ],
)
def test_which_addresses_exclude_each_other(one: str, other: str, excludes: bool) -> None:
    places = ListeningPlaces()
    assert places.claim(parse_address(one), ("a", "f:1")) is None
    expected = ("a", "f:1") if excludes else None
    assert places.claim(parse_address(other), ("b", "f:2")) == expected
