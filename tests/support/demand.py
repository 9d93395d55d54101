"""A gateway with tunnels on demand: a service with its management API, and devices that follow it.

All of it is in this process; the devices are told of their tunnels by the service itself. Calls of
the API can be made to hang, to fail, and to lose their answer.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import pytest

from tests.support.aws_service import aws_client
from tests.support.doors import DoorFleet
from tests.support.fleet import wanted
from tests.support.rig import FAST_LIMITS
from tests.support.waiting import WAIT_SECONDS, eventually
from tunnelfleet.proto import Endpoint, Mode
from tunnelfleet.runtime import TunnelConfig
from tunnelfleet.runtime.gateway.config import CloudPlace, DemandLimits, OnDemandSettings
from tunnelfleet.runtime.gateway.door import Door
from tunnelfleet.runtime.gateway.on_demand import ON_DEMAND_ACTOR, OnDemand
from tunnelfleet.runtime.gateway.on_demand.cloud import AwsCloud
from tunnelfleet.runtime.service.management import ManagementServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from tests.support.fleet import Files
    from tunnelfleet.runtime.gateway import Placement
    from tunnelfleet.runtime.gateway.config import FleetConfig
    from tunnelfleet.runtime.gateway.config.devices import NotifySection
    from tunnelfleet.runtime.gateway.store import Store

QUICK = DemandLimits(
    wait_seconds=WAIT_SECONDS,
    idle_seconds=1_000.0,
    lifetime_minutes=60,
    opens_per_second=50.0,
    negative_seconds=1_000.0,
)


class Devices:
    """Stands for the devices of all things: they connect when they are told, if they are on."""

    def __init__(self, fleet: DemandFleet) -> None:
        self._fleet = fleet
        self.off: set[str] = set()
        self.told: Counter[str] = Counter()

    def notify(self, thing: str, access_token: str, services: Sequence[str]) -> None:
        """The service tells a thing of its tunnel."""
        self.told[thing] += 1
        if thing not in self.off:
            self._fleet.connect_device(thing, access_token, services, self.told[thing])


class Troubled:
    """AWS, as badly as a test says: `trouble` is called in each call, with the operation's name."""

    def __init__(self, place: CloudPlace, fleet: DemandFleet) -> None:
        self._cloud = AwsCloud(place)
        if place.endpoint_url == fleet.api.url:
            # The same, but for the models, which boto3 reads once for all tests.
            self._cloud._made = fleet.aws
        self._fleet = fleet

    def open_tunnel(self, *given: Any) -> Any:
        self._fleet.calls["OpenTunnel"] += 1
        self._fleet.before("OpenTunnel")
        opened = self._cloud.open_tunnel(*given)
        self._fleet.opened.append(opened.tunnel_id)
        self._fleet.after("OpenTunnel")
        return opened

    def describe_tunnel(self, *given: Any) -> Any:
        self._fleet.calls["DescribeTunnel"] += 1
        self._fleet.before("DescribeTunnel")
        return self._cloud.describe_tunnel(*given)

    def close_tunnel(self, tunnel_id: str) -> None:
        self._fleet.calls["CloseTunnel"] += 1
        self._fleet.before("CloseTunnel")
        self._cloud.close_tunnel(tunnel_id)

    def find_tunnels(self, *given: Any) -> Any:
        self._fleet.calls["ListTunnels"] += 1
        self._fleet.before("ListTunnels")
        return self._cloud.find_tunnels(*given)

    def close(self) -> None:
        self._cloud.close()


