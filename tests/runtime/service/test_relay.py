"""The relay by transcript: what one client sends, what the other and itself receive."""

from __future__ import annotations

import contextlib
import hashlib
import random
import threading
import time
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from tests.support.frames import masked
from tests.support.service_client import CLIENT_TOKEN, TunnelClient
from tests.support.waiting import eventually, measured
from tests.support.wire import data, stream_start
from tunnelfleet.proto import Message, MessageType, Mode, encode_frame
from tunnelfleet.runtime.service import ServiceEventKind, TunnelService

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.service_client import EventLog
    from tunnelfleet.runtime.service import TunnelTokens
    from tunnelfleet.runtime.service.wire import Wire

MAX_BUFFERED_BYTES = 262_144


def test_service_ids_come_first_and_alone(
    service: TunnelService, connect: Callable[..., TunnelClient]
) -> None:
    tokens = service.open_tunnel("t", ["SSH", "HTTP", "VNC"])
    source = TunnelClient(service, Mode.SOURCE, tokens.source_token, announced=False)
    try:
        assert source.message() == Message(
            MessageType.SERVICE_IDS, available_service_ids=("SSH", "HTTP", "VNC")
        )
        source.assert_quiet()
    finally:
        source.close()


def test_a_tunnel_without_services_announces_an_empty_list(service: TunnelService) -> None:
    tokens = service.open_tunnel("v1")
    client = TunnelClient(service, Mode.DESTINATION, tokens.destination_token, announced=False)
    try:
        assert client.payload() == bytes.fromhex("00020805")
    finally:
        client.close()


def test_a_source_that_ends_before_the_hello_is_told_when_the_destination_is_lost(
    source: TunnelClient, destination: TunnelClient
) -> None:
    """Half-closed, it waits for an answer (docs/protocol.md section 3a)."""
    start = Message(MessageType.STREAM_START, 1, ignorable=True, service_id="SSH")
    end = Message(MessageType.STREAM_RESET, 1, ignorable=True, service_id="SSH")
    source.send(start, end)
    assert [destination.message(), destination.message()] == [start, end]
    destination.close()
    assert source.message() == Message(MessageType.STREAM_RESET, 1, service_id="SSH")


@pytest.mark.parametrize("sender", list(Mode))
def test_relays_every_byte_in_order_both_ways(
    source: TunnelClient, destination: TunnelClient, sender: Mode
) -> None:
    there, here = (source, destination) if sender is Mode.SOURCE else (destination, source)
    rng = random.Random(4)
    sizes = [0, 1, 125, 126, 127, 4096, 64_512, *(rng.randrange(64_513) for _ in range(40))]
    payloads = [rng.randbytes(size) for size in sizes]
    writer = threading.Thread(target=lambda: there.send(*(data(p) for p in payloads)))
    writer.start()
    received = [here.message().payload for _ in payloads]
    writer.join()
    assert received == payloads


def test_a_frame_is_relayed_as_the_bytes_it_was(
    source: TunnelClient, destination: TunnelClient
) -> None:
    frame = encode_frame(data(b"x" * 70))
    source.send_raw(frame)
    assert destination.payload() == frame


def test_frames_may_span_messages_and_messages_may_hold_many_frames(
    source: TunnelClient, destination: TunnelClient
) -> None:
    messages = [data(bytes([n]) * (n * 37)) for n in range(60)]
    stream = b"".join(encode_frame(message) for message in messages)
    rng, position = random.Random(7), 0
    while position < len(stream):
        size = rng.choice([1, 2, 3, 50, 5000])
        source.send_raw(stream[position : position + size])
        position += size
    assert [destination.message() for _ in messages] == messages


def test_small_data_of_one_websocket_message_stay_together(
    source: TunnelClient, destination: TunnelClient
) -> None:
    """Once the service knows their connection: the first two are looked at one by one."""
    frames = b"".join(encode_frame(data(bytes([n]) * n)) for n in range(1, 40))
    for _ in range(2):
        source.send_raw(encode_frame(data(b"known")))
        assert destination.message() == data(b"known")
    source.send_raw(frames)
    assert destination.payload() == frames
    # A message of another kind is one of its own.
    source.send_raw(frames + encode_frame(stream_start(stream=2)))
    assert destination.payload() == frames
    assert destination.payload() == encode_frame(stream_start(stream=2))


