"""What a tunnel is told: every accepted form, every refusal that says what to write instead."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnelfleet.actors.addresses import Address, HttpProxy, TcpAddress, UnixAddress, parse_address
from tunnelfleet.actors.config import ANY_SERVICE, ApiService, Limits, TunnelConfig
from tunnelfleet.actors.kernel import Backoff
from tunnelfleet.proto import MAX_PAYLOAD_BYTES, ConfigError, Endpoint, Mode, ProtocolVersion

ENDPOINT = Endpoint("wss", "localhost", 8443)
CLIENT_TOKEN = "0123456789abcdef0123456789abcdef"


def make(**changes: object) -> TunnelConfig:
    settings: dict[str, object] = {
        "name": "press-4",
        "mode": Mode.SOURCE,
        "endpoint": ENDPOINT,
        "access_token": "secret-access-token",
    }
    return TunnelConfig(**(settings | changes))  # type: ignore[arg-type]


# -- addresses


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("22", TcpAddress("127.0.0.1", 22)),
        ("0", TcpAddress("127.0.0.1", 0)),
        ("65535", TcpAddress("127.0.0.1", 65_535)),
        (" 22 ", TcpAddress("127.0.0.1", 22)),
        ("host:22", TcpAddress("host", 22)),
        ("host.example:0", TcpAddress("host.example", 0)),
        ("10.0.0.7:8080", TcpAddress("10.0.0.7", 8080)),
        ("[::1]:22", TcpAddress("::1", 22)),
        ("[fe80::1%eth0]:22", TcpAddress("fe80::1%eth0", 22)),
        ("/run/app.sock", UnixAddress("/run/app.sock")),
        ("run/app.sock", UnixAddress("run/app.sock")),
        ("unix:app.sock", UnixAddress("app.sock")),
        ("unix:/run/app.sock", UnixAddress("/run/app.sock")),
        ("/run/a:22", UnixAddress("/run/a:22")),
    ],
)
def test_an_address_is_read(text: str, expected: Address) -> None:
    assert parse_address(text) == expected


def test_a_bare_port_takes_the_default_host() -> None:
    assert parse_address("22", default_host="::1") == TcpAddress("::1", 22)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        ":",
        ":22",
        "host:",
        "host",
        "65536",
        "host:65536",
        "-1",
        "+1",
        "1_0",
        "٢٢",
        "22.0",
        "::1",
        "::1:22",
        "a:b:22",
        "[::1]",
        "[::1:22",
        "[]:22",
        "unix:",
    ],
)
def test_what_is_no_address_is_quoted_with_the_forms_to_write(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_address(text)
    assert repr(text.strip()) in str(caught.value)


def test_a_unix_path_must_fit_the_kernel_s_structure() -> None:
    assert parse_address("/" + "a" * 106) == UnixAddress("/" + "a" * 106)
    with pytest.raises(ConfigError, match="107 bytes"):
        parse_address("/" + "a" * 107)


def test_a_unix_path_is_measured_in_bytes() -> None:
    with pytest.raises(ConfigError):
        parse_address("/" + "ä" * 54)


addresses = st.one_of(
    st.builds(
        TcpAddress,
        st.sampled_from(["localhost", "10.0.0.7", "::1", "fe80::1"]),
        st.integers(0, 65_535),
    ),
    st.builds(UnixAddress, st.text("abc._-", min_size=1, max_size=20).map("/run/{}".format)),
)


@given(addresses)
def test_what_is_printed_can_be_read(address: Address) -> None:
    assert parse_address(str(address)) == address


@given(st.text(max_size=30))
def test_any_text_is_an_address_or_a_config_error(text: str) -> None:
    try:
        address = parse_address(text)
    except ConfigError:
        return
    if isinstance(address, TcpAddress):
        assert address.host
        assert 0 <= address.port <= 65_535
    else:
        assert 1 <= len(address.path.encode()) <= 107


# -- proxies


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("proxy:3128", HttpProxy("proxy", 3128)),
        ("http://proxy:3128", HttpProxy("proxy", 3128)),
        ("http://proxy:3128/", HttpProxy("proxy", 3128)),
        ("http://[::1]:3128", HttpProxy("::1", 3128)),
        ("http://user:pass@proxy:3128", HttpProxy("proxy", 3128, "user", "pass")),
        ("http://us%40er:p%3Ass@proxy:3128", HttpProxy("proxy", 3128, "us@er", "p:ss")),
        ("http://:pass@proxy:3128", HttpProxy("proxy", 3128, "", "pass")),
        ("http://user@proxy:3128", HttpProxy("proxy", 3128, "user")),
        ("http://user:%FF@proxy:3128", HttpProxy("proxy", 3128, "user", "\udcff")),
        ("https://user:pass@proxy:443", HttpProxy("proxy", 443, "user", "pass", is_tls=True)),
        ("HTTPS://proxy:3129/", HttpProxy("proxy", 3129, is_tls=True)),
    ],
)
def test_a_proxy_is_read(text: str, expected: HttpProxy) -> None:
    assert HttpProxy.parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "proxy",
        "http://proxy",
        "http://hidden:hidden@proxy",
        "https://hidden:hidden@proxy",
        "http://hidden:hid#den@proxy:3128",
        "http://hidden:hid/den@proxy:3128",
        "http://proxy:3128?hidden",
        "socks5://hidden:hidden@proxy:1080",
        "http://hidden:hidden@proxy:0",
        "http://hidden:hidden@proxy:99999",
        "http://hidden:hidden@proxy:port",
        "http://hidden:hidden@:3128",
        "http://hidden:hidden@proxy:3128/path",
        "http://hidden:hidden@[::1:3128",
        "http://hidden:hidden@[nonsense]:3128",
    ],
)
def test_what_is_no_proxy_is_refused_without_its_credentials(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        HttpProxy.parse(text)
    assert "hidden" not in str(caught.value)
    assert "HOST:PORT" in str(caught.value)


def test_a_proxy_does_not_show_its_credentials() -> None:
    proxy = HttpProxy("::1", 3128, "hidden", "hidden")
    assert str(proxy) == "[::1]:3128"
    assert "hidden" not in repr(proxy)
    assert str(HttpProxy("p", 443, "hidden", "hidden", is_tls=True)) == "https://p:443"


# -- limits


def test_the_defaults_are_valid_and_within_the_protocol() -> None:
    limits = Limits()
    assert limits.data_payload_bytes == MAX_PAYLOAD_BYTES
    assert isinstance(limits.backoff, Backoff)


@pytest.mark.parametrize("name", [n for n in Limits.__dataclass_fields__ if n != "backoff"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_every_limit_must_be_positive(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=name):
        Limits(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ({"max_connections": "3"}, "max_connections is str, but has to be a number"),
        ({"stop_timeout_seconds": None}, "stop_timeout_seconds is NoneType"),
        ({"data_payload_bytes": 1_000.0}, "data_payload_bytes is 1000.0, but .* a whole number"),
        ({"backoff": 5}, "backoff is int, no Backoff"),
    ],
)
def test_a_limit_of_another_kind_is_named(limits: dict[str, Any], says: str) -> None:
    with pytest.raises(TypeError, match=says):
        Limits(**limits)


def test_a_payload_above_the_protocol_s_is_refused() -> None:
    assert Limits(data_payload_bytes=MAX_PAYLOAD_BYTES).data_payload_bytes == MAX_PAYLOAD_BYTES
    with pytest.raises(ConfigError, match="64512"):
        Limits(data_payload_bytes=MAX_PAYLOAD_BYTES + 1)


# -- tunnels


def test_a_source_may_leave_its_services_to_the_announcement() -> None:
    config = make()
    assert config.services is None
    assert config.version is ProtocolVersion.V3


def test_tokens_are_in_no_repr() -> None:
    config = make(client_token=CLIENT_TOKEN, http_proxy=HttpProxy("proxy", 1, "user", "hidden"))
    text = f"{config!r} {config}"
    assert "secret-access-token" not in text
    assert CLIENT_TOKEN not in text
    assert "hidden" not in text
    assert "press-4" in text


def test_a_mode_may_be_given_as_text() -> None:
    assert make(mode="source").mode is Mode.SOURCE


def test_a_version_may_be_given_as_text() -> None:
    assert make(version="V2").version is ProtocolVersion.V2
    with pytest.raises(ConfigError, match="'V4' is no version of the protocol; write V1, V2 or V3"):
        make(version="V4")
    with pytest.raises(TypeError, match=r"version is int, but has to be ProtocolVersion\.V1"):
        make(version=3)


def test_services_cannot_be_changed_from_outside() -> None:
    services = {"SSH": TcpAddress("127.0.0.1", 22)}
    config = make(services=services)
    services["HTTP"] = TcpAddress("127.0.0.1", 80)
    assert config.services is not None
    assert list(config.services) == ["SSH"]
    with pytest.raises(TypeError):
        config.services["HTTP"] = TcpAddress("127.0.0.1", 80)  # type: ignore[index]


def test_an_address_for_any_service_stands_alone() -> None:
    address = TcpAddress("127.0.0.1", 22)
    assert make(services={ANY_SERVICE: address}).services == {ANY_SERVICE: address}
    with pytest.raises(ConfigError, match="mixes"):
        make(services={ANY_SERVICE: address, "SSH": address})


def test_port_zero_is_for_sources() -> None:
    free = {"SSH": TcpAddress("127.0.0.1", 0)}
    assert make(services=free).services == free
    with pytest.raises(ConfigError, match="SSH"):
        make(mode=Mode.DESTINATION, services=free)


ONE = TcpAddress("127.0.0.1", 22)
SOURCE_V1 = {"version": ProtocolVersion.V1}
SOURCE_V2 = {"version": ProtocolVersion.V2}
DESTINATION = {"mode": Mode.DESTINATION}


@pytest.mark.parametrize(
    ("changes", "announced", "says"),
    [
        # One address, and which tunnels it is for.
        ({"services": {"": ONE}}, ("SSH", "WEB"), "give each service its address (SSH=..., WEB="),
        ({"services": {"": ONE}}, ("SSH",), ""),
        ({"services": {"": ONE}}, (), ""),
        ({"services": {"": ONE}, **DESTINATION}, ("SSH", "WEB"), ""),
        ({"services": {"": ApiService()}}, ("SSH", "WEB"), ""),
        # Names that the tunnel has, or has not.
        ({"services": {"SSH": ONE}}, ("SSH", "WEB"), ""),
        ({"services": {"SSH": ONE, "X": ONE}}, ("SSH",), ""),
        ({"services": {"X": ONE}}, ("SSH",), "has the services SSH, and what is mapped is X"),
        ({"services": {"X": ONE}, **DESTINATION}, ("SSH",), "a service that it has"),
        ({"services": {"X": ONE}, **DESTINATION}, (), "without naming a service"),
        ({"services": {"X": ONE}}, (), ""),
        ({"services": None}, ("SSH", "WEB"), ""),
        # Versions that cannot tell services apart.
        ({"services": None, **SOURCE_V1}, ("SSH", "WEB"), "V1 is for a tunnel with one service"),
        ({"services": {"SSH": ONE}, **SOURCE_V1}, ("SSH", "WEB"), "V1 is for a tunnel with one"),
        ({"services": {"SSH": ONE}, **SOURCE_V1}, ("SSH",), ""),
        ({"services": {"": ONE}, **SOURCE_V1}, ("SSH",), ""),
        ({"services": None, **SOURCE_V1}, (), ""),
        ({"services": {"SSH": ONE}, **SOURCE_V1}, (), "V1 cannot name a service"),
        ({"services": {"": ONE}, **SOURCE_V2}, (), ""),
        ({"services": None, **SOURCE_V2}, (), ""),
    ],
)
def test_what_cannot_work_with_the_services_is_told(
    changes: dict[str, object], announced: tuple[str, ...], says: str
) -> None:
    found = make(**changes).mismatch(announced)
    assert says in found
    assert bool(found) is bool(says)


def test_where_to_listen_for_announced_services_is_for_sources_alone() -> None:
    listen_on = {"SSH": ONE}
    assert make(listen_on=listen_on).listen_on == listen_on
    assert make().listen_on == {}
    for changes in ({"services": {"SSH": ONE}}, {"services": {"SSH": ONE}, **DESTINATION}):
        with pytest.raises(ConfigError, match="listen_on"):
            make(listen_on=listen_on, **changes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": ""}, "tunnel name"),
        ({"name": "a\nb"}, "tunnel name"),
        ({"name": "a" * 201}, "tunnel name"),
        ({"mode": "both"}, "bad mode 'both': it is 'source' or 'destination'"),
        ({"access_token": ""}, "access token"),
        ({"access_token": "secret token"}, "access token"),
        ({"client_token": "secret"}, "client token"),
        ({"services": {}}, "services"),
        ({"mode": Mode.DESTINATION}, "services"),
        ({"bandwidth_bytes_per_second": 0}, "bandwidth"),
        ({"bandwidth_bytes_per_second": -1.0}, "bandwidth"),
        ({"bandwidth_bytes_per_second": float("nan")}, "bandwidth"),
    ],
)
def test_a_setting_out_of_its_range_is_named(changes: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(**changes)
    assert says in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("keepalive_idle_seconds", 32_767),
        ("keepalive_interval_seconds", 32_767),
        ("keepalive_count", 127),
    ],
)
def test_keepalive_is_what_the_kernel_takes(name: str, most: int) -> None:
    fits: Any = {name: most}
    too_much: Any = {name: most + 1}
    assert getattr(Limits(**fits), name) == most
    with pytest.raises(ConfigError, match=f"{name} is {most + 1}: it must be at most {most}"):
        Limits(**too_much)


@pytest.mark.parametrize("name", [each.name for each in fields(Limits) if each.name != "backoff"])
def test_no_limit_is_above_what_the_kernel_takes(name: str) -> None:
    for value in (2**31, 1e300, math.inf):
        with pytest.raises(ConfigError, match=f"{name} is .*: (it must be|the protocol)"):
            Limits(**{name: value})  # type: ignore[arg-type]
