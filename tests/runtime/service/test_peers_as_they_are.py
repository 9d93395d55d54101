"""docs/protocol.md section 4, line by line: what two real peers need of the service on the wire.

Where a line is about what a client does on its own (backoff, the 129th connection), the service has
no part in it and there is no test here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.frames import data_of
from tests.support.service_client import CLIENT_TOKEN, TunnelClient, raw_request, request
from tests.support.waiting import eventually
from tests.support.wire import data, stream_start
from tunnelfleet.proto import FrameDecoder, Message, MessageType, Mode, encode_frame
from tunnelfleet.runtime.service import TunnelService

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tunnelfleet.runtime.service import TunnelTokens

CAPTURES = sorted((Path(__file__).parents[2] / "captures").glob("*.jsonl"))
RESET = MessageType.STREAM_RESET


# localproxy


def test_localproxy_1_service_ids_is_alone_and_not_repeated(
    service: TunnelService, connect: Callable[..., TunnelClient], tokens: TunnelTokens
) -> None:
    destination = TunnelClient(
        service, Mode.DESTINATION, tokens.destination_token, CLIENT_TOKEN, announced=False
    )
    try:
        assert destination.payload() == bytes.fromhex("000d08053203535348320448545450")
        for _ in range(2):  # sources come and go
            connect(tokens, Mode.SOURCE, CLIENT_TOKEN).assert_quiet()
        service.session_reset("press-4")
        assert destination.message().type is MessageType.SESSION_RESET
        destination.assert_quiet()
    finally:
        destination.close()


def test_localproxy_2_and_5_joined_messages_are_sent_one_by_one(
    source: TunnelClient, destination: TunnelClient
) -> None:
    more = Message(MessageType.CONNECTION_START, 1, service_id="SSH", connection_id=2)
    messages = [stream_start(), data(b"a"), data(b"b"), more, data(b"c", connection=2), data(b"d")]
    source.send_raw(b"".join(encode_frame(message) for message in messages))
    for message in messages:
        assert destination.payload() == encode_frame(message)


@pytest.mark.parametrize("connection_ids", [[1], [5, 2, 9]])
def test_localproxy_3_the_services_messages_of_a_v3_stream_carry_a_connection_id(
    source: TunnelClient, destination: TunnelClient, connection_ids: list[int]
) -> None:
    first, *rest = connection_ids
    source.send(stream_start(stream=3, connection=first))
    kind = MessageType.CONNECTION_START
    source.send(*(Message(kind, 3, service_id="SSH", connection_id=each) for each in rest))
    for _ in connection_ids:
        destination.message()
    destination.close()
    reset = source.message()
    assert (reset.type, reset.stream_id, reset.service_id) == (RESET, 3, "SSH")
    assert reset.connection_id in connection_ids


def test_localproxy_4_a_new_sources_start_comes_after_the_reset_of_the_formers(
    connect: Callable[..., TunnelClient], tokens: TunnelTokens, destination: TunnelClient
) -> None:
    for _ in range(2):
        connect(tokens, Mode.SOURCE, CLIENT_TOKEN).send(stream_start())
        assert destination.message() == stream_start()
        destination.assert_quiet()
        connect(tokens, Mode.SOURCE, CLIENT_TOKEN).send(stream_start())
        assert destination.message().type is RESET
        assert destination.message() == stream_start()
        connect(tokens, Mode.SOURCE, CLIENT_TOKEN)
        assert destination.message().type is RESET


def test_localproxy_6_echoed_and_repeated_resets_are_relayed(
    source: TunnelClient, destination: TunnelClient
) -> None:
    reset = Message(MessageType.CONNECTION_RESET, 1, service_id="SSH", connection_id=1)
    source.send(stream_start(), reset)
    assert [destination.message(), destination.message()] == [stream_start(), reset]
    destination.send(reset, reset)
    assert [source.message(), source.message()] == [reset, reset]
    source.assert_quiet()


def test_localproxy_7_a_stream_reset_without_connection_id_is_relayed_in_v3(
    source: TunnelClient, destination: TunnelClient
) -> None:
    source.send(stream_start())
    assert destination.message() == stream_start()
    destination.send(Message(RESET, 1, service_id="SSH"))
    assert source.message() == Message(RESET, 1, service_id="SSH")
    destination.close()
    source.assert_quiet()


@pytest.mark.parametrize("end", ["drop", "rotate", "close_tunnel", "stop", "kill"])
def test_localproxy_8_a_connection_that_may_come_back_ends_without_a_close(end: str) -> None:
    with TunnelService(tls=False) as service:
        tokens = service.open_tunnel("t", ["SSH"])
        client = TunnelClient(service, Mode.DESTINATION, tokens.destination_token)
        arguments = [] if end in {"stop", "kill"} else ["t"]
        getattr(service, end)(*arguments)
        client.assert_ended()
        client.close()


def test_localproxy_8_a_replaced_client_gets_no_close(
    connect: Callable[..., TunnelClient], tokens: TunnelTokens
) -> None:
    former = connect(tokens, Mode.SOURCE, CLIENT_TOKEN)
    connect(tokens, Mode.SOURCE, CLIENT_TOKEN)
    former.assert_ended()


def test_localproxy_8_pings_of_digits_are_answered_once_and_two_pongs_are_borne(
    service: TunnelService, source: TunnelClient
) -> None:
    source.ws.ping(b"1795461027123")
    pong = source.frame()
    assert (pong.opcode, data_of(pong)) == (10, b"1795461027123")
    service.send_ping("press-4", Mode.SOURCE)
    ping = source.frame()
    assert (ping.opcode, data_of(ping)) == (9, b"")
    source.ws.pong(b"")
    source.ws.pong(b"")
    source.assert_quiet()


def test_localproxy_10_a_refusal_is_a_whole_http_response(
    service: TunnelService, tokens: TunnelTokens
) -> None:
    service.refuse_next("press-4", 503, "later")
    status, headers, body = raw_request(service, request(tokens))
    assert (status, body, headers["content-length"]) == (503, "later", "5")


# AWS's C client


def test_c_client_1_a_close_is_empty_and_tcp_ends_though_it_is_never_answered(
    service: TunnelService, source: TunnelClient
) -> None:
    source.send(Message(MessageType.SESSION_RESET))
    frame = source.frame()
    assert (frame.opcode, data_of(frame)) == (8, b"")
    source.assert_ended()
    eventually(lambda: not service.tunnels()[0].source_connected, "the source is gone")


def test_c_client_2_a_stream_reset_speaks_the_version_of_its_stream(
    service: TunnelService, connect: Callable[..., TunnelClient], tokens: TunnelTokens
) -> None:
    for version, message in (
        (3, stream_start("SSH", 1, 1)),
        (2, stream_start("SSH", 2, 0)),
        (1, stream_start("", 3, 0)),
    ):
        destination = connect(tokens, Mode.DESTINATION, CLIENT_TOKEN)
        source = connect(tokens, Mode.SOURCE, CLIENT_TOKEN)
        source.send(message)
        assert destination.message() == message, version
        service.drop("press-4", Mode.DESTINATION)
        assert source.message() == message._replace(type=RESET), version


# both, as they were recorded


def _messages(capture: Path) -> Iterator[tuple[Mode, bytes]]:
    for line in capture.read_text().splitlines():
        entry = json.loads(line)
        if entry["event"] == "message" and entry["peer"] in set(Mode) and "..." not in entry["hex"]:
            yield Mode(entry["peer"]), bytes.fromhex(entry["hex"])


def test_the_recordings_are_there() -> None:
    assert len(CAPTURES) == 6


@pytest.mark.parametrize("capture", CAPTURES, ids=lambda path: path.stem)
def test_recorded_sessions_pass_byte_by_byte(
    source: TunnelClient, destination: TunnelClient, capture: Path
) -> None:
    # The C client writes its fields in an order of its own: only relaying the bytes keeps it.
    ends = {Mode.SOURCE: (source, destination), Mode.DESTINATION: (destination, source)}
    relayed = 0
    for mode, payload in _messages(capture):
        sender, receiver = ends[mode]
        sender.send_raw(payload)
        expected = len(FrameDecoder().feed(payload))
        assert b"".join(receiver.payload() for _ in range(expected)) == payload
        relayed += expected
    assert relayed >= 6
    source.assert_quiet()
    destination.assert_quiet()
