"""What a process with many tunnels does about its memory."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tunnelfleet.runtime.memory import GrowingFleet, freeze_garbage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def unfrozen() -> Iterator[None]:
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("unfrozen")
def test_what_is_alive_is_put_out_of_the_collector_s_sight() -> None:
    before = gc.get_freeze_count()
    freeze_garbage()
    assert gc.get_freeze_count() > before


def run_with_malloc(code: str, environment: dict[str, str], *arguments: str) -> str:
    """Run a program with this and nothing else said of malloc; return what it prints."""
    others = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    found = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**others, **environment},
        capture_output=True,
        check=False,
        text=True,
    )
    if found.stderr.startswith("no glibc"):
        pytest.skip("malloc is not glibc's")
    assert found.returncode == 0, found.stderr
    return found.stdout


COUNT_ARENAS = """
import ctypes, sys, threading
from tunnelfleet.runtime.memory import settle_malloc

if sys.argv[2] == "settled":
    settle_malloc()
libc = ctypes.CDLL(None)
if not hasattr(libc, "malloc_info"):
    sys.exit("no glibc")
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
all_have, may_end = threading.Barrier(5), threading.Event()

def take():
    libc.malloc(ctypes.c_size_t(5_000))
    all_have.wait()
    may_end.wait()

threads = [threading.Thread(target=take) for _ in range(4)]
for each in threads:
    each.start()
all_have.wait()
out = libc.fopen(sys.argv[1].encode(), b"w")
libc.malloc_info(0, ctypes.c_void_p(out))
libc.fclose(ctypes.c_void_p(out))
may_end.set()
"""


@pytest.mark.parametrize(
    ("how", "environment", "arenas"),
    [
        pytest.param("settled", {}, 1, id="settled"),
        pytest.param("settled", {"MALLOC_ARENA_MAX": "3"}, 3, id="the operator decides"),
        pytest.param("left alone", {"MALLOC_ARENA_MAX": "5"}, 5, id="left alone"),
    ],
)
def test_all_threads_share_a_heap(
    tmp_path: Path, how: str, environment: dict[str, str], arenas: int
) -> None:
    path = tmp_path / "malloc.xml"
    run_with_malloc(COUNT_ARENAS, environment, str(path), how)
    assert path.read_text().count("<heap nr=") == arenas


COUNT_FAULTS = """
import ctypes, resource, sys
from tunnelfleet.runtime.memory import settle_malloc

if sys.argv[1] == "settled":
    settle_malloc()
libc = ctypes.CDLL(None)
if not hasattr(libc, "malloc_info"):
    sys.exit("no glibc")
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]

def carry():
    blocks = [libc.malloc(ctypes.c_size_t(100_000)) for _ in range(8)]
    for each in blocks:
        ctypes.memset(each, 1, 100_000)
    for each in blocks:
        libc.free(each)

carry()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    carry()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.parametrize(
    ("how", "environment", "keeps"),
    [
        pytest.param("settled", {}, True, id="settled"),
        pytest.param(
            "settled", {"MALLOC_TRIM_THRESHOLD_": "131072"}, False, id="the operator decides"
        ),
        pytest.param("left alone", {}, False, id="left alone"),
    ],
)
def test_what_messages_leave_free_does_not_go_back_to_the_kernel(
    how: str, environment: dict[str, str], keeps: bool
) -> None:
    """It would make each page anew: 200 of them, 50 times."""
    faults = int(run_with_malloc(COUNT_FAULTS, environment, how))
    assert (faults < 1_000) is keeps, faults


@pytest.mark.usefixtures("unfrozen")
def test_a_fleet_that_grows_is_frozen_now_and_then() -> None:
    growing = GrowingFleet()
    before = gc.get_freeze_count()
    assert not growing.note(10)
    assert gc.get_freeze_count() == before
    assert growing.note(1_000)
    assert gc.get_freeze_count() > before
    assert not growing.note(1_100)
    assert growing.note(1_200)
    times = sum(growing.note(tunnels) for tunnels in range(1_200, 20_001))
    assert 10 < times < 40
