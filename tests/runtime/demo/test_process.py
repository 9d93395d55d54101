from __future__ import annotations

import mmap
import resource
import threading

import pytest

from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.demo import fleet as process


def test_memory_grows_with_what_is_held() -> None:
    """The kernel's own pages: an allocator may hand out some that other tests left behind."""
    before = process.rss_bytes()
    with mmap.mmap(-1, 50_000_000, flags=mmap.MAP_PRIVATE | mmap.MAP_POPULATE):
        assert process.rss_bytes() - before > 40_000_000


def test_threads_are_counted() -> None:
    before, end = process.thread_count(), threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()

    assert process.thread_count() == before + 1
    end.set()
    thread.join()


def limits(monkeypatch: pytest.MonkeyPatch, soft: int, hard: int) -> list[tuple[int, int]]:
    changes: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _which, pair: changes.append(pair))
    return changes


def test_a_low_limit_of_files_is_raised_to_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    changes = limits(monkeypatch, 256, 1_000_000)
    process.allow_files_for(100)

    assert changes == [(process.FILES_BESIDE + 100 * process.FILES_PER_TUNNEL, 1_000_000)]


@pytest.mark.parametrize("soft", [100_000, resource.RLIM_INFINITY])
def test_a_sufficient_limit_is_left_alone(monkeypatch: pytest.MonkeyPatch, soft: int) -> None:
    changes = limits(monkeypatch, soft, resource.RLIM_INFINITY)
    process.allow_files_for(100)

    assert changes == []


def test_a_hard_limit_says_how_many_tunnels_it_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    changes = limits(monkeypatch, 256, 1_024)
    with pytest.raises(ConfigError, match="--tunnels 28 or less"):
        process.allow_files_for(100)

    assert changes == []
    process.allow_files_for(28)
    assert changes == [(1_024, 1_024)]


def test_a_hard_limit_that_allows_none_proposes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    limits(monkeypatch, 16, 16)
    with pytest.raises(ConfigError, match=r"may have 16: raise the limit \(ulimit -Hn\)"):
        process.allow_files_for(1)
