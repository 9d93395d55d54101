"""The pages of who watches a service, and faults over HTTP."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.aws_service import call_api, post_raw
from tests.support.service_client import CLIENT_TOKEN, TunnelClient
from tests.support.waiting import WAIT_SECONDS, eventually
from tests.support.wire import data, stream_start
from tunnelfleet.proto import ConfigError, Message, MessageType, Mode
from tunnelfleet.runtime.service import TunnelService
from tunnelfleet.runtime.service.controls import FAULTS
from tunnelfleet.runtime.service.management import ManagementServer
from tunnelfleet.runtime.service.watch import FAMILIES, ServiceFigures, ServiceWatch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tunnelfleet.runtime.service import TunnelTokens

TOKEN = "a-token-of-this-test"
DOCUMENT = "docs/service.md"


@pytest.fixture
def watch(service: TunnelService) -> Iterator[ServiceWatch]:
    with ServiceWatch(service, ServiceFigures(service.stats), chaos=True) as running:
        yield running


def get(watch: ServiceWatch, path: str, **headers: str) -> tuple[int, str]:
    status, _, body = post_raw(watch.url, None, b"", path, "GET", **headers)
    return status, body.decode()


def metrics(watch: ServiceWatch) -> dict[str, float]:
    status, text = get(watch, "/metrics")
    assert status == 200
    return {
        "".join([sample.name, *(f",{value}" for value in sample.labels.values())]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def fault(watch: ServiceWatch, name: str, **given: object) -> tuple[int, dict[str, Any]]:
    status, _, body = post_raw(watch.url, None, json.dumps(given).encode(), f"/chaos/{name}")
    return status, json.loads(body)


def cause(watch: ServiceWatch, name: str, **given: object) -> str:
    status, answer = fault(watch, name, **given)
    assert status == 200, answer
    return str(answer["detail"])


class TestMetrics:
    def test_what_was_relayed_is_counted_and_stays(
        self,
        watch: ServiceWatch,
        service: TunnelService,
        source: TunnelClient,
        destination: TunnelClient,
    ) -> None:
        source.send(stream_start(), data(b"12345"))
        for _ in range(2):
            destination.message()
        destination.send(data(b"123"))
        source.message()
        found = metrics(watch)
        prefix = "tunnelfleet_service_"
        assert found[f"{prefix}tunnels"] == 1
        assert found[f"{prefix}connections"] == 2
        assert found[f"{prefix}clients,source"] == found[f"{prefix}clients,destination"] == 1
        assert found[f"{prefix}streams"] == 1
        assert found[f"{prefix}relayed_bytes_total,source"] == 5
        assert found[f"{prefix}relayed_bytes_total,destination"] == 3
        assert found[f"{prefix}events_total,client_connected"] == 2
        service.close_tunnel("press-4")
        eventually(lambda: metrics(watch)[f"{prefix}connections"] == 0)
        later = metrics(watch)
        assert later[f"{prefix}tunnels"] == 0
        assert later[f"{prefix}relayed_bytes_total,source"] == 5
        service.restart()
        assert metrics(watch)[f"{prefix}relayed_bytes_total,destination"] == 3

    def test_the_parts_around_the_service_are_counted(self, service: TunnelService) -> None:
        with ManagementServer(service) as management:
            call_api(management.url, "OpenTunnel", {})
            source = ServiceFigures(
                service.stats,
                management.calls,
                lambda: {"sent": 1, "failed": 2, "waiting": 3},
                lambda: (4, True),
            )
            with ServiceWatch(service, source) as watch:
                found = metrics(watch)
        prefix = "tunnelfleet_service_"
        assert found[f"{prefix}management_calls_total,,OpenTunnel"] == 1
        assert found[f"{prefix}notifications_total,sent"] == 1
        assert found[f"{prefix}notifications_total,failed"] == 2
        assert found[f"{prefix}notifications_waiting"] == 3
        assert found[f"{prefix}state_rows_waiting"] == 4
        assert found[f"{prefix}state_failing"] == 1

    def test_every_family_is_in_the_document(self, pytestconfig: pytest.Config) -> None:
        text = (pytestconfig.rootpath / DOCUMENT).read_text()
        for family in FAMILIES:
            assert f"| `{family.name}` | {family.help} |" in text


class TestHealth:
    def test_a_service_that_turns(self, watch: ServiceWatch, service: TunnelService) -> None:
        assert get(watch, "/healthz") == (200, '{"healthy": true}')
        service.stop()
        assert get(watch, "/healthz") == (503, '{"healthy": false}')

    def test_a_service_that_is_held_up(
        self, watch: ServiceWatch, service: TunnelService, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tunnelfleet.runtime.service.watch.ALIVE_SECONDS", 0.05)
        assert service._loop is not None
        release = threading.Event()
        service._loop.call_soon_threadsafe(release.wait, WAIT_SECONDS)
        try:
            assert get(watch, "/healthz") == (503, '{"healthy": false}')
        finally:
            release.set()
        eventually(lambda: get(watch, "/healthz")[0] == 200)

    def test_a_state_that_cannot_be_written_is_told(self, service: TunnelService) -> None:
        source = ServiceFigures(service.stats, state=lambda: (1, True))
        with ServiceWatch(service, source) as watch:
            assert json.loads(get(watch, "/healthz")[1]) == {"healthy": True, "state_failing": True}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("POST", "/metrics", 405),
        ("GET", "/chaos/drop", 405),
        ("POST", "/chaos", 404),
        ("POST", "/chaos/nothing", 404),
        ("POST", "/chaos/drop/x", 404),
    ],
)
def test_what_is_not_there(watch: ServiceWatch, method: str, path: str, status: int) -> None:
    assert post_raw(watch.url, None, b"{}", path, method)[0] == status


class TestWhoMay:
    def test_faults_have_to_be_asked_for(self, service: TunnelService) -> None:
        with ServiceWatch(service, ServiceFigures(service.stats)) as watch:
            assert post_raw(watch.url, None, b"{}", "/chaos/drop")[0] == 404

    def test_with_a_token(self, service: TunnelService) -> None:
        source = ServiceFigures(service.stats)
        with ServiceWatch(service, source, chaos=True, chaos_token=TOKEN) as watch:
            assert get(watch, "/chaos")[0] == 401
            assert get(watch, "/chaos", Authorization="Bearer guess")[0] == 401
            assert get(watch, "/chaos", Authorization=f"Bearer {TOKEN}")[0] == 200
            assert get(watch, "/metrics")[0] == 200

    def test_no_page_in_a_browser(self, watch: ServiceWatch) -> None:
        body = b'{"tunnel": "any", "status": 500}'
        status, _, _ = post_raw(watch.url, None, body, "/chaos/refuse", Origin="http://127.0.0.1")
        assert status == 403

    def test_beyond_this_machine(self) -> None:
        plain, tls = TunnelService(tls=False), TunnelService()
        source = ServiceFigures(plain.stats)
        with pytest.raises(ConfigError, match="--admin-open"):
            ServiceWatch(plain, source, host="0.0.0.0")
        for service, token in ((plain, TOKEN), (tls, None)):
            with pytest.raises(ConfigError, match="--chaos-token-file"):
                ServiceWatch(
                    service,
                    source,
                    host="0.0.0.0",
                    open_to_all=True,
                    chaos=True,
                    chaos_token=token,
                )
        with pytest.raises(ConfigError, match="at least 16 characters"):
            ServiceWatch(plain, source, chaos=True, chaos_token="short")


class TestFaults:
    def test_they_are_listed(self, watch: ServiceWatch) -> None:
        listed = json.loads(get(watch, "/chaos")[1])["faults"]
        assert listed.keys() == FAULTS.keys()
        assert listed["stall"]["required"] == ["tunnel", "mode"]

    @pytest.mark.parametrize(
        ("name", "given", "says"),
        [
            ("drop", {}, "tunnel is missing"),
            ("drop", {"tunnel": 1}, "tunnel takes the name of a tunnel"),
            ("drop", {"tunnel": "nobody"}, "no tunnel is named 'nobody'"),
            ("drop", {"tunnel": "press-4", "mode": "both"}, "mode takes source or destination"),
            ("drop", {"tunnel": "press-4", "more\n": 1}, "takes tunnel, mode, not more"),
            ("delay", {"tunnel": "press-4", "seconds": -1}, "seconds takes 0 or more"),
            ("throttle", {"tunnel": "press-4", "rate": "fast"}, "not a rate"),
            ("refuse", {"tunnel": "any", "status": 200}, "400 to 599"),
            ("refuse", {"tunnel": "any", "status": 500, "count": 0}, "count takes how many"),
            ("corrupt", {"tunnel": "press-4"}, "mode is missing"),
        ],
    )
    def test_what_cannot_be_done(
        self,
        watch: ServiceWatch,
        tokens: TunnelTokens,
        name: str,
        given: dict[str, object],
        says: str,
    ) -> None:
        status, answer = fault(watch, name, **given)
        assert (status, answer["status"]) == (400, 400)
        assert says in answer["detail"]
        assert answer["detail"].isprintable()

    @pytest.mark.parametrize("body", [b"[]", b"{", b"null", b'{"name": "\\udfff"}', b"[" * 100_000])
    def test_what_is_no_object(self, watch: ServiceWatch, body: bytes) -> None:
        assert post_raw(watch.url, None, body, "/chaos/drop")[0] == 400

    def test_drop_and_refuse(
        self, watch: ServiceWatch, service: TunnelService, tokens: TunnelTokens
    ) -> None:
        source = TunnelClient(service, Mode.SOURCE, tokens.source_token, CLIENT_TOKEN)
        cause(watch, "drop", tunnel="press-4", mode="source")
        source.assert_ended()
        source.close()
        cause(watch, "refuse", tunnel="press-4", status=503, count=2, retry_after=7)
        for _ in range(2):
            with pytest.raises(Exception, match="503"):
                TunnelClient(service, Mode.SOURCE, tokens.source_token, CLIENT_TOKEN)
        TunnelClient(service, Mode.SOURCE, tokens.source_token, CLIENT_TOKEN).close()

    def test_resets(
        self, watch: ServiceWatch, source: TunnelClient, destination: TunnelClient
    ) -> None:
        for number, service_id in enumerate(("SSH", "HTTP"), 1):
            source.send(stream_start(service_id, number))
            destination.message()
        assert cause(watch, "stream-reset", tunnel="press-4", service_id="HTTP").startswith("1 ")
        expected = Message(MessageType.STREAM_RESET, 2, service_id="HTTP", connection_id=1)
        assert [source.message(), destination.message()] == [expected, expected]
        assert cause(watch, "stream-reset", tunnel="press-4").startswith("1 stream ")
        assert source.message().service_id == destination.message().service_id == "SSH"
        assert cause(watch, "stream-reset", tunnel="press-4").startswith("0 streams")
        cause(watch, "session-reset", tunnel="press-4")
        for end in (source, destination):
            assert end.message().type is MessageType.SESSION_RESET

    def test_corrupt(
        self, watch: ServiceWatch, source: TunnelClient, destination: TunnelClient
    ) -> None:
        source.send(stream_start())
        destination.message()
        cause(watch, "corrupt", tunnel="press-4", mode="destination")
        source.send(data(b"spoilt"), data(b"whole"))
        spoilt = destination.payload()
        assert int.from_bytes(spoilt[:2], "big") == len(spoilt) - 2
        assert set(spoilt[2:]) == {0xFF}
        assert destination.message().payload == b"whole"

    def test_throttle_delay_stall_and_resume(
        self, watch: ServiceWatch, source: TunnelClient, destination: TunnelClient
    ) -> None:
        assert "12500 bytes/s" in cause(watch, "throttle", tunnel="press-4", rate="100kbit/s")
        assert "off" in cause(watch, "throttle", tunnel="press-4", rate="off")
        cause(watch, "delay", tunnel="press-4", seconds=0.01)
        cause(watch, "delay", tunnel="press-4", seconds=0)
        cause(watch, "stall", tunnel="press-4", mode="source")
        source.send(stream_start())
        destination.assert_quiet()
        cause(watch, "resume", tunnel="press-4", mode="source")
        assert destination.message().type is MessageType.STREAM_START
        cause(watch, "black-hole", tunnel="press-4", mode="destination")
        source.send(data(b"into the hole"))
        source.assert_quiet()
