"""Errors: whose fault, data in fields, text that says what to do."""

from __future__ import annotations

import pickle

import pytest

from tunnelfleet.proto import (
    ConfigError,
    ConnectionIdUnknown,
    ConnectionIdUnusable,
    ConnectionLost,
    HandshakeError,
    LocalProtocolError,
    Mode,
    NoActiveStream,
    NotConnected,
    PayloadTooLarge,
    ProtocolVersion,
    RemoteProtocolError,
    ServiceIdUnknown,
    ServiceWithoutStream,
    TooManyConnections,
    TunnelClosed,
    TunnelError,
    VersionMismatch,
    WrongMode,
)
from tunnelfleet.proto.errors import KNOWN_STATUSES

LOCAL_ERRORS = [
    (NotConnected(), "wait until"),
    (NotConnected("the gateway is stopping"), "gateway is stopping"),
    (PayloadTooLarge(70_000, 64_512), "70000 bytes"),
    (WrongMode(Mode.DESTINATION, "start a stream"), "a destination cannot start a stream"),
    (NoActiveStream(), "start one"),
    (ServiceIdUnknown("FTP", ("SSH", "HTTP")), "'FTP' (its services: SSH, HTTP)"),
    (ServiceIdUnknown("FTP", ()), "its services: none"),
    (ServiceWithoutStream("SSH"), "'SSH' has no active stream"),
    (ConnectionIdUnknown("SSH", 7), "no open connection 7"),
    (ConnectionIdUnusable("SSH", 7), "connection id 7"),
    (TooManyConnections("SSH", 9), "9 connections are open"),
    (VersionMismatch(ProtocolVersion.V2, "use V3"), "not possible in V2: use V3"),
]


@pytest.mark.parametrize(("error", "text"), LOCAL_ERRORS, ids=lambda value: type(value).__name__)
def test_local_errors_say_what_is_wrong(error: LocalProtocolError, text: str) -> None:
    assert isinstance(error, LocalProtocolError)
    assert text in str(error)
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))


def test_every_local_error_is_tried_here() -> None:
    def leaves(kind: type[Exception]) -> set[type[Exception]]:
        below = kind.__subclasses__()
        return {kind} if not below else set().union(*map(leaves, below))

    assert leaves(LocalProtocolError) == {type(error) for error, _ in LOCAL_ERRORS}


def test_send_errors_can_be_told_apart() -> None:
    assert not issubclass(ServiceWithoutStream, NoActiveStream)
    assert not issubclass(RemoteProtocolError, LocalProtocolError)


@pytest.mark.parametrize("kind", [ConfigError, LocalProtocolError, RemoteProtocolError])
def test_all_are_tunnel_errors(kind: type[Exception]) -> None:
    assert issubclass(kind, TunnelError)
    assert issubclass(TunnelClosed, TunnelError)


def test_handshake_error_names_the_channel_id() -> None:
    error = HandshakeError("refused", status=403, channel_id="abc-1", retryable=False)
    assert (error.status, error.channel_id, error.retryable) == (403, "abc-1", False)
    assert str(error) == "refused (channel-id abc-1)"
    without = HandshakeError("refused", status=None, channel_id=None, retryable=True)
    assert str(without) == "refused"


@pytest.mark.parametrize(
    ("status", "label"),
    [
        (None, "connect_failed"),
        (403, "http_403"),
        (503, "http_503"),
        (302, "http_3xx"),
        (418, "http_4xx"),
        (599, "http_5xx"),
        (0, "http_other"),
        (999, "http_other"),
    ],
)
def test_a_handshake_has_one_of_a_few_labels(status: int | None, label: str) -> None:
    error = HandshakeError("refused", status=status, channel_id=None, retryable=True)
    assert error.label == label


def test_whatever_a_service_sends_there_are_few_labels() -> None:
    statuses = [None, *range(1_000)]
    errors = [HandshakeError("", status=s, channel_id=None, retryable=True) for s in statuses]
    assert len({error.label for error in errors}) <= len(KNOWN_STATUSES) + 7


@pytest.mark.parametrize("was_established", [True, False])
def test_a_lost_connection_says_why_in_a_word_and_in_a_text(was_established: bool) -> None:
    error = ConnectionLost("lost", "the network went away", was_established=was_established)
    assert isinstance(error, TunnelError)
    assert (str(error), error.label) == ("the network went away", "lost")
    assert error.was_established is was_established
