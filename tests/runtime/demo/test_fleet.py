from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from tests.support.waiting import WAIT_SECONDS
from tunnelfleet.runtime.demo.fleet import (
    CONNECT_RATE_PER_SECOND,
    admin_lines,
    guide_lines,
    open_pair,
    tunnel_names,
)
from tunnelfleet.runtime.demo.servers import SERVICES
from tunnelfleet.runtime.demo.traffic import Traffic
from tunnelfleet.runtime.runtime import TunnelRuntime
from tunnelfleet.runtime.service import TunnelService

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tunnelfleet.runtime.demo.fleet import DemoTunnel


@pytest.mark.parametrize("count", [1, 8, 20, 1_000])
def test_names_are_as_many_as_wanted_different_and_sorted(count: int) -> None:
    names = tunnel_names(count)

    assert len(set(names)) == len(names) == count
    assert names == sorted(names)
    assert all("." not in name and name.isascii() for name in names)


def test_names_have_as_many_digits_as_needed() -> None:
    assert "press-01" in tunnel_names(20)
    assert "press-125" in tunnel_names(1_000)
    assert "press-001" in tunnel_names(1_000)


@pytest.fixture
def pair() -> Iterator[DemoTunnel]:
    with (
        TunnelService() as service,
        TunnelRuntime(
            connect_rate_per_second=CONNECT_RATE_PER_SECOND, ssl_context=service.ssl_context()
        ) as runtime,
        Traffic() as traffic,
    ):
        pair = open_pair("press-01", service, runtime, traffic.serve)
        assert runtime.wait_until(
            lambda: pair.is_whole() and pair.addresses() is not None, timeout_seconds=WAIT_SECONDS
        )
        yield pair


def test_a_pair_leads_from_its_listeners_to_its_servers(pair: DemoTunnel) -> None:
    addresses = pair.addresses()

    assert addresses is not None
    assert set(addresses) == set(SERVICES)
    with socket.create_connection(addresses["HTTP"], timeout=WAIT_SECONDS) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
        with sock.makefile("rb") as reply:
            assert reply.read().endswith(b"hello from tunnel press-01\n")


def test_the_guide_has_commands_for_every_service_and_no_token() -> None:
    addresses = {
        service_id: ("127.0.0.1", 5_000 + number) for number, service_id in enumerate(SERVICES)
    }
    text = "\n".join(guide_lines("press-01", addresses, "wss://127.0.0.1:8443", "/etc/ca.pem"))

    for words in (
        "tunnel press-01",
        "curl http://127.0.0.1:5001/",
        "nc 127.0.0.1 5000",
        "nc 127.0.0.1 5002",
        "wss://127.0.0.1:8443",
        "/etc/ca.pem",
        "tunnelfleet service",
    ):
        assert words in text


def test_the_guide_leaves_out_a_certificate_that_there_is_not() -> None:
    addresses = dict.fromkeys(SERVICES, ("127.0.0.1", 1))

    assert "certificate" not in "\n".join(guide_lines("a", addresses, "ws://127.0.0.1:1", ""))


def test_the_guide_fits_a_terminal() -> None:
    addresses = dict.fromkeys(SERVICES, ("127.0.0.1", 65_535))
    ca_path = "/tmp" + "/tunnelfleet-service-abcdefgh/ca.pem"
    lines = guide_lines("press-01", addresses, "wss://127.0.0.1:65535", ca_path)
    assert max(map(len, lines)) <= 80
    assert max(map(len, admin_lines("http://127.0.0.1:65535"))) <= 80