def test_fragmented_messages_with_a_ping_in_between(
    source: TunnelClient, destination: TunnelClient
) -> None:
    message = data(bytes(range(256)) * 200)
    frame = encode_frame(message)
    source.send_fragments([frame[n : n + 4096] for n in range(0, len(frame), 4096)])
    assert destination.message() == message
    source.send_fragments([b"", frame[:10], b"", frame[10:], b""])
    assert destination.message() == message


def test_a_partial_frame_dies_with_its_connection(
    connect: Callable[..., TunnelClient], tokens: TunnelTokens, destination: TunnelClient
) -> None:
    first = connect(tokens, Mode.SOURCE, CLIENT_TOKEN)
    first.send_raw(encode_frame(data(b"lost"))[:-1])
    first.assert_quiet()
    first.close()
    second = connect(tokens, Mode.SOURCE, CLIENT_TOKEN)
    second.send(stream_start())
    assert destination.message() == stream_start()


# who may send what


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        (Mode.SOURCE, Message(MessageType.SERVICE_IDS, available_service_ids=("SSH",))),
        (Mode.SOURCE, Message(MessageType.SESSION_RESET)),
        (Mode.SOURCE, Message(MessageType.SESSION_RESET, ignorable=True)),
        (Mode.SOURCE, Message(MessageType.UNKNOWN)),
        (Mode.SOURCE, Message(99)),
        (Mode.SOURCE, stream_start(stream=0)),
        (Mode.DESTINATION, Message(MessageType.SERVICE_IDS)),
        (Mode.DESTINATION, Message(MessageType.SESSION_RESET)),
        (Mode.DESTINATION, stream_start()),
        (Mode.DESTINATION, Message(MessageType.CONNECTION_START, 1, service_id="SSH")),
    ],
)
def test_a_forbidden_message_closes_its_sender_alone(
    source: TunnelClient,
    destination: TunnelClient,
    events: EventLog,
    mode: Mode,
    message: Message,
) -> None:
    sinner, other = (source, destination) if mode is Mode.SOURCE else (destination, source)
    sinner.send(message)
    sinner.assert_closed_empty()
    other.assert_quiet()
    assert events.wait(ServiceEventKind.PROTOCOL_ERROR).mode is mode


@pytest.mark.parametrize(
    "body",
    [
        bytes.fromhex("08011001") + b"\x42\x01x",  # field 8 is not in the schema
        b"\xff\xff\xff",
        bytes.fromhex("08011001") + b"\x22\x81\xf8\x03" + bytes(64_513),
    ],
    ids=["unknown field", "not protobuf", "payload of 64,513 bytes"],
)
def test_a_malformed_frame_closes_its_sender(source: TunnelClient, body: bytes) -> None:
    source.send_raw(len(body).to_bytes(2, "big") + body)
    source.assert_closed_empty()


def test_what_came_before_a_protocol_error_is_relayed(
    source: TunnelClient, destination: TunnelClient
) -> None:
    source.send_raw(encode_frame(data(b"good")) + encode_frame(Message(MessageType.SESSION_RESET)))
    assert destination.message() == data(b"good")
    source.assert_closed_empty()


def test_an_ignorable_unknown_message_is_skipped(
    source: TunnelClient, destination: TunnelClient
) -> None:
    source.send(Message(77, ignorable=True), stream_start())
    assert destination.message() == stream_start()


# a side that is absent, gone or replaced


def test_a_start_with_nobody_there_is_reset_at_once(source: TunnelClient) -> None:
    source.send(stream_start(stream=5, connection=3))
    assert source.message() == Message(
        MessageType.STREAM_RESET, 5, service_id="SSH", connection_id=3
    )


def test_data_with_nobody_there_is_dropped_and_counted(
    service: TunnelService, source: TunnelClient
) -> None:
    source.send(data(b"lost"))
    source.assert_quiet()
    assert service.tunnels()[0].dropped_messages == 1


@pytest.mark.parametrize("gone", list(Mode))
@pytest.mark.parametrize("how", ["closed", "dropped"])
def test_a_lost_client_resets_its_streams_at_the_other_side(
    service: TunnelService, source: TunnelClient, destination: TunnelClient, gone: Mode, how: str
) -> None:
    source.send(stream_start("SSH", 1, 4), stream_start("HTTP", 7, 1))
    assert [destination.message() for _ in range(2)] == [
        stream_start("SSH", 1, 4),
        stream_start("HTTP", 7, 1),
    ]
    lost, left = (source, destination) if gone is Mode.SOURCE else (destination, source)
    if how == "closed":
        lost.close()
    else:
        service.drop("press-4", gone)
    resets = [left.message() for _ in range(2)]
    reset = MessageType.STREAM_RESET
    assert Message(reset, 1, service_id="SSH", connection_id=4) in resets
    assert Message(reset, 7, service_id="HTTP", connection_id=1) in resets
    left.assert_quiet()