class DemandFleet(DoorFleet):
    """A fleet whose gateway opens tunnels to `press-*` on demand, with the service SSH.

    Args:
        folder: for what is made.
        store: of the gateway.
        placement: says which names are its own.
    """

    def __init__(
        self, folder: Path, store: Store | None = None, placement: Placement | None = None
    ) -> None:
        super().__init__(folder)
        self.store = store
        self._placement = placement
        self.has_table = True
        self.notify: tuple[NotifySection, ...] = ()
        self.devices = Devices(self)
        self.calls: Counter[str] = Counter()
        self.opened: list[str] = []
        self.before: Callable[[str], object] = lambda _operation: None
        self.after: Callable[[str], object] = lambda _operation: None
        self.demand: OnDemand
        self._own = contextlib.ExitStack()

    def __enter__(self) -> Self:
        super().__enter__()
        self.api = self._stack.enter_context(ManagementServer(self.service, notifier=self.devices))
        self.aws = aws_client(self.api.url)
        self._stack.callback(self._leave_service)
        self.settings = OnDemandSettings(
            place=CloudPlace(None, self.api.url),
            things=("press-*",),
            services=("SSH",),
            tunnel=wanted(
                "on_demand",
                mode=Mode.SOURCE,
                endpoint=Endpoint.parse(self.service.endpoint),
                services={"SSH": None},
                limits=FAST_LIMITS,
            ),
            limits=QUICK,
            tags={"cost-center": "4711"},
        )
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._own.close()
        super().__exit__(*exc_info)

    def _leave_service(self) -> None:
        """Nobody is connected to the API any more when it ends."""
        self.aws.close()
        listener = self.api._http._http.listener
        eventually(lambda: listener is None or listener.connections == 0)

    def open_gateway(self, **limits: Any) -> None:
        """Start the gateway; what is given replaces limits."""
        self.settings = replace(self.settings, limits=replace(self.settings.limits, **limits))
        files = DemandFiles(self.files, self)
        self.files = files  # type: ignore[assignment]
        self.demand = OnDemand(self.store, lambda place: Troubled(place, self))
        self.door = Door(files.settings, self.limits, self.denied.append, self.demand)
        self._own.enter_context(self.door)
        self._own.enter_context(self.demand)
        self._gateway = self._own.enter_context(self.make_gateway(files))

    def make_gateway(self, files: Any) -> Any:
        """The gateway, not started."""
        from tunnelfleet.runtime.gateway import Gateway

        return Gateway(
            files,
            placement=self._placement,
            store=self.store,
            more_children=lambda gateway: [self.demand.child(gateway), self.door.child(gateway)],
        )

    def end_gateway(self) -> None:
        """Stop it in good order."""
        self._own.close()

    def reload(self, **settings: Any) -> None:
        """Have the files say something else."""
        self.settings = replace(self.settings, **settings)
        assert self.gateway.reload().is_good

    def turn_off(self) -> None:
        """Have the files say nothing of tunnels on demand."""
        self.has_table = False
        assert self.gateway.reload().is_good

    def reload_limits(self, **limits: Any) -> None:
        """Have the files say other limits."""
        self.reload(limits=replace(self.settings.limits, **limits))

    def ask_for_who_is_off(self, name: str, **given: Any) -> tuple[int, str]:
        """Ask for a thing whose device does not come, and have the time to wait end."""
        self.devices.off.add(name)
        with ThreadPoolExecutor(1) as pool:
            before = self.calls["DescribeTunnel"]
            asked = pool.submit(lambda: self.ask(name, **given))
            eventually(lambda: self.calls["DescribeTunnel"] > before)
            self.reload_limits(wait_seconds=0.01)
            return asked.result()

    def connect_device(
        self, thing: str, access_token: str, services: Sequence[str], number: int
    ) -> None:
        """A device opens its end, which echoes."""
        self._rig.runtime.open_tunnel(
            TunnelConfig(
                name=f"device {thing} {number}",
                mode=Mode.DESTINATION,
                endpoint=Endpoint.parse(self.service.endpoint),
                access_token=access_token,
                services=dict.fromkeys(services, self._target),
                limits=FAST_LIMITS,
            )
        )

    @property
    def open_at_service(self) -> set[str]:
        """The ids of the tunnels that are open at the service."""
        return set(self.service.open_names())

    def wait_phases(self, **phases: int) -> None:
        """Wait until the plan has so many tunnels in these phases, and no others."""

        def found() -> dict[str, int]:
            return dict(Counter(each.phase.value for each in list(self.demand.plan)))

        eventually(lambda: found() == phases, f"{phases}")

    def has_demand(self, name: str) -> bool:
        """Whether the plan has a tunnel to a thing."""
        return any(each.name == name for each in self.demand.plan)

    def metric(self, name: str, **labels: str) -> float:
        """A number of the gateway's metrics."""
        for family in self.gateway.collector.collect():
            for sample in family.samples:
                if sample.name == f"tunnelfleet_{name}" and sample.labels == labels:
                    return float(sample.value)
        raise AssertionError(f"no {name} {labels}")

    def crash_demand(self) -> None:
        """Have the actor fail, and wait for the next one."""
        from tests.support.actors import crash

        ref = self.gateway.refs.by_id[ON_DEMAND_ACTOR]
        crash(ref)
        eventually(lambda: self.gateway.refs.by_id[ON_DEMAND_ACTOR] is not ref)


class DemandFiles:
    """What the files say, with a table `[on_demand]`."""

    def __init__(self, files: Files, fleet: DemandFleet) -> None:
        self._files = files
        self._fleet = fleet

    @property
    def settings(self) -> Any:
        return self._files.settings

    @property
    def tunnels(self) -> Any:
        return self._files.tunnels

    def __call__(self) -> FleetConfig:
        return replace(
            self._files(),
            on_demand=self._fleet.settings if self._fleet.has_table else None,
            notify=self._fleet.notify,
        )


@contextlib.contextmanager
def aws_keys() -> Iterator[None]:
    """Any keys: the service checks none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "any")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "any")
        patch.setenv("AWS_CONFIG_FILE", "/dev/null")
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.delenv("AWS_PROFILE", raising=False)
        yield


class HeldCall:
    """A call that a test holds up."""

    def __init__(self) -> None:
        self._may_pass = threading.Event()
        self.reached = threading.Event()

    def wait(self) -> None:
        self.reached.set()
        assert self._may_pass.wait(WAIT_SECONDS)

    def let_go(self) -> None:
        self._may_pass.set()
