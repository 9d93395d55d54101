from __future__ import annotations

import pytest

from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.cli.localproxy.command import expand

OPTIONS = {
    "--config": True,
    "--config-dir": True,
    "--proxy-endpoint": True,
    "-e": True,
    "--payload-bytes": True,
    "--verbose": True,
    "-v": True,
    "--version": False,
    "--no-verify": False,
    "-k": False,
}
FIRST = {"--config", "--config-dir", "--proxy-endpoint", "--verbose", "--version"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], []),
        (["--proxy-endpoint", "h"], ["--proxy-endpoint", "h"]),
        (["--proxy", "h"], ["--proxy-endpoint", "h"]),
        (["--proxy=h"], ["--proxy-endpoint=h"]),
        (["--proxy="], ["--proxy-endpoint="]),
        # A name that is whole is never taken for a longer one.
        (["--config", "f"], ["--config", "f"]),
        (["--config-", "d"], ["--config-dir", "d"]),
        # localproxy's own option goes before one of ours.
        (["--p", "h"], ["--proxy-endpoint", "h"]),
        (["--pay", "9"], ["--payload-bytes", "9"]),
        (["--no"], ["--no-verify"]),
        # A value is left alone.
        (["--proxy", "--ver", "--no"], ["--proxy-endpoint", "--ver", "--no-verify"]),
        (["-e", "--proxy", "--no"], ["-e", "--proxy", "--no-verify"]),
        (["-ke", "--proxy", "--no"], ["-ke", "--proxy", "--no-verify"]),
        (["-eh", "--no"], ["-eh", "--no-verify"]),
        (["-k", "--no"], ["-k", "--no-verify"]),
        (["--pay=9", "--no"], ["--payload-bytes=9", "--no-verify"]),
        (["--", "--proxy"], ["--", "--proxy"]),
        (["-", "x"], ["-", "x"]),
        # What is unknown is somebody else's to complain about.
        (["--nothing", "--no"], ["--nothing", "--no-verify"]),
        (["--proxy"], ["--proxy-endpoint"]),
    ],
)
def test_long_options_are_written_out(given: list[str], expected: list[str]) -> None:
    assert expand(given, OPTIONS, FIRST) == expected


@pytest.mark.parametrize(
    ("short", "problem"),
    [
        ("--ver", "option --ver may be --verbose or --version; write it out"),
        ("--conf", "option --conf may be --config or --config-dir; write it out"),
    ],
)
def test_what_may_be_several_is_refused(short: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=f"^{problem}$"):
        expand([short, "x"], OPTIONS, FIRST)
