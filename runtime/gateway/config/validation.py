"""Checks the keys of one table against its model, and says in our words what pydantic found.

A message says what would be right, and shows no value that may be a secret. Pure.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from .problems import MAX_SHOWN_LENGTH, Problem, nearest
from .schema import known_keys

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from .files import Document


def validate(
    model: type[BaseModel],
    document: Document,
    at: tuple[str | int, ...],
    table: object,
    problems: list[Problem],
    tunnel: str | None = None,
) -> tuple[dict[str, Any] | None, set[str]]:
    """Check the keys of one table.

    Args:
        model: of the table.
        document: that it is in.
        at: the way to it.
        table: what is there.
        problems: what is wrong is added to these.
        tunnel: the name of the tunnel that the table is.

    Returns:
        The values of the keys that are given and right, or None if it is no table; and the names
        of the keys that are wrong.
    """
    if not isinstance(table, dict):
        hint = "it must be a table; write [[tunnel]]" if at[0] == "tunnel" else "write a table"
        problems.append(document.problem(at, hint, tunnel=tunnel))
        return None, set()
    bad: set[str] = set()
    for path, text in _mistakes(model, table):
        problems.append(document.problem((*at, *path), text, tunnel=tunnel))
        bad.add(str(path[0]) if path else "")
    hint = "it has a control character, or half of one; write text alone"
    for way in _unprintable(table):
        if way[0] not in bad:
            problems.append(document.problem((*at, *way), hint, tunnel=tunnel))
            bad.add(way[0])
    values = {key: value for key, value in table.items() if key not in bad}
    return values, bad


_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""What no name, path, address or password has: it ends a line or a path, or is no Unicode."""


def _mistakes(
    model: type[BaseModel], table: dict[str, Any]
) -> list[tuple[tuple[str | int, ...], str]]:
    try:
        model.model_validate(table)
    except ValidationError as error:
        return describe_errors(error, known_keys(model))
    return []


def _unprintable(table: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield the ways to the texts that have such a character, one for each key."""
    for key, value in table.items():
        inner = value if isinstance(value, dict) else {}
        # A name that cannot be shown is not shown.
        if _has_control(value) or any(_has_control(str(each)) for each in inner):
            yield (key,)
            continue
        found = next((each for each in inner if _has_control(inner[each])), None)
        if found is not None:
            yield key, found


def _has_control(value: object) -> bool:
    return isinstance(value, str) and _CONTROL.search(value) is not None


_SECRET_KEYS = frozenset({"access_token", "client_token", "http_proxy", "state", "endpoint"})
"""Keys whose wrong values are not repeated: they are secrets, or may be one by mistake."""


def describe_errors(
    error: ValidationError, known: dict[str, Iterable[str]]
) -> list[tuple[tuple[str | int, ...], str]]:
    """Say in our words what pydantic found.

    Args:
        error: what it raised.
        known: the names of the keys, by the dotted way to their table ("" for the top).

    Returns:
        For each mistake the key, below the validated table, and what is wrong and would be right.
    """
    found: dict[tuple[str | int, ...], str] = {}
    for details in error.errors(include_url=False, include_context=True):
        path = _location(details)
        text = _describe(details, path, known)
        # A union reports one error a member: the first has all that there is to say.
        found.setdefault(path, text)
    return list(found.items())


_NO_KEYS = ("str", "int", "list[", "constrained-str", "function-after[", "[key]")
"""What pydantic puts behind the key of a mistake: the member of a union, or that it is a name."""


def _location(details: ErrorDetails) -> tuple[str | int, ...]:
    # pydantic appends the members of a union, which are no keys.
    parts = list(details["loc"])
    while parts and str(parts[-1]).startswith(_NO_KEYS):
        parts.pop()
    return tuple(parts)


_TYPES = {
    "string_type": 'write a text in "quotes"',
    "bool_type": "write true or false",
    "int_type": "write a whole number, without quotes",
    "int_from_float": "write a whole number, without quotes",
    "float_type": "write a number, without quotes",
    "finite_number": "write a finite number",
    "list_type": 'write a list, ["...", "..."]',
    "dict_type": "write a table, { NAME = VALUE }",
    "model_type": "write a table, { NAME = VALUE }",
    "model_attributes_type": "write a table, { NAME = VALUE }",
}
_BOUNDS = {
    "greater_than": ("gt", "greater than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than_equal": ("le", "at most"),
}
_WHOLE = {
    "missing": "it is missing; every entry needs one",
    "string_too_short": "it is empty; write a text, or leave it out",
    "too_short": "it is empty; name at least one",
}
"""Mistakes of which the value says nothing more."""


def _choose(expected: str, value: object, shown: str) -> str:
    """Say which values there are, and which may have been meant."""
    choices = expected.replace("'", '"')
    hint = f"write {choices}{shown}"
    close = difflib.get_close_matches(str(value), _quoted(expected), n=1)
    return f"{hint}; did you mean {close[0]}?" if close and shown else hint


def _describe(
    details: ErrorDetails, path: tuple[str | int, ...], known: dict[str, Iterable[str]]
) -> str:
    kind, context = details["type"], details.get("ctx", {})
    value = details["input"]
    key = str(path[-1]) if path else ""
    if kind == "extra_forbidden":
        table = ".".join(str(part) for part in path[:-1])
        return f"there is no such key; {nearest(key, known.get(table, ()))}"
    if kind == "value_error":
        return str(context["error"])
    shown = "" if key in _SECRET_KEYS else f", not {_shown(value)}"
    if kind in ("literal_error", "enum"):
        return _choose(context["expected"], value, shown)
    if kind in _TYPES:
        return f"{_TYPES[kind]}{shown}"
    if kind in _BOUNDS:
        bound, words = _BOUNDS[kind]
        return f"it must be {words} {context[bound]:g}{shown}"
    return _WHOLE.get(kind) or f"{details['msg']}{shown}"


def _quoted(text: str) -> list[str]:
    return re.findall(r"'([^']*)'", text)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list"
    text = json.dumps(value) if isinstance(value, str | bool) else str(value)
    return text if len(text) <= MAX_SHOWN_LENGTH else f"{text[:8]}..."
