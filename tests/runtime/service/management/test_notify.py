"""Notifications: a real mosquitto takes them and a real subscriber gets them."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.aws_service import assert_free_of, aws_client
from tests.support.mosquitto import running_mosquitto, running_subscriber
from tests.support.waiting import eventually
from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.service.management import ManagementServer
from tunnelfleet.runtime.service.management.notify import Broker, MqttNotifier, parse_broker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tunnelfleet.runtime.service import TunnelService

REGION = "eu-west-1"
THING = {"thingName": "press-4", "services": ["SSH", "HTTP"]}


class Running:
    """A notifier that is stopped after the test."""

    def __init__(self) -> None:
        self._made: list[MqttNotifier] = []

    def __call__(self, url: str, **more: Any) -> MqttNotifier:
        seconds = (
            {"give_up_seconds": more.pop("give_up_seconds")} if "give_up_seconds" in more else {}
        )
        self._made.append(MqttNotifier(parse_broker(url, **more), REGION, **seconds))
        self._made[-1].start()
        return self._made[-1]

    def stop(self) -> None:
        for each in self._made:
            each.stop()


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    monkeypatch.setattr("tunnelfleet.runtime.service.management.notify.STOP_SECONDS", 0.1)
    made = Running()
    yield made
    made.stop()


def expected(token: str, services: list[str]) -> dict[str, object]:
    return {
        "clientAccessToken": token,
        "clientMode": "destination",
        "region": REGION,
        "services": services,
    }


@pytest.mark.programs("mosquitto")
class TestWithABroker:
    def test_opening_and_rotating_tell_the_thing(
        self, service: TunnelService, running: Running, tmp_path: Path
    ) -> None:
        with running_mosquitto(tmp_path) as mqtt, running_subscriber(mqtt) as device:
            notifier = running(f"mqtt://127.0.0.1:{mqtt.port}")
            with ManagementServer(service, region=REGION, notifier=notifier) as server:
                aws = aws_client(server.url, region_name=REGION)
                aws.open_tunnel(destinationConfig={"services": ["SSH"]})  # of no thing
                opened = aws.open_tunnel(destinationConfig=THING)
                topic = "$aws/things/press-4/tunnels/notify"
                token = opened["destinationAccessToken"]
                assert device.get() == (topic, 1, expected(token, ["SSH", "HTTP"]))
                named = {"tunnelId": opened["tunnelId"]}
                aws.rotate_tunnel_access_token(**named, clientMode="SOURCE")  # tells nobody
                for mode in ("DESTINATION", "ALL"):
                    rotated = aws.rotate_tunnel_access_token(**named, clientMode=mode)
                    token = rotated["destinationAccessToken"]
                    assert device.get() == (topic, 1, expected(token, ["SSH", "HTTP"]))
                moved = aws.rotate_tunnel_access_token(
                    **named,
                    clientMode="DESTINATION",
                    destinationConfig={"thingName": "press-5", "services": ["VNC"]},
                )
                topic, _, payload = device.get()
                assert topic == "$aws/things/press-5/tunnels/notify"
                assert payload == expected(moved["destinationAccessToken"], ["VNC"])
                aws.close()
            eventually(lambda: (notifier.sent, notifier.waiting) == (4, 0))
            assert notifier.failed == 0

    def test_what_the_broker_misses_is_sent_when_it_is_back(
        self, running: Running, tmp_path: Path
    ) -> None:
        with running_mosquitto(tmp_path) as mqtt, running_subscriber(mqtt) as device:
            notifier = running(f"mqtt://127.0.0.1:{mqtt.port}")
            notifier.notify("a", "token-1", ["SSH"])
            assert device.get()[2] == expected("token-1", ["SSH"])
            device.expect_another()
            mqtt.stop()
            eventually(lambda: not notifier.is_connected)
            for number in range(2, 5):
                notifier.notify("a", f"token-{number}", [])
            assert notifier.failed == 0
            mqtt.start()
            device.wait_subscribed_anew()
            eventually(lambda: notifier.sent == 4 or notifier.failed > 0)
            assert (notifier.sent, notifier.failed) == (4, 0)

    def test_over_tls_with_a_password(self, running: Running, tmp_path: Path) -> None:
        with (
            running_mosquitto(tmp_path, is_tls=True, password="sesam@/:") as mqtt,
            running_subscriber(mqtt) as device,
        ):
            where = f"127.0.0.1:{mqtt.port}"
            notifier = running(f"mqtts://service:sesam%40%2F%3A@{where}", ca=mqtt.ca)
            notifier.notify("a", "token", ["SSH"])
            assert device.get()[2] == expected("token", ["SSH"])

    def test_who_is_refused_is_told_and_the_password_is_not(
        self, running: Running, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with running_mosquitto(tmp_path, password="right") as mqtt:
            notifier = running(
                f"mqtt://service:wrong-one@127.0.0.1:{mqtt.port}", give_up_seconds=0.5
            )
            notifier.notify("press-4", "secret-token", [])
            eventually(lambda: notifier.failed == 1)
            for words in (
                "refuses notifications: Not authorized",
                "1 notification(s) were given up, the last to $aws/things/press-4/",
            ):
                eventually(lambda words=words: words in caplog.text, words)
            assert_free_of(["wrong-one", "secret-token"], caplog.text)


def test_without_a_broker_nothing_waits_and_retries_end(
    running: Running, service: TunnelService, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and nobody listens
        port = nobody.getsockname()[1]
        notifier = running(f"mqtt://127.0.0.1:{port}", give_up_seconds=0.3)
        with ManagementServer(service, notifier=notifier) as server:
            aws = aws_client(server.url)
            opened = aws.open_tunnel(destinationConfig=THING)
            assert aws.describe_tunnel(tunnelId=opened["tunnelId"])
            aws.close()
        eventually(lambda: (notifier.failed, notifier.waiting) == (1, 0))
        assert notifier.sent == 0
        assert_free_of([opened["destinationAccessToken"]], caplog.text, repr(notifier._waiting))


def test_of_too_many_the_oldest_are_given_up(
    running: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tunnelfleet.runtime.service.management.notify.MAX_WAITING", 3)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        notifier = running(f"mqtt://127.0.0.1:{nobody.getsockname()[1]}")
        for number in range(10):
            notifier.notify("a", f"token-{number}", [])
        assert notifier.waiting <= 3
        assert notifier.failed >= 6  # one is on its way
        notifier.stop()
        told = [each.getMessage() for each in caplog.records if "given up" in each.getMessage()]
        assert len(told) == 2  # at the first, and how many there were at the end
        assert notifier.failed == 10


class TestUrls:
    @pytest.mark.parametrize(
        ("url", "broker_"),
        [
            ("mqtt://h", Broker("h", 1883, is_tls=False)),
            ("mqtts://h/", Broker("h", 8883, is_tls=True)),
            ("mqtt://u:p%20w@[::1]:99", Broker("::1", 99, False, "u", "p w")),
            ("mqtts://u@h", Broker("h", 8883, True, "u")),
        ],
    )
    def test_good_ones(self, url: str, broker_: Broker) -> None:
        assert parse_broker(url) == broker_
        assert "p w" not in repr(parse_broker(url))

    @pytest.mark.parametrize(
        "url", ["h", "http://h", "mqtt://", "mqtt://h:x", "mqtt://h/topic", "mqtt://u:hidden@h?a=b"]
    )
    def test_bad_ones_are_told_without_a_password(self, url: str) -> None:
        with pytest.raises(ConfigError, match="--mqtt takes") as caught:
            parse_broker(url)
        assert "hidden" not in str(caught.value)

    def test_files_that_do_not_go_with_it(self, tmp_path: Path) -> None:
        some = tmp_path / "some.pem"
        with pytest.raises(ConfigError, match="for mqtts"):
            parse_broker("mqtt://h", ca=some)
        with pytest.raises(ConfigError, match="go together"):
            parse_broker("mqtts://h", certificate=some)
        with pytest.raises(ConfigError, match=r"cannot read the CA certificates .*some\.pem"):
            MqttNotifier(parse_broker("mqtts://h", ca=some), REGION)

    def test_without_paho_it_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(ConfigError, match=r"pip install 'tunnelfleet\[mqtt\]'"):
            MqttNotifier(parse_broker("mqtt://h"), REGION)
