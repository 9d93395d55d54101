"""Clients that are slow, many or hostile: the API goes on, and lets them go."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import resource
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.gateway_api import ApiRig, api_entry
from tests.support.sockets import read_to_end
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.runtime.admin import listener
from tunnelfleet.runtime.gateway.api import requests
from tunnelfleet.runtime.gateway.api.context import Work
from tunnelfleet.runtime.gateway.api.operations import ApiProblem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

QUICK: dict[str, Any] = {"request_seconds": 0.4, "response_seconds": 0.4, "idle_seconds": 0.4}
POST = (
    b"POST /v1/tunnels HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"Content-Length: 1000\r\n\r\n"
)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[ApiRig]:
    """An API whose clients have little time, and which takes few of them."""
    with ApiRig(tmp_path, max_connections=8, **QUICK) as running:
        yield running


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"G",
        b"GET /v1/tunnels HTTP/1.1\r\n",
        b"GET /v1/tunnels HTTP/1.1\r\nHost: x\r\n",
        POST,
        POST + b'{"name": ',
        b"GET /v1/gateway HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1/gateway HTTP/1.1\r\nHost: x\r\n\r\nGET /v1",
    ],
    ids=["nothing", "a byte", "a line", "headers", "no body", "half a body", "idle", "half more"],
)
def test_one_that_does_not_go_on_is_let_go(rig: ApiRig, sent: bytes) -> None:
    with rig.client.socket() as sock:
        sock.sendall(sent)
        read_to_end(sock)
    assert rig.client.get("/v1/gateway").status == 200


def test_a_body_that_comes_byte_by_byte_ends_in_time(rig: ApiRig) -> None:
    with rig.client.socket() as sock, contextlib.suppress(OSError):
        sock.sendall(POST)
        for _ in range(1_000):
            sock.sendall(b" ")
            time.sleep(0.005)
            if sock.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK) == b"":
                break
        else:
            pytest.fail("a body may take as long as it likes")


@pytest.mark.parametrize("sent", [b"", b"GET /v1/tunnels HTTP/1.1\r\n", POST])
def test_many_that_say_little_lock_nobody_out(tmp_path: Path, sent: bytes) -> None:
    with ApiRig(tmp_path, max_connections=8) as rig, contextlib.ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(rig.client.socket()).sendall(sent)
            assert rig.client.get("/v1/gateway").status == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1/gateway HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"GET /v1/gateway HTTP/1.1\r\n"
        + b"".join(b"X-%d: y\r\n" % number for number in range(10_000))
        + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        b"\x00" * 1_000,
        b"POST /v1/reload HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/reload HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /v1/reload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        (
            b"POST /v1/reload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
            b"Content-Length: 3\r\n\r\n0\r\n\r\n"
        ),
    ],
    ids=[
        *("long path", "long header", "many headers", "TLS", "zeros", "negative length"),
        *("two lengths", "bad chunk", "both lengths"),
    ],
)
def test_what_is_no_request(rig: ApiRig, sent: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with rig.client.socket() as sock, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        sock.sendall(sent)
        got = read_to_end(sock)
        assert not got or got.startswith((b"HTTP/1.1 400", b"HTTP/1.0 400"))
    assert rig.client.get("/v1/gateway").status == 200
    assert "yyyy" not in caplog.text


class TestBodies:
    @pytest.fixture
    def rig(self, tmp_path: Path) -> Iterator[ApiRig]:
        """One whose clients have the usual time: a large body takes a busy machine a moment."""
        with ApiRig(tmp_path) as running:
            yield running

    def test_a_length_that_is_too_large_is_not_read(self, rig: ApiRig) -> None:
        with rig.client.socket() as sock:
            sock.sendall(POST.replace(b"1000", b"300000000"))
            # The words of RFC 7231, or of RFC 9110: each release of Python has its own.
            assert sock.recv(65_536).startswith(b"HTTP/1.1 413 ")

    def test_a_body_that_is_too_large(self, rig: ApiRig) -> None:
        text = json.dumps(api_entry("b", labels={"site": "x" * requests.MAX_BODY_BYTES}))
        headers = {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}
        for body in (text.encode(), _chunked(text.encode())):
            kind = (
                headers
                if body.startswith(b"1000\r\n")
                else {"Content-Type": headers["Content-Type"]}
            )
            rig.client.ask("POST", "/v1/tunnels", body, kind).problem(413, "too-large")

    def test_a_small_body_that_unpacks_to_a_large_one(self, rig: ApiRig) -> None:
        bomb = gzip.compress(b" " * 20_000_000)
        assert len(bomb) < requests.MAX_BODY_BYTES
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        rig.client.ask("POST", "/v1/tunnels", bomb, headers).problem(413, "too-large")

    def test_the_largest(self, rig: ApiRig) -> None:
        text = json.dumps(api_entry("b"))
        body = (text + " " * (requests.MAX_BODY_BYTES - len(text))).encode()
        headers = {"Content-Type": "application/json"}
        assert rig.client.ask("POST", "/v1/tunnels", body, headers).status == 201

    def test_a_body_that_nobody_asked_for(self, rig: ApiRig) -> None:
        assert rig.client.ask("GET", "/v1/gateway", b"x" * 1_000).status == 200


def _chunked(body: bytes) -> bytes:
    parts = [body[at : at + 4_096] for at in range(0, len(body), 4_096)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def test_a_client_that_leaves_before_its_answer(rig: ApiRig) -> None:
    rig.files.may_read.clear()
    with rig.client.socket() as sock:
        sock.sendall(b"POST /v1/reload HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        eventually(lambda: rig.files.readings == 2)
    rig.files.may_read.set()
    assert rig.client.get("/v1/gateway").status == 200


def test_without_descriptors_it_rests_and_goes_on(
    rig: ApiRig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(listener, "ACCEPT_PAUSE_SECONDS", 0.02)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(WAIT_SECONDS)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        try:
            sock.connect(rig.server.url.removeprefix("unix:"))
            eventually(lambda: "the admin API cannot accept a connection" in caplog.text)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        sock.sendall(b"GET /v1/gateway HTTP/1.1\r\nHost: x\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 200 ")


def test_many_clients_at_once(tmp_path: Path) -> None:
    """Each adds, changes and deletes its own; none is lost."""
    failures: list[object] = []

    def work(rig: ApiRig, number: int) -> None:
        name = f"t{number}"
        expected = [
            (rig.client.ask("POST", "/v1/tunnels", api_entry(name)).status, 201),
            (
                rig.client.ask("PUT", f"/v1/tunnels/{name}", api_entry(name, marks=False)).status,
                200,
            ),
            (rig.client.get(f"/v1/tunnels?name={name}").json["tunnels"][0]["name"], name),
            (rig.client.ask("DELETE", f"/v1/tunnels/{name}").status, 204),
        ]
        failures.extend(each for each in expected if each[0] != each[1])

    with ApiRig(tmp_path) as rig:
        threads = [threading.Thread(target=work, args=(rig, number)) for number in range(24)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert failures == []
        assert rig.gateway.state.sources["api"] == {}


def test_of_those_who_condition_on_one_tag_one_wins(tmp_path: Path) -> None:
    with ApiRig(tmp_path) as rig:
        tag = rig.client.ask("POST", "/v1/tunnels", api_entry("b")).headers["ETag"]
        statuses: list[int] = []

        def put(number: int) -> None:
            given = api_entry("b", labels={"n": str(number)})
            answer = rig.client.ask("PUT", "/v1/tunnels/b", given, {"If-Match": tag})
            statuses.append(answer.status)

        threads = [threading.Thread(target=put, args=(number,)) for number in range(8)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert sorted(statuses) == [200] + [412] * 7


class TestWork:
    def test_what_waits_is_bounded(self) -> None:
        work = Work("test-work", 1, 2)
        may_end = threading.Event()

        async def ask() -> list[object]:
            asked = [asyncio.create_task(work.run(may_end.wait, WAIT_SECONDS)) for _ in range(3)]
            done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            may_end.set()
            found: list[object] = await asyncio.gather(*asked, return_exceptions=True)
            assert len(done) == 1
            return found

        *good, refused = asyncio.run(ask())
        assert good == [True, True]
        assert isinstance(refused, ApiProblem)
        assert "too many requests wait" in refused.detail
        work.stop()

    def test_after_the_end(self) -> None:
        work = Work("test-work", 1, 2)
        work.stop()
        for _ in range(3):
            with pytest.raises(ApiProblem, match="is being stopped"):
                asyncio.run(work.run(int))
