"""Text for people: of others, made safe to show and to keep, and counts with their nouns.

Owns what happens to text that somebody else wrote before it gets into an error, a state, a log, a
metric, an event or a terminal: `printable` makes one bounded line of it, and `Redactor` hides the
tokens of a tunnel in it first, for a service that echoes what it was sent. Pure.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator
from typing import Final

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

# As html.escape does it; the module brings the names of all entities, 0.3 MB.
_IN_HTML: Final = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#x27;"}
)


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
    shown = text[: 4 * limit]
    if not shown.isprintable():
        shown = "".join(c if c.isprintable() else mark for c in shown)
    if mark == " ":
        shown = " ".join(shown.split())
    if len(shown) <= limit and len(text) <= 4 * limit:
        return shown
    return shown[: max(0, limit - len(_CUT))] + _CUT


def counted(count: int, noun: str, of_one: str = "", of_more: str = "") -> str:
    """Return a count with its noun, for example `1 tunnel`, `2,000 tunnels`.

    Args:
        count: how many there are.
        noun: in the singular; its plural has an s.
        of_one: what follows where there is one, such as `is`.
        of_more: what follows where there are none or several, such as `are`.
    """
    text, rest = (noun, of_one) if count == 1 else (f"{noun}s", of_more)
    return f"{count:,} {text} {rest}" if rest else f"{count:,} {text}"


def listed(words: Iterable[str], last: str) -> str:
    """Return words as one reads them out: `a`, `a or b`, `a, b or c`.

    Args:
        words: in their order.
        last: what stands before the last one, such as `or`.
    """
    *head, tail = words
    return f"{', '.join(head)} {last} {tail}" if head else tail


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

    __slots__ = ("_secrets",)

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets = tuple(
            secret for secret in secrets if len(secret) >= SHORTEST_SECRET_CHARACTERS
        )

    def __repr__(self) -> str:
        return "Redactor(...)"

    def __call__(self, text: str, limit: int = MAX_TEXT_CHARACTERS) -> str:
        """Return `text` without the secrets, as one printable line of at most `limit`."""
        return printable(self.hide(text), limit)

    def hide(self, text: str) -> str:
        """Return `text` with "[hidden]" in the place of secrets and their parts."""
        text = text[:MAX_SCANNED_CHARACTERS]
        for secret in self._secrets:
            if len(secret) < PART_CHARACTERS:
                text = text.replace(secret, HIDDEN)
        # It works character by character, so that positions are the same in both texts.
        alike = text.translate(_ALIKE)
        starts = range(len(alike) - PART_CHARACTERS + 1)
        shown = {alike[start : start + PART_CHARACTERS] for start in starts}
        secret_parts = _secret_among(shown, self._secrets)
        pieces: list[str] = []
        done = hidden_to = 0
        for start in starts if secret_parts else ():
            if alike[start : start + PART_CHARACTERS] not in secret_parts:
                continue
            if start > hidden_to or not pieces:
                pieces += (text[done:start], HIDDEN)
            done = hidden_to = start + PART_CHARACTERS
        return "".join([*pieces, text[done:]])


MANY_PARTS: Final = 400
"""Beyond it a set of the secrets' parts is made, which takes milliseconds, to look them up in."""


def _secret_among(parts: set[str], secrets: Iterable[str]) -> set[str]:
    """Return those that some form of a secret has.

    The parts of the secrets are thousands: if they were kept, most of the memory of an idle tunnel
    that ever told an error would be theirs.
    """
    if not parts:
        return parts
    forms = [
        form.translate(_ALIKE)
        for secret in secrets
        if len(secret) >= PART_CHARACTERS
        for form in set(_forms_of(secret))
    ]
    if len(parts) > MANY_PARTS:
        return parts.intersection(
            form[start : start + PART_CHARACTERS]
            for form in forms
            for start in range(len(form) - PART_CHARACTERS + 1)
        )
    return {part for part in parts if any(part in form for form in forms)}


def _forms_of(secret: str) -> Iterator[str]:
    """Return the ways in which a service may write a secret back."""
    yield secret
    if not _SAME_EVERYWHERE.fullmatch(secret):
        yield from _quoted_forms_of(secret)
    content = secret.encode("utf-8", "surrogatepass")
    yield content.hex()
    for before in range(3):
        yield _inner_base64(content, before)


_SAME_EVERYWHERE: Final = re.compile(r"[A-Za-z0-9_.~-]*")
"""What nobody has to quote; most tokens are of these characters."""


def _quoted_forms_of(secret: str) -> Iterator[str]:
    import json  # noqa: PLC0415 - with what they load 1.5 MB, for few tunnels
    from urllib.parse import quote  # noqa: PLC0415

    once = quote(secret, safe="")
    yield once
    yield quote(once, safe="")
    yield secret.translate(_IN_HTML)
    yield json.dumps(secret)[1:-1]


def _inner_base64(content: bytes, before: int) -> str:
    """Return the characters that `content` alone decides on, with so many bytes in front of it."""
    text = base64.b64encode(bytes(before) + content).decode("ascii").rstrip("=")
    first = -(-before * 8 // 6)
    last = len(text) - (1 if (before + len(content)) % 3 else 0)
    return text[first:last]


def require_whole_characters(value: object) -> None:
    """Refuse a value of JSON that has half of a surrogate pair in a text.

    JSON can say it, and so can bytes that are nearly UTF-8; no answer and no file can repeat it.

    Raises:
        UnicodeEncodeError: it has; this is a ValueError, as of JSON that is none.
    """
    import json  # noqa: PLC0415 - a tunnel alone does without

    json.dumps(value, ensure_ascii=False).encode()
