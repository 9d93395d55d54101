from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import pytest

from tunnelfleet.actors.config import TcpAddress
from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.cli import localproxy, main
from tunnelfleet.runtime.cli.errors import EXIT_OK, EXIT_USAGE
from tunnelfleet.runtime.cli.localproxy import make_plan
from tunnelfleet.runtime.cli.localproxy_settings import default_settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tunnelfleet.runtime.cli.localproxy_config import Plan
    from tunnelfleet.runtime.cli.localproxy_output import Reporter

ENV = {"AWSIOT_TUNNEL_ACCESS_TOKEN": "token", "AWSIOT_TUNNEL_ENDPOINT": "ws://127.0.0.1:1"}


@pytest.fixture(autouse=True)
def _surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in list(os.environ):
        if name.startswith("AWSIOT_") or name.lower() in ("https_proxy", "no_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    logger = logging.getLogger("tunnelfleet")
    before = (logger.level, logger.propagate, list(logger.handlers))
    yield
    logger.setLevel(before[0])
    logger.propagate = before[1]
    logger.handlers[:] = before[2]


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """The plans that the command would have run."""
    found: list[Plan] = []

    class Noting:
        def __init__(self, plan: Plan, reporter: Reporter) -> None:
            found.append(plan)
            self.reporter = reporter

        def run(self) -> int:
            return EXIT_OK

    monkeypatch.setattr(localproxy, "Localproxy", Noting)
    return found


class TestFiles:
    def test_a_config_file_and_the_command_line_add_up(self, tmp_path: Path) -> None:
        file = tmp_path / "c.ini"
        file.write_text("source-listen-port = 6000\nlocal-bind-address = ::1\nverbose = 6\n")
        plan = make_plan({"verbose": "2"}, file, ENV)
        assert plan.config.services == {"": TcpAddress("::1", 6000)}
        assert plan.verbosity == 2

    def test_a_config_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="cannot read"):
            make_plan({}, tmp_path / "none", ENV)

    def test_a_config_directory(self, tmp_path: Path) -> None:
        (tmp_path / "maps").mkdir()
        (tmp_path / "maps" / "a.ini").write_text("SSH = 22\n")
        plan = make_plan({"mode": "dst", "config-dir": str(tmp_path / "maps")}, None, ENV)
        assert plan.config.services == {"SSH": TcpAddress("127.0.0.1", 22)}

    def test_a_config_directory_that_is_not_there(self) -> None:
        with pytest.raises(ConfigError, match=r"^option --config-dir: none is not a directory"):
            make_plan({"mode": "dst", "config-dir": "none"}, None, ENV)

    def test_the_default_directory_is_read_when_it_is_there(self, tmp_path: Path) -> None:
        (tmp_path / "config").mkdir()
        (tmp_path / "config" / "a.yaml").write_text("tree: true\n")
        (tmp_path / "config" / "b.ini").write_text("SSH = 22\n")
        plan = make_plan({"mode": "dst"}, None, ENV)
        assert plan.config.services == {"SSH": TcpAddress("127.0.0.1", 22)}
        assert [note.partition(",")[0] for note in plan.notes] == ["skipped config/a.yaml"]

    def test_and_is_no_matter_when_it_is_not(self) -> None:
        assert make_plan({"mode": "src"}, None, ENV).config.services is None

    def test_settings(self, tmp_path: Path) -> None:
        file = tmp_path / "s.json"
        file.write_text('{"tunneling": {"proxy": {"message": {"max_payload_size": "16384"}}}}')
        plan = make_plan({"mode": "src", "settings-json": str(file)}, None, ENV)
        assert plan.config.limits.data_payload_bytes == 16_384


class TestCommand:
    def test_options_reach_the_plan(self, plans: list[Plan]) -> None:
        arguments = "-e ws://127.0.0.1:9 -s SSH=5555 -v0 -y V2 --bandwidth 1000 -c /ca -k"
        token = ["-t", "the-token", "-i", "c" * 32]
        assert main(["localproxy", *arguments.split(), *token]) == EXIT_OK
        (plan,) = plans
        assert plan.config.access_token == "the-token"
        assert plan.config.client_token == "c" * 32
        assert plan.config.services == {"SSH": TcpAddress("127.0.0.1", 5555)}
        assert plan.config.bandwidth_bytes_per_second == 1000
        assert (plan.verbosity, plan.verify, str(plan.ca_path)) == (0, False, "/ca")

    def test_long_names_too(self, plans: list[Plan]) -> None:
        arguments = [
            "--access-token=t",
            "--proxy-endpoint=ws://h",
            "--destination-app=22",
            "--local-bind-address=::1",
            "--verbose=0",
            "--mode=dst",
            "--destination-client-type=V1",
            "--no-ssl-host-verify",
            "--capath=/ca",
            "--payload-bytes=99",
        ]
        assert main(["localproxy", *arguments]) == EXIT_OK
        assert plans[0].config.local_bind == "::1"
        assert plans[0].config.limits.data_payload_bytes == 99

    def test_the_environment(self, plans: list[Plan], monkeypatch: pytest.MonkeyPatch) -> None:
        for name, text in ENV.items():
            monkeypatch.setenv(name, text)
        assert main(["localproxy", "-m", "source"]) == EXIT_OK
        assert plans[0].config.access_token == "token"

    def test_a_mistake_is_one_line_and_status_2(
        self, plans: list[Plan], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["localproxy", "-t", "t", "-e", "h", "-s", "x"]) == EXIT_USAGE
        assert not plans
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("tunnelfleet: option -s: bad address 'x'")
        assert err.count("\n") == 1

    def test_an_unknown_option_is_one_line_and_status_2(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["localproxy", "--no-such"]) == EXIT_USAGE
        err = capsys.readouterr().err
        assert "--no-such" in err
        assert err.count("\n") == 1

    def test_export_default_settings(self, tmp_path: Path) -> None:
        file = tmp_path / "s.json"
        assert main(["localproxy", "--export-default-settings", str(file)]) == EXIT_OK
        assert file.read_text() == default_settings()

    def test_export_where_nothing_can_be_written(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        target = str(tmp_path / "no" / "s.json")
        assert main(["localproxy", "--export-default-settings", target]) == 1
        assert capsys.readouterr().err == f"tunnelfleet: {target}: No such file or directory\n"

    @pytest.mark.parametrize("flag", ["-V", "--version"])
    def test_version_needs_nothing_else(
        self, flag: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["localproxy", flag]) == EXIT_OK
        assert capsys.readouterr().out.startswith("tunnelfleet ")

    @pytest.mark.parametrize("flag", ["-h", "--help"])
    def test_help_names_every_option_of_localproxy(
        self, flag: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "200")
        assert main(["localproxy", flag]) == EXIT_OK
        out = capsys.readouterr().out
        for option in [
            "-t",
            "-e",
            "-r",
            "-s",
            "-d",
            "-b",
            "-c",
            "-k",
            "-v",
            "-m",
            "-y",
            "-i",
            "-V",
            "-h",
        ]:
            assert f" {option} " in out
        for option in ["config", "config-dir", "settings-json", "export-default-settings"]:
            assert f"--{option} " in out
