"""Tunnels on demand of a shared fleet, whose gateway is killed: another one inherits them.

Two `tunnelfleet up` with one PostgreSQL are processes of their own; the service with its management
API, and the devices that it tells of their tunnels, are the test's.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from typing import TYPE_CHECKING, Self

import pytest

from tests.support.aws_service import ANY_KEYS
from tests.support.commands import PROGRAM
from tests.support.gateway import up
from tests.support.postgres import PostgresServer
from tests.support.rig import FAST_LIMITS, Rig
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.proto import Endpoint
from tunnelfleet.runtime import Mode, TunnelConfig
from tunnelfleet.runtime.gateway.placement import owner_of, shard_of
from tunnelfleet.runtime.service.management import ManagementServer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.support.gateway import UpProcess

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]

LONG_SECONDS = 12 * WAIT_SECONDS
NAMES = ("one", "two")


class SharedDemand:
    """A service, its devices, and the files of gateways; a context manager.

    Args:
        folder: for files.
        state: URL of what the gateways share.
    """

    def __init__(self, folder: Path, state: str) -> None:
        self._folder = folder
        self._state = state
        self._stack = contextlib.ExitStack()
        self._told = 0
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._rig = stack.enter_context(Rig(tls=False))
            self._target = self._rig.backends.echo().address
            self._api = stack.enter_context(ManagementServer(self._rig.service, notifier=self))
            self._stack = stack.pop_all()
        self.write(idle_seconds=1_000.0)
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._stack.close()

    def notify(self, thing: str, access_token: str, services: Sequence[str]) -> None:
        """The service tells a thing of its tunnel: its device connects, and echoes."""
        with self._lock:
            self._told += 1
            number = self._told
        self._rig.runtime.open_tunnel(
            TunnelConfig(
                name=f"device {thing} {number}",
                mode=Mode.DESTINATION,
                endpoint=Endpoint.parse(self._rig.service.endpoint),
                access_token=access_token,
                services=dict.fromkeys(services, self._target),
                limits=FAST_LIMITS,
            )
        )

    def write(self, idle_seconds: float) -> None:
        """Write the files that the gateways have in common."""
        secret = self._folder / "secret"
        secret.touch(mode=0o600)
        secret.write_text("s" * 40)
        (self._folder / "fleet.toml").write_text(
            f"""
            [gateway]
            state = "{self._state}"
            placement = "postgres"
            lease_seconds = 3
            metrics = "127.0.0.1:0"
            client_token_secret_file = "{secret}"

            [on_demand]
            endpoint_url = "{self._api.url}"
            endpoint = "{self._rig.service.endpoint}"
            things = ["press-*"]
            services = ["SSH"]
            opens_per_second = 20
            idle_seconds = {idle_seconds}
            """
        )

    @contextlib.contextmanager
    def up(self, name: str) -> Iterator[UpProcess]:
        """Run a gateway."""
        own = self._folder / name
        own.mkdir(exist_ok=True)
        (own / "own.toml").write_text(f'[gateway]\nname = "{name}"\n')
        with up(self._folder / "fleet.toml", own, str(own / "own.toml"), env=ANY_KEYS) as gateway:
            gateway.wait_event("up")
            yield gateway

    def says(self, gateway: str, thing: str) -> bytes:
        """What the device of a thing echoes to a client of a gateway; empty if it lets none in."""
        done = subprocess.run(
            [*PROGRAM, "connect", thing],
            input=b"hello",
            capture_output=True,
            timeout=LONG_SECONDS,
            env={**os.environ, "RUNTIME_DIRECTORY": str(self._folder / gateway)},
            check=False,
        )
        return done.stdout

    def open_ids(self) -> set[str]:
        """The ids of the tunnels that are open at the service."""
        return set(self._rig.service.open_names())


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[SharedDemand]:
    with (
        PostgresServer.running() as postgres,
        SharedDemand(tmp_path, postgres.url(postgres.new_database())) as running,
    ):
        yield running


def wait_for(gateway: UpProcess, event: str, **fields: str) -> None:
    eventually(lambda: bool(gateway.events(event, **fields)), f"{event} {fields}", LONG_SECONDS)


def things_of(name: str, count: int) -> list[str]:
    every = (f"press-{number}" for number in range(999))
    return [each for each in every if owner_of(shard_of(each), NAMES) == name][:count]


def test_who_has_the_shards_now_inherits_what_a_killed_gateway_had_open(
    fleet: SharedDemand,
) -> None:
    with fleet.up("two") as heir:
        with fleet.up("one") as killed:
            for name in NAMES:
                for thing in things_of(name, 2):
                    # Until the shards are shared, a gateway may have those of the other, or none.
                    what = f"{thing} answers at {name}"
                    eventually(
                        lambda name=name, thing=thing: fleet.says(name, thing) == b"hello",
                        what,
                        LONG_SECONDS,
                    )
            before = fleet.open_ids()
            opened = {each["thing"]: each["id"] for each in killed.events("demand_opened")}
            assert set(opened) == set(things_of("one", 2))
            assert len(before) == 4
            killed.signal(signal.SIGKILL)
            killed.wait_end()

        for thing, tunnel in opened.items():
            wait_for(heir, "demand_found", thing=thing, id=tunnel)
        # The same tunnels serve whoever asks, with the tokens that only the killed one had.
        for thing in things_of("one", 2):
            assert fleet.says("two", thing) == b"hello"
        assert fleet.open_ids() == before
        assert len(heir.events("demand_opened")) == 2

        # They are the heir's: it closes them as its own, and so there is nothing that costs.
        fleet.write(idle_seconds=0.2)
        heir.signal(signal.SIGHUP)
        for tunnel in before:
            wait_for(heir, "demand_closed", id=tunnel, cause="idle")
        assert fleet.open_ids() == set()
        assert len(heir.events("demand_closed")) == 4
