from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tunnelfleet.actors.addresses import Address, HttpProxy, TcpAddress, UnixAddress
from tunnelfleet.actors.config import Limits
from tunnelfleet.proto import ConfigError, Mode, ProtocolVersion
from tunnelfleet.runtime.cli.localproxy.config import NOWHERE, Plan, PlanBuilder
from tunnelfleet.runtime.cli.localproxy.options import Given, collect, parse_config
from tunnelfleet.runtime.cli.localproxy.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

TOKEN = "the-access-token"
CLIENT_TOKEN = "c" * 32
NAMES = {
    "t": "access-token",
    "i": "client-token",
    "e": "proxy-endpoint",
    "r": "region",
    "s": "source-listen-port",
    "d": "destination-app",
    "b": "local-bind-address",
    "c": "capath",
    "k": "no-ssl-host-verify",
    "v": "verbose",
    "m": "mode",
    "y": "destination-client-type",
}


def plan(
    *,
    env: Mapping[str, str] | None = None,
    file: str = "",
    mappings: Mapping[str, Given] | None = None,
    settings: Settings | None = None,
    **flags: str,
) -> Plan:
    """The plan of these flags, with an access token and a region unless they are given."""
    environ = {"AWSIOT_TUNNEL_ACCESS_TOKEN": TOKEN, **(env or {})}
    named = {NAMES.get(name, name.replace("_", "-")): text for name, text in flags.items()}
    given = collect(named, parse_config(file, "c.ini")[0], environ)
    return PlanBuilder(given, mappings, settings, environ).plan()


def local(**arguments: object) -> Plan:
    """The same for a service on this machine."""
    return plan(e="ws://127.0.0.1:8080", **arguments)  # type: ignore[arg-type]


class TestMode:
    @pytest.mark.parametrize(
        ("flags", "mode"),
        [
            ({"s": "5555"}, Mode.SOURCE),
            ({"d": "22"}, Mode.DESTINATION),
            ({"m": "source"}, Mode.SOURCE),
            ({"m": "src", "s": "5555"}, Mode.SOURCE),
            ({"m": "dst", "d": "22"}, Mode.DESTINATION),
            ({"m": "destination", "d": "22"}, Mode.DESTINATION),
        ],
    )
    def test_which_end(self, flags: dict[str, str], mode: Mode) -> None:
        assert local(**flags).config.mode is mode

    @pytest.mark.parametrize(
        ("flags", "problem"),
        [
            ({}, "say which end of the tunnel this is"),
            ({"s": "1", "d": "2"}, "option -s and option -d exclude each other"),
            ({"s": "1", "file": "destination-app = 2"}, "option -s and c.ini:1 exclude"),
            ({"m": "dst", "s": "1"}, "option -m says destination and option -s says source"),
            ({"m": "src", "d": "1"}, "option -m says source and option -d says destination"),
            ({"m": "both"}, "option -m: 'both' is not a mode"),
            ({"file": "\nmode = Source"}, "c.ini:2: 'Source' is not a mode"),
        ],
    )
    def test_mistakes(self, flags: dict[str, str], problem: str) -> None:
        with pytest.raises(ConfigError, match=f"^{problem}"):
            local(**flags)


