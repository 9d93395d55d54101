"""The plugin as pytest has it: what it loads, its markers, and what it says of mistakes."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tunnelfleet.runtime.testing import ConnectedPair, LocalService

pytest_plugins = ["pytester"]

LOADED = """
import json, sys
import pytest, inspect
before = set(sys.modules)
import tunnelfleet.pytest_plugin
print(json.dumps(sorted(set(sys.modules) - before)))
"""

LOADED_BY_A_RUN = """
import sys


def test_nothing_is_loaded():
    heavy = "aiohttp", "boto3", "botocore", "cryptography", "pykka", "tunnelfleet.runtime", "uvloop"
    assert [name for name in heavy if name in sys.modules] == []
    assert "tunnelfleet.pytest_plugin" in sys.modules
"""

MISTAKES = """
import pytest
from tunnelfleet import ConfigError


@pytest.mark.tunnel_service(tsl=True)
def test_no_such_option(tunnel_service):
    pass


@pytest.mark.tunnel_pair("SSH")
def test_a_text_for_a_list(tunnel_pair):
    pass


@pytest.mark.tunnel_pair({"HTTP": "127.0.0.1:9"})
def test_it_leads_elsewhere(tunnel_pair):
    tunnel_pair.open()


def test_there_is_no_such_service(tunnel_pair):
    tunnel_pair.port("HTTP")


def test_without_the_extra(tunnel_service, tunnel_pair, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    near, far = tunnel_pair.open()
    near.sendall(b"x")
    assert far.recv(1) == b"x"
    tunnel_service.client()
"""


def test_it_loads_nothing_but_itself() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED], capture_output=True, text=True, check=True, timeout=60
    )
    assert json.loads(done.stdout) == ["tunnelfleet", "tunnelfleet.pytest_plugin"]


def test_other_runs_load_nothing(pytester: pytest.Pytester) -> None:
    # With all plugins of this environment: so the installed package says that it has this one.
    pytester.makepyfile(LOADED_BY_A_RUN)
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


@pytest.fixture
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other plugins of this environment take a second to load."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTEST_PLUGINS", "tunnelfleet.pytest_plugin")


@pytest.mark.usefixtures("_alone")
def test_a_mistake_is_said_with_what_to_do(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(MISTAKES)
    found = pytester.runpytest_subprocess("--strict-markers", "-W", "error")
    found.assert_outcomes(failed=3, errors=2)
    found.stdout.fnmatch_lines_random(
        [
            "@pytest.mark.tunnel_service has no option tsl; it has tls, region, *",
            "E  *ConfigError: service ids are given as a list: ?'SSH'?",
            "E  *ConfigError: HTTP leads to 127.0.0.1:9: only its near side can be opened *",
            "E  *ConfigError: no sockets for 'HTTP': this pair has TEST",
            "E  *ConfigError: * needs botocore, *; install it with: pip install 'tunnelfleet?aws?'",
        ]
    )


@pytest.mark.usefixtures("_alone")
def test_fixtures_and_markers_are_listed(pytester: pytest.Pytester) -> None:
    markers = pytester.runpytest_subprocess("--markers").stdout
    markers.fnmatch_lines_random(["@pytest.mark.tunnel_service*", "@pytest.mark.tunnel_pair*"])
    fixtures = pytester.runpytest_subprocess("--fixtures").stdout
    fixtures.fnmatch_lines_random(
        [
            "tunnel_service -- *",
            "tunnel_service_factory -- *",
            "tunnel_service_session*-- *",
            "tunnel_pair -- *",
            "tunnel_pair_factory -- *",
        ]
    )


@pytest.mark.tunnel_service(tls=True)
@pytest.mark.tunnel_pair(["SSH"])
def test_here_too(
    tunnel_service: LocalService,
    tunnel_pair: ConnectedPair,
    tunnel_service_factory: Callable[..., LocalService],
    tunnel_pair_factory: Callable[..., ConnectedPair],
) -> None:
    other = tunnel_service_factory()
    pairs = [tunnel_pair, tunnel_pair_factory(["SSH"]), tunnel_pair_factory(service=other)]
    assert [pair.service for pair in pairs] == [tunnel_service, tunnel_service, other]
    for pair in pairs:
        near, far = pair.open()
        near.sendall(b"x")
        assert far.recv(1) == b"x"
    assert (tunnel_service.service.has_tls, other.service.has_tls) == (True, False)
