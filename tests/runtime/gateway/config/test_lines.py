from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunnelfleet.runtime.gateway.config.files import KeyLines

TEXT = '''\
# a comment with [brackets] and "quotes
[gateway]
name = "a # no comment" # a comment
list = [
  1, # one
  [2, 3],
  "]",
]

[[tunnel]]
name = """
text = "inside"
"""
services = { SSH = "1", "the web" = { a.b = [1, 2] } }
[tunnel.limits]
x = \'\'\'
[[tunnel]]
\'\'\'
[[tunnel]]
"quoted key" . 'other' = 1
[tunnel.limits]
x = 1979-05-27T07:32:00Z
[[tunnel.part]]
y = 1
[[tunnel.part]]
y = "\\"" # ends here
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ((), 1),
        (("gateway",), 2),
        (("gateway", "name"), 3),
        (("gateway", "list"), 4),
        (("gateway", "list", 0), 5),
        (("gateway", "list", 1, 1), 6),
        (("gateway", "list", 2), 7),
        (("tunnel",), 10),
        (("tunnel", 0), 10),
        (("tunnel", 0, "name"), 11),
        (("tunnel", 0, "services"), 14),
        (("tunnel", 0, "services", "SSH"), 14),
        (("tunnel", 0, "services", "the web", "a", "b", 1), 14),
        (("tunnel", 0, "limits"), 15),
        (("tunnel", 0, "limits", "x"), 16),
        (("tunnel", 1), 19),
        (("tunnel", 1, "quoted key", "other"), 20),
        (("tunnel", 1, "limits", "x"), 22),
        (("tunnel", 1, "part", 0, "y"), 24),
        (("tunnel", 1, "part", 1), 25),
        (("tunnel", 1, "part", 1, "y"), 26),
        (("tunnel", 1, "missing", "key"), 19),
        (("nothing",), 1),
    ],
)
def test_each_key_has_its_line(path: tuple[str | int, ...], line: int) -> None:
    tomllib.loads(TEXT)
    assert KeyLines(TEXT).line_of(path) == line


KEYS = st.text(st.sampled_from('ab-_1 ."#=[é'), min_size=1, max_size=5)
STRINGS = st.text(st.sampled_from("ab\"'\\\n#[]{}=, é"), max_size=12)
SCALARS = st.one_of(st.integers(), st.booleans(), st.floats(allow_nan=False), STRINGS)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


def quoted(text: str) -> str:
    return '"' + "".join(f"\\u{ord(c):04x}" if c in '"\\\n' else c for c in text) + '"'


def written(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str() if "\n" in value and "'" not in value:
            return f"'''\n{value}'''"
        case str():
            return quoted(value)
        case list():
            return "[\n" + ",\n".join(written(each) for each in value) + "\n]"
        case dict():
            # Inline tables stay on one line, and so does all that is in them.
            pairs = [f"{quoted(key)} = {on_one_line(each)}" for key, each in value.items()]
            return "{ " + ", ".join(pairs) + " }"
    return repr(value)


def on_one_line(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(on_one_line(each) for each in value) + "]"
    return quoted(value) if isinstance(value, str) else written(value)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["", "[t]", "[[a]]"]), KEYS, VALUES), max_size=8))
def test_each_line_is_where_the_key_was_written(entries: list[tuple[str, str, Any]]) -> None:
    """Headers and keys of any names and values, each noted as it is written."""
    lines: list[str] = []
    expected: dict[tuple[str | int, ...], int] = {}
    table: tuple[str | int, ...] = ()
    elements = 0
    for header, key, value in entries:
        if header == "[[a]]":
            table = ("a", elements)
            elements += 1
        elif header == "[t]" and ("t",) not in expected:
            table = ("t",)
        else:
            header = ""
        if header:
            lines.append(f"{header} # here")
            expected[table] = len(lines)
        if (*table, key) in expected or (not table and key in ("t", "a")):
            continue
        expected[(*table, key)] = len(lines) + 1
        lines += f"{quoted(key)} = {written(value)}".split("\n")
    text = "\n".join(lines)
    tomllib.loads(text)
    found = KeyLines(text)
    assert {path: found.line_of(path) for path in expected} == expected