class TestServices:
    @pytest.mark.parametrize(
        ("flags", "services"),
        [
            ({"m": "source"}, None),
            ({"s": "5555"}, {"": TcpAddress("127.0.0.1", 5555)}),
            ({"s": "5555", "b": "::1"}, {"": TcpAddress("::1", 5555)}),
            ({"s": "5555", "b": "[::1]"}, {"": TcpAddress("::1", 5555)}),
            (
                {"s": "SSH=5555,HTTP=0.0.0.0:8080"},
                {"SSH": TcpAddress("127.0.0.1", 5555), "HTTP": TcpAddress("0.0.0.0", 8080)},
            ),
            ({"s": "SSH=0"}, {"SSH": TcpAddress("127.0.0.1", 0)}),
            ({"d": "22"}, {"": TcpAddress("127.0.0.1", 22)}),
            ({"d": "22", "b": "10.0.0.9"}, {"": TcpAddress("127.0.0.1", 22)}),
            ({"d": "localhost:22"}, {"": TcpAddress("localhost", 22)}),
            ({"d": "[::1]:22"}, {"": TcpAddress("::1", 22)}),
            (
                {"d": "SSH=127.0.0.1:22,APP=/run/app.sock"},
                {"SSH": TcpAddress("127.0.0.1", 22), "APP": UnixAddress("/run/app.sock")},
            ),
        ],
    )
    def test_mapping(self, flags: dict[str, str], services: dict[str, Address] | None) -> None:
        config = local(**flags).config
        assert (None if config.services is None else dict(config.services)) == services

    @pytest.mark.parametrize(
        ("flags", "services"),
        [
            ({"m": "dst"}, {"SSH": TcpAddress("127.0.0.1", 1), "WEB": TcpAddress("h", 2)}),
            ({"d": "SSH=9"}, {"SSH": TcpAddress("127.0.0.1", 9), "WEB": TcpAddress("h", 2)}),
            ({"d": "9"}, {"": TcpAddress("127.0.0.1", 9)}),
        ],
    )
    def test_files_add_what_the_option_does_not_name(
        self, flags: dict[str, str], services: dict[str, Address]
    ) -> None:
        mappings = {"SSH": Given("1", "f:1"), "WEB": Given("h:2", "f:2")}
        assert dict(local(mappings=mappings, **flags).config.services or {}) == services

    @pytest.mark.parametrize(
        ("flags", "problem"),
        [
            ({"s": "SSH=http"}, "option -s: 'http' has no port; write for example http:22"),
            ({"d": "localhost"}, "option -d: 'localhost' has no port; write for example localho"),
            ({"d": "SSH=0"}, "option -d: port 0 cannot be connected to"),
            ({"d": "0"}, "option -d: port 0 cannot be connected to"),
            ({"s": "1", "b": "/x"}, "option -b: '/x' is not an address"),
        ],
    )
    def test_mistakes(self, flags: dict[str, str], problem: str) -> None:
        with pytest.raises(ConfigError, match=f"^{problem}"):
            local(**flags)

    @pytest.mark.parametrize("flags", [{"s": "1"}, {"d": "1"}])
    def test_an_empty_bind_address_is_none(self, flags: dict[str, str]) -> None:
        assert local(b="", **flags) == local(**flags)

    def test_a_destination_learns_the_services_before_it_misses_a_mapping(self) -> None:
        found = local(m="destination")
        assert not found.is_mapped
        assert found.config.services == {"": NOWHERE}
        assert local(m="source").is_mapped
        assert local(d="22").is_mapped

    def test_mappings_of_files_alone(self) -> None:
        mappings = {"SSH": Given("1", "f:1")}
        source, destination = local(m="src", mappings=mappings), local(m="dst", mappings=mappings)
        address = TcpAddress("127.0.0.1", 1)
        assert (source.config.services, source.config.listen_on) == (None, {"SSH": address})
        assert destination.config.services == {"SSH": address}
        assert source.from_files
        assert destination.from_files
        assert not local(d="WEB=1", mappings=mappings).from_files

    def test_the_bind_address_of_the_settings_is_for_sources(self) -> None:
        settings = Settings(bind_address="::1")
        source, destination = local(s="1", settings=settings), local(d="1", settings=settings)
        assert source.config.bind_host == "::1"
        assert source.config.services == {"": TcpAddress("::1", 1)}
        assert destination.config.local_bind is None

    def test_the_bind_address_of_a_destination_is_where_it_connects_from(self) -> None:
        assert local(d="22", b="10.0.0.9").config.local_bind == "10.0.0.9"
        assert local(s="22", b="10.0.0.9").config.local_bind is None


