"""`tunnelfleet up`: a fleet gateway in the foreground, until a signal.

Owns the options, what signals mean, and the exit status:

    0  every tunnel ended whole after SIGTERM or SIGINT
    1  connections were cut: their time was over, or a second signal came
    2  the files have mistakes, or the machine cannot hold the fleet; nothing was started

SIGHUP reads the files again, SIGUSR2 writes the tree of actors into the log. What a gateway does is
in `tunnelfleet.runtime.gateway`.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import queue
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from tunnelfleet.proto import ConfigError, TunnelError, counted
from tunnelfleet.runtime import memory
from tunnelfleet.runtime.admin import AdminOptions, AdminServer
from tunnelfleet.runtime.admin.server import make_registry
from tunnelfleet.runtime.cli import errors
from tunnelfleet.runtime.gateway import Gateway, Left, Reload, process
from tunnelfleet.runtime.gateway.api import ApiOptions, ApiPlaces, ApiServer, EventFeed
from tunnelfleet.runtime.gateway.config import (
    Authorities,
    ConfigProblems,
    FleetConfig,
    Problem,
    load,
)
from tunnelfleet.runtime.gateway.devices.actor import Devices
from tunnelfleet.runtime.gateway.door import Denied, Door
from tunnelfleet.runtime.gateway.forward import Forwarding
from tunnelfleet.runtime.gateway.log import GatewayLog, log_problems
from tunnelfleet.runtime.gateway.on_demand import OnDemand
from tunnelfleet.runtime.gateway.page import FleetWatch, StatusPage, look_at
from tunnelfleet.runtime.gateway.reloading import FileWatcher
from tunnelfleet.runtime.gateway.store import Store

from .check import print_problems

LEVELS = ("debug", "info", "warning", "error")
SIGNALS = (*errors.STOP_SIGNALS, signal.SIGHUP, signal.SIGUSR2)

logger = logging.getLogger(__name__)

Inbox = queue.SimpleQueue["signal.Signals | Left | TunnelError"]


def up_command(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="FILE|FOLDER", help="TOML files; the *.toml of a folder merge."),
    ],
    watch: Annotated[
        bool, typer.Option("--watch", help="Read the files again whenever one has changed.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Write the log as JSON, one object a line.")
    ] = False,
    log_level: Annotated[
        str, typer.Option(metavar="LEVEL", help="debug, info, warning or error.")
    ] = "info",
) -> int:
    """Run the tunnels of these files, and follow their changes.

    SIGHUP reads the files again, SIGTERM and SIGINT let open connections end within drain_seconds,
    a second one ends at once. The log goes to stderr.
    """
    process.open_standard_streams()
    memory.settle_malloc()
    if log_level not in LEVELS:
        raise ConfigError(f"--log-level {log_level}: write one of {', '.join(LEVELS)}")
    read = functools.partial(_read, paths, Authorities())
    try:
        config = read()
    except ConfigProblems as error:
        print_problems(error.problems)
        return errors.EXIT_USAGE
    inbox: Inbox = queue.SimpleQueue()
    level = logging.getLevelNamesMapping()[log_level.upper()]
    with (
        GatewayLog(sys.stderr, as_json=as_json, level=level) as log,
        EventFeed() as feed,
        errors.deliver_signals(SIGNALS, errors.without_echoes(inbox.put)),
        process.state_lock(config.gateway.state_folder),
    ):
        log_problems(config.warnings)
        store = Store.of(config.gateway)
        devices = Devices(store)
        demand = OnDemand(store)
        on_denied = functools.partial(_note_denied, store)
        forwarding = Forwarding(config.gateway, store)
        others = forwarding.for_doors
        door = Door(config.gateway, on_denied=on_denied, resolver=demand, others=others)
        gateway = Gateway(
            read,
            config,
            store=store,
            more_children=lambda gateway: [
                demand.child(gateway),
                door.child(gateway),
                *forwarding.children(gateway, door),
                devices.child(gateway),
            ],
        )
        with (
            forwarding,
            door,
            demand,
            devices,
            _admin_api(gateway, config, feed, door) as admin_api,
            gateway,
            _pages(gateway, config, devices) as pages_url,
            _serving(admin_api, pages_url),
            _watching(gateway, inbox, watch=watch),
        ):
            logger.info(
                "gateway %s is up with %s",
                config.gateway.name,
                counted(len(config.tunnels), "tunnel"),
                extra={"event": "up", "fields": {"tunnels": len(config.tunnels)}},
            )
            manager = process.ServiceManager()
            manager.ready()
            return _Foreground(gateway, inbox, log, manager, as_json=as_json).run()


def _read(paths: Sequence[Path], authorities: Authorities) -> FleetConfig:
    """Read the files, at the start and at each reload, and see that the machine holds the fleet."""
    config = load(paths, authorities=authorities)
    try:
        things = sum(len(section.things) for section in config.notify)
        warning = process.raise_file_limit(process.needed_files(config.tunnels.values(), things))
    except ConfigError as error:
        raise ConfigProblems([Problem(str(paths[0]), 1, "tunnel", str(error))]) from None
    if not warning:
        return config
    problem = Problem(str(paths[0]), 1, "tunnel", warning, is_error=False)
    return replace(config, warnings=(*config.warnings, problem))


def _note_denied(store: Store, denied: Denied) -> None:
    """A front door has turned somebody away: that belongs into the audit."""
    # As most clients write it: the audit is asked for tunnels by their names.
    tunnel, _, service_id = denied.target.partition(":")
    store.note_denied(tunnel, service_id, peer=denied.peer, user=denied.user, reason=denied.reason)


TICK_SECONDS = 1.0
LEAVE_SECONDS = 60.0
"""What the end may take beside `drain_seconds`, as the service manager is told."""
FORCED_SECONDS = 0.5
"""How long the end may take after a second signal."""


class _Foreground:
    """Follows the signals of a running gateway."""

    def __init__(
        self,
        gateway: Gateway,
        inbox: Inbox,
        log: GatewayLog,
        manager: process.ServiceManager,
        *,
        as_json: bool,
    ) -> None:
        self._gateway = gateway
        self._inbox = inbox
        self._log = log
        self._manager = manager
        self._heartbeat = process.Heartbeat()
        self._as_json = as_json
        self._frozen: FleetConfig | None = None
        self._growing = memory.GrowingFleet()

    def _reload(self) -> None:
        if not self._gateway.tell(Reload()):
            # The fleet's actor has failed and will be there again in a moment.
            threading.Timer(TICK_SECONDS, self._inbox.put, [signal.SIGHUP]).start()

    def run(self) -> int:
        """Follow the gateway until its end; return the exit status."""
        while True:
            self._tell_manager()
            try:
                found = self._inbox.get(timeout=TICK_SECONDS)
            except queue.Empty:
                if self._gateway.has_failed:
                    return self._failed()
                self._freeze_when_settled()
                continue
            if found is signal.SIGHUP:
                self._reload()
            elif found is signal.SIGUSR2:
                self._write_tree()
            elif found in errors.STOP_SIGNALS:
                return self._leave()

    def _failed(self) -> int:
        """The root of the actors has ended: end, for whoever runs the process to start it anew."""
        logger.error("the gateway's root has failed: it ends, to be started again")
        self._manager.stopping()
        self._gateway.stop(FORCED_SECONDS)
        return errors.EXIT_FAILURE

    def _tell_manager(self) -> None:
        if not self._manager.is_there:
            return
        self._manager.tick(lambda: self._heartbeat.beat(self._gateway.dispatchers))
        running, connected = self._gateway.counts()
        self._manager.status(f"{connected} of {counted(running, 'tunnel')} connected")

    def _freeze_when_settled(self) -> None:
        # Again after each reload: what it has brought stays as well.
        config = self._gateway.state.config
        if self._frozen is config:
            return
        if not self._gateway.is_settled:
            # A tunnel that is connected has grown once more.
            self._growing.note(sum(self._gateway.counts()))
        else:
            self._frozen = config
            memory.freeze_garbage()
            if self._gateway.workers is not None:
                self._gateway.workers.freeze_garbage()
            logger.debug("the fleet is up; the garbage collector looks at it no more")

    def _leave(self) -> int:
        seconds = self._gateway.state.config.gateway.drain_seconds
        logger.info(
            "stopping: open connections have %g s to end; a second signal cuts them", seconds
        )
        self._manager.stopping()
        self._manager.extend(seconds + LEAVE_SECONDS)
        threading.Thread(target=self._ask_to_leave, name="tunnelfleet-leave", daemon=True).start()
        while True:
            self._manager.tick(lambda: self._heartbeat.beat(self._gateway.dispatchers))
            try:
                found = self._inbox.get(timeout=TICK_SECONDS)
            except queue.Empty:
                continue
            if found in errors.STOP_SIGNALS:
                logger.warning("a second signal: what is open is cut")
                self._gateway.stop(FORCED_SECONDS)
                return errors.EXIT_FAILURE
            if isinstance(found, Left):
                return self._left(found)
            if isinstance(found, TunnelError):
                logger.error("the fleet could not be drained: %s", found)
                self._gateway.stop()
                return errors.EXIT_FAILURE

    def _ask_to_leave(self) -> None:
        try:
            self._inbox.put(self._gateway.leave())
        except TunnelError as error:
            self._inbox.put(error)

    def _left(self, left: Left) -> int:
        for name in left.cut:
            logger.warning("its connections are cut: their time is over", extra={"tunnel": name})
        self._gateway.stop()
        logger.info("stopped", extra={"event": "stopped"})
        return errors.EXIT_FAILURE if left.cut else errors.EXIT_OK

    def _write_tree(self) -> None:
        nodes = process.actor_tree(
            self._gateway.supervisor, describe=process.describer(self._gateway.runtime)
        )
        if self._gateway.workers is not None:
            nodes += self._gateway.workers.trees()
        lines = [str(node) for node in nodes]
        if self._as_json:
            self._log.put(json.dumps({"event": "actors", "tree": lines}))
            return
        for line in lines:
            self._log.put(line)


@contextlib.contextmanager
def _admin_api(
    gateway: Gateway, config: FleetConfig, feed: EventFeed, door: Door
) -> Iterator[ApiServer | None]:
    """The admin API, if it is wanted: it listens, and is not served yet.

    That comes before the tunnels: a gateway that has the address may have the same tunnels.
    """
    options = ApiOptions.of(config.gateway)
    if options is None:
        yield None
        return
    places = ApiPlaces(
        door=None if door.address is None else str(door.address),
        connect=None if door.connect_path is None else str(door.connect_path),
    )
    server = ApiServer(
        gateway,
        options,
        feed=feed,
        places=places,
        current_token=lambda: gateway.state.config.gateway.admin_token,
    )
    server.listen()
    try:
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def _serving(server: ApiServer | None, pages_url: str | None) -> Iterator[None]:
    """Serve it while the gateway runs."""
    if server is None:
        yield
        return
    server.places.metrics = pages_url
    with server:
        logger.info(
            "the admin API is at %s",
            server.url,
            extra={"event": "admin", "fields": {"url": server.url}},
        )
        yield


OPENS_ON_PURPOSE = any(each.name == "open_to_all" for each in fields(AdminOptions))
"""Whether the admin server has to be told that it may be open to other machines."""


@contextlib.contextmanager
def _pages(gateway: Gateway, config: FleetConfig, devices: Devices) -> Iterator[str | None]:
    """The status page, /metrics, /healthz and /readyz, if they are wanted: their URL."""
    settings = config.gateway
    if settings.metrics is None:
        yield None
        return
    # The files say on purpose whether the pages are for other machines; `load` has looked at it.
    open_to_all: dict[str, Any] = {"open_to_all": settings.metrics_open} if OPENS_ON_PURPOSE else {}
    options = AdminOptions(
        host=settings.metrics.host,
        port=settings.metrics.port,
        bearer_token=settings.metrics_token,
        plain_token=True,
        **open_to_all,
    )
    registry = make_registry(gateway.runtime)
    registry.register(gateway.collector)
    watch = FleetWatch(gateway)
    look = functools.partial(look_at, gateway, watch.look)
    page = StatusPage(look, settings.metrics_hosts)
    with (
        contextlib.closing(watch),
        AdminServer(
            gateway.runtime,
            options,
            registry=registry,
            more_pages=page.pages,
            more_silent=list if gateway.workers is None else gateway.workers.silent,
            more_ready=lambda: {
                **gateway.readiness(),
                **({"brokers": found} if (found := devices.brokers()) else {}),
            },
            current_token=lambda: gateway.state.config.gateway.metrics_token,
        ) as server,
    ):
        logger.info(
            "metrics are at %s/metrics, the status page at %s/",
            server.url,
            server.url,
            extra={"event": "metrics", "fields": {"url": server.url}},
        )
        yield server.url


@contextlib.contextmanager
def _watching(gateway: Gateway, inbox: Inbox, *, watch: bool) -> Iterator[None]:
    if not watch:
        yield
        return

    def reload() -> None:
        inbox.put(signal.SIGHUP)

    with FileWatcher(lambda: gateway.state.config.files, reload):
        logger.info("the files are watched", extra={"event": "watching"})
        yield
