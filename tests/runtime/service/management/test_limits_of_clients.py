"""Clients of the service's APIs that are slow, many, or send too much: they lock nobody out."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.support.aws_service import call_api, post_raw
from tests.support.sockets import read_to_end
from tests.support.waiting import WAIT_SECONDS
from tunnelfleet.runtime.admin import http_thread as http
from tunnelfleet.runtime.service.management import ManagementServer
from tunnelfleet.runtime.service.watch import ServiceFigures, ServiceWatch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tunnelfleet.runtime.service import TunnelService

PLACES = 8
HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"


@pytest.fixture
def management(
    service: TunnelService, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ManagementServer]:
    """An API with few places."""
    monkeypatch.setattr(http, "MAX_CONNECTIONS", PLACES)
    with ManagementServer(service) as running:
        yield running


def reach(url: str) -> socket.socket:
    parts = urlsplit(url)
    return socket.create_connection((str(parts.hostname), parts.port or 0), WAIT_SECONDS)


def answers(management: ManagementServer) -> bool:
    return call_api(management.url, "ListTunnels", {})[0] == 200


@pytest.mark.parametrize(
    "sent",
    [b"", b"P", HEAD, HEAD + b"\r\n", HEAD + b"\r\n{"],
    ids=["nothing", "a byte", "half a head", "no body", "half a body"],
)
def test_many_that_do_not_go_on_lock_nobody_out(management: ManagementServer, sent: bytes) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(4 * PLACES):
            stack.enter_context(reach(management.url)).sendall(sent)
            assert answers(management)


@pytest.mark.parametrize(
    "sent",
    [
        b"POST /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\n" + b"X: y\r\n" * 30_000 + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    ],
    ids=["long path", "long header", "many headers", "TLS"],
)
def test_what_is_no_request(management: ManagementServer, sent: bytes) -> None:
    with (
        reach(management.url) as sock,
        contextlib.suppress(BrokenPipeError, ConnectionResetError),
    ):
        sock.sendall(sent)
        got = read_to_end(sock)
        assert not got or got.split(b" ", 2)[1] == b"400"
    assert answers(management)


def test_a_body_that_does_not_come_is_not_waited_for_long(
    management: ManagementServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "BODY_SECONDS", 0.1)
    with reach(management.url) as sock:
        sock.sendall(HEAD + b"\r\n{")
        assert read_to_end(sock).startswith(b"HTTP/1.1 413 ")
    assert answers(management)


def test_a_body_without_a_length_is_cut_at_the_limit(management: ManagementServer) -> None:
    head = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"10000\r\n" + b" " * 65_536 + b"\r\n"
    with (
        reach(management.url) as sock,
        contextlib.suppress(BrokenPipeError, ConnectionResetError),
    ):
        sock.sendall(head)
        for _ in range(2 * http.MAX_BODY_BYTES // 65_536):
            sock.sendall(chunk)
        assert read_to_end(sock).startswith(b"HTTP/1.1 413 ")
    assert answers(management)


def test_what_watches_the_service_has_the_same_limits(
    service: TunnelService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "MAX_CONNECTIONS", PLACES)
    with (
        ServiceWatch(service, ServiceFigures(service.stats)) as watch,
        contextlib.ExitStack() as stack,
    ):
        for _ in range(4 * PLACES):
            stack.enter_context(reach(watch.url)).sendall(b"GET /metrics HTTP/1.1\r\n")
            assert post_raw(watch.url, None, b"", "/healthz", "GET")[0] == 200
