"""Text from outside, made safe to show and to keep.

Owns what happens to text that somebody else wrote before it gets into an error, a state, a log, a
metric, an event or a terminal: `printable` makes one bounded line of it, and `Redactor` hides the
tokens of a tunnel in it first, for a service that echoes what it was sent. Pure.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterable, Iterator
from typing import Final
from urllib.parse import quote

MAX_TEXT_CHARACTERS: Final = 200
"""How much of a text is shown when its place names no other limit."""

MAX_ID_CHARACTERS: Final = 128
"""How much of an identifier is shown: a channel id, a service id."""

MAX_REASON_CHARACTERS: Final = 800
"""How much of a whole reason is kept: what happened, an excerpt, and what to do about it."""


PART_CHARACTERS: Final = 8
"""A part of a token is hidden if it has this length; a shorter one gives nothing away."""

_CUT: Final = "..."
# base64url has two other characters than base64: a token is found in either, and in any case.
_ALIKE: Final = str.maketrans("-_ABCDEFGHIJKLMNOPQRSTUVWXYZ", "+/abcdefghijklmnopqrstuvwxyz")


def printable(text: str, limit: int = MAX_TEXT_CHARACTERS, *, mark: str = " ") -> str:
    """Return `text` as one line of printable characters.

    Line breaks, control and formatting characters (ESC, those that reverse the direction of
    writing) cannot forge a line of a log or tell a terminal anything.

    Args:
        text: what somebody else wrote.
        limit: how many characters the line has at most; a cut one ends in "...".
        mark: what takes the place of a character that is not printable. Of blanks that follow one
            another one is left, unless another mark is given.
    """
    # Four times as many, so that a text full of line breaks still fills its line.
    shown = "".join(c if c.isprintable() else mark for c in text[: 4 * limit])
    if mark == " ":
        shown = " ".join(shown.split())
    if len(shown) <= limit and len(text) <= 4 * limit:
        return shown
    return shown[: max(0, limit - len(_CUT))] + _CUT


MAX_SCANNED_CHARACTERS: Final = 16_384
"""Only so much of a text is looked at. What comes behind it is never shown."""
HIDDEN: Final = "[hidden]"
SHORTEST_SECRET_CHARACTERS: Final = 4
"""A shorter secret is not hidden, as it may be a part of ordinary words."""


class Redactor:
    """Makes text from outside printable and hides secrets in it.

    A secret is found as it is, in any case of letters, in URL encoding, base64 (whatever stands in
    front of it), hexadecimal, JSON and HTML, and any part of these of `PART_CHARACTERS`.

    Args:
        secrets: what must not be shown, such as the tokens of a tunnel. Those below
            `SHORTEST_SECRET_CHARACTERS` are passed over.
    """

    __slots__ = ("_parts", "_secrets")

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets = tuple(
            secret for secret in secrets if len(secret) >= SHORTEST_SECRET_CHARACTERS
        )
        self._parts: frozenset[str] | None = None

    def __repr__(self) -> str:
        return "Redactor(...)"

    def __call__(self, text: str, limit: int = MAX_TEXT_CHARACTERS) -> str:
        """Return `text` without the secrets, as one printable line of at most `limit`."""
        return printable(self.hide(text), limit)

    def hide(self, text: str) -> str:
        """Return `text` with "[hidden]" in the place of secrets and their parts."""
        text = text[:MAX_SCANNED_CHARACTERS]
        if self._parts is None:
            self._parts = frozenset(_parts_of(self._secrets))
        for secret in self._secrets:
            if len(secret) < PART_CHARACTERS:
                text = text.replace(secret, HIDDEN)
        # It works character by character, so that positions are the same in both texts.
        alike = text.translate(_ALIKE)
        pieces: list[str] = []
        done = hidden_to = 0
        for start in range(len(alike) - PART_CHARACTERS + 1):
            if alike[start : start + PART_CHARACTERS] not in self._parts:
                continue
            if start > hidden_to or not pieces:
                pieces += (text[done:start], HIDDEN)
            done = hidden_to = start + PART_CHARACTERS
        return "".join([*pieces, text[done:]])


def _parts_of(secrets: Iterable[str]) -> Iterator[str]:
    for secret in secrets:
        if len(secret) < PART_CHARACTERS:
            continue
        for form in set(_forms_of(secret)):
            alike = form.translate(_ALIKE)
            for start in range(len(alike) - PART_CHARACTERS + 1):
                yield alike[start : start + PART_CHARACTERS]


def _forms_of(secret: str) -> Iterator[str]:
    """Return the ways in which a service may write a secret back."""
    yield secret
    once = quote(secret, safe="")
    yield once
    yield quote(once, safe="")
    yield html.escape(secret)
    yield json.dumps(secret)[1:-1]
    content = secret.encode("utf-8", "surrogatepass")
    yield content.hex()
    for before in range(3):
        yield _inner_base64(content, before)


def _inner_base64(content: bytes, before: int) -> str:
    """Return the characters that `content` alone decides on, with so many bytes in front of it."""
    text = base64.b64encode(bytes(before) + content).decode("ascii").rstrip("=")
    first = -(-before * 8 // 6)
    last = len(text) - (1 if (before + len(content)) % 3 else 0)
    return text[first:last]
