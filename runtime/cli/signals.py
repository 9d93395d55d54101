"""The signals that a command handles while it runs.

Owns the handlers: they are set by the main thread, stand for as long as the command runs, and give
way to those that were there before. What a signal leads to is the command's. A handler runs between
any two steps of the main thread, so it may do no more than put something where the command looks,
such as into a `queue.SimpleQueue`.
"""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import FrameType

STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
"""The signals that stop every command: Ctrl-C, and what supervisors of processes send."""


@contextmanager
def deliver_signals(
    numbers: Iterable[signal.Signals], deliver: Callable[[signal.Signals], object]
) -> Iterator[None]:
    """Give each of these signals to `deliver` while the block runs."""

    def handle(number: int, _frame: FrameType | None) -> None:
        deliver(signal.Signals(number))

    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def stop_signals(deliver: Callable[[signal.Signals], object]) -> Iterator[None]:
    """Give the first SIGINT or SIGTERM to `deliver`; a second one ends the process at once."""

    def deliver_once(number: signal.Signals) -> None:
        for each in STOP_SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        deliver(number)

    with deliver_signals(STOP_SIGNALS, deliver_once):
        yield
