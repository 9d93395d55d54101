"""One tunnel's trouble is no other's: endpoints that say nothing, name servers that do not answer.

Whole runtimes against the embedded service; each test has one that is well beside those that are
not.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.scripted_server import black_hole
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.actors.addresses import TcpAddress
from tunnelfleet.actors.config import Limits, TunnelConfig
from tunnelfleet.proto import Endpoint, Mode
from tunnelfleet.runtime import TunnelRuntime, TunnelState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tunnelfleet.runtime import Tunnel
    from tunnelfleet.runtime.service import TunnelService

CROWD = 40
SILENT_ENDPOINTS = 4
FOREVER_SECONDS = 3_600.0
FAR_BELOW_SECONDS = 30.0
"""What may be waited for something that takes a second or two, and took above a minute before."""
DNS_SECONDS = 120.0
"""After so long a name server that does not answer fails a test that waits for it."""


@pytest.fixture
def silent() -> Iterator[Endpoint]:
    """An endpoint that accepts and says nothing: the kernel accepts, and nobody ever reads."""
    with socket.create_server(("127.0.0.1", 0), backlog=CROWD * 4) as listener:
        yield Endpoint("ws", "127.0.0.1", listener.getsockname()[1])


class Names:
    """Stands for getaddrinfo. Names that begin with `slow` are not answered before `answer`."""

    def __init__(self) -> None:
        self.answer = threading.Event()
        self.timed_out = False
        self.asked: list[str] = []
        self.known: dict[str, list[tuple[str, int]]] = {}
        self._real = socket.getaddrinfo

    def __call__(self, host: Any, port: Any, *args: Any, **named: Any) -> Any:
        if not isinstance(host, str) or not host.endswith(".example"):
            return self._real(host, port, *args, **named)
        self.asked.append(host)
        if host.startswith("slow") and not self.answer.wait(DNS_SECONDS):
            self.timed_out = True
        found = self.known.get(host, [("127.0.0.1", port)])
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", each) for each in found]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    made = Names()
    monkeypatch.setattr(socket, "getaddrinfo", made)
    yield made
    made.answer.set()


# The names are the first argument of each test: the runtime is to end before they are real again.


def config(service: TunnelService, mode: Mode, name: str, **settings: Any) -> TunnelConfig:
    tokens = service.open_tunnel(name, ["SSH"])
    is_source = mode is Mode.SOURCE
    defaults: dict[str, Any] = {
        "endpoint": service.endpoint,
        "access_token": tokens.source_token if is_source else tokens.destination_token,
        "services": {"SSH": TcpAddress("127.0.0.1", 0 if is_source else 9)},
    }
    return TunnelConfig(name=name, mode=mode, **(defaults | settings))


def connected(runtime: TunnelRuntime, settings: TunnelConfig) -> Tunnel:
    tunnel = runtime.open_tunnel(settings)
    tunnel.wait_for(TunnelState.CONNECTED, WAIT_SECONDS)
    return tunnel


def comes_back(runtime: TunnelRuntime, service: TunnelService, tunnel: Tunnel) -> None:
    """Drop its connection, and wait until it is connected again."""
    before = sum(tunnel.stats.reconnects.values())
    service.drop(tunnel.name)
    is_back = runtime.wait_until(
        lambda: sum(tunnel.stats.reconnects.values()) > before, FAR_BELOW_SECONDS
    )
    assert is_back, f"not back: {tunnel.status().reason}"


def endpoint_named(service: TunnelService, host: str) -> Endpoint:
    return Endpoint("ws", host, service.port)


# -- endpoints


def test_an_endpoint_that_says_nothing_holds_up_no_other(
    runtime: TunnelRuntime, service: TunnelService, silent: Endpoint
) -> None:
    well = connected(runtime, config(service, Mode.DESTINATION, "well"))
    for number in range(CROWD):
        runtime.open_tunnel(config(service, Mode.DESTINATION, f"silent-{number}", endpoint=silent))
    eventually(lambda: runtime.tunnel("silent-0").stats.connect_attempts == 1)
    comes_back(runtime, service, well)


def test_many_endpoints_that_say_nothing_hold_up_no_other(
    runtime: TunnelRuntime, service: TunnelService
) -> None:
    well = connected(runtime, config(service, Mode.DESTINATION, "well"))
    with contextlib.ExitStack() as open_ones:
        for number in range(CROWD):
            listener = open_ones.enter_context(socket.create_server(("127.0.0.1", 0)))
            endpoint = Endpoint("ws", "127.0.0.1", listener.getsockname()[1])
            settings = config(service, Mode.DESTINATION, f"silent-{number}", endpoint=endpoint)
            runtime.open_tunnel(settings)
        eventually(lambda: runtime.tunnel("silent-2").stats.connect_attempts == 1)
        comes_back(runtime, service, well)


def test_a_new_tunnel_does_not_wait_for_all_endpoints_that_say_nothing(
    runtime: TunnelRuntime, service: TunnelService
) -> None:
    with contextlib.ExitStack() as open_ones:
        for number in range(SILENT_ENDPOINTS):
            listener = open_ones.enter_context(socket.create_server(("127.0.0.1", 0)))
            endpoint = Endpoint("ws", "127.0.0.1", listener.getsockname()[1])
            limits = Limits(connect_timeout_seconds=FOREVER_SECONDS)
            settings = config(
                service, Mode.DESTINATION, f"silent-{number}", endpoint=endpoint, limits=limits
            )
            runtime.open_tunnel(settings)
        eventually(lambda: runtime.tunnel("silent-2").stats.connect_attempts == 1)
        # Of its endpoint nothing is known either.
        connected(runtime, config(service, Mode.DESTINATION, "well"))
        assert runtime.connect_stats().called_back["hung"] > 0


# -- names


def test_an_application_whose_name_takes_long_holds_up_no_other_tunnel(
    names: Names, runtime: TunnelRuntime, service: TunnelService
) -> None:
    where = endpoint_named(service, "service.example")
    well = connected(runtime, config(service, Mode.DESTINATION, "well", endpoint=where))
    tokens = service.open_tunnel("busy", ["SSH"])
    connected(
        runtime,
        TunnelConfig(
            name="busy",
            mode=Mode.DESTINATION,
            endpoint=where,
            access_token=tokens.destination_token,
            services={"SSH": TcpAddress("slow-app.example", 22)},
        ),
    )
    source = connected(
        runtime,
        TunnelConfig(
            name="busy source",
            mode=Mode.SOURCE,
            endpoint=where,
            access_token=tokens.source_token,
            services={"SSH": TcpAddress("127.0.0.1", 0)},
        ),
    )
    address = source.wait_listening("SSH", WAIT_SECONDS)
    assert isinstance(address, TcpAddress)
    for _ in range(CROWD):
        socket.create_connection((address.host, address.port)).close()
    eventually(lambda: "slow-app.example" in names.asked)
    comes_back(runtime, service, well)
    assert not names.answer.is_set()
    assert names.asked.count("slow-app.example") == 1, "all of them asked for the same"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_what_needs_no_name_server_does_not_wait_for_one(
    names: Names, runtime: TunnelRuntime, service: TunnelService, host: str
) -> None:
    for number in range(CROWD):
        endpoint = endpoint_named(service, f"slow-{number}.example")
        runtime.open_tunnel(config(service, Mode.DESTINATION, f"slow-{number}", endpoint=endpoint))
    eventually(lambda: len(names.asked) > 1)
    # None of them has been up: nothing but the way of the address speaks for this one.
    connected(
        runtime,
        config(service, Mode.DESTINATION, "well", endpoint=endpoint_named(service, host)),
    )


def test_a_stop_waits_for_no_name_server(
    service: TunnelService, names: Names, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), TunnelRuntime(connect_rate_per_second=1_000) as runtime:
        for number in range(CROWD):
            endpoint = endpoint_named(service, f"slow-{number}.example")
            for mode in (Mode.DESTINATION, Mode.SOURCE):
                name = f"slow {mode} {number}"
                runtime.open_tunnel(config(service, mode, name, endpoint=endpoint))
        eventually(lambda: len(names.asked) > 1)
        runtime.stop(WAIT_SECONDS)
        assert not names.timed_out
        assert not names.answer.is_set(), "the name server has not answered yet"
    assert caplog.messages == []


UNANSWERED = f"""
import socket, sys, time

