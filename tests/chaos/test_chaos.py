"""The short form of `make chaos`: a few seeds, which between them break nearly everything.

A seed that fails: `make chaos SEED=...` shows its schedule and makes it smaller.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from . import fleet
from .__main__ import make_certificate, run_schedule, warm
from .schedule import schedule_of
from .talk import Ending

if TYPE_CHECKING:
    from .results import Certificate

SEEDS = (5, 11, 19, 20, 28)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    made = make_certificate(tmp_path_factory.mktemp("tls"))
    warm(made)
    return made


@pytest.mark.parametrize("seed", SEEDS)
def test_no_invariant_is_violated(certificate: Certificate, seed: int) -> None:
    result = run_schedule(schedule_of(seed), certificate)
    assert result.violations == []
    assert result.endings
    assert result.verified_bytes > 0


def test_what_moves_is_not_stuck(certificate: Certificate, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is busy with other work takes its time."""
    monkeypatch.setattr(fleet, "QUIET_SECONDS", 0.02)

    async def main() -> None:
        carried = fleet.Fleet(schedule_of(SEEDS[0]), certificate)
        ending = carried._clients[0] = Ending()

        def creep() -> bool:
            ending.received_bytes += 1
            return ending.received_bytes > 50

        assert await carried._eventually(creep)
        assert not await carried._eventually(lambda: False)

    asyncio.run(main())


def test_the_document_has_what_was_recorded() -> None:
    from .report import BEGIN, DOCUMENT, document, read_record

    text = DOCUMENT.read_text()
    assert BEGIN in text
    assert document(text, read_record()) == text
    assert Path(__file__).with_name("record.json").exists()
