"""Which errors say that the system has nothing left, and the one log line about them."""

from __future__ import annotations

import errno
import logging
import os

import pytest

from tunnelfleet.actors.net import socket_io as exhaustion
from tunnelfleet.actors.net.socket_io import ExhaustionLog, is_exhausted
from tunnelfleet.proto import TunnelError


def failed(code: int) -> OSError:
    return OSError(code, os.strerror(code))


def caused_by(code: int) -> TunnelError:
    error = TunnelError("cannot connect")
    error.__cause__ = failed(code)
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (failed(errno.EMFILE), True),
        (failed(errno.ENFILE), True),
        (failed(errno.ENOBUFS), True),
        (failed(errno.ENOMEM), True),
        (caused_by(errno.EMFILE), True),
        (failed(errno.ECONNREFUSED), False),
        (caused_by(errno.ECONNREFUSED), False),
        (ValueError("no"), False),
        (None, False),
    ],
)
def test_what_says_that_nothing_is_left(error: BaseException | None, expected: bool) -> None:
    assert is_exhausted(error) is expected


def test_a_thousand_failures_are_one_line(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = ExhaustionLog()
    with caplog.at_level(logging.WARNING):
        for _ in range(1_000):
            log.note("accept at 127.0.0.1:22", failed(errno.EMFILE))
        assert len(caplog.records) == 1
        monkeypatch.setattr(exhaustion, "LOG_INTERVAL_SECONDS", 0.0)
        log.note("accept at 127.0.0.1:22", failed(errno.EMFILE))
    first, second = [record.getMessage() for record in caplog.records]
    assert first.startswith("accept at 127.0.0.1:22 failed: Too many open files (1 such")
    assert "(1000 such failure(s)" in second, "those that were not told are counted"
