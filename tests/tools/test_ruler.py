"""The ruler: it counts what ran, finds each copy of a payload once, and measures a real echo."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tools import ruler

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

ROOT = Path(__file__).parent.parent.parent
MOST_FILES = 12
MOST_CALLS = 50
PAYLOAD = bytes((7 * number * number + number) % 251 for number in range(ruler.PAYLOAD_BYTES))

TOY = """
def outer():
    inner()
    return [inner() for _ in range(2)]

def inner():
    return sum(each for each in numbers())

def numbers():
    yield 1
    yield 2
"""


def toy(source: str, name: str = "tunnelfleet.toy") -> dict[str, Any]:
    """A module of ours, made of text."""
    module: dict[str, Any] = {"__name__": name}
    exec(compile(source, "toy.py", "exec"), module)
    return module


def run_as(recorder: ruler.Recorder, part: str, *functions: Callable[[], object]) -> None:
    """Run functions on a thread of a part; each waits until the thread is known."""
    known = threading.Event()

    def work() -> None:
        known.wait(10)
        for function in functions:
            function()

    with recorder.threads_of(part):
        thread = threading.Thread(target=work)
        thread.start()
    known.set()
    thread.join()


def xored(data: bytes, key: bytes) -> bytes:
    return bytes(byte ^ key[index % 4] for index, byte in enumerate(data))


class Search:
    """A search, and what it found."""

    def __init__(self) -> None:
        self._search = ruler.PayloadSearch(PAYLOAD)

    def __call__(self, *values: object) -> int:
        frame: FrameType = sys._getframe()
        for value in values:
            self._search.look_at(value, "source", frame)
        return len(self._search.found)


class TestCalls:
    def test_each_call_and_each_resumption_counts_and_no_comprehension(self) -> None:
        recorder = ruler.Recorder()
        functions = toy(TOY)
        with recorder.install(), recorder.counting():
            run_as(recorder, "source", functions["outer"])
        source = recorder.counted()["source"]
        # outer, three times inner, and of each the generator's start, two values and its end.
        assert source.calls == 1 + 3 + 3 * 3
        assert source.files == ["toy.py"]

    def test_nothing_counts_outside_of_counting(self) -> None:
        recorder = ruler.Recorder()
        functions = toy(TOY)
        with recorder.install():
            run_as(recorder, "source", functions["outer"])
        assert recorder.counted()["source"].calls == 0

    def test_other_code_and_other_threads_do_not_count(self) -> None:
        recorder = ruler.Recorder()
        ours, theirs = toy(TOY), toy(TOY, "somebody.else")
        with recorder.install(), recorder.counting():
            # In this order: a thread that has ended may leave its number to the next one.
            thread = threading.Thread(target=ours["outer"])
            thread.start()
            thread.join()
            run_as(recorder, "destination", theirs["outer"])
        assert {part.calls for part in recorder.counted().values()} == {0}

    def test_messages_are_named_and_a_call_of_super_is_none(self) -> None:
        source = """
class Base:
    def on_receive(self, message): pass
class Actor(Base):
    def on_receive(self, message): super().on_receive(message)
def tell():
    Actor().on_receive(7)
    Actor().on_receive("seven")
    Actor().on_receive(8)
"""
        recorder = ruler.Recorder()
        with recorder.install(), recorder.counting():
            run_as(recorder, "source", toy(source)["tell"])
        assert recorder.counted()["source"].message_kinds == {"Actor <- int": 2, "Actor <- str": 1}

    def test_a_handler_that_a_turn_calls_takes_a_message_and_what_it_calls_does_not(self) -> None:
        source = """
class Actor:
    def handle(self, message): self.handle_more(message)
    def handle_more(self, message): pass
    HANDLERS = {int: handle}
