from __future__ import annotations

import re
import socket
import threading
from typing import TYPE_CHECKING, Self

import pytest

from tests.support.waiting import WAIT_SECONDS
from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.demo import demo as demo_module
from tunnelfleet.runtime.demo.demo import MAX_TUNNELS, Demo, DemoOptions
from tunnelfleet.runtime.demo.plan import StrikeKind
from tunnelfleet.runtime.demo.report import DemoPhase

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tunnelfleet.runtime.demo.report import FleetSnapshot


class RecordingView:
    """A view that keeps everything, and calls back with each snapshot."""

    def __init__(self) -> None:
        self.snapshots: list[FleetSnapshot] = []
        self.lines: list[str] = []
        self.on_update: Callable[[FleetSnapshot], None] = lambda _snapshot: None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def update(self, snapshot: FleetSnapshot) -> None:
        self.snapshots.append(snapshot)
        self.on_update(snapshot)

    def guide(self, lines: Sequence[str]) -> None:
        self.lines += lines

    @property
    def phases(self) -> list[DemoPhase]:
        return list(dict.fromkeys(snapshot.phase for snapshot in self.snapshots))


@pytest.mark.parametrize("tunnels", [0, -1, MAX_TUNNELS + 1])
def test_the_number_of_tunnels_has_bounds(tunnels: int) -> None:
    with pytest.raises(ConfigError, match="--tunnels takes 1 to"):
        DemoOptions(tunnels=tunnels)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_the_duration_is_more_than_nothing(seconds: float) -> None:
    with pytest.raises(ConfigError, match="--duration takes more than 0"):
        DemoOptions(duration_seconds=seconds)


def test_a_short_demo_has_every_kind_of_break_and_not_one_wrong_byte() -> None:
    struck: set[str] = set()

    def note(snapshot: FleetSnapshot) -> None:
        struck.update(row.last_event for row in snapshot.rows)

    wanted = {f"chaos: {kind}" for kind in StrikeKind}
    # A busy machine may show two strikes as one: it has more time then.
    for seconds in (4.0, 8.0, 16.0):
        view = RecordingView()
        view.on_update = note
        report = Demo(DemoOptions(tunnels=3, duration_seconds=seconds), view).run()
        assert report.is_good, report.lines()
        if wanted <= struck and report.reconnects >= 4 and report.session_resets >= 1:
            break

    assert (report.tunnels, report.connected, report.bytes_mismatched) == (3, 3, 0)
    assert report.reconnects >= 4
    assert report.session_resets >= 1
    assert report.bytes_sent > 0
    assert report.bytes_received > 0
    assert report.bytes_verified > 0
    assert report.streams_opened >= 9
    assert report.threads <= 16
    assert report.rss_bytes > 0
    assert report.seconds >= 4
    assert wanted <= struck
    assert view.phases[:2] == [DemoPhase.CONNECTING, DemoPhase.RUNNING]
    assert view.phases[-2:] == [DemoPhase.FINISHING, DemoPhase.OVER]


def test_a_demo_without_chaos_breaks_nothing() -> None:
    report = Demo(DemoOptions(tunnels=2, duration_seconds=1.5, chaos=False), RecordingView()).run()

    assert report.is_good, report.lines()
    assert (report.reconnects, report.session_resets, report.exchanges_broken) == (0, 0, 0)
    assert report.streams_opened == 6


def test_a_demo_can_be_stopped_at_any_time() -> None:
    for phase in (DemoPhase.CONNECTING, DemoPhase.RUNNING):
        view = RecordingView()
        demo = Demo(DemoOptions(tunnels=2, duration_seconds=600.0), view)
        view.on_update = lambda snapshot, demo=demo, phase=phase: (
            demo.stop() if snapshot.phase is phase else None
        )
        report = demo.run()

        assert report.interrupted
        assert report.is_good, report.lines()
        assert report.tunnels == 2
        assert view.phases[-2:] == [phase, DemoPhase.OVER]


def test_a_kept_demo_can_be_reached_and_its_first_tunnel_is_spared() -> None:
    view, replies = RecordingView(), []
    demo = Demo(DemoOptions(tunnels=2, duration_seconds=2.0, keep=True), view)

    def visit(snapshot: FleetSnapshot) -> None:
        if snapshot.phase is DemoPhase.KEEPING and not replies:
            port = re.search(r"curl http://127\.0\.0\.1:(\d+)/", "\n".join(view.lines))
            assert port is not None
            replies.append(fetch(int(port[1])))
            demo.stop()

    view.on_update = visit
    report = demo.run()

    assert replies == [b"hello from tunnel lathe-01\n"]
    assert not report.interrupted
    assert report.is_good, report.lines()
    rows = {row.name: row for row in view.snapshots[-1].rows}
    assert rows["lathe-01"].reconnects == 0
    assert rows["press-01"].reconnects > 0


def fetch(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT_SECONDS) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
        with sock.makefile("rb") as reply:
            return reply.read().split(b"\r\n\r\n", 1)[1]


def test_a_tunnel_that_does_not_come_back_fails_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    view = RecordingView()
    demo = Demo(DemoOptions(tunnels=2, duration_seconds=1.0, chaos=False), view)

    def refuse(snapshot: FleetSnapshot) -> None:
        if snapshot.phase is DemoPhase.RUNNING and not refused.is_set():
            refused.set()
            # It has come up in all the time that it needs; this is how long it is waited for again.
            monkeypatch.setattr(demo_module, "CONNECT_SECONDS", 1.0)
            demo._service.refuse_next("press-01", 403, "no more", count=1_000)
            demo._pairs[1].strike()
            demo._service.drop("press-01")

    refused = threading.Event()
    view.on_update = refuse
    report = demo.run()

    assert not report.is_good
    assert (report.tunnels, report.connected, report.fault) == (2, 1, "")
    assert DemoPhase.RECOVERING in view.phases
    assert len(report.missing) == 1
    assert report.missing[0].startswith("press-01: its ")


def test_a_break_that_shows_at_the_end_is_waited_for() -> None:
    view = RecordingView()
    demo = Demo(DemoOptions(tunnels=2, duration_seconds=0.5, chaos=False), view)

    def drop(snapshot: FleetSnapshot) -> None:
        if snapshot.phase is DemoPhase.FINISHING and not dropped.is_set():
            dropped.set()
            demo._service.drop("press-01")

    dropped = threading.Event()
    view.on_update = drop
    report = demo.run()

    assert dropped.is_set()
    assert (report.is_good, report.tunnels, report.connected) == (True, 2, 2)
