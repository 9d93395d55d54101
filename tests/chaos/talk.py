"""The applications of a conversation: what each sends, checks, and how it saw the end.

Every conversation has bytes of its own in each direction, made from the seed, of which each is
compared at its place. An `Ending` is one application's account; `verdict` compares the two, and is
pure. The rules are those of docs/protocol.md section 3a.
"""

from __future__ import annotations

import asyncio
import functools
import random
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from .proxy import reset_socket
from .schedule import Conversation, End

HEADER_BYTES: Final = 8
"""The client's first bytes are the number of the conversation."""


@functools.lru_cache(maxsize=64)
def _body(seed: int, size_bytes: int) -> bytes:
    return random.Random(seed).randbytes(size_bytes)


def content(seed: int, talk: Conversation, *, upwards: bool) -> bytes:
    """Return what an application of a conversation sends."""
    if upwards:
        head = talk.number.to_bytes(HEADER_BYTES, "big")
        rest = max(talk.up_bytes - HEADER_BYTES, 0)
        return head + _body(seed * 4_096 + talk.number * 2, rest)
    return _body(seed * 4_096 + talk.number * 2 + 1, talk.down_bytes)


@dataclass
class Ending:
    """What one application sent and saw. Times are those of `time.monotonic`.

    Attributes:
        sent_bytes: how many it handed over.
        shut_at: when it ended its direction in good order, with all sent.
        received_bytes: how many came.
        wrong_at: the first byte that was not right.
        eof_at: when the other's direction ended in good order.
        cut: how its connection ended otherwise.
        aborted: whether it broke off itself.
        is_over: whether it has ended in any way.
    """

    sent_bytes: int = 0
    shut_at: float | None = None
    received_bytes: int = 0
    wrong_at: int | None = None
    eof_at: float | None = None
    cut: str = ""
    aborted: bool = False
    is_over: bool = False

    @property
    def told(self) -> str:
        """One word for it."""
        if not self.is_over:
            return "stuck"
        if self.aborted:
            return "aborted"
        if self.cut:
            return "cut"
        return "whole"

    def take(self, data: bytes | memoryview, expected: bytes) -> None:
        """Compare what came with what should."""
        start = self.received_bytes
        self.received_bytes += len(data)
        if self.wrong_at is None and expected[start : start + len(data)] != data:
            right = expected[start : start + len(data)]
            pairs = enumerate(zip(bytes(data), right, strict=False))
            differing = [at for at, (one, other) in pairs if one != other]
            self.wrong_at = start + (differing[0] if differing else len(right))


