"""The front doors of a gateway in this process, over real sockets."""

from __future__ import annotations

import errno
import getpass
import os
import socket
import stat
import struct
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.doors import DoorFleet, basic_login, door_answer, http_request, socks_request
from tests.support.fleet import wanted
from tests.support.rig import FAST_LIMITS, connect, echo, receive_exactly
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.proto import ConfigError, Mode
from tunnelfleet.runtime import TcpAddress
from tunnelfleet.runtime.gateway import DrainTunnels
from tunnelfleet.runtime.gateway.config import DoorRule
from tunnelfleet.runtime.gateway.config.door_users import DoorUsers, PasswordHash
from tunnelfleet.runtime.gateway.door import DOOR_METRICS, Door, DoorLimits
from tunnelfleet.runtime.gateway.door.handshake import Denial

if TYPE_CHECKING:
    from collections.abc import Iterator

ME = getpass.getuser()
CLIENTS_THAT_RESET = 30
ONLY_DOOR: dict[str, None] = {"SSH": None}
BOTH: dict[str, None] = {"SSH": None, "APP": None}
BRIEF = replace(FAST_LIMITS, offline_grace_seconds=0.2)
SOCKS_GRANTED = bytes((5, 0, 0, 1, 0, 0, 0, 0, 0, 0))


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[DoorFleet]:
    with DoorFleet(tmp_path) as running:
        yield running


@pytest.fixture
def press(fleet: DoorFleet) -> DoorFleet:
    """A fleet with one tunnel, which listens nowhere."""
    fleet.open(fleet.tunnel("press-4", services=ONLY_DOOR))
    fleet.wait_state("press-4", "connected")
    return fleet


class TestWays:
    @pytest.mark.parametrize("target", ["press-4:22", "press-4", "SSH.Press-4:80", "press-4:ssh"])
    def test_http(self, press: DoorFleet, target: str) -> None:
        with press.client(http_request(target)) as sock:
            assert door_answer(sock) == (200, "")
            assert echo(sock, b"x" * 100_000) == b"x" * 100_000

    @pytest.mark.parametrize("name", ["press-4", "ssh.press-4", "press-4:SSH"])
    def test_socks(self, press: DoorFleet, name: str) -> None:
        with press.client(socks_request(name)) as sock:
            assert receive_exactly(sock, 12) == bytes((5, 0)) + SOCKS_GRANTED
            assert echo(sock, b"hello") == b"hello"

    @pytest.mark.parametrize("request_", [http_request("press-4:22"), socks_request("press-4")])
    def test_what_comes_with_the_request_is_the_application_s(
        self, press: DoorFleet, request_: bytes
    ) -> None:
        welcome = 39 if request_.startswith(b"C") else 12
        with press.client(request_ + b"early" * 10_000) as sock:
            receive_exactly(sock, welcome)
            assert receive_exactly(sock, 50_000) == b"early" * 10_000

    def test_one_byte_at_a_time(self, press: DoorFleet) -> None:
        with press.client() as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in http_request("press-4:22") + b"hello":
                sock.send(bytes((byte,)))
            assert door_answer(sock) == (200, "")
            assert receive_exactly(sock, 5) == b"hello"

    def test_the_end_of_each_direction_is_an_end_of_its_own(self, press: DoorFleet) -> None:
        with press.client(http_request("press-4:22")) as sock:
            assert door_answer(sock) == (200, "")
            sock.sendall(b"all")
            sock.shutdown(socket.SHUT_WR)
            assert receive_exactly(sock, 3) == b"all"
            assert sock.recv(1) == b""
        eventually(lambda: press.door.counters.open == 0)

    def test_a_reset_of_the_client_ends_its_connection(self, press: DoorFleet) -> None:
        with press.client(http_request("press-4:22")) as sock:
            assert door_answer(sock) == (200, "")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        eventually(lambda: press.row("press-4").connections == 0)
        eventually(lambda: press.door.counters.open == 0)

    def test_a_tunnel_without_service_ids_and_one_that_listens_too(self, fleet: DoorFleet) -> None:
        fleet.open(
            fleet.tunnel("plain", service_ids=[], services={"": None}),
            fleet.tunnel("free", services=None),
            fleet.tunnel("listens"),
        )
        for name in ("plain", "free", "listens"):
            fleet.wait_state(name, "connected")
            with fleet.client(http_request(name)) as sock:
                assert door_answer(sock) == (200, "")
                assert echo(sock, b"hello") == b"hello"
        address = fleet.gateway.runtime.tunnel("listens").wait_listening("SSH", WAIT_SECONDS)
        with connect(address) as sock:
            assert echo(sock, b"hello") == b"hello"
        assert fleet.gateway.runtime.tunnel("plain").status().listening == {}


