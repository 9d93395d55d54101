from __future__ import annotations

import json

import pytest

from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime.cli.localproxy.settings import Settings, default_settings, parse_settings

EXPORTED_BY_LOCALPROXY = """{ "tunneling": { "proxy": {
  "default_bind_address": "localhost",
  "message": {"data_length_size": "2", "max_payload_size": "64512", "max_size": "65536"},
  "tcp": {"connection_retry_count": "5", "connection_retry_delay_ms": "1000",
          "read_buffer_size": "131076"},
  "websocket": {"ping_period_ms": "5000", "retry_delay_ms": "2500", "connect_retry_count": "-1",
                "reconnect_on_data_error": "true", "subprotocol": "aws.iot.securetunneling-1.0",
                "max_frame_size": "131076", "write_buffer_size": "131076",
                "read_buffer_size": "131076"}}}}"""


def proxy(**settings: object) -> str:
    return json.dumps({"tunneling": {"proxy": settings}})


def test_what_localproxy_exports_is_understood() -> None:
    settings = parse_settings(EXPORTED_BY_LOCALPROXY, "f.json")
    assert settings.bind_address == "localhost"
    assert settings.payload_bytes == 64_512
    assert settings.ping_interval_seconds == 5.0
    assert settings.retry_min_seconds == 2.5
    assert settings.retry_count == -1
    assert settings.reconnect is True
    assert len(settings.notes) == 1
    assert settings.notes[0].startswith("f.json: these have no effect here: message.data_length")
    assert "tcp.read_buffer_size" in settings.notes[0]
    assert "ping_period" not in settings.notes[0]


def test_a_setting_that_nobody_knows_is_told_and_has_no_effect() -> None:
    text = proxy(websocket={"ping_perod_ms": 1, "ping_period_ms": 7000})
    settings = parse_settings(text, "f.json")
    (warning,) = settings.warnings
    assert warning == (
        "f.json: tunneling.proxy.websocket.ping_perod_ms: there is no such setting; "
        "did you mean 'tunneling.proxy.websocket.ping_period_ms'?; it has no effect"
    )
    assert settings.ping_interval_seconds == 7.0


def test_the_exported_defaults_are_the_defaults() -> None:
    assert parse_settings(default_settings(), "f") == Settings(bind_address="127.0.0.1")


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        (proxy(message={"max_payload_size": 16384}), "payload_bytes", 16_384),
        (proxy(tcp={"max_active_connections": "7"}), "max_connections", 7),
        (proxy(websocket={"connect_retry_count": 3}), "retry_count", 3),
        (proxy(websocket={"reconnect_on_data_error": False}), "reconnect", False),
        (proxy(websocket={"reconnect_on_data_error": "0"}), "reconnect", False),
        (proxy(websocket={"reconnect_on_data_error": 1}), "reconnect", True),
        (proxy(endpoint_format="t.%s.example"), "endpoint_format", "t.%s.example"),
        (
            proxy(region_endpoint_overrides={"cn-north-1": "t.example.cn"}),
            "region_endpoints",
            {"cn-north-1": "t.example.cn"},
        ),
        ('{"tunneling.proxy.default_bind_address": "::1"}', "bind_address", "::1"),
        ("{}", "bind_address", None),
    ],
)
def test_a_setting(text: str, field: str, value: object) -> None:
    assert getattr(parse_settings(text, "f.json"), field) == value


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"a":\n 1,}', "f.json:2: not JSON"),
        (f'{{"a": {"1" * 5_000}}}', "f.json: a number has too many digits"),
        ("[]", "f.json: write a JSON object"),
        ("[" * 100_000, "f.json"),
        (proxy(websocket={"ping_period_ms": 0}), "write a number from 1 to"),
        (
            proxy(websocket={"ping_period_ms": "soon"}),
            'write a number from 1 to 86400000, not "soon"',
        ),
        (proxy(websocket={"ping_period_ms": True}), "write a number"),
        (proxy(websocket={"ping_period_ms": 1.5}), "write a number"),
        (proxy(websocket={"ping_period_ms": None}), "write a number"),
        (proxy(websocket={"connect_retry_count": -2}), "write a number from -1"),
        (proxy(message={"max_payload_size": 64_513}), "write a number from 1 to 64512"),
        (proxy(tcp={"max_active_connections": 0}), "write a number from 1"),
        (proxy(websocket={"retry_delay_ms": [1]}), "not a list"),
        (proxy(websocket={"reconnect_on_data_error": "maybe"}), "write true or false"),
        (proxy(default_bind_address=5), "write a text, not 5"),
        (proxy(endpoint_format="t.example"), "with one %s"),
        (proxy(endpoint_format="%s%s"), "with one %s"),
        (proxy(region_endpoint_overrides={"x": ""}), 'write a text, not ""'),
    ],
)
def test_a_mistake_is_told(text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_settings(text, "f.json")
    assert problem in str(caught.value)
    assert str(caught.value).startswith("f.json")
