"""Handlers of signals stand while a command runs, and give way to those before them."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace

import pytest

from tunnelfleet.runtime.cli import errors
from tunnelfleet.runtime.cli.errors import STOP_SIGNALS, deliver_signals, stop_signals


def test_each_signal_is_delivered_every_time() -> None:
    got: list[signal.Signals] = []
    with deliver_signals((signal.SIGHUP, *STOP_SIGNALS), got.append):
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
    assert got == [signal.SIGHUP, signal.SIGTERM, signal.SIGTERM, signal.SIGINT]


@pytest.mark.parametrize("handling", [stop_signals, lambda put: deliver_signals(STOP_SIGNALS, put)])
def test_the_former_handlers_come_back(handling: object) -> None:
    before = [signal.getsignal(each) for each in STOP_SIGNALS]

    def fail() -> None:
        with handling(print):  # type: ignore[operator]
            assert not {*before} & {signal.getsignal(each) for each in STOP_SIGNALS}
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [signal.getsignal(each) for each in STOP_SIGNALS] == before


def test_a_closed_terminal_stops_a_command_however_often_it_is_said() -> None:
    got: list[signal.Signals] = []
    with stop_signals(got.append):
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGHUP)
    assert got == [signal.SIGHUP]


def test_a_command_of_nohup_goes_on() -> None:
    got: list[signal.Signals] = []
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_signals(got.append):
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert got == []


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The time, which stands."""
    found = SimpleNamespace(now=1_000.0)
    monkeypatch.setattr(errors, "time", SimpleNamespace(monotonic=lambda: found.now))
    return found


@pytest.fixture
def raised(monkeypatch: pytest.MonkeyPatch) -> list[signal.Signals]:
    """What would have ended the process."""
    found: list[signal.Signals] = []
    monkeypatch.setattr(signal, "raise_signal", found.append)
    return found


@pytest.mark.parametrize(
    ("second", "after", "ends"),
    [
        (signal.SIGTERM, 0.0, False),
        (signal.SIGTERM, 0.05, False),
        (signal.SIGTERM, 0.2, True),
        (signal.SIGINT, 0.0, True),
        (signal.SIGHUP, 0.2, False),
    ],
)
def test_a_second_signal_has_the_system_s_effect_and_an_echo_none(
    clock: SimpleNamespace,
    raised: list[signal.Signals],
    second: signal.Signals,
    after: float,
    ends: bool,
) -> None:
    got: list[signal.Signals] = []
    with stop_signals(got.append):
        os.kill(os.getpid(), signal.SIGTERM)
        clock.now += after
        os.kill(os.getpid(), second)
        assert (signal.getsignal(second) is signal.SIG_DFL) is ends
    assert got == [signal.SIGTERM]
    assert raised == ([second] if ends else [])
