"""Which names a server may be asked by."""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import Any

import pytest
from multidict import CIMultiDict

from tunnelfleet.runtime.admin.options import HostCheck


def asked_by(*hosts: str) -> Any:
    return SimpleNamespace(headers=CIMultiDict([("Host", host) for host in hosts]))


NAMES = ("alias.example", "GW.example")


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1:80",
        "[::1]:80",
        "[0:0::1]",
        # What a client calls the machine whose port is passed on to this one.
        "192.0.2.7:80",
        "[2001:db8::7]",
        "localhost",
        "LocalHost:8080",
        socket.gethostname().upper(),
        socket.gethostname().partition(".")[0],
        "gw.example.:80",
        "alias.example",
    ],
)
def test_an_address_or_a_name_of_its_own(host: str) -> None:
    assert HostCheck(NAMES).admits(asked_by(host))


@pytest.mark.parametrize(
    "hosts",
    [
        [],
        ["127.0.0.1", "127.0.0.1"],
        [""],
        ["evil.example"],
        ["localhost.evil.example"],
        ["127.0.0.1.evil.example"],
        ["alias.example.evil.example"],
        ["[::1"],
        ["[::1].evil.example"],
        ["[alias.example]"],
        ["::1"],
        ["alias.example:"],
        ["alias.example:1:2"],
        ["alias.example, evil.example"],
        ["evil.example@alias.example"],
        ["2130706433"],
        ["x" * 4_000],
    ],
)
def test_a_name_of_somebody_else_s(hosts: list[str]) -> None:
    assert not HostCheck(NAMES).admits(asked_by(*hosts))