class TestEndpoint:
    @pytest.mark.parametrize(
        ("flags", "url"),
        [
            ({"r": "eu-west-1"}, "wss://data.tunneling.iot.eu-west-1.amazonaws.com"),
            ({"r": "cn-north-1"}, "wss://data.tunneling.iot.cn-north-1.amazonaws.com.cn"),
            ({"e": "h.example"}, "wss://h.example"),
            ({"e": "h.example:8443"}, "wss://h.example:8443"),
            ({"e": "ws://[::1]:80"}, "ws://[::1]"),
            ({"e": "wss://h.example/"}, "wss://h.example"),
            ({"env": {"AWSIOT_TUNNEL_ENDPOINT": "h"}}, "wss://h"),
            ({"env": {"AWSIOT_TUNNEL_REGION": "eu-west-1"}, "e": "h"}, "wss://h"),
            ({"file": "proxy-endpoint = h", "env": {"AWSIOT_TUNNEL_REGION": "a-b-1"}}, "wss://h"),
        ],
    )
    def test_where_to_connect(self, flags: dict[str, str], url: str) -> None:
        assert str(plan(s="1", **flags).config.endpoint) == url  # type: ignore[arg-type]

    def test_the_place_that_wins_is_told(self) -> None:
        notes = plan(s="1", e="h", env={"AWSIOT_TUNNEL_REGION": "eu-west-1"}).notes
        assert notes == ("option -e is used, not environment variable AWSIOT_TUNNEL_REGION",)

    @pytest.mark.parametrize(
        ("settings", "url"),
        [
            (Settings(endpoint_format="t.%s.example:99"), "wss://t.eu-west-1.example:99"),
            (Settings(region_endpoints={"eu-west-1": "o.example"}), "wss://o.example"),
            (
                Settings(region_endpoints={"eu-west-1": "o.example"}, endpoint_format="%s.x"),
                "wss://o.example",
            ),
        ],
    )
    def test_settings_change_a_region_s_endpoint(self, settings: Settings, url: str) -> None:
        assert str(plan(s="1", r="eu-west-1", settings=settings).config.endpoint) == url

    @pytest.mark.parametrize(
        ("flags", "problem"),
        [
            ({}, "no endpoint: give the tunnel's region"),
            ({"r": "eu-west-1", "e": "h"}, "option -r and option -e exclude each other"),
            ({"r": "nowhere"}, "option -r: "),
            ({"e": "http://h"}, "option -e: "),
            ({"e": "h:0"}, "option -e: "),
            ({"env": {"AWSIOT_TUNNEL_REGION": "?"}}, "environment variable AWSIOT_TUNNEL_REGION: "),
        ],
    )
    def test_mistakes(self, flags: dict[str, str], problem: str) -> None:
        with pytest.raises(ConfigError, match=f"^{problem}"):
            plan(s="1", **flags)  # type: ignore[arg-type]


