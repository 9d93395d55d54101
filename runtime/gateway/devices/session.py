"""One MQTT session with a broker, from the connect to its loss; all of it on one thread.

Owns paho's client and what is asked of it by its public names; its turns are those of
`runtime.mqtt`. What arrives is acknowledged when somebody says so and not before (`acknowledge`),
so a broker tells it again if this process dies in between.

MQTT 5 is spoken, for it lets a client say what it takes (`MAX_PACKET_BYTES`, `IN_FLIGHT`) and how
long its session is kept; with a broker that does not know it, MQTT 3.1.1.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, Final, NamedTuple

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tunnelfleet.proto import printable
from tunnelfleet.runtime import mqtt
from tunnelfleet.runtime.gateway.config.devices import BrokerSettings

KEEPALIVE_SECONDS: Final = 30
CONNECT_SECONDS: Final = 5.0
"""For TCP, and as long again for TLS."""
ANSWER_SECONDS: Final = 30.0
"""For the broker's answer to a CONNECT, a SUBSCRIBE or an UNSUBSCRIBE."""
SESSION_SECONDS: Final = 7 * 24 * 3_600
"""How long a broker is asked to keep a session; AWS keeps one for an hour unless told otherwise."""
MAX_PACKET_BYTES: Final = 65_536
IN_FLIGHT: Final = 32
"""Notifications that a broker may send before the first is acknowledged."""
QOS: Final = 1
MAX_REASON: Final = 200
UNSUPPORTED_VERSION: Final = 132
"""Of a CONNACK; paho makes it of MQTT 3.1.1's code as well."""


class Version(Enum):
    """Which MQTT is spoken."""

    V5 = MQTTProtocolVersion.MQTTv5
    V311 = MQTTProtocolVersion.MQTTv311


class SessionEnded(Exception):  # noqa: N818 - says what happened
    """The session is over; the text says why.

    Args:
        text: for people.
        is_version: whether the broker does not know this MQTT.
    """

    def __init__(self, text: str, *, is_version: bool = False) -> None:
        super().__init__(text)
        self.is_version = is_version


class Granted(NamedTuple):
    """The broker has answered a SUBSCRIBE or an UNSUBSCRIBE: what it did not grant, and why."""

    topics: tuple[str, ...]
    is_subscribe: bool
    refused: dict[str, str]


class _Owed(NamedTuple):
    mid: int | None
    topics: tuple[str, ...]
    is_subscribe: bool
    until: float


class _ClosingSocket(ssl.SSLSocket):
    """Closes itself when its handshake fails; paho leaves it open then."""

    def do_handshake(self, block: bool = False) -> None:
        """See `ssl.SSLSocket.do_handshake`."""
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise


