from __future__ import annotations

import pytest

from tunnelfleet.runtime.gateway.config.problems import (
    ConfigProblems,
    Problem,
    key_text,
    nearest,
    syntax_problem,
)


def test_the_form_of_a_message() -> None:
    error = Problem("f.toml", 3, "gateway.name", "it is wrong; write x")
    warning = Problem("f.toml", 4, "gateway.name", "look at it", is_error=False)
    whole = Problem("g.toml", 1, "file", "it is not there")
    assert str(ConfigProblems([error, warning, whole])).split("\n") == [
        "f.toml:3: gateway.name: it is wrong; write x",
        "f.toml:4: gateway.name: warning: look at it",
        "g.toml: it is not there",
    ]


@pytest.mark.parametrize(
    ("path", "name", "text"),
    [
        (("gateway", "name"), None, "gateway.name"),
        (("tunnel", 2, "mode"), None, "tunnel[3].mode"),
        (("tunnel", 2, "services", "SSH"), "press-4", "tunnel[press-4].services.SSH"),
        (("door_rule", 0, "users", 1), "press-4", "door_rule[1].users[2]"),
    ],
)
def test_keys_for_people(path: tuple[str | int, ...], name: str | None, text: str) -> None:
    assert key_text(path, name) == text


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", 1),
        ("a = '''", 1),
        ("a = 1\nb = '''\n", 2),
        ("a = 1\nb = '''\n\x1d\x0c\x85\u2028", 3),
    ],
    ids=["nothing", "one line", "two lines", "what only Python takes for the end of a line"],
)
def test_a_file_that_ends_too_early_is_wrong_in_its_last_line(text: str, line: int) -> None:
    assert syntax_problem("f.toml", text, "Expected \"'''\" (at end of document)").line == line


def test_the_nearest_name() -> None:
    assert nearest("nmae", ["name", "mode"]) == "did you mean name?"
    assert nearest("zzz", ["name", "mode"]) == "there are name, mode"


def test_an_unknown_key_tells_a_terminal_nothing() -> None:
    key = key_text(("tunnel", 0, "\x1b]0;x\x07" + "k" * 1_000), "a\x1b[2J")
    assert key.isprintable()
    assert len(key) < 400
