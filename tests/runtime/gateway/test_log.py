from __future__ import annotations

import io
import json
import logging
import os
import re
import threading
from typing import Any

import pytest

from tests.support.waiting import WAIT_SECONDS
from tunnelfleet.runtime.gateway.log import (
    LINES_A_WINDOW,
    MAX_KINDS,
    MAX_QUEUED_LINES,
    GatewayLog,
    RateLimit,
    json_line,
    text_line,
)

logger = logging.getLogger("tunnelfleet.tests.gateway")


def record(text: str = "connected", level: int = logging.INFO, **extra: Any) -> logging.LogRecord:
    made = logging.LogRecord("tunnelfleet.x", level, "f.py", 1, text, (), None)
    for name, value in extra.items():
        setattr(made, name, value)
    made.created, made.msecs = 1_700_000_000.25, 250.0
    return made


class TestLines:
    def test_text(self) -> None:
        assert text_line(record(tunnel="press-4")) == (
            "2023-11-14T22:13:20.250Z info    press-4: connected"
        )
        assert text_line(record(level=logging.WARNING), 3).endswith(
            "warning connected (3 more like it were left out)"
        )

    def test_what_a_peer_said_stays_on_its_line(self) -> None:
        line = text_line(record("a\nb\x1b[31m\r", tunnel="x\ny"))
        assert line.isprintable()
        assert line.endswith("x | y: a | b [31m ")

    def test_json(self) -> None:
        fields = {"state": "connected"}
        line = json_line(record(tunnel="press-4", event="tunnel_state_changed", fields=fields), 2)
        assert json.loads(line) == {
            "event": "tunnel_state_changed",
            "time": 1_700_000_000.25,
            "level": "info",
            "logger": "tunnelfleet.x",
            "tunnel": "press-4",
            "state": "connected",
            "message": "connected",
            "left_out": 2,
        }

    def test_a_traceback_is_in_the_line(self) -> None:
        stream = io.StringIO()
        with GatewayLog(stream, as_json=False):
            try:
                raise ZeroDivisionError("so")
            except ZeroDivisionError:
                logger.exception("it broke")
        (line,) = stream.getvalue().splitlines()
        assert "it broke | Traceback" in line
        assert line.endswith("ZeroDivisionError: so")

    def test_a_long_line_is_cut(self) -> None:
        assert len(text_line(record("x" * 10_000))) < 2_100


class TestRateLimit:
    def test_so_many_in_a_window_and_the_rest_is_counted(self) -> None:
        now = [0.0]
        limit = RateLimit(2, 10.0, lambda: now[0])
        assert [limit.admit("a") for _ in range(5)] == [0, 0, None, None, None]
        assert limit.admit("b") == 0
        now[0] = 10.0
        assert limit.admit("a") == 3
        now[0] = 30.0
        assert limit.admit("a") == 0

    def test_it_remembers_a_bounded_number_of_kinds(self) -> None:
        limit = RateLimit()
        for kind in range(MAX_KINDS + 10):
            limit.admit(kind)
        assert len(limit._windows) == MAX_KINDS


