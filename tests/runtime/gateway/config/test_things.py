from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime import TcpAddress, UnixAddress
from tunnelfleet.runtime.gateway.config.things import (
    BrokerAddress,
    address_for,
    check_template,
    check_thing,
    number_in,
    parse_broker,
)


@pytest.mark.parametrize(
    ("thing", "number"),
    [
        ("press-4", "4"),
        ("line2-press-07", "7"),
        ("a1b", "1"),
        ("000", "0"),
        ("oven", None),
        ("1-a_2:x", "2"),
    ],
)
def test_the_number_is_the_last_one_without_zeros(thing: str, number: str | None) -> None:
    assert number_in(thing) == number


@pytest.mark.parametrize(
    ("template", "address"),
    [
        ("{thing}.plant.lan:22", TcpAddress("press-07.plant.lan", 22)),
        ("10.0.0.{n}:80", TcpAddress("10.0.0.7", 80)),
        ("10.0.0.1:100{n}", TcpAddress("10.0.0.1", 1007)),
        ("unix:/run/{thing}.sock", UnixAddress("/run/press-07.sock")),
        (22, TcpAddress("127.0.0.1", 22)),
        ("[fe80::{n}]:22", TcpAddress("fe80::7", 22)),
    ],
)
def test_an_address_is_made_for_a_thing(template: str | int, address: object) -> None:
    check_template(str(template))
    assert address_for("press-07", template) == address


@pytest.mark.parametrize("template", ["{n", "n}:22", "{N}:22", "{}:1", "{thing}", "x:{n}00000"])
def test_what_is_no_template(template: str) -> None:
    with pytest.raises(ConfigError):
        check_template(template)


def test_a_template_that_is_good_for_some_things_only() -> None:
    check_template("x:{n}000")
    with pytest.raises(ConfigError, match="bad address"):
        address_for("press-99", "x:{n}000")
    with pytest.raises(ConfigError, match="no number"):
        address_for("oven", "x:{n}")


@given(st.text(max_size=140))
def test_a_thing_is_never_a_wildcard_or_a_level(text: str) -> None:
    try:
        check_thing(text)
    except ConfigError:
        return
    assert text.isascii()
    assert not set(text) & set("+#/$.\0 ")


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("mqtts://h", BrokerAddress("h", 8883, is_tls=True)),
        ("mqtt://h/", BrokerAddress("h", 1883, is_tls=False)),
        ("mqtts://[::1]:443", BrokerAddress("::1", 443, is_tls=True)),
    ],
)
def test_brokers(url: str, address: BrokerAddress) -> None:
    assert parse_broker(url) == address
    assert parse_broker(str(address)) == address


@pytest.mark.parametrize(
    "url", ["h", "http://h", "mqtt://", "mqtt://h:0", "mqtt://h/t", "mqtts://h?a=b", "mqtt://a:b@h"]
)
def test_what_is_no_broker(url: str) -> None:
    with pytest.raises(ConfigError):
        parse_broker(url)
