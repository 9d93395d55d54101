"""Takes tokens out of what goes into a bug report. Pure.

Owns what counts as a token. The gateway shows none anywhere; this is the second wall. It goes by
what is known (secrets that were found on this machine), by the name of a field, and by how a text
looks.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from tunnelfleet.proto.text import HIDDEN

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Scrubber"]

_SECRET_NAME: Final = re.compile(
    r"token|secret|password|passwd|authorization|cookie", re.IGNORECASE
)
_ASSIGNED: Final = re.compile(
    r"""(?ix) ( (?: [\w-]*[_-](?:token|secret)[\w-]* | password | passwd | authorization ) ["']?
                \s* [=:] \s* | \b(?:token|secret)= )
        ( "[^"\n]*" | '[^'\n]*' | (?:bearer\s+)? [^\s"',;]+ )"""
)
_BEARER: Final = re.compile(r"(?i)(\bbearer\s+)([^\s\"',;]+)")
_USER_INFO: Final = re.compile(r"(?<=://)[^\s/@\"']+@")
_RUN: Final = re.compile(r"[A-Za-z0-9+/_=-]{16,}")
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
LONG_CHARACTERS: Final = 32
"""A word of letters and digits that is as long is taken for a token; client tokens begin here."""
SHORTEST_SECRET: Final = 8
_PUBLIC: Final = "channel-id "
_PUBLIC_KEYS: Final = frozenset({"channel_id"})
"""The service's name for a link is no secret, and its support asks for it."""
_FILE_SUFFIX: Final = ("_file", "_env", "_seconds", "_total", "_bucket", "_count", "_created")
"""Names that speak of a secret and have none."""


class Scrubber:
    """Hides tokens.

    Args:
        secrets: that are known, such as those in the files of the gateway.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets = {each for each in secrets if len(each) >= SHORTEST_SECRET}
        self._long = sorted(self._secrets, key=len, reverse=True)

    def __repr__(self) -> str:
        return "Scrubber(...)"

    def value(self, value: Any, key: str = "") -> Any:
        """A JSON value without tokens; `key` is the field that it stands in."""
        if isinstance(value, dict):
            return {self.text(str(each)): self.value(one, str(each)) for each, one in value.items()}
        if isinstance(value, list):
            return [self.value(each, key) for each in value]
        if value is None or isinstance(value, bool | int | float):
            return value
        if key in _PUBLIC_KEYS and value not in self._secrets:
            return str(value)
        if _SECRET_NAME.search(key) and not key.endswith(_FILE_SUFFIX):
            return HIDDEN
        return self.text(str(value))

    def text(self, text: str) -> str:
        """A text of any length without tokens; its lines stay."""
        text = _USER_INFO.sub(f"{HIDDEN}@", text)
        text = _BEARER.sub(rf"\g<1>{HIDDEN}", text)
        text = _ASSIGNED.sub(self._assigned, text)
        text = _RUN.sub(self._run, text)
        for secret in self._long:
            if secret in text:
                text = text.replace(secret, HIDDEN)
        return text

    @staticmethod
    def _assigned(found: re.Match[str]) -> str:
        name = found[1].rstrip(" =:\t\"'")
        is_harmless = name.lower().endswith(_FILE_SUFFIX)
        return found[0] if is_harmless else f"{found[1]}{HIDDEN}"

    def _run(self, found: re.Match[str]) -> str:
        word = found[0]
        if word in self._secrets:
            return HIDDEN
        if len(word) < LONG_CHARACTERS or _UUID.fullmatch(word):
            return word
        if found.string[: found.start()].endswith(_PUBLIC):
            return word
        # The way to a file has short parts; base64 with a slash in it seldom has.
        longest = max(word.split("/"), key=len)
        has_both = any(c.isdigit() for c in word) and any(c.isalpha() for c in word)
        is_path = word.startswith("/") and len(longest) < LONG_CHARACTERS
        return HIDDEN if has_both and not is_path else word
