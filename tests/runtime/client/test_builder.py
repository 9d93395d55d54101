"""SecureTunnelBuilder: every option arrives; what was built does not change."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import pytest

from tunnelfleet.runtime import (
    ConfigError,
    Limits,
    Mode,
    ProtocolVersion,
    SecureTunnelBuilder,
    TcpAddress,
    TunnelRuntime,
)
from tunnelfleet.runtime.client.options import CALLBACKS, SecureTunnelOptions

if TYPE_CHECKING:
    from tunnelfleet.runtime import SecureTunnel

CLIENT_TOKEN = "c" * 32


def builder() -> SecureTunnelBuilder:
    return SecureTunnelBuilder("secret-token", "destination", "wss://localhost:8443")


def test_the_least_is_enough() -> None:
    tunnel = builder().build()
    assert tunnel.mode is Mode.DESTINATION
    assert str(tunnel.endpoint) == "wss://localhost:8443"
    assert len(tunnel._config.client_token or "") == 36
    assert not tunnel._half_close
    assert tunnel._config.marks
    assert tunnel._config.pacing


def test_every_option_arrives() -> None:
    context = ssl.create_default_context()
    runtime = TunnelRuntime()
    tunnel = (
        builder()
        .with_client_token(CLIENT_TOKEN)
        .with_tls_context(context)
        .with_http_proxy("http://user:pw@proxy:3128")
        .with_bandwidth(100_000)
        .with_version("V2")
        .with_limits(Limits(send_high_water_messages=7))
        .with_half_close()
        .with_marks(False)
        .with_pacing(False)
        .with_name("press-4")
        .with_services({"SSH": "127.0.0.1:22"})
        .with_runtime(runtime)
        .build()
    )
    config = tunnel._config
    assert config.client_token == CLIENT_TOKEN
    assert config.ssl_context is context
    assert str(config.http_proxy) == "proxy:3128"
    assert config.bandwidth_bytes_per_second == 100_000
    assert config.version is ProtocolVersion.V2
    assert tunnel.limits.send_high_water_messages == 7
    assert tunnel._half_close
    assert not config.marks
    assert not config.pacing
    assert tunnel.name == config.name == "press-4"
    assert (config.services or {})["SSH"] == TcpAddress("127.0.0.1", 22)
    assert tunnel._given_runtime is runtime


@pytest.mark.parametrize("name", CALLBACKS)
def test_every_callback_has_its_method(name: str) -> None:
    def callback(_tunnel: SecureTunnel, _event: Any) -> None: ...

    built = getattr(builder(), f"with_{name}")(callback).build()
    assert built._callbacks == {CALLBACKS[name]: callback}


def test_the_older_name_is_an_alias() -> None:
    def callback(_tunnel: SecureTunnel, _event: Any) -> None: ...

    built = builder().with_on_send_data_complete(callback).build()
    assert built._callbacks == {CALLBACKS["on_send_message_complete"]: callback}


def test_every_option_has_a_method() -> None:
    for name in SecureTunnelOptions.__annotations__:
        assert callable(getattr(SecureTunnelBuilder, f"with_{name}"))


def test_what_was_built_does_not_change_with_its_builder() -> None:
    services = {"SSH": "127.0.0.1:22"}
    making = builder().with_name("first").with_services(services)
    first = making.build()
    services["SSH"] = "127.0.0.1:23"
    services["X"] = "127.0.0.1:24"
    second = making.with_name("second").with_on_stopped(print).build()
    for tunnel in (first, second):
        assert "X" not in (tunnel._config.services or {})
    assert first.name == "first"
    assert first._callbacks == {}
    with pytest.raises(TypeError):
        first._config.services["SSH"] = TcpAddress("x", 1)  # type: ignore[index]


def test_two_clients_of_one_builder_have_client_tokens_of_their_own() -> None:
    making = builder()
    assert making.build()._config.client_token != making.build()._config.client_token


def test_no_token_is_shown() -> None:
    making = builder().with_client_token(CLIENT_TOKEN)
    for shown in (repr(making), repr(making.build())):
        assert "secret" not in shown
        assert CLIENT_TOKEN not in shown


def test_errors_come_with_build() -> None:
    making = builder().with_bandwidth(-1)
    with pytest.raises(ConfigError, match="bandwidth"):
        making.build()
