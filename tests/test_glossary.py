"""The words of docs/architecture.md stand for what is there, and each of them for one thing."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

from tests.test_rooms import ALLOWED, MODULES

ROOT = Path(__file__).parent.parent
DOCUMENT = ROOT / "docs" / "architecture.md"

CODE = re.compile(r"`([^`]+)`")
PATH = re.compile(r"`((?:actors|docs|grafana|proto|runtime|tests|tools)/[\w./-]*)`")


def table(name: str) -> list[list[str]]:
    """The rows of a table of the document between the comments that name it, without its head."""
    text = DOCUMENT.read_text()
    part = text.partition(f"<!-- {name}: begin -->")[2].partition(f"<!-- {name}: end -->")[0]
    rows = [line for line in part.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert len(cells) > 2, f"the table {name} is empty"
    return cells[2:]


def defined(path: Path) -> set[str]:
    """The names of classes and functions that stand at the top of a file."""
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, kinds)}


def classes() -> dict[str, list[str]]:
    """Where each class is, by its name without the mark of what is private."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for path in MODULES.values():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                found[node.name.lstrip("_")].append(path.relative_to(ROOT).as_posix())
    return found


def named(path: Path) -> set[str]:
    """The names of what a file defines, at its top or within."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {each.id for each in node.targets if isinstance(each, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return found


def placed() -> list[tuple[str, str]]:
    """The names that the document says a file has, and the file."""
    text = re.sub(r"\s+", " ", DOCUMENT.read_text())
    name, path = r"`([A-Za-z_][\w.]*)`", r"`((?:actors|proto|runtime|tests|tools)/[\w/]+\.py)`"
    behind = [(found[2], found[1]) for found in re.finditer(rf"\| {path}, {name} \|", text)]
    before = [(found[1], found[2]) for found in re.finditer(rf"{name} (?:in|of) {path}", text)]
    in_brackets = [(found[1], found[2]) for found in re.finditer(rf"{name} \({path}\)", text)]
    return sorted({*behind, *before, *in_brackets})


WORDS = table("glossary")


def problems(cell: str) -> list[str]:
    """What of the last column of the glossary is not there."""
    names, _, where = cell.rpartition(" in ")
    found = CODE.findall(where)
    if len(found) != 1 or not (ROOT / found[0]).is_file():
        return [f"no file: {where}"]
    path = ROOT / found[0]
    return [f"no {name} in {found[0]}" for name in CODE.findall(names) if name not in defined(path)]


class TestThisTest:
    """What it would find."""

    @pytest.mark.parametrize(
        ("cell", "problem"),
        [
            ("`Session` in `proto/session.py`", []),
            ("`proto/session.py`", []),
            ("`Sessoin` in `proto/session.py`", ["no Sessoin in proto/session.py"]),
            ("`Session` in `proto/sessions.py`", ["no file: `proto/sessions.py`"]),
            ("Session", ["no file: Session"]),
        ],
    )
    def test_it_sees_what_is_not_there(self, cell: str, problem: list[str]) -> None:
        assert problems(cell) == problem


@pytest.mark.parametrize(("word", "meaning", "cell"), WORDS, ids=[row[0] for row in WORDS])
def test_a_word_stands_for_what_is_there(word: str, meaning: str, cell: str) -> None:
    assert word
    assert meaning.endswith((".", ".)"))
    assert problems(cell) == []


def test_words_stand_once_and_in_order() -> None:
    words = [row[0] for row in WORDS]
    assert words == sorted(set(words))


def test_a_class_name_stands_for_one_class() -> None:
    twice = {name: sorted(paths) for name, paths in classes().items() if len(paths) > 1}
    on_purpose = {
        CODE.findall(row[0])[0]: sorted(path for cell in row[1:] for path in CODE.findall(cell))
        for row in table("twice")
    }
    assert twice == on_purpose


FORMER = {"lane": "callback queue", "ledger": "meter", "desk": "outbox", "apiport": "outbox"}
"""Words that had a meaning of ours alone, and those of the glossary that stand for them now."""

ALIASES = {"runtime": {"LaneStats"}, "runtime.metrics": {"Ledger"}}
"""Former public names, which stay for one release, by the package that has them."""


def words_in(name: str) -> set[str]:
    """The words of an identifier: `LaneStats` and `lane_stats` have lane and stats."""
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+", name)
    return {part.lower() for part in parts} | {name.lower()}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("LaneStats", {"lane", "stats", "lanestats"}),
        ("_to_lane", {"to", "lane", "_to_lane"}),
        ("ApiPort", {"api", "port", "apiport"}),
        ("planes", {"planes"}),
    ],
)
def test_the_words_of_a_name(name: str, words: set[str]) -> None:
    assert words_in(name) == words


@pytest.mark.parametrize("module", sorted(MODULES))
def test_names_use_the_words_of_the_glossary(module: str) -> None:
    package = module.removesuffix(".names")
    tree = ast.parse(MODULES[module].read_text())
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    names |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names |= named(MODULES[module])
    old = {name for name in names if words_in(name) & FORMER.keys()}
    assert old <= ALIASES.get(package, set()), f"the words for it: {FORMER}"


@pytest.mark.parametrize(("name", "path"), placed())
def test_a_file_has_what_the_document_says(name: str, path: str) -> None:
    assert name.rpartition(".")[2] in named(ROOT / path)


def test_the_document_says_what_rooms_know() -> None:
    said = {CODE.findall(row[0])[0]: set(CODE.findall(row[2])) for row in table("rooms")}
    assert said == ALLOWED


@pytest.mark.parametrize("name", ["docs/architecture.md", "README.md", "CONTRIBUTING.md"])
def test_paths_that_documents_name_are_there(name: str) -> None:
    found = PATH.findall((ROOT / name).read_text())
    assert found
    assert [path for path in found if not (ROOT / path).exists()] == []
