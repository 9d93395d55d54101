"""What was logged, without what a busy machine adds to it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def logged(
    caplog: pytest.LogCaptureFixture, least_level: int = logging.NOTSET
) -> list[logging.LogRecord]:
    """The records of at least this level, but for slow turns: a dispatcher may tell of one in any
    test, since other processes can hold it up.
    """
    return [
        record
        for record in caplog.records
        if record.levelno >= least_level and not record.getMessage().startswith("slow turn")
    ]
