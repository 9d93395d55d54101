from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.cli.gateway.change import MAX_ENTRY_BYTES, read_entries

if TYPE_CHECKING:
    from pathlib import Path

TOKEN = "t" * 40


def test_tables_with_defaults_as_in_files(tmp_path: Path) -> None:
    (tmp_path / "tok").write_text(f"{TOKEN}\n")
    text = """
        [defaults]
        region = "eu-west-1"
        ca = "ca.pem"
        labels = { site = "lyon", line = "1" }
        access_token_file = "nowhere"
        [[tunnel]]
        name = "a"
        access_token_file = "tok"
        labels = { line = "2" }
        services = { APP = "unix:run/app.sock", SSH = "127.0.0.1:22" }
        [[tunnel]]
        name = "b"
        endpoint = "wss://here"
        access_token_env = "TOK"
    """
    first, second = read_entries(text.encode(), "f", tmp_path, {"TOK": TOKEN})
    assert first == {
        "name": "a",
        "region": "eu-west-1",
        "ca": str(tmp_path / "ca.pem"),
        "labels": {"site": "lyon", "line": "2"},
        "access_token": TOKEN,
        "services": {"APP": f"unix:{tmp_path}/run/app.sock", "SSH": "127.0.0.1:22"},
    }
    assert second["access_token"] == TOKEN
    assert second["endpoint"] == "wss://here"
    assert "region" not in second


@pytest.mark.parametrize(
    "text",
    [
        'name = "a"\nmode = "source"',
        json.dumps({"name": "a", "mode": "source"}),
        json.dumps([{"name": "a", "mode": "source"}]),
        json.dumps({"tunnel": [{"name": "a", "mode": "source"}]}),
    ],
)
def test_one_tunnel_in_each_form(text: str, tmp_path: Path) -> None:
    assert read_entries(text.encode(), "f", tmp_path) == [{"name": "a", "mode": "source"}]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"^f: there is no \[\[tunnel\]\] in it"),
        ("a = ", "^f: this is no TOML"),
        ("{", "^f:1: this is no JSON"),
        ('[gateway]\nname = "g"\n[[tunnel]]\nname = "a"', "^f: gateway: only"),
        ('[tunnel]\nname = "a"', r"write \[\[tunnel\]\] with two brackets"),
        ("[1, 2]", "this is no TOML|two brackets"),
        ('{"tunnel": [{"name": "a"}], "defaults": 1}', r"^f: defaults: write \[defaults\]"),
        ("#" * (MAX_ENTRY_BYTES + 1), "^f: it is longer than .* bytes"),
        ('[[tunnel]]\nname = "a"\naccess_token_env = "NO"', "the variable NO is not set"),
        ('[[tunnel]]\nname = "a"\naccess_token_file = "no"', "cannot read .*no: No such file"),
    ],
    ids=range(10),
)
def test_what_cannot_be_read(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        read_entries(text.encode(), "f", tmp_path, {})


def test_other_encodings_are_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no UTF-8"):
        read_entries(b"\xff\xfe", "f", tmp_path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"a": ' + "[" * 100_000, "nested too deeply"),
        ("[" * 100_000, "nested too deeply"),
        ("a = " + "[" * 100_000, "nested too deeply"),
        ('{"a": ' + "1" * 5_000 + "}", "too many digits"),
        ("a = " + "1" * 5_000, "too many digits"),
    ],
)
def test_what_no_parser_takes_is_told(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"^f: .*{says}$"):
        read_entries(text.encode(), "f", tmp_path, {})
