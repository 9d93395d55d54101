"""The figures of the house, on a small house whose figures are known, and on this one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tools import house

if TYPE_CHECKING:
    from pathlib import Path

FILES = {
    "proto/__init__.py": "from .words import WORD\n",
    "proto/words.py": (
        '"""A docstring."""\nWORD = 1\n\n@decorator\ndef f():\n    return WORD  # so\n'
    ),
    "actors/__init__.py": "",
    "actors/one.py": "from __future__ import annotations\nfrom . import two\nclass One: pass\n",
    "actors/two.py": (
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from .one import One\n    from .three import Three\n"
        "from tunnelfleet.proto import WORD\nclass Two: pass\n"
    ),
    "actors/three.py": (
        "import tunnelfleet.proto.words\ndef three():\n    from .one import One\n    return One\n"
    ),
    "actors/made_pb2.py": "from . import one\n",
}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path


def module(root: Path, name: str) -> house.Module:
    (found,) = [each for each in house.read_modules(root) if each.name == name]
    return found


class TestModules:
    def test_generated_files_are_left_out(self, small: Path) -> None:
        paths = {each.path for each in house.read_modules(small)}
        assert paths == FILES.keys() - {"actors/made_pb2.py"}

    def test_the_root_package_has_another_folder(self, small: Path) -> None:
        (small / "package").mkdir()
        (small / "package" / "__init__.py").write_text("")
        (small / "package" / "__main__.py").write_text("from . import VERSION\n")
        assert module(small, "tunnelfleet").path == "package/__init__.py"
        assert module(small, "tunnelfleet.__main__").imports == {"tunnelfleet"}

    def test_lines(self, small: Path) -> None:
        words = module(small, "tunnelfleet.proto.words")
        # Neither docstring nor blank line; the decorator belongs to the definition.
        assert (words.lines, words.code_lines, words.lines_before_definition) == (6, 4, 3)
        assert module(small, "tunnelfleet.proto").lines_before_definition is None

    def test_imports_of_readers_and_of_python(self, small: Path) -> None:
        two = module(small, "tunnelfleet.actors.two")
        assert two.imports == {
            "tunnelfleet.actors.one",
            "tunnelfleet.actors.three",
            "tunnelfleet.proto",
        }
        assert two.imports_at_import == {"tunnelfleet.proto"}
        three = module(small, "tunnelfleet.actors.three")
        assert three.imports == {"tunnelfleet.actors.one", "tunnelfleet.proto.words"}
        assert three.imports_at_import == {"tunnelfleet.proto.words"}


class TestFigures:
    def test_of_the_whole(self, small: Path) -> None:
        whole = house.measure_house(small)["all"]
        assert whole == house.Figures(
            modules=6,
            modules_with_code=4,
            median_lines=5.0,
            source_lines=20,
            code_lines=18,
            # 3 of words' 6 lines, 2 of one's 3, 5 of two's 6, 1 of three's 4.
            before_first_definition_percent=round(100 * 11 / 19, 1),
            # words by three (a package's __init__ is no importer), two by one, three by two.
            single_importer=3,
            circles=[
                ["tunnelfleet.actors.one", "tunnelfleet.actors.three", "tunnelfleet.actors.two"]
            ],
            circles_at_import=[],
        )

    def test_of_a_folder_importers_may_be_elsewhere(self, small: Path) -> None:
        assert house.measure_house(small)["proto"].single_importer == 1

    @pytest.mark.parametrize(
        ("graph", "circles"),
        [
            ({"a": ["b"], "b": ["c"], "c": []}, []),
            ({"a": ["b"], "b": ["a"]}, [["a", "b"]]),
            ({"a": ["b"], "b": ["c"], "c": ["b", "d"], "d": ["x"]}, [["b", "c"]]),
            (
                {"a": ["b"], "b": ["a", "c"], "c": ["d"], "d": ["e"], "e": ["c"]},
                [["c", "d", "e"], ["a", "b"]],
            ),
        ],
    )
    def test_circles(self, graph: dict[str, list[str]], circles: list[list[str]]) -> None:
        assert house.find_circles(graph) == circles


class TestProgram:
    def test_it_prints_a_table_of_the_house_it_stands_in(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert house.main([]) == 0
        printed = capsys.readouterr().out
        assert "\nall " in printed
        assert "\nactors/kernel " in printed

    def test_json_has_the_same(self, small: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert house.main(["--json", "--root", str(small)]) == 0
        figures = json.loads(capsys.readouterr().out)
        assert figures["all"]["modules"] == 6
        assert figures.keys() == {"all", "actors", "proto"}