def test_all_that_a_client_sent_comes_before_the_reset_of_its_end(
    source: TunnelClient, destination: TunnelClient
) -> None:
    source.send(stream_start())
    payloads = [bytes([n]) * 60_000 for n in range(20)]
    source.send(*(data(payload) for payload in payloads))
    source.close()
    assert destination.message() == stream_start()
    assert [destination.message().payload for _ in payloads] == payloads
    assert destination.message().type is MessageType.STREAM_RESET


def test_a_replaced_client_is_cut_off_and_its_streams_are_reset(
    connect: Callable[..., TunnelClient], tokens: TunnelTokens, source: TunnelClient
) -> None:
    former = connect(tokens, Mode.DESTINATION, CLIENT_TOKEN)
    source.send(stream_start())
    assert former.message() == stream_start()
    latter = connect(tokens, Mode.DESTINATION, CLIENT_TOKEN)
    assert source.message() == Message(
        MessageType.STREAM_RESET, 1, service_id="SSH", connection_id=1
    )
    former.assert_ended()
    source.send(stream_start(stream=2))
    assert latter.message() == stream_start(stream=2)


def test_the_other_side_stays_and_is_not_told_its_services_again(
    connect: Callable[..., TunnelClient], tokens: TunnelTokens, source: TunnelClient
) -> None:
    connect(tokens, Mode.DESTINATION, CLIENT_TOKEN)
    connect(tokens, Mode.DESTINATION, CLIENT_TOKEN)
    source.assert_quiet()


def test_streams_that_ended_are_not_reset_again(
    source: TunnelClient, destination: TunnelClient
) -> None:
    reset = Message(MessageType.STREAM_RESET, 1, service_id="SSH", connection_id=1)
    source.send(stream_start())
    assert destination.message() == stream_start()
    destination.send(reset)
    assert source.message() == reset
    destination.close()
    source.send(stream_start(stream=2))
    assert source.message().stream_id == 2


# bounded memory


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("reader", list(Mode))
def test_a_client_that_does_not_read_holds_up_the_other_with_bounded_memory(
    reader: Mode, tls: bool
) -> None:
    frame = encode_frame(data(bytes(64_512)))
    with TunnelService(tls=tls) as service:
        tokens = service.open_tunnel("t", ["SSH"])
        source = TunnelClient(service, Mode.SOURCE, tokens.source_token)
        destination = TunnelClient(service, Mode.DESTINATION, tokens.destination_token)
        slow, fast = (source, destination) if reader is Mode.SOURCE else (destination, source)
        try:
            fast.send_until_blocked(masked(2, frame), 64 * 1024 * 1024)
            assert 0 < _buffered_bytes(service, reader) <= MAX_BUFFERED_BYTES
            assert slow.message().payload == bytes(64_512)
        finally:
            source.close()
            destination.close()


def test_the_stream_goes_on_where_it_was_held_up(
    service: TunnelService, source: TunnelClient, destination: TunnelClient
) -> None:
    total, digest = 200, hashlib.sha256()
    rng = random.Random(1)
    payloads = [rng.randbytes(64_000) for _ in range(total)]
    writer = threading.Thread(target=lambda: source.send(*(data(p) for p in payloads)))
    writer.start()
    eventually(lambda: _buffered_bytes(service, Mode.DESTINATION) > 100_000, "held up")
    for _ in payloads:
        digest.update(destination.message().payload)
    writer.join()
    assert digest.digest() == hashlib.sha256(b"".join(payloads)).digest()


def test_pings_of_a_client_that_does_not_read_are_bounded_too(
    service: TunnelService, source: TunnelClient
) -> None:
    source.send_until_blocked(masked(9, bytes(125)) * 500, 64 * 1024 * 1024)
    assert 0 < _buffered_bytes(service, Mode.SOURCE) <= MAX_BUFFERED_BYTES


def _buffered_bytes(service: TunnelService, mode: Mode) -> int:
    snapshot = service.tunnels()[0]
    source, destination = snapshot.source_buffered_bytes, snapshot.destination_buffered_bytes
    return source if mode is Mode.SOURCE else destination


