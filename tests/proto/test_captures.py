"""Transcripts of real peers: they decode, drive both state machines, and re-encode alike."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.captures import (
    CAPTURES,
    Recorded,
    full_frames,
    handshakes,
    messages,
    reencode,
    version_of,
)
from tunnelfleet.proto import (
    SUBPROTOCOL_V3,
    Answer,
    FrameDecoder,
    Message,
    MessageDropped,
    MessageType,
    Mode,
    Session,
    check_request,
    encode_frame,
    validate_client_token,
)

if TYPE_CHECKING:
    from pathlib import Path

T = MessageType
every_capture = pytest.mark.parametrize("capture", CAPTURES, ids=lambda path: path.stem)
every_receiver = pytest.mark.parametrize("receiver", list(Mode))


def test_all_transcripts_are_here() -> None:
    names = {path.stem for path in CAPTURES}
    assert names == {f"{peer}-v{n}" for peer in ("aws-c", "localproxy") for n in (1, 2, 3)}


@every_capture
def test_decodes_to_what_was_recorded(capture: Path) -> None:
    for record in messages(capture):
        if len(record.frame) == record.frame_bytes:
            assert FrameDecoder(strict=True).feed(record.frame) == [record.message]


@every_capture
def test_reencodes_to_the_same_bytes(capture: Path) -> None:
    for record in messages(capture):
        frame = reencode(capture, record.message)
        assert len(frame) == record.frame_bytes
        assert frame[: len(record.frame)] == record.frame
        # Whatever the order of fields, ours means the same.
        assert FrameDecoder().feed(encode_frame(record.message)) == [record.message]


def test_localproxy_order_is_our_own() -> None:
    for capture in CAPTURES:
        if capture.stem.startswith("localproxy"):
            for record in messages(capture):
                assert encode_frame(record.message)[: len(record.frame)] == record.frame


@every_capture
def test_long_messages_decode(capture: Path) -> None:
    for record in messages(capture):
        if len(record.frame) < record.frame_bytes:
            whole = record.frame + reencode(capture, record.message)[len(record.frame) :]
            assert FrameDecoder().feed(whole) == [record.message]


@every_capture
@every_receiver
def test_every_split_in_two(capture: Path, receiver: Mode) -> None:
    records = full_frames(capture, receiver)
    stream = b"".join(record.frame for record in records)
    expected = [record.message for record in records]
    for cut in range(len(stream) + 1):
        decoder = FrameDecoder(strict=True)
        assert decoder.feed(stream[:cut]) + decoder.feed(stream[cut:]) == expected
        assert decoder.buffered_bytes == 0


@given(st.data())
def test_any_split(data: st.DataObject) -> None:
    capture = data.draw(st.sampled_from(CAPTURES))
    records = full_frames(capture, data.draw(st.sampled_from(list(Mode))))
    stream = b"".join(record.frame for record in records)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=40).map(sorted))
    decoder = FrameDecoder()
    decoded: list[Message] = []
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        decoded += decoder.feed(stream[start:stop])
    assert decoded == [record.message for record in records]


class Peers:
    """Our session in the place of both peers of a transcript."""

    marks = False

    def __init__(self, capture: Path) -> None:
        self.capture = capture
        self.sessions = {
            Mode.SOURCE: Session(Mode.SOURCE, version_of(capture), marks=self.marks),
            Mode.DESTINATION: Session(Mode.DESTINATION, marks=self.marks),
        }

    def play(self, record: Recorded) -> None:
        if record.sender != "service":
            self.send(self.sessions[Mode(record.sender)], record)
        for event in self.sessions[record.receiver].receive(record.message):
            assert not isinstance(event, Answer)
            assert not isinstance(event, MessageDropped)

    def send(self, session: Session, record: Recorded) -> None:
        (message,) = self.commanded(session, record.message)
        frame = reencode(self.capture, message)
        assert frame[: len(record.frame)] == record.frame
        assert len(frame) == record.frame_bytes

    def commanded(self, session: Session, message: Message) -> tuple[Message, ...]:
        """Return what our session sends when told to do what the peer did."""
        service_id, connection_id = message.service_id, message.connection_id or 1
        match message.type:
            case T.STREAM_START | T.CONNECTION_START:
                return session.open_connection(service_id).messages
            case T.DATA:
                return (session.data(service_id, connection_id, message.payload),)
            case T.CONNECTION_RESET:
                return tuple(session.reset_connection(service_id, connection_id)[0])
            case T.STREAM_RESET:
                return tuple(session.reset_connection(service_id, 1)[0])
        raise AssertionError(message)

    def is_a_late_echo(self, record: Recorded) -> bool:
        """Say whether a recorded reset is one that ours do not send: of what the peer has ended."""
        if record.message.type is not T.CONNECTION_RESET:
            return False
        view = self.sessions[Mode(record.sender)].active_streams().get(record.message.service_id)
        return view is not None and record.message.connection_id not in view.connection_ids


class MarkingPeers(Peers):
    """Each of our sessions, with marks, beside the recorded peer, which does not mark.

    Only `ignorable` may differ, and only until the peer has shown that it does not mark.
    """

    marks = True

    def send(self, session: Session, record: Recorded) -> None:
        (message,) = self.commanded(session, record.message)
        frame = reencode(self.capture, message._replace(ignorable=False))
        assert frame[: len(record.frame)] == record.frame
        assert len(frame) == record.frame_bytes


class AgreeingPeers(MarkingPeers):
    """Two of our sessions, each other's peer: `ignorable` and the hello are all that differs."""

    def play(self, record: Recorded) -> None:
        message = record.message
        if record.sender != "service":
            self.send(self.sessions[Mode(record.sender)], record)
            message = message._replace(ignorable=True)
        for event in self.sessions[record.receiver].receive(message):
            assert not isinstance(event, MessageDropped)
            if isinstance(event, Answer):
                assert message.type is T.STREAM_START
                assert event.message == message._replace(type=T.DATA)
                assert self.sessions[Mode.SOURCE].receive(event.message) == []


