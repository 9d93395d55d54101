"""Endpoints as people type them (docs/protocol.md section 1)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnelfleet.proto import ConfigError, Endpoint, Mode
from tunnelfleet.proto.endpoint import parse_port


def repr_of_start(value: object) -> str:
    return ascii(value)[:12]


@pytest.mark.parametrize(
    ("text", "expected", "shown"),
    [
        ("example.com", Endpoint("wss", "example.com", 443), "wss://example.com"),
        ("example.com:8443", Endpoint("wss", "example.com", 8443), "wss://example.com:8443"),
        (" wss://example.com/ ", Endpoint("wss", "example.com", 443), "wss://example.com"),
        ("WSS://example.com:443", Endpoint("wss", "example.com", 443), "wss://example.com"),
        ("ws://127.0.0.1", Endpoint("ws", "127.0.0.1", 80), "ws://127.0.0.1"),
        ("ws://localhost:443", Endpoint("ws", "localhost", 443), "ws://localhost:443"),
        ("[::1]:8443", Endpoint("wss", "::1", 8443), "wss://[::1]:8443"),
        ("wss://[fe80::1]", Endpoint("wss", "fe80::1", 443), "wss://[fe80::1]"),
        ("::1", Endpoint("wss", "::1", 443), "wss://[::1]"),
        ("my_host.", Endpoint("wss", "my_host.", 443), "wss://my_host."),
    ],
)
def test_parse(text: str, expected: Endpoint, shown: str) -> None:
    endpoint = Endpoint.parse(text)
    assert endpoint == expected
    assert str(endpoint) == shown
    assert Endpoint.parse(shown) == endpoint
    assert endpoint.is_tls is (expected.scheme == "wss")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no valid host"),
        ("wss://", "no valid host"),
        ("https://example.com", "neither wss nor ws"),
        ("://example.com", "neither wss nor ws"),
        ("user:pw@example.com", "user name or password"),
        ("example.com/tunnel", "path, query or fragment"),
        ("example.com?local-proxy-mode=source", "path, query or fragment"),
        ("example.com#x", "path, query or fragment"),
        ("example.com:", "a port that is not a number"),
        ("example.com:0", "a port that is not a number"),
        ("example.com:65536", "a port that is not a number"),
        ("example.com:https", "a port that is not a number"),
        ("example.com:+1", "a port that is not a number"),
        ("example.com:\u0661", "a port that is not a number"),
        ("[::1", "closing bracket"),
        ("[::1]8443", "closing bracket"),
        ("[example.com]:1", "not an IPv6 address"),
        ("exa mple.com", "no valid host"),
        ("-example.com", "no valid host"),
        ("example..com", "no valid host"),
        ("x" * 64, "no valid host"),
        (".".join(["x" * 63] * 4), "no valid host"),
    ],
)
def test_parse_says_what_is_wrong_and_what_would_do(text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        Endpoint.parse(text)
    assert "give HOST" in str(caught.value)


def test_an_error_does_not_quote_a_token_given_by_mistake() -> None:
    token = "AQGAAXg5Secret+/=="
    with pytest.raises(ConfigError) as caught:
        Endpoint.parse(token)
    assert "Secret" not in str(caught.value)


@given(st.text(max_size=40))
def test_parse_raises_nothing_else(text: str) -> None:
    try:
        endpoint = Endpoint.parse(text)
    except ConfigError:
        return
    assert Endpoint.parse(str(endpoint)) == endpoint


@pytest.mark.parametrize(
    ("region", "host"),
    [
        ("eu-central-1", "data.tunneling.iot.eu-central-1.amazonaws.com"),
        ("us-gov-west-1", "data.tunneling.iot.us-gov-west-1.amazonaws.com"),
        ("cn-north-1", "data.tunneling.iot.cn-north-1.amazonaws.com.cn"),
    ],
)
def test_for_region(region: str, host: str) -> None:
    assert Endpoint.for_region(region) == Endpoint("wss", host, 443)


@pytest.mark.parametrize("region", ["", "frankfurt", "eu-central-1.evil.example/", "EU-CENTRAL-1"])
def test_for_region_refuses_what_is_none(region: str) -> None:
    with pytest.raises(ConfigError, match="eu-central-1"):
        Endpoint.for_region(region)


def test_url() -> None:
    endpoint = Endpoint.parse("[::1]:8443")
    assert endpoint.url(Mode.SOURCE) == "wss://[::1]:8443/tunnel?local-proxy-mode=source"
    assert Endpoint.parse("h").url(Mode.DESTINATION) == (
        "wss://h/tunnel?local-proxy-mode=destination"
    )


@pytest.mark.parametrize(
    ("text", "port"),
    [
        ("0", 0),
        ("00022", 22),
        ("65535", 65_535),
        ("65536", None),
        ("", None),
        ("-1", None),
        ("22 ", None),
        ("\N{ARABIC-INDIC DIGIT TWO}", None),
        # Python makes no number of so many digits.
        ("0" * 5_000 + "7", 7),
        ("7" * 5_000, None),
    ],
    ids=repr_of_start,
)
def test_a_port_is_a_number_of_ascii_digits_in_its_range(text: str, port: int | None) -> None:
    assert parse_port(text) == port
