"""boto3 against a server that answers as a test says: what each error means, and its text."""

from __future__ import annotations

import http.server
import json
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.demand import aws_keys
from tests.support.waiting import WAIT_SECONDS
from tunnelfleet.runtime.gateway.config import CloudPlace
from tunnelfleet.runtime.gateway.on_demand.cloud import (
    AwsCloud,
    CloudError,
    CloudTrouble,
    OpenedTunnel,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OPENED = {"tunnelId": "t-1", "tunnelArn": "arn", "sourceAccessToken": "secret-source"}


class Api:
    """A server whose answers a test says; it keeps what it was asked."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, Any]] = []
        self.asked: list[tuple[str, dict[str, Any]]] = []
        api = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                api.asked.append((self.headers["X-Amz-Target"].rpartition(".")[2], body))
                status, answer = api.answers.pop(0)
                if status == 0:
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                text = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/x-amz-json-1.1")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_args: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.cloud = AwsCloud(CloudPlace("eu-west-1", self.url))

    def close(self) -> None:
        self.cloud.close()
        self._server.shutdown()
        self._thread.join(WAIT_SECONDS)
        self._server.server_close()


@pytest.fixture
def api() -> Iterator[Api]:
    with aws_keys():
        made = Api()
        yield made
        made.close()


def open_one(cloud: AwsCloud) -> OpenedTunnel:
    return cloud.open_tunnel("press-4", ("SSH",), 60, "a mark", {"site": "lyon"})


def error_of(call: Callable[[], object]) -> CloudError:
    with pytest.raises(CloudError) as caught:
        call()
    return caught.value


def test_what_is_asked(api: Api) -> None:
    api.answers = [
        (200, OPENED),
        (
            200,
            {"tunnel": {"status": "OPEN", "destinationConnectionState": {"status": "CONNECTED"}}},
        ),
        (200, {"tunnel": {"status": "CLOSED"}}),
        (200, {}),
    ]
    opened = open_one(api.cloud)
    assert opened == ("t-1", "secret-source")
    assert "secret" not in repr(opened)
    assert api.cloud.describe_tunnel("t-1") == (True, True)
    assert api.cloud.describe_tunnel("t-1") == (False, False)
    api.cloud.close_tunnel("t-1")
    assert api.asked == [
        (
            "OpenTunnel",
            {
                "description": "a mark",
                "tags": [{"key": "site", "value": "lyon"}],
                "destinationConfig": {"thingName": "press-4", "services": ["SSH"]},
                "timeoutConfig": {"maxLifetimeTimeoutMinutes": 60},
            },
        ),
        ("DescribeTunnel", {"tunnelId": "t-1"}),
        ("DescribeTunnel", {"tunnelId": "t-1"}),
        ("CloseTunnel", {"tunnelId": "t-1", "delete": True}),
    ]


def test_a_tunnel_is_found_by_its_mark_on_whatever_page(api: Api) -> None:
    def summary(number: int, mark: str, status: str = "OPEN") -> dict[str, str]:
        return {"tunnelId": f"t-{number}", "description": mark, "status": status}

    first = [summary(1, "another"), summary(2, "a mark", "CLOSED")]
    api.answers = [
        (200, {"tunnelSummaries": first, "nextToken": "more"}),
        (200, {"tunnelSummaries": [summary(3, "a mark"), {"tunnelId": "t-4"}]}),
    ]
    assert api.cloud.find_tunnels("press-4", "a mark") == ["t-3"]
    assert api.asked[1] == (
        "ListTunnels",
        {"thingName": "press-4", "maxResults": 100, "nextToken": "more"},
    )


@pytest.mark.parametrize(
    ("status", "answer", "trouble", "text"),
    [
        (400, {"__type": "ThrottlingException", "message": "Rate"}, CloudTrouble.THROTTLED, "Rate"),
        (429, {"__type": "Odd", "message": "slow down"}, CloudTrouble.THROTTLED, "Odd: slow down"),
        (400, {"__type": "LimitExceededException", "message": "x"}, CloudTrouble.REFUSED, "x"),
        (403, {"__type": "AccessDenied", "message": "no\\nway\x1b[0m"}, CloudTrouble.REFUSED, "no"),
        (500, {"__type": "InternalFailure"}, CloudTrouble.UNKNOWN, "InternalFailure"),
        (503, b"<html>", CloudTrouble.UNKNOWN, "OpenTunnel at http://127.0.0.1:"),
        (200, {"tunnelId": "t-1"}, CloudTrouble.UNKNOWN, "without 'sourceAccessToken'"),
        (200, b"<html>", CloudTrouble.UNKNOWN, "OpenTunnel at http://127.0.0.1:"),
        (0, None, CloudTrouble.UNKNOWN, "closed"),
    ],
)
def test_what_an_error_means(
    api: Api, status: int, answer: Any, trouble: CloudTrouble, text: str
) -> None:
    api.answers = [(status, answer)]
    error = error_of(lambda: open_one(api.cloud))
    assert error.trouble is trouble
    assert text in str(error)
    assert str(error).isprintable()
    assert len(str(error)) < 400
    assert len(api.asked) == 1, "it is never sent twice"


def test_a_tunnel_that_is_not_there(api: Api) -> None:
    gone = (400, {"__type": "ResourceNotFoundException", "message": "no"})
    api.answers = [gone, gone, gone]
    assert api.cloud.describe_tunnel("t-1") == (False, False)
    api.cloud.close_tunnel("t-1")
    assert error_of(lambda: api.cloud.find_tunnels("a", "b")).trouble is CloudTrouble.NOT_FOUND
    api.answers = [(500, {"__type": "InternalFailure"})] * 2
    assert error_of(lambda: api.cloud.describe_tunnel("t-1")).trouble is CloudTrouble.UNKNOWN
    assert error_of(lambda: api.cloud.close_tunnel("t-1")).trouble is CloudTrouble.UNKNOWN


def test_an_answer_that_does_not_come(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunnelfleet.runtime.gateway.on_demand.cloud.READ_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        cloud = AwsCloud(CloudPlace(None, f"http://127.0.0.1:{silent.getsockname()[1]}"))
        error = error_of(lambda: open_one(cloud))
        cloud.close()
    assert error.trouble is CloudTrouble.UNKNOWN
    assert "Read timeout" in error.text


def test_nobody_who_answers(api: Api) -> None:
    with socket.create_server(("127.0.0.1", 0)) as made:
        port = made.getsockname()[1]
    cloud = AwsCloud(CloudPlace(None, f"http://127.0.0.1:{port}"))
    error = error_of(lambda: open_one(cloud))
    cloud.close()
    assert error.trouble is CloudTrouble.REFUSED
    assert "Could not connect" in error.text


def test_no_credentials(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    error = error_of(lambda: open_one(api.cloud))
    assert error.trouble is CloudTrouble.REFUSED
    assert error.text.endswith("or any keys if the service checks none")
    cloud = AwsCloud(CloudPlace("eu-west-1"))
    error = error_of(lambda: open_one(cloud))
    cloud.close()
    assert "OpenTunnel at AWS in eu-west-1: there are no AWS credentials" in error.text


def test_a_profile_that_is_not_there(api: Api) -> None:
    cloud = AwsCloud(CloudPlace("eu-west-1", None, "nobody"))
    error = error_of(lambda: open_one(cloud))
    assert error.trouble is CloudTrouble.REFUSED
    assert "nobody" in error.text
