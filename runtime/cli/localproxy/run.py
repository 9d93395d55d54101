"""Running the one tunnel of `tunnelfleet localproxy` until a signal, or until it cannot go on.

`Localproxy` owns the runtime and the signals, and reports each event. `Judge`, which is pure, says
what an event means for the command: go on, advise the user, or end with an error.
"""

from __future__ import annotations

import os
import queue
import re
import signal
import ssl
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol

from tunnelfleet.actors.config import ANY_SERVICE, TunnelConfig
from tunnelfleet.actors.events import (
    ServiceIdsReceived,
    TunnelEvent,
    TunnelState,
    TunnelStateChanged,
)
from tunnelfleet.proto import ConfigError, Mode, counted
from tunnelfleet.runtime.cli.errors import EXIT_OK, CommandFailed, stop_signals
from tunnelfleet.runtime.cli.output import take
from tunnelfleet.runtime.runtime import TunnelRuntime
from tunnelfleet.runtime.tls import make_ssl_context

from .settings import RETRY_FOR_EVER

if TYPE_CHECKING:
    from .config import Plan
    from .output import Reporter


_ADVICE_ON_AUTHORITY: Final = (
    "if the service's authority is one of your own, give its certificate with -c FILE"
)
_ADVICE: Final = tuple(
    (re.compile(pattern, re.IGNORECASE), advice)
    for pattern, advice in (
        (
            "certificate verify failed.*(local issuer|self.signed|issuer certificate)",
            _ADVICE_ON_AUTHORITY,
        ),
        (
            "certificate verify failed.*(mismatch|not valid for)",
            "give with -e a name that stands in the service's certificate",
        ),
        (
            "certificate verify failed.*(expired|not yet valid)",
            "check this machine's clock, and the service's certificate",
        ),
        (
            "wrong.version.number|record layer failure|http request",
            "a service without TLS is written -e ws://HOST:PORT",
        ),
        (
            "cannot reach the proxy",
            "check HTTPS_PROXY and that the proxy runs, or take the variable away",
        ),
        (
            "name or service not known|name resolution|nodename|no address associated",
            "check the region (-r) or the endpoint (-e), and this machine's DNS",
        ),
        (
            "cannot reach.*(refused|no route|unreachable|timed out)",
            "check the endpoint (-e), that it runs, and whether a proxy is needed (HTTPS_PROXY)",
        ),
    )
)


def advice_on(reason: str) -> str:
    """Return what the user can do about a failed connect, or an empty text."""
    for pattern, advice in _ADVICE:
        if pattern.search(reason):
            return advice
    return ""


_RETRY: Final = re.compile(r"(?:; )?retry in [0-9.]+ s$")
"""The end of a reason when another attempt follows."""


class Judge:
    """Follows one tunnel.

    Args:
        plan: what the command was asked for.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._was_connected = False
        self._failures = 0
        self._compared = False
        self._told: set[str] = set()

    def judge(self, event: TunnelEvent) -> list[str]:
        """Take an event.

        Returns:
            Notes for people.

        Raises:
            CommandFailed: the command has to end.
        """
        match event:
            case TunnelStateChanged():
                return self._state(event)
            case ServiceIdsReceived(service_ids=service_ids):
                return self._compare(service_ids)
        return []

    def _state(self, change: TunnelStateChanged) -> list[str]:
        match change.state:
            case TunnelState.CONNECTED:
                self._was_connected = True
                self._failures = 0
            case TunnelState.REFUSED:
                raise CommandFailed(f"the tunnel was refused: {change.reason}")
            case TunnelState.STOPPED:
                raise CommandFailed(f"the tunnel stopped: {change.reason or 'no reason given'}")
            case TunnelState.BACKOFF | TunnelState.QUARANTINED:
                return self._failed(_RETRY.sub("", change.reason))
        return []

    def _compare(self, announced: tuple[str, ...]) -> list[str]:
        """Tell, once, what the mapping lacks of the tunnel's services, and what it has too much."""
        if not self._plan.is_mapped:
            example = ",".join(f"{each}=HOST:PORT" for each in announced) or "HOST:PORT"
            raise CommandFailed(
                f"nothing to connect to: the tunnel's services are "
                f"{', '.join(announced) or 'none'}; give -d {example}, "
                "or a directory of mapping files with --config-dir"
            )
        config = self._plan.config
        problem = config.mismatch(announced)
        if problem:
            raise CommandFailed(problem)
        services = config.services
        if self._compared or services is None:
            return []
        self._compared = True
        return self._notes_on(services, announced)

    def _notes_on(self, services: Mapping[str, object], announced: tuple[str, ...]) -> list[str]:
        config = self._plan.config
        if ANY_SERVICE in services:
            if config.mode is Mode.DESTINATION and len(announced) > 1:
                return [f"every service of the tunnel ({', '.join(announced)}) has this address"]
            return []
        missing = _beyond(announced, services)
        notes = [
            f"the tunnel's service {each!r} has no mapping and is not served" for each in missing
        ]
        if self._plan.from_files:
            mapped = _beyond(announced, missing)
            return notes + [f"{each} connects to {services[each]}" for each in mapped]
        unknown = _beyond(services, announced) if announced else []
        return notes + [f"{each!r} is mapped and is no service of this tunnel" for each in unknown]

    def _failed(self, reason: str) -> list[str]:
        if self._was_connected:
            self._was_connected = False
            if not self._plan.reconnect:
                raise CommandFailed(
                    f"the connection was lost: {reason}; the settings say not to reconnect "
                    "(websocket.reconnect_on_data_error), so start it again"
                )
            return []
        self._failures += 1
        advice = advice_on(reason)
        if advice == _ADVICE_ON_AUTHORITY and self._plan.ca_path is not None:
            advice = f"{self._plan.ca_path} has other authorities: put the service's into it"
        if RETRY_FOR_EVER < self._plan.retry_count <= self._failures:
            tries = counted(self._failures, "failed connect")
            advice = advice or "start it again, or raise websocket.connect_retry_count"
            raise CommandFailed(f"gave up after {tries}: {reason}; {advice}")
        if not advice or advice in self._told:
            return []
        self._told.add(advice)
        return [advice]


