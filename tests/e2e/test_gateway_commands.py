"""The client commands against a real `tunnelfleet up`: in a pipe, in a terminal, with it gone."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.support.commands import PROGRAM
from tests.support.gateway import GatewayRig, UpProcess
from tests.support.programs import require_program
from tests.support.rig import connect, echo
from tests.support.terminal import Terminal, unstyled
from tests.support.waiting import eventually
from tunnelfleet.runtime import TcpAddress
from tunnelfleet.runtime.cli import main
from tunnelfleet.runtime.cli.gateway.rows import FIELDS

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator, Sequence
    from pathlib import Path

WAIT_SECONDS = 120.0
PAUSE_SECONDS = 0.1
"""Between two questions to the gateway."""
NAMES = ["bad-token", "press-1", "press-2", "press-10"]
PLANTED = "planted" + "T0ken" * 12


class Done(NamedTuple):
    """What a command has done."""

    returncode: int
    stdout: str
    stderr: str


class CommandRig:
    """A gateway with a few tunnels, one of which is refused, and its client commands."""

    def __init__(self, folder: Path) -> None:
        self.rig = GatewayRig(folder / "rig")
        # A path of a Unix socket holds about a hundred characters; pytest's folders are long.
        self.socket = folder / "a.sock"
        self.rig.gateway = f'name = "gw-test"\nadmin = "unix:{self.socket}"'
        self.env = {
            "TUNNELFLEET_GATEWAY": f"unix:{self.socket}",
            "COLUMNS": "",
            "NO_COLOR": "",
        }

    def fill(self) -> None:
        """Add the tunnels."""
        target = self.rig.rig.backends.echo().address
        assert isinstance(target, TcpAddress)
        for number, site in ((1, "lyon"), (2, "paris"), (10, "lyon")):
            self.rig.add(f"press-{number}", target, labels=f'{{ site = "{site}" }}')
        self.rig.add("bad-token", target)
        (self.rig.folder / "bad-token.token").write_text(PLANTED)

    def run(self, *words: str, stdin: str = "", env: dict[str, str] | None = None) -> Done:
        """Run a command in this process, as if in pipes; the gateway is a process of its own."""
        given = io.TextIOWrapper(io.BytesIO(stdin.encode()))
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {**self.env, **(env or {})}.items():
                patch.setenv(name, value)
            patch.setattr(sys, "stdin", given)
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                status = main(list(words))
        return Done(status, out.getvalue(), err.getvalue())

    def run_process(self, *words: str) -> Done:
        """The same in a process of its own."""
        done = subprocess.run(
            [*PROGRAM, *words],
            capture_output=True,
            text=True,
            timeout=WAIT_SECONDS,
            check=False,
            env={**os.environ, **self.env},
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def good(self, *words: str, stdin: str = "") -> str:
        """Run a command that has to succeed; returns what it printed."""
        done = self.run(*words, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def bad(self, *words: str, status: int = 1, stdin: str = "", **env: str) -> str:
        """Run a command that has to fail with one message; returns that."""
        done = self.run(*words, stdin=stdin, env=env)
        assert done.returncode == status, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr

    def terminal(self, *words: str, **env: str) -> contextlib.AbstractContextManager[Terminal]:
        """Run a command in a terminal of 80 columns."""
        return Terminal.start([*PROGRAM, *words], env={**self.env, **env})

    def rows(self, *words: str) -> dict[str, dict[str, Any]]:
        """What `ls --json` says, by name."""
        found = json.loads(self.good("ls", "--json", *words))
        return {row["name"]: row for row in found}

    def wait_state(self, name: str, state: str) -> None:
        """Wait until a tunnel is so."""
        eventually(
            lambda: self.rows(name)[name]["state"] == state,
            f"{name} is {state}",
            WAIT_SECONDS,
            PAUSE_SECONDS,
        )


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandRig]:
    made = CommandRig(tmp_path_factory.mktemp("gw"))
    with made.rig:
        made.fill()
        with made.rig.up() as gateway:
            for name in NAMES:
                state = "refused" if name == "bad-token" else "connected"
                gateway.wait_event("tunnel_state_changed", tunnel=name, state=state)
            gateway.signal(signal.SIGHUP)
            gateway.wait_event("reloaded")
            yield made


@contextlib.contextmanager
def other_gateway(folder: Path) -> Iterator[tuple[CommandRig, UpProcess]]:
    """A gateway that a test may end or change."""
    made = CommandRig(folder)
    with made.rig:
        target = made.rig.rig.backends.echo().address
        assert isinstance(target, TcpAddress)
        made.rig.add("press-1", target)
        with made.rig.up() as gateway:
            made.rig.wait_connected(gateway)
            yield made, gateway


class TestLs:
    """`ls` in a pipe, in a terminal, as JSON."""

    def test_json_has_the_promised_fields_first(self, fleet: CommandRig) -> None:
        found = json.loads(fleet.good("ls", "--json"))
        assert [row["name"] for row in found] == NAMES
        for row in found:
            assert tuple(row)[: len(FIELDS)] == FIELDS
            assert isinstance(row["sent_bytes"], int)
            assert isinstance(row["since"], float)
        assert found[1]["labels"] == {"site": "lyon"}
        assert found[0]["state"] == "refused"

    def test_a_pipe_gets_every_column_in_full_and_no_color(self, fleet: CommandRig) -> None:
        status, out, err = fleet.run_process("ls")
        assert (status, err) == (0, "")
        head, refused, first, *_more = out.splitlines()
        assert head.split() == (
            [
                "NAME",
                "STATE",
                "AGE",
                "MODE",
                "SERVICES",
                "LABELS",
                "CONN",
                "SENT",
                "RECEIVED",
                "RECONN",
                "REASON",
            ]
        )
        assert "check that the tunnel is open" in refused
        assert "…" not in out
        assert "\x1b" not in out
        address = fleet.rows("press-1")["press-1"]["services"]["SSH"]
        assert f"SSH={address}" in first

    def test_a_terminal_gets_what_fits_in_color(self, fleet: CommandRig) -> None:
        with fleet.terminal("ls") as terminal:
            assert terminal.wait_end() == 0
        assert "\x1b[32mconnected" in terminal.output
        assert all(len(line) <= 80 for line in terminal.lines)
        assert terminal.lines[0].split()[:3] == ["NAME", "STATE", "AGE"]
        assert any(line.startswith("bad-token") and "…" in line for line in terminal.lines)
        assert "4 tunnels, 1 refused, 3 connected" in terminal.lines

    def test_no_color_is_heard(self, fleet: CommandRig) -> None:
        with fleet.terminal("ls", NO_COLOR="1") as terminal:
            assert terminal.wait_end() == 0
        assert "\x1b" not in terminal.output
        assert len(terminal.lines) == 7

    @pytest.mark.parametrize(
        ("words", "names"),
        [
            (["--label", "site=lyon"], ["press-1", "press-10"]),
            (["--state", "refused", "--state", "backoff"], ["bad-token"]),
            (["press-1*"], ["press-1", "press-10"]),
            (["press-2", "bad-*"], ["bad-token", "press-2"]),
            (["--sort", "trouble", "--mode", "source"], NAMES),
            (["--source", "api"], []),
        ],
    )
    def test_filters(self, fleet: CommandRig, words: list[str], names: list[str]) -> None:
        assert list(fleet.rows(*words)) == names

    def test_nothing_found_is_said_beside_the_answer(self, fleet: CommandRig) -> None:
        done = fleet.run("ls", "--label", "site=nowhere")
        assert (done.returncode, done.stdout) == (0, "")
        assert done.stderr == "no tunnel is like that\n"

    def test_a_wrong_name_is_told_the_nearest(self, fleet: CommandRig) -> None:
        assert "did you mean press-1" in fleet.bad("ls", "pres-1")
        assert "did you mean press-10" in fleet.bad("show", "press10")
        assert "tunnelfleet ls shows what there is" in fleet.bad("show", "zzzzz")

    @pytest.mark.parametrize(
        ("words", "hint"),
        [
            (["--sort", "size"], "write one of trouble, name"),
            (["--label", "lyon"], "write KEY=VALUE"),
            (["--state", "up"], "state is one of connecting"),
            (["--mode", "both"], "mode is one of source, destination"),
            (["--source", "file"], "source is one of files, api, notify, on demand"),
            (["--fleet", "--source", "file"], "source is one of files, api, notify, on demand"),
            (["--gateway", "nonsense"], "write unix:PATH, http://HOST:PORT"),
        ],
    )
    def test_wrong_options_are_one_line(
        self, fleet: CommandRig, words: list[str], hint: str
    ) -> None:
        said = fleet.bad("ls", *words, status=2)
        assert hint in said
        assert said.count("\n") == 1


class TestShow:
    """`show` and `connections`."""

    def test_all_of_a_tunnel_within_80_columns(self, fleet: CommandRig) -> None:
        with fleet.terminal("show", "bad-token") as terminal:
            assert terminal.wait_end() == 0
        text = " ".join(" ".join(terminal.lines).split())
        assert all(len(line) <= 80 for line in terminal.lines)
        assert "access token is its newest one" in text
        assert "state refused" in text
        assert PLANTED not in terminal.output

    def test_json_is_one_object(self, fleet: CommandRig) -> None:
        found = json.loads(fleet.good("show", "press-2", "--json"))
        assert tuple(found)[: len(FIELDS)] == FIELDS
        assert found["name"] == "press-2"

    def test_who_is_connected(self, tmp_path: Path) -> None:
        with other_gateway(tmp_path) as (fleet, _gateway), connected(fleet) as client:
            echo(client, b"hello")
            assert fleet.rows("press-1")["press-1"]["connections"] == 1
            done = fleet.run("connections", "--json")
            (found,) = json.loads(done.stdout)
            assert (found["tunnel"], found["service_id"]) == ("press-1", "SSH")
            peer = "{}:{}".format(*client.getsockname())
            assert peer in fleet.good("connections", "press-1")
            assert peer in fleet.good("show", "press-1")


class TestReadyAndReload:
    """`ready`, `reload`, `check`."""

    def test_ready_is_an_exit_status(self, fleet: CommandRig) -> None:
        done = fleet.run("ready", "--json")
        assert json.loads(done.stdout)["ready"] is (done.returncode == 0)

    def test_not_ready_says_why(self, tmp_path: Path) -> None:
        made = CommandRig(tmp_path)
        with made.rig:
            target = made.rig.rig.backends.echo().address
            assert isinstance(target, TcpAddress)
            made.rig.add("press-1", target)
            (made.rig.folder / "press-1.token").write_text(PLANTED)
            with made.rig.up() as gateway:
                gateway.wait_event("tunnel_state_changed", tunnel="press-1", state="refused")
                done = made.run("ready")
                assert done.returncode == 1
                assert done.stdout.splitlines()[0] == "not ready"
                assert "not connected: 1 of 1 tunnel" in done.stdout
                assert "ls --sort trouble" in done.stdout

    def test_check_and_reload_say_what_changes(self, tmp_path: Path) -> None:
        with other_gateway(tmp_path) as (fleet, gateway):
            path = fleet.rig.folder / "fleet.toml"
            good = path.read_text()
            assert "unchanged     1" in fleet.good("reload", "--dry-run")
            labelled = good + '\nlabels = { site = "nice" }\n'
            path.write_text(labelled)
            said = fleet.good("check", str(fleet.rig.folder))
            assert "good: 1 tunnel" in said
            assert "changed       1  press-1 (labels: " in said
            found = json.loads(fleet.good("check", "--json", str(fleet.rig.folder)))
            assert found["reload"]["changed"] == ["press-1"]
            assert "press-1 (labels: " in fleet.good("reload")
            assert fleet.rows()["press-1"]["labels"] == {"site": "nice"}
            path.write_text(labelled + "wrong = 1\n")
            said = fleet.bad("reload", status=2)
            assert "fleet.toml" in said
            assert "there is no such key" in said
            assert said == fleet.bad("check", str(fleet.rig.folder), status=2)
            elsewhere = tmp_path / "other.toml"
            elsewhere.write_text("")
            assert "runs with other files" in fleet.good("check", str(elsewhere))
            path.write_text("")
            assert "it is empty, and was not before" in fleet.good("check", str(fleet.rig.folder))
            gateway.signal(signal.SIGTERM)
            assert gateway.wait_end() == 0
            path.write_text(good)
            assert fleet.good("check", str(fleet.rig.folder)) == "good: 1 tunnel\n"


def entry_text(fleet: CommandRig, name: str, token: str) -> str:
    """A tunnel for `add`."""
    service = fleet.rig.rig.service
    return "\n".join(
        [
            "[[tunnel]]",
            f'name = "{name}"',
            'mode = "source"',
            f'endpoint = "{service.endpoint}"',
            f'ca = "{service.ca_path}"',
            f'access_token_file = "{token}"',
            'services = { SSH = "127.0.0.1:0" }',
            "",
        ]
    )


class TestChange:
    """`add`, `rm`, `drain`, `retry`, `replace-token`."""

    def test_a_tunnel_comes_and_goes(self, fleet: CommandRig, tmp_path: Path) -> None:
        tokens = fleet.rig.rig.service.open_tunnel("added", ["SSH"])
        (tmp_path / "tok").write_text(tokens.source_token)
        (tmp_path / "tok").chmod(0o600)
        path = tmp_path / "add.toml"
        path.write_text(
            entry_text(fleet, "added", "tok") + entry_text(fleet, "half", "tok") + "mod = 1\n"
        )
        done = fleet.run("add", str(path))
        assert done.returncode == 2
        assert done.stdout == "added added\n"
        assert f"{path}: tunnel[half].mod: there is no such key" in done.stderr
        fleet.wait_state("added", "connected")
        assert fleet.rows("added")["added"]["source"] == "api"
        again = fleet.bad("add", "-", stdin=entry_text(fleet, "added", str(tmp_path / "tok")))
        assert "tunnel[added]: there is one of this name: it was added before" in again
        assert "--replace" in again
        assert "it comes from" in fleet.bad(
            "add", "-", stdin=entry_text(fleet, "press-1", str(tmp_path / "tok"))
        )
        assert "request:" not in fleet.good("show", "added")
        fleet.good("add", "--replace", "-", stdin=entry_text(fleet, "added", str(tmp_path / "tok")))
        assert fleet.good("rm", "added") == "removed added\n"
        eventually(lambda: "added" not in fleet.rows(), "it is gone", WAIT_SECONDS, PAUSE_SECONDS)
        assert "from the files" in fleet.bad("rm", "press-1")
        assert "there is no tunnel 'added'" in fleet.bad("rm", "added")

    def test_drain_and_retry(self, fleet: CommandRig) -> None:
        assert fleet.good("drain", "press-10") == "draining press-10\n"
        fleet.wait_state("press-10", "stopped")
        assert json.loads(fleet.good("retry", "press-10", "--json")) == {"tunnels": ["press-10"]}
        fleet.wait_state("press-10", "connected")
        assert "did you mean press-10" in fleet.bad("drain", "press-1", "pres-10")
        assert "name the tunnels, or give --all" in fleet.bad("retry", status=2)
        assert "not both" in fleet.bad("drain", "press-1", "--all", status=2)

    def test_a_token_is_never_an_argument(self, fleet: CommandRig) -> None:
        said = fleet.bad("replace-token", "press-2", PLANTED, status=2)
        assert "a token is no argument" in said
        assert PLANTED not in said

    def test_a_token_from_everywhere_else(self, tmp_path: Path) -> None:
        with other_gateway(tmp_path) as (fleet, gateway):

            def rotated() -> str:
                token: str = fleet.rig.rig.service.rotate("press-1").source_token
                fleet.wait_state("press-1", "refused")
                return token

            def wait() -> None:
                fleet.wait_state("press-1", "connected")

            (tmp_path / "tok").write_text(rotated())
            fleet.good("replace-token", "press-1", "--token-file", str(tmp_path / "tok"))
            wait()
            fleet.good("replace-token", "press-1", stdin=rotated() + "\n")
            wait()
            fleet.env["MY_TOKEN"] = rotated()
            fleet.good("replace-token", "press-1", "--token-env", "MY_TOKEN")
            wait()
            token = rotated()
            with fleet.terminal("replace-token", "press-1") as terminal:
                terminal.wait(lambda: "not shown" in terminal.output, "it asks")
                terminal.type(token + "\n")
                assert terminal.wait_end() == 0
            assert token not in terminal.output
            wait()
            said = fleet.bad("replace-token", "press-1", stdin="\n", status=2)
            assert "no token was given" in said
            assert token not in gateway.output


def is_whole(lines: list[str]) -> bool:
    """Whether a picture of `top` is drawn to its last line, which names the keys."""
    return any("q quit" in each for each in lines)


class TestTop:
    """`top` in a terminal and in a pipe."""

    def test_it_is_live_and_keys_work(self, fleet: CommandRig) -> None:
        with fleet.terminal("top", "--interval", "0.3") as terminal:
            lines = terminal.picture(is_whole, "a picture")
            assert "\x1b[?1049h" in terminal.output
            assert lines[0].startswith("gateway gw-test")
            assert lines[4].startswith("bad-token")
            assert all(len(line) <= 80 for line in lines)
            terminal.type("s")
            terminal.wait(lambda: "sort (name)" in "".join(terminal.screen), "another order")
            terminal.type("r")
            terminal.wait(lambda: "name, reversed" in "".join(terminal.screen), "the other way")
            terminal.picture(
                lambda lines: is_whole(lines) and lines[4].startswith("press-10"), "the last first"
            )
            terminal.type("q")
            assert terminal.wait_end() == 0
        assert terminal.output.rstrip().endswith("\x1b[?1049l")

    @pytest.mark.parametrize("how", ["\x03", signal.SIGTERM])
    def test_it_ends_cleanly(self, fleet: CommandRig, how: str | signal.Signals) -> None:
        with fleet.terminal("top") as terminal:
            before = terminal.modes()
            terminal.wait(lambda: "q quit" in "".join(terminal.screen), "a picture")
            assert terminal.modes() != before
            if isinstance(how, str):
                terminal.type(how)
            else:
                terminal.process.send_signal(how)
            assert terminal.wait_end() == 0
            assert terminal.modes() == before
        assert "\x1b[?1049l" in terminal.output
        assert "Traceback" not in terminal.output

    def test_a_pipe_gets_tables(self, fleet: CommandRig) -> None:
        out = fleet.good("top", "--once", "--sort", "trouble")
        summary, head, first, *more = out.splitlines()
        assert summary == "4 tunnels, 1 refused, 3 connected"
        assert "SENT/S" in head
        assert first.startswith("bad-token")
        assert len(more) == 3
        assert "\x1b" not in out
        (rows,) = [json.loads(line) for line in fleet.good("top", "--once", "--json").splitlines()]
        assert rows[0]["sent_bytes_per_second"] == 0.0

    def test_a_pipe_goes_on_until_a_signal(self, fleet: CommandRig) -> None:
        process = subprocess.Popen(
            [*PROGRAM, "top", "--interval", "0.2", "--label", "site=paris"],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **fleet.env},
        )
        with process:
            assert process.stdout is not None
            read = [process.stdout.readline() for _ in range(7)]
            process.send_signal(signal.SIGINT)
            assert process.wait(WAIT_SECONDS) == 0
        assert read[0] == read[4] == "1 tunnel, 1 connected\n"
        assert read[3] == "\n"

    def test_it_goes_on_while_the_gateway_is_away(self, tmp_path: Path) -> None:
        with (
            other_gateway(tmp_path) as (fleet, gateway),
            fleet.terminal("top", "--interval", "0.3") as terminal,
        ):
            terminal.wait(lambda: "1 connected" in "".join(terminal.screen), "a picture")
            gateway.signal(signal.SIGTERM)
            assert gateway.wait_end() == 0
            kept = terminal.picture(
                lambda lines: (
                    is_whole(lines) and any("no gateway answers" in each for each in lines)
                ),
                "it says so",
            )
            assert any(line.startswith("press-1") for line in kept)
            with fleet.rig.up() as again:
                again.wait_event("tunnel_state_changed", tunnel="press-1", state="connected")
                terminal.picture(
                    lambda lines: is_whole(lines) and "1 connected" in lines[1], "it is back"
                )
            terminal.type("q")
            assert terminal.wait_end() == 0


class TestLogs:
    """`logs`."""

    def test_what_has_happened(self, fleet: CommandRig) -> None:
        out = fleet.good("logs", "bad-*", "--level", "warning")
        assert out
        assert all(" warning bad-token: refused: " in line for line in out.splitlines())
        found = [json.loads(line) for line in fleet.good("logs", "--json").splitlines()]
        assert {"tunnel_state_changed", "reloaded"} <= {each["event"] for each in found}
        assert PLANTED not in out

    def test_it_follows_over_a_restart(self, tmp_path: Path) -> None:
        with other_gateway(tmp_path) as (fleet, gateway):
            process = subprocess.Popen(
                [*PROGRAM, "logs", "-f", "--json", "-n", "0"],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, **fleet.env},
                # Whoever runs the tests in the background may have them ignore it.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
            with process:
                assert process.stdout is not None
                assert process.stderr is not None
                # Something happens until it is seen to follow.
                os.set_blocking(process.stdout.fileno(), False)
                seen: list[str] = []

                def follows() -> bool:
                    fleet.good("reload")
                    seen.extend(process.stdout.readlines() if process.stdout else [])
                    return any('"event": "reloaded"' in line for line in seen)

                eventually(follows, "it follows", WAIT_SECONDS, PAUSE_SECONDS)
                os.set_blocking(process.stdout.fileno(), True)
                gateway.signal(signal.SIGTERM)
                assert gateway.wait_end() == 0
                # Down for as long as it takes to notice.
                assert any("waiting for it" in line for line in process.stderr)
                with fleet.rig.up() as again:
                    again.wait_event("tunnel_state_changed", tunnel="press-1", state="connected")
                    for line in process.stdout:
                        event = json.loads(line)
                        if (
                            event["event"] == "tunnel_state_changed"
                            and event["state"] == "connected"
                        ):
                            break
                    process.send_signal(signal.SIGINT)
                    assert process.wait(WAIT_SECONDS) == 0


class TestDiag:
    """`diag`."""

    def test_it_has_what_a_report_needs_and_no_token(
        self, fleet: CommandRig, tmp_path: Path
    ) -> None:
        path = tmp_path / "d.zip"
        fleet.env["TUNNELFLEET_GATEWAY_TOKEN"] = "bearer-" + PLANTED
        # Whoever runs the gateway has a token in a place where none belongs.
        planted = fleet.rig.rig.service.open_tunnel("planted", ["SSH"]).source_token
        toml = entry_text(fleet, "planted", str(tmp_path / "tok"))
        toml += f'labels = {{ note = "{PLANTED}", other = "{planted}" }}\n'
        (tmp_path / "tok").write_text(planted)
        try:
            fleet.good("add", "-", stdin=toml)
            out = fleet.good("diag", "--out", str(path))
        finally:
            del fleet.env["TUNNELFLEET_GATEWAY_TOKEN"]
            fleet.run("rm", "planted")
        eventually(lambda: "planted" not in fleet.rows(), "it is gone", WAIT_SECONDS, PAUSE_SECONDS)
        assert path.stat().st_mode & 0o777 == 0o600
        with zipfile.ZipFile(path) as archive:
            parts = {name: archive.read(name).decode() for name in archive.namelist()}
        assert out == f"{path}: {', '.join(sorted(parts))}\n"
        assert set(parts) == {
            "README.txt",
            "actors.json",
            "events.json",
            "gateway.json",
            "limits.json",
            "metrics.txt",
            "platform.json",
            "process-files.txt",
            "process-limits.txt",
            "process-status.txt",
            "reload.json",
            "tunnels.json",
            "version.txt",
        }
        tokens = [file.read_text() for file in fleet.rig.folder.glob("*.token")]
        secrets = [PLANTED, planted, *tokens]
        for name, text in parts.items():
            for secret in secrets:
                assert secret not in text, name
        assert "press-1" in parts["tunnels.json"]
        assert "GatewaySupervisor" in parts["actors.json"]
        assert "tunnelfleet_gateway_tunnels_running" in parts["metrics.txt"]
        assert "Max open files" in parts["process-limits.txt"]
        assert json.loads(parts["reload.json"])["added"] == []
        assert "is there already" in fleet.bad("diag", "--out", str(path), status=2)

    def test_it_works_without_a_gateway(self, fleet: CommandRig, tmp_path: Path) -> None:
        path = tmp_path / "d.zip"
        done = fleet.run("diag", "--out", str(path), "--gateway", f"unix:{tmp_path}/no")
        assert done.returncode == 0
        assert "without gateway: no gateway answers" in done.stderr
        with zipfile.ZipFile(path) as archive:
            assert "missing.txt" in archive.namelist()


def connected(fleet: CommandRig) -> socket.socket:
    """A client of press-1."""
    host, port = fleet.rows("press-1")["press-1"]["services"]["SSH"].rsplit(":", 1)
    return connect(TcpAddress(host, int(port)))


def commands() -> Sequence[list[str]]:
    """One use of each command that asks a gateway."""
    return [
        ["ls"],
        ["show", "a"],
        ["add", "-"],
        ["rm", "a"],
        ["retry", "--all"],
        ["drain", "a"],
        ["replace-token", "a"],
        ["reload"],
        ["ready"],
        ["top"],
        ["logs", "-f"],
        ["connections"],
        ["audit"],
    ]


class TestNoGateway:
    """What is said when it is not there, or not for us."""

    @pytest.mark.parametrize("words", commands(), ids=lambda words: words[0])
    def test_each_command_says_what_was_tried_and_how_to_start_one(
        self, words: list[str], fleet: CommandRig, tmp_path: Path
    ) -> None:
        at = f"unix:{tmp_path}/no.sock"
        said = fleet.bad(*words, "--gateway", at, stdin='name = "a"\n')
        assert said == (
            f"tunnelfleet: no gateway answers at {at}: there is no such socket; "
            "start one with: tunnelfleet up fleet.toml\n"
        )

    def test_it_says_where_the_address_is_from(self, fleet: CommandRig, tmp_path: Path) -> None:
        said = fleet.bad("ls", TUNNELFLEET_GATEWAY=f"unix:{tmp_path}/no.sock")
        assert "(as TUNNELFLEET_GATEWAY says)" in said
        said = fleet.bad("ls", TUNNELFLEET_GATEWAY="", RUNTIME_DIRECTORY=str(tmp_path))
        assert f"{tmp_path}/admin.sock (the default; --gateway" in said

    def test_a_socket_that_is_left_over(self, fleet: CommandRig, tmp_path: Path) -> None:
        with other_gateway(tmp_path) as (other, gateway):
            gateway.process.kill()
            gateway.wait_end()
            assert other.socket.is_socket()
            assert "nobody listens" in other.bad("ls")

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
    def test_somebody_else_is_told_whose_it_is(self, fleet: CommandRig) -> None:
        require_program("setpriv")
        try:
            nobody = pwd.getpwnam("nobody")
        except KeyError:
            pytest.skip("there is no user nobody")
        ids = [f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]
        program = [shutil.which("setpriv") or "", *ids]
        client = (
            "import socket, sys, tunnelfleet.runtime.cli; "
            "socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
        )
        probe = [*program, PROGRAM[0], "-c", client, str(fleet.socket)]
        denied = subprocess.run(probe, capture_output=True, text=True, check=False)
        if "PermissionError" not in denied.stderr:
            pytest.skip("another user cannot run this Python, or can open the socket")
        done = subprocess.run(
            [*program, *PROGRAM, "ls"],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **fleet.env},
        )
        assert done.returncode == 1
        assert "no access to the gateway" in done.stderr
        assert "is root's, group " in done.stderr
        assert "you are nobody" in done.stderr


def test_a_token_opens_a_gateway_at_a_url(tmp_path: Path) -> None:
    made = CommandRig(tmp_path)
    token = tmp_path / "admin-token"
    token.write_text(PLANTED)
    token.chmod(0o600)
    made.rig.gateway = f'admin = "127.0.0.1:0"\nadmin_token_file = "{token}"'
    with made.rig:
        target = made.rig.rig.backends.echo().address
        assert isinstance(target, TcpAddress)
        made.rig.add("press-1", target)
        with made.rig.up() as gateway:
            made.env["TUNNELFLEET_GATEWAY"] = gateway.wait_event("admin")["url"]
            said = made.bad("ls")
            assert "wants a token" in said
            assert "--gateway-token-file or TUNNELFLEET_GATEWAY_TOKEN" in said
            assert "press-1" in made.good("ls", "--gateway-token-file", str(token))
            made.env["TUNNELFLEET_GATEWAY_TOKEN"] = PLANTED
            assert "press-1" in made.good("ls")
            assert PLANTED not in gateway.output


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_names_of_tunnels(fleet: CommandRig, shell: str, tmp_path: Path) -> None:
    path = require_program(shell)
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "tunnelfleet"
    program.write_text(f'#!/bin/sh\nexec {PROGRAM[0]} -c "{PROGRAM[2]}" "$@"\n')
    program.chmod(0o755)
    script = tmp_path / "script"
    script.write_text(fleet.good("completion", shell))
    start = {
        "bash": [path, "--norc", "--noprofile", "-i"],
        "zsh": [path, "-f", "-i"],
        "fish": [path, "--no-config", "-i"],
    }[shell]
    env = {
        **fleet.env,
        "PATH": f"{folder}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "PS1": "ready> ",
        "INPUTRC": "/dev/null",
    }
    with Terminal.start(start, env=env, columns=120) as terminal:
        prepare = "autoload -Uz compinit; compinit -u; " if shell == "zsh" else ""
        terminal.type(f"{prepare}source {script}; echo so''urced\n")
        terminal.wait(lambda: "sourced" in unstyled(terminal.output), "the script is read")
        terminal.type("tunnelfleet show bad\t")
        terminal.wait(lambda: "show bad-token" in unstyled(terminal.output), "the name")


def test_completion_is_quick_to_answer_without_a_gateway(fleet: CommandRig, tmp_path: Path) -> None:
    env = {"_TUNNELFLEET_COMPLETE": "bash", "TUNNELFLEET_GATEWAY": f"unix:{tmp_path}/no"}
    done = fleet.run("show", "", env=env)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = fleet.run("dr", env=env)
    assert done.stdout.startswith("drain\t")
