"""What a running service can be told to do to its clients."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from tests.support.frames import data_of, masked
from tests.support.service_client import CLIENT_TOKEN, EventLog, TunnelClient
from tests.support.waiting import WAIT_SECONDS
from tests.support.wire import data, stream_start
from tunnelfleet.proto import ConfigError, Message, MessageType, Mode, encode_frame
from tunnelfleet.runtime.service import ServiceEventKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from tunnelfleet.runtime.service import TunnelService, TunnelTokens

PING, CLOSE, TEXT = 9, 8, 1


def test_drop_resets_the_tcp_connection_without_a_close(
    service: TunnelService, source: TunnelClient, destination: TunnelClient, events: EventLog
) -> None:
    service.drop("press-4", Mode.SOURCE)
    with pytest.raises(ConnectionResetError):
        source.ws.sock.recv(1)
    destination.assert_quiet()
    assert events.wait(ServiceEventKind.DROPPED).mode is Mode.SOURCE
    assert events.wait(ServiceEventKind.CLIENT_DISCONNECTED).detail == "dropped on command"


def test_drop_both(service: TunnelService, source: TunnelClient, destination: TunnelClient) -> None:
    service.drop("press-4")
    for client in (source, destination):
        client.assert_ended()


def test_session_reset_reaches_both_and_ends_every_stream(
    service: TunnelService, source: TunnelClient, destination: TunnelClient, events: EventLog
) -> None:
    source.send(stream_start())
    assert destination.message() == stream_start()
    service.session_reset("press-4")
    for client in (source, destination):
        assert client.message() == Message(MessageType.SESSION_RESET)
        client.assert_quiet()
    assert service.tunnels()[0].streams_active == 0
    assert events.wait(ServiceEventKind.SESSION_RESET).tunnel == "press-4"


def test_a_black_hole_stays_connected_and_dead(
    service: TunnelService, source: TunnelClient, destination: TunnelClient
) -> None:
    service.black_hole("press-4", Mode.SOURCE)
    destination.send(data(b"into the hole"))
    source.ws.ping(b"anybody?")
    source.ws.settimeout(0.2)
    with pytest.raises(TimeoutError):
        source.ws.sock.recv(1)
    destination.assert_quiet()
    assert service.tunnels()[0].source_connected


def test_a_client_may_come_back_from_a_black_hole(
    service: TunnelService,
    connect: Callable[..., TunnelClient],
    tokens: TunnelTokens,
    destination: TunnelClient,
) -> None:
    lost = connect(tokens, Mode.SOURCE, CLIENT_TOKEN)
    service.black_hole("press-4")
    back = connect(tokens, Mode.SOURCE, CLIENT_TOKEN)
    back.assert_quiet()
    lost.assert_ended()


def test_a_stalled_client_is_not_read_until_resumed(
    service: TunnelService, source: TunnelClient, destination: TunnelClient
) -> None:
    service.stall("press-4", Mode.SOURCE)
    taken = source.send_until_blocked(masked(2, encode_frame(data(bytes(60_000)))), 64 << 20)
    assert taken > 0
    assert service.tunnels()[0].destination_buffered_bytes == 0
    destination.send(data(b"the other way is open"))
    assert source.message().payload == b"the other way is open"
    service.resume_reading("press-4", Mode.SOURCE)
    assert destination.message().payload == bytes(60_000)


def test_a_stall_outlives_the_client(
    service: TunnelService,
    connect: Callable[..., TunnelClient],
    tokens: TunnelTokens,
    destination: TunnelClient,
) -> None:
    service.stall("press-4", Mode.SOURCE)
    source = connect(tokens, Mode.SOURCE)
    source.ws.ping(b"unread")
    source.ws.settimeout(0.2)
    with pytest.raises(TimeoutError):
        source.ws.sock.recv(1)
    service.resume_reading("press-4", Mode.SOURCE)
    source.ws.settimeout(WAIT_SECONDS)
    assert data_of(source.frame()) == b"unread"


def test_injects_anything(
    service: TunnelService, source: TunnelClient, destination: TunnelClient
) -> None:
    wrong = Message(MessageType.CONNECTION_START, 9, service_id="SSH", connection_id=2)
    service.send_message("press-4", Mode.SOURCE, wrong)
    assert source.message() == wrong
    service.send_raw("press-4", Mode.SOURCE, b"\xff\xff not a frame")
    assert source.payload() == b"\xff\xff not a frame"
    for send, opcode, payload in (
        (lambda: service.send_text("press-4", Mode.SOURCE, "text"), TEXT, b"text"),
        (lambda: service.send_ping("press-4", Mode.SOURCE), PING, b""),
        (lambda: service.send_close("press-4", Mode.SOURCE), CLOSE, b""),
    ):
        send()
        frame = source.frame()
        assert (frame.opcode, data_of(frame)) == (opcode, payload)
    destination.assert_quiet()


def test_a_control_of_an_absent_client_does_nothing(
    service: TunnelService, tokens: TunnelTokens
) -> None:
    for control in (service.drop, service.black_hole, service.session_reset):
        control(tokens.name)
    service.send_ping(tokens.name, Mode.SOURCE)


@pytest.mark.parametrize("name", ["drop", "black_hole", "session_reset"])
def test_a_control_of_an_unknown_tunnel_is_an_error(service: TunnelService, name: str) -> None:
    with pytest.raises(ConfigError, match="nobody"):
        getattr(service, name)("nobody")


def test_unusable_settings_are_errors(service: TunnelService, tokens: TunnelTokens) -> None:
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError):
            service.delay(tokens.name, wrong)
    with pytest.raises(ConfigError):
        service.throttle(tokens.name, 0)
    for status in (101, 200, 302, 600):
        with pytest.raises(ConfigError):
            service.refuse_next(tokens.name, status)


def test_controls_work_from_many_threads_at_once(
    service: TunnelService, tokens: TunnelTokens, events: EventLog
) -> None:
    def use(number: int) -> None:
        service.open_tunnel(f"t{number}", ["SSH"])
        service.throttle(f"t{number}", 1000)
        service.session_reset(f"t{number}")
        service.close_tunnel(f"t{number}")

    threads = [threading.Thread(target=use, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events.wait(ServiceEventKind.TUNNEL_CLOSED, count=16)
    assert [each.name for each in service.tunnels()] == ["press-4"]