def look_up(*_args, **_named):
    time.sleep({DNS_SECONDS})

socket.getaddrinfo = look_up
"""

NO_STOP = (
    UNANSWERED
    + """
from tunnelfleet.runtime import Mode, TcpAddress, TunnelConfig, TunnelRuntime

runtime = TunnelRuntime(connect_rate_per_second=1_000).start()
for number in range(40):
    runtime.open_tunnel(
        TunnelConfig(
            name=f"tunnel {number}",
            mode=Mode.SOURCE,
            endpoint=f"wss://slow-{number}.example",
            access_token="token",
            services={"SSH": TcpAddress("slow-too.example", 0)},
        )
    )
while runtime.tunnel("tunnel 0").stats.connect_attempts == 0:
    time.sleep(0.01)
time.sleep(0.1)
"""
)

COMMAND = (
    UNANSWERED
    + """
from tunnelfleet.runtime.cli.app import main

arguments = ["localproxy", "-e", "wss://slow.example", "-s", "0", "-t", "token", "-v", "6"]
raise SystemExit(main(arguments))
"""
)


def test_the_end_of_the_interpreter_waits_for_no_name_server() -> None:
    done = subprocess.run(
        [sys.executable, "-c", NO_STOP],
        capture_output=True,
        text=True,
        timeout=DNS_SECONDS / 2,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_sigterm_waits_for_no_name_server() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        bufsize=0,
    ) as process:
        try:
            assert process.stdout is not None
            while b"listening on" not in process.stdout.readline():
                pass
            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate(timeout=DNS_SECONDS / 2)
        finally:
            process.kill()
    assert process.returncode == 0, output
    assert b"Traceback" not in output


# -- descriptors

LOW_ON_DESCRIPTORS = """
import logging, os, resource, sys
from tunnelfleet.actors.config import TcpAddress, TunnelConfig
from tunnelfleet.proto import Mode
from tunnelfleet.runtime import TunnelRuntime, TunnelState
from tunnelfleet.runtime.service import TunnelService

