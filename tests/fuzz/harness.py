"""What a harness is, how it reads its input, and how the length of a turn is measured.

A harness is a plain function of bytes that drives the real code and checks what must hold whatever
the bytes are. It raises on a finding. Its drivers are `guided` (atheris) and `test_surfaces`
(hypothesis, and the kept corpus).
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

CORPUS = Path(__file__).parent / "corpus"
MAX_TURN_SECONDS = 0.1
"""CPU time of one turn, which is one call into the code, with as much as a socket gives at once."""
READ_BYTES = 65_536
"""What a socket gives at once, at most."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Harness:
    """One surface.

    Attributes:
        run: drives the code with the bytes.
        covers: the files whose coverage is told, from the root of the repository.
        seeds: inputs to begin with, that reach what chance would take long to find.
        words: texts that the input is likely to have in it.
        max_bytes: the longest input.
        stop: ends what the harness has started; it may be run again after that.
        forget: drops what it remembers of inputs before, to be faster.
    """

    run: Callable[[bytes], None]
    covers: Sequence[str]
    seeds: Sequence[bytes]
    words: Sequence[bytes] = ()
    max_bytes: int = 4_096
    stop: Callable[[], None] = lambda: None
    forget: Callable[[], None] = lambda: None


class TurnClock:
    """Measures the CPU time of turns: `with TURNS: code.feed(data)`."""

    def __init__(self) -> None:
        self.slowest_seconds = 0.0
        self._began = 0.0

    def __enter__(self) -> None:
        self._began = time.thread_time()

    def __exit__(self, *_exc_info: object) -> None:
        self.note(time.thread_time() - self._began)

    def note(self, seconds: float) -> None:
        """Take a turn that was measured otherwise, as on another thread."""
        self.slowest_seconds = max(self.slowest_seconds, seconds)

    def take(self) -> float:
        """Return the slowest turn since the last time."""
        found, self.slowest_seconds = self.slowest_seconds, 0.0
        return found


TURNS = TurnClock()


def clock_of(pieces: Sequence[bytes]) -> contextlib.AbstractContextManager[None]:
    """What measures the turns of an input that comes in pieces: those of a whole one alone.

    To read the clock takes longer than to take a piece of a byte.
    """
    return TURNS if len(pieces) == 1 else contextlib.nullcontext()


class TurnTooLong(AssertionError):  # noqa: N818 - says what was found
    """A turn takes more CPU time than `MAX_TURN_SECONDS`."""


def run_measured(harness: Harness, data: bytes, attempts: int = 4) -> float:
    """Run a harness, and return its slowest turn in seconds.

    A turn that is too long is measured again: the machine has other things to do.

    Raises:
        TurnTooLong: it is too long each time.
    """
    slowest = float("inf")
    for _ in range(attempts):
        TURNS.take()
        harness.run(data)
        slowest = min(slowest, TURNS.take())
        if slowest <= MAX_TURN_SECONDS:
            return slowest
    raise TurnTooLong(f"a turn takes {slowest * 1000:.0f} ms of CPU time")


class Source:
    """Reads choices, numbers and texts out of an input; of an empty one zeros."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def is_empty(self) -> bool:
        return self._at >= len(self._data)

    def byte(self) -> int:
        if self.is_empty:
            return 0
        self._at += 1
        return self._data[self._at - 1]

    def flag(self) -> bool:
        return bool(self.byte() & 1)

    def choose(self, options: Sequence[T]) -> T:
        return options[self.byte() % len(options)]

    def number(self) -> int:
        """A small number mostly, and any of 32 bits."""
        first = self.byte()
        return first if first < 0xF0 else int.from_bytes(self.take(4), "big")

    def take(self, size: int) -> bytes:
        found = self._data[self._at : self._at + size]
        self._at += len(found)
        return found

    def rest(self) -> bytes:
        return self.take(len(self._data))

    def __iter__(self) -> Iterator[Self]:
        """Itself, until it is empty."""
        while not self.is_empty:
            yield self


MAX_PIECES = 32
"""So many pieces of an input are cut: thousands of a byte each take long and say no more."""


def cut(data: bytes, sizes: bytes) -> list[bytes]:
    """Cut data into pieces of these sizes, again and again; no size is 0.

    What is left behind `MAX_PIECES` is one more.
    """
    pieces, at = [], 0
    for size in itertools.islice(itertools.cycle(sizes or b"\0"), MAX_PIECES if sizes else 0):
        if at >= len(data):
            return pieces
        pieces.append(data[at : at + (size or 1)])
        at += size or 1
    return [*pieces, data[at:]] if at < len(data) else pieces


def kept(name: str) -> dict[str, bytes]:
    """Return the kept inputs of a surface, by the names of their files."""
    folder = CORPUS / name
    found = sorted(folder.glob("*")) if folder.is_dir() else []
    return {each.name: each.read_bytes() for each in found}


def is_line(text: str, limit: int) -> bool:
    """Whether a text is one printable line within a limit, as what is shown must be."""
    return text.isprintable() and len(text) <= limit


class Wired:
    """A socket of bytes that are there already; what is sent is kept.

    Args:
        data: what the other side sends, and then closes.
        answer: changes what comes, once something was sent.
        piece_bytes: so much comes at a time, at most; 0 for all that there is.
    """

    def __init__(
        self,
        data: bytes,
        answer: Callable[[bytes, bytes], bytes] = lambda data, _sent: data,
        piece_bytes: int = 0,
    ) -> None:
        self.left = data
        self.sent = b""
        self.calls = 0
        self._answer = answer
        self._piece_bytes = piece_bytes or READ_BYTES

    def sendall(self, data: bytes) -> None:
        self.sent += data
        self.left = self._answer(self.left, self.sent)

    def recv(self, size: int) -> bytes:
        self.calls += 1
        size = min(size, self._piece_bytes)
        found, self.left = self.left[:size], self.left[size:]
        return found
