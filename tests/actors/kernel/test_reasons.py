"""Why actors end, as text and as tests of it."""

from __future__ import annotations

import pytest

from tunnelfleet.actors.kernel import KILLED, NOPROC, NORMAL, SHUTDOWN, ExitReason
from tunnelfleet.actors.kernel.watch import REASON_TEXT_LIMIT


@pytest.mark.parametrize(
    ("reason", "text", "is_normal", "is_failure"),
    [
        (NORMAL, "normal", True, False),
        (SHUTDOWN, "shutdown", True, False),
        (KILLED, "killed", False, False),
        (NOPROC, "noproc", False, False),
        (ExitReason.failed(ValueError()), "failed: ValueError", False, True),
        (ExitReason.failed(OSError("two\nlines")), "failed: OSError: two lines", False, True),
    ],
)
def test_reasons(reason, text, is_normal, is_failure):
    assert str(reason) == text
    assert (reason.is_normal, reason.is_failure) == (is_normal, is_failure)


def test_the_text_is_one_line_of_limited_length():
    text = str(ExitReason.failed(ValueError("x\n" * 10_000)))
    assert "\n" not in text
    assert len(text) <= REASON_TEXT_LIMIT + 30


def test_reasons_compare_by_kind_and_exception():
    error = ValueError("v")
    assert ExitReason.failed(error) == ExitReason.failed(error)
    assert ExitReason.failed(error) != ExitReason.failed(ValueError("v"))
    assert NORMAL != SHUTDOWN


def test_an_exception_whose_text_cannot_be_read_is_a_reason_all_the_same():
    class MuteError(Exception):
        def __str__(self):
            raise RuntimeError("no text")

    assert str(ExitReason.failed(MuteError())) == "failed: MuteError: (its text cannot be read)"
