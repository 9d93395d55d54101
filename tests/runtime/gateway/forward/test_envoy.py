"""What an envoy makes of another gateway's answer; the test plays that gateway, over real TLS."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

import pytest

from tests.support.actors import Probe
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.actors.kernel import ask_future
from tunnelfleet.actors.net.name_lookup import NameLookups
from tunnelfleet.actors.net.socket_io import ExhaustionLog
from tunnelfleet.actors.tunnel.messages import HandOver
from tunnelfleet.proto import TunnelClosed, TunnelError
from tunnelfleet.runtime.gateway.config.fleet_tls import FleetTls, read_fleet_tls
from tunnelfleet.runtime.gateway.door.handshake import Denial
from tunnelfleet.runtime.gateway.forward import envoy as envoys
from tunnelfleet.runtime.gateway.forward import link as links
from tunnelfleet.runtime.gateway.forward.carriage import ForwardCounters
from tunnelfleet.runtime.gateway.forward.envoy import AskAway, EnvoyActor, Errand
from tunnelfleet.runtime.gateway.forward.frames import (
    ANSWER_BYTES,
    Ask,
    ForwardAnswer,
    FrameKind,
    GatewayFrame,
    GatewayFrameReader,
    Question,
    encode_frame,
)
from tunnelfleet.runtime.gateway.placement import Member

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.forwarding import Authority
    from tunnelfleet.actors.kernel import Dispatcher

GREETING = b"220 a server that speaks first\r\n"


class PlayedGateway:
    """Gateway `two`, for one call. A context manager."""

    def __init__(self, tls: FleetTls) -> None:
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(WAIT_SECONDS)
        self._reader = GatewayFrameReader()
        self._frames: list[GatewayFrame] = []
        self.sock: socket.socket

    @property
    def member(self) -> Member:
        """How the others find it."""
        return Member("two", f"127.0.0.1:{self._listener.getsockname()[1]}", 1, True, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._listener.close()
        if hasattr(self, "sock"):
            self.sock.close()

    def accept(self) -> socket.socket:
        """Take the call, before TLS."""
        plain, _peer = self._listener.accept()
        plain.settimeout(WAIT_SECONDS)
        return plain

    def take(self) -> Question:
        """Take the call, and the question."""
        self.sock = self._tls.server.wrap_socket(self.accept(), server_side=True)
        frame = self.hear()
        assert frame.kind is FrameKind.HELLO
        return Question.decode(frame.payload)

    def hear(self) -> GatewayFrame:
        """The next frame."""
        while not self._frames:
            data = self.sock.recv(65_536)
            assert data, "the call is over"
            self._frames += self._reader.feed(data)
        return self._frames.pop(0)

    def say(self, *frames: tuple[FrameKind, bytes]) -> None:
        """Send frames."""
        self.sock.sendall(b"".join(encode_frame(kind, payload) for kind, payload in frames))


@pytest.fixture
def tls(authority: Authority) -> FleetTls:
    files = authority.keys("two")
    cert, key, ca = (Path(files[f"fleet_{each}"]) for each in ("cert", "key", "ca"))
    return read_fleet_tls(cert, key, ca, "two")[0]


@pytest.fixture
def other(tls: FleetTls) -> Iterator[PlayedGateway]:
    with PlayedGateway(tls) as playing:
        yield playing


class Asker:
    """Asks by an envoy, as a door does."""

    def __init__(self, dispatcher: Dispatcher, lookups: Any, tls: FleetTls) -> None:
        self._dispatcher = dispatcher
        self._lookups = lookups
        self._tls = tls
        self.counters = ForwardCounters()
        self.ref = Probe.start(dispatcher=dispatcher)
        self.envoy: Any = None

    def ask(self, member: Member, ask: Ask = Ask.CONNECT) -> Any:
        """Begin to ask; what comes of it is a future."""
        errand = Errand(member, Question(ask=ask, target="press-4"), self._tls.client, self.ref)
        self.envoy = EnvoyActor.start(
            errand, self._lookups, self.counters, dispatcher=self._dispatcher
        )
        return ask_future(self.envoy, AskAway())

    @contextlib.contextmanager
    def handed_over(self) -> Iterator[socket.socket]:
        """The client's socket, whose other end is handed to the envoy."""
        listener = socket.create_server(("127.0.0.1", 0))
        with listener, socket.create_connection(listener.getsockname()) as client:
            theirs, _peer = listener.accept()
            theirs.setblocking(False)
            try:
                ask_future(self.envoy, HandOver("SSH", theirs, b"")).get(timeout=WAIT_SECONDS)
            except TunnelError:
                theirs.close()
                raise
            client.settimeout(WAIT_SECONDS)
            yield client

    def wait_over(self) -> None:
        """The envoy has ended, and counts no more."""
        eventually(lambda: not self.envoy.is_alive() and self.counters.open == 0)


