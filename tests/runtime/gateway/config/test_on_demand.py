"""The table `[on_demand]`: what it says, what is wrong with it, and which things are meant."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tunnelfleet.proto import Endpoint, Mode
from tunnelfleet.runtime.gateway.config import (
    CloudPlace,
    ConfigProblems,
    DemandLimits,
    OnDemandSettings,
    load,
)

if TYPE_CHECKING:
    from pathlib import Path

MINIMAL = 'region = "eu-west-1"\nthings = ["press-*"]\nservices = ["SSH"]\n'


def read(tmp_path: Path, table: str, before: str = "") -> OnDemandSettings:
    path = tmp_path / "fleet.toml"
    path.write_text(f"{before}\n[on_demand]\n{table}")
    found = load([path], {"STATE_DIRECTORY": str(tmp_path)}).on_demand
    assert found is not None
    return found


def test_defaults(tmp_path: Path) -> None:
    found = read(tmp_path, MINIMAL)
    assert found.place == CloudPlace("eu-west-1")
    assert (found.things, found.services, found.tags) == (("press-*",), ("SSH",), {})
    assert found.limits == DemandLimits(
        wait_seconds=60.0,
        idle_seconds=900.0,
        lifetime_minutes=720,
        max_open=50,
        max_opens_per_hour=100,
        opens_per_second=1.0,
        negative_seconds=30.0,
    )
    assert not found.keep_on_stop
    tunnel = found.tunnel
    assert (tunnel.mode, tunnel.services) == (Mode.SOURCE, {"SSH": None})
    assert tunnel.endpoint == Endpoint.for_region("eu-west-1")
    assert tunnel.client_token is None


def test_all_keys(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        """
        region = "eu-west-1"
        endpoint_url = "http://127.0.0.1:8444"
        endpoint = "ws://127.0.0.1:8443"
        profile = "operations"
        things = ["press-*", "pump-1"]
        services = ["SSH", "HTTP"]
        wait_seconds = 10
        idle_seconds = 20
        lifetime_minutes = 30
        max_open = 40
        max_opens_per_hour = 50
        opens_per_second = 0.5
        negative_seconds = 0
        keep_on_stop = true
        tags = { cost-center = "4711" }
        """,
    )
    assert found.place == CloudPlace("eu-west-1", "http://127.0.0.1:8444", "operations")
    assert str(found.place) == "http://127.0.0.1:8444"
    assert found.limits == DemandLimits(
        wait_seconds=10.0,
        idle_seconds=20.0,
        lifetime_minutes=30,
        max_open=40,
        max_opens_per_hour=50,
        opens_per_second=0.5,
        negative_seconds=0.0,
    )
    assert found.keep_on_stop
    assert found.tags == {"cost-center": "4711"}
    assert found.tunnel.endpoint == Endpoint.parse("ws://127.0.0.1:8443")
    assert found.tunnel.services == {"SSH": None, "HTTP": None}


def test_what_tunnels_have_in_common_comes_from_the_defaults(tmp_path: Path) -> None:
    defaults = (
        '[defaults]\nmode = "destination"\nregion = "eu-north-1"\naccess_token_env = "T"\n'
        'client_token = "a-client-token-of-all-tunnels-is-no-use-here"\n'
        'labels = { site = "lyon" }\n'
        "limits = { max_connections = 7 }\n"
    )
    found = read(tmp_path, 'things = ["a"]\nservices = ["SSH"]\n', defaults)
    assert found.place.region == "eu-north-1"
    tunnel = found.tunnel
    assert tunnel.endpoint == Endpoint.for_region("eu-north-1")
    assert (tunnel.labels, tunnel.limits.max_connections) == ({"site": "lyon"}, 7)
    assert (tunnel.mode, tunnel.client_token) == (Mode.SOURCE, None)


def test_a_service_of_one_s_own_may_be_that_of_the_defaults(tmp_path: Path) -> None:
    defaults = '[defaults]\nendpoint = "ws://127.0.0.1:8443"\n'
    table = 'endpoint_url = "http://127.0.0.1:1"\nthings = ["a"]\nservices = ["SSH"]\n'
    found = read(tmp_path, table, defaults)
    assert found.place == CloudPlace(None, "http://127.0.0.1:1")
    assert found.tunnel.endpoint == Endpoint.parse("ws://127.0.0.1:8443")


def test_keys_may_stand_in_several_files(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('[on_demand]\nregion = "eu-west-1"\nthings = ["a"]\n')
    (tmp_path / "b.toml").write_text('[on_demand]\nservices = ["SSH"]\n')
    found = load([tmp_path], {"STATE_DIRECTORY": str(tmp_path)}).on_demand
    assert found is not None
    assert found.services == ("SSH",)


def test_without_the_table_nothing_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text("")
    assert load([path], {"STATE_DIRECTORY": str(tmp_path)}).on_demand is None


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ("", r"on_demand.things: it is missing; write things = \["),
        ("", r"on_demand.services: it is missing; write services = \["),
        ('things = ["a"]\nservices = ["b"]\n', "on_demand.region: it is missing"),
        (MINIMAL + "idle = 3\n", "on_demand.idle: there is no such key"),
        (MINIMAL.replace("press-*", "press 4"), r"on_demand.things\[1\]: a thing has letters"),
        (MINIMAL.replace('["press-*"]', "[]"), "on_demand.things: it is empty"),
        (MINIMAL.replace('["SSH"]', '["a", "b", "c", "d"]'), "AWS lets a tunnel have 3"),
        (MINIMAL.replace('["SSH"]', '["SSH", "ssh"]'), "a service stands twice in it"),
        (MINIMAL + 'endpoint_url = "127.0.0.1"\n', "on_demand.endpoint_url: write http://HOST"),
        (MINIMAL + 'endpoint_url = "http://h:1"\n', "on_demand.endpoint: it is missing"),
        (MINIMAL + 'ca = "nowhere.pem"\n', "on_demand.ca: cannot read"),
        (MINIMAL + "lifetime_minutes = 721\n", "lifetime_minutes: it must be at most 720"),
        (MINIMAL + "max_open = 0\n", "max_open: it must be at least 1"),
        (MINIMAL + 'tags = { "aws:x" = "1" }\n', "a key of a tag has"),
        (MINIMAL + 'tags = { x = "<" }\n', "a value of a tag has"),
        (MINIMAL + 'region = "nowhere"\n', "set twice"),
    ],
)
def test_mistakes(tmp_path: Path, table: str, problem: str) -> None:
    with pytest.raises(ConfigProblems) as caught:
        read(tmp_path, table)
    texts = [str(each) for each in caught.value.problems]
    assert [each for each in texts if re.search(problem, each)], texts


def test_without_boto3_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(ConfigProblems) as caught:
        read(tmp_path, MINIMAL)
    (problem,) = caught.value.problems
    assert "pip install 'tunnelfleet[aws]'" in str(problem)


@pytest.mark.parametrize(
    ("text", "thing"),
    [
        ("press-4", "press-4"),
        ("press-", "press-"),
        ("Press-4", None),
        ("press-4:SSH", None),
        ("press-4.", None),
        ("ssh.press-4", None),
        ("press-" + "4" * 123, None),
        ("Valve", "Valve"),
        ("valve", "Valve"),
        ("pump:1", "pump:1"),
        ("pump:1:SSH", None),
        ("twin", None),
        ("twin-a", "twin-a"),
        ("", None),
    ],
)
def test_which_things_are_meant(tmp_path: Path, text: str, thing: str | None) -> None:
    names = '["press-*", "Valve", "pump:*", "twin-a", "twin-A", "[ab]-?"]'
    found = read(tmp_path, MINIMAL.replace('["press-*"]', names))
    assert found.thing_of(text) == thing
    assert found.thing_of("TWIN-A") is None
    assert found.thing_of("a-1") == "a-1"
