"""Connections to a real mosquitto, and to servers that are none."""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import struct
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.mosquitto import Mosquitto, publish, running_mosquitto
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.actors.kernel import Backoff
from tunnelfleet.runtime.gateway.config.devices import BrokerSettings
from tunnelfleet.runtime.gateway.config.things import BrokerAddress
from tunnelfleet.runtime.gateway.devices.connection import MAX_IN_HAND, BrokerConnection
from tunnelfleet.runtime.gateway.devices.notification import (
    MAX_PAYLOAD_BYTES,
    Arrived,
    ConnectionChanged,
    SubscriptionRefused,
    topic_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FAST = Backoff(min_seconds=0.01, max_seconds=0.05)


class Owner:
    """Stands for NotifyActor: collects what is told."""

    def __init__(self, settings: BrokerSettings, number: int = 1) -> None:
        self.arrived: queue.SimpleQueue[Arrived] = queue.SimpleQueue()
        self.changes: queue.SimpleQueue[ConnectionChanged] = queue.SimpleQueue()
        self.refused: queue.SimpleQueue[SubscriptionRefused] = queue.SimpleQueue()
        self.connection = BrokerConnection(
            settings, number, self._tell, backoff=FAST, min_seconds=0.01
        )

    def _tell(self, message: object) -> None:
        match message:
            case Arrived():
                self.arrived.put(message)
            case ConnectionChanged():
                self.changes.put(message)
            case SubscriptionRefused():
                self.refused.put(message)

    def change(self, *, is_up: bool, subscribed: int = 0) -> ConnectionChanged:
        """Wait for a change of this kind, passing over others."""
        while True:
            found = self.changes.get(timeout=WAIT_SECONDS)
            if (found.is_up, found.subscribed) == (is_up, subscribed):
                return found

    def next(self) -> Arrived:
        """The next message."""
        return self.arrived.get(timeout=WAIT_SECONDS)


@contextlib.contextmanager
def owner(settings: BrokerSettings, *things: str, number: int = 1) -> Iterator[Owner]:
    """A connection that runs while the block does."""
    made = Owner(settings, number)
    made.connection.want(things)
    made.connection.start()
    try:
        yield made
    finally:
        made.connection.end()
        assert made.connection.join(WAIT_SECONDS)


def settings_of(mqtt: Mosquitto, **more: Any) -> BrokerSettings:
    return BrokerSettings(BrokerAddress("127.0.0.1", mqtt.port, mqtt.is_tls), "gw", **more)


def payload(number: int) -> bytes:
    return json.dumps(
        {
            "clientAccessToken": f"token-{number:04d}-" + "t" * 40,
            "clientMode": "destination",
            "region": "eu-west-1",
            "services": ["SSH"],
        }
    ).encode()


def numbers(owner_: Owner, count: int) -> set[int]:
    """The numbers of the next notifications, each of which is acknowledged."""
    found = set()
    for _ in range(count):
        arrived = owner_.next()
        assert arrived.notification is not None
        found.add(int(arrived.notification.access_token.split("-")[1]))
        owner_.connection.done(arrived)
    return found


@pytest.mark.programs("mosquitto")
class TestWithABroker:
    def test_it_gets_what_its_things_are_told_and_nothing_else(self, tmp_path: Path) -> None:
        with running_mosquitto(tmp_path) as mqtt:
            things = [f"press-{n}" for n in range(20)]
            with owner(settings_of(mqtt), *things) as mine:
                mine.change(is_up=True, subscribed=20)
                assert (mine.connection.is_up, mine.connection.subscribed) == (True, 20)
                publish(mqtt, topic_of("other"), payload(0))
                publish(mqtt, topic_of("press-7"), payload(1), b"{")
                first, second = mine.next(), mine.next()
                assert first.notification is not None
                assert (first.thing, first.notification.services) == ("press-7", ("SSH",))
                assert (second.notification, second.problem) == (None, "it is no JSON")
                assert mine.arrived.empty()

    def test_what_is_not_dealt_with_is_told_again(self, tmp_path: Path) -> None:
        with running_mosquitto(tmp_path) as mqtt:
            settings = settings_of(mqtt)
            with owner(settings, "a") as mine:
                mine.change(is_up=True, subscribed=1)
                publish(mqtt, topic_of("a"), payload(1))
                mine.next()  # and the process dies before it is in the state
            publish(mqtt, topic_of("a"), payload(2))  # while nobody is there
            with owner(settings, "a") as mine:
                assert numbers(mine, 2) == {1, 2}
                mine.change(is_up=True, subscribed=1)
                publish(mqtt, topic_of("a"), payload(3))
                assert numbers(mine, 1) == {3}
            with owner(settings, "a") as mine:
                mine.change(is_up=True, subscribed=1)
                publish(mqtt, topic_of("a"), payload(4))
                assert numbers(mine, 1) == {4}

    def test_a_change_of_things_leaves_the_others_alone(self, tmp_path: Path) -> None:
        with running_mosquitto(tmp_path) as mqtt:
            with owner(settings_of(mqtt), "a", "b") as mine:
                mine.change(is_up=True, subscribed=2)
                mine.connection.want(["b", "c", "d"])
                mine.change(is_up=True, subscribed=3)
                for thing in "abcd":
                    publish(mqtt, topic_of(thing), payload(1))
                assert [mine.next().thing for _ in range(3)] == ["b", "c", "d"]
                assert mine.arrived.empty()
            log = (tmp_path / "mosquitto.log").read_text()
            assert log.count("New client connected") == 1 + 4  # one, and who publishes

    def test_a_broker_that_comes_back_is_subscribed_anew(self, tmp_path: Path) -> None:
        with (
            running_mosquitto(tmp_path) as mqtt,
            owner(settings_of(mqtt), "a") as mine,
        ):
            mine.change(is_up=True, subscribed=1)
            mqtt.stop()
            assert mine.change(is_up=False).reason
            assert mine.connection.reason
            mqtt.start()
            mine.change(is_up=True, subscribed=1)
            assert mine.connection.reason == ""
            publish(mqtt, topic_of("a"), payload(1))
            assert numbers(mine, 1) == {1}

    def test_over_tls_with_a_certificate_and_a_password(self, tmp_path: Path) -> None:
        with running_mosquitto(tmp_path, is_tls=True, password="sesam") as mqtt:
            good = settings_of(mqtt, ca=mqtt.ca, username="service", password="sesam")
            with owner(good, "a") as mine:
                mine.change(is_up=True, subscribed=1)
            wrong = settings_of(mqtt, ca=mqtt.ca, username="service", password="no")
            with owner(wrong, "a") as mine:
                reason = mine.change(is_up=False).reason
                assert "the broker refuses this gateway" in reason
                assert "no" not in reason.split()
            with owner(settings_of(mqtt), "a") as mine:
                assert "certificate verify failed" in mine.change(is_up=False).reason

    def test_a_session_that_is_over_is_forgotten(self, tmp_path: Path) -> None:
        with running_mosquitto(tmp_path) as mqtt:
            settings = settings_of(mqtt)
            mine = Owner(settings)
            mine.connection.want(["a"])
            mine.connection.start()
            mine.change(is_up=True, subscribed=1)
            mine.connection.end(forget=True)
            assert mine.connection.join(WAIT_SECONDS)
            publish(mqtt, topic_of("a"), payload(1))
            with owner(settings, "a") as again:
                again.change(is_up=True, subscribed=1)
                publish(mqtt, topic_of("a"), payload(2))
                assert numbers(again, 1) == {2}

    def test_what_an_earlier_life_asked_for_is_given_up(self, tmp_path: Path) -> None:
        with running_mosquitto(tmp_path) as mqtt:
            settings = settings_of(mqtt)
            with owner(settings, "a", "b") as mine:
                mine.change(is_up=True, subscribed=2)
            with owner(settings, "b") as mine:  # another file since
                mine.change(is_up=True, subscribed=1)
                publish(mqtt, topic_of("a"), payload(1))
                assert numbers(mine, 1) == {1}
                # It is unsubscribed now; the order of messages tells when.
                eventually(lambda: not mine.connection._stray)
                publish(mqtt, topic_of("a"), payload(2))
                publish(mqtt, topic_of("b"), payload(3))
                assert numbers(mine, 1) == {3}

    def test_who_deals_with_nothing_is_told_no_more_than_a_few(self, tmp_path: Path) -> None:
        with (
            running_mosquitto(tmp_path) as mqtt,
            owner(settings_of(mqtt), "a") as mine,
        ):
            mine.change(is_up=True, subscribed=1)
            count = 3 * MAX_IN_HAND
            # Without an answer on the way nothing but this program's own bound holds them back.
            publish(mqtt, topic_of("a"), *map(payload, range(count)), qos=0)
            held = [mine.next() for _ in range(MAX_IN_HAND)]
            assert mine.connection._in_hand == MAX_IN_HAND
            assert mine.arrived.empty()
            for each in held:
                mine.connection.done(each)
            assert len(numbers(mine, count - MAX_IN_HAND)) == count - MAX_IN_HAND

    def test_what_is_huge_is_nothing(self, tmp_path: Path) -> None:
        with (
            running_mosquitto(tmp_path) as mqtt,
            owner(settings_of(mqtt), "a") as mine,
        ):
            mine.change(is_up=True, subscribed=1)
            large = b"x" * (MAX_PAYLOAD_BYTES + 1)
            # The broker keeps the first: this client takes no such packet.
            publish(mqtt, topic_of("a"), b"x" * 1_000_000, large, payload(1))
            assert "at most 16384 count" in mine.next().problem
            assert numbers(mine, 1) == {1}


class OldBroker:
    """Knows MQTT 3.1.1 alone, and grants so many subscriptions a connection.

    A session that it has kept has as many already. What it is asked is in `seen`: the version of a
    CONNECT and whether it is clean, and the number of filters of a SUBSCRIBE.
    """

    def __init__(self, *, kept: bool = False, grants: int = 1_000) -> None:
        self.seen: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._kept = kept
        self._grants = grants
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ended = False
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    @property
    def settings(self) -> BrokerSettings:
        port = self._listener.getsockname()[1]
        return BrokerSettings(BrokerAddress("127.0.0.1", port, is_tls=False), "gw")

    def close(self) -> None:
        self._ended = True
        # Closing alone does not wake who accepts.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(WAIT_SECONDS)

    def _serve(self) -> None:
        while not self._ended:
            try:
                sock, _address = self._listener.accept()
            except OSError:
                return
            with sock, contextlib.suppress(OSError, EOFError):
                self._answer(sock)

    def _answer(self, sock: socket.socket) -> None:
        stream = sock.makefile("rb")
        while True:
            kind, body = self._packet(stream)
            if kind == 1:
                version, is_clean = body[6], bool(body[7] & 2)
                self.seen.put((version, is_clean))
                if version == 5:
                    sock.sendall(b"\x20\x02\x00\x01")
                    return
                is_kept = self._kept and not is_clean
                sock.sendall(b"\x20\x02" + bytes([is_kept, 0]))
                left = 0 if is_kept else self._grants
            elif kind == 8:
                count = self._filters(body)
                self.seen.put(count)
                codes = bytes(1 if n < left else 0x80 for n in range(count))
                left -= count
                sock.sendall(bytes([0x90, 2 + count]) + body[:2] + codes)
            elif kind == 14:
                return

    @staticmethod
    def _packet(stream: Any) -> tuple[int, bytes]:
        head = stream.read(1)
        if not head:
            raise EOFError
        length = shift = 0
        while True:
            byte = stream.read(1)[0]
            length |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return head[0] >> 4, stream.read(length)

    @staticmethod
    def _filters(body: bytes) -> int:
        at, count = 2, 0
        while at < len(body):
            (length,) = struct.unpack(">H", body[at : at + 2])
            at += 2 + length + 1
            count += 1
        return count


@pytest.fixture
def old_broker() -> Iterator[type[OldBroker]]:
    made: list[OldBroker] = []

    class Made(OldBroker):
        def __init__(self, **given: Any) -> None:
            super().__init__(**given)
            made.append(self)

    yield Made
    for each in made:
        each.close()


def test_an_old_broker_is_spoken_to_as_it_can(old_broker: type[OldBroker]) -> None:
    server = old_broker()
    with owner(server.settings, *[f"press-{n}" for n in range(50)]) as mine:
        mine.change(is_up=True, subscribed=50)
        assert server.seen.get(timeout=WAIT_SECONDS) == (5, False)
        assert server.seen.get(timeout=WAIT_SECONDS) == (4, False)
        # AWS takes eight filters in a SUBSCRIBE.
        assert [server.seen.get(timeout=WAIT_SECONDS) for _ in range(7)] == [8] * 6 + [2]
        assert server.seen.empty()


def test_a_kept_session_that_is_full_begins_anew(old_broker: type[OldBroker]) -> None:
    server = old_broker(kept=True)
    with owner(server.settings, "a", "b") as mine:
        mine.change(is_up=True, subscribed=2)
        seen = [server.seen.get(timeout=WAIT_SECONDS) for _ in range(5)]
        assert seen == [(5, False), (4, False), 2, (4, True), 2]


def test_what_may_not_be_subscribed_is_told(old_broker: type[OldBroker]) -> None:
    server = old_broker(grants=1)
    with owner(server.settings, "a", "b", "c") as mine:
        found = mine.refused.get(timeout=WAIT_SECONDS)
        assert found.things == ("b", "c")
        assert found.reason
        mine.change(is_up=True, subscribed=1)
        assert mine.connection.is_up


def test_who_is_not_there_is_tried_for_ever() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = BrokerAddress("127.0.0.1", nobody.getsockname()[1], is_tls=False)
        with owner(BrokerSettings(address, "gw"), "a") as mine:
            for _ in range(5):
                assert "refused" in mine.change(is_up=False).reason


def test_what_is_no_broker_is_no_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = BrokerAddress("127.0.0.1", listener.getsockname()[1], is_tls=False)
        listener.settimeout(WAIT_SECONDS)
        with owner(BrokerSettings(address, "gw"), "a") as mine:
            for answer in (b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", b"\xff" * 100):
                sock, _peer = listener.accept()
                with sock:
                    sock.recv(4_096)
                    sock.sendall(answer)
                assert mine.change(is_up=False).reason


def test_a_further_connection_has_a_client_id_of_its_own() -> None:
    settings = BrokerSettings(BrokerAddress("h", 1, is_tls=False), "gw")
    ids = [BrokerConnection(settings, n, print).client_id for n in (1, 2, 3)]
    assert ids == ["gw", "gw-2", "gw-3"]