def _turn(): Actor.HANDLERS[int](Actor(), 7)
"""
        recorder = ruler.Recorder()
        with recorder.install(), recorder.counting():
            run_as(recorder, "source", toy(source)["_turn"])
        assert recorder.counted()["source"].message_kinds == {"Actor <- int": 1}

    def test_the_former_profiler_and_tracer_come_back(self) -> None:
        before = threading.getprofile(), threading.gettrace()
        with ruler.Recorder().install():
            assert threading.getprofile() is not before[0]
        assert (threading.getprofile(), threading.gettrace()) == before


class TestCopies:
    def test_a_buffer_counts_once_however_often_it_is_seen(self) -> None:
        assert Search()(PAYLOAD, PAYLOAD, [PAYLOAD], (PAYLOAD,), {"key": PAYLOAD}) == 1

    def test_each_copy_counts(self) -> None:
        assert Search()(PAYLOAD, bytearray(PAYLOAD), b"head" + PAYLOAD + b"tail") == 3

    def test_a_view_is_no_copy(self) -> None:
        data = bytearray(PAYLOAD)
        assert Search()(data, memoryview(data), memoryview(data)[3:]) == 1

    def test_a_released_view_is_nothing(self) -> None:
        view = memoryview(PAYLOAD)
        view.release()
        assert Search()(view) == 0

    @pytest.mark.parametrize("offset", range(4))
    def test_a_masked_copy_is_found_wherever_it_starts(self, offset: int) -> None:
        assert Search()(b"\x55" * offset + xored(PAYLOAD, b"\x12\x00\xff\x7e")) == 1

    def test_masking_in_place_is_no_copy(self) -> None:
        search, data = Search(), bytearray(PAYLOAD)
        search(data)
        data[:] = xored(PAYLOAD, b"1234")
        assert search(data) == 1

    def test_other_bytes_are_none(self) -> None:
        assert Search()(PAYLOAD[:-1], PAYLOAD[::-1], bytes(200), b"", "text", None) == 0

    def test_a_buffer_that_gets_it_later_is_found(self) -> None:
        search, data = Search(), bytearray(100)
        assert search(data) == 0
        data += PAYLOAD
        assert search(data) == 1

    def test_attributes_of_ours_are_searched_without_running_a_property(self) -> None:
        source = """
class Slots:
    __slots__ = ("data", "unset")
    @property
    def trap(self): raise AssertionError
class Plain:
    def __init__(self, data): self.items = [(data, 1)]
"""
        kinds = toy(source)
        slots = kinds["Slots"]()
        slots.data = bytearray(PAYLOAD)
        assert Search()(slots) == 1
        assert Search()(kinds["Plain"](PAYLOAD)) == 1

    def test_a_thread_is_searched_line_by_line(self) -> None:
        source = """
def carry():
    data = bytes(payload)
    data = b"head" + data
    data = bytearray(data)
"""
        functions = toy(source)
        functions["payload"] = bytearray(PAYLOAD)
        recorder = ruler.Recorder()
        with recorder.install(), recorder.tracing(PAYLOAD):
            run_as(recorder, "service", functions["carry"])
        assert recorder.found() == {
            "source": [],
            "service": [
                "bytes in toy.py carry",
                "bytes in toy.py carry",
                "bytearray in toy.py carry",
            ],
            "destination": [],
        }


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    """A run in a process of its own: a tracer here would be in the way of the tests'."""
    run = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "ruler.py"), "--json", "--rounds", "6"],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    found: dict[str, Any] = json.loads(run.stdout)
    return found


