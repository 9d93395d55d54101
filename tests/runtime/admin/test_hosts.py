"""Which names a server may be asked by."""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import Any

import pytest
from multidict import CIMultiDict

from tunnelfleet.runtime.admin.hosts import HostCheck


def request(*hosts: str, own: object = ("127.0.0.1", 80)) -> Any:
    headers = CIMultiDict([("Host", host) for host in hosts])
    return SimpleNamespace(headers=headers, get_extra_info=lambda _name: own)


@pytest.mark.parametrize(
    ("listens", "host", "own"),
    [
        ("127.0.0.1", "127.0.0.1", ("127.0.0.1", 80)),
        ("127.0.0.1", "localhost:80", ("127.0.0.1", 80)),
        ("::1", "[::1]:80", ("::1", 80, 0, 0)),
        ("::1", "[0:0::1]", ("::1", 80, 0, 0)),
        ("0.0.0.0", "192.0.2.7:80", ("192.0.2.7", 80)),
        ("::", "[fe80::1]", ("fe80::1%eth0", 80, 0, 2)),
        ("0.0.0.0", socket.gethostname().upper(), ("192.0.2.7", 80)),
        ("0.0.0.0", "localhost", ("127.0.0.1", 80)),
        ("gw.example", "GW.example.:80", ("192.0.2.7", 80)),
        ("0.0.0.0", "alias.example", ("192.0.2.7", 80)),
    ],
)
def test_a_name_of_its_own(listens: str, host: str, own: object) -> None:
    assert HostCheck(listens, ["alias.example"]).admits(request(host, own=own))


@pytest.mark.parametrize(
    ("listens", "hosts", "own"),
    [
        ("127.0.0.1", [], ("127.0.0.1", 80)),
        ("127.0.0.1", ["127.0.0.1", "127.0.0.1"], ("127.0.0.1", 80)),
        ("127.0.0.1", ["evil.example"], ("127.0.0.1", 80)),
        ("127.0.0.1", ["192.0.2.7"], ("127.0.0.1", 80)),
        ("0.0.0.0", ["192.0.2.8"], ("192.0.2.7", 80)),
        ("0.0.0.0", ["localhost"], ("192.0.2.7", 80)),
        ("0.0.0.0", ["localhost.evil.example"], ("127.0.0.1", 80)),
        ("0.0.0.0", ["[::1"], ("192.0.2.7", 80)),
        ("0.0.0.0", [""], ("192.0.2.7", 80)),
        ("0.0.0.0", ["192.0.2.7"], None),
        ("0.0.0.0", ["localhost"], "path"),
    ],
)
def test_a_name_of_somebody_else_s(listens: str, hosts: list[str], own: object) -> None:
    assert not HostCheck(listens).admits(request(*hosts, own=own))
