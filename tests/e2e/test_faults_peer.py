"""Peers that break the protocol: what is dropped, what is answered, what ends the connection.

What docs/protocol.md lets pass must not be noticed by the tunnel's other streams; what it forbids
costs the tunnel its connection, which comes back, and never another tunnel anything.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.rig import Rig, echo
from tests.support.service_client import TunnelClient
from tests.support.waiting import eventually
from tests.support.wire import tunnel_frame
from tests.support.witness import (
    FAULT_LIMITS,
    QUICKLY_BACK,
    Witness,
    assert_carries,
    assert_ends,
    reasons_of,
    undisturbed,
    wait_reconnected,
)
from tunnelfleet.actors.transport.codec import Opcode
from tunnelfleet.proto import (
    MAX_PAYLOAD_BYTES,
    MAX_WEBSOCKET_PAYLOAD_BYTES,
    Message,
    MessageType,
    encode_frame,
)
from tunnelfleet.runtime import Mode, ProtocolVersion

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.rig import Pair
    from tunnelfleet.runtime import Tunnel

pytestmark = pytest.mark.usefixtures("streams_from_1")

T = MessageType
V1, V2, V3 = ProtocolVersion.V1, ProtocolVersion.V2, ProtocolVersion.V3
PLACE: dict[str, Any] = {"service_id": "SSH", "connection_id": 1}
NO_SUCH_TYPE = 77


def frame_of_raw(fields: bytes) -> bytes:
    """A tunnel frame of protobuf fields that the encoder would refuse."""
    return tunnel_frame(fields)


def length_delimited(field: int, data: bytes) -> bytes:
    """A protobuf field of bytes."""
    length, parts = len(data), bytearray([field << 3 | 2])
    while length > 0x7F:
        parts.append(length & 0x7F | 0x80)
        length >>= 7
    parts.append(length)
    return bytes(parts) + data


def data_with_payload(size_bytes: int) -> bytes:
    """DATA of stream 1 of SSH, connection 1, with a payload of any size."""
    head = b"\x08\x01\x10\x01"
    return frame_of_raw(
        head + length_delimited(4, bytes(size_bytes)) + length_delimited(5, b"SSH") + b"\x38\x01"
    )


@pytest.fixture
def pair(rig: Rig) -> Pair:
    """A tunnel of two services; everybody else's is watched by `undisturbed`."""
    echo_address = rig.backends.echo().address
    return rig.pair({"SSH": echo_address, "ECHO": echo_address}, limits=FAULT_LIMITS)


