"""What is wrong with a configuration, in the words of the person who wrote it.

Owns the form of a message, `FILE:LINE: key: what, and what would be right`, and the words for each
mistake that pydantic finds. It reads no file. No message repeats a value that can be a token.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tunnelfleet.proto import ConfigError, printable

WHOLE_FILE = "file"
"""The key of a mistake that is no line's."""
MAX_SHOWN_LENGTH = 60
"""The longest value that a message repeats; access tokens are longer."""
MAX_TEXT_CHARACTERS = 2_000
"""The longest text of a mistake."""
_OCTAL = re.compile(r"=\s*0[0-7]+\s*(#|$)")
"""A value that is written as modes of files are; TOML has no such numbers."""
_POSITION = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake, or one thing to look at.

    Attributes:
        file: as the user named it, or below the folder that the user named.
        line: counted from 1.
        key: for people, as in `tunnel[press-4].mode`.
        text: what is wrong, and what would be right; made one printable line.
        is_error: False for a warning, which changes nothing.
    """

    file: str
    line: int
    key: str
    text: str
    is_error: bool = True

    def __post_init__(self) -> None:
        # Whatever stands in a file or a request may be repeated in it.
        object.__setattr__(self, "text", printable(self.text, MAX_TEXT_CHARACTERS))

    def __str__(self) -> str:
        kind = "" if self.is_error else "warning: "
        if self.key == WHOLE_FILE:
            return f"{self.file}: {kind}{self.text}"
        return f"{self.file}:{self.line}: {self.key}: {kind}{self.text}"


class ConfigProblems(ConfigError):  # noqa: N818 - says what was found
    """A configuration has mistakes: all of them, with the warnings.

    Args:
        problems: in the order of the files and their lines.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__(tuple(problems))
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


def key_text(path: Sequence[str | int], name: str | None = None) -> str:
    """Return a key for people.

    Args:
        path: its way from the root of the file.
        name: of the tunnel, if the key is one of a tunnel that has a name.
    """
    text = ""
    for number, part in enumerate(path):
        if isinstance(part, int):
            shown = printable(name or "") if number == 1 and path[0] == "tunnel" else ""
            text += f"[{shown or part + 1}]"
        else:
            # An unknown key is whatever somebody wrote or sent.
            text += f".{printable(part)}" if text else printable(part)
    return text


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint at what was meant: the nearest of the known names, or all if there are few."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]}?"
    return f"there are {', '.join(names)}"


_SYNTAX = (
    ("Cannot overwrite a value", "this key is set twice; keep one of the two"),
    ("Cannot declare", "this table is declared twice; keep one of the two"),
    ("Cannot mutate immutable", "this key is set already, in braces; put all of it in one place"),
    ("Invalid value", 'this is no TOML value; text needs "quotes", true and false are lower case'),
    ("Illegal character '\\n'", 'a text is not closed on its line; end it with a "'),
    ("Unterminated string", 'a text is not closed; end it with a "'),
    ("Expected '=' after a key", "write KEY = VALUE; a name with blanks needs quotes"),
    ("Expected newline or end of document", "write one KEY = VALUE on a line"),
    ("Unclosed array", "a list is not closed; end it with a ]"),
    ("Unclosed inline table", "a table in braces is not closed; end it with a }, on the same line"),
    ("Expected ']", "a header is not closed; write [TABLE] or [[TABLE]] on a line of its own"),
    ("Invalid hex value", r"a backslash starts an escape; write \\, or use 'single quotes'"),
    ("Unescaped '\\'", r"a backslash starts an escape; write \\, or use 'single quotes'"),
)


def syntax_problem(file: str, text: str, error: str) -> Problem:
    """Return the problem that a file is no TOML.

    Args:
        file: its name.
        text: what is in it.
        error: what tomllib says.
    """
    found = _POSITION.search(error)
    message = _POSITION.sub("", error)
    # Lines are TOML's: str.splitlines() knows ten more characters that end one.
    last_line = text.removesuffix("\n").count("\n") + 1
    line = int(found.group(1)) if found and found.group(1) else last_line
    if text.startswith("\ufeff"):
        return Problem(file, 1, "toml", "the file begins with a byte order mark; save it without")
    if found and found.group(1) and _OCTAL.search(text.split("\n")[line - 1]):
        octal = 'a number does not begin with 0; a mode is a text, in quotes: "0660"'
        return Problem(file, line, "toml", octal)
    hint = next((hint for start, hint in _SYNTAX if message.startswith(start)), None)
    return Problem(file, line, "toml", hint or f"this is no TOML: {message}")