class TestGatewayLog:
    def test_what_one_tunnel_repeats_is_left_out_and_others_are_not(self) -> None:
        stream = io.StringIO()
        with GatewayLog(stream, as_json=True):
            for number in range(LINES_A_WINDOW + 50):
                logger.info("backoff: %s", number, extra={"tunnel": "noisy"})
            logger.info("backoff: %s", 1, extra={"tunnel": "quiet"})
            for _ in range(LINES_A_WINDOW + 5):
                logger.error("always told")
        lines = [json.loads(line) for line in stream.getvalue().splitlines()]
        assert sum(line.get("tunnel") == "noisy" for line in lines) == LINES_A_WINDOW
        assert sum(line.get("tunnel") == "quiet" for line in lines) == 1
        assert sum(line["level"] == "error" for line in lines) == LINES_A_WINDOW + 5

    @pytest.mark.parametrize(
        ("as_json", "by_stranger", "is_whole"),
        [(True, False, True), (False, False, False), (True, True, False)],
    )
    def test_programs_miss_no_event_but_of_strangers(
        self, as_json: bool, by_stranger: bool, is_whole: bool
    ) -> None:
        stream, count = io.StringIO(), LINES_A_WINDOW + 50
        extra = {"tunnel": "noisy", "event": "happened", "fields": {}, "by_stranger": by_stranger}
        with GatewayLog(stream, as_json=as_json):
            for number in range(count):
                logger.info("backoff: %s", number, extra=extra)
        lines = stream.getvalue().splitlines()
        assert len(lines) == (count if is_whole else LINES_A_WINDOW)

    @pytest.mark.parametrize("as_json", [False, True])
    def test_what_a_library_warns_of_is_a_line_like_others(self, as_json: bool) -> None:
        # One that nobody else listens to, at the level that a library's logger has of its root.
        library = logging.Logger("library.of.others", logging.WARNING)  # noqa: LOG001
        stream, before = io.StringIO(), logging.lastResort
        with GatewayLog(stream, as_json=as_json):
            library.warning("pipeline\naborted")
            library.info("GET /tunnel HTTP/1.1")
        assert logging.lastResort is before
        (line,) = stream.getvalue().splitlines()
        if as_json:
            found = json.loads(line)
            assert (found["logger"], found["message"]) == (library.name, "pipeline\naborted")
        else:
            assert line.endswith("warning library.of.others: pipeline | aborted")

    def test_the_level_and_the_logger_are_given_back(self) -> None:
        ours = logging.getLogger("tunnelfleet")
        before = (ours.level, ours.propagate, list(ours.handlers))
        stream = io.StringIO()
        with GatewayLog(stream, as_json=False, level=logging.WARNING):
            logger.info("not told")
            logging.getLogger("websocket").error("not ours")
            logger.warning("told")
        assert re.fullmatch(r"\S+ warning told\n", stream.getvalue())
        assert (ours.level, ours.propagate, list(ours.handlers)) == before

    def test_a_reader_that_takes_nothing_holds_up_nobody(self) -> None:
        read_end, write_end = os.pipe()
        with os.fdopen(write_end, "w") as stream, os.fdopen(read_end) as reader:
            taken: list[str] = []
            with GatewayLog(stream, as_json=False) as log:
                for number in range(MAX_QUEUED_LINES * 2):
                    log.put(f"{number:0100d}")
                assert log.dropped > 0
                # Now somebody reads: the writer gets on, and ends.
                thread = threading.Thread(target=lambda: taken.extend(reader))
                thread.start()
            stream.close()
            thread.join(WAIT_SECONDS)
        assert len(taken) + log.dropped == MAX_QUEUED_LINES * 2

    def test_a_reader_that_has_gone_ends_nothing(self) -> None:
        read_end, write_end = os.pipe()
        os.close(read_end)
        with os.fdopen(write_end, "wb", buffering=0) as raw:
            stream = io.TextIOWrapper(raw, write_through=True)
            with GatewayLog(stream, as_json=False) as log:
                logger.info("to nobody")
            assert log.dropped == 1
            stream.detach()

    def test_a_line_that_cannot_be_made_harms_nobody(self) -> None:
        class Broken:
            def __str__(self) -> str:
                raise ZeroDivisionError

        with GatewayLog(io.StringIO(), as_json=False) as log:
            logger.info("%s", Broken())
            assert log.dropped == 1


@pytest.mark.parametrize("as_json", [True, False])
def test_put_writes_a_line_as_it_is(as_json: bool) -> None:
    stream = io.StringIO()
    with GatewayLog(stream, as_json=as_json) as log:
        log.put("as it is")
    assert stream.getvalue() == "as it is\n"