logging.basicConfig(level=logging.WARNING)
app = TcpAddress("127.0.0.1", int(sys.argv[1]))
with TunnelService(tls=False) as service, TunnelRuntime(connect_rate_per_second=100) as runtime:
    tokens = service.open_tunnel("t", ["SSH"])
    ends = {}
    for mode, token, address in (
        (Mode.DESTINATION, tokens.destination_token, app),
        (Mode.SOURCE, tokens.source_token, TcpAddress("127.0.0.1", 0)),
    ):
        settings = TunnelConfig(
            name=mode.value, mode=mode, endpoint=service.endpoint, access_token=token,
            services={"SSH": address},
        )
        ends[mode] = runtime.open_tunnel(settings)
        ends[mode].wait_for(TunnelState.CONNECTED, 60)
    port = ends[Mode.SOURCE].wait_listening("SSH", 60).port
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_now = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + 6, before[1]))
    print(port, flush=True)

    def operations():
        return {name for end in ends.values() for name in end.stats.exhausted_operations}

    runtime.wait_until(lambda: operations() >= {"accept", "local_connect"}, 60)
    resource.setrlimit(resource.RLIMIT_NOFILE, before)
    print(sorted(operations()), flush=True)
    sys.stdin.readline()
"""


def test_a_process_without_descriptors_says_so_once_and_goes_on() -> None:
    command = [sys.executable, "-c", LOW_ON_DESCRIPTORS]
    with socket.create_server(("127.0.0.1", 0), backlog=CROWD * 2) as app:
        app.settimeout(WAIT_SECONDS)
        with subprocess.Popen(
            [*command, str(app.getsockname()[1])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            where = ("127.0.0.1", int(process.stdout.readline()))
            with contextlib.ExitStack() as callers:
                for _ in range(CROWD):
                    callers.enter_context(socket.create_connection(where))
                operations = process.stdout.readline()
            with socket.create_connection(where) as caller:
                caller.sendall(b"hello")
                assert reaches(app, b"hello"), "with descriptors again it works again"
            _, errors = process.communicate("end", timeout=WAIT_SECONDS * 3)
    assert operations.strip() == "['accept', 'local_connect']"
    assert errors.count("Too many open files") == 1, errors
    assert "Traceback" not in errors
    assert process.returncode == 0, errors


def reaches(app: socket.socket, data: bytes) -> bool:
    """Whether one of the connections to `app` brings `data`; the others have ended."""
    while True:
        accepted, _ = app.accept()
        with accepted, contextlib.suppress(ConnectionResetError):
            accepted.settimeout(WAIT_SECONDS)
            if accepted.recv(100) == data:
                return True


# -- several addresses


def test_a_service_whose_first_address_is_a_black_hole_is_connected_to(
    names: Names, runtime: TunnelRuntime, service: TunnelService
) -> None:
    with black_hole() as hole:
        names.known["service.example"] = [("127.0.0.1", hole), ("127.0.0.1", service.port)]
        where = endpoint_named(service, "service.example")
        tunnel = connected(runtime, config(service, Mode.DESTINATION, "well", endpoint=where))
        assert tunnel.stats.connect_attempts == 1


def test_an_application_whose_first_address_is_a_black_hole_is_connected_to(
    names: Names, runtime: TunnelRuntime, service: TunnelService
) -> None:
    tokens = service.open_tunnel("app", ["SSH"])
    with black_hole() as hole, socket.create_server(("127.0.0.1", 0)) as app:
        names.known["app.example"] = [("127.0.0.1", hole), app.getsockname()]
        connected(
            runtime,
            TunnelConfig(
                name="destination",
                mode=Mode.DESTINATION,
                endpoint=Endpoint.parse(service.endpoint),
                access_token=tokens.destination_token,
                services={"SSH": TcpAddress("app.example", 22)},
            ),
        )
        source = connected(
            runtime,
            TunnelConfig(
                name="source",
                mode=Mode.SOURCE,
                endpoint=Endpoint.parse(service.endpoint),
                access_token=tokens.source_token,
                services={"SSH": TcpAddress("127.0.0.1", 0)},
            ),
        )
        address = source.wait_listening("SSH", WAIT_SECONDS)
        assert isinstance(address, TcpAddress)
        with socket.create_connection((address.host, address.port)) as caller:
            caller.settimeout(WAIT_SECONDS)
            app.settimeout(WAIT_SECONDS)
            accepted, _ = app.accept()
            with accepted:
                accepted.sendall(b"hello")
                assert caller.recv(5) == b"hello"


# -- the source address


def test_the_address_to_bind_is_for_the_application_alone(
    runtime: TunnelRuntime, service: TunnelService
) -> None:
    """`::1` cannot reach an endpoint of IPv4."""
    connected(runtime, config(service, Mode.DESTINATION, "well", local_bind="::1"))