def check_agreement(peers: Peers, capture: Path) -> None:
    source, destination = peers.sessions[Mode.SOURCE], peers.sessions[Mode.DESTINATION]
    assert destination.version is source.version is version_of(capture)
    assert source.active_streams() == destination.active_streams()
    for view in source.active_streams().values():
        # localproxy ends all connections of its scenario, the C client none.
        assert bool(view.connection_ids) is capture.stem.startswith("aws-c")


@every_capture
@pytest.mark.parametrize("kind", [Peers, MarkingPeers])
def test_drives_both_state_machines(capture: Path, kind: type[Peers]) -> None:
    peers = kind(capture)
    skipped = 0
    for record in messages(capture):
        if record.sender != "service" and peers.is_a_late_echo(record):
            # localproxy answers a reset by its own, which the C client would not survive.
            skipped += 1
            continue
        peers.play(record)
    check_agreement(peers, capture)
    assert skipped == (4 if capture.stem == "localproxy-v3" else 0)


@pytest.mark.parametrize(
    "capture",
    # Before V3 the recorded peers end a stream from one side only, which two of ours do not.
    [path for path in CAPTURES if path.stem.startswith("aws-c") or path.stem.endswith("v3")],
    ids=lambda path: path.stem,
)
def test_where_both_mark_only_that_and_the_hello_differ(capture: Path) -> None:
    peers = AgreeingPeers(capture)
    for record in messages(capture):
        peers.play(record)
    check_agreement(peers, capture)


@every_capture
def test_handshakes_are_accepted(capture: Path) -> None:
    for handshake in handshakes(capture):
        url = urlsplit(handshake.path)
        accepted = check_request(url.path, parse_qsl(url.query), list(handshake.headers.items()))
        assert accepted.mode is handshake.mode
        assert accepted.subprotocol == SUBPROTOCOL_V3
        if accepted.client_token is not None:
            assert validate_client_token(accepted.client_token)