class TestRefusals:
    @pytest.fixture
    def many(self, fleet: DoorFleet) -> DoorFleet:
        fleet.open(
            fleet.tunnel("press-4", service_ids=["SSH", "APP"], services=BOTH),
            wanted("device", services={"SSH": TcpAddress("127.0.0.1", 22)}),
            wanted("gone", mode=Mode.SOURCE, services=ONLY_DOOR, limits=BRIEF),
        )
        fleet.wait_state("press-4", "connected")
        return fleet

    @pytest.mark.parametrize(
        ("target", "status", "says"),
        [
            ("nope:22", 404, "there is no tunnel 'nope' in this fleet"),
            ("10.0.0.1:22", 404, "10.0.0.1 is an address"),
            ("press-4:22", 404, "has several services: APP, SSH; ask for one of them"),
            ("press-4:FTP", 404, "tunnel press-4 has no service 'FTP', but APP, SSH"),
            ("device:22", 404, "tunnel device is a destination here"),
            ("gone:22", 503, "tunnel gone is backoff: "),
        ],
    )
    def test_each_is_told_with_its_reason(
        self, many: DoorFleet, target: str, status: int, says: str
    ) -> None:
        if target == "gone:22":
            many.wait_state("gone", "backoff")
        found, reason = many.ask(target)
        assert found == status
        assert says in reason
        assert many.denied == []

    @pytest.mark.parametrize(("name", "code"), [("nope", 4), ("press-4", 4), ("gone", 3)])
    def test_socks_has_a_code(self, many: DoorFleet, name: str, code: int) -> None:
        with many.client(socks_request(name)) as sock:
            assert receive_exactly(sock, 4) == bytes((5, 0, 5, code))

    def test_a_tunnel_that_was_drained_is_down(self, press: DoorFleet) -> None:
        press.gateway.ask(DrainTunnels(("press-4",)))
        press.wait_state("press-4", "stopped")
        status, reason = press.ask("press-4")
        assert status == 503
        assert "tunnel press-4 is down: drained on command" in reason

    def test_a_tunnel_that_is_draining_takes_nobody(self, press: DoorFleet) -> None:
        with press.client(http_request("press-4")) as sock:
            assert door_answer(sock) == (200, "")
            press.gateway.ask(DrainTunnels(("press-4",)))
            press.wait_state("press-4", "draining")
            assert press.ask("press-4") == (
                503,
                "tunnel press-4 is draining: it takes no new connections",
            )
            assert echo(sock, b"goes on") == b"goes on"

    def test_a_refused_token_is_told_at_once(self, fleet: DoorFleet) -> None:
        fleet.open(fleet.tunnel("a", services=ONLY_DOOR, access_token="x" * 40))
        fleet.wait_state("a", "refused")
        status, reason = fleet.ask("a")
        assert status == 503
        assert reason.startswith("tunnel a is refused: ")

    def test_the_number_of_connections_is_the_tunnel_s(self, fleet: DoorFleet) -> None:
        limits = replace(FAST_LIMITS, max_connections=1)
        fleet.open(fleet.tunnel("a", services=ONLY_DOOR, limits=limits))
        fleet.wait_state("a", "connected")
        with fleet.client(http_request("a")) as sock:
            assert door_answer(sock) == (200, "")
            status, reason = fleet.ask("a")
            assert (status, "1 connection is open, which is the limit" in reason) == (503, True)

    def test_while_the_gateway_stops_nobody_is_let_in(self, press: DoorFleet) -> None:
        press.gateway.leave(WAIT_SECONDS)
        assert press.ask("press-4") == (503, "the gateway is stopping")

    def test_a_service_that_the_far_end_does_not_have(self, fleet: DoorFleet) -> None:
        fleet.open(fleet.tunnel("a", services=BOTH))
        fleet.wait_state("a", "connected")
        status, reason = fleet.ask("a:APP")
        assert (status, "the tunnel has no service 'APP'" in reason) == (502, True)


