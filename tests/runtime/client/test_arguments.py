"""What the calls of a tunnel client take, and what they say about anything else."""

from __future__ import annotations

import asyncio
from array import array
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.waiting import WAIT_SECONDS
from tunnelfleet.runtime import (
    ConfigError,
    ConnectionReset,
    ConnectionStarted,
    Message,
    MessageReceived,
    SecureTunnel,
    StreamStarted,
    TunnelRuntime,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.client_bench import ClientBench


# -- as the SDK for C++ has it


def test_starts_take_a_message(bench: ClientBench) -> None:
    pair = bench.pair(["A", "B"])
    assert pair.source.send_stream_start(Message(service_id="A")).result(WAIT_SECONDS) == 1
    pair.at_destination.wait(StreamStarted)
    start = pair.source.send_connection_start
    assert start(Message(b"", "A")).result(WAIT_SECONDS) == 2
    assert start(Message(b"", "A", 7)).result(WAIT_SECONDS) == 7
    assert start(Message(b"", "A"), 9).result(WAIT_SECONDS) == 9
    pair.at_destination.wait(ConnectionStarted, 3)
    pair.source.send_connection_reset(Message(b"", "A", 7)).result(WAIT_SECONDS)
    assert pair.at_destination.wait(ConnectionReset)[0].connection_id == 7
    pair.source.send_stream_reset(Message(b"", "A")).result(WAIT_SECONDS)
    assert pair.source.send_stream_start(Message(b"", "B", 1)).result(WAIT_SECONDS) == 1


def test_none_is_the_only_service_and_the_only_connection(bench: ClientBench) -> None:
    pair = bench.pair([])
    pair.source.send_stream_start(None).result(WAIT_SECONDS)
    pair.at_destination.wait(StreamStarted)
    for message in (Message(b"one", None), Message(b"two", None, None), Message(b"three", "", 0)):
        pair.source.send_message(message).result(WAIT_SECONDS)
    pair.source.send_message(Message(None)).result(WAIT_SECONDS)
    found = pair.at_destination.wait(MessageReceived, 4)
    assert [event.message.payload for event in found] == [b"one", b"two", b"three", b""]


def test_a_message_has_defaults_for_none() -> None:
    assert Message(None, None, None) == Message() == Message(b"", "", 0)
    assert replace(Message(b"x", "A", 2), payload=b"y") == Message(b"y", "A", 2)
    with pytest.raises(AttributeError):
        Message().payload = b""  # type: ignore[misc]


def test_a_start_sends_no_payload(bench: ClientBench) -> None:
    pair = bench.pair(["A"])
    for call in (pair.source.send_stream_start, pair.source.send_connection_start):
        with pytest.raises(ValueError, match=r"send the payload with send_message"):
            call(Message(b"lost", "A"))
    with pytest.raises(ValueError, match="has the id 1"):
        pair.source.send_stream_start(Message(b"", "A", 2))
    with pytest.raises(ValueError, match="two connection ids"):
        pair.source.send_connection_start(Message(b"", "A", 2), 3)


@pytest.mark.parametrize(
    "payload",
    [b"1234", bytearray(b"1234"), memoryview(b"1234"), array("H", [0x3231, 0x3433])],
    ids=["bytes", "bytearray", "memoryview", "array"],
)
def test_what_is_like_bytes_is_sent(bench: ClientBench, payload: Any) -> None:
    pair = bench.pair(["A"])
    pair.source.send_stream_start("A").result(WAIT_SECONDS)
    pair.source.send_message(Message(payload, "A")).result(WAIT_SECONDS)
    pair.source.send_bytes(payload, "A").result(WAIT_SECONDS)
    found = pair.at_destination.wait(MessageReceived, 2)
    assert [event.message.payload for event in found] == [b"1234", b"1234"]


# -- what is of the wrong type

MESSAGE = "pass a Message, as in Message(b'data', 'SSH'), not "
BYTES = "pass bytes, not text; encode it"
SERVICE = "pass a service id as text, as in 'SSH', not "
CONNECTION = "pass a connection id as a number of 1 or more, or None, not "

WRONG: Any = {
    "send_message text": (lambda t: t.send_message("x"), f"{MESSAGE}a str"),
    "send_message bytes": (lambda t: t.send_message(b"x"), f"{MESSAGE}a bytes"),
    "send_message None": (lambda t: t.send_message(None), f"{MESSAGE}None"),
    "text as payload": (lambda t: t.send_message(Message("x")), BYTES),  # type: ignore[arg-type]
    "a number as payload": (lambda t: t.send_message(Message(5)), "pass bytes, or something like"),  # type: ignore[arg-type]
    "a list as payload": (lambda t: t.send_message(Message([1])), "not a list"),  # type: ignore[arg-type]
    "bytes as service": (lambda t: t.send_message(Message(b"", b"SSH")), f"{SERVICE}a bytes"),  # type: ignore[arg-type]
    "text as connection": (lambda t: t.send_message(Message(b"", "A", "1")), f"{CONNECTION}a str"),  # type: ignore[arg-type]
    "a bool as connection": (lambda t: t.send_message(Message(b"", "A", True)), CONNECTION),
    "send_messages of one": (
        lambda t: t.send_messages(Message()),
        "pass several messages; for one there is send_message, not a Message",
    ),
    "send_messages bytes": (
        lambda t: t.send_messages(b"x"),
        "pass an iterable of Message, not a b",
    ),
    "send_messages None": (
        lambda t: t.send_messages(None),
        "pass an iterable of Message, not None",
    ),
    "send_messages of text": (lambda t: t.send_messages(["x"]), f"{MESSAGE}a str"),
    "send_bytes text": (lambda t: t.send_bytes("x"), BYTES),
    "send_bytes Message": (lambda t: t.send_bytes(Message()), "not a Message"),
    "send_bytes service": (lambda t: t.send_bytes(b"", 5), f"{SERVICE}an int"),
    "send_bytes connection": (lambda t: t.send_bytes(b"", "A", "1"), CONNECTION),
    "send_stream_start bytes": (lambda t: t.send_stream_start(b"A"), f"{SERVICE}a bytes"),
    "send_stream_start number": (lambda t: t.send_stream_start(5), f"{SERVICE}an int"),
    "send_connection_start": (lambda t: t.send_connection_start(b"A"), SERVICE),
    "its connection": (lambda t: t.send_connection_start("A", "1"), CONNECTION),
    "send_connection_reset": (lambda t: t.send_connection_reset(["A"]), f"{SERVICE}a list"),
    "send_stream_reset": (lambda t: t.send_stream_reset(1.5), f"{SERVICE}a float"),
    "timeout of send_message": (
        lambda t: t.send_message(Message(), timeout_seconds="1"),
        "pass seconds as a number, or None, not a str",
    ),
    "timeout of send_stream_start": (
        lambda t: t.send_stream_start("A", timeout_seconds="1"),
        "pass seconds as a number, or None, not a str",
    ),
    "wait_connected text": (lambda t: t.wait_connected("1"), "pass seconds as a number, not a str"),
    "wait_connected None": (lambda t: t.wait_connected(None), "pass seconds as a number, not None"),
    "replace_token bytes": (lambda t: t.replace_token(b"hidden"), "access_token: pass text (str)"),
    "its client token": (
        lambda t: t.replace_token("t", b"hidden"),
        "client_token: pass text (str)",
    ),
    "send text": (lambda t: asyncio.run(t.send("x")), f"{MESSAGE}a str"),
}


@pytest.fixture
def tunnel() -> Iterator[SecureTunnel]:
    with SecureTunnel("t" * 40, "source", "ws://127.0.0.1:9") as started:
        yield started


@pytest.mark.parametrize(("call", "says"), WRONG.values(), ids=WRONG)
def test_a_wrong_type_is_told_with_what_to_pass(
    tunnel: SecureTunnel, call: Callable[[SecureTunnel], object], says: str
) -> None:
    with pytest.raises(TypeError) as caught:
        call(tunnel)
    assert says in str(caught.value)
    assert "hidden" not in str(caught.value)


OPTIONS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "access_token": ({"access_token": b"hidden"}, TypeError, "access_token: pass text"),
    "access_token None": ({"access_token": None}, TypeError, "access_token: pass text"),
    "mode": ({"mode": "src"}, ConfigError, "'source' or 'destination'"),
    "endpoint": ({"endpoint": 5}, TypeError, "endpoint is int, but has to be an Endpoint, or text"),
    "client_token": ({"client_token": 5}, TypeError, "client_token is int"),
    "version": (
        {"version": "V4"},
        ConfigError,
        "bad version: 'V4' is no version of the",
    ),
    "version 3": (
        {"version": 3},
        ConfigError,
        "bad version: 3 is no version of the",
    ),
    "bandwidth": ({"bandwidth": "1"}, TypeError, "bandwidth_bytes_per_second is str"),
    "http_proxy": ({"http_proxy": 5}, TypeError, "http_proxy is int, but has to be an HttpProxy"),
    "services": (
        {"services": {"A": 22}},
        TypeError,
        "a value of services is int, but has to be an",
    ),
    "name": ({"name": 5}, TypeError, "name is int, but has to be text"),
}


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    list(OPTIONS.values()),
    ids=list(OPTIONS),
)
def test_a_wrong_option_is_told_with_what_to_pass(
    changes: dict[str, Any], error: type[Exception], says: str
) -> None:
    options = {"access_token": "t", "mode": "source", "endpoint": "h", **changes}
    with pytest.raises(error) as caught:
        SecureTunnel(**options)
    assert says in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_a_runtime_opens_configurations_alone() -> None:
    with (
        TunnelRuntime() as runtime,
        pytest.raises(TypeError, match="pass a TunnelConfig, not a str"),
    ):
        runtime.open_tunnel("press-4")  # type: ignore[arg-type]