class TestWhatMayPass:
    """Dropped or answered, and counted; the stream beside it goes on."""

    MESSAGES = {
        "data of a stale stream": Message(T.DATA, 9, payload=b"x" * 99, **PLACE),
        "data of a negative stream": Message(T.DATA, -9, payload=b"x", **PLACE),
        "data of an unknown connection": Message(
            T.DATA, 1, payload=b"x", service_id="SSH", connection_id=9
        ),
        "data of an unknown service": Message(
            T.DATA, 1, payload=b"x", service_id="GHOST", connection_id=1
        ),
        "reset of a stale stream": Message(T.STREAM_RESET, 9, **PLACE),
        "reset of an unknown service": Message(
            T.STREAM_RESET, 1, service_id="GHOST", connection_id=1
        ),
        "reset of a stale connection": Message(T.CONNECTION_RESET, 9, **PLACE),
        "reset of an unknown connection": Message(
            T.CONNECTION_RESET, 1, service_id="SSH", connection_id=9
        ),
        "an unknown type that is ignorable": Message(NO_SUCH_TYPE, ignorable=True),
        "the services again": Message(T.SERVICE_IDS, available_service_ids=("SSH", "ECHO")),
    }

    @pytest.mark.parametrize("mode", list(Mode))
    def test_is_dropped_and_nobody_notices(self, rig: Rig, pair: Pair, mode: Mode) -> None:
        tunnel = pair.source if mode is Mode.SOURCE else pair.destination
        with Witness(pair.address("SSH")) as witness:
            for what, message in self.MESSAGES.items():
                before = sum(tunnel.stats.dropped_messages.values())
                rig.service.send_message(pair.name, mode, message)
                eventually(
                    lambda n=before: sum(tunnel.stats.dropped_messages.values()) == n + 1,
                    f"{what} is counted, {tunnel.stats.dropped_messages}",
                )
                witness.check()
        for end in (pair.source, pair.destination):
            assert (end.status().connect_attempts, end.status().streams_opened) == (1, 1)

    def test_a_flood_of_them(self, rig: Rig, pair: Pair) -> None:
        flood = encode_frame(self.MESSAGES["data of a stale stream"]) * 500
        with Witness(pair.address("SSH")) as witness:
            for _ in range(20):
                rig.service.send_raw(pair.name, Mode.DESTINATION, flood)
            eventually(
                lambda: pair.destination.stats.dropped_messages == {"stale_stream": 10_000},
                "all are counted",
            )
            witness.check()

    def test_a_stream_of_an_unknown_service_is_reset(self, rig: Rig, pair: Pair) -> None:
        start = Message(T.STREAM_START, 1, service_id="GHOST", connection_id=1)
        rig.service.send_message(pair.name, Mode.DESTINATION, start)
        # A service that lets such a start pass, and ends whoever answers it with the same id.
        rig.service_events.wait(lambda event: event.kind == "protocol_error")
        eventually(lambda: sum(pair.destination.stats.reconnects.values()) == 1, "it comes back")
        assert_carries(pair, "SSH")
        assert pair.destination.status().streams_opened == 1

    def test_a_connection_that_is_open_already_is_reset(self, rig: Rig, pair: Pair) -> None:
        again = Message(T.CONNECTION_START, 1, **PLACE)
        with Witness(pair.address("ECHO")) as witness, pair.connect("SSH") as client:
            assert echo(client, b"before") == b"before"
            rig.service.send_message(pair.name, Mode.DESTINATION, again)
            assert_ends(client)
            witness.check()
            assert_carries(pair, "SSH")
        assert pair.destination.status().connect_attempts == 1

    def test_a_start_replaces_the_active_stream(self, rig: Rig, pair: Pair) -> None:
        with Witness(pair.address("ECHO")) as witness, pair.connect("SSH") as client:
            assert echo(client, b"before") == b"before"
            start = Message(T.STREAM_START, 5, **PLACE)
            rig.service.send_message(pair.name, Mode.DESTINATION, start)
            eventually(
                lambda: pair.destination.stats.service("SSH").streams_ended == {"replaced": 1},
                "the end of the old stream",
            )
            witness.check()
        assert pair.destination.stats.service("SSH").streams_active == 1

    @pytest.mark.parametrize("size", [1, 2, 3, 7])
    def test_frames_in_any_split(self, rig: Rig, pair: Pair, size: int) -> None:
        frames = encode_frame(self.MESSAGES["data of a stale stream"]) * 20
        with Witness(pair.address("SSH")) as witness:
            # All at once: between the pieces nothing else may come.
            rig.service._do(
                lambda: [
                    rig.service._tunnel(pair.name).inject(
                        Mode.DESTINATION, Opcode.BINARY, frames[i : i + size]
                    )
                    for i in range(0, len(frames), size)
                ]
            )
            eventually(
                lambda: pair.destination.stats.dropped_messages == {"stale_stream": 20}, "all"
            )
            witness.check()

    def test_empty_messages_and_pings(self, rig: Rig, pair: Pair) -> None:
        with Witness(pair.address("SSH")) as witness:
            for _ in range(50):
                rig.service.send_raw(pair.name, Mode.SOURCE, b"")
                rig.service.send_ping(pair.name, Mode.SOURCE)
            witness.check()
        assert pair.source.status().connect_attempts == 1


FORBIDDEN = {
    "an unknown type": encode_frame(Message(NO_SUCH_TYPE)),
    "type unknown": encode_frame(Message(T.UNKNOWN)),
    "other services than before": encode_frame(
        Message(T.SERVICE_IDS, available_service_ids=("SSH", "NEW"))
    ),
    "no service id twice": encode_frame(Message(T.SERVICE_IDS, available_service_ids=("", "a"))),
    "data of stream 0": encode_frame(Message(T.DATA, 0, payload=b"x", **PLACE)),
    "reset of stream 0": encode_frame(Message(T.STREAM_RESET, 0, **PLACE)),
    "garbage": tunnel_frame(b"\xff\xfe\xfd this is no message \x00\x01"),
    "a payload that is cut": tunnel_frame(b"\x22\x7f cut"),
    "a service id that is no text": tunnel_frame(b"\x08\x01\x10\x01" + b"\x2a\x02\xff\xfe"),
    "a payload of one byte too many": data_with_payload(MAX_PAYLOAD_BYTES + 1),
    "the largest frame": tunnel_frame(length_delimited(4, bytes(65_535 - 4))),
}
"""By what is wrong; on both ends alike."""

