"""Which files make up a configuration, and what TOML is in them.

Owns the way from what the user named to parsed documents: files, the folder `NAME.d` beside a file
`NAME.toml`, folders whose `*.toml` merge in the order of their names. It does not know what the
keys mean.
"""

from __future__ import annotations

import re
import stat
import tomllib
from functools import cached_property
from typing import TYPE_CHECKING, Any

from .lines import KeyLines
from .problems import WHOLE_FILE, Problem, key_text, syntax_problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["Document", "read_documents"]

SUFFIX = ".toml"
MAX_FILE_BYTES = 64 * 1024 * 1024
_EXPANSION = re.compile(r"\$\{[^}]*\}")
_LONG = re.compile(r"[0-9_]{1000}")


class Document:
    """One file.

    Args:
        path: of the file.
        text: what is in it.
        data: what TOML that is.
    """

    def __init__(self, path: Path, text: str, data: dict[str, Any]) -> None:
        self.path = path
        self.text = text
        self.data = data

    @property
    def name(self) -> str:
        """Of the file, as the user wrote it."""
        return str(self.path)

    @cached_property
    def _lines(self) -> KeyLines:
        return KeyLines(self.text)

    def place(self, path: Sequence[str | int]) -> str:
        """Where a key stands, for people."""
        return f"{self.name}:{self._lines.line_of(path)}"

    def problem(
        self, path: Sequence[str | int], text: str, *, tunnel: str | None = None, error: bool = True
    ) -> Problem:
        """A problem with one of its keys.

        Args:
            path: of the key, from the root of the file.
            text: what is wrong, and what would be right.
            tunnel: the name of the tunnel that the key belongs to.
            error: False for a warning.
        """
        line = self._lines.line_of(path)
        return Problem(self.name, line, key_text(path, tunnel), text, is_error=error)

    def relative(self, text: str) -> Path:
        """A path that is written in the file: relative to the file's own folder."""
        return self.path.parent / text


def read_documents(paths: Sequence[Path]) -> tuple[list[Document], list[Problem]]:
    """Read and parse the files that the user named, each of them once.

    Args:
        paths: files and folders.

    Returns:
        The documents that could be parsed, in the order in which they merge, and the problems.
    """
    documents: list[Document] = []
    problems: list[Problem] = []
    seen: set[Path] = set()
    for path in paths:
        files, problem = _find(path)
        problems += problem
        for file in files:
            resolved = file.resolve()
            if resolved in seen:
                continue
            seen.add(resolved)
            found = _read(file)
            if isinstance(found, Problem):
                problems.append(found)
            else:
                documents.append(found)
                problems += _expansions(found)
    return documents, problems


def _find(path: Path) -> tuple[list[Path], list[Problem]]:
    try:
        is_folder = stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError:
        return [], [_file_problem(path, "there is no such file or folder; name one that is there")]
    except OSError as error:
        return [], [_file_problem(path, f"it cannot be read: {error.strerror}")]
    if not is_folder:
        beside = path.with_suffix(".d")
        return [path, *(_in_folder(beside) if beside.is_dir() else [])], []
    files = _in_folder(path)
    if not files:
        hint = f"the folder has no file *{SUFFIX}; put one into it, or name a file"
        return [], [_file_problem(path, hint)]
    return files, []


def _in_folder(folder: Path) -> list[Path]:
    # Hidden names are an editor's, or the data behind the links of a Kubernetes mount.
    found = [each for each in folder.glob(f"*{SUFFIX}") if not each.name.startswith(".")]
    return sorted(each for each in found if not each.is_dir())


def _read(path: Path) -> Document | Problem:
    try:
        with path.open("rb") as file:
            # No size tells how much comes out of a pipe or a device.
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        return _file_problem(path, f"it cannot be read: {error.strerror}")
    if len(content) > MAX_FILE_BYTES:
        return _file_problem(path, f"it is larger than {MAX_FILE_BYTES} bytes; split it")
    try:
        text = content.decode().replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return Problem(str(path), line, "toml", "this is not UTF-8; save the file as UTF-8")
    try:
        return Document(path, text, tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        return syntax_problem(str(path), text, str(error))
    except RecursionError:
        return _file_problem(path, "lists or tables are nested too deeply")
    except ValueError:
        # Python makes no number of thousands of digits, and says nothing of where they are.
        line = next((n for n, each in enumerate(text.split("\n"), 1) if _LONG.search(each)), 1)
        return Problem(str(path), line, "toml", "this number has too many digits")


def _file_problem(path: Path, text: str) -> Problem:
    return Problem(str(path), 1, WHOLE_FILE, text)


def _expansions(document: Document) -> list[Problem]:
    """What looks as if its writer expected the environment in it."""
    if not _EXPANSION.search(document.text):
        return []
    problems = []
    for path, text in _texts(document.data, ()):
        if _EXPANSION.search(text):
            hint = "${...} is not expanded; write the value itself"
            if path[-1] in ("access_token", "client_token"):
                hint = "${...} is not expanded; name the variable as access_token_env"
            is_label = "labels" in path
            problems.append(
                document.problem(
                    path, hint, tunnel=_tunnel_name(document, path), error=not is_label
                )
            )
    return problems


def _texts(value: Any, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from _texts(each, (*path, key))
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from _texts(each, (*path, number))


def _tunnel_name(document: Document, path: tuple[str | int, ...]) -> str | None:
    match path, document.data.get("tunnel"):
        case ("tunnel", int(number), *_), list(tunnels) if isinstance(tunnels[number], dict):
            name = tunnels[number].get("name")
            return name if isinstance(name, str) else None
    return None