# bandwidth and delay


def test_a_throttled_tunnel_keeps_its_rate(
    service: TunnelService, source: TunnelClient, destination: TunnelClient
) -> None:
    service.throttle("press-4", 400_000)
    frame = encode_frame(data(bytes(4000)))
    stop = threading.Event()

    def copy() -> None:
        while not stop.is_set():
            source.ws.sock.sendall(masked(2, frame))

    writer = threading.Thread(target=copy)
    writer.start()
    try:
        for _ in range(20):
            destination.payload()

        def take() -> float:
            begin, count = time.monotonic(), 0
            while time.monotonic() - begin < 1.0:
                count += len(destination.payload())
            return count / (time.monotonic() - begin)

        rate = measured(take, lambda found: 0.8 * 400_000 < found < 1.1 * 400_000)
    finally:
        stop.set()
        service.throttle("press-4", None)
        source.ws.sock.settimeout(0.2)
        _drain_while(writer, destination)
    assert 0.8 * 400_000 < rate < 1.1 * 400_000


def _drain_while(writer: threading.Thread, reader: TunnelClient) -> None:
    reader.ws.settimeout(0.2)
    while writer.is_alive():
        try:
            reader.frame()
        except TimeoutError:
            continue
        except Exception:
            break
    writer.join()


def test_a_throttled_tunnel_leaves_its_queue_with_the_sender(service: TunnelService) -> None:
    tokens = service.open_tunnel("slow", ["SSH"], bandwidth_bytes_per_second=20_000)
    source = TunnelClient(service, Mode.SOURCE, tokens.source_token)
    destination = TunnelClient(service, Mode.DESTINATION, tokens.destination_token)
    try:
        source.ws.sock.setsockopt(6, 25, 4096)  # TCP_NOTSENT_LOWAT: only what TCP may send is taken
        frame = encode_frame(data(bytes(1000)))
        assert source.send_until_blocked(masked(2, frame), 1_000_000, 0.2) < 150_000
        assert _buffered_bytes_of(service, "slow") < 32_768
    finally:
        source.close()
        destination.close()


def _buffered_bytes_of(service: TunnelService, name: str) -> int:
    snapshot = next(each for each in service.tunnels() if each.name == name)
    return snapshot.source_buffered_bytes + snapshot.destination_buffered_bytes


def test_bandwidth_is_per_direction(
    service: TunnelService, source: TunnelClient, destination: TunnelClient
) -> None:
    service.throttle("press-4", 2000)
    source.send(data(bytes(10_000)))
    destination.send(data(b"not held up"))
    assert source.message().payload == b"not held up"
    service.throttle("press-4", None)
    assert len(destination.message().payload) == 10_000


def test_delay_holds_messages_back_in_order(
    service: TunnelService, source: TunnelClient, destination: TunnelClient
) -> None:
    service.delay("press-4", 0.3)
    begin = time.monotonic()
    source.send(stream_start(), data(b"a"))
    assert [destination.message(), destination.message()] == [stream_start(), data(b"a")]
    assert time.monotonic() - begin >= 0.29
    source.send(data(b"b"))
    source.assert_quiet()
    service.delay("press-4", 0)
    source.send(data(b"c"))
    assert [destination.message().payload for _ in range(2)] == [b"b", b"c"]


def test_delay_is_bounded_and_loses_nothing(
    service: TunnelService, source: TunnelClient, destination: TunnelClient
) -> None:
    service.delay("press-4", 0.05)
    payloads = [bytes([n]) * 30_000 for n in range(30)]
    writer = threading.Thread(target=lambda: source.send(*(data(p) for p in payloads)))
    writer.start()
    eventually(lambda: _buffered_bytes(service, Mode.DESTINATION) > 0, "something waits")
    assert _buffered_bytes(service, Mode.DESTINATION) <= MAX_BUFFERED_BYTES
    assert [destination.message().payload for _ in payloads] == payloads
    writer.join()


def test_counts_payload_bytes_each_way(
    service: TunnelService, source: TunnelClient, destination: TunnelClient
) -> None:
    source.send(stream_start(), data(b"12345"))
    destination.send(data(b"123"))
    assert source.message().payload == b"123"
    assert [destination.message().type for _ in range(2)][-1] is MessageType.DATA
    snapshot = service.tunnels()[0]
    assert (snapshot.source_sent_bytes, snapshot.destination_sent_bytes) == (5, 3)
    assert (snapshot.streams_active, snapshot.source_connected) == (1, True)


