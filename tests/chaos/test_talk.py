"""The verdict on a conversation, by table: what no two accounts of its end may say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from .schedule import Conversation, End
from .talk import BEFORE_HELLO, CORRUPTED, UNMARKED, Circumstances, Ending, content, verdict

TALK = Conversation(5, 0, 0, 0, 1_000, 2_000, 100, 0, 1_000, 0, End.BOTH)
MARKED = Circumstances(is_marked=True, is_corrupted=False, must_be_whole=False)
PLAIN = replace(MARKED, is_marked=False)
UNTOUCHED = replace(MARKED, must_be_whole=True)
CORRUPT = replace(MARKED, is_corrupted=True)

CLIENT = Ending(1_000, shut_at=1.0, received_bytes=2_000, eof_at=4.0, is_over=True)
SERVER = Ending(2_000, shut_at=3.0, received_bytes=1_000, eof_at=2.0, is_over=True)
CUT = Ending(500, received_bytes=300, cut="ConnectionResetError", is_over=True)
ABORTED = Ending(500, received_bytes=300, aborted=True, is_over=True)


@pytest.mark.parametrize(
    ("client", "server", "known"),
    [
        (CLIENT, SERVER, UNTOUCHED),
        (CUT, CUT, MARKED),
        (CUT, None, MARKED),
        (ABORTED, CUT, UNTOUCHED),
        # All that it had sent had arrived, and its own direction was cut behind that.
        (CUT, replace(SERVER, eof_at=None, cut="reset"), MARKED),
    ],
)
def test_what_may_be(client: Ending, server: Ending | None, known: Circumstances) -> None:
    talk = replace(TALK, end=End.CLIENT_ABORTS) if client.aborted else TALK
    assert verdict(talk, client, server, known).violations == []


@pytest.mark.parametrize(
    ("client", "server", "known", "word"),
    [
        (replace(CLIENT, wrong_at=7), SERVER, MARKED, "wrong byte"),
        (replace(CLIENT, is_over=False), SERVER, MARKED, "stuck"),
        (replace(CLIENT, is_over=False), SERVER, CORRUPT, "stuck"),
        # The server never ended in good order, or had more to say, or ended later.
        (CLIENT, replace(SERVER, shut_at=None), MARKED, "lie"),
        (replace(CLIENT, received_bytes=0, shut_at=None), None, MARKED, "lie"),
        (replace(CLIENT, received_bytes=1_999), SERVER, MARKED, "lie"),
        (replace(CLIENT, eof_at=2.5), SERVER, MARKED, "lie"),
        (ABORTED, SERVER, MARKED, "lie"),
        (CUT, CUT, UNTOUCHED, "disturbed"),
        (CUT, None, UNTOUCHED, "disturbed"),
    ],
)
def test_what_may_not_be(
    client: Ending, server: Ending | None, known: Circumstances, word: str
) -> None:
    found = verdict(TALK, client, server, known).violations
    assert found
    assert any(word in each for each in found)


@pytest.mark.parametrize(
    ("client", "server", "known", "exception"),
    [
        (replace(CLIENT, received_bytes=0), None, MARKED, BEFORE_HELLO),
        (CLIENT, replace(SERVER, shut_at=None), PLAIN, UNMARKED),
        (replace(CLIENT, wrong_at=7), SERVER, CORRUPT, CORRUPTED),
    ],
)
def test_what_is_documented_is_counted(
    client: Ending, server: Ending | None, known: Circumstances, exception: str
) -> None:
    found = verdict(TALK, client, server, known)
    assert found.violations == []
    assert exception in found.tolerated


def test_each_direction_of_each_conversation_has_bytes_of_its_own() -> None:
    talks = [replace(TALK, number=number, down_bytes=1_000) for number in range(4)]
    said = [content(9, each, upwards=way) for each in talks for way in (True, False)]
    assert len(set(said)) == len(said) == 8
    assert {len(each) for each in said} == {1_000}


@pytest.mark.parametrize(
    ("arrived", "wrong_at"), [(b"cdef", None), (b"cdxf", 4), (b"cdefgh", 6), (b"def", 2)]
)
def test_a_wrong_byte_is_found_at_its_place(arrived: bytes, wrong_at: int | None) -> None:
    ending = Ending()
    ending.take(b"ab", b"abcdef")
    ending.take(arrived, b"abcdef")
    assert ending.wrong_at == wrong_at
