"""Notifications: a real mosquitto takes them and a real subscriber gets them."""

from __future__ import annotations

import logging
import re
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.aws_service import assert_free_of, aws_client
from tests.support.mosquitto import running_mosquitto, running_subscriber
from tests.support.sockets import free_port, many_descriptors, port_of, read_to_end
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.service.management import ManagementServer, notify
from tunnelfleet.runtime.service.management.notify import Broker, MqttNotifier, parse_broker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tunnelfleet.runtime.service import TunnelService

REGION = "eu-west-1"
HOUR_SECONDS = 3_600.0
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


@pytest.mark.programs("mosquitto")
class TestAServiceWithManyClients:
    @pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "tls"])
    def test_it_notifies_as_any_other(self, running: Running, tmp_path: Path, is_tls: bool) -> None:
        with (
            running_mosquitto(tmp_path, is_tls=is_tls) as mqtt,
            running_subscriber(mqtt) as device,
            many_descriptors(),
        ):
            if is_tls:
                notifier = running(f"mqtts://127.0.0.1:{mqtt.port}", ca=mqtt.ca)
            else:
                notifier = running(f"mqtt://127.0.0.1:{mqtt.port}")
            notifier.notify("a", "token", ["SSH"])
            assert device.get()[2] == expected("token", ["SSH"])
            eventually(lambda: notifier.counts() == {"sent": 1, "failed": 0, "waiting": 0})
            notifier.stop()

    def test_a_broker_that_was_lost_is_found_again(self, running: Running, tmp_path: Path) -> None:
        with running_mosquitto(tmp_path) as mqtt:
            notifier = running(f"mqtt://127.0.0.1:{mqtt.port}")
            eventually(lambda: notifier.is_connected)
            mqtt.stop()
            eventually(lambda: not notifier.is_connected)
            with many_descriptors():  # the one that it had is taken, too
                notifier.notify("a", "token", [])
                mqtt.start()
                eventually(lambda: notifier.sent == 1)
                notifier.stop()


@pytest.mark.programs("mosquitto")
class TestTheWaitsOfTheConnection:
    """Each is for an hour, so that what ends them is seen to do so."""

    @pytest.fixture(autouse=True)
    def _long_waits(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(notify, "TURN_SECONDS", HOUR_SECONDS)
        monkeypatch.setattr(notify, "MIN_RETRY_SECONDS", HOUR_SECONDS)

    def test_what_is_to_be_sent_ends_one_and_so_does_the_end(
        self, running: Running, tmp_path: Path
    ) -> None:
        with running_mosquitto(tmp_path) as mqtt, running_subscriber(mqtt) as device:
            notifier = running(f"mqtt://127.0.0.1:{mqtt.port}")
            for number in range(3):
                notifier.notify("a", f"token-{number}", [])
                assert device.get()[2] == expected(f"token-{number}", [])
            notifier.stop()
            assert not notifier.is_connected
            # Of a client that has died the broker says that it closed its connection.
            goodbye = re.compile(r"Client tunnelfleet-.* disconnected\.")
            eventually(lambda: bool(goodbye.search((tmp_path / "mosquitto.log").read_text())))

    def test_the_end_does_not_wait_for_the_next_try(
        self, running: Running, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        notifier = running(f"mqtt://127.0.0.1:{free_port()}")
        eventually(lambda: "is not reached: " in caplog.text)
        notifier.stop()
        assert not notifier.is_connected


CONNECT, CONNACK, DISCONNECT = b"\x10", b"\x20\x02\x00\x00", b"\xe0\x00"


class TestABrokerThatIsNone:
    """A socket of the test's own is in its place."""

    @pytest.fixture
    def listener(self) -> Iterator[socket.socket]:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(WAIT_SECONDS)
            yield listener

    @staticmethod
    def _notifier(running: Running, listener: socket.socket) -> MqttNotifier:
        return running(f"mqtt://127.0.0.1:{port_of(listener)}")

    def test_one_that_is_silent_does_not_hold_up_the_end(
        self, running: Running, listener: socket.socket
    ) -> None:
        notifier = self._notifier(running, listener)
        silent, _ = listener.accept()
        with silent:
            assert silent.recv(1) == CONNECT
            notifier.stop()
            assert read_to_end(silent).endswith(DISCONNECT)

    @pytest.mark.parametrize("said", [b"HTTP/1.1 400 Bad Request\r\n\r\n", CONNACK[:2], b""])
    def test_one_that_speaks_otherwise_is_tried_again(
        self,
        running: Running,
        listener: socket.socket,
        monkeypatch: pytest.MonkeyPatch,
        said: bytes,
    ) -> None:
        monkeypatch.setattr(notify, "MIN_RETRY_SECONDS", 0.01)
        notifier = self._notifier(running, listener)
        other, _ = listener.accept()
        with other:
            assert other.recv(1) == CONNECT
            other.sendall(said)
        broker, _ = listener.accept()
        with broker:
            broker.sendall(CONNACK)
            eventually(lambda: notifier.is_connected)
        eventually(lambda: not notifier.is_connected)

    def test_each_wait_for_it_is_twice_as_long_until_the_longest(
        self, running: Running, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(notify, "MIN_RETRY_SECONDS", 0.05)
        monkeypatch.setattr(notify, "MAX_RETRY_SECONDS", 0.15)
        self._notifier(running, listener)
        lost_at = time.monotonic()
        for at_least_seconds in (0.0, 0.05, 0.1, 0.15, 0.15):
            broker, _ = listener.accept()
            assert time.monotonic() >= lost_at + at_least_seconds
            lost_at = time.monotonic()
            broker.close()


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
