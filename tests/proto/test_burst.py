"""Bursts of DATA are what their messages are one by one, and nothing else is taken for them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.proto.test_message import UNKNOWN_FIELD, any_message
from tests.support.wire import connection_start, data, tunnel_frame
from tunnelfleet.proto import (
    MAX_PAYLOAD_BYTES,
    DataBurst,
    FrameDecoder,
    LocalProtocolError,
    Message,
    MessageReader,
    RemoteProtocolError,
    burst_parts,
    decode_message,
    encode_frame,
    encode_message,
    framing,
)


def read(reader: MessageReader, stream: bytes) -> list[Message | DataBurst]:
    """Feed a stream; returns what came, whose frames are the stream, if nothing was split."""
    return [item for item, _frames in reader.read(memoryview(stream))]


def flat(items: list[Message | DataBurst]) -> list[Message]:
    return [
        message
        for item in items
        for message in (item.messages() if isinstance(item, DataBurst) else (item,))
    ]


def familiar(*, strict: bool = False) -> MessageReader:
    """Return a reader that has seen two DATA of the usual connection."""
    reader = MessageReader(strict=strict)
    assert flat(read(reader, encode_frame(data()) * 2)) == [data()] * 2
    return reader


def test_data_in_a_row_is_a_burst_from_the_third_on() -> None:
    sizes = (1, 5, 5, 126, 127, 128, 300, 2_000)
    messages = [data(b"x" * size) for size in sizes]
    stream = b"".join(map(encode_frame, messages))
    assert read(familiar(), stream) == [DataBurst(messages[0], [m.payload for m in messages[1:]])]
    assert read(familiar(), stream[: len(encode_frame(messages[0]))]) == messages[:1]
    assert read(MessageReader(), stream) == messages


def test_what_a_burst_holds() -> None:
    burst = DataBurst(data(b"abc"), [b"", b"defg"])
    assert list(burst.messages()) == [data(b"abc"), data(b""), data(b"defg")]
    assert burst.payload_bytes == 7
    assert b"".join(burst_parts(burst)) == b"".join(map(encode_frame, burst.messages()))


def test_a_burst_of_what_does_not_fit_is_refused() -> None:
    with pytest.raises(LocalProtocolError):
        burst_parts(DataBurst(data(b"a"), [b"x" * (MAX_PAYLOAD_BYTES + 1)]))


@given(st.lists(any_message, max_size=8), st.lists(st.integers(0, 5), max_size=40), st.data())
def test_any_messages_in_any_split(
    kinds: list[Message], order: list[int], draw: st.DataObject
) -> None:
    kinds = [*kinds, data(b"ab"), data(b"c" * 64), data(b"ab", connection=2)]
    messages = [kinds[index % len(kinds)] for index in order]
    stream = b"".join(map(encode_frame, messages))
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    reader = MessageReader(strict=True)
    items: list[Message | DataBurst] = []
    frames = b""
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        for item, views in reader.read(memoryview(stream[start:stop])):
            items.append(item)
            frames += views
    assert flat(items) == messages
    assert frames == stream


NEARLY = {
    "another tail": encode_frame(data(connection=3)),
    "another head": encode_frame(data(stream=3)),
    "a mark": encode_frame(data()._replace(ignorable=True)),
    "another type": encode_frame(connection_start()),
    "no payload": encode_frame(data(b"")),
    "the fields in another order": tunnel_frame(
        encode_message(data())[-7:] + encode_message(data())[:-7]
    ),
    "the payload twice": tunnel_frame(encode_message(data()) + encode_message(data())),
    "a length in the payload that is wrong": tunnel_frame(
        encode_message(data(b"hello")).replace(b"\x22\x05hello", b"\x22\x03hello")
    ),
    "nothing": tunnel_frame(b""),
    "bytes that are no message": tunnel_frame(b"\xff" * len(encode_message(data()))),
}


@pytest.mark.parametrize("name", NEARLY)
def test_what_is_nearly_alike_is_parsed(name: str) -> None:
    stream = encode_frame(data(b"first")) + NEARLY[name] + encode_frame(data(b"last"))
    try:
        expected = FrameDecoder().feed(stream)
    except RemoteProtocolError as error:
        with pytest.raises(RemoteProtocolError, match=str(error)):
            read(familiar(), stream)
    else:
        assert flat(read(familiar(), stream)) == expected


@pytest.mark.parametrize("name", NEARLY)
def test_what_is_nearly_alike_and_alone_is_parsed(name: str) -> None:
    try:
        expected = FrameDecoder().feed(NEARLY[name])
    except RemoteProtocolError as error:
        with pytest.raises(RemoteProtocolError, match=str(error)):
            familiar().alone(NEARLY[name])
    else:
        item = familiar().alone(NEARLY[name])
        assert item is not None
        assert flat([item]) == expected


def test_what_comes_alone() -> None:
    one, several = encode_frame(data(b"x")), encode_frame(data(b"x")) * 2
    assert familiar().alone(one) == data(b"x")
    assert familiar().alone(several) == DataBurst(data(b"x"), [b"x"])
    assert familiar().alone(several[:-1]) is None
    reader = MessageReader()
    assert [reader.alone(one) for _ in range(4)] == [data(b"x")] * 4
    assert reader.alone(encode_frame(connection_start())) == connection_start()
    assert reader.alone(one) == data(b"x")
    reader = MessageReader()
    assert reader.alone(several) is None, "nobody knows that these belong together"
    assert flat(read(reader, several)) == [data(b"x")] * 2
    assert read(reader, one[:3]) == []
    assert reader.alone(one) is None, "another one has begun"
    assert read(reader, one[3:]) == [data(b"x")]


def test_strict_refuses_a_field_too_many_behind_familiar_data() -> None:
    stream = encode_frame(data()) + tunnel_frame(encode_message(data()) + UNKNOWN_FIELD)
    assert flat(read(familiar(), stream)) == [data()] * 2
    with pytest.raises(RemoteProtocolError, match="not in the schema"):
        read(familiar(strict=True), stream)


def test_a_payload_above_the_limit_is_refused() -> None:
    large = tunnel_frame(encode_message(data(b"x" * (MAX_PAYLOAD_BYTES + 1))))
    with pytest.raises(RemoteProtocolError, match="64513 bytes"):
        read(familiar(), large)


def test_a_peer_that_writes_its_messages_in_another_way_is_understood() -> None:
    unusual = tunnel_frame(encode_message(data())[-7:] + encode_message(data())[:-7])
    reader = MessageReader()
    assert read(reader, unusual * 5) == FrameDecoder().feed(unusual * 5)
    assert flat(read(reader, encode_frame(data()) * 3)) == [data()] * 3


def test_lengths_without_end_are_not_kept() -> None:
    reader = familiar()
    for size in range(1, 1_000):
        assert read(reader, encode_frame(data(b"x" * size))) == [data(b"x" * size)]
    assert reader._familiar is not None
    assert len(reader._familiar._heads) <= 64


LARGE = data(bytes(range(256)) * 100)


def test_large_data_of_the_familiar_connection() -> None:
    largest = data(b"y" * MAX_PAYLOAD_BYTES)
    stream = b"".join(map(encode_frame, (LARGE, largest, LARGE, data(), LARGE)))
    assert read(familiar(), stream) == [LARGE, largest, LARGE, data(), LARGE]
    reader = MessageReader(strict=True)
    assert read(reader, encode_frame(LARGE) * 3) == [LARGE] * 3
    assert flat(read(reader, encode_frame(data()) * 2)) == [data()] * 2


def test_large_data_is_not_parsed_from_the_third_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library copies a payload twice."""
    parsed: list[int] = []

    def decode(body: memoryview, *, strict: bool) -> Message:
        parsed.append(len(body))
        return decode_message(body, strict=strict)

    monkeypatch.setattr(framing, "decode_message", decode)
    reader = MessageReader()
    for _ in range(5):
        assert read(reader, encode_frame(LARGE)) == [LARGE]
    assert len(parsed) == 2


