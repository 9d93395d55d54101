"""Where the API listens, and who may ask."""

from __future__ import annotations

import contextlib
import errno
import socket
import stat
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.fleet import Files
from tests.support.gateway_api import ApiClient, ApiRig
from tests.support.waiting import WAIT_SECONDS
from tunnelfleet.proto import ConfigError
from tunnelfleet.runtime import TcpAddress, UnixAddress
from tunnelfleet.runtime.gateway import Gateway
from tunnelfleet.runtime.gateway.api import ApiOptions, ApiServer
from tunnelfleet.runtime.gateway.config import GatewaySettings
from tunnelfleet.runtime.gateway.listening import UnixPlace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BEARER = "secret-bearer-token"
ANYWHERE = TcpAddress("127.0.0.1", 0)


def bearer(token: str = BEARER) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


class TestUnix:
    def test_it_is_its_owner_s_alone(self, rig: ApiRig, tmp_path: Path) -> None:
        path = tmp_path / "run" / "admin.sock"
        assert rig.server.url == f"unix:{path}"
        assert rig.server.address == UnixAddress(str(path))
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700

    def test_it_goes_with_the_server(self, rig: ApiRig, tmp_path: Path) -> None:
        rig.server.stop()
        rig.server.stop()
        assert list((tmp_path / "run").iterdir()) == []

    def test_a_second_server_says_that_there_is_one(self, rig: ApiRig) -> None:
        place = rig.options.place
        with pytest.raises(ConfigError, match="already; stop it, or"):
            ApiServer(rig.gateway, ApiOptions(place=place)).start()
        assert rig.client.get("/v1/gateway").status == 200

    def test_one_that_was_killed_is_replaced(self, tmp_path: Path) -> None:
        path = tmp_path / "run" / "admin.sock"
        path.parent.mkdir(mode=0o700)
        script = (
            "import os, socket; s = socket.socket(socket.AF_UNIX); "
            f"s.bind({str(path)!r}); s.listen(); os.kill(os.getpid(), 9)"
        )
        subprocess.run([sys.executable, "-c", script], check=False)
        assert stat.S_ISSOCK(path.stat().st_mode)
        with ApiRig(tmp_path) as rig:
            assert rig.client.get("/v1/gateway").status == 200

    def test_a_token_can_be_asked_for_there_too(self, tmp_path: Path) -> None:
        with ApiRig(tmp_path, token=BEARER) as rig:
            rig.client.get("/v1/gateway").problem(401, "unauthorized")
            assert rig.client.ask("GET", "/v1/gateway", headers=bearer()).status == 200

    def test_any_host_is_right_there(self, client: ApiClient) -> None:
        assert client.ask("GET", "/v1/gateway", headers={"Host": "evil.example"}).status == 200

    def test_another_version_of_http_is_refused(self, rig: ApiRig, tmp_path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(WAIT_SECONDS)
            sock.connect(str(tmp_path / "run" / "admin.sock"))
            sock.sendall(b"GET /v1/gateway HTTP/9.9\r\nHost: x\r\n\r\n")
            with sock.makefile("rb") as answer:
                assert answer.readline().split()[1:2] == [b"400"]
                assert b"Server: tunnelfleet\r\n" in answer.read()

    def test_who_starts_it_again(self, rig: ApiRig) -> None:
        with pytest.raises(RuntimeError, match="make a new"):
            rig.server.start()


class TestTcp:
    @pytest.fixture
    def rig(self, tmp_path: Path) -> Iterator[ApiRig]:
        names = ("gw.example.com",)
        with ApiRig(tmp_path, place=ANYWHERE, token=BEARER, hosts=names) as running:
            yield running

    def test_only_with_the_token(self, rig: ApiRig) -> None:
        assert rig.server.url.startswith("http://127.0.0.1:")
        assert rig.client.ask("GET", "/v1/gateway", headers=bearer()).status == 200

    @pytest.mark.parametrize(
        "headers",
        [
            {},
            bearer("other"),
            bearer(BEARER + "x"),
            bearer(BEARER[:-1]),
            bearer(""),
            {"Authorization": BEARER},
            {"Authorization": f"Basic {BEARER}"},
            {"Authorization": f"bearer {BEARER}"},
            {"Authorization": "\xff"},
        ],
    )
    def test_never_without_it(self, rig: ApiRig, headers: dict[str, str]) -> None:
        for method, path in (("GET", "/v1/tunnels"), ("POST", "/v1/reload"), ("GET", "/x")):
            answer = rig.client.ask(method, path, headers=headers)
            answer.problem(401, "unauthorized")
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            assert BEARER not in answer.text

    @pytest.mark.parametrize(
        "host",
        [
            *("127.0.0.1", "127.0.0.1:9465", "localhost", "LOCALHOST.:1", "gw.example.com"),
            *("{name}", "192.0.2.7", "[::1]"),
        ],
    )
    def test_hosts_that_it_has(self, rig: ApiRig, host: str) -> None:
        given = {**bearer(), "Host": host.format(name=socket.gethostname())}
        assert rig.client.ask("GET", "/v1/gateway", headers=given).status == 200

    @pytest.mark.parametrize(
        "host", ["evil.example", "", "127.0.0.1.evil.example", "gw.example.com.evil.example"]
    )
    def test_hosts_that_it_has_not(self, rig: ApiRig, host: str) -> None:
        given = {**bearer(), "Host": host}
        rig.client.ask("GET", "/v1/gateway", headers=given).problem(421, "other-host")

    def test_an_address_that_is_taken(self, rig: ApiRig) -> None:
        assert isinstance(rig.server.address, TcpAddress)
        options = ApiOptions(place=rig.server.address, token=BEARER)
        with pytest.raises(ConfigError, match="choose another address"):
            ApiServer(rig.gateway, options).start()


class TestOptions:
    def test_a_tcp_address_needs_a_token(self) -> None:
        with pytest.raises(ConfigError, match="admin_token_file"):
            ApiOptions(place=ANYWHERE)

    @pytest.mark.parametrize("token", ["", "two words", "tökén", "a\nb"])
    def test_a_token_that_no_header_can_hold(self, token: str) -> None:
        with pytest.raises(ConfigError, match="printable ASCII"):
            ApiOptions(place=ANYWHERE, token=token)

    def test_no_repr_has_the_token(self) -> None:
        assert BEARER not in repr(ApiOptions(place=ANYWHERE, token=BEARER))

    @pytest.mark.parametrize(
        ("given", "place"),
        [
            ({"admin": "off"}, None),
            ({"admin": "127.0.0.1:9465", "admin_token": BEARER}, TcpAddress("127.0.0.1", 9465)),
        ],
    )
    def test_of_settings(self, given: dict[str, Any], place: Any) -> None:
        options = ApiOptions.of(GatewaySettings(name="gw", **given))
        assert place == (None if options is None else options.place)

    def test_of_settings_with_a_socket(self, tmp_path: Path) -> None:
        settings = GatewaySettings(
            name="gw", admin=f"unix:{tmp_path}/a.sock", admin_mode=0o660, admin_group="ops"
        )
        options = ApiOptions.of(settings)
        assert options is not None
        assert options.place == UnixPlace(tmp_path / "a.sock", 0o660, "ops")


class TestLife:
    def test_it_can_listen_before_it_serves(self, tmp_path: Path) -> None:
        place = UnixPlace(tmp_path / "run" / "a.sock")
        gateway = Gateway(Files(tmp_path / "state"))
        server = ApiServer(gateway, ApiOptions(place=place))
        server.listen()
        with ApiClient(server).socket() as waiting:
            waiting.sendall(b"GET /v1/tunnels HTTP/1.1\r\nHost: x\r\n\r\n")
            with gateway, server:
                assert waiting.recv(100).startswith(b"HTTP/1.1 200 ")

    @pytest.mark.parametrize("is_tcp", [False, True])
    def test_what_only_listened_leaves_nothing(self, tmp_path: Path, is_tcp: bool) -> None:
        place = ANYWHERE if is_tcp else UnixPlace(tmp_path / "run" / "a.sock")
        server = ApiServer(Gateway(Files(tmp_path)), ApiOptions(place=place, token=BEARER))
        server.listen()
        assert server.address is not None
        server.stop()
        family = socket.AF_INET if is_tcp else socket.AF_UNIX
        address: Any = server.address
        where = (address.host, address.port) if is_tcp else address.path
        with socket.socket(family) as late:
            assert late.connect_ex(where) in (errno.ECONNREFUSED, errno.ENOENT)

    def test_it_leaves_no_thread_whatever_it_was_doing(self, tmp_path: Path) -> None:
        before = set(threading.enumerate())
        with ApiRig(tmp_path) as rig, contextlib.ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(rig.client.events())
            stack.enter_context(rig.client.socket()).sendall(b"GET /v1/tun")
            rig.client.get("/v1/tunnels")
        left = {each for each in set(threading.enumerate()) - before if each.is_alive()}
        assert not {each.name for each in left if each.name.startswith("tunnelfleet-api")}

    def test_a_place_that_cannot_be_made_starts_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with Gateway(Files(tmp_path / "state")) as gateway:
            server = ApiServer(gateway, ApiOptions(place=UnixPlace(tmp_path / "file" / "a.sock")))
            with pytest.raises(ConfigError, match="is no folder; name another path"):
                server.start()
            server.stop()

    def test_who_has_come_after_it_keeps_the_file(self, rig: ApiRig, tmp_path: Path) -> None:
        path = tmp_path / "run" / "admin.sock"
        path.rename(tmp_path / "moved")
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(path))
            rig.server.stop()
            assert path.exists()
