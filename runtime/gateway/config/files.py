"""Which files make up a configuration, what TOML is in them, and on which line a key stands.

Owns the way from what the user named to parsed documents: files, the folder `NAME.d` beside a file
`NAME.toml`, folders whose `*.toml` merge in the order of their names. tomllib tells no lines, so a
file that has a mistake is read a second time for them (`KeyLines`). It does not know what the keys
mean.
"""

from __future__ import annotations

import codecs
import os
import re
import stat
import tomllib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tunnelfleet.runtime.reading import read_at_once

from .problems import WHOLE_FILE, Problem, key_text, syntax_problem

KeyPath = tuple[str | int, ...]
"""A key: names of tables and keys, and numbers of elements, as in `("tunnel", 3, "mode")`."""

_BLANK = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_SPACES = re.compile(r"[ \t]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"""+'
    r"|'''.*?'''+"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)
_OTHER_VALUE = re.compile(r"[^,\]}#\n]*")


class KeyLines:
    r"""The lines of all keys of a TOML document that is known to be valid.

    Args:
        text: the document, with `\\n` at the end of its lines.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line = 1
        self._counted_to = 0
        self._lines: dict[KeyPath, int] = {(): 1}
        self._elements: dict[KeyPath, int] = {}
        """How many `[[...]]` headers each array of tables has so far."""
        self._read()

    def line_of(self, path: Sequence[str | int]) -> int:
        """Return the line of a key; of the innermost table that is there, if the key is not."""
        wanted = tuple(path)
        while wanted not in self._lines:
            wanted = wanted[:-1]
        return self._lines[wanted]

    def _read(self) -> None:
        table: KeyPath = ()
        while True:
            self._skip(_BLANK)
            if self._at == len(self._text):
                return
            line = self._current_line()
            if self._takes("[["):
                table = self._array_element(self._key())
            elif self._takes("["):
                table = self._resolve((), self._key())
            else:
                self._key_and_value(table)
                continue
            self._note(table, line)
            self._skip(re.compile(r"[ \t]*\]+"))

    def _key_and_value(self, table: KeyPath) -> None:
        line = self._current_line()
        path = table + self._key()
        self._note(path, line)
        self._skip(_SPACES)
        self._takes("=")
        self._value(path)

    def _value(self, path: KeyPath) -> None:
        self._skip(_SPACES)
        if self._takes("["):
            self._array(path)
        elif self._takes("{"):
            self._inline_table(path)
        elif (string := _STRING.match(self._text, self._at)) is not None:
            self._at = string.end()
        else:
            self._skip(_OTHER_VALUE)

    def _array(self, path: KeyPath) -> None:
        number = 0
        while True:
            self._skip(_BLANK)
            if self._takes("]"):
                return
            if self._takes(","):
                number += 1
                continue
            element = (*path, number)
            self._note(element, self._current_line())
            self._value(element)

    def _inline_table(self, path: KeyPath) -> None:
        while True:
            self._skip(_BLANK)
            if self._takes("}"):
                return
            if not self._takes(","):
                self._key_and_value(path)

    def _key(self) -> tuple[str, ...]:
        parts: list[str] = []
        while True:
            self._skip(_SPACES)
            bare = _BARE_KEY.match(self._text, self._at)
            found = bare or _STRING.match(self._text, self._at)
            if found is None:
                return tuple(parts)
            self._at = found.end()
            parts.append(found.group() if bare else _unquoted(found.group()))
            self._skip(_SPACES)
            if not self._takes("."):
                return tuple(parts)

    def _resolve(self, path: KeyPath, names: Sequence[str]) -> KeyPath:
        """Return where a header leads: into the last element of each array of tables on its way."""
        for name in names:
            path = (*path, name)
            if path in self._elements:
                path = (*path, self._elements[path] - 1)
        return path

    def _array_element(self, names: tuple[str, ...]) -> KeyPath:
        array = (*self._resolve((), names[:-1]), names[-1])
        number = self._elements.get(array, 0)
        self._elements[array] = number + 1
        return (*array, number)

    def _note(self, path: KeyPath, line: int) -> None:
        self._lines.setdefault(path, line)
        while path and path[:-1] not in self._lines:
            path = path[:-1]
            self._lines[path] = line

    def _current_line(self) -> int:
        self._line += self._text.count("\n", self._counted_to, self._at)
        self._counted_to = self._at
        return self._line

    def _takes(self, mark: str) -> bool:
        if not self._text.startswith(mark, self._at):
            return False
        self._at += len(mark)
        return True

    def _skip(self, pattern: re.Pattern[str]) -> None:
        found = pattern.match(self._text, self._at)
        if found is not None:
            self._at = found.end()


def _unquoted(text: str) -> str:
    if text.startswith("'"):
        return text[1:-1]
    name: str = tomllib.loads(f"x = {text}")["x"]
    return name


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
        """The path of the file, as the user wrote it."""
        return str(self.path)

    @cached_property
    def _lines(self) -> KeyLines:
        return KeyLines(self.text)

    def place(self, path: Sequence[str | int]) -> str:
        """Return where a key stands, for people."""
        return f"{self.name}:{self._lines.line_of(path)}"

    def problem(
        self, path: Sequence[str | int], text: str, *, tunnel: str | None = None, error: bool = True
    ) -> Problem:
        """Return a problem with one of its keys.

        Args:
            path: of the key, from the root of the file.
            text: what is wrong, and what would be right.
            tunnel: the name of the tunnel that the key belongs to.
            error: False for a warning.
        """
        line = self._lines.line_of(path)
        return Problem(self.name, line, key_text(path, tunnel), text, is_error=error)

    def relative(self, text: str) -> Path:
        """Return a path that is written in the file: relative to the file's own folder."""
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
    seen: set[str] = set()
    for path in paths:
        files, problem = _find(path)
        problems += problem
        for file in files:
            # `Path.resolve` raises where links lead in a circle.
            resolved = os.path.realpath(file)
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
        beside, problem = _beside(path.with_suffix(".d"))
        return [path, *beside], problem
    try:
        files = _in_folder(path)
    except OSError as error:
        return [], [_file_problem(path, f"it cannot be read: {error.strerror}")]
    if not files:
        hint = f"the folder has no file *{SUFFIX}; put one into it, or name a file"
        return [], [_file_problem(path, hint)]
    return files, []


