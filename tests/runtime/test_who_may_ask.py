"""Every route of every admin surface, without its token and with wrong ones."""

from __future__ import annotations

import datetime
import itertools
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.aws_service import KEY, REGION, SECRET, post_raw
from tests.support.fleet import wanted
from tests.support.gateway_api import ApiRig
from tunnelfleet.runtime import TcpAddress, TunnelRuntime
from tunnelfleet.runtime.admin import AdminOptions, AdminServer
from tunnelfleet.runtime.gateway.api.app import OPERATIONS
from tunnelfleet.runtime.gateway.page import Sample, StatusPage
from tunnelfleet.runtime.service import TunnelService
from tunnelfleet.runtime.service.controls import FAULTS
from tunnelfleet.runtime.service.management import AccessKey, ManagementServer
from tunnelfleet.runtime.service.management.model import ServiceModel
from tunnelfleet.runtime.service.watch import CHAOS_PREFIX, ServiceFigures, ServiceWatch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TOKEN = "the-token-of-this-test-0123456789"
WRONG: dict[str, dict[str, str]] = {
    "none": {},
    "another": {"Authorization": "Bearer " + "x" * len(TOKEN)},
    "longer": {"Authorization": f"Bearer {TOKEN}x"},
    "shorter": {"Authorization": f"Bearer {TOKEN[:-1]}"},
    "empty": {"Authorization": "Bearer "},
    "no scheme": {"Authorization": TOKEN},
    "in a cookie": {"Cookie": f"token={TOKEN}"},
    "in another header": {"X-Authorization": f"Bearer {TOKEN}"},
    "of Basic, not encoded": {"Authorization": f"Basic {TOKEN}"},
}
RIGHT = {"Authorization": f"Bearer {TOKEN}"}


class TestTheAdminApi:
    @pytest.fixture
    def rig(self, tmp_path: Path) -> Iterator[ApiRig]:
        address = TcpAddress("127.0.0.1", 0)
        with ApiRig(tmp_path, wanted("a"), place=address, token=TOKEN) as running:
            yield running

    def test_no_route_answers(self, rig: ApiRig) -> None:
        for each, (name, headers) in itertools.product(OPERATIONS, WRONG.items()):
            path = each.path.replace("{name}", "a")
            for method in (each.method, "HEAD" if each.method == "GET" else "OPTIONS"):
                status, _, body = post_raw(rig.server.url, None, b"{}", path, method, **headers)
                assert status == 401, (method, path, name)
                assert TOKEN.encode() not in body
        assert [row["name"] for row in self.rows(rig)] == ["a"], "it changed something"

    def test_with_it_they_do(self, rig: ApiRig) -> None:
        assert self.rows(rig)

    @staticmethod
    def rows(rig: ApiRig) -> list[dict[str, Any]]:
        status, _, body = post_raw(rig.server.url, None, b"", "/v1/tunnels", "GET", **RIGHT)
        assert status == 200
        found: list[dict[str, Any]] = json.loads(body)["tunnels"]
        return found


class TestThePages:
    @pytest.fixture
    def server(self) -> Iterator[AdminServer]:
        page = StatusPage(lambda: Sample({"name": "gw", "alerts": []}, {}), [])
        options = AdminOptions(port=0, bearer_token=TOKEN)
        with (
            TunnelRuntime() as runtime,
            AdminServer(runtime, options, more_pages=page.pages) as running,
        ):
            yield running

    def test_no_page_is_shown(self, server: AdminServer) -> None:
        paths = [*server._pages, "/nothing"]
        assert {"/", "/metrics", "/healthz", "/readyz", "/status/events"} < set(paths)
        for path, (name, headers) in itertools.product(paths, WRONG.items()):
            for method in ("GET", "HEAD", "POST"):
                status, _, body = post_raw(server.url, None, b"", path, method, **headers)
                assert status == 401, (method, path, name)
                assert TOKEN.encode() not in body

    def test_with_it_they_are(self, server: AdminServer) -> None:
        for path in ("/", "/metrics", "/healthz", "/readyz"):
            assert post_raw(server.url, None, b"", path, "GET", **RIGHT)[0] == 200


