"""What cannot work is refused before anything is opened, with a text that helps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tunnelfleet.runtime import (
    ANY_SERVICE,
    ApiService,
    ConfigError,
    Mode,
    SecureTunnel,
    TcpAddress,
    UnixAddress,
    make_ssl_context,
)
from tunnelfleet.runtime.client.options import make_config

if TYPE_CHECKING:
    from pathlib import Path

GOOD = ("token", "source", "localhost")


@pytest.mark.parametrize(
    ("arguments", "options", "says"),
    [
        (("", "source", "localhost"), {}, "token"),
        (("tok en", "source", "localhost"), {}, "token"),
        (("token", "middle", "localhost"), {}, "'source' or 'destination'"),
        (("token", "source", "https://localhost"), {}, "endpoint"),
        (("token", "source", "localhost:0"), {}, "port"),
        (GOOD, {"client_token": "short"}, "client token"),
        (GOOD, {"root_ca": "/nowhere/ca.pem"}, "ca.pem"),
        (GOOD, {"http_proxy": "ftp://proxy"}, "proxy"),
        (GOOD, {"bandwidth": 0}, "bandwidth"),
        (GOOD, {"services": {"A": "nonsense"}}, "address"),
        (GOOD, {"name": "x" * 1_000}, "name"),
        (GOOD, {"on_stopped": "print"}, "on_stopped"),
        (GOOD, {"on_stoped": print}, "on_stoped"),
    ],
)
def test_it_is_refused(arguments: tuple[str, str, str], options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match="(?i)" + says):
        SecureTunnel(*arguments, **options)


def test_two_ways_to_trust_exclude_each_other(tmp_path: Path) -> None:
    context = make_ssl_context()
    with pytest.raises(ConfigError, match="root_ca"):
        SecureTunnel(*GOOD, root_ca=tmp_path / "ca.pem", tls_context=context)


@pytest.mark.parametrize("mode", ["source", "destination", Mode.SOURCE, Mode.DESTINATION])
def test_all_services_are_the_callbacks_unless_said(mode: Mode | str) -> None:
    config = make_config("token", mode, "localhost", {})
    assert config.services == {ANY_SERVICE: ApiService()}
    mixed = make_config(
        "token", mode, "localhost", {"services": {"A": "127.0.0.1:22", "B": "/run/b.sock"}}
    )
    assert mixed.services == {
        "A": TcpAddress("127.0.0.1", 22),
        "B": UnixAddress("/run/b.sock"),
        ANY_SERVICE: ApiService(),
    }


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("localhost", "wss://localhost"),
        ("localhost:8443", "wss://localhost:8443"),
        ("ws://127.0.0.1:8080", "ws://127.0.0.1:8080"),
        ("wss://[::1]:8443", "wss://[::1]:8443"),
    ],
)
def test_endpoints(endpoint: str, url: str) -> None:
    assert str(make_config("token", "source", endpoint, {}).endpoint) == url
