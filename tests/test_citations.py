"""Each document, and each section of one, that code, tests and documents cite is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SUFFIXES = {".md", ".proto", ".py", ".toml", ".yaml", ".yml"}
SKIPPED = {".git", ".venv", "__pycache__", "build", "dist", "node_modules"}

DOCUMENT = re.compile(r"(?<![\w/.:-])((?:[\w.-]+/)*[\w-]+\.md)\b(?!\w)")
SECTIONS = re.compile(r"\W*\bsections?\s+((?:\d+[a-z]?(?:,\s*|\s+and\s+|\s+to\s+)?)+)")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def texts() -> list[Path]:
    """The files that may cite, other than the history of what there was."""
    found = [
        path
        for path in ROOT.rglob("*")
        if path.suffix in SUFFIXES
        and not SKIPPED.intersection(path.relative_to(ROOT).parts)
        and not any(part.endswith(("_cache", ".egg-info")) for part in path.parts)
    ]
    return sorted(found)


def joined(text: str) -> str:
    """A text whose lines are one: a citation may be broken, in a comment too."""
    return re.sub(r"[ \t]*\n[ \t]*(?:(?:#|//|\*)+[ \t]*)?", " ", text)


def headings(document: Path) -> list[str]:
    return HEADING.findall(document.read_text())


def numbers(document: Path) -> set[str]:
    """The numbers of a document's sections."""
    return {
        found[1] for found in (re.match(r"(\d+[a-z]?)\.? ", h) for h in headings(document)) if found
    }


def named_sections(listed: str) -> set[str]:
    """The sections that "2 and 3", "1, 2" or "2 to 4" name."""
    result = set(re.findall(r"\d+[a-z]?", listed))
    for low, high in re.findall(r"(\d+)\s+to\s+(\d+)", listed):
        result |= {str(number) for number in range(int(low), int(high) + 1)}
    return result


def find(name: str, citing: Path) -> Path | None:
    """The document of a name, as it is seen from the file that cites it."""
    for folder in (ROOT, citing.parent, ROOT / "docs"):
        if (folder / name).is_file():
            return folder / name
    return None


def problems(text: str, citing: Path) -> list[str]:
    """What a file cites in vain."""
    found = []
    line = joined(text)
    for match in DOCUMENT.finditer(line):
        document = find(match[1], citing)
        if document is None:
            found.append(f"there is no {match[1]}")
            continue
        cited = SECTIONS.match(line, match.end())
        if cited:
            missing = named_sections(cited[1]) - numbers(document)
            found += [f"{match[1]} has no section {number}" for number in sorted(missing)]
    return found


def anchor(heading: str) -> str:
    """How GitHub names a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


class TestThisTest:
    """What it would find."""

    CITING = ROOT / "tests" / "test_citations.py"

    @pytest.mark.parametrize(
        "text",
        [
            "docs/protocol.md section 3a",
            "docs/protocol.md, section 3a",
            "(docs/protocol.md\n    section 1)",
            "# docs/protocol.md\n# sections 1 and 4",
            "docs/protocol.md sections 2 to 4",
            "[protocol.md](../docs/protocol.md), section 6",
            "CONTRIBUTING.md",
        ],
    )
    def test_what_is_there_is_no_problem(self, text: str) -> None:
        assert problems(text, self.CITING) == []

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            # Put together, so that this file does not cite them.
            ("NOTHING" + ".md", "there is no NOTHING" + ".md"),
            ("docs/nothing" + ".md section 1", "there is no docs/nothing" + ".md"),
            ("docs/protocol" + ".md section 9", "docs/protocol" + ".md has no section 9"),
            ("docs/protocol" + ".md\n  # section 3b", "docs/protocol" + ".md has no section 3b"),
            ("docs/protocol" + ".md sections 5 to 7", "docs/protocol" + ".md has no section 7"),
            ("docs/protocol" + ".md sections 1 and 8", "docs/protocol" + ".md has no section 8"),
        ],
    )
    def test_what_is_not_there_is_one(self, text: str, problem: str) -> None:
        assert problems(text, self.CITING) == [problem]


@pytest.mark.parametrize("path", texts(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_is_cited_is_there(path: Path) -> None:
    assert problems(path.read_text(), path) == []


@pytest.mark.parametrize(
    "path",
    [path for path in texts() if path.suffix == ".md"],
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_links_lead_somewhere(path: Path) -> None:
    for target in LINK.findall(path.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, fragment = target.partition("#")
        linked = (path.parent / name).resolve() if name else path
        assert linked.exists(), target
        if fragment:
            assert fragment in [anchor(each) for each in headings(linked)], target


@pytest.mark.parametrize("name", ["protocol.md", "architecture.md"])
def test_a_document_that_is_cited_by_section_numbers_them_in_order(name: str) -> None:
    titles = re.findall(r"^## (.+)$", (ROOT / "docs" / name).read_text(), re.MULTILINE)
    found = [re.match(r"(\d+)([a-z]?)\. ", title) for title in titles]
    keys = [(int(each[1]), each[2]) for each in found if each]
    assert len(keys) == len(titles), "a section has no number"
    assert keys == sorted(set(keys))
    assert {number for number, _ in keys} == set(range(1, keys[-1][0] + 1))
