"""On which line of a TOML file a key stands, for the messages about mistakes.

Owns the mapping from a key's path to its line. tomllib reads the values, quickly and strictly, but
tells no lines; so a file that has a mistake is read a second time here, for the lines alone. The
text has passed tomllib before, so nothing is checked here, and no value is looked at.
"""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["KeyLines", "Path"]

Path = tuple[str | int, ...]
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
        self._lines: dict[Path, int] = {(): 1}
        self._elements: dict[Path, int] = {}
        """How many `[[...]]` headers each array of tables has so far."""
        self._read()

    def line_of(self, path: Sequence[str | int]) -> int:
        """The line of a key; of the innermost table that is there, if the key is not."""
        wanted = tuple(path)
        while wanted not in self._lines:
            wanted = wanted[:-1]
        return self._lines[wanted]

    def _read(self) -> None:
        table: Path = ()
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

    def _key_and_value(self, table: Path) -> None:
        line = self._current_line()
        path = table + self._key()
        self._note(path, line)
        self._skip(_SPACES)
        self._takes("=")
        self._value(path)

    def _value(self, path: Path) -> None:
        self._skip(_SPACES)
        if self._takes("["):
            self._array(path)
        elif self._takes("{"):
            self._inline_table(path)
        elif (string := _STRING.match(self._text, self._at)) is not None:
            self._at = string.end()
        else:
            self._skip(_OTHER_VALUE)

    def _array(self, path: Path) -> None:
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

    def _inline_table(self, path: Path) -> None:
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

    def _resolve(self, path: Path, names: Sequence[str]) -> Path:
        """Where a header leads: into the last element of each array of tables on its way."""
        for name in names:
            path = (*path, name)
            if path in self._elements:
                path = (*path, self._elements[path] - 1)
        return path

    def _array_element(self, names: tuple[str, ...]) -> Path:
        array = (*self._resolve((), names[:-1]), names[-1])
        number = self._elements.get(array, 0)
        self._elements[array] = number + 1
        return (*array, number)

    def _note(self, path: Path, line: int) -> None:
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