# what a client can make grow

MAX_GROWTH_BYTES = 24 * 1024 * 1024


def _masked_start(stream_id: int, service_id: str) -> bytes:
    return masked(2, encode_frame(stream_start(service_id, stream_id)))


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("kind", [MessageType.DATA, MessageType.STREAM_RESET])
@pytest.mark.parametrize("service_id", ["FTP", "ssh", "SSH\x1b[2J\nforged", "y" * 60_000])
def test_a_service_id_that_is_not_the_tunnels_ends_its_client(
    source: TunnelClient,
    destination: TunnelClient,
    events: EventLog,
    mode: Mode,
    kind: MessageType,
    service_id: str,
) -> None:
    sinner, other = (source, destination) if mode is Mode.SOURCE else (destination, source)
    sinner.send(Message(kind, 1, service_id=service_id))
    sinner.assert_closed_empty()
    other.assert_quiet()
    detail = events.wait(ServiceEventKind.PROTOCOL_ERROR, mode).detail
    assert kind.name in detail
    assert detail.isprintable()
    assert len(detail) < 300


def test_starts_with_endless_ids_take_no_memory(
    service: TunnelService, source: TunnelClient, destination: TunnelClient, events: EventLog
) -> None:
    tracemalloc.start()
    try:
        with contextlib.suppress(ConnectionError):
            for n in range(1_024):
                source.send(stream_start(str(n).zfill(60_000), 1))
        events.wait(ServiceEventKind.PROTOCOL_ERROR, Mode.SOURCE)
        grown, _peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    destination.assert_quiet()
    assert service.tunnels()[0].streams_active == 0
    assert grown < MAX_GROWTH_BYTES


def test_a_tunnel_with_services_takes_messages_without_an_id(
    source: TunnelClient, destination: TunnelClient
) -> None:
    """V1 (docs/protocol.md section 3): what it means is for the destination to say."""
    message = stream_start("", connection=0)
    source.send(message)
    assert destination.message() == message


def test_resets_that_wait_for_their_delay_hold_up_who_causes_them(
    service: TunnelService, source: TunnelClient
) -> None:
    service.delay("press-4", 3_600.0)
    source.send_until_blocked(_masked_start(1, "SSH") * 2_000, 64 * 1024 * 1024)
    assert 0 < _buffered_bytes(service, Mode.SOURCE) <= MAX_BUFFERED_BYTES


def test_the_resets_of_many_starts_are_sent_in_one_piece(
    service: TunnelService, source: TunnelClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[int] = []
    (client,) = service._tunnels.relayed["press-4"].clients(Mode.SOURCE)
    write = type(client.wire).write

    def count(wire: Wire, content: bytes) -> None:
        writes.append(len(content))
        write(wire, content)

    monkeypatch.setattr(type(client.wire), "write", count)
    source.send_raw(encode_frame(stream_start()) * 2_000)
    for _ in range(2_000):
        assert source.message().type is MessageType.STREAM_RESET
    assert len([size for size in writes if size]) < 50


@pytest.mark.parametrize("how", ["unread", "delayed"])
def test_connecting_anew_does_not_fill_the_other_sides_buffer_further(
    service: TunnelService,
    connect: Callable[..., TunnelClient],
    tokens: TunnelTokens,
    destination: TunnelClient,
    how: str,
) -> None:
    if how == "delayed":
        service.delay("press-4", 3_600.0)
    frame = masked(2, encode_frame(data(bytes(64_512))))
    for _ in range(12):
        source = connect(tokens, Mode.SOURCE, CLIENT_TOKEN)
        source.send_until_blocked(_masked_start(1, "SSH") + frame, 64 * 1024 * 1024, 0.3)
        source.close()
    assert _buffered_bytes(service, Mode.DESTINATION) <= MAX_BUFFERED_BYTES


def test_tiny_pieces_count_as_what_they_take(
    service: TunnelService, source: TunnelClient, destination: TunnelClient
) -> None:
    service.delay("press-4", 3_600.0)
    source.send_until_blocked(masked(2, encode_frame(data(b""))), 64 * 1024 * 1024)
    tunnel = service._tunnels.relayed["press-4"]
    assert 0 < len(tunnel._directions[Mode.DESTINATION].waiting) < 2_000