class TestTokens:
    def test_the_token_of_the_environment_is_used_quietly(self) -> None:
        found = local(s="1")
        assert found.config.access_token == TOKEN
        assert found.warnings == ()

    def test_a_token_on_the_command_line_is_used_with_a_warning(self) -> None:
        found = local(s="1", t="other")
        assert found.config.access_token == "other"
        assert len(found.warnings) == 1
        assert "AWSIOT_TUNNEL_ACCESS_TOKEN" in found.warnings[0]
        assert "other" not in found.warnings[0]

    def test_a_token_of_a_file_is_used_quietly(self) -> None:
        found = local(s="1", file="access-token = filed")
        assert (found.config.access_token, found.warnings) == ("filed", ())

    def test_client_token(self) -> None:
        assert local(s="1").config.client_token is None
        assert local(s="1", i=CLIENT_TOKEN).config.client_token == CLIENT_TOKEN

    def test_a_client_token_with_an_underscore_is_sent_with_a_warning(self) -> None:
        token = "_" * 32
        found = local(s="1", i=token)
        assert found.config.client_token == token
        assert len(found.warnings) == 1
        assert "'_'" in found.warnings[0]
        assert token not in found.warnings[0]

    def test_no_token_says_both_ways_to_give_one(self) -> None:
        with pytest.raises(ConfigError, match=r"AWSIOT_TUNNEL_ACCESS_TOKEN .* with -t"):
            local(s="1", env={"AWSIOT_TUNNEL_ACCESS_TOKEN": ""})

    @pytest.mark.parametrize("quotes", ["''", '""', "``", "\u201c\u201d"])
    def test_a_token_in_quotes(self, quotes: str) -> None:
        token = f"{quotes[0]}hidden{quotes[1]}"
        with pytest.raises(ConfigError, match=r"^option -t: .*quotes") as caught:
            local(s="1", t=token)
        assert "hidden" not in str(caught.value)
        with pytest.raises(ConfigError, match=r"^c.ini:1: .*quotes"):
            plan(s="1", e="h", env={"AWSIOT_TUNNEL_ACCESS_TOKEN": ""}, file=f"access-token={token}")

    @pytest.mark.parametrize(
        ("flags", "problem"),
        [
            ({"env": {"AWSIOT_TUNNEL_ACCESS_TOKEN": ""}}, "no access token: set the environment"),
            ({"i": "_" * 31}, "option -i: the client token must be"),
            ({"t": ""}, "option -t: "),
            ({"t": "two words"}, "option -t: "),
            ({"i": "short"}, "option -i: "),
            ({"env": {"AWSIOT_TUNNEL_CLIENT_TOKEN": "x"}}, "environment variable AWSIOT_TUNNEL_C"),
        ],
    )
    def test_mistakes(self, flags: dict[str, str], problem: str) -> None:
        with pytest.raises(ConfigError, match=f"^{problem}") as caught:
            local(s="1", **flags)
        assert "two words" not in str(caught.value)

    def test_no_token_is_in_the_repr_of_a_plan(self) -> None:
        text = repr(local(s="1", i=CLIENT_TOKEN))
        assert TOKEN not in text
        assert CLIENT_TOKEN not in text


class TestProxy:
    def test_the_web_proxy_and_what_is_said_of_it(self) -> None:
        found = plan(s="1", r="eu-west-1", env={"HTTPS_PROXY": "http://u:hunter2@p"})
        assert found.config.http_proxy == HttpProxy("p", 3128, "u", "hunter2")
        assert found.notes == ("environment variable HTTPS_PROXY has no port; 3128 is taken",)
        assert "hunter2" not in repr(found)

    def test_a_proxy_of_another_kind(self) -> None:
        found = plan(s="1", e="h", env={"ALL_PROXY": "socks5://u:hunter2@p:1"})
        assert found.config.http_proxy is None
        assert len(found.warnings) == 1
        assert "hunter2" not in repr(found)


