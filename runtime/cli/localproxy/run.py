"""Running the one tunnel of `tunnelfleet localproxy` until a signal, or until it cannot go on.

Owns the runtime and the signals: it reports each event, and lets the `Judge` say when the command
has to end. Must not know options or wording.
"""

from __future__ import annotations

import queue
import re
import signal
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from tunnelfleet.actors.events import TunnelEvent, TunnelStateChanged
from tunnelfleet.actors.state import TunnelState
from tunnelfleet.proto import ConfigError, Mode
from tunnelfleet.runtime.cli.errors import EXIT_OK
from tunnelfleet.runtime.cli.output import take
from tunnelfleet.runtime.cli.signals import stop_signals
from tunnelfleet.runtime.runtime import TunnelRuntime
from tunnelfleet.runtime.tls import make_ssl_context

from .judge import Judge

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tunnelfleet.actors.config import TunnelConfig

    from .config import Plan
    from .output import Reporter


_HASHED_NAME = re.compile(r"[0-9a-f]{8}\.[0-9]+")
"""How OpenSSL looks for a certificate in a directory: hash of the subject, number."""

STOP_TIMEOUT_SECONDS = 10.0


class RuntimeLike(Protocol):
    """What the command needs of a TunnelRuntime."""

    def start(self) -> object:
        """Start it."""

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
        if path is None or not path.is_dir():
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


def _check_names(directory: Path) -> None:
    if not any(_HASHED_NAME.fullmatch(path.name) for path in directory.iterdir()):
        raise ConfigError(
            f"option -c: {directory} has no certificates named by their hash, "
            f"so none would be found; run `openssl rehash {directory}`, or give a PEM file"
        )


def _make_runtime(on_event: Callable[[TunnelEvent], None]) -> RuntimeLike:
    return TunnelRuntime(on_event=on_event, per_tunnel_series=1)