FORBIDDEN_TO_A_SOURCE = {
    "a stream start": encode_frame(Message(T.STREAM_START, 1, **PLACE)),
    "a connection start": encode_frame(Message(T.CONNECTION_START, 1, **PLACE)),
    "a stream start of stream 0": encode_frame(Message(T.STREAM_START, 0, **PLACE)),
}

FORBIDDEN_TO_A_DESTINATION = {
    "a start of stream 0": encode_frame(Message(T.STREAM_START, 0, **PLACE)),
    "a start of V1 in V3": encode_frame(Message(T.STREAM_START, 2)),
    "a start of V2 in V3": encode_frame(Message(T.STREAM_START, 2, service_id="SSH")),
}


class TestWhatIsForbidden:
    """The connection is dropped, with a reason, and made again."""

    CASES = [
        *((mode, what, frame) for mode in Mode for what, frame in FORBIDDEN.items()),
        *((Mode.SOURCE, what, frame) for what, frame in FORBIDDEN_TO_A_SOURCE.items()),
        *((Mode.DESTINATION, what, frame) for what, frame in FORBIDDEN_TO_A_DESTINATION.items()),
    ]

    @pytest.mark.parametrize("mode", list(Mode))
    def test_each_costs_the_connection_and_nothing_else(self, rig: Rig, mode: Mode) -> None:
        pair = rig.pair({"SSH": rig.backends.echo().address}, limits=QUICKLY_BACK)
        tunnel = pair.source if mode is Mode.SOURCE else pair.destination
        other = pair.destination if mode is Mode.SOURCE else pair.source
        cases = [(what, frame) for each, what, frame in self.CASES if each is mode]
        with undisturbed(rig) as witness:
            for number, (what, frame) in enumerate(cases, 1):
                with self.loss(rig, pair, tunnel, what):
                    rig.service.send_raw(pair.name, mode, frame)
                wait_reconnected(tunnel, "protocol_error", number)
                assert_carries(pair)
                witness.check()
        assert other.status().connect_attempts == 1
        assert all(reason for reason in reasons_of(rig, tunnel))

    @contextlib.contextmanager
    def loss(self, rig: Rig, pair: Pair, tunnel: Tunnel, what: str) -> Iterator[None]:
        """A client of the tunnel loses its connection, and people are told why."""
        told = len(reasons_of(rig, tunnel))
        with pair.connect() as client:
            assert echo(client, b"before") == b"before", what
            yield
            assert_ends(client, what)
        eventually(lambda: len(reasons_of(rig, tunnel)) > told, f"a reason after {what}")

    @pytest.mark.parametrize("mode", list(Mode))
    def test_a_text_message(self, rig: Rig, pair: Pair, mode: Mode) -> None:
        tunnel = pair.source if mode is Mode.SOURCE else pair.destination
        with undisturbed(rig):
            rig.service.send_text(pair.name, mode, "hello")
            wait_reconnected(tunnel, "protocol_error")
            assert_carries(pair, "SSH")
        assert "text" in reasons_of(rig, tunnel)[0]

    @pytest.mark.parametrize("mode", list(Mode))
    def test_an_oversize_websocket_payload(self, rig: Rig, pair: Pair, mode: Mode) -> None:
        tunnel = pair.source if mode is Mode.SOURCE else pair.destination
        stale = encode_frame(TestWhatMayPass.MESSAGES["data of a stale stream"])
        count = MAX_WEBSOCKET_PAYLOAD_BYTES // len(stale) + 1
        with undisturbed(rig):
            rig.service.send_raw(pair.name, mode, stale * count)
            wait_reconnected(tunnel, "protocol_error")
            assert_carries(pair, "SSH")
        assert str(MAX_WEBSOCKET_PAYLOAD_BYTES) in reasons_of(rig, tunnel)[0]

    @pytest.mark.parametrize("version", [V1, V2])
    def test_a_message_of_another_version(self, rig: Rig, version: ProtocolVersion) -> None:
        pair = rig.pair({"SSH": rig.backends.echo().address}, version=version, limits=QUICKLY_BACK)
        with undisturbed(rig), pair.connect() as client:
            assert echo(client, b"before") == b"before"
            reset = Message(T.CONNECTION_RESET, 1, **PLACE)
            rig.service.send_message(pair.name, Mode.DESTINATION, reset)
            assert_ends(client)
            wait_reconnected(pair.destination, "protocol_error")
            assert_carries(pair)
        assert "version" in reasons_of(rig, pair.destination)[0]


