"""Each harness with its seeds, with what is kept, and with changes of both."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.fuzz import surfaces
from tests.fuzz.__main__ import main
from tests.fuzz.harness import CORPUS, TURNS, Harness, Source, TurnTooLong, cut, kept, run_measured

ROOT = Path(__file__).parents[2]
EXAMPLES = 60
SLOW = {"answers": 20, "api": 12, "fleet": 30, "management": 30}
"""Examples of harnesses that take more than a millisecond for each."""


@pytest.fixture
def harness(request: pytest.FixtureRequest) -> Iterator[Harness]:
    found = surfaces.load(request.param)
    yield found
    found.stop()


each = pytest.mark.parametrize(
    ("harness", "name"), [(name, name) for name in surfaces.NAMES], indirect=["harness"]
)


@each
def test_the_kept_inputs(harness: Harness, name: str) -> None:
    for data in [*harness.seeds, *kept(name).values()]:
        harness.run(data)


@st.composite
def changed(draw: st.DrawFn, inputs: list[bytes], words: list[bytes], most: int) -> bytes:
    """Two inputs cut and joined, with bytes of its own, or words, put in between."""
    one, other = draw(st.sampled_from(inputs)), draw(st.sampled_from(inputs))
    at, behind = draw(st.integers(0, len(one))), draw(st.integers(0, len(other)))
    between = draw(st.binary(max_size=8) | st.sampled_from([*words, b""]))
    return (one[:at] + between + other[behind:])[:most]


@each
def test_changed_inputs(harness: Harness, name: str) -> None:
    inputs = [*harness.seeds, *kept(name).values()]

    # The same ones each time: what chance finds belongs to `make fuzz`.
    @settings(
        max_examples=SLOW.get(name, EXAMPLES),
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(changed(inputs, [*harness.words], harness.max_bytes) | st.binary(max_size=64))
    def attack(data: bytes) -> None:
        harness.run(data)

    attack()


def test_every_harness_names_files_that_there_are() -> None:
    for name in surfaces.NAMES:
        found = surfaces.load(name)
        assert found.covers, name
        assert [each for each in found.covers if not (ROOT / each).is_file()] == []
        assert all(len(seed) <= found.max_bytes for seed in found.seeds), name


def test_every_harness_is_in_the_documents() -> None:
    threats = (ROOT / "docs" / "security.md").read_text()
    report = (ROOT / "docs" / "reliability.md").read_text()
    for name in surfaces.NAMES:
        assert f"| `tests/fuzz/surfaces/{name}.py` |" in threats
        assert f"| `{name}` |" in report


def test_what_is_kept_belongs_to_a_harness() -> None:
    assert {each.name for each in CORPUS.iterdir()} <= set(surfaces.NAMES)
    names = [each.name for each in CORPUS.glob("*/*")]
    assert [
        each for each in names if not re.fullmatch(r"[0-9a-f]{12}|regression-[a-z0-9-]+", each)
    ] == []


def test_a_turn_that_is_too_long_is_a_finding() -> None:
    def spin(data: bytes) -> None:
        TURNS.note(0.2 if data else 0.01)

    made = Harness(run=spin, covers=[], seeds=[])
    assert run_measured(made, b"") == 0.01
    with pytest.raises(TurnTooLong, match="200 ms"):
        run_measured(made, b"x")


def test_the_driver_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    assert capsys.readouterr().out.split() == list(surfaces.NAMES)
    with pytest.raises(SystemExit) as ended:
        main(["websockt"])
    assert ended.value.code == 2
    assert "there is no harness 'websockt'; there are answers, " in capsys.readouterr().err


@given(st.binary(max_size=40), st.binary(max_size=3))
def test_pieces_are_the_whole(data: bytes, sizes: bytes) -> None:
    assert b"".join(cut(data, sizes)) == data
    source = Source(data)
    read = [step.byte() for step in source]
    assert bytes(read) == data
    assert source.byte() == 0


@pytest.mark.long
@pytest.mark.parametrize("name", surfaces.NAMES)
def test_guided(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("atheris", reason="pip install --group fuzz")
    arguments = [name, "--minutes", "0.5", "--runs", "20000", "--folder", str(tmp_path)]
    assert main(arguments) == 0, capsys.readouterr().out