def _beside(folder: Path) -> tuple[list[Path], list[Problem]]:
    """The files of the folder beside a file, if there is one; one that cannot be read is there."""
    try:
        if not stat.S_ISDIR(folder.stat().st_mode):
            return [], []
        return _in_folder(folder), []
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not folder.is_symlink():
            return [], []
        return [], [_file_problem(folder, f"it cannot be read: {error.strerror}")]


def _in_folder(folder: Path) -> list[Path]:
    """The files of a folder that count. Raises OSError; `Path.glob` would find nothing instead."""
    # Hidden names are an editor's, or the data behind the links of a Kubernetes mount.
    found = [each for each in folder.iterdir() if each.match(f"*{SUFFIX}")]
    return sorted(each for each in found if not each.name.startswith(".") and not each.is_dir())


def _read(path: Path) -> Document | Problem:
    try:
        content = read_at_once(path, MAX_FILE_BYTES)
    except OSError as error:
        return _file_problem(path, f"it cannot be read: {error.strerror}")
    if len(content) > MAX_FILE_BYTES:
        return _file_problem(path, f"it is larger than {MAX_FILE_BYTES} bytes; split it")
    if b"\0" in content and not content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        line = content.count(b"\n", 0, content.index(b"\0")) + 1
        return Problem(str(path), line, "toml", "there is a NUL byte; write the file anew")
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
    """Yield values in which somebody seems to expect variables of the environment."""
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
