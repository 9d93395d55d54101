"""A real mosquitto, and a subscriber that collects what is published to it."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import queue
import socket
import subprocess
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from tests.support.aws_service import WAIT_SECONDS
from tests.support.programs import require_program
from tests.support.sockets import free_port
from tunnelfleet.runtime.service.tls import ensure_certificate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ROUNDS = 101
"""Of the hash of a password, as mosquitto_passwd makes it."""

TOPICS = "$aws/things/+/tunnels/notify"


@dataclass
class Mosquitto:
    """A broker that can be stopped and started on its port."""

    folder: Path
    is_tls: bool = False
    password: str | None = None
    keeps: bool = False
    """Whether it has its sessions again after a restart."""
    more: tuple[str, ...] = ()
    """More lines of its configuration."""
    port: int = 0
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.port = free_port()
        # Whatever user mosquitto runs as: as root it would become another one.
        lines = [f"listener {self.port} 127.0.0.1", "user root"]
        if self.is_tls:
            files = ensure_certificate(self.folder / "tls", "127.0.0.1")
            lines += [f"certfile {files.certificate}", f"keyfile {files.private_key}"]
        if self.password is None:
            lines += ["allow_anonymous true"]
        else:
            users = self.folder / "users"
            salt = os.urandom(12)
            digest = hashlib.pbkdf2_hmac("sha512", self.password.encode(), salt, ROUNDS)
            hashed = "$".join(base64.b64encode(each).decode() for each in (salt, digest))
            users.write_text(f"service:$7${ROUNDS}${hashed}\n")
            users.chmod(0o600)
            lines += ["allow_anonymous false", f"password_file {users}"]
        if self.keeps:
            lines += ["persistence true", f"persistence_location {self.folder}/"]
        lines += self.more
        (self.folder / "mosquitto.conf").write_text("\n".join([*lines, ""]))

    @property
    def ca(self) -> Path:
        return self.folder / "tls" / "ca.pem"

    def start(self) -> None:
        program = require_program("mosquitto")
        log = (self.folder / "mosquitto.log").open("ab")
        command = [program, "-c", str(self.folder / "mosquitto.conf")]
        self.process = subprocess.Popen(command, stdout=log, stderr=log)
        log.close()
        deadline = time.monotonic() + WAIT_SECONDS
        pause = threading.Event()
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            assert self.process.poll() is None, (self.folder / "mosquitto.log").read_text()
            assert time.monotonic() < deadline
            pause.wait(0.02)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(WAIT_SECONDS)
            self.process = None


class MqttSubscriber:
    """A client of the broker that gets every notification."""

    def __init__(self, broker: Mosquitto) -> None:
        self._got: queue.SimpleQueue[tuple[str, int, dict[str, Any]]] = queue.SimpleQueue()
        self._is_subscribed = threading.Event()
        self._client = Client(CallbackAPIVersion.VERSION2)
        if broker.is_tls:
            self._client.tls_set(ca_certs=str(broker.ca))
        if broker.password is not None:
            self._client.username_pw_set("service", broker.password)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = lambda *_: self._is_subscribed.set()
        self._client.on_message = lambda _client, _data, message: self._got.put(
            (message.topic, message.qos, json.loads(message.payload))
        )
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()
        assert self._is_subscribed.wait(WAIT_SECONDS)

    def _on_connect(self, *_: object) -> None:
        self._client.subscribe(TOPICS, qos=1)

    def get(self) -> tuple[str, int, dict[str, Any]]:
        """Return the next notification: topic, QoS, payload."""
        return self._got.get(timeout=WAIT_SECONDS)

    def wait_subscribed_anew(self) -> None:
        """Return when it is subscribed again after the broker came back."""
        assert self._is_subscribed.wait(WAIT_SECONDS)

    def expect_another(self) -> None:
        """Before the broker goes: the next subscription is another one."""
        self._is_subscribed.clear()

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@contextlib.contextmanager
def running_mosquitto(
    folder: Path,
    *,
    is_tls: bool = False,
    password: str | None = None,
    keeps: bool = False,
    more: tuple[str, ...] = (),
) -> Iterator[Mosquitto]:
    """Run a broker."""
    made = Mosquitto(folder, is_tls, password, keeps, more)
    try:
        made.start()
        yield made
    finally:
        made.stop()


def publish(broker: Mosquitto, topic: str, *payloads: bytes, qos: int = 1) -> None:
    """Publish messages and wait until the broker has them."""
    client = Client(CallbackAPIVersion.VERSION2)
    client.max_inflight_messages_set(100)
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    try:
        sent = [client.publish(topic, payload, qos) for payload in payloads]
        for each in sent:
            each.wait_for_publish(WAIT_SECONDS)
            assert each.is_published()
    finally:
        client.disconnect()
        client.loop_stop()


@contextlib.contextmanager
def running_subscriber(of: Mosquitto) -> Iterator[MqttSubscriber]:
    """Run a subscriber."""
    made = MqttSubscriber(of)
    try:
        yield made
    finally:
        made.close()
