"""Telling devices of their tunnels by MQTT, as AWS does.

Owns the connection to the broker, what waits for it, and when to give up. Nothing waits for it: a
notification is put into a bounded queue, and a thread of its own sends them one after the other,
each once the broker has confirmed the one before (QoS 1, so a device may see one twice).

A second thread keeps the connection, by the turns of `runtime.mqtt`.

Topic and payload are AWS's (docs/protocol.md section 6). The payload holds an access token: neither
it nor the password of the broker is ever logged.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import threading
import time
import uuid
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

from tunnelfleet.actors.kernel.log import get_logger
from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime import mqtt
from tunnelfleet.runtime.tls import load_own_certificate, make_ssl_context

if TYPE_CHECKING:
    from paho.mqtt.client import Client

MAX_WAITING: Final = 10_000
"""So many notifications wait for the broker; of more the oldest are given up."""

GIVE_UP_SECONDS: Final = 600.0
"""A notification that the broker has not confirmed after so long is given up: the operator has."""

MIN_RETRY_SECONDS: Final = 1.0
MAX_RETRY_SECONDS: Final = 30.0
"""Between two tries to reach the broker, from the first to the last; each time twice as long."""
TURN_SECONDS: Final = 1.0
"""So often at least one looks whether the broker is to be pinged, or owes an answer."""

KEEPALIVE_SECONDS: Final = 30
CONNECT_SECONDS: Final = 5.0
STOP_SECONDS: Final = 2.0
"""How long what waits may still be sent when the service stops."""
GOODBYE_SECONDS: Final = 1.0
"""How long a broker that reads nothing is waited for then."""

LOG_SECONDS: Final = 60.0
"""That notifications are given up is told once in so long, with their number."""

MQTT_PORT: Final = 1883
MQTTS_PORT: Final = 8883
QOS: Final = 1

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Broker:
    """Where and how to reach a broker.

    Attributes:
        host: its name or address.
        port: its port.
        is_tls: whether it speaks TLS.
        username: to log in with, or None.
        password: of the user, or None.
        ca: PEM of what to trust; None trusts what the system trusts.
        certificate: PEM of a client's certificate, or None.
        private_key: PEM of its key.
    """

    host: str
    port: int
    is_tls: bool
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca: Path | None = None
    certificate: Path | None = None
    private_key: Path | None = None

    @property
    def where(self) -> str:
        """Host and port, for people."""
        return f"{self.host}:{self.port}"


def parse_broker(
    url: str,
    *,
    ca: Path | None = None,
    certificate: Path | None = None,
    private_key: Path | None = None,
) -> Broker:
    """Read `mqtt://[user[:password]@]host[:port]` or `mqtts://...`.

    Raises:
        ConfigError: it is another kind of URL, or the files do not go with it.
    """
    form = "mqtt://[USER[:PASSWORD]@]HOST[:PORT] or mqtts://..."
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ConfigError(f"--mqtt takes {form}") from None
    has_more = parts.path not in {"", "/"} or parts.query or parts.fragment
    if parts.scheme not in {"mqtt", "mqtts"} or not parts.hostname or has_more:
        # Without what was given, which may hold a password.
        raise ConfigError(f"--mqtt takes {form}")
    is_tls = parts.scheme == "mqtts"
    if (certificate is None) != (private_key is None):
        raise ConfigError("--mqtt-cert and --mqtt-key go together; give both or none")
    if not is_tls and (ca is not None or certificate is not None):
        raise ConfigError("--mqtt-ca, --mqtt-cert and --mqtt-key are for mqtts://")
    return Broker(
        parts.hostname,
        port or (MQTTS_PORT if is_tls else MQTT_PORT),
        is_tls,
        None if parts.username is None else unquote(parts.username),
        None if parts.password is None else unquote(parts.password),
        ca,
        certificate,
        private_key,
    )


@dataclass(frozen=True, slots=True)
class _Mail:
    topic: str
    payload: bytes = field(repr=False)
    give_up_at: float = 0.0


class MqttNotifier:
    """Publishes notifications to a broker.

    Args:
        broker: where.
        region: what stands in the notifications.
        give_up_seconds: how long one is tried.

    Attributes:
        sent: notifications that the broker confirmed.
        failed: notifications that were given up.

    Raises:
        ConfigError: paho-mqtt is not installed, or a file cannot be used.
    """

    def __init__(
        self, broker: Broker, region: str, *, give_up_seconds: float = GIVE_UP_SECONDS
    ) -> None:
        self.sent = self.failed = 0
        self._broker = broker
        self._region = region
        self._give_up_seconds = give_up_seconds
        self._waiting: deque[_Mail] = deque()
        self._changed = threading.Condition()
        self._is_connected = False
        self._stop_at: float | None = None
        self._silent_until = 0.0
        self._unlogged = 0
        self._client = self._make_client()
        self._thread = threading.Thread(target=self._run, name="tunnelfleet-notify", daemon=True)
        self._wake: mqtt.Wake | None = None
        """Ends a turn of the connection early."""
        self._is_over = threading.Event()
        self._retry_seconds = MIN_RETRY_SECONDS
        self._connection = threading.Thread(
            target=self._connect, name="tunnelfleet-notify-mqtt", daemon=True
        )

    def start(self) -> None:
        """Connect, and again whenever the connection is lost."""
        # Only says where: the broker need not be there yet.
        self._client.connect_async(self._broker.host, self._broker.port, KEEPALIVE_SECONDS)
        self._wake = mqtt.Wake()
        self._connection.start()
        self._thread.start()

    def stop(self) -> None:
        """Send what waits, for a short time, and disconnect. Safe to call twice."""
        with self._changed:
            self._stop_at = time.monotonic() + STOP_SECONDS
            self._changed.notify_all()
        if self._thread.ident is None:
            return  # never started
        self._thread.join()
        if self._unlogged:
            self._tell_of_failures("for the service stops")
        self._is_over.set()
        self._call()
        # It may be in a look-up of a name, which nothing interrupts.
        self._connection.join(CONNECT_SECONDS)

    @property
    def waiting(self) -> int:
        """How many notifications wait."""
        return len(self._waiting)

    def counts(self) -> dict[str, int]:
        """Return how many were sent and failed so far, and how many are waiting."""
        return {"sent": self.sent, "failed": self.failed, "waiting": self.waiting}

    @property
    def is_connected(self) -> bool:
        """Whether the broker is there."""
        return self._is_connected

    def notify(self, thing: str, access_token: str, services: Sequence[str]) -> None:
        """Tell a thing of the token with which its destination connects. Does not block."""
        payload = {
            "clientAccessToken": access_token,
            "clientMode": "destination",
            "region": self._region,
            "services": list(services),
        }
        notification = _Mail(
            f"$aws/things/{thing}/tunnels/notify",
            json.dumps(payload, separators=(",", ":")).encode(),
            time.monotonic() + self._give_up_seconds,
        )
        with self._changed:
            if len(self._waiting) >= MAX_WAITING:
                self._give_up(self._waiting.popleft(), "too many wait for the broker")
            self._waiting.append(notification)
            self._changed.notify_all()

    # paho

    def _make_client(self) -> Client:
        if importlib.util.find_spec("paho") is None:
            raise ConfigError(
                "notifications need paho-mqtt, which is not installed; "
                "install it with: pip install 'tunnelfleet[mqtt]'"
            )
        from paho.mqtt.client import Client, MQTTv311  # noqa: PLC0415 (an extra)
        from paho.mqtt.enums import CallbackAPIVersion  # noqa: PLC0415

        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=f"tunnelfleet-{uuid.uuid4().hex[:16]}",
            protocol=MQTTv311,
        )
        client.connect_timeout = CONNECT_SECONDS
        # With it `publish` leaves the writing to the thread of the connection, and else writes.
        client.on_socket_register_write = lambda *_: None
        client.max_queued_messages_set(MAX_WAITING)
        if self._broker.username is not None:
            client.username_pw_set(self._broker.username, self._broker.password)
        if self._broker.is_tls:
            self._use_tls(client)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        return client

    def _use_tls(self, client: Client) -> None:
        broker = self._broker
        context = make_ssl_context(broker.ca)
        if broker.certificate is not None:
            # A file with the certificate may have its key, too.
            key = broker.private_key or broker.certificate
            load_own_certificate(context, broker.certificate, key)
        client.tls_set_context(context)

    def _on_connect(
        self,
        _client: Client,
        _data: object,
        _flags: object,
        reason: Any,
        _more: object,
    ) -> None:
        if reason.is_failure:
            _log.error("the broker %s refuses notifications: %s", self._broker.where, reason)
            return
        _log.debug("the broker %s takes notifications", self._broker.where)
        self._retry_seconds = MIN_RETRY_SECONDS
        self._set_connected(True)

    def _on_disconnect(
        self, _client: Client, _data: object, _flags: object, reason: object, _more: object
    ) -> None:
        if self._is_connected and self._stop_at is None:
            _log.warning("the broker %s is lost: %s; it is tried again", self._broker.where, reason)
        self._set_connected(False)

    def _set_connected(self, is_connected: bool) -> None:
        with self._changed:
            self._is_connected = is_connected
            self._changed.notify_all()

    # the thread of the connection

    def _connect(self) -> None:
        """Keep the connection, until the end."""
        assert self._wake is not None
        with contextlib.closing(self._wake) as wake:
            while not self._is_over.is_set():
                try:
                    self._client.reconnect()
                    self._keep(wake)
                except (OSError, ValueError) as error:  # ValueError: its name is none
                    _log.debug("the broker %s is not reached: %s", self._broker.where, error)
                except Exception:  # noqa: BLE001 (of paho, or ours: it is tried again)
                    _log.exception("the connection to the broker %s failed", self._broker.where)
                finally:
                    mqtt.close(self._client)
                    self._set_connected(False)
                self._is_over.wait(self._retry_seconds)
                self._retry_seconds = min(2 * self._retry_seconds, MAX_RETRY_SECONDS)

    def _keep(self, wake: mqtt.Wake) -> None:
        """Deal with all that happens on the connection until it is lost, or say goodbye."""
        while not self._is_over.is_set():
            if not mqtt.turn(self._client, wake, TURN_SECONDS):
                return
        self._client.disconnect()
        until = time.monotonic() + GOODBYE_SECONDS
        while (left := until - time.monotonic()) > 0 and mqtt.turn(self._client, wake, left):
            pass

    def _call(self) -> None:
        """End a turn of the connection; there is something to write, or it is over."""
        if self._wake is not None:
            self._wake.call()

    # the thread that sends

    def _run(self) -> None:
        while (notification := self._next()) is not None:
            why = self._send(notification)
            if why is None:
                self.sent += 1
            else:
                self._give_up(notification, why)

    def _next(self) -> _Mail | None:
        """Return the next notification, once it can be sent or is to be given up."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._stop_at is not None)
            return self._waiting.popleft() if self._waiting else None

    def _send(self, notification: _Mail) -> str | None:
        """Publish and wait for the broker's answer; return why it failed."""
        with self._changed:
            while not self._is_connected:
                left = self._seconds_left(notification)
                if left <= 0:
                    return "the broker was not there"
                self._changed.wait(left)
        try:
            # Once: what is not confirmed when the connection is lost paho itself sends again.
            message = self._client.publish(notification.topic, notification.payload, QOS)
            self._call()
            while not message.is_published():
                left = self._seconds_left(notification)
                if left <= 0:
                    return "the broker did not confirm it"
                message.wait_for_publish(min(left, 0.5))
        except (ValueError, RuntimeError) as error:
            return str(error)
        return None

    def _seconds_left(self, notification: _Mail) -> float:
        """Return how long one may still be tried."""
        end = notification.give_up_at
        if self._stop_at is not None:
            end = min(end, self._stop_at)
        return end - time.monotonic()

    def _give_up(self, notification: _Mail, why: str) -> None:
        self.failed += 1
        self._unlogged += 1
        if time.monotonic() >= self._silent_until:
            self._tell_of_failures(f"the last to {notification.topic}: {why}")

    def _tell_of_failures(self, about: str) -> None:
        count, self._unlogged = self._unlogged, 0
        self._silent_until = time.monotonic() + LOG_SECONDS
        _log.error("%d notification(s) were given up, %s", count, about)
