"""`tunnelfleet connect` in this process, and `tunnelfleet door-user`."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.doors import DoorFleet
from tunnelfleet import connect as module
from tunnelfleet.connect import ConnectFailed, connect, connect_socket
from tunnelfleet.runtime.cli import main
from tunnelfleet.runtime.gateway.config import GatewaySettings
from tunnelfleet.runtime.gateway.config.door_users import parse_users
from tunnelfleet.runtime.gateway.config.paths import runtime_folder
from tunnelfleet.runtime.gateway.door import connect_path

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.mark.parametrize(
    "environ",
    [
        {"RUNTIME_DIRECTORY": "/run/one:/run/two", "XDG_RUNTIME_DIR": "/x"},
        {"XDG_RUNTIME_DIR": "/x"},
        {},
    ],
)
@pytest.mark.parametrize("uid", [0, 1000])
def test_it_looks_where_the_gateway_listens(
    environ: dict[str, str], uid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: uid)
    settings = GatewaySettings(name="gw", admin=f"unix:{runtime_folder(environ)}/admin.sock")
    assert Path(connect_socket(None, environ)) == connect_path(settings)


@pytest.mark.parametrize(
    ("given", "named", "path"),
    [
        ("unix:/a/admin.sock", "unix:/b/admin.sock", "/a/connect.sock"),
        ("/a/admin.sock", None, "/a/connect.sock"),
        (None, "unix:/b/x.sock", "/b/x.connect.sock"),
        ("unix:/b/x", None, "/b/x.connect.sock"),
        ("unix:/b/connect.sock", None, "/b/connect.sock"),
        ("unix:admin.sock", None, "connect.sock"),
        ("unix:/admin.sock", None, "/connect.sock"),
    ],
)
def test_it_is_beside_the_admin_socket(given: str | None, named: str | None, path: str) -> None:
    assert connect_socket(given, {"TUNNELFLEET_GATEWAY": named} if named else {}) == path
    # The gateway that has the admin socket listens there, and no other one.
    admin = str(given or named)
    assert str(connect_path(GatewaySettings(name="gw", admin=admin))) == path


@pytest.mark.parametrize("place", ["https://gw:1", "http://unix/", "gw:9000", "127.0.0.1:80"])
def test_a_gateway_elsewhere_has_a_front_door(place: str) -> None:
    with pytest.raises(ConnectFailed, match="use its front door") as caught:
        connect_socket(place, {})
    assert caught.value.status == 2


def test_no_name_is_asked_for_wrongly(capfd: pytest.CaptureFixture[str]) -> None:
    assert module.main(["", "--gateway", "unix:/nowhere/admin.sock"]) == 2
    assert capfd.readouterr().err == "tunnelfleet: name a tunnel, as NAME or NAME:SERVICE\n"


def test_who_may_not_use_it_is_not_told_to_start_one() -> None:
    said = module._not_reached("/run/x/connect.sock", PermissionError(13, "Permission denied"))
    assert said.startswith("no access to the gateway at /run/x/connect.sock: become its user")
    assert "start one" not in said


@pytest.mark.parametrize("arguments", [[], ["a", "b"], ["--help"], ["-x", "a"], ["--gateway"]])
def test_what_is_not_plain_is_the_command_line_s(arguments: list[str]) -> None:
    assert module.main(arguments) is None


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[DoorFleet]:
    with DoorFleet(tmp_path) as running:
        running.open(running.tunnel("press 4", services={"SSH": None}))
        running.wait_state("press 4", "connected")
        yield running


def joined(
    fleet: DoorFleet, name: str, stdin: bytes, monkeypatch: pytest.MonkeyPatch
) -> tuple[int, bytes]:
    """Run it with pipes in the place of standard input and output."""
    with contextlib.ExitStack() as stack:
        read_in, write_in = os.pipe()
        read_out, write_out = os.pipe()
        for descriptor in (read_in, read_out, write_out):
            stack.callback(os.close, descriptor)
        monkeypatch.setattr(module, "_STDIN", read_in)
        monkeypatch.setattr(module, "_STDOUT", write_out)
        os.write(write_in, stdin)
        os.close(write_in)
        status = connect(name, f"unix:{fleet.private.path}")
        return status, os.read(read_out, 65_536)


def test_it_joins_standard_input_and_output(
    fleet: DoorFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = bytes(range(256)) * 100
    assert joined(fleet, "press 4:ssh", content, monkeypatch) == (0, content)


def test_a_refusal_is_one_line(fleet: DoorFleet, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["connect", "press-9", "--gateway", f"unix:{fleet.private.path}"]) == 1
    assert capfd.readouterr().err == ("tunnelfleet: there is no tunnel 'press-9' in this fleet\n")


def test_a_line_of_a_user(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("secret\n"))
    assert main(["door-user", "alice"]) == 0
    line = capsys.readouterr().out
    assert parse_users(line).check("alice", "secret")
    assert "secret" not in line


@pytest.mark.parametrize(
    ("typed", "status", "says"),
    [(["secret", "secret"], 0, ""), (["secret", "other"], 2, "the two passwords differ")],
)
def test_at_a_terminal_the_password_is_asked_for_twice(
    typed: list[str],
    status: int,
    says: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("getpass.getpass", lambda _prompt: typed.pop(0))
    assert main(["door-user", "alice"]) == status
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("name", ["", "a:b", "#a", " a", "x" * 65])
def test_a_name_that_no_login_could_have(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["door-user", name]) == 2
    assert "user" in capsys.readouterr().err