PATIENT = replace(FAULT_LIMITS, receive_backlog_bytes=2**24, tunnel_backlog_bytes=2**26)
"""Takes into memory what the application does not read, so that more can come behind it."""


class TestSourceThatStartsAgain:
    """A source that is not ours, and uses the ids of its former life."""

    @pytest.mark.parametrize("version", [V1, V2, V3])
    def test_its_old_connection_does_not_disturb_its_new_one(
        self, rig: Rig, version: ProtocolVersion
    ) -> None:
        """The old application has not read everything yet when the same ids come again."""
        hang = rig.backends.never_reads()
        pair = rig.pair({"SSH": hang.address}, destination_limits=PATIENT)
        rig.runtime.close_tunnel(pair.source.name)
        token = rig.service.rotate(pair.name, Mode.SOURCE).source_token
        place: dict[str, Any] = (
            PLACE if version is V3 else {"service_id": "SSH"} if version is V2 else {}
        )
        start = Message(T.STREAM_START, 1, **place)
        first = TunnelClient(rig.service, Mode.SOURCE, token, "c" * 32)
        first.send(start, *[Message(T.DATA, 1, payload=bytes(60_000), **place)] * 200)
        eventually(lambda: pair.destination.status().received_bytes == 12_000_000, "all arrived")
        hang.wait_active(1)
        first.close()
        second = TunnelClient(rig.service, Mode.SOURCE, token, "c" * 32)
        second.send(start, Message(T.DATA, 1, payload=b"hello", **place))
        hang.wait_for(lambda: hang.accepted == 2, 10.0, "a second connection")
        eventually(
            lambda: sum(pair.destination.stats.service("SSH").connections_ended.values()) == 1,
            "the end of the old connection",
        )
        second.assert_quiet()
        second.close()
        eventually(lambda: pair.destination.status().connections_active == 0, "no connection")
        assert pair.destination._context.stats.stalled_connections == 0
        assert pair.destination.status().connect_attempts == 1

    def test_the_same_stream_twice_on_one_connection(self, rig: Rig) -> None:
        server = rig.backends.echo()
        pair = rig.pair({"SSH": server.address}, limits=FAULT_LIMITS)
        rig.runtime.close_tunnel(pair.source.name)
        token = rig.service.rotate(pair.name, Mode.SOURCE).source_token
        client = TunnelClient(rig.service, Mode.SOURCE, token, "c" * 32)
        start = Message(T.STREAM_START, 1, **PLACE)
        for number in range(1, 6):
            client.send(start, Message(T.DATA, 1, payload=b"hello", **PLACE))
            server.wait_for(lambda n=number: server.accepted == n, 10.0, "one more connection")
        answers = b""
        while not answers.endswith(b"hello"):
            message = client.message()
            if message.type is T.DATA:
                answers += message.payload
        server.wait_active(1)
        client.send(Message(T.DATA, 1, payload=b"again", **PLACE))
        while not answers.endswith(b"again"):
            message = client.message()
            assert message.type is T.DATA, message
            answers += message.payload
        client.close()
        assert pair.destination.status().connect_attempts == 1


def test_the_helpers_see_a_broken_echo(rig: Rig) -> None:
    """A witness that cannot fail would prove nothing."""
    pair = rig.pair({"SSH": rig.backends.echo().address}, limits=FAULT_LIMITS)
    with Witness(pair.address()) as witness:
        rig.service.session_reset(pair.name)
        eventually(lambda: not witness.is_running, "the end of its connection")
        with pytest.raises(AssertionError, match="the witness noticed"):
            witness.check()