class Application:
    """One end of a conversation over TCP.

    Args:
        talk: what is said.
        is_client: which end it is.
        sock: its socket, connected, not blocking.
        seed: of the schedule.
        ending: its account, to be written.
    """

    def __init__(
        self,
        talk: Conversation,
        sock: socket.socket,
        seed: int,
        *,
        is_client: bool,
        ending: Ending,
    ) -> None:
        self.ending = ending
        self._talk = talk
        self._sock = sock
        self._is_client = is_client
        self._out = content(seed, talk, upwards=is_client)
        self._in = content(seed, talk, upwards=not is_client)
        mine, other = (
            (End.CLIENT_FIRST, End.SERVER_FIRST)
            if is_client
            else (End.SERVER_FIRST, End.CLIENT_FIRST)
        )
        aborts = End.CLIENT_ABORTS if is_client else End.SERVER_ABORTS
        self._is_first = talk.end is mine
        self._is_last = talk.end is other
        self._aborts_at = talk.abort_bytes if talk.end is aborts else None
        self._is_asked = talk.end is End.ASKED and not is_client
        self._asks = talk.end is End.ASKED and is_client
        self._heard_all = asyncio.Event()
        self._heard_end = asyncio.Event()

    def hear(self, data: bytes) -> None:
        """Take what was read before it was known whose connection it is."""
        self.ending.take(data, self._in)
        self._look()

    def _look(self) -> None:
        if self.ending.received_bytes >= len(self._in):
            self._heard_all.set()

    async def run(self) -> Ending:
        """Talk until both directions have ended, or one has broken."""
        parts = [asyncio.ensure_future(self._receive()), asyncio.ensure_future(self._hand_over())]
        ending = self.ending
        try:
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_EXCEPTION)
            for part in done:
                part.result()
        except Aborting:
            ending.aborted = True
        except OSError as error:
            ending.cut = type(error).__name__
        except asyncio.CancelledError:
            reset_socket(self._sock)
            raise
        finally:
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)
        ending.is_over = True
        if ending.aborted or ending.cut:
            reset_socket(self._sock)
        else:
            self._sock.close()
        return ending

    async def _receive(self) -> None:
        loop, talk = asyncio.get_running_loop(), self._talk
        while True:
            data = await loop.sock_recv(self._sock, talk.read_bytes)
            if not data:
                break
            self.ending.take(data, self._in)
            self._look()
            self._abort_if_due()
            if talk.read_pause_ms:
                await asyncio.sleep(talk.read_pause_ms / 1_000)
        if self.ending.cut:
            return
        self.ending.eof_at = time.monotonic()
        if self._is_asked and not self._heard_all.is_set():
            # In a stream without marks a cut looks so.
            raise EarlyEndError
        self._heard_end.set()

    async def _hand_over(self) -> None:
        try:
            await self._send()
        except OSError as error:
            # The kernel tells of a reset once; whoever reads after that reads an end.
            self.ending.cut = type(error).__name__
            raise

    async def _send(self) -> None:
        loop, talk, ending = asyncio.get_running_loop(), self._talk, self.ending
        # The server has to know whose connection it is, whoever speaks first.
        head = HEADER_BYTES if self._is_client else 0
        if head:
            await loop.sock_sendall(self._sock, self._out[:head])
            ending.sent_bytes = head
        if self._is_last:
            await self._heard_end.wait()
        if self._is_asked:
            await self._heard_all.wait()
        for start in range(head, len(self._out), talk.chunk_bytes):
            chunk = self._out[start : start + talk.chunk_bytes]
            await loop.sock_sendall(self._sock, chunk)
            ending.sent_bytes += len(chunk)
            self._abort_if_due()
            if talk.pause_ms:
                await asyncio.sleep(talk.pause_ms / 1_000)
        if self._asks:
            await self._heard_end.wait()
        if self._aborts_at is not None:
            raise Aborting
        ending.shut_at = time.monotonic()
        self._sock.shutdown(socket.SHUT_WR)

    def _abort_if_due(self) -> None:
        if self._aborts_at is None:
            return
        if self.ending.sent_bytes + self.ending.received_bytes >= self._aborts_at:
            raise Aborting


class EarlyEndError(OSError):
    """The other's direction ended before all had come; the application does not go on."""


class Aborting(Exception):  # noqa: N818 - it is no error
    """The application breaks off, as its schedule says."""


# -- the verdict


@dataclass(frozen=True)
class Circumstances:
    """What is known of a conversation's tunnel.

    Attributes:
        is_marked: whether an end can be told from a cut.
        is_corrupted: whether bytes were corrupted that no TLS protects.
        must_be_whole: no fault touched the tunnel.
    """

    is_marked: bool
    is_corrupted: bool
    must_be_whole: bool


@dataclass
class Verdict:
    """What is wrong with a conversation, and what is known to be as it is.

    Attributes:
        violations: what no conversation may do.
        tolerated: documented exceptions that were seen.
    """

    violations: list[str]
    tolerated: list[str]


BEFORE_HELLO: Final = "an end at a source whose destination was lost before its hello"
CORRUPTED: Final = "bytes corrupted where there is no TLS"
UNMARKED: Final = "a cut that looks like an end in an unmarked stream"


