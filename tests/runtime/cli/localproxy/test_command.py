from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import pytest

from tunnelfleet.actors.addresses import TcpAddress
from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.cli import main
from tunnelfleet.runtime.cli.errors import EXIT_OK, EXIT_USAGE
from tunnelfleet.runtime.cli.localproxy import (
    command as localproxy,
)
from tunnelfleet.runtime.cli.localproxy import (
    mappings as localproxy_mappings,
)
from tunnelfleet.runtime.cli.localproxy.command import make_plan
from tunnelfleet.runtime.cli.localproxy.settings import default_settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tunnelfleet.runtime.cli.localproxy.config import Plan
    from tunnelfleet.runtime.cli.localproxy.output import Reporter

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

    def test_a_garbage_file_in_a_config_directory_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "maps").mkdir()
        (tmp_path / "maps" / "a.bin").write_bytes(bytes(range(256)))
        (tmp_path / "maps" / "b.ini").write_text("SSH = 22\n")
        plan = make_plan({"mode": "dst", "config-dir": str(tmp_path / "maps")}, None, ENV)
        assert plan.config.services == {"SSH": TcpAddress("127.0.0.1", 22)}
        assert len(plan.warnings) == 1
        assert "a.bin" in plan.warnings[0]

    def test_what_a_file_says_in_vain_is_told(self, tmp_path: Path) -> None:
        config, settings = tmp_path / "c.ini", tmp_path / "s.json"
        config.write_text("client-token =\nexport-default-settings = x\n")
        settings.write_text('{"tunneling": {"proxy": {"nobody": 1}}}')
        plan = make_plan({"mode": "src", "settings-json": str(settings)}, config, ENV)
        assert len(plan.notes) == 2
        assert len(plan.warnings) == 1


class TestDefaultDirectory:
    """`./config`, which nobody asked for: it may belong to another program."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        (tmp_path / "config").mkdir()
        return tmp_path / "config"

    def test_a_destination_takes_its_mappings(self, folder: Path) -> None:
        (folder / "a.yaml").write_text("tree: true\n")
        (folder / "b.ini").write_text("SSH = 22\n")
        plan = make_plan({"mode": "dst"}, None, ENV)
        assert plan.config.services == {"SSH": TcpAddress("127.0.0.1", 22)}
        assert plan.from_files
        assert plan.is_mapped
        assert plan.warnings == ()
        assert plan.notes == ("mappings of this tunnel's services are looked for in ./config",)

    def test_a_source_listens_there_for_services_that_it_has(self, folder: Path) -> None:
        (folder / "b.ini").write_text("SSH = 5555\nport = 8080\nname = app\n")
        plan = make_plan({"mode": "src"}, None, ENV)
        assert plan.config.services is None, "other services get free ports"
        assert plan.config.listen_on == {
            "SSH": TcpAddress("127.0.0.1", 5555),
            "port": TcpAddress("127.0.0.1", 8080),
        }

    @pytest.mark.parametrize("option", ["source-listen-port", "destination-app"])
    def test_nobody_looks_there_when_a_mapping_is_given(self, folder: Path, option: str) -> None:
        (folder / "app.ini").write_text("port = 8080\n")
        plan = make_plan({option: "SSH=22"}, None, ENV)
        assert plan.config.services == {"SSH": TcpAddress("127.0.0.1", 22)}
        assert (plan.notes, plan.warnings, plan.from_files) == ((), (), False)

    def test_a_mapping_of_a_config_file_counts(self, folder: Path, tmp_path: Path) -> None:
        (folder / "app.ini").write_text("port = 8080\n")
        config = tmp_path / "c.ini"
        config.write_text("source-listen-port = 5555\n")
        assert make_plan({}, config, ENV).config.services == {"": TcpAddress("127.0.0.1", 5555)}

    @pytest.mark.parametrize(
        "text",
        ["[server]\nport = 8080\nname = app", "name = app", "{}", "\0", "", "x" * 2_000_000],
    )
    @pytest.mark.parametrize("mode", ["src", "dst"])
    def test_what_is_not_for_us_is_no_matter(self, folder: Path, text: str, mode: str) -> None:
        (folder / "app.ini").write_text(text)
        (folder / "sub").mkdir()
        (folder / "sub" / "data").write_bytes(b"\xff\xfe")
        plan = make_plan({"mode": mode}, None, ENV)
        assert (plan.notes, plan.warnings, plan.from_files) == ((), (), False)
        assert plan.config.listen_on == {}

    def test_a_link_that_leads_nowhere_is_no_matter(self, folder: Path) -> None:
        (folder / "loop").symlink_to(folder / "loop")
        (folder / "gone").symlink_to("nowhere")
        assert make_plan({"mode": "src"}, None, ENV).config.services is None

    def test_too_many_files_are_no_matter(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(localproxy_mappings, "MAX_FILES", 1)
        for name in ("a", "b"):
            (folder / name).write_text("SSH = 22")
        assert make_plan({"mode": "src"}, None, ENV).config.listen_on == {}

    def test_and_so_is_its_absence(self, tmp_path: Path) -> None:
        (tmp_path / "config").write_text("a file")
        assert make_plan({"mode": "src"}, None, ENV).config.services is None
        (tmp_path / "config").unlink()
        assert make_plan({"mode": "src"}, None, ENV).config.services is None


class TestSettings:
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

    def test_short_forms_of_long_names(self, plans: list[Plan]) -> None:
        arguments = [
            *("--acc", "--proxy", "--proxy=ws://h", "--destination-a", "22"),
            *("--local=::1", "--verb", "0", "--mod", "dst", "--destination-c=V1", "--no-ssl"),
            *("--cap", "/ca", "--pay=99", "--b", "7"),
        ]
        assert main(["localproxy", *arguments]) == EXIT_OK
        (plan,) = plans
        # What follows an option that takes a value is its value, however it looks.
        assert plan.config.access_token == "--proxy"
        assert str(plan.config.endpoint) == "ws://h"
        assert plan.config.services == {"": TcpAddress("127.0.0.1", 22)}
        assert plan.config.limits.data_payload_bytes == 99
        assert plan.config.bandwidth_bytes_per_second == 7

    def test_a_short_form_of_two_names(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["localproxy", "--s", "22"]) == EXIT_USAGE
        assert capsys.readouterr().err == (
            "tunnelfleet: option --s may be --settings-json or --source-listen-port; write it out\n"
        )

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
        assert err.startswith("tunnelfleet: option -s: 'x' has no port")
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
        assert main(["localproxy", "--export-default-settings", target]) == 2
        assert capsys.readouterr().err == (
            f"tunnelfleet: --export-default-settings: cannot write {target}: No such file or "
            "directory; name a file in a folder that this user may write\n"
        )

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