class TestOther:
    @pytest.mark.parametrize(
        ("flag", "level"), [(None, 4), ("0", 0), ("6", 6), ("7", 6), ("255", 6), ("03", 3)]
    )
    def test_verbosity(self, flag: str | None, level: int) -> None:
        assert local(s="1", **({} if flag is None else {"v": flag})).verbosity == level

    @pytest.mark.parametrize(
        ("flag", "version"),
        [("V1", ProtocolVersion.V1), ("v2", ProtocolVersion.V2), ("V3", ProtocolVersion.V3)],
    )
    def test_version(self, flag: str, version: ProtocolVersion) -> None:
        assert local(s="1", y=flag).config.version is version
        assert local(s="1").config.version is ProtocolVersion.V3

    def test_a_destination_takes_the_client_type_and_ignores_it(self) -> None:
        found = local(d="22", y="V1")
        assert found.config.version is ProtocolVersion.V3
        assert found.notes == ("option -y has no effect on a destination, which sees the version",)

    @pytest.mark.parametrize(
        ("flags", "file", "verify"),
        [
            ({}, "", True),
            ({"k": "true"}, "", False),
            ({}, "no-ssl-host-verify = true", False),
            ({}, "no-ssl-host-verify = no", True),
        ],
    )
    def test_verification(self, flags: dict[str, str], file: str, verify: bool) -> None:
        found = plan(s="1", e="h", file=file, **flags)  # type: ignore[arg-type]
        assert found.verify is verify
        assert bool(found.warnings) is not verify

    def test_pacing(self) -> None:
        assert local(s="5555").config.pacing
        assert not local(s="5555", no_pacing="true").config.pacing
        assert not local(s="5555", file="no-pacing = true").config.pacing

    @pytest.mark.parametrize(
        ("flags", "file", "marks"),
        [
            ({}, "", True),
            ({"no_marks": "true"}, "", False),
            ({}, "no-marks = true", False),
            ({}, "no-marks = no", True),
        ],
    )
    def test_marks(self, flags: dict[str, str], file: str, marks: bool) -> None:
        assert local(s="5555", file=file, **flags).config.marks is marks

    def test_there_is_nothing_to_verify_without_tls(self) -> None:
        assert local(s="1", k="true").warnings == ()

    def test_authorities(self) -> None:
        assert local(s="1", c="/etc/ca").ca_path == "/etc/ca"
        assert local(s="1").ca_path is None

    @pytest.mark.parametrize(
        ("rate", "bytes_per_second"), [("800kbit/s", 100_000), ("100kB/s", 100_000), ("5000", 5000)]
    )
    def test_bandwidth(self, rate: str, bytes_per_second: float) -> None:
        assert local(s="1", bandwidth=rate).config.bandwidth_bytes_per_second == bytes_per_second

    def test_limits(self) -> None:
        settings = Settings(
            payload_bytes=5,
            max_connections=6,
            ping_interval_seconds=7,
            retry_min_seconds=500,
            retry_count=8,
            reconnect=False,
            notes=("n",),
            warnings=("w",),
        )
        found = local(s="1", settings=settings)
        limits = found.config.limits
        assert (limits.data_payload_bytes, limits.max_connections) == (5, 6)
        assert limits.ping_interval_seconds == 7
        assert (limits.backoff.min_seconds, limits.backoff.max_seconds) == (500, 500)
        assert (found.retry_count, found.reconnect) == (8, False)
        assert (found.notes, found.warnings) == (("n",), ("w",))

    def test_the_option_for_the_payload_wins_over_the_settings(self) -> None:
        found = local(s="1", payload_bytes="16384", settings=Settings(payload_bytes=5))
        assert found.config.limits.data_payload_bytes == 16_384

    def test_defaults_are_the_defaults(self) -> None:
        assert local(s="1").config.limits == Limits()

    @pytest.mark.parametrize(
        ("flags", "problem"),
        [
            ({"v": "loud"}, "option -v: 'loud' is not a number from 0 to 255"),
            ({"v": "256"}, "option -v: '256' is not a number"),
            ({"v": "-1"}, "option -v: '-1' is not a number"),
            ({"v": "9" * 50}, "option -v: '9+' is not a number"),
            ({"y": "V4"}, "option -y: 'V4' is no version of the protocol; write V1, V2 or V3"),
            ({"bandwidth": "fast"}, "option --bandwidth: "),
            ({"bandwidth": "0"}, "option --bandwidth: "),
            ({"payload_bytes": "0"}, "option --payload-bytes: '0' is not a number from 1 to 64512"),
            ({"payload_bytes": "64513"}, "option --payload-bytes: "),
            ({"file": "no-ssl-host-verify = x"}, "c.ini:1: 'x' is neither true nor false"),
        ],
    )
    def test_mistakes(self, flags: dict[str, str], problem: str) -> None:
        with pytest.raises(ConfigError, match=f"^{problem}"):
            local(s="1", **flags)