class TestEcho:
    def test_both_ways_pass_all_parts_in_order(self, measured: dict[str, Any]) -> None:
        order = {way: list(found["parts"]) for way, found in measured.items()}
        assert order == {
            "there": ["source", "service", "destination"],
            "back": ["destination", "service", "source"],
        }

    @pytest.mark.parametrize("way", ruler.WAYS)
    def test_every_part_did_something(self, measured: dict[str, Any], way: str) -> None:
        for name, part in measured[way]["parts"].items():
            assert 0 < len(part["files"]) <= part["calls"], name
            # It came in a buffer from the kernel, and no part sends that one as it is.
            assert len(part["copies"]) > 1, name

    @pytest.mark.parametrize("way", ruler.WAYS)
    def test_only_the_ends_have_actors(self, measured: dict[str, Any], way: str) -> None:
        parts = measured[way]["parts"]
        assert parts["service"]["messages"] is parts["service"]["turns"] is None
        for name in ("source", "destination"):
            # Each of these was told of once: by the dispatcher's count, and by the profiler.
            assert parts[name]["messages"] == sum(parts[name]["message_kinds"].values()) > 0
            assert parts[name]["turns"] > 0

    @pytest.mark.parametrize("way", ruler.WAYS)
    def test_the_total_is_the_sum_and_a_file_counts_once(
        self, measured: dict[str, Any], way: str
    ) -> None:
        parts, total = measured[way]["parts"].values(), measured[way]["total"]
        assert total["files"] == len({file for part in parts for file in part["files"]})
        assert total["calls"] == sum(part["calls"] for part in parts)
        assert total["copies"] == sum(len(part["copies"]) for part in parts)

    def test_the_ways_are_alike(self, measured: dict[str, Any]) -> None:
        """The same code sends at both ends, and the same code receives."""
        there, back = measured["there"]["parts"], measured["back"]["parts"]
        assert there["source"]["copies"] == back["destination"]["copies"]
        assert there["destination"]["copies"] == back["source"]["copies"]


class TestBar:
    """What one end may cost on each way: simple enough to be read in one go."""

    @staticmethod
    def files(part: dict[str, Any]) -> list[str]:
        """Those of the way; on a busy machine a clock of the runtime strikes in every round.

        Without C's mask there is what stands in for it.
        """
        others = ("runtime/", "actors/transport/compat.py")
        return [name for name in part["files"] if not name.startswith(others)]

    @pytest.mark.parametrize(("way", "end"), [("there", "source"), ("back", "destination")])
    def test_the_way_out(self, measured: dict[str, Any], way: str, end: str) -> None:
        part = measured[way]["parts"][end]
        assert len(self.files(part)) <= MOST_FILES, part["files"]
        assert part["calls"] <= MOST_CALLS
        assert len(part["copies"]) <= 2, part["copies"]

    @pytest.mark.parametrize(("way", "end"), [("there", "destination"), ("back", "source")])
    def test_the_way_in(self, measured: dict[str, Any], way: str, end: str) -> None:
        part = measured[way]["parts"][end]
        assert len(self.files(part)) <= MOST_FILES, part["files"]
        assert part["calls"] <= MOST_CALLS
        assert len(part["copies"]) <= 3, part["copies"]

    @pytest.mark.parametrize("way", ruler.WAYS)
    def test_messages_and_turns(self, measured: dict[str, Any], way: str) -> None:
        total = measured[way]["total"]
        assert total["messages"] <= 4
        assert total["turns"] <= 6


class TestTable:
    def test_it_has_a_row_for_each_part_and_the_total(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        parts = {
            "source": ruler.Part(["a.py", "b.py"], 5, 2, 3, {"A <- B": 2}, ["bytes in a.py f"]),
            "service": ruler.Part(["a.py"], 4, copies=["bytes in a.py f", "bytes in a.py g"]),
        }
        ruler.print_table({"there": ruler.Way(parts, rounds=1)}, details=True)
        lines = capsys.readouterr().out.splitlines()
        rows = {line.split()[0]: line.split()[1:] for line in lines[:4]}
        assert rows == {
            "there": ["files", "calls", "messages", "turns", "copies"],
            "source": ["2", "5", "2", "3", "1"],
            "service": ["1", "4", "-", "-", "2"],
            "total": ["2", "9", "2", "3", "3"],
        }
        assert "    2 x A <- B" in lines
