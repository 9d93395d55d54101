"""The API over HTTP: every answer against the model, and what is no call."""

from __future__ import annotations

import json
import logging
import shutil
import socket
import ssl
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import botocore.parsers
import botocore.validate
import pytest

from tests.support.aws_service import assert_free_of, aws_client, call_api, post_raw
from tests.support.sockets import read_to_end
from tests.support.waiting import WAIT_SECONDS
from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.admin.http_thread import MAX_BODY_BYTES
from tunnelfleet.runtime.service import TunnelService
from tunnelfleet.runtime.service.management import AccessKey, ManagementServer
from tunnelfleet.runtime.service.management.model import (
    ApiError,
    LimitExceeded,
    ResourceNotFound,
    ServiceModel,
    check_output,
)
from tunnelfleet.runtime.service.tls import ensure_certificate

if TYPE_CHECKING:
    from pathlib import Path

MODEL = ServiceModel()
KEYS = {"AK": AccessKey("AK", "secret")}


def test_there_is_every_operation_of_the_model(management: ManagementServer) -> None:
    assert set(management._operations.names) == set(MODEL.operations)


def test_every_answer_is_one_of_the_model(management: ManagementServer) -> None:
    """All operations, each answer by botocore's parser and check, and by the model's patterns."""
    seen: set[str] = set()

    def ask(name: str, **given: object) -> dict[str, Any]:
        seen.add(name)
        operation = MODEL.operation(f"IoTSecuredTunneling.{name}")
        status, headers, body = post_raw(
            management.url, f"IoTSecuredTunneling.{name}", json.dumps(given).encode()
        )
        assert status == 200, body
        assert headers["Content-Type"] == "application/x-amz-json-1.1"
        check_output(operation, body)
        parser = botocore.parsers.create_parser("json")
        answer = {"status_code": status, "headers": headers, "body": body}
        parsed = parser.parse(answer, operation.output_shape)
        parsed.pop("ResponseMetadata")
        report = botocore.validate.ParamValidator().validate(parsed, operation.output_shape)
        assert not report.has_errors(), report.generate_report()
        return dict(json.loads(body))

    opened = ask(
        "OpenTunnel",
        description="all of it",
        destinationConfig={"thingName": "press-4", "services": ["SSH"]},
        timeoutConfig={"maxLifetimeTimeoutMinutes": 1},
        tags=[{"key": "a", "value": "b"}],
    )
    named = {"tunnelId": opened["tunnelId"]}
    resource = {"resourceArn": opened["tunnelArn"]}
    ask("OpenTunnel")
    assert ask("ListTunnels", maxResults=1)["nextToken"]
    ask("DescribeTunnel", **named)
    ask("ListTagsForResource", **resource)
    ask("TagResource", **resource, tags=[{"key": "c", "value": "d"}])
    ask("UntagResource", **resource, tagKeys=["a"])
    for mode in ("SOURCE", "DESTINATION", "ALL"):
        ask("RotateTunnelAccessToken", **named, clientMode=mode)
    ask("CloseTunnel", **named)
    ask("DescribeTunnel", **named)
    ask("CloseTunnel", **named, delete=True)
    assert seen == set(MODEL.operations)


def test_every_error_of_the_model_has_our_name() -> None:
    names = {
        shape.name
        for name in MODEL.operations
        for shape in MODEL.operation(f"IoTSecuredTunneling.{name}").error_shapes
    }
    assert names == {LimitExceeded.name, ResourceNotFound.name}


