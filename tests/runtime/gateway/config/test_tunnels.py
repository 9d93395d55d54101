from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tunnelfleet.runtime.gateway.config import Authorities, ConfigProblems, load, read_tunnel

if TYPE_CHECKING:
    from pathlib import Path

TUNNEL = '[[tunnel]]\nname = "a"\nmode = "source"\naccess_token_env = "TOKEN"\n'
ENVIRON = {"TOKEN": " " + "t" * 40 + "\n", "STATE_DIRECTORY": "unused"}


def test_a_path_is_relative_to_the_file_that_it_stands_in(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "one" / "defaults.toml").write_text('[defaults]\nca = "authorities"\n')
    (tmp_path / "one" / "authorities").mkdir()
    (tmp_path / "other" / "t.toml").write_text(TUNNEL + 'region = "eu-west-1"\n')
    config = load([tmp_path / "one", tmp_path / "other"], ENVIRON)
    tunnel = config.tunnels["a"]
    assert tunnel.ca == str(tmp_path / "one" / "authorities")
    assert tunnel.ca_fingerprint
    assert tunnel.access_token == "t" * 40


def test_a_default_that_a_tunnel_replaces_is_not_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "f.toml"
    path.write_text('[defaults]\naccess_token_file = "nowhere"\n' + TUNNEL + 'region = "eu-west-1"')
    assert load([path], ENVIRON).tunnels["a"].access_token == "t" * 40


def test_one_port_for_two_services_of_two_tunnels_is_fine_if_it_is_any(tmp_path: Path) -> None:
    path = tmp_path / "f.toml"
    other = TUNNEL.replace('"a"', '"b"').replace("TOKEN", "OTHER")
    services = 'services = { SSH = "127.0.0.1:0" }\nregion = "eu-west-1"\n'
    path.write_text(TUNNEL + services + other + services)
    assert list(load([path], {**ENVIRON, "OTHER": "u" * 40}).tunnels) == ["a", "b"]


def test_both_ends_of_one_tunnel_may_be_in_one_fleet(tmp_path: Path) -> None:
    path = tmp_path / "f.toml"
    other = TUNNEL.replace('"a"', '"b"').replace("source", "destination")
    region = 'region = "eu-west-1"\n'
    path.write_text(TUNNEL + region + other + region + "services = { SSH = 22 }\n")
    assert list(load([path], ENVIRON).tunnels) == ["a", "b"]


@pytest.mark.parametrize("lines", [1, 3_000])
def test_many_mistakes_are_all_told(tmp_path: Path, lines: int) -> None:
    path = tmp_path / "f.toml"
    path.write_text("[[tunnel]]\nmode = 4\n" * lines)
    with pytest.raises(ConfigProblems) as caught:
        load([path], ENVIRON)
    assert len(caught.value.problems) == 4 * lines


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("ca", "a\0b", "ca"),
        ("bind", "a\0b", "bind"),
        ("http_proxy", "http://\ud800:p@h:1", "http_proxy"),
        ("http_proxy", "http://h\0:1", "http_proxy"),
        ("services", {"S": "unix:/a\0b"}, "services.S"),
        ("services", {"S": "a\ud800:1"}, "services.S"),
        ("services", {"a\r\nb": "127.0.0.1:1"}, "services"),
        ("services", {"\ud800": "127.0.0.1:1"}, "services"),
    ],
)
def test_no_text_has_a_control_character_or_half_of_one(key: str, value: object, says: str) -> None:
    entry = {
        "name": "a",
        "mode": "destination",
        "endpoint": "ws://127.0.0.1:1",
        "access_token": "t" * 40,
        "services": {"S": "127.0.0.1:1"},
        key: value,
    }
    with pytest.raises(ConfigProblems) as caught:
        read_tunnel(entry, Authorities())
    (problem,) = caught.value.problems
    assert problem.key == f"tunnel[a].{says}"
    assert "control character" in problem.text
    assert str(caught.value).isprintable()