def _beyond(names: Iterable[str], others: Container[str]) -> list[str]:
    return [each for each in names if each not in others]


_HASHED_NAME = re.compile(r"[0-9a-f]{8}\.[0-9]+")
"""How OpenSSL looks for a certificate in a directory: hash of the subject, number."""

STOP_TIMEOUT_SECONDS = 10.0


class RuntimeLike(Protocol):
    """What the command needs of a TunnelRuntime."""

    def start(self) -> object:
        """Start the tunnel."""

    def stop(self, timeout_seconds: float = ...) -> None:
        """Stop it and its tunnels, sending what was read."""

    def open_tunnel(self, config: TunnelConfig) -> object:
        """Open the tunnel."""


class Localproxy:
    """Runs one tunnel until a signal, or until it cannot go on.

    Args:
        plan: what to run.
        reporter: told of every event.
        make_runtime: called with the function that takes events.
    """

    def __init__(
        self,
        plan: Plan,
        reporter: Reporter,
        make_runtime: Callable[[Callable[[TunnelEvent], None]], RuntimeLike] | None = None,
    ) -> None:
        self._plan = plan
        self._reporter = reporter
        self._make_runtime = make_runtime or _make_runtime
        # SimpleQueue.put may be called from a signal handler; Queue.put may not.
        self._inbox: queue.SimpleQueue[TunnelEvent | signal.Signals] = queue.SimpleQueue()
        self._judge = Judge(plan)

    def run(self) -> int:
        """Run until the end.

        Returns:
            `EXIT_OK` after a signal.

        Raises:
            CommandFailed: the service refused the tunnel, or what the settings allow of retries is
                used up.
            ConfigError: the certificate authorities cannot be read.
        """
        config = replace(self._plan.config, ssl_context=self._ssl_context())
        self._announce()
        runtime = self._make_runtime(self._inbox.put)
        with stop_signals(self._inbox.put):
            runtime.start()
            try:
                with self._admin(runtime):
                    runtime.open_tunnel(config)
                    self._follow()
            finally:
                runtime.stop(STOP_TIMEOUT_SECONDS)
                self._drain()
        return EXIT_OK

    @contextmanager
    def _admin(self, runtime: RuntimeLike) -> Iterator[None]:
        options = self._plan.admin
        if options is None or not isinstance(runtime, TunnelRuntime):
            yield
            return
        # It is imported here, so that only those who ask for it wait for an HTTP server.
        from tunnelfleet.runtime.admin import AdminServer  # noqa: PLC0415

        with AdminServer(runtime, options) as server:
            self._reporter.note(f"metrics are at {server.url}/metrics")
            yield

    def _ssl_context(self) -> ssl.SSLContext | None:
        plan = self._plan
        if not plan.config.needs_tls:
            return None
        path = plan.ca_path
        if path is None or not os.path.isdir(path):
            context = make_ssl_context(ca_file=path, verify=plan.verify)
        else:
            _check_names(path)
            context = make_ssl_context(ca_dir=path, verify=plan.verify)
        if plan.verify and path is not None:
            # As with localproxy, the given authorities come on top of the system's.
            context.load_default_certs()
        return context

    def _announce(self) -> None:
        for text in self._plan.warnings:
            self._reporter.warning(text)
        for text in self._plan.notes:
            self._reporter.note(text)
        config = self._plan.config
        is_known = self._plan.is_mapped and not self._plan.from_files
        if config.mode is Mode.DESTINATION and config.services and is_known:
            self._reporter.services(config.services)

    def _follow(self) -> None:
        while True:
            item = take(self._inbox)
            if isinstance(item, signal.Signals):
                return
            self._reporter.event(item)
            for note in self._judge.judge(item):
                self._reporter.note(note)

    def _drain(self) -> None:
        while not self._inbox.empty():
            item = self._inbox.get()
            # A tunnel that gets connected while the command ends is not reported.
            is_stale = isinstance(item, TunnelStateChanged) and item.state is TunnelState.CONNECTED
            if isinstance(item, TunnelEvent) and not is_stale:
                self._reporter.event(item)


def _check_names(directory: str) -> None:
    if not any(_HASHED_NAME.fullmatch(name) for name in os.listdir(directory)):
        raise ConfigError(
            f"option -c: {directory} has no certificates named by their hash, "
            f"so none would be found; run `openssl rehash {directory}`, or give a PEM file"
        )


def _make_runtime(on_event: Callable[[TunnelEvent], None]) -> RuntimeLike:
    return TunnelRuntime(on_event=on_event, per_tunnel_series=1)
