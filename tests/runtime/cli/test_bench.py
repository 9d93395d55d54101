"""`tunnelfleet bench` as a user sees it."""

from __future__ import annotations

import json

import pytest

from tunnelfleet.runtime.cli import main
from tunnelfleet.runtime.cli.errors import EXIT_FAILURE, EXIT_OK, EXIT_USAGE

SHORT = ["bench", "--seconds", "0.05", "--plain"]


def test_people_get_five_lines_and_a_word_of_what_goes_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(SHORT) == EXIT_OK
    out, err = capsys.readouterr()
    assert [line[:20].strip() for line in out.splitlines()] == [
        "to the destination",
        "to the source",
        "round trip",
        "beside a transfer",
        "connections",
    ]
    assert [line.rpartition(":")[0] for line in err.splitlines()] == [
        "connecting to ws://127.0.0.1",
        "measuring ws://127.0.0.1",
    ]


def test_programs_get_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SHORT, "--json", "--no-pacing"]) == EXIT_OK
    found = json.loads(capsys.readouterr().out)
    assert found["service"].startswith("ws://127.0.0.1:")
    assert found["up_bytes_per_second"] > 0
    assert found["loaded_round_trip"]["count"] > 0


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--seconds", "many"], EXIT_USAGE),
        (["--source-token", "t"], EXIT_USAGE),
        (["-e", "ws://127.0.0.1:1"], EXIT_USAGE),
        (["-e", "[", "--source-token", "t", "--destination-token", "u"], EXIT_USAGE),
        (["-e", "a", "--plain", "--source-token", "t", "--destination-token", "u"], EXIT_USAGE),
        (
            ["-r", "eu-west-1", "--management", "http://127.0.0.1:1"],
            EXIT_FAILURE,
        ),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str],
    status: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any")
    assert main(["bench", *arguments]) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith("tunnelfleet: ")