@pytest.fixture
def asker(dispatcher: Dispatcher, tls: FleetTls) -> Iterator[Asker]:
    lookups = SimpleNamespace(names=NameLookups(), exhaustion=ExhaustionLog())
    yield Asker(dispatcher, lookups, tls)
    lookups.names.close()


@pytest.mark.parametrize(
    ("says", "reason", "text"),
    [
        ([(FrameKind.CUT, b"no\x1bmore")], "protocol", "broke off: no"),
        ([(FrameKind.END, b"")], "protocol", "does not answer as a gateway does"),
        ([(FrameKind.DATA, b"x" * (ANSWER_BYTES + 1))], "protocol", "does not answer as"),
        ([(FrameKind.DATA, b"[]\n")], "protocol", "is not understood: it does not speak"),
        ([(FrameKind.DATA, b'{"denial": 1}\n')], "protocol", "its answer cannot be read"),
        ([], "protocol", "cannot be asked: the other gateway has closed the connection"),
    ],
    ids=["a cut", "an end", "no line", "no object", "no answer", "nothing"],
)
def test_whatever_is_no_answer_is_told_as_one_that_it_gave_none(
    asker: Asker, other: PlayedGateway, says: list[Any], reason: str, text: str
) -> None:
    asked = asker.ask(other.member)
    assert other.take().target == "press-4"
    other.say(*says)
    if not says:
        other.sock.close()
    answer = asked.get(timeout=WAIT_SECONDS)
    assert answer.denial is Denial.ELSEWHERE
    assert answer.text.startswith("gateway two ")
    assert text in answer.text
    assert answer.text.isprintable()
    assert asker.counters.failures[reason] == 1
    asker.wait_over()


def test_a_refusal_is_passed_on_and_the_call_ends_in_good_order(
    asker: Asker, other: PlayedGateway
) -> None:
    asked = asker.ask(other.member)
    other.take()
    # In two pieces, as TCP may have it.
    line = ForwardAnswer(Denial.BUSY, "too many").encode()
    other.say((FrameKind.DATA, line[:5]))
    other.say((FrameKind.DATA, line[5:]))
    assert asked.get(timeout=WAIT_SECONDS) == ForwardAnswer(Denial.BUSY, "too many")
    assert other.hear().kind is FrameKind.END
    assert asker.counters.refused == 1
    other.sock.close()
    asker.wait_over()


def test_who_cannot_be_reached_is_told(asker: Asker, other: PlayedGateway) -> None:
    member = other.member
    with other:
        pass
    answer = asker.ask(member).get(timeout=WAIT_SECONDS)
    assert answer.denial is Denial.ELSEWHERE
    assert "gateway two cannot be reached: " in answer.text
    assert asker.counters.failures["unreachable"] == 1