@pytest.mark.parametrize(
    ("target", "body", "status", "name"),
    [
        ("IoTSecuredTunneling.Nothing", b"{}", 400, "UnknownOperationException"),
        (None, b"{}", 400, "UnknownOperationException"),
        ("IoTSecuredTunneling.OpenTunnel", b"{", 400, "SerializationException"),
        ("IoTSecuredTunneling.DescribeTunnel", b"{}", 400, "ValidationException"),
        ("IoTSecuredTunneling.CloseTunnel", b'{"tunnelId":"x"}', 400, "ResourceNotFoundException"),
        (
            "IoTSecuredTunneling.OpenTunnel",
            b" " * (MAX_BODY_BYTES + 1),
            413,
            "RequestEntityTooLargeException",
        ),
    ],
)
def test_a_failure_has_its_name_in_the_body(
    management: ManagementServer, target: str | None, body: bytes, status: int, name: str
) -> None:
    found, headers, answer = post_raw(management.url, target, body)
    assert (found, headers["Content-Type"]) == (status, "application/x-amz-json-1.1")
    assert headers["x-amzn-RequestId"]
    fields = json.loads(answer)
    assert fields["__type"] == name
    assert fields["message"]
    assert set(fields) == {"__type", "message"}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 405), ("OPTIONS", "/", 405), ("PUT", "/", 405), ("POST", "/v1/tunnels", 404)],
)
def test_there_is_one_way_to_call(
    management: ManagementServer, method: str, path: str, status: int
) -> None:
    target = "IoTSecuredTunneling.OpenTunnel"
    found, headers, _ = post_raw(management.url, target, b"{}", path, method)
    assert found == status
    assert headers["Server"] == "tunnelfleet"
    assert management._records.open_count == 0


