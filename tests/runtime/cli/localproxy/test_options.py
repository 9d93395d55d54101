from __future__ import annotations

import pytest

from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.cli.localproxy.options import (
    NOT_FOR_FILES,
    OPTIONS,
    Assignment,
    Given,
    collect,
    from_environment,
    parse_config,
    read_assignments,
    suggest,
)

TOKEN = "an-access-token"


class TestCollect:
    @pytest.mark.parametrize(
        ("flag", "file", "variable", "text", "origin"),
        [
            ("a", "b", "c", "a", "option -r"),
            (None, "b", "c", "b", "f.ini:3"),
            (None, None, "c", "c", "environment variable AWSIOT_TUNNEL_REGION"),
            (" a ", None, None, "a", "option -r"),
            ("", "b", "c", "", "option -r"),
        ],
    )
    def test_command_line_over_file_over_environment(
        self, flag: str | None, file: str | None, variable: str | None, text: str, origin: str
    ) -> None:
        given = collect(
            {"region": flag},
            {} if file is None else {"region": Given(file, "f.ini:3", 1)},
            {} if variable is None else {"AWSIOT_TUNNEL_REGION": variable},
        )
        assert (given["region"].text, given["region"].origin) == (text, origin)

    def test_what_is_not_given_is_absent(self) -> None:
        assert collect({"region": None}, {}, {"AWSIOT_TUNNEL_REGION": "", "HOME": "/"}) == {}

    @pytest.mark.parametrize(
        ("variable", "option"),
        [
            ("AWSIOT_TUNNEL_ACCESS_TOKEN", "access-token"),
            ("AWSIOT_TUNNEL_ENDPOINT", "proxy-endpoint"),
            ("AWSIOT_TUNNEL_REGION", "region"),
            ("AWSIOT_TUNNEL_CLIENT_TOKEN", "client-token"),
            ("AWSIOT_CLIENT_TOKEN", "client-token"),
        ],
    )
    def test_each_variable_sets_its_option(self, variable: str, option: str) -> None:
        assert collect({}, {}, {variable: "x"}) == {
            option: Given("x", f"environment variable {variable}", 2)
        }


class TestGiven:
    def test_the_value_is_not_in_the_repr(self) -> None:
        assert TOKEN not in repr(Given(TOKEN, "option -t"))
        assert TOKEN not in repr(Assignment("access-token", TOKEN, "f:1"))

    def test_an_error_says_where(self) -> None:
        assert str(Given("x", "option -r").error("no")) == "option -r: no"

    def test_a_long_value_is_not_repeated(self) -> None:
        text = "T" * 100
        assert text not in str(Given(text, "option -m").error(f"{text!r} is not a mode"))


class TestConfigFile:
    def test_every_option_of_the_command_line_can_be_set(self) -> None:
        text = "\n".join(f"{name} = v{number}" for number, name in enumerate(OPTIONS))
        values, notes = parse_config(text, "f.ini")
        assert notes == []
        assert {name: value.text for name, value in values.items()} == {
            name: f"v{number}" for number, name in enumerate(OPTIONS)
        }

    def test_comments_blanks_and_sections_are_skipped(self) -> None:
        text = "# first\n; second\n\n[tunnel]\n  region=eu-west-1   # here\ncapath = /a#b ; there\n"
        values, _ = parse_config(text, "f.ini")
        assert {name: (v.text, v.origin) for name, v in values.items()} == {
            "region": ("eu-west-1", "f.ini:5"),
            "capath": ("/a#b", "f.ini:6"),
        }

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (
                "region = a\nregoin = b",
                "f.ini:2: there is no option 'regoin'; did you mean 'region'?",
            ),
            ("qqqq = b", "f.ini:1: there is no option 'qqqq'"),
            ("# \x1d\x0c\u2028 a\nqqqq = b", "f.ini:2: there is no option 'qqqq'"),
            ("region = a\nregion = b", "f.ini:2: 'region' is already set at f.ini:1; keep one"),
            ("region", "f.ini:1: write it as NAME = VALUE"),
            ("= x", "f.ini:1: write it as NAME = VALUE"),
            ("https-proxy = http://u:p@h:1", "f.ini:1: there is no option 'https-proxy'"),
        ],
    )
    def test_a_mistake_is_told_with_its_line(self, text: str, message: str) -> None:
        with pytest.raises(ConfigError) as caught:
            parse_config(text, "f.ini")
        assert str(caught.value) == message

    def test_an_option_without_a_value_counts_as_not_given(self) -> None:
        values, notes = parse_config("client-token=\nregion = a\nregion =\n", "f.ini")
        assert {name: value.text for name, value in values.items()} == {"region": "a"}
        assert notes == [
            "f.ini:1: 'client-token' has no value and counts as not given",
            "f.ini:3: 'region' has no value and counts as not given",
        ]

    @pytest.mark.parametrize("name", NOT_FOR_FILES)
    def test_what_localproxy_does_not_act_on_has_no_effect(self, name: str) -> None:
        assert parse_config(f"{name} = x", "f.ini") == (
            {},
            [f"f.ini:1: {name!r} has no effect in a file"],
        )

    def test_a_line_that_may_be_a_token_is_not_repeated(self) -> None:
        for line in (TOKEN, "T" * 200 + "==", f"{TOKEN} x"):
            with pytest.raises(ConfigError) as caught:
                list(read_assignments(line, "f.ini"))
            assert TOKEN not in str(caught.value)
            assert "TTTT" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [("regio", "; did you mean 'region'?"), ("capth", "; did you mean 'capath'?"), ("zz", "")],
)
def test_suggest(name: str, text: str) -> None:
    assert suggest(name, OPTIONS) == text


def test_an_assignment_knows_its_section() -> None:
    found = read_assignments("a = 1\n[ x ]\nb = 2\n[y]\n[z]\nc =", "f")
    assert [(line.key, line.value, line.section) for line in found] == [
        ("a", "1", ""),
        ("b", "2", "x"),
        ("c", "", "z"),
    ]


def test_from_environment_skips_what_is_empty() -> None:
    given = from_environment(("A", "B"), {"A": " ", "B": "x"})
    assert given is not None
    assert given.origin == "environment variable B"
    assert from_environment(("A",), {"A": ""}) is None