NEARLY_LARGE = {
    "of another stream": encode_frame(LARGE._replace(stream_id=2)),
    "of another service": encode_frame(LARGE._replace(service_id="HTTP")),
    "of another connection": encode_frame(LARGE._replace(connection_id=9)),
    "ignorable": encode_frame(LARGE._replace(ignorable=True)),
    "with a field too many": tunnel_frame(encode_message(LARGE) + UNKNOWN_FIELD),
    "the payload twice": tunnel_frame(encode_message(LARGE) * 2),
    "no message": tunnel_frame(b"\xff" * len(encode_message(LARGE))),
    "a payload that says it is longer": tunnel_frame(
        encode_message(LARGE).replace(b"\x22\x80\xc8\x01", b"\x22\x81\xc8\x01")
    ),
    "too large": tunnel_frame(encode_message(data(b"x" * (MAX_PAYLOAD_BYTES + 1)))),
}


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", NEARLY_LARGE)
def test_what_is_large_and_nearly_alike_is_parsed(name: str, strict: bool) -> None:
    stream = encode_frame(LARGE) + NEARLY_LARGE[name] + encode_frame(LARGE)
    try:
        expected = FrameDecoder(strict=strict).feed(stream)
    except RemoteProtocolError as error:
        with pytest.raises(RemoteProtocolError, match=str(error)):
            read(familiar(strict=strict), stream)
    else:
        assert flat(read(familiar(strict=strict), stream)) == expected
