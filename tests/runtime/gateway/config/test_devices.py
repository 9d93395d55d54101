"""`[[notify]]` as it is read: what the files mean for brokers and tunnels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tunnelfleet.runtime import Endpoint
from tunnelfleet.runtime.gateway.config import ConfigProblems, FleetConfig, load
from tunnelfleet.runtime.service.tls import ensure_certificate

if TYPE_CHECKING:
    from pathlib import Path

DEFAULTS = """
[defaults]
endpoint = "ws://127.0.0.1:7"
labels = { site = "lyon" }
restart = { min_seconds = 0.5 }
limits = { max_connections = 7 }
"""
SECTION = """
[[notify]]
broker = "mqtts://127.0.0.1:1883"
things = ["press-4", "press-5"]
services = { SSH = "{thing}.lan:22", HTTP = 80 }
"""


def read(folder: Path, text: str) -> FleetConfig:
    (folder / "fleet.toml").write_text(text)
    return load([folder / "fleet.toml"], {"STATE_DIRECTORY": str(folder / "state")})


def test_all_keys_arrive(tmp_path: Path) -> None:
    files = ensure_certificate(tmp_path, "127.0.0.1")
    (tmp_path / "password").write_text("sesame\n")
    (tmp_path / "password").chmod(0o600)
    more = f"""
cert_file = "{files.certificate}"
key_file = "{files.private_key}"
ca = "ca.pem"
username = "gw"
password_file = "password"
client_id = "plant-7"
endpoint = "wss://127.0.0.1:9"
endpoint_ca = "ca.pem"
http_proxy = "http://127.0.0.1:3128"
bind = "127.0.0.2"
labels = {{ line = "a" }}
tunnels_per_thing = 3
subscriptions_per_connection = 20
limits = {{ linger_seconds = 3 }}
"""
    config = read(tmp_path, DEFAULTS + SECTION + more)
    (section,) = config.notify
    broker = section.broker
    assert (broker.username, broker.password, broker.client_id) == ("gw", "sesame", "plant-7")
    assert (broker.subscriptions, section.tunnels_per_thing) == (20, 3)
    assert broker.make_ssl_context() is not None
    assert "sesame" not in repr(section)
    assert section.things == ("press-4", "press-5")
    assert section.services == {"SSH": "{thing}.lan:22", "HTTP": 80}
    assert section.endpoint == Endpoint.parse("wss://127.0.0.1:9")
    assert section.ca == str(tmp_path / "ca.pem")
    assert section.ssl_context is not None
    assert (section.bind, str(section.http_proxy)) == ("127.0.0.2", "127.0.0.1:3128")
    assert section.labels == {"site": "lyon", "line": "a"}
    assert section.limits.max_connections == 7
    assert section.limits.linger_seconds == 3
    assert section.limits.backoff.min_seconds == 0.5
    assert section.place == f"{tmp_path / 'fleet.toml'}:8"
    watched = {"password", "ca.pem", files.certificate.name, files.private_key.name}
    assert {tmp_path / each for each in watched} <= config.files


def test_defaults_and_what_is_made(tmp_path: Path) -> None:
    (plain,) = read(tmp_path, SECTION).notify
    assert plain.endpoint is None
    assert plain.ssl_context is not None  # for AWS in the region of a notification
    assert plain.broker.subscriptions == 50
    (again,) = read(tmp_path, SECTION).notify
    assert again == plain
    (other,) = read(tmp_path, '[gateway]\nname = "other gw"\n' + SECTION).notify
    assert other.broker.client_id.startswith("tunnelfleet-other-gw-")
    assert other.broker.client_id != plain.broker.client_id
    (of_defaults,) = read(tmp_path, DEFAULTS + SECTION).notify
    assert of_defaults.endpoint == Endpoint.parse("ws://127.0.0.1:7")


def test_a_certificate_that_was_replaced_is_another_broker(tmp_path: Path) -> None:
    files = ensure_certificate(tmp_path, "127.0.0.1")
    text = SECTION + f'cert_file = "{files.certificate}"\nkey_file = "{files.private_key}"\n'
    (before,) = read(tmp_path, text).notify
    (tmp_path / "other").mkdir()
    others = ensure_certificate(tmp_path / "other", "127.0.0.1")
    files.certificate.write_bytes(others.certificate.read_bytes())
    files.private_key.write_bytes(others.private_key.read_bytes())
    (after,) = read(tmp_path, text).notify
    assert before.broker != after.broker
    assert before.broker.client_id == after.broker.client_id


def test_sections_of_one_broker_share_it(tmp_path: Path) -> None:
    second = SECTION.replace("press-", "oven-")
    one, two = read(tmp_path, SECTION + second).notify
    assert one.broker == two.broker
    assert set(one.things).isdisjoint(two.things)


def test_a_thing_twice_in_one_list_is_a_warning(tmp_path: Path) -> None:
    config = read(tmp_path, SECTION.replace('"press-5"', '"press-4"'))
    (warning,) = config.warnings
    assert "stands there twice" in str(warning)
    assert config.notify[0].things == ("press-4",)


def test_without_paho_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "tunnelfleet.runtime.gateway.config.devices.PACKAGE", "a_package_that_is_not_there"
    )
    with pytest.raises(ConfigProblems, match=r"pip install 'tunnelfleet\[mqtt\]'"):
        read(tmp_path, SECTION)
