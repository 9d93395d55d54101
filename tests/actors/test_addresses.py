"""What the readers of addresses share: where a port begins, brackets, and which are loopback."""

from __future__ import annotations

import pytest

from tunnelfleet.actors.addresses import TcpAddress, parse_address, parse_ip, without_brackets
from tunnelfleet.proto import ConfigError
from tunnelfleet.proto.endpoint import bracketed, split_host_port

MANY_DIGITS = "1" * 5_000
"""More than Python makes a number of."""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("host", ("host", None)),
        ("host:22", ("host", "22")),
        ("host:", ("host", "")),
        (":22", ("", "22")),
        ("[::1]", ("::1", None)),
        ("[::1]:22", ("::1", "22")),
        ("::1", ("::1", None)),
        ("fe80::1:22", ("fe80::1:22", None)),
    ],
)
def test_where_a_port_begins(text: str, expected: tuple[str, str | None]) -> None:
    assert split_host_port(text) == expected


@pytest.mark.parametrize("text", ["[::1", "[::1]22", "[::1]x:22", "["])
def test_brackets_that_are_not_closed(text: str) -> None:
    with pytest.raises(ValueError, match="bracket"):
        split_host_port(text)


@pytest.mark.parametrize("host", ["host", "127.0.0.1", "::1"])
def test_what_is_shown_can_be_read(host: str) -> None:
    address = TcpAddress(host, 22)
    assert parse_address(str(address)) == address
    assert without_brackets(bracketed(host)) == host


@pytest.mark.parametrize("text", ["::1:22", "[host]:22", "[::1]", "::1", "host:1:2", ":22", "[]:1"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ConfigError, match="bad address"):
        parse_address(text)


def test_a_name_is_no_ip_address() -> None:
    assert parse_ip("localhost") is None
    assert str(parse_ip("::1")) == "::1"


@pytest.mark.parametrize("text", [MANY_DIGITS, f"127.0.0.1:{MANY_DIGITS}", f"[::1]:{MANY_DIGITS}"])
def test_a_port_of_thousands_of_digits_is_a_mistake_like_any_other(text: str) -> None:
    with pytest.raises(ConfigError, match="a port is 0 to 65535"):
        parse_address(text, default_host="127.0.0.1")


def test_leading_zeros_do_not_count() -> None:
    assert parse_address(f"127.0.0.1:{'0' * 5_000}22") == TcpAddress("127.0.0.1", 22)
