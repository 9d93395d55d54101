from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tunnelfleet.actors.addresses import TcpAddress, is_loopback
from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.admin import AdminOptions, parse_admin_address
from tunnelfleet.runtime.admin.options import BearerToken

PEM = Path("server.pem")


def test_it_is_on_loopback_unless_told_otherwise() -> None:
    assert is_loopback(AdminOptions().host)


@pytest.mark.parametrize(
    "wrong",
    [
        {"certificate": PEM},
        {"private_key": PEM},
        {"ready_fraction": 0},
        {"ready_fraction": 1.1},
        {"ready_hysteresis": -0.1},
        {"port": 70_000},
        {"bearer_token": ""},
        {"bearer_token": "two words"},
        {"bearer_token": "secret", "host": "0.0.0.0"},
        {"host": "0.0.0.0"},
        {"host": "::"},
        {"host": "press-4.example"},
        {"max_connections": 0},
        {"request_seconds": 0},
        {"response_seconds": -1},
        {"idle_seconds": float("inf")},
    ],
    ids=str,
)
def test_what_does_not_go_together_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        AdminOptions(**wrong)


def test_a_token_off_loopback_goes_with_tls() -> None:
    options = AdminOptions(bearer_token="s", host="0.0.0.0", certificate=PEM, private_key=PEM)
    assert options.is_tls


def test_off_loopback_without_a_token_is_only_on_purpose() -> None:
    assert AdminOptions(host="0.0.0.0", open_to_all=True).host == "0.0.0.0"
    with pytest.raises(ConfigError, match="--admin-open"):
        AdminOptions(host="0.0.0.0")


def test_a_token_off_loopback_may_go_without_tls_where_its_owner_says_so() -> None:
    options = AdminOptions(bearer_token="s", host="0.0.0.0", plain_token=True)
    assert not options.is_tls


def test_the_token_is_in_no_repr() -> None:
    assert "hush" not in repr(AdminOptions(bearer_token="hush"))


@pytest.mark.parametrize(
    ("text", "address"),
    [("127.0.0.1:9464", TcpAddress("127.0.0.1", 9464)), ("[::1]:1", TcpAddress("::1", 1))],
)
def test_addresses(text: str, address: TcpAddress) -> None:
    assert parse_admin_address(text) == address


@pytest.mark.parametrize("text", ["/run/admin.sock", "host:port", ""])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_admin_address(text)


@pytest.mark.parametrize(
    ("host", "expected"),
    [("localhost", True), ("::1", True), ("127.9.9.9", True), ("0.0.0.0", False), ("h", False)],
)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_a_token_that_was_replaced_never_counts_again() -> None:
    files = iter([None, "second", None])
    token = BearerToken("first", lambda: next(files))
    assert [token.get() for _ in range(3)] == ["first", "second", "second"]


def test_where_none_is_asked_for_none_comes_by_a_reload() -> None:
    assert BearerToken(None, lambda: "new").get() is None