def test_who_does_not_answer_is_given_up(
    asker: Asker, other: PlayedGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(envoys, "ANSWER_SECONDS", 0.05)
    asked = asker.ask(other.member)
    other.take()
    answer = asked.get(timeout=WAIT_SECONDS)
    assert answer.text == "gateway two does not answer in time"
    assert asker.counters.failures["late"] == 1
    asker.wait_over()


@pytest.mark.parametrize("ask", [Ask.CONNECT, Ask.TUNNELS], ids=lambda ask: ask.name.lower())
def test_the_time_for_the_call_is_nothing_to_the_answer(
    asker: Asker, other: PlayedGateway, ask: Ask
) -> None:
    """The other gateway may open a tunnel first, which takes longer than a call."""
    asked = asker.ask(other.member, ask)
    other.take()
    asker.envoy.tell(envoys._EnvoyLate(envoys._EnvoyStep.CALLING))
    if ask is Ask.CONNECT:
        other.say((FrameKind.DATA, ForwardAnswer().encode()))
        assert asked.get(timeout=WAIT_SECONDS) == ForwardAnswer()
    else:
        other.say((FrameKind.DATA, b"[]"), (FrameKind.END, b""))
        assert asked.get(timeout=WAIT_SECONDS) == b"[]"
    assert asker.counters.failures["late"] == 0
    other.sock.close()
    asker.wait_over()


def test_what_another_gateway_tells_has_a_limit(
    asker: Asker, other: PlayedGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(envoys, "MAX_TOLD_BYTES", 10)
    asked = asker.ask(other.member, Ask.TUNNELS)
    other.take()
    other.say((FrameKind.DATA, b"12345"))
    other.say((FrameKind.DATA, b"678901"))
    assert "tells more than 10 bytes" in asked.get(timeout=WAIT_SECONDS).text
    asker.wait_over()


def test_what_it_tells_comes_whole(asker: Asker, other: PlayedGateway) -> None:
    asked = asker.ask(other.member, Ask.TUNNELS)
    assert other.take().ask is Ask.TUNNELS
    other.say((FrameKind.DATA, b"[1"), (FrameKind.ALIVE, b""), (FrameKind.DATA, b"]"))
    other.say((FrameKind.END, b""))
    assert asked.get(timeout=WAIT_SECONDS) == b"[1]"
    assert other.hear().kind is FrameKind.END
    other.sock.close()
    asker.wait_over()


def test_nobody_asks_on_for_an_asker_that_has_ended(asker: Asker, other: PlayedGateway) -> None:
    asker.ask(other.member)
    other.take()
    asker.ref.stop()
    asker.wait_over()
    with pytest.raises((AssertionError, OSError)):
        other.hear()


class TestBeforeTheClientIsThere:
    """A server may speak, and end, before the client's socket has come to the envoy."""

    def answered(self, asker: Asker, other: PlayedGateway, *early: tuple[FrameKind, bytes]) -> None:
        asked = asker.ask(other.member)
        other.take()
        other.say((FrameKind.DATA, ForwardAnswer().encode()), *early)
        assert asked.get(timeout=WAIT_SECONDS) == ForwardAnswer()

    def test_it_gets_what_was_said(self, asker: Asker, other: PlayedGateway) -> None:
        self.answered(asker, other, (FrameKind.DATA, GREETING))
        with asker.handed_over() as client:
            assert client.recv(100) == GREETING
            client.sendall(b"QUIT\r\n")
            assert other.hear() == (FrameKind.DATA, b"QUIT\r\n")
            other.say((FrameKind.END, b""))
            assert client.recv(100) == b""
            client.shutdown(socket.SHUT_WR)
            assert other.hear().kind is FrameKind.END
            other.sock.close()
            asker.wait_over()

    def test_it_gets_the_end_as_well(self, asker: Asker, other: PlayedGateway) -> None:
        # All of it is one record of TLS, so the envoy reads it in one turn.
        self.answered(asker, other, (FrameKind.DATA, GREETING), (FrameKind.END, b""))
        with asker.handed_over() as client:
            assert client.recv(100) == GREETING
            assert client.recv(100) == b""

    def test_more_than_a_little_waits_in_the_kernel(
        self, asker: Asker, other: PlayedGateway
    ) -> None:
        self.answered(asker, other)
        sent = bytes(range(256)) * 8_192
        writer = threading.Thread(
            target=lambda: [
                other.say((FrameKind.DATA, sent[at : at + 32_768]))
                for at in range(0, len(sent), 32_768)
            ]
        )
        writer.start()
        with asker.handed_over() as client:
            got = bytearray()
            while len(got) < len(sent):
                got += client.recv(65_536)
            assert got == sent
            writer.join()

    def test_a_call_that_is_over_takes_no_client(self, asker: Asker, other: PlayedGateway) -> None:
        self.answered(asker, other)
        other.sock.close()
        asker.wait_over()
        assert asker.counters.forwarded == 0

    def test_a_call_that_is_not_answered_takes_no_client(
        self, asker: Asker, other: PlayedGateway
    ) -> None:
        asker.ask(other.member)
        other.take()
        with pytest.raises(TunnelClosed), asker.handed_over():
            pass


class TestTheLink:
    def test_who_speaks_no_tls_is_told(self, asker: Asker, other: PlayedGateway) -> None:
        asked = asker.ask(other.member)
        plain = other.accept()
        with plain:
            plain.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            answer = asked.get(timeout=WAIT_SECONDS)
        assert "cannot be asked: no handshake: TLS says: " in answer.text
        assert asker.counters.failures["handshake"] == 1
        asker.wait_over()

    def test_who_says_nothing_is_taken_for_dead_and_hears_that_we_live(
        self, asker: Asker, other: PlayedGateway, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(links, "ALIVE_SECONDS", 0.02)
        monkeypatch.setattr(links, "SILENT_SECONDS", 0.2)
        asked = asker.ask(other.member)
        other.take()
        assert other.hear().kind is FrameKind.ALIVE
        text = "gateway two cannot be asked: nothing was heard of the other gateway for 0.2 s"
        assert asked.get(timeout=WAIT_SECONDS).text == text
        asker.wait_over()

    def test_who_sends_no_frames_is_told(self, asker: Asker, other: PlayedGateway) -> None:
        asked = asker.ask(other.member)
        other.take()
        other.sock.sendall(b"\xff\x00\x00")
        answer = asked.get(timeout=WAIT_SECONDS)
        assert "cannot be asked: there is no frame of kind 255" in answer.text
        asker.wait_over()

    def test_who_does_not_close_in_time_is_left(
        self, asker: Asker, other: PlayedGateway, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(links, "CLOSE_SECONDS", 0.05)
        asker.ask(other.member)
        other.take()
        other.say((FrameKind.DATA, ForwardAnswer(Denial.BUSY, "no").encode()))
        asker.wait_over()


class TestTheClient:
    """What it sees of an end is what has happened at the other gateway, and the other way round."""

    @pytest.fixture
    def client(self, asker: Asker, other: PlayedGateway) -> Iterator[socket.socket]:
        asked = asker.ask(other.member)
        other.take()
        other.say((FrameKind.DATA, ForwardAnswer().encode()))
        assert asked.get(timeout=WAIT_SECONDS) == ForwardAnswer()
        with asker.handed_over() as sock:
            yield sock

    @pytest.mark.parametrize("how", ["cut", "closed", "reset", "nonsense"])
    def test_what_is_cut_there_is_a_reset_here(
        self, asker: Asker, other: PlayedGateway, client: socket.socket, how: str
    ) -> None:
        other.say((FrameKind.DATA, b"hello"))
        assert client.recv(100) == b"hello"
        if how == "cut":
            other.say((FrameKind.CUT, b"the tunnel was cut"))
        elif how == "closed":
            other.sock.close()
        elif how == "reset":
            other.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            other.sock.close()
        else:
            other.sock.sendall(b"\xff\x00\x00")
        with pytest.raises(ConnectionResetError):
            client.recv(100)
        other.sock.close()
        asker.wait_over()

    def test_a_reset_here_is_a_cut_there(
        self, asker: Asker, other: PlayedGateway, client: socket.socket
    ) -> None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        assert other.hear().kind is FrameKind.CUT
        other.sock.close()
        asker.wait_over()

    def test_whoever_has_asked_may_go(
        self, asker: Asker, other: PlayedGateway, client: socket.socket
    ) -> None:
        asker.ref.stop()
        client.sendall(b"hello")
        assert other.hear() == (FrameKind.DATA, b"hello")

    def test_much_both_ways(self, other: PlayedGateway, client: socket.socket) -> None:
        """More than any buffer takes: each side is held up by the other and goes on."""
        sent = bytes(range(256)) * 16_384
        writer = threading.Thread(target=client.sendall, args=(sent,))
        writer.start()
        got = bytearray()
        while len(got) < len(sent):
            got += other.hear().payload
        writer.join()
        assert got == sent
        writer = threading.Thread(
            target=lambda: [
                other.say((FrameKind.DATA, sent[at : at + 60_000]))
                for at in range(0, len(sent), 60_000)
            ]
        )
        writer.start()
        got.clear()
        while len(got) < len(sent):
            got += client.recv(65_536)
        writer.join()
        assert got == sent
