"""Names of certificates, and endpoints that clients can use."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.service import TunnelService, names
from tunnelfleet.runtime.service.names import (
    MAX_NAMES,
    certificate_names,
    checked_names,
    covers,
    lan_addresses,
    reachable_hosts,
)
from tunnelfleet.runtime.service.tls import ensure_certificate, load_certificate

if TYPE_CHECKING:
    from pathlib import Path


def test_names_are_taken_in_their_usual_form() -> None:
    given = [
        "Relay.Example.COM",
        "192.168.1.5",
        "[2001:DB8::0:1]",
        "*.example.com",
        "xn--bcher-kva",
    ]
    assert checked_names([*given, *given]) == (
        "relay.example.com",
        "192.168.1.5",
        "2001:db8::1",
        "*.example.com",
        "xn--bcher-kva",
    )


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a b",
        "a:1",
        "a\x1b",
        "b\u00fccher.example",
        "1.2.3.400",
        "a..b",
        "-a",
        "a" * 64,
        "0.0.0.0",
    ],
)
def test_what_is_no_name_is_an_error(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        checked_names([name])
    assert str(caught.value).isprintable()


def test_there_are_not_endless_names() -> None:
    with pytest.raises(ConfigError, match="at most"):
        checked_names(f"n{n}.example" for n in range(MAX_NAMES + 1))


def test_the_addresses_of_this_machine_can_be_connected_to() -> None:
    found = lan_addresses("::")
    assert len(set(found)) == len(found)
    for address in found:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family) as listener:
            listener.bind((address, 0))


def test_on_every_address_the_lan_is_in_the_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "_preferred", lambda: ["192.168.7.2"])
    monkeypatch.setattr(
        names, "_ipv4_addresses", lambda: ["127.0.0.1", "10.0.0.1", "192.168.7.2", "169.254.1.1"]
    )
    monkeypatch.setattr(names, "_ipv6_addresses", lambda: ["2001:db8::7"])
    monkeypatch.setattr(socket, "gethostname", lambda: "Press-4")
    loopback = ("localhost", "127.0.0.1", "::1")
    assert certificate_names("0.0.0.0", ["a.example"]) == (
        *loopback,
        "press-4",
        "192.168.7.2",
        "10.0.0.1",
        "a.example",
    )
    assert "2001:db8::7" in certificate_names("::", [])
    assert certificate_names("127.0.0.1", []) == loopback
    assert reachable_hosts("0.0.0.0", [], None) == ("192.168.7.2", "10.0.0.1", "127.0.0.1")
    assert reachable_hosts("::", ["*.b.example", "a.example"], None) == (
        "a.example",
        "192.168.7.2",
        "10.0.0.1",
        "2001:db8::7",
        "::1",
    )


def test_a_host_name_that_is_no_name_of_dns_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "m\u00fcller's pc")
    assert not [name for name in certificate_names("0.0.0.0", []) if "pc" in name]


@pytest.mark.parametrize(
    ("host", "is_covered"),
    [
        ("relay.example.com", True),
        ("RELAY.example.com", True),
        ("a.wild.example", True),
        ("b.a.wild.example", False),
        ("wild.example", False),
        ("10.0.0.1", True),
        ("10.0.0.2", False),
    ],
)
def test_a_certificate_covers_what_clients_accept(host: str, is_covered: bool) -> None:
    assert covers(("relay.example.com", "*.wild.example", "10.0.0.1"), host) is is_covered


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_given_certificate_says_what_is_told_as_endpoint(tmp_path: Path, host: str) -> None:
    files = ensure_certificate(tmp_path, "relay.example")
    with TunnelService(
        host=host, certificate=files.certificate, private_key=files.private_key
    ) as service:
        assert service.endpoint == f"wss://127.0.0.1:{service.port}"
    certificate = load_certificate(files.certificate)
    assert certificate is not None
    assert reachable_hosts("198.51.100.7", [], certificate)[0] == "localhost"
    foreign = load_certificate(ensure_certificate(tmp_path / "b", "127.0.0.1").certificate)
    assert reachable_hosts("127.0.0.9", [], foreign) == ("127.0.0.9",)


def test_a_service_is_named() -> None:
    with TunnelService(names=["relay.example"], host="0.0.0.0") as service:
        assert service.endpoint == f"wss://relay.example:{service.port}"
        assert f"wss://127.0.0.1:{service.port}" in service.endpoints
    with pytest.raises(ConfigError, match="names are for"):
        TunnelService(names=["relay.example"], tls=False)