def test_a_mistake_of_ours_is_answered_and_told_without_what_was_given(
    management: ManagementServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(name: str, given: object) -> dict[str, Any]:
        raise KeyError("mistake")

    monkeypatch.setattr(management._operations, "call", fail)
    logging.getLogger("tunnelfleet").propagate = True
    status, answer = call_api(management.url, "OpenTunnel", {"description": "not to be logged"})
    assert (status, answer["__type"]) == (500, "InternalServerError")
    assert "OpenTunnel failed" in caplog.text
    assert "not to be logged" not in caplog.text


def test_more_calls_than_may_wait_are_told_to_come_again(
    management: ManagementServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunnelfleet.runtime.service.management.server.MAX_WAITING", 0)
    status, answer = call_api(management.url, "ListTunnels", {})
    assert (status, answer["__type"]) == (503, "ServiceUnavailableException")


def test_calls_are_counted(management: ManagementServer) -> None:
    for _ in range(2):
        call_api(management.url, "OpenTunnel", {})
    call_api(management.url, "DescribeTunnel", {"tunnelId": "x"})
    call_api(management.url, "Nothing", {})
    assert management.calls() == {
        ("OpenTunnel", ""): 2,
        ("DescribeTunnel", "ResourceNotFoundException"): 1,
        ("unknown", "UnknownOperationException"): 1,
    }


def test_no_token_is_logged(management: ManagementServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("tunnelfleet", "aiohttp"):
        logging.getLogger(name).propagate = True
    _, opened = call_api(management.url, "OpenTunnel", {})
    call_api(management.url, "DescribeTunnel", {"tunnelId": opened["tunnelId"]})
    assert_free_of([opened["sourceAccessToken"], opened["destinationAccessToken"]], caplog.text)


class TestWhere:
    def test_over_tls_it_has_the_certificate_of_the_service(self, tmp_path: Path) -> None:
        with TunnelService(state_dir=tmp_path) as service, ManagementServer(service) as server:
            assert server.url.startswith("https://127.0.0.1:")
            aws = aws_client(server.url, verify=str(service.ca_path))
            assert aws.list_tunnels()["tunnelSummaries"] == []
            aws.close()
            parts = urlsplit(server.url)
            context = ssl.create_default_context()
            with (
                socket.create_connection((str(parts.hostname), int(parts.port or 0))) as tcp,
                pytest.raises(ssl.SSLCertVerificationError),
            ):
                context.wrap_socket(tcp, server_hostname="127.0.0.1")

    def test_a_certificate_that_was_renewed_is_shown_here_too(self, tmp_path: Path) -> None:
        old = ensure_certificate(tmp_path / "old", "127.0.0.1")
        new = ensure_certificate(tmp_path / "new", "127.0.0.1")
        cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
        for source, target in ((old.certificate, cert), (old.private_key, key)):
            shutil.copy(source, target)
        with (
            TunnelService(certificate=cert, private_key=key) as service,
            ManagementServer(service) as server,
        ):
            before = aws_client(server.url, verify=str(old.ca))
            assert before.list_tunnels()["tunnelSummaries"] == []
            for source, target in ((new.certificate, cert), (new.private_key, key)):
                shutil.copy(source, target)
            service.reload_certificate()
            after = aws_client(server.url, verify=str(new.ca))
            assert after.list_tunnels()["tunnelSummaries"] == []
            assert before.list_tunnels()["tunnelSummaries"] == []  # on its connection
            before.close()
            after.close()

    def test_only_a_service_that_knows_its_callers_is_open_to_others(self) -> None:
        with pytest.raises(ConfigError, match="--credentials FILE"):
            ManagementServer(TunnelService(), host="0.0.0.0")
        with pytest.raises(ConfigError, match="plain http is for loopback"):
            ManagementServer(TunnelService(tls=False), host="0.0.0.0", credentials=KEYS)
        with (
            TunnelService() as service,
            ManagementServer(service, host="0.0.0.0", credentials=KEYS) as server,
        ):
            # Where clients reach it, and what the certificate is for.
            assert server.url.startswith("https://127.0.0.1:")

    def test_a_port_that_is_taken_is_told(self, management: ManagementServer) -> None:
        port = urlsplit(management.url).port or 0
        other = ManagementServer(TunnelService(tls=False), port=port)
        with pytest.raises(ConfigError, match=f"cannot listen on {management.url}"):
            other.start()
        other.stop()

    def test_without_botocore_it_says_what_to_install(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(ConfigError, match=r"pip install 'tunnelfleet\[aws\]'"):
            ManagementServer(TunnelService(tls=False))


def test_the_names_of_errors_are_all_different() -> None:
    def below(kind: type[ApiError]) -> set[type[ApiError]]:
        return {kind}.union(*(below(each) for each in kind.__subclasses__()))

    module = sys.modules[ApiError.__module__]
    public = [each for each in below(ApiError) if getattr(module, each.__name__, None) is each]
    names = [each.name for each in public if not each.__name__.startswith("_")]
    assert len(set(names)) == len(names) - 1  # InternalError has the name of its base


def test_a_page_of_a_browser_cannot_ask_by_a_name_of_its_own(
    management: ManagementServer,
) -> None:
    """DNS rebinding: without credentials the name that is asked for is what tells them apart."""
    address = urlsplit(management.url)
    for host, status in (
        (f"127.0.0.1:{address.port}", 200),
        (f"localhost:{address.port}", 200),
        (f"rebound.example:{address.port}", 421),
        ("", 421),
    ):
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with (
            socket.create_connection((address.hostname or "", address.port or 0)) as plain,
            context.wrap_socket(plain) if address.scheme == "https" else plain as sock,
        ):
            sock.settimeout(WAIT_SECONDS)
            sock.sendall(
                f"POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 2\r\nConnection: close\r\n"
                f"X-Amz-Target: IoTSecuredTunneling.OpenTunnel\r\n\r\n{{}}".encode()
            )
            answer = read_to_end(sock)
        assert answer.startswith(f"HTTP/1.1 {status} ".encode()), (host, answer)
        assert (b"AccessToken" in answer) is (status == 200)


@pytest.mark.parametrize(
    "sent",
    [
        "Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\nabcde",
        "Content-Encoding: deflate\r\nContent-Length: 5\r\n\r\nabcde",
        "Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n",
    ],
    ids=["gzip", "deflate", "chunks"],
)
def test_a_body_that_is_not_as_its_headers_say_is_the_callers_mistake(
    sent: str, caplog: pytest.LogCaptureFixture
) -> None:
    with TunnelService(tls=False) as service, ManagementServer(service) as management:
        address = urlsplit(management.url)
        with socket.create_connection((address.hostname or "", address.port or 0)) as sock:
            sock.settimeout(WAIT_SECONDS)
            sock.sendall(
                f"POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{sent}".encode()
            )
            assert b" 400 " in sock.recv(100)
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]