class TestWaiting:
    def test_a_client_waits_until_its_tunnel_is_connected(self, fleet: DoorFleet) -> None:
        tunnel = fleet.tunnel("a", services=ONLY_DOOR)
        fleet.service.stop()
        fleet.open(tunnel)
        fleet.wait_state("a", "backoff")
        with fleet.client(http_request("a")) as sock, fleet.client(socks_request("a")) as other:
            eventually(lambda: fleet.door_crowd.waiting == 2)
            fleet.service.restart()
            # The other end of the tunnel may still be on its way.
            assert door_answer(sock) == (200, "")
            assert receive_exactly(other, 12) == bytes((5, 0)) + SOCKS_GRANTED
        eventually(lambda: fleet.door_crowd.waiting == 0)

    def test_too_many_wait(self, fleet: DoorFleet) -> None:
        fleet.limits = DoorLimits(max_waiting=1)
        fleet.open(wanted("a", mode=Mode.SOURCE, services=ONLY_DOOR))
        fleet.wait_state("a", "backoff")
        with fleet.client(http_request("a")):
            eventually(lambda: fleet.door_crowd.waiting == 1)
            status, reason = fleet.ask("a")
            assert (status, reason.startswith("too many clients wait for tunnels")) == (503, True)

    def test_who_has_gone_meanwhile_is_not_waited_for(self, fleet: DoorFleet) -> None:
        fleet.open(wanted("a", mode=Mode.SOURCE, services=ONLY_DOOR, limits=BRIEF))
        fleet.wait_state("a", "backoff")
        with fleet.client(http_request("a")):
            eventually(lambda: fleet.door_crowd.waiting == 1)
        eventually(lambda: fleet.door.counters.open == 0)


