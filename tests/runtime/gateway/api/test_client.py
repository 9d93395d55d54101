"""The client against a server that answers what a test says, over real sockets."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from tests.support.waiting import WAIT_SECONDS
from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.gateway.api import client as client_module
from tunnelfleet.runtime.gateway.api.address import (
    GatewayAddress,
    GatewayNotReached,
    GatewayRefused,
)
from tunnelfleet.runtime.gateway.api.client import GatewayClient

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TOKEN = "planted-" + "t" * 40


class AnsweringServer:
    """Answers each request of each connection with the next of its answers, then hangs up."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.requests: list[bytes] = []
        self.connections = 0
        self.keeps = False
        self.hangs_up_unread = False
        self.may_end = threading.Event()

    def serve(self, listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                accepted, _ = listening.accept()
                self.connections += 1
                with accepted:
                    self._serve_one(accepted)

    def _serve_one(self, accepted: socket.socket) -> None:
        accepted.settimeout(WAIT_SECONDS)
        while self.answers:
            received = b""
            while b"\r\n\r\n" not in received:
                more = accepted.recv(65536)
                if not more:
                    return
                received += more
            head, _, body = received.partition(b"\r\n\r\n")
            length = 0
            for line in head.split(b"\r\n"):
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            while len(body) < length:
                body += accepted.recv(65536)
            self.requests.append(head + b"\r\n\r\n" + body)
            accepted.sendall(self.answers.pop(0))
            if self.hangs_up_unread:
                accepted.recv(1, socket.MSG_PEEK)
                return
            if not self.keeps:
                self.may_end.wait(20.0)
                return


def answer(content: bytes, status: str = "200 OK", kind: str = "application/json") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


@contextlib.contextmanager
def serving(path: Path, *answers: bytes, keeps: bool = True) -> Iterator[AnsweringServer]:
    server = AnsweringServer(*answers)
    server.keeps = keeps
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        thread = threading.Thread(target=server.serve, args=(listening,))
        thread.start()
        try:
            yield server
        finally:
            server.may_end.set()
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def at(path: Path) -> GatewayAddress:
    return GatewayAddress(path=str(path))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("unix:/run/a.sock", "unix:/run/a.sock"),
        ("unix:a.sock", "unix:a.sock"),
        ("http://127.0.0.1:9465", "http://127.0.0.1:9465"),
        ("http://gw", "http://gw:80"),
        ("https://gw.example/", "https://gw.example:443"),
        ("http://[::1]:80", "http://[::1]:80"),
    ],
)
def test_addresses(text: str, shown: str) -> None:
    assert str(GatewayAddress.parse(text)) == shown


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "unix:",
            "/run/a.sock",
            "gw:1",
            "ftp://gw",
            "http://",
            "http://gw:x",
            "http://gw/path",
        ),
        # What no name can be: bytes that are no UTF-8, and a part that is too long.
        *("http://g\udcffw", f"http://{'a' * 64}"),
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ConfigError, match="write unix:PATH, http://HOST:PORT"):
        GatewayAddress.parse(text)


def test_a_password_in_an_address_is_not_repeated() -> None:
    with pytest.raises(ConfigError) as caught:
        GatewayAddress.parse(f"http://me:{TOKEN}@gw")
    assert TOKEN not in str(caught.value)


def test_one_connection_serves_many_questions(tmp_path: Path) -> None:
    rows = answer(json.dumps({"tunnels": [{"name": "a"}]}).encode())
    with serving(tmp_path / "s", rows, rows) as server, GatewayClient(at(tmp_path / "s")) as client:
        assert client.tunnels(state=["refused", "backoff"], name=None) == [{"name": "a"}]
        assert client.tunnels(label="site=lyon") == [{"name": "a"}]
        client.close()
        assert server.connections == 1
        assert server.requests[0].startswith(b"GET /v1/tunnels?state=refused&state=backoff ")
        assert server.requests[1].startswith(b"GET /v1/tunnels?label=site%3Dlyon ")


def test_a_connection_that_the_gateway_closed_is_made_again(tmp_path: Path) -> None:
    one = answer(b'{"name": "gw"}')
    with (
        serving(tmp_path / "s", one, one, keeps=False) as server,
        GatewayClient(at(tmp_path / "s")) as client,
    ):
        server.may_end.set()
        assert client.gateway() == {"name": "gw"}
        assert client.gateway() == {"name": "gw"}
        assert server.connections == 2


def test_a_question_that_meets_the_end_of_a_connection_is_asked_again(tmp_path: Path) -> None:
    one = answer(b'{"name": "gw"}')
    with (
        serving(tmp_path / "s", one, one, keeps=False) as server,
        GatewayClient(at(tmp_path / "s")) as client,
    ):
        server.hangs_up_unread = True
        assert client.gateway() == {"name": "gw"}
        assert client.gateway() == {"name": "gw"}
        assert server.connections == 2


def test_a_command_that_meets_the_end_of_a_connection_is_not_repeated(tmp_path: Path) -> None:
    one = answer(b'{"name": "gw"}')
    with (
        serving(tmp_path / "s", one, one, keeps=False) as server,
        GatewayClient(at(tmp_path / "s")) as client,
    ):
        server.hangs_up_unread = True
        assert client.gateway() == {"name": "gw"}
        with pytest.raises(GatewayNotReached):
            client.reload(dry_run=False)
        assert server.connections == 1


