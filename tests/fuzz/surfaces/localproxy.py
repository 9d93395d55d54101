"""The command line, files and environment of `tunnelfleet localproxy`, and a door's users."""

from __future__ import annotations

from functools import cache
from typing import Any

import typer

from tests.fuzz.harness import TURNS, Harness, Source
from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.cli.localproxy.config import Plan, PlanBuilder
from tunnelfleet.runtime.cli.localproxy.mappings import MappingFile, parse_files
from tunnelfleet.runtime.cli.localproxy.options import TABLE, collect, parse_config
from tunnelfleet.runtime.cli.localproxy.settings import default_settings, parse_settings
from tunnelfleet.runtime.cli.localproxy.typer_command import LocalproxyCommand, localproxy_command
from tunnelfleet.runtime.gateway.config.door_users import PasswordHash, parse_users

USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]
MAX_SHOWN = 4_000
TOKEN = "t0ken-" + "k" * 60
SECTION = "\x1e"
VARIABLES = ("HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "AWSIOT_TUNNEL_ACCESS_TOKEN")


@cache
def command() -> Any:
    app = typer.Typer(add_completion=False)
    app.command(cls=LocalproxyCommand)(localproxy_command)
    return typer.main.get_command(app)


def run(data: bytes) -> None:
    source = Source(data)
    how = source.byte()
    text = source.rest().decode("utf-8", "replace")
    try:
        if how & 1:
            users(text)
        else:
            with TURNS:
                check(plan(*(text.split(SECTION) + [""] * 5)[:5]))
    except (ConfigError, USAGE_ERROR) as error:
        assert len(str(error)) <= MAX_SHOWN
    except typer.Exit as ended:
        assert ended.exit_code == 0


def plan(words: str, config: str, settings: str, mappings: str, variables: str) -> Plan:
    """What the command makes of all that it is given."""
    params = command().make_context("localproxy", words.split("\n")).params
    flags = {each.name: params[each.parameter] for each in TABLE}
    file, _notes = parse_config(config, "file")
    environ = dict(zip(VARIABLES, variables.split("\n"), strict=False))
    given = collect(flags, file, environ)
    found = parse_files([MappingFile("mappings", mappings)])
    parsed = parse_settings(settings, "settings") if settings else None
    return PlanBuilder(given, found.addresses, parsed, environ).plan()


def check(made: Plan) -> None:
    assert TOKEN not in repr(made)
    assert 0 <= made.verbosity <= 6
    assert made.config.access_token
    for text in (*made.warnings, *made.notes):
        assert TOKEN not in text


def users(text: str) -> None:
    with TURNS:
        found = parse_users(text)
    assert len(found) > 0


def seed(*sections: str) -> bytes:
    return b"\0" + SECTION.join(sections).encode()


WORDS = f"-t\n{TOKEN}\n-r\neu-west-1\n-s\nSSH=5555,HTTP=0"
HARNESS = Harness(
    run=run,
    covers=[
        "runtime/cli/localproxy/options.py",
        "runtime/cli/localproxy/config.py",
        "runtime/cli/localproxy/settings.py",
        "runtime/cli/localproxy/mappings.py",
        "runtime/gateway/config/door_users.py",
        "actors/addresses.py",
        "proto/endpoint.py",
    ],
    seeds=[
        seed(WORDS),
        seed(WORDS.replace("-s", "-d") + "\n-v\n5\n-k\n-y\n--no-marks"),
        seed(WORDS, "local-bind-address = ::1\n[x]\nverbose=3 # c", default_settings()),
        seed(f"--acc\n{TOKEN}\n-e\nhost:443\n-s\n[::1]:22", "", "", "SSH = 22\nHTTP = /a/b"),
        seed(WORDS, "", "", "", "http://u:p@proxy:3128\n*,10.0.0.0/8\nsocks5://x"),
        seed(f"-t{TOKEN}\n-r\nx\n-s\n1\n--bandwidth\n100kB/s\n--destination-client-type\nV1"),
        seed("--version"),
        b"\1" + f"# users\nann:{PasswordHash.make('secret').text()}\n".encode(),
        b"\1ann:$scrypt$ln=1,r=1,p=1$AA$AAAA",
    ],
    words=[each.name.encode() for each in TABLE]
    + [b"\x1e", b"\n-s\n", b"SSH=", b"[::1]:", b"unix:"],
    max_bytes=1_024,
)