class TestWho:
    def test_rules_by_user_tunnel_and_service(self, press: DoorFleet) -> None:
        press.rules(DoorRule(("alice",), ("press-*",), ("SSH",)), DoorRule((), ("*",), ("APP",)))
        refused = press.ask("press-4:SSH")
        assert refused == (
            403,
            "a client without a name may not reach press-4:SSH: no rule allows it",
        )
        (denied,) = press.denied
        assert denied.peer.startswith("127.0.0.1:")
        assert denied[2:5] == ("", "press-4:SSH", "rule")
        assert press.door.counters.denied[Denial.RULE] == 1
        press.rules(DoorRule((), ("press-*",), ("ssh",)))
        assert press.ask("press-4:SSH")[0] == 200

    def test_nobody_learns_what_there_is_without_a_rule(self, press: DoorFleet) -> None:
        press.rules(DoorRule(("alice",), (), ()))
        answers = {press.ask(each)[1].replace(each, "X") for each in ("press-4", "nope")}
        assert answers == {"a client without a name may not reach X: no rule allows it"}

    def test_a_unix_socket_knows_its_user(self, fleet: DoorFleet, tmp_path: Path) -> None:
        path = tmp_path / "run" / "door.sock"
        path.parent.mkdir(mode=0o700)
        fleet.open(fleet.tunnel("press-4", services=ONLY_DOOR), door=f"unix:{path}")
        fleet.wait_state("press-4", "connected")
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        address = fleet.door.address
        fleet.rules(DoorRule((ME,), (), ()))
        assert fleet.ask("press-4", address=address)[0] == 200
        fleet.rules(DoorRule(("somebody",), (), ()))
        status, reason = fleet.ask("press-4", address=address)
        assert (status, reason) == (403, f"{ME} may not reach press-4: no rule allows it")
        assert fleet.denied[0][1:3] == (f"pid={os.getpid()}", ME)

    def test_the_private_door_is_there_and_for_its_owner(self, press: DoorFleet) -> None:
        path = Path(press.private.path)
        assert path.name == "connect.sock"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        with press.client(http_request("press-4"), press.private) as sock:
            assert door_answer(sock) == (200, "")
            assert echo(sock, b"hello") == b"hello"
        press.gateway.stop()
        press.door.close()
        assert not path.exists()

    def test_users_log_in(self, fleet: DoorFleet) -> None:
        fleet.open(fleet.tunnel("press-4", services=ONLY_DOOR), door_users=users(alice="secret"))
        fleet.wait_state("press-4", "connected")
        status, reason = fleet.ask("press-4")
        assert (status, reason) == (407, "this door asks for a user and a password")
        assert fleet.denied == [], "a client of HTTP begins so"
        assert fleet.ask("press-4", basic_login("alice", "wrong")) == (
            407,
            "wrong user or password",
        )
        assert fleet.denied[0][2:5] == ("alice", "", "login")
        for _ in range(2):
            assert fleet.ask("press-4", basic_login("alice", "secret"))[0] == 200
        with fleet.client(socks_request("press-4", "alice", "secret")) as sock:
            assert receive_exactly(sock, 14) == bytes((5, 2, 1, 0)) + SOCKS_GRANTED
        with fleet.client(socks_request("press-4", "alice", "wrong")) as sock:
            assert receive_exactly(sock, 4) == bytes((5, 2, 1, 1))
            assert sock.recv(1) == b""
        fleet.rules(DoorRule(("bob",), (), ()))
        assert fleet.ask("press-4", basic_login("alice", "secret"))[0] == 403
        assert fleet.ask("press-4", address=fleet.private)[0] == 403

    def test_other_users_count_from_the_next_reload_on(self, fleet: DoorFleet) -> None:
        fleet.open(fleet.tunnel("press-4", services=ONLY_DOOR), door_users=users(alice="secret"))
        fleet.wait_state("press-4", "connected")
        assert fleet.ask("press-4", basic_login("alice", "secret"))[0] == 200
        fleet.files.settings = replace(fleet.files.settings, door_users=users(alice="new"))
        result = fleet.gateway.reload()
        assert result.needs_restart == ()
        assert fleet.ask("press-4", basic_login("alice", "secret"))[0] == 407
        assert fleet.ask("press-4", basic_login("alice", "new"))[0] == 200

    def test_too_many_logins_at_once(self, fleet: DoorFleet, monkeypatch: Any) -> None:
        fleet.limits = DoorLimits(max_logins=1)
        fleet.open(door_users=users(alice="secret"))
        checked = fleet.door._identity
        assert checked is not None
        checked._logins = 1
        status, reason = fleet.ask("a", basic_login("alice", "secret"))
        assert (status, reason) == (503, "too many logins at once: try again in a moment")


def users(**passwords: str) -> DoorUsers:
    return DoorUsers({name: PasswordHash.make(each) for name, each in passwords.items()})