def verdict(
    talk: Conversation, client: Ending, server: Ending | None, known: Circumstances
) -> Verdict:
    """Compare what the two applications of a conversation saw.

    Args:
        talk: what was to be said.
        client: the client's account.
        server: the server's; None if it never came to know of it.
        known: what holds for the tunnel.
    """
    found = Verdict([], [])
    other = server or Ending(is_over=True)
    for name, mine, its, size in (
        ("client", client, other, talk.down_bytes),
        ("server", other, client, max(talk.up_bytes, HEADER_BYTES)),
    ):
        for text in _wrong_at_one_end(name, mine, its, size):
            if known.is_corrupted and "stuck" not in text:
                found.tolerated.append(CORRUPTED)
            elif text.startswith("lie"):
                _judge_lie(found, text, name, mine, known)
            else:
                found.violations.append(text)
    if known.must_be_whole:
        found.violations += _not_whole(talk, client, server)
    return found


def _wrong_at_one_end(name: str, mine: Ending, its: Ending, size: int) -> list[str]:
    """What the account of one end says against it; a lie begins with that word."""
    found = []
    if mine.wrong_at is not None:
        found.append(f"wrong byte at the {name}: number {mine.wrong_at}")
    if not mine.is_over:
        found.append(
            f"stuck {name}: sent {mine.sent_bytes}, received {mine.received_bytes} of {size}"
        )
    if mine.eof_at is None:
        return found
    if its.shut_at is None or mine.eof_at < its.shut_at:
        found.append(f"lie: the {name} saw an end that was none, after {mine.received_bytes}")
    elif mine.received_bytes < size:
        found.append(f"lie: the {name} saw an end after {mine.received_bytes} of {size}")
    return found


def _judge_lie(found: Verdict, text: str, name: str, mine: Ending, known: Circumstances) -> None:
    if not known.is_marked:
        found.tolerated.append(UNMARKED)
    elif name == "client" and mine.received_bytes == 0 and mine.shut_at is not None:
        found.tolerated.append(BEFORE_HELLO)
    else:
        found.violations.append(text)


def _not_whole(talk: Conversation, client: Ending, server: Ending | None) -> list[str]:
    """What is wrong with a conversation on a tunnel that nothing touched."""
    if talk.end in (End.CLIENT_ABORTS, End.SERVER_ABORTS):
        return []
    if server is None:
        return ["disturbed: the server never came to know of it"]
    found = []
    if client.cut or (server.cut and talk.end is not End.ASKED):
        found.append(f"disturbed: client {client.cut or 'whole'}, server {server.cut or 'whole'}")
    if client.received_bytes != talk.down_bytes:
        found.append(f"disturbed: the client has {client.received_bytes} of {talk.down_bytes}")
    if server.received_bytes != max(talk.up_bytes, HEADER_BYTES):
        found.append(f"disturbed: the server has {server.received_bytes} of {talk.up_bytes}")
    return found


async def eventually(
    true: Callable[[], bool],
    endings: Callable[[], list[Ending]],
    quiet_seconds: float,
    pause_seconds: float,
) -> bool:
    """Wait until something holds; False when no conversation has moved for long.

    A machine that is busy with other work may take minutes for what takes a second else: what
    moves is not stuck. The bytes of a schedule are counted, so this ends.

    Args:
        true: what is to hold.
        endings: the accounts of all conversations, of both applications.
        quiet_seconds: how long is long.
        pause_seconds: between two looks.
    """
    before, deadline = _moved(endings()), time.monotonic() + quiet_seconds
    while not true():
        if time.monotonic() > deadline:
            now = _moved(endings())
            if now == before:
                return False
            before, deadline = now, time.monotonic() + quiet_seconds
        await asyncio.sleep(pause_seconds)
    return True


def _moved(endings: list[Ending]) -> tuple[int, int, int]:
    """How far all conversations have come."""
    return (
        len(endings),
        sum(each.is_over for each in endings),
        sum(each.sent_bytes + each.received_bytes for each in endings),
    )
