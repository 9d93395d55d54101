"""Files of a gateway: TOML, and the entries that the admin API takes (runtime/gateway/config)."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from tests.fuzz.harness import TURNS, Harness, Source, is_line
from tests.support.wrong_files import WHOLE, WRONG_FILES
from tunnelfleet.runtime.gateway.config import (
    Authorities,
    ConfigProblems,
    FleetConfig,
    Problem,
    load,
    read_tunnel,
)
from tunnelfleet.runtime.gateway.config.entry import entry_of

MEMORY = Path("/dev/shm")
_FOLDER = tempfile.TemporaryDirectory(
    prefix="tunnelfleet-fuzz-", dir=MEMORY if os.access(MEMORY, os.W_OK) else None
)
"""In memory where that is possible: a file is written for each input, which takes a disk longer
than all the rest. It is removed when the process ends."""
FOLDER = Path(_FOLDER.name)
FILE = FOLDER / "fleet.toml"
TOKEN = "t0ken-" + "k" * 60
NO_AUTHORITIES = FOLDER / "authorities"
NO_AUTHORITIES.touch()
(FOLDER / "token").write_text(f"{TOKEN}\n")
(FOLDER / "token").chmod(0o600)
ENVIRON = {"XDG_STATE_HOME": str(FOLDER), "XDG_RUNTIME_DIR": str(FOLDER), "TOKEN": TOKEN}
FROM_FILES, FROM_REQUESTS = Authorities(), Authorities()
MAX_SHOWN = 4_000
MAX_PROBLEMS = 4_000


def run(data: bytes) -> None:
    source = Source(data)
    with no_authorities():
        if source.flag():
            as_request(source.rest())
        else:
            as_file(source.rest())


@contextlib.contextmanager
def no_authorities() -> Iterator[None]:
    """The system trusts nobody: to load all that it does takes 20 ms each time."""
    before = os.environ.get("SSL_CERT_FILE")
    os.environ["SSL_CERT_FILE"] = str(NO_AUTHORITIES)
    try:
        yield
    finally:
        del os.environ["SSL_CERT_FILE"]
        if before is not None:
            os.environ["SSL_CERT_FILE"] = before


def as_file(content: bytes) -> None:
    FILE.write_bytes(content)
    try:
        with TURNS:
            config = load([FILE], ENVIRON, FROM_FILES)
    except ConfigProblems as found:
        assert any(each.is_error for each in found.problems)
        check_problems(found.problems, content)
        return
    check_problems(config.warnings, content)
    check(config)


def as_request(content: bytes) -> None:
    try:
        entry = json.loads(content)
    except (ValueError, RecursionError):
        return
    if not isinstance(entry, dict):
        return
    try:
        with TURNS:
            tunnel = read_tunnel(entry, FROM_REQUESTS)
    except ConfigProblems as found:
        check_problems(found.problems, content)
        return
    assert "access_token_file" not in entry
    assert read_tunnel(entry_of(tunnel), FROM_REQUESTS).services == tunnel.services


def check_problems(problems: tuple[Problem, ...], content: bytes) -> None:
    lines = content.count(b"\n") + 2
    assert len(problems) <= MAX_PROBLEMS
    for problem in problems:
        assert 1 <= problem.line <= lines
        assert is_line(str(problem), MAX_SHOWN), problem
        assert TOKEN not in str(problem) or content.count(TOKEN.encode()) > 0


def check(config: FleetConfig) -> None:
    assert TOKEN not in repr(config)
    for name, tunnel in config.tunnels.items():
        assert name == tunnel.name
        entry = entry_of(tunnel)
        json.dumps(entry)
        if tunnel.ca is None:
            again = read_tunnel(entry, FROM_REQUESTS)
            assert (again.name, again.services) == (name, tunnel.services)
            assert again.access_token == tunnel.access_token


FILES: defaultdict[str, str] = defaultdict(lambda: "token")
"""The names that stand for files in the rows of wrong files."""
OPTIONS = """
[defaults]
restart = { min_seconds = 1.0, factor = 3 }
limits = { max_connections = 4 }
[gateway]
name = "gw-1"
admin = "127.0.0.1:0"
admin_token_file = "token"
metrics = "off"
door = "unix:door.sock"
placement_members = 3
client_token_secret_file = "token"
[[door_rule]]
users = ["ann"]
tunnels = "press-*"
[[notify]]
broker = "mqtt://127.0.0.1"
things = ["press-{1..3}"]
services = { SSH = "{thing}.lan:22", HTTP = "10.0.0.{n}:80" }
region = "eu-west-1"
[on_demand]
region = "eu-west-1"
things = ["*"]
services = ["SSH"]
"""
REQUEST = {
    "name": "b",
    "mode": "source",
    "endpoint": "wss://127.0.0.1:1",
    "access_token": TOKEN,
    "services": {"SSH": "door", "HTTP": 0},
    "limits": {"max_connections": 4},
    "labels": {"site": "lyon"},
    "http_proxy": "http://u:p@h:1",
}


def filled(text: str) -> bytes:
    return b"\0" + text.format_map(FILES).encode("utf-8", "replace")


HARNESS = Harness(
    run=run,
    covers=[
        "runtime/gateway/config/loader.py",
        "runtime/gateway/config/files.py",
        "runtime/gateway/config/problems.py",
        "runtime/gateway/config/tunnels.py",
        "runtime/gateway/config/devices.py",
        "runtime/gateway/config/things.py",
        "runtime/gateway/config/gateway_table.py",
        "runtime/gateway/config/validation.py",
        "runtime/gateway/config/entry.py",
    ],
    seeds=[
        filled(WHOLE),
        b"\0" + OPTIONS.encode(),
        b"\1" + json.dumps(REQUEST).encode(),
        *(filled(row[0]) for row in WRONG_FILES.values() if len(row[0]) < 1_500),
    ],
    words=[
        b"[[tunnel]]\n",
        b"[gateway]\n",
        b"[[notify]]\n",
        b"[[door_rule]]\n",
        b"[on_demand]\n",
        b'"""',
        b"'''",
        b" = {",
        b"${TOKEN}",
        b"things = [",
        b"{1..",
        b"services",
        b"1e999",
        b"inf",
        b"\\u0000",
    ],
    max_bytes=2_048,
)