class TestCrowd:
    def test_the_oldest_without_a_word_gives_way(self, fleet: DoorFleet) -> None:
        fleet.limits = DoorLimits(max_handshakes=2)
        fleet.open(fleet.tunnel("press-4", services=ONLY_DOOR))
        fleet.wait_state("press-4", "connected")
        with fleet.client(b"C") as first, fleet.client() as second:
            eventually(lambda: fleet.door.counters.accepted == 2)
            assert fleet.ask("press-4")[0] == 200
            with pytest.raises(ConnectionResetError):
                first.recv(1)
            second.sendall(http_request("press-4"))
            assert door_answer(second)[0] == 200
        assert fleet.door.counters.left == 1

    def test_who_says_nothing_has_so_long(self, fleet: DoorFleet) -> None:
        fleet.limits = DoorLimits(handshake_seconds=0.1)
        fleet.open()
        with fleet.client(b"CONNECT press-4 HT") as sock, pytest.raises(ConnectionResetError):
            sock.recv(1)
        assert fleet.door.counters.left == 1

    def test_who_leaves_is_counted(self, fleet: DoorFleet) -> None:
        fleet.open()
        with fleet.client(b"CONNECT"):
            pass
        eventually(lambda: (fleet.door.counters.left, fleet.door.counters.open) == (1, 0))

    def test_who_resets_behind_a_word_is_noticed(self, fleet: DoorFleet) -> None:
        """The kernel may report both at once, and libuv reports an error only once."""
        fleet.limits = DoorLimits(handshake_seconds=600.0)
        fleet.open()
        for _ in range(CLIENTS_THAT_RESET):
            with fleet.client(b"CONNECT") as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        eventually(
            lambda: (fleet.door.counters.left, fleet.door.counters.open) == (CLIENTS_THAT_RESET, 0)
        )

    def test_who_is_refused_and_sends_on_has_a_moment(self, fleet: DoorFleet) -> None:
        fleet.limits = DoorLimits(linger_seconds=0.1)
        fleet.open()
        with fleet.client(http_request("nope") + b"x" * 300_000) as sock:
            assert door_answer(sock)[0] == 404
            eventually(lambda: fleet.door.counters.open == 0)

    def test_garbage_is_refused(self, fleet: DoorFleet) -> None:
        fleet.open()
        for garbage in (b"\0" * 100, b"\x16\x03\x01", bytes(range(200, 256)), b"\x04\x01"):
            with fleet.client(garbage) as sock:
                sock.shutdown(socket.SHUT_WR)
                assert sock.recv(100) in (b"", bytes((0, 91, 0, 0, 0, 0, 0, 0)))
        with fleet.client(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") as sock:
            assert door_answer(sock)[0] == 400
        assert fleet.door.counters.denied[Denial.PROTOCOL] == 5

    def test_all_connections_together_have_a_limit(self, fleet: DoorFleet) -> None:
        fleet.limits = DoorLimits(max_connections=1)
        fleet.open(fleet.tunnel("press-4", services=ONLY_DOOR))
        fleet.wait_state("press-4", "connected")
        with fleet.client(http_request("press-4")) as sock:
            assert door_answer(sock)[0] == 200
            status, reason = fleet.ask("press-4")
            assert (status, "which is the limit" in reason) == (503, True)
        eventually(lambda: fleet.door.counters.open == 0)
        assert fleet.ask("press-4")[0] == 200

    def test_without_a_descriptor_it_rests_and_goes_on(
        self, fleet: DoorFleet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tunnelfleet.runtime.gateway.listening.EXHAUSTED_PAUSE_SECONDS", 0.05)
        failures: list[int] = []
        is_full = threading.Event()

        class Exhausted:
            """A listener in a process without a free descriptor: for three calls."""

            def __init__(self, sock: socket.socket) -> None:
                self.sock = sock

            def accept(self) -> Any:
                if len(failures) < 3 and is_full.is_set():
                    failures.append(1)
                    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
                return self.sock.accept()

            def __getattr__(self, name: str) -> Any:
                return getattr(self.sock, name)

        door = Door.open

        def open_(self: Door) -> Door:
            door(self)
            listener: Any = self._listeners[0]
            listener.sockets = [Exhausted(each) for each in listener.sockets]
            return self

        monkeypatch.setattr(Door, "open", open_)
        fleet.open()
        with fleet.client(b"C") as idle:
            eventually(lambda: fleet.door.counters.accepted == 1)
            is_full.set()
            assert fleet.ask("nope")[0] == 404
            with pytest.raises(ConnectionResetError):
                idle.recv(1)
        assert len(failures) == 3

    def test_a_crash_closes_no_door_and_harms_no_connection(self, press: DoorFleet) -> None:
        with press.client(http_request("press-4")) as sock, press.client(b"CONN") as greeting:
            assert door_answer(sock)[0] == 200
            eventually(lambda: press.door.counters.accepted == 2)
            press.crash()
            assert echo(sock, b"goes on") == b"goes on"
            with pytest.raises(ConnectionResetError):
                greeting.recv(1)
            assert press.ask("press-4")[0] == 200

    def test_a_gateway_that_stops_leaves_no_client_open(self, press: DoorFleet) -> None:
        with press.client(b"CONN") as greeting, press.client(http_request("press-4")) as sock:
            assert door_answer(sock)[0] == 200
            press.gateway.stop()
            with pytest.raises(ConnectionResetError):
                greeting.recv(1)
        assert press.door.counters.open == 0


class TestOpening:
    def test_an_address_that_is_taken_starts_nothing(self, fleet: DoorFleet) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            address = f"127.0.0.1:{other.getsockname()[1]}"
            settings = replace(fleet.files.settings, door=address)
            with pytest.raises(ConfigError, match=f"cannot listen on {address}: Address already"):
                Door(settings).open()

    def test_a_host_that_is_not_there(self, fleet: DoorFleet) -> None:
        for door in ("no-such-host.invalid:0", "192.0.2.1:0"):
            with pytest.raises(ConfigError, match="a front door cannot listen on"):
                Door(replace(fleet.files.settings, door=door)).open()

    def test_localhost_is_each_of_its_addresses(self, fleet: DoorFleet) -> None:
        with Door(replace(fleet.files.settings, door="localhost:0")) as door:
            assert isinstance(door.address, TcpAddress)
            with socket.create_connection(("localhost", door.address.port), WAIT_SECONDS):
                pass

    def test_a_private_door_that_another_gateway_has_is_no_reason_to_stop(
        self, fleet: DoorFleet, caplog: pytest.LogCaptureFixture
    ) -> None:
        with Door(fleet.files.settings) as first, Door(fleet.files.settings) as second:
            assert first.connect_path is not None
            assert second.connect_path is None
            assert second.address is not None
        assert "tunnelfleet connect cannot be used with this gateway" in caplog.text

    def test_one_that_nobody_listens_on_is_taken_over(self, fleet: DoorFleet) -> None:
        with Door(fleet.files.settings) as first:
            path = first.connect_path
            assert path is not None
        with socket.socket(socket.AF_UNIX) as left_behind:
            left_behind.bind(str(path))
        with Door(fleet.files.settings) as second:
            assert second.connect_path == path

    @pytest.mark.parametrize("admin", ["off", "127.0.0.1:9000"])
    def test_without_an_admin_socket_the_private_door_is_where_that_would_be(
        self, fleet: DoorFleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, admin: str
    ) -> None:
        monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "here"))
        with Door(replace(fleet.files.settings, admin=admin)) as door:
            assert door.connect_path == tmp_path / "here" / "connect.sock"

    @pytest.mark.parametrize("name", ["handshake_seconds", "max_handshakes", "max_logins"])
    def test_a_limit_is_above_zero(self, name: str) -> None:
        with pytest.raises(ConfigError, match=f"{name} is 0: it must be greater than 0"):
            DoorLimits(**{name: 0})

    def test_its_metrics_are_the_gateway_s(self, press: DoorFleet) -> None:
        press.ask("nope")
        found = {
            sample.name: sample.value
            for family in press.gateway.collector.collect()
            for sample in family.samples
            if sample.name in DOOR_METRICS and sample.labels.get("reason", "name") == "name"
        }
        assert found.keys() == DOOR_METRICS
        assert found["tunnelfleet_door_denied_total"] == 1
        assert found["tunnelfleet_door_accepted_total"] == 1
