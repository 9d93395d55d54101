"""Handlers of signals stand while a command runs, and give way to those before them."""

from __future__ import annotations

import os
import signal

import pytest

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