def test_names_are_quoted_and_bodies_are_json(tmp_path: Path) -> None:
    ok = answer(b"{}")
    with (
        serving(tmp_path / "s", ok, ok, ok) as server,
        GatewayClient(at(tmp_path / "s"), TOKEN) as client,
    ):
        client.tunnel("a/b ?")
        client.replace_token("a", "new")
        client.reload(dry_run=True)
        client.close()
        assert server.requests[0].startswith(b"GET /v1/tunnels/a%2Fb%20%3F ")
        assert f"Authorization: Bearer {TOKEN}".encode() in server.requests[0]
        assert server.requests[1].endswith(b'{"access_token": "new"}')
        assert server.requests[2].startswith(b"POST /v1/reload?dry_run=true ")
        assert TOKEN not in repr(client)


def test_a_problem_has_the_gateways_words(tmp_path: Path) -> None:
    body = json.dumps({"title": "No", "detail": "it is\x1b[31m not there", "problems": []}).encode()
    with (
        serving(tmp_path / "s", answer(body, "404 Not Found")),
        GatewayClient(at(tmp_path / "s")) as client,
        pytest.raises(GatewayRefused) as caught,
    ):
        client.tunnel("a")
    assert (caught.value.status, caught.value.detail) == (404, "it is [31m not there")
    assert caught.value.members["problems"] == []


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (b"SSH-2.0-OpenSSH\r\n", "SSH-2.0"),
        (answer(b"<html>"), "its answer is no JSON"),
        (answer(b"[1]"), "its answer is no JSON object"),
        (answer(b"[" * 100_000), "its answer is no JSON that a gateway writes"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", "ended in the middle"),
    ],
)
def test_what_answers_is_no_gateway(tmp_path: Path, sent: bytes, words: str) -> None:
    with (
        serving(tmp_path / "s", sent, keeps=False) as server,
        GatewayClient(at(tmp_path / "s")) as client,
    ):
        server.may_end.set()
        with pytest.raises(GatewayNotReached, match=words):
            client.gateway()


def test_an_answer_of_any_length_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "MAX_ANSWER_BYTES", 1_000)
    with (
        serving(tmp_path / "s", answer(b'{"a": "' + b"x" * 1_000 + b'"}')),
        GatewayClient(at(tmp_path / "s")) as client,
        pytest.raises(GatewayNotReached, match="more than 1000 bytes"),
    ):
        client.gateway()


def test_a_gateway_that_says_nothing_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    with (
        serving(tmp_path / "s", b"", keeps=False),
        GatewayClient(at(tmp_path / "s"), answer_seconds=0.1) as client,
        pytest.raises(GatewayNotReached, match="no answer in time"),
    ):
        client.gateway()


def test_nobody_is_there(tmp_path: Path) -> None:
    with pytest.raises(GatewayNotReached) as caught, GatewayClient(at(tmp_path / "no")) as client:
        client.gateway()
    assert isinstance(caught.value.cause, FileNotFoundError)
    assert str(tmp_path / "no") in str(caught.value)


STREAM = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    b": a comment\n\n"
    b'id: 7\nevent: tunnel_state_changed\ndata: {"tunnel":\ndata: "a"}\n\n'
    b"retry: 1000\n\n"
    b'id: 8\r\ndata:{"b": 1}\r\n\r\n'
    b'id: 9\ndata: {"cut": '
)


def test_events_are_read_and_half_of_one_is_none(tmp_path: Path) -> None:
    with (
        serving(tmp_path / "s", STREAM, keeps=False) as server,
        GatewayClient(at(tmp_path / "s")) as client,
    ):
        server.may_end.set()
        events = list(client.events(after="6", recent=10))
        assert [(each.id, each.name, each.data) for each in events] == [
            ("7", "tunnel_state_changed", {"tunnel": "a"}),
            ("8", "message", {"b": 1}),
        ]
        assert b"Last-Event-ID: 6" in server.requests[0]
        assert b"recent=" not in server.requests[0]


def test_what_happened_before_ends_at_its_mark(tmp_path: Path) -> None:
    mark = b'event: replayed\ndata: {"event": "replayed"}\n\n'
    stream = STREAM.replace(b"retry:", mark + b"retry:")
    with (
        serving(tmp_path / "s", stream, keeps=False) as server,
        GatewayClient(at(tmp_path / "s")) as client,
    ):
        # The server says nothing more, and does not hang up either.
        events = list(client.events(recent=10, only_past=True))
        assert [each.id for each in events] == ["7"]
        assert server.requests[0].startswith(b"GET /v1/events?recent=10 ")


def test_an_event_of_any_length_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "MAX_EVENT_BYTES", 100)
    with (
        serving(tmp_path / "s", STREAM + b"x" * 1_000, keeps=False) as server,
        GatewayClient(at(tmp_path / "s")) as client,
    ):
        server.may_end.set()
        with pytest.raises(GatewayNotReached, match="too long"):
            list(client.events())
