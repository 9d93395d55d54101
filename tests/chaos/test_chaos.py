"""The short form of `make chaos`: a few seeds, which between them break nearly everything.

A seed that fails: `make chaos SEED=...` shows its schedule and makes it smaller.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from . import fleet
from .__main__ import make_certificate, run_schedule, warm
from .schedule import Conversation, End, schedule_of
from .talk import Ending

if TYPE_CHECKING:
    from .results import Certificate

SEEDS = (5, 11, 19, 20, 28, 150_152)


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


@pytest.mark.parametrize(("lost", "tries"), [(0, fleet.PROBES), (7, fleet.PROBES + 7)])
def test_a_probe_that_met_a_lost_link_of_an_impatient_tunnel_is_no_try(
    certificate: Certificate, monkeypatch: pytest.MonkeyPatch, lost: int, tries: int
) -> None:
    """A machine that is busy with other work gives no pong within half a second."""
    carried = fleet.Fleet(schedule_of(SEEDS[0]), certificate)
    probe = Conversation(1, 0, 0, 0, 1, 1, 1, 0, 1, 0, End.CLIENT_FIRST)
    seen: list[int] = []
    judged: list[list[Conversation]] = []

    async def nothing(*_args: object) -> list[object]:
        return []

    def make(first: int) -> list[Conversation]:
        seen.append(first)
        return [probe]

    def missed() -> Counter[int]:
        return Counter({0: min(len(seen), lost)})

    monkeypatch.setattr(fleet, "PROBE_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(carried, "_make_probes", make)
    monkeypatch.setattr(carried, "_missed_pongs", missed)
    monkeypatch.setattr(carried, "_is_whole", lambda _probe: False)
    monkeypatch.setattr(carried, "_judge", lambda failed, **_named: judged.append(failed))
    for name in ("_converse", "_wait_done", "_wait_connected", "_eventually"):
        monkeypatch.setattr(carried, name, nothing)
    asyncio.run(carried._probe())
    assert (len(seen), len(set(seen))) == (tries, tries)
    assert judged == [[probe]]


def test_the_document_has_what_was_recorded() -> None:
    from .report import BEGIN, DOCUMENT, document, read_record

    text = DOCUMENT.read_text()
    assert BEGIN in text
    assert document(text, read_record()) == text
    assert Path(__file__).with_name("record.json").exists()
