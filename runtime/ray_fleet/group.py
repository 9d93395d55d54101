"""A group of shards of a fleet on Ray: the actor in which a gateway's core runs.

Owns the life of that core: it is made of the fleet's plan, made anew with a delay when it fails,
told of another plan, and ended when the directory says so. All of it is on a thread of its own; the
actor's methods only look, or pass on. The core is a `Gateway` without doors and without files,
whose engine of placement has its leases in the directory: it connects only while its lease holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import queue
import secrets
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from typing import TYPE_CHECKING, Any

from tunnelfleet.proto import ConfigError, TunnelError, printable
from tunnelfleet.runtime.admin import AdminOptions, AdminServer
from tunnelfleet.runtime.admin.server import make_registry
from tunnelfleet.runtime.gateway import Gateway
from tunnelfleet.runtime.gateway.config import Authorities, FleetConfig
from tunnelfleet.runtime.gateway.log import GatewayLog
from tunnelfleet.runtime.gateway.placement.lease import LeaseTimes
from tunnelfleet.runtime.gateway.placement.leased import LeasedPlacement
from tunnelfleet.runtime.gateway.process import needed_files, raise_file_limit
from tunnelfleet.version import version_line

from . import cluster
from .book import Asker, Dismissal
from .directory import DirectoryClient, DirectoryLeases
from .plan import FleetPlan

if TYPE_CHECKING:
    from tunnelfleet.runtime import TunnelRuntime

    from .keeper import LeaseReply


PLAN_SECONDS = 10.0
"""For the directory to hand over the plan."""
RETRY_SECONDS = 1.0
"""After a first failure of the core, or of the directory; it doubles up to the next."""
MAX_RETRY_SECONDS = 15.0
LOOK_SECONDS = 1.0
MAX_TROUBLE_CHARACTERS = 300
QUESTION_THREADS = 2

logger = logging.getLogger(__name__)


class GroupPhase(Enum):
    """How far a group has come."""

    STARTING = "starting"
    RUNNING = "running"
    FAILED = "failed"
    """It is made anew in a while."""
    ENDED = "ended"


class _Task(Enum):
    """What the thread of a group is told."""

    TAKE_PLAN = "take plan"
    END = "end"


class Group:
    """An actor of Ray.

    Args:
        namespace: of the fleet.
        name: of the group.
    """

    def __init__(self, namespace: str, name: str) -> None:
        self._core = _Core(namespace, name)
        self._questions = ThreadPoolExecutor(
            QUESTION_THREADS, thread_name_prefix="tunnelfleet-questions"
        )
        self._core.start()

    async def describe(self) -> dict[str, Any]:
        """How the group is; nobody has to be asked."""
        return self._core.describe()

    async def rows(self) -> list[dict[str, Any]]:
        """Its tunnels, as `ls --json` shows them."""
        found: list[dict[str, Any]] = await self._ask(self._core.rows)
        return found

    async def leave(self, drain_seconds: float) -> Sequence[str]:
        """End all tunnels, and give those that are open so long; return the names of those cut."""
        cut: Sequence[str] = await self._ask(lambda: self._core.leave(drain_seconds))
        return cut

    async def _ask(self, work: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._questions, work)


class _Core:
    """What a group runs, and the thread that sees to it."""

    def __init__(self, namespace: str, name: str) -> None:
        self._name = name
        self._directory = DirectoryClient(namespace)
        self._authorities = Authorities()
        self._orders: queue.SimpleQueue[_Task] = queue.SimpleQueue()
        self._node = cluster.node_here()
        self._gateway: Gateway | None = None
        self._plan_version = 0
        self._newest_version = 0
        self._phase = GroupPhase.STARTING
        self._trouble = ""
        self._address: str | None = None
        self._thread = threading.Thread(target=self._run, name="tunnelfleet-group", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    # -- from other threads

    def describe(self) -> dict[str, Any]:
        """How it is."""
        gateway = self._gateway
        running, connected = (0, 0) if gateway is None else gateway.counts()
        trouble = self._trouble
        if gateway is not None and not trouble:
            with contextlib.suppress(TunnelError):
                trouble = str((gateway.placement.status() or {}).get("trouble", ""))
        problems = () if gateway is None else gateway.state.problems
        return {
            "group": self._name,
            "phase": self._phase.value,
            "trouble": trouble,
            "pid": os.getpid(),
            "node": self._node.id,
            "node_address": self._node.address,
            "tunnels": running,
            "connected": connected,
            "plan_version": self._plan_version,
            "problems": [str(each) for each in problems],
        }

    def rows(self) -> list[dict[str, Any]]:
        """Its tunnels."""
        gateway = self._gateway
        if gateway is None:
            return []
        runtime, state = gateway.runtime, gateway.state
        return [
            {**entry.row(runtime).to_json(), "group": self._name, "node": self._node.address}
            for entry in gateway.snapshot().entries
            if entry.phase is not None or state.is_ours(entry.tunnel.name)
        ]

    def leave(self, drain_seconds: float) -> Sequence[str]:
        """End all tunnels."""
        gateway = self._gateway
        return () if gateway is None else gateway.leave(drain_seconds).cut

    # -- the thread

    def _run(self) -> None:
        delay_seconds = RETRY_SECONDS
        with GatewayLog(sys.stderr, as_json=False):
            while True:
                if self._lived() or self._waits(delay_seconds):
                    break
                delay_seconds = min(2 * delay_seconds, MAX_RETRY_SECONDS)
        # With nothing that it owns, or nothing that anybody may own.
        cluster.end_this_actor()

    def _lived(self) -> bool:
        """Run the core; return whether that was all. Whatever failed harms no other group."""
        try:
            self._live()
        except (TunnelError, OSError) as error:
            logger.error("%s cannot run yet: %s", self._name, error)
            self._has_failed(error)
            return False
        except Exception as error:
            logger.exception("%s has failed, and is made anew", self._name)
            self._has_failed(error)
            return False
        return True

    def _has_failed(self, error: Exception) -> None:
        self._phase = GroupPhase.FAILED
        self._trouble = printable(str(error) or type(error).__name__, MAX_TROUBLE_CHARACTERS)

    def _waits(self, seconds: float) -> bool:
        """Wait before the next attempt; return whether the group is to end."""
        with contextlib.suppress(queue.Empty):
            return self._orders.get(timeout=seconds) is _Task.END
        return False

    def _live(self) -> None:
        """Run the core until the end of the group.

        Raises:
            Exception: it could not begin, or has failed.
        """
        self._phase = GroupPhase.STARTING
        plan = self._fetch_plan()
        config = self._config_of(plan)
        warning = raise_file_limit(needed_files(config.tunnels.values()))
        if warning:
            logger.warning("%s", warning)
        gateway = Gateway(
            self._read_plan,
            config,
            make_placement=lambda runtime: self._make_placement(runtime, plan),
            client_tokens=plan.client_tokens,
        )
        try:
            with self._metrics(gateway, config), gateway:
                self._gateway = gateway
                self._phase, self._trouble = GroupPhase.RUNNING, ""
                logger.info("%s runs on %s", self._name, self._node.address)
                self._follow(gateway)
        finally:
            self._gateway = None
        self._phase = GroupPhase.ENDED

    def _follow(self, gateway: Gateway) -> None:
        while (order := self._next_order(gateway)) is not _Task.END:
            if order is None:
                continue
            is_taken = gateway.reload().difference is not None
            self._trouble = "" if is_taken else "the newest plan could not be taken over yet"

    def _next_order(self, gateway: Gateway) -> _Task | None:
        """What to do next; None if there is nothing right now."""
        try:
            return self._orders.get(timeout=LOOK_SECONDS)
        except queue.Empty:
            if not gateway.supervisor.is_alive():
                raise TunnelError("the root of the group's actors has ended") from None
        return _Task.TAKE_PLAN if self._newest_version > self._plan_version else None

    def _fetch_plan(self) -> FleetPlan:
        content = self._directory.ask("plan", timeout_seconds=PLAN_SECONDS)
        plan = FleetPlan.of_bytes(content)
        self._newest_version = max(self._newest_version, plan.version)
        return plan

    def _config_of(self, plan: FleetPlan) -> FleetConfig:
        config = plan.to_config(self._name, self._node.address, self._authorities)
        for problem in config.warnings:
            logger.warning("it cannot run on this node: %s", problem)
        self._plan_version = plan.version
        return config

    def _read_plan(self) -> FleetConfig:
        """On the gateway's thread for reloads, one at a time."""
        return self._config_of(self._fetch_plan())

    def _make_placement(self, runtime: TunnelRuntime, plan: FleetPlan) -> LeasedPlacement:
        times = LeaseTimes(plan.settings["lease_seconds"])
        asker = Asker(
            self._name, secrets.token_hex(8), self._node.id, self._address, version_line()
        )
        leases = DirectoryLeases(
            self._directory,
            asker,
            times,
            on_notification=lambda text: placement.on_notification(text),  # noqa: PLW0108 - not yet
            on_reply=self._on_reply,
        )
        placement = LeasedPlacement(
            leases,
            kind="ray",
            name=self._name,
            connects=runtime,
            connect_rate=plan.settings["connect_rate"],
            times=times,
            shards=plan.settings["shards"],
        )
        return placement

    def _on_reply(self, reply: LeaseReply) -> None:
        """On the thread of the lease."""
        if reply.dismissal is Dismissal.REPLACED:
            # Another life of this group has the lease: no handover, no goodbye.
            cluster.end_this_process()
        elif reply.dismissal is Dismissal.UNWANTED:
            self._orders.put(_Task.END)
        elif reply.plan_version > self._newest_version:
            self._newest_version = reply.plan_version
            self._orders.put(_Task.TAKE_PLAN)

    @contextlib.contextmanager
    def _metrics(self, gateway: Gateway, config: FleetConfig) -> Iterator[None]:
        settings = config.gateway
        self._address = None
        if settings.metrics is None:
            yield
            return
        options = AdminOptions(
            host=settings.metrics.host,
            port=0,
            bearer_token=settings.metrics_token,
            plain_token=True,
            open_to_all=settings.metrics_open,
        )
        registry = make_registry(gateway.runtime)
        registry.register(gateway.collector)
        try:
            server = AdminServer(
                gateway.runtime, options, registry=registry, more_ready=gateway.readiness
            ).start()
        except ConfigError as error:
            # Tunnels go before metrics.
            logger.error("there are no metrics of this group: %s", error)
            yield
            return
        try:
            self._address = f"{settings.metrics.host}:{server.port}"
            yield
        finally:
            server.stop()