class TestFaultsOnCommand:
    @pytest.fixture
    def watch(self) -> Iterator[ServiceWatch]:
        with TunnelService(tls=False) as service:
            figures = ServiceFigures(service.stats)
            with ServiceWatch(service, figures, chaos=True, chaos_token=TOKEN) as running:
                yield running

    def test_none_is_caused(self, watch: ServiceWatch) -> None:
        body = b'{"tunnel":"any","status":500}'
        for fault, (name, headers) in itertools.product(["", "nothing", *FAULTS], WRONG.items()):
            for method in ("GET", "POST"):
                path = f"{CHAOS_PREFIX}/{fault}"
                status, _, _ = post_raw(watch.url, None, body, path, method, **headers)
                assert status == 401, (method, fault, name)

    def test_with_it_they_are(self, watch: ServiceWatch) -> None:
        body = b'{"tunnel":"any","status":500}'
        assert post_raw(watch.url, None, body, f"{CHAOS_PREFIX}/refuse", **RIGHT)[0] == 200


def signed(
    url: str, target: str, body: bytes, key: str, secret: str, **more: str
) -> dict[str, str]:
    """The headers of a call, as AWS's tools sign it."""
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    request = AWSRequest("POST", url, data=body, headers={"X-Amz-Target": target})
    region = more.get("region", REGION)
    service = more.get("service", "IoTSecuredTunneling")
    SigV4Auth(Credentials(key, secret), service, region).add_auth(request)
    return {name: value for name, value in request.headers.items() if name != "X-Amz-Target"}


class TestTheManagementApi:
    @pytest.fixture
    def server(self) -> Iterator[ManagementServer]:
        keys = {KEY: AccessKey(KEY, SECRET)}
        with (
            TunnelService(tls=False) as service,
            ManagementServer(service, credentials=keys, region=REGION) as running,
        ):
            yield running

    TARGETS = [f"IoTSecuredTunneling.{each}" for each in ServiceModel().operations]

    def test_no_operation_is_done(self, server: ManagementServer) -> None:
        for target in self.TARGETS:
            self.attack(server, target)

    def attack(self, server: ManagementServer, target: str) -> None:
        url, body = f"{server.url}/", b"{}"
        good = signed(url, target, body, KEY, SECRET)
        old = (datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=10)).strftime(
            "%Y%m%dT%H%M%SZ"
        )
        other = next(each for each in self.TARGETS if each != target)
        attacks: dict[str, tuple[str, bytes, dict[str, str]]] = {
            "nobody": (target, body, {}),
            "another secret": (target, body, signed(url, target, body, KEY, "x" * 40)),
            "another key": (target, body, signed(url, target, body, "AKID", SECRET)),
            "another region": (target, body, signed(url, target, body, KEY, SECRET, region="x")),
            "another service": (target, body, signed(url, target, body, KEY, SECRET, service="s3")),
            "another operation": (other, body, good),
            "another body": (target, b'{"a":1}', good),
            "another time": (target, body, {**good, "X-Amz-Date": old}),
            "a bearer": (target, body, {"Authorization": f"Bearer {SECRET}"}),
        }
        for attack, (named, sent, headers) in attacks.items():
            status, _, answer = post_raw(server.url, named, sent, **headers)
            assert status in (400, 403), attack
            assert SECRET.encode() not in answer
            kind = json.loads(answer)["__type"]
            assert kind.endswith(("TokenException", "SignatureException", "ClientException")), kind

    def test_with_the_signature_it_is(self, server: ManagementServer) -> None:
        target, body = "IoTSecuredTunneling.ListTunnels", b"{}"
        headers = signed(f"{server.url}/", target, body, KEY, SECRET)
        assert post_raw(server.url, target, body, **headers)[0] == 200
