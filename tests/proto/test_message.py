"""Messages and their protobuf form (docs/protocol.md section 2)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.wire import service_ids
from tunnelfleet.proto import (
    LocalProtocolError,
    Message,
    MessageType,
    RemoteProtocolError,
    decode_message,
    encode_message,
)
from tunnelfleet.proto import tunnel_pb2 as pb

T = MessageType
UNKNOWN_FIELD = b"\x40\x01"  # field 8, varint 1

any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
any_message = st.builds(
    Message,
    available_service_ids=st.just(()),
    type=st.sampled_from(MessageType) | st.integers(8, 2**31 - 1),
    stream_id=st.integers(-(2**31), 2**31 - 1),
    ignorable=st.booleans(),
    payload=st.binary(max_size=300),
    service_id=any_text,
    connection_id=st.integers(0, 2**32 - 1),
)
any_announcement = st.lists(any_text, max_size=4).map(lambda names: service_ids(*names))


def test_type_numbers_are_those_of_the_schema() -> None:
    assert {type_.name: type_.value for type_ in MessageType} == dict(pb.Message.Type.items())


def test_every_field() -> None:
    message = Message(T.DATA, 1, True, b"hi", "SSH", (), 2)
    assert encode_message(message).hex(" ") == "08 01 10 01 18 01 22 02 68 69 2a 03 53 53 48 38 02"


def test_fields_at_their_default_are_absent() -> None:
    assert encode_message(Message(T.STREAM_START, 1)) == bytes.fromhex("08021001")
    assert encode_message(Message(T.UNKNOWN)) == b""


@given(any_message | any_announcement)
def test_round_trip(message: Message) -> None:
    decoded = decode_message(encode_message(message), strict=True)
    assert decoded == message
    assert type(decoded.type) is type(message.type)


@given(any_message | any_announcement)
def test_same_bytes_as_the_generated_code(message: Message) -> None:
    wire = pb.Message(
        type=message.type,  # type: ignore[arg-type]
        streamId=message.stream_id,
        ignorable=message.ignorable,
        payload=message.payload,
        serviceId=message.service_id,
        availableServiceIds=message.available_service_ids,
        connectionId=message.connection_id,
    )
    assert encode_message(message) == wire.SerializeToString()


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_decodes_any_buffer(kind: type) -> None:
    body = bytes.fromhex("080110012202686938 05".replace(" ", ""))
    decoded = decode_message(kind(body))
    assert decoded == Message(T.DATA, 1, payload=b"hi", connection_id=5)
    assert type(decoded.payload) is bytes


def test_types_are_members_when_known_and_numbers_when_not() -> None:
    assert decode_message(b"\x08\x01").type is T.DATA
    assert decode_message(b"\x08\x63").type == 99
    assert decode_message(b"").type is T.UNKNOWN


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"\xff", id="cut-tag"),
        pytest.param(b"\x22\x05ab", id="cut-payload"),
        pytest.param(b"\x2a\x02\xff\xfe", id="service-id-not-utf8"),
        pytest.param(b"\x32\x01\xff", id="available-service-id-not-utf8"),
        pytest.param(b"\x08" + b"\xff" * 11, id="endless-number"),
        pytest.param(b"\x43" * 1000, id="deep-groups"),
    ],
)
def test_garbage_is_the_peers_fault(body: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="not a tunnel message"):
        decode_message(body)


@given(st.binary(max_size=80), st.booleans())
def test_garbage_raises_nothing_else(body: bytes, strict: bool) -> None:
    try:
        decoded = decode_message(body, strict=strict)
    except RemoteProtocolError:
        return
    # What was accepted is a message like any other.
    assert decode_message(encode_message(decoded)) == decoded


def test_unknown_field_is_tolerated_by_clients_and_refused_by_the_service() -> None:
    body = encode_message(Message(T.STREAM_START, 1)) + UNKNOWN_FIELD
    assert decode_message(body) == Message(T.STREAM_START, 1)
    with pytest.raises(RemoteProtocolError, match="not in the schema"):
        decode_message(body, strict=True)


def test_known_field_of_another_wire_type_is_an_unknown_field() -> None:
    body = encode_message(Message(T.STREAM_START, 1)) + b"\x38\x01" + b"\x20\x01"
    assert decode_message(body).payload == b""
    with pytest.raises(RemoteProtocolError):
        decode_message(body, strict=True)


@pytest.mark.parametrize(
    "message",
    [
        Message(T.DATA, 2**31),
        Message(T.DATA, 1, connection_id=-1),
        Message(T.DATA, 1, connection_id=2**32),
        Message(T.DATA, 1, service_id="\ud800"),
        Message(T.SERVICE_IDS, available_service_ids=("\ud800",)),
        Message(2**31),
    ],
)
def test_a_field_out_of_range_is_our_fault(message: Message) -> None:
    with pytest.raises(LocalProtocolError, match="out of its range"):
        encode_message(message)


def test_repr_shows_the_length_of_the_payload_only() -> None:
    message = Message(T.DATA, 1, True, b"secret", "S", (), 2)
    assert repr(message) == (
        "Message(DATA, stream_id=1, service_id='S', connection_id=2, payload=<6 bytes>, ignorable)"
    )
    assert repr(Message(77)) == "Message(77)"
