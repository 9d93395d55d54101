from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from tests.support.wrong_files import SOURCE, WHOLE, WRONG_FILES
from tunnelfleet.actors.config import NoListener
from tunnelfleet.runtime import Mode, TcpAddress, UnixAddress
from tunnelfleet.runtime.cli import main
from tunnelfleet.runtime.gateway.config import (
    Authorities,
    ConfigProblems,
    FleetConfig,
    load,
    read_tunnel,
)
from tunnelfleet.runtime.gateway.config.door_users import PasswordHash

TOKENS = {"T": "t" * 40, "T2": "u" * 40, "E": "\n", "W": "two words", "S": "s" * 40, "T4": "t" * 9}


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with files of tokens, the present one, and a home of its own for what is made."""
    for name, text in TOKENS.items():
        path = tmp_path / f"token-{name}"
        path.write_text(text)
        path.chmod(0o600)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "runtime"))
    return tmp_path


def with_tokens(text: str) -> str:
    return text.format(**{name: f"token-{name}" for name in TOKENS}, F="fleet.toml")


def write(text: str, name: str = "fleet.toml") -> Path:
    path = Path(name)
    path.parent.mkdir(exist_ok=True)
    path.write_text(with_tokens(text))
    return path


def read(text: str) -> FleetConfig:
    return load([write(text)])


def problems_of(*paths: str) -> list[str]:
    with pytest.raises(ConfigProblems) as caught:
        load([Path(path) for path in paths])
    return [str(problem) for problem in caught.value.problems]


class TestWrongFiles:
    def test_there_are_enough(self) -> None:
        assert len(WRONG_FILES) >= 60

    @pytest.mark.parametrize("command", ["check", "up"])
    @pytest.mark.parametrize("case", WRONG_FILES)
    def test_each_is_told_with_its_line(
        self, case: str, command: str, files: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        text, line, key, says = WRONG_FILES[case]
        write(text)
        before = threading.active_count()
        assert main([command, "fleet.toml"]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        (message,) = [each for each in err.splitlines() if "warning:" not in each]
        assert message.startswith(f"fleet.toml:{line}: {key}: ")
        assert with_tokens(says) in message.split(f": {key}: ", 1)[1]
        assert "hunter2" not in err
        assert not any(token in err for token in TOKENS.values() if token.strip())
        assert threading.active_count() == before
        assert not (files / "state").exists()


class TestAllAtOnce:
    def test_mistakes_of_all_kinds_and_files_come_together(
        self, files: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write('[gateway]\nnme = "x"\n', "fleet.d/1.toml")
        text = WHOLE.replace("eu-west-1", "Irland").replace("{T}", "../token-T")
        write(text + "marks = 4\n", "fleet.d/2.toml")
        write("[gateway\n", "fleet.d/3.toml")
        assert main(["check", "fleet.d", "nowhere.toml"]) == 2
        starts = [line.split(": ")[0] for line in capsys.readouterr().err.splitlines()]
        assert starts == [
            "fleet.d/3.toml:1",
            "nowhere.toml",
            "fleet.d/1.toml:2",
            "fleet.d/2.toml:4",
            "fleet.d/2.toml:7",
        ]

    def test_one_wrong_key_brings_no_second_message(self, files: Path) -> None:
        assert len(problems_of(str(write(WHOLE.replace('"destination"', '"x"'))))) == 1


class TestGood:
    def test_the_least_that_a_tunnel_needs(self, files: Path) -> None:
        config = read(WHOLE)
        assert config.warnings == ()
        (tunnel,) = config.tunnels.values()
        assert (tunnel.name, tunnel.mode) == ("a", Mode.DESTINATION)
        assert str(tunnel.endpoint) == "wss://data.tunneling.iot.eu-west-1.amazonaws.com"
        assert tunnel.access_token == "t" * 40
        assert tunnel.services == {"SSH": TcpAddress("127.0.0.1", 22)}
        assert tunnel.place == "fleet.toml:1"
        assert "t" * 40 not in repr(config)

    def test_no_tunnel_at_all_is_a_fleet(self, files: Path) -> None:
        config = read("")
        assert config.tunnels == {}
        assert config.gateway.metrics == TcpAddress("127.0.0.1", 9464)
        assert config.gateway.state == f"sqlite:///{files}/state/state.db"
        assert config.gateway.admin == f"unix:{files}/runtime/admin.sock"

    def test_gateways_that_share_a_fleet(self, files: Path) -> None:
        gateway = read(
            '[gateway]\nstate = "postgresql://h/d"\nplacement = "postgres"\nlease_seconds = 5\n'
            'shards = 1024\nclient_token_secret_file = "{S}"\n'
        ).gateway
        assert (gateway.placement, gateway.lease_seconds, gateway.shards) == ("postgres", 5, 1_024)

    def test_every_key_of_the_gateway(self, files: Path) -> None:
        (files / "users").write_text(f"al:{PasswordHash.make('secret').text()}\n")
        gateway = read(
            '[gateway]\nname = "gw-2"\nadmin = "unix:a.sock"\nadmin_mode = "0660"\n'
            'admin_group = "ops"\nadmin_token_file = "{T}"\nadmin_hosts = ["gw.example.com"]\n'
            'metrics = "0.0.0.0:0"\nmetrics_token_file = "{T}"\n'
            'metrics_open = true\nmetrics_hosts = ["gw.example"]\n'
            'state = "sqlite:////var/lib/x/s.db"\nplacement = "static"\n'
            "placement_members = 4\nplacement_ordinal = 3\nworkers = 1\n"
            'client_token_secret_file = "{S}"\nconnect_rate = 200\nconnect_concurrency = 16\n'
            "audit_days = 7.5\naudit_rows = 0\n"
            'drain_seconds = 0\ndoor = "127.0.0.1:1080"\ndoor_users_file = "users"\n'
        ).gateway
        assert (gateway.name, gateway.admin, gateway.admin_mode) == ("gw-2", "unix:a.sock", 0o660)
        assert (gateway.admin_token, gateway.admin_hosts) == ("t" * 40, ("gw.example.com",))
        assert (gateway.admin_group, gateway.metrics) == ("ops", TcpAddress("0.0.0.0", 0))
        assert (gateway.metrics_token, gateway.metrics_open) == ("t" * 40, True)
        assert gateway.metrics_hosts == ("gw.example",)
        assert gateway.state_folder == Path("/var/lib/x")
        assert (gateway.placement_members, gateway.placement_ordinal) == (4, 3)
        assert gateway.client_token_secret_file == Path("token-S")
        assert (gateway.connect_rate, gateway.connect_concurrency) == (200, 16)
        assert (gateway.drain_seconds, gateway.workers) == (0, 1)
        assert (gateway.audit_days, gateway.audit_rows) == (7.5, 0)
        assert (gateway.door, gateway.door_users_file) == ("127.0.0.1:1080", Path("users"))
        assert gateway.door_users is not None
        assert gateway.door_users.check("al", "secret")
        assert "scrypt" not in repr(gateway)

    def test_every_key_of_a_source(self, files: Path) -> None:
        config = read(
            '[[tunnel]]\nname = "b"\nmode = "source"\nendpoint = "ws://localhost:8080"\n'
            'access_token_file = "{T}"\nclient_token = "cccccccccccccccccccccccccccccccc"\n'
            'services = {{ SSH = 5555, APP = "unix:app.sock", WEB = "door" }}\nbind = "10.0.0.1"\n'
            'version = "v2"\nbandwidth = 1e5\nmarks = false\npacing = false\n'
            'http_proxy = "proxy:3128"\n'
            'labels = {{ site = "lyon" }}\nlimits = {{ max_connections = 5 }}\n'
            "restart = {{ min_seconds = 0.5, max_seconds = 9 }}\n"
        )
        tunnel = config.tunnels["b"]
        assert tunnel.services == {
            "SSH": TcpAddress("10.0.0.1", 5555),
            "APP": UnixAddress("app.sock"),
            "WEB": None,
        }
        assert tunnel.to_config("x" * 32).services == {
            "SSH": TcpAddress("10.0.0.1", 5555),
            "APP": UnixAddress("app.sock"),
            "WEB": NoListener(),
        }
        assert (tunnel.version, tunnel.bandwidth, tunnel.marks) == (2, 100_000, False)
        assert not tunnel.pacing
        assert not tunnel.to_config("0" * 32).pacing
        assert str(tunnel.http_proxy) == "proxy:3128"
        assert tunnel.labels == {"site": "lyon"}
        assert tunnel.limits.max_connections == 5
        assert tunnel.limits.backoff.max_seconds == 9
        assert tunnel.client_token == "c" * 32

    def test_a_door_rule(self, files: Path) -> None:
        config = read('[[door_rule]]\nusers = ["al"]\ntunnels = "press-*"\nservices = ["SSH"]\n')
        (rule,) = config.door_rules
        assert (rule.users, rule.tunnels, rule.services) == (("al",), ("press-*",), ("SSH",))
        assert config.warnings == ()

    def test_a_source_may_listen_for_nothing(self, files: Path) -> None:
        tunnel = read(SOURCE.replace("127.0.0.1:0", "door")).tunnels["a"]
        assert tunnel.to_config("x" * 32).services == {"SSH": NoListener()}


class TestDoors:
    """What is worth a look about a front door, and changes nothing."""

    @pytest.mark.parametrize(
        ("text", "key", "says"),
        [
            ('door = "unix:d"\ndoor_users_file = "users"', "gateway.door_users_file", "kernel"),
            ('door_users_file = "users"', "gateway.door_users_file", "door at a TCP port"),
            (
                'door = "0.0.0.0:1080"\ndoor_users_file = "users"',
                "gateway.door_users_file",
                "without TLS",
            ),
            (
                'door = "127.0.0.1:1080"\n[[door_rule]]\nusers = ["al"]',
                "door_rule[1].users",
                "nobody has a name at the door 127.0.0.1:1080",
            ),
            (
                'admin_group = "no-such"',
                "gateway.admin_group",
                "there is no group 'no-such' on this machine",
            ),
        ],
    )
    def test_a_warning(self, files: Path, text: str, key: str, says: str) -> None:
        users = files / "users"
        users.write_text(f"al:{PasswordHash.make('secret').text()}\n")
        users.chmod(0o600)
        (warning,) = read(f"[gateway]\n{text}\n").warnings
        assert (warning.key, warning.is_error) == (key, False)
        assert says in warning.text

    def test_users_that_everybody_can_read(self, files: Path) -> None:
        users = files / "users"
        users.write_text(f"al:{PasswordHash.make('secret').text()}\n")
        users.chmod(0o644)
        config = read('[gateway]\ndoor = "127.0.0.1:1080"\ndoor_users_file = "users"\n')
        (warning,) = config.warnings
        assert "chmod o-rwx users" in warning.text
        assert Path("users") in config.files

    def test_users_and_their_file_change_in_place(self, files: Path) -> None:
        users = files / "users"
        text = '[gateway]\ndoor = "127.0.0.1:1080"\n'
        users.write_text(f"al:{PasswordHash.make('secret').text()}\n")
        before = read(text).gateway
        after = read(f'{text}door_users_file = "users"\n').gateway
        assert before.needing_restart(after) == []
        assert before.needing_restart(read(text.replace("1080", "1081")).gateway) == ["door"]


class TestDefaults:
    def test_a_tunnel_s_own_keys_come_first(self, files: Path) -> None:
        config = read(
            '[defaults]\nendpoint = "ws://a"\nmode = "destination"\n'
            'labels = {{ site = "lyon", kind = "press" }}\nlimits = {{ max_connections = 7 }}\n'
            'services = {{ SSH = 22 }}\naccess_token_env = "TOKEN"\n'
            '[[tunnel]]\nname = "x"\nregion = "eu-west-1"\naccess_token_file = "{T}"\n'
            'labels = {{ site = "metz" }}\nservices = {{ WEB = 80 }}\n'
            '[[tunnel]]\nname = "y"\naccess_token_file = "{T2}"\n'
        )
        one, other = config.tunnels.values()
        assert one.endpoint.host == "data.tunneling.iot.eu-west-1.amazonaws.com"
        assert one.labels == {"site": "metz", "kind": "press"}
        assert one.services == {"WEB": TcpAddress("127.0.0.1", 80)}
        assert str(other.endpoint) == "ws://a"
        assert other.labels["site"] == "lyon"
        assert one.limits.max_connections == other.limits.max_connections == 7


class TestFolders:
    def test_files_merge_in_the_order_of_their_names(self, files: Path) -> None:
        write(WHOLE.replace('"a"', '"two"'), "fleet.d/2.toml")
        write(WHOLE.replace('"a"', '"one"').replace("{T}", "{T2}"), "fleet.d/1.toml")
        for name in TOKENS:
            (files / "fleet.d" / f"token-{name}").symlink_to(files / f"token-{name}")
        write('[gateway]\nname = "gw"\n', "fleet.d/0.toml")
        write("[gateway]\nnot read\n", "fleet.d/.hidden.toml")
        write("[gateway]\nnot read\n", "fleet.d/README")
        config = load([Path("fleet.d")])
        assert list(config.tunnels) == ["one", "two"]
        assert config.gateway.name == "gw"
        assert Path("fleet.d/token-T") in config.files

    def test_the_folder_beside_a_file_merges(self, files: Path) -> None:
        write('[gateway]\nname = "gw"\n')
        write(WHOLE.replace("{T}", "../token-T"), "fleet.d/1.toml")
        assert list(load([Path("fleet.toml")]).tunnels) == ["a"]
        assert list(load([Path("fleet.toml"), Path("fleet.d")]).tunnels) == ["a"]

    def test_a_key_in_two_files_names_both(self, files: Path) -> None:
        write('[gateway]\nname = "gw"\n[defaults]\nmarks = true\n', "fleet.d/1.toml")
        write(
            '[gateway]\ndrain_seconds = 3\nname = "gx"\n[defaults]\nmarks = true', "fleet.d/2.toml"
        )
        keep = "keep one of the two"
        assert problems_of("fleet.d") == [
            f"fleet.d/2.toml:3: gateway.name: it is set in fleet.d/1.toml:2 too; {keep}",
            f"fleet.d/2.toml:5: defaults.marks: it is set in fleet.d/1.toml:4 too; {keep}",
        ]

    def test_an_empty_folder_is_a_mistake(self, files: Path) -> None:
        Path("fleet.d").mkdir()
        (problem,) = problems_of("fleet.d")
        assert "has no file *.toml" in problem


class TestWarnings:
    def test_a_token_in_the_file(self, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
        write(WHOLE.replace('_file = "{T}"', f' = "{"v" * 40}"'))
        assert main(["check", "fleet.toml"]) == 0
        out, err = capsys.readouterr()
        assert out == "good: 1 tunnel\n"
        assert err.startswith("fleet.toml:5: tunnel[a].access_token: warning: whoever reads")
        assert "v" * 40 not in err

    def test_a_token_that_everybody_can_read(self, files: Path) -> None:
        (files / "token-T").chmod(0o644)
        (warning,) = read(WHOLE).warnings
        assert "chmod o-rwx token-T" in warning.text

    def test_a_label_may_look_like_an_expansion(self, files: Path) -> None:
        config = read(WHOLE + 'labels = {{ site = "${{SITE}}" }}\n')
        assert [each.key for each in config.warnings] == ["tunnel[a].labels.site"]
        assert config.tunnels["a"].labels == {"site": "${SITE}"}

    def test_authorities_without_tls(self, files: Path) -> None:
        text = WHOLE.replace('region = "eu-west-1"', 'endpoint = "ws://localhost"')
        (warning,) = read(text + 'ca = "ca.pem"\n').warnings
        assert warning.key == "tunnel[a].ca"


def test_environment_and_links_give_tokens(files: Path) -> None:
    (files / "link").symlink_to(files / "token-T2")
    text = WHOLE.replace("{T}", "link") + WHOLE.replace('"a"', '"b"').replace(
        '_file = "{T}"', '_env = "A_TOKEN"'
    )
    config = load([write(text)], environ={"A_TOKEN": "e" * 40, "STATE_DIRECTORY": "s"})
    assert [each.access_token for each in config.tunnels.values()] == ["u" * 40, "e" * 40]


def test_contexts_are_kept_while_their_content_is_the_same(files: Path) -> None:
    authorities = Authorities()
    one = load([write(WHOLE)], authorities=authorities).tunnels["a"]
    other = load([write(WHOLE)], authorities=authorities).tunnels["a"]
    assert one.ssl_context is other.ssl_context is not None


def test_json(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(WHOLE + "marks = 4\n")
    assert main(["check", "--json", "fleet.toml"]) == 2
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is False
    assert found["problems"] == [
        {
            "file": "fleet.toml",
            "line": 7,
            "key": "tunnel[a].marks",
            "text": "write true or false, not 4",
            "severity": "error",
        }
    ]


class TestOneTunnel:
    ENTRY = {
        "name": "a",
        "mode": "source",
        "endpoint": "ws://localhost",
        "access_token": "t" * 40,
        "services": {"SSH": 2204},
    }

    def test_it_is_read_as_one_of_a_file(self) -> None:
        tunnel = read_tunnel(self.ENTRY, Authorities(), place="api")
        assert tunnel.services == {"SSH": TcpAddress("127.0.0.1", 2204)}
        assert tunnel.place == "api:1"

    def test_all_its_mistakes_are_told(self) -> None:
        with pytest.raises(ConfigProblems) as caught:
            read_tunnel({**self.ENTRY, "mode": "x", "nme": 1}, Authorities())
        assert {problem.key for problem in caught.value.problems} == {
            "tunnel[a].mode",
            "tunnel[a].nme",
        }

    @pytest.mark.parametrize("key", ["access_token_file", "access_token_env"])
    def test_it_reads_neither_files_nor_the_environment(self, key: str, files: Path) -> None:
        entry = {**self.ENTRY, key: "token-T"}
        del entry["access_token"]
        with pytest.raises(ConfigProblems, match="give access_token itself"):
            read_tunnel(entry, Authorities())