class MqttSession:
    """A session.

    Args:
        settings: of the broker.
        client_id: of this session.
        version: of MQTT.
        begin_anew: whether the broker is to forget what it has kept of the session.
        on_message: called with each message, in `turn`.
        wake: ends a `turn` early.
    """

    def __init__(
        self,
        settings: BrokerSettings,
        client_id: str,
        version: Version,
        *,
        begin_anew: bool,
        on_message: Callable[[MQTTMessage], object],
        wake: mqtt.Wake,
    ) -> None:
        self._settings = settings
        self._version = version
        self._begin_anew = begin_anew
        self._on_message = on_message
        self._wake = wake
        self._asked: _Owed | None = None
        self._answer: Granted | None = None
        self._failure: SessionEnded | None = None
        self._until = float("inf")
        self.is_open = False
        """Whether the broker has said yes."""
        self.was_kept = False
        """Whether the broker knew the session."""
        is_v311 = version is Version.V311
        self._client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=version.value,
            clean_session=begin_anew if is_v311 else None,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        self._client.connect_timeout = CONNECT_SECONDS
        if settings.username is not None:
            self._client.username_pw_set(settings.username, settings.password)
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_message = self._on_paho_message
        self._client.on_subscribe = self._on_subscribe
        self._client.on_unsubscribe = self._on_unsubscribe

    # -- life

    def connect(self) -> None:
        """Reach the broker; blocks for a look-up of its name, TCP and TLS.

        Raises:
            ConfigError: a file with a certificate cannot be used any more.
            OSError: it cannot be reached, or its certificate is not trusted.
            ValueError: its name is none.
        """
        context = self._settings.make_ssl_context()
        if context is not None:
            context.sslsocket_class = _ClosingSocket
            self._client.tls_set_context(context)
        address = self._settings.address
        given: dict[str, Any] = {}
        if self._version is Version.V5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = SESSION_SECONDS
            properties.ReceiveMaximum = IN_FLIGHT
            properties.MaximumPacketSize = MAX_PACKET_BYTES
            given = {"clean_start": self._begin_anew, "properties": properties}
        self._client.connect(address.host, address.port, KEEPALIVE_SECONDS, **given)
        self._until = time.monotonic() + ANSWER_SECONDS

    def leave(self, *, forget: bool) -> None:
        """Say goodbye: the broker keeps the session, or forgets it (MQTT 5 alone)."""
        properties = None
        if forget and self._version is Version.V5:
            properties = Properties(PacketTypes.DISCONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = 0
        self._client.disconnect(properties=properties)

    def close(self) -> None:
        """Close the socket, whatever has become of the session."""
        mqtt.close(self._client)

    # -- what is asked of the broker

    @property
    def is_asking(self) -> bool:
        """Whether the broker still owes an answer."""
        return self._asked is not None

    def ask(self, topics: Sequence[str], *, subscribe: bool) -> None:
        """Send a SUBSCRIBE or an UNSUBSCRIBE; the answer comes out of `turn`."""
        names = list(topics)
        if subscribe:
            _code, mid = self._client.subscribe([(each, QOS) for each in names])
        else:
            _code, mid = self._client.unsubscribe(names)
        self._asked = _Owed(mid, tuple(names), subscribe, time.monotonic() + ANSWER_SECONDS)

    def acknowledge(self, mid: int, qos: int) -> None:
        """Tell the broker that a message needs not be told again."""
        self._client.ack(mid, qos)

    def turn(self, timeout_seconds: float, *, may_read: bool) -> Granted | None:
        """Wait for something to happen and deal with it.

        Args:
            timeout_seconds: at most so long.
            may_read: False leaves what arrives in the kernel, and so with the broker.

        Returns:
            The answer to what was asked, if it has come.

        Raises:
            SessionEnded: it is over.
        """
        if not mqtt.turn(self._client, self._wake, timeout_seconds, may_read=may_read):
            raise self._ended()
        if self._failure is not None:
            raise self._failure
        self._look_at_time()
        answer, self._answer = self._answer, None
        return answer

    def _ended(self) -> SessionEnded:
        return self._failure or SessionEnded("the broker has closed the connection")

    def _look_at_time(self) -> None:
        now = time.monotonic()
        if not self.is_open and now > self._until:
            raise SessionEnded(f"the broker has not said yes within {ANSWER_SECONDS:g} s")
        if self._asked is not None and now > self._asked.until:
            raise SessionEnded(f"the broker does not answer within {ANSWER_SECONDS:g} s")

    # -- paho's callbacks, in `turn`

    def _on_paho_message(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        self._on_message(message)

    def _on_connect(
        self, _client: Client, _data: object, flags: Any, reason: Any, _more: object
    ) -> None:
        if reason.is_failure:
            is_version = reason.value == UNSUPPORTED_VERSION
            self._failure = SessionEnded(
                f"the broker refuses this gateway: {_said(reason)}", is_version=is_version
            )
            return
        self.was_kept = bool(flags.session_present)
        self.is_open = True

    def _on_disconnect(
        self, _client: Client, _data: object, flags: Any, reason: Any, _more: object
    ) -> None:
        if self._failure is None:
            says = "the broker ends it" if flags.is_disconnect_packet_from_server else "it is lost"
            self._failure = SessionEnded(f"{says}: {_said(reason)}")

    def _on_subscribe(
        self, _client: Client, _data: object, mid: int, reasons: Any, _more: object
    ) -> None:
        self._answered(mid, list(reasons))

    def _on_unsubscribe(
        self, _client: Client, _data: object, mid: int, _reasons: Any, _more: object
    ) -> None:
        # What was not subscribed is as good as unsubscribed.
        self._answered(mid, [])

    def _answered(self, mid: int, reasons: list[Any]) -> None:
        asked = self._asked
        if asked is None or asked.mid != mid:
            return
        self._asked = None
        pairs = zip(asked.topics, reasons, strict=False)
        refused = {topic: _said(reason) for topic, reason in pairs if reason.is_failure}
        self._answer = Granted(asked.topics, asked.is_subscribe, refused)


def _said(reason: object) -> str:
    return printable(str(reason), MAX_REASON)
