"""A worker process: runs the tunnels that the gateway tells it to, until the gateway goes.

Owns the process: its signals, its log, the socket to the gateway, and what each command does. It
has no files, no state and no address of its own, and decides nothing. Signals that a terminal or a
service manager sends to all processes of a group are the gateway's to follow.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import errno
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pykka

from tunnelfleet.actors.net.socket_io import ExhaustionLog
from tunnelfleet.actors.tunnel.messages import HandOver
from tunnelfleet.proto import ConfigError, NotConnected, TunnelClosed, TunnelError
from tunnelfleet.runtime import TunnelRuntime
from tunnelfleet.runtime.gateway.config import Authorities
from tunnelfleet.runtime.gateway.process import (
    actor_tree,
    describer,
)
from tunnelfleet.runtime.memory import freeze_garbage, settle_malloc

from .messages import EXHAUSTED, Do, Is, MessageDecoder, from_json
from .reporter import LogForwarder, WorkerReporter, report_of

IGNORED_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str]) -> int:
    """Run a worker.

    Args:
        arguments: the number of the socket to the gateway.

    Returns:
        The exit status.
    """
    settle_malloc()
    for number in IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(fileno=int(arguments[0])) as sock:
        sock.set_inheritable(False)
        worker = WorkerProcess(sock)
        worker.run()
    return 0


READ_BYTES: Final = 262_144
MAX_DESCRIPTORS: Final = 64
"""How many descriptors one read takes."""
STOP_SECONDS: Final = 1.0
"""How long the tunnels may take to end when the gateway has gone."""
MAX_NODES: Final = 10_000
"""The largest tree of actors that the gateway is sent."""
EXIT_SECONDS: Final = 4.0
"""After so long the process ends, whatever still holds it up."""


class CommandReader:
    """Reads what the gateway says: each message, with the descriptor that came with it.

    The gateway sends a descriptor with the first bytes of its message. The kernel ends a read after
    the bytes that a descriptor came with, unix(7), so it belongs to the message in which that read
    ends. The same holds for a descriptor that the kernel had to drop, since the process may have no
    more: that message has none, and no other message's takes its place. A descriptor that cannot be
    told to be of one message is closed.

    Args:
        sock: the way to the gateway, which blocks.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._decoder = MessageDecoder()
        self._begun: list[int] = []
        """What came with a message whose end has not come."""

    def read(self) -> Iterator[tuple[dict[str, Any], int | None]]:
        """Yield messages until the gateway goes; the descriptor is the caller's to close.

        Raises:
            FrameError: what came is not a message.
        """
        try:
            while True:
                try:
                    data, came, flags, _address = socket.recv_fds(
                        self._sock, READ_BYTES, MAX_DESCRIPTORS
                    )
                except ConnectionError:
                    return
                if not data:
                    return
                if flags & socket.MSG_CTRUNC:
                    _close(came)
                    came = []
                yield from self._matched(self._decoder.feed(data), came)
        finally:
            _close(self._begun)

    def _matched(
        self, found: list[dict[str, Any]], came: list[int]
    ) -> Iterator[tuple[dict[str, Any], int | None]]:
        """Match the messages that a read has completed with the descriptors it brought."""
        is_amid = self._decoder.is_amid
        owned: list[list[int]] = [[] for _ in range(len(found) + is_amid)]
        owned[0] += self._begun
        owned[-1] += came
        for each in owned:
            if len(each) > 1:
                _close(each)
                each.clear()
        self._begun = owned.pop() if is_amid else []
        for message, descriptors in zip(found, owned, strict=True):
            yield message, descriptors[0] if descriptors else None


def _close(descriptors: list[int]) -> None:
    for each in descriptors:
        os.close(each)


class WorkerProcess:
    """Follows what the gateway says.

    Args:
        sock: the way to it.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._commands = CommandReader(sock)
        self._exhaustion = ExhaustionLog()
        self._reporter = WorkerReporter(sock)
        self._authorities = Authorities()
        self._runtime: TunnelRuntime | None = None

    def run(self) -> None:
        """Follow the gateway's commands until it goes."""
        try:
            for message, descriptor in self._commands.read():
                self._follow(message, descriptor)
        finally:
            # Nothing may keep a tunnel whose gateway has gone.
            ender = threading.Timer(EXIT_SECONDS, os._exit, [1])
            ender.daemon = True
            ender.start()
            self._reporter.close()
            if self._runtime is not None:
                self._runtime.stop(STOP_SECONDS)
            ender.cancel()

    def _follow(self, message: dict[str, Any], descriptor: int | None) -> None:
        do = Do(message["do"])
        if do is Do.CARRY:
            self._carry(message, descriptor)
            return
        if descriptor is not None:
            os.close(descriptor)
        if do is Do.BEGIN:
            self._begin(message)
            return
        assert self._runtime is not None
        handler: Callable[[WorkerProcess, TunnelRuntime, dict[str, Any]], None] = _HANDLERS[do]
        handler(self, self._runtime, message)

    def _begin(self, message: dict[str, Any]) -> None:
        log = logging.getLogger("tunnelfleet")
        # Of libraries as well, what they warn of.
        logging.lastResort = forwarder = LogForwarder(self._reporter)
        log.handlers[:] = [forwarder]
        log.setLevel(message["log_level"])
        log.propagate = False
        self._runtime = runtime = TunnelRuntime(
            connect_rate_per_second=message["rate_per_second"],
            connect_concurrency=message["concurrency"],
            on_event=self._reporter.on_event,
            per_tunnel_buckets=True,
        )
        self._gate(runtime, message)
        runtime.start()
        self._reporter.start(runtime)
        self._reporter.answer(lambda: {"is": Is.STARTED})

    def _gate(self, runtime: TunnelRuntime, message: dict[str, Any]) -> None:
        if message["gate_rate"] is not None:
            runtime.change_connect_rate(message["gate_rate"])
        if message["suspended"]:
            runtime.suspend_connects(message["suspended"])
        else:
            runtime.resume_connects(message["left_seconds"])

    def _open(self, runtime: TunnelRuntime, message: dict[str, Any]) -> None:
        serial = message["serial"]
        try:
            config = from_json(message["config"])
            if config.needs_tls:
                self._authorities.begin()
                given = message["authorities"]
                context, _print = self._authorities.get(None if given is None else Path(given))
                config = dataclasses.replace(config, ssl_context=context)
            if config.name in self._reporter.serials:
                raise ConfigError("its former run in the worker has not ended yet")
            self._reporter.serials[config.name] = serial
            try:
                tunnel = runtime.open_tunnel(config, bound=from_json(message["bound"]))
            except BaseException:
                del self._reporter.serials[config.name]
                raise
            self._reporter.tunnels[serial] = tunnel
        except TunnelError as error:
            text = str(error)
            self._reporter.answer(lambda: {"is": Is.FAILED, "serial": serial, "text": text})

    def _close(self, runtime: TunnelRuntime, message: dict[str, Any]) -> None:
        serial = message["serial"]
        tunnel = self._reporter.tunnels.get(serial)
        if tunnel is None:
            return
        stats = tunnel.stats

        def closed() -> dict[str, Any]:
            self._reporter.tunnels.pop(serial, None)
            self._reporter.serials.pop(tunnel.name, None)
            return {"is": Is.CLOSED, **report_of(serial, stats)}

        try:
            ended = runtime.begin_close(tunnel.name)
        except (KeyError, TunnelClosed):
            # It is being closed already.
            return
        ended.add_done_callback(lambda _ended: self._reporter.answer(closed))

    def _drain(self, runtime: TunnelRuntime, message: dict[str, Any]) -> None:
        with contextlib.suppress(KeyError):
            runtime.drain_tunnel(self._reporter.tunnels[message["serial"]].name)

    def _token(self, runtime: TunnelRuntime, message: dict[str, Any]) -> None:
        with contextlib.suppress(KeyError):
            name = self._reporter.tunnels[message["serial"]].name
            runtime.replace_token(name, message["access_token"], message["client_token"])

    def _limits(self, runtime: TunnelRuntime, message: dict[str, Any]) -> None:
        with contextlib.suppress(KeyError):
            name = self._reporter.tunnels[message["serial"]].name
            runtime.replace_limits(name, from_json(message["limits"]))

    def _carry(self, message: dict[str, Any], descriptor: int | None) -> None:
        answer = {"is": Is.CARRIED, "serial": message["serial"], "number": message["number"]}
        if descriptor is None:
            none_left = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            self._exhaustion.note("taking over a client's socket from the gateway", none_left)
            self._reporter.answer(lambda: {**answer, "error": [EXHAUSTED, none_left.strerror]})
            return
        sock = socket.socket(fileno=descriptor)
        sock.setblocking(False)
        tunnel = self._reporter.tunnels.get(message["serial"])
        order = HandOver(
            message["service_id"],
            sock,
            base64.b64decode(message["greeting"]),
            message["peer"],
            message["user"],
        )
        try:
            if tunnel is None:
                raise TunnelClosed("the tunnel has ended")
            future = tunnel.hand_over(order)
        except TunnelClosed:
            sock.close()
            self._reporter.answer(lambda: {**answer, "error": _error_of(NotConnected())})
            return

        def done(answered: Any) -> None:
            try:
                key = answered.get()
            except Exception as error:  # noqa: BLE001 - whatever it is, the socket was not taken
                sock.close()
                found = _error_of(error)
                self._reporter.answer(lambda: {**answer, "error": found})
            else:
                self._reporter.answer(lambda: {**answer, "connection": key.serial})

        future.add_done_callback(done)

    def _freeze(self, _runtime: TunnelRuntime, _message: dict[str, Any]) -> None:
        freeze_garbage()

    def _tree(self, runtime: TunnelRuntime, message: dict[str, Any]) -> None:
        number = message["number"]

        def ask() -> None:
            nodes = actor_tree(runtime.actor_ref, describe=describer(runtime))
            rows = [dataclasses.asdict(node) for node in nodes[1 : MAX_NODES + 1]]
            self._reporter.answer(lambda: {"is": Is.TREE, "number": number, "nodes": rows})

        # It waits for actors, and commands must not wait for it.
        threading.Thread(target=ask, name="tunnelfleet-tree", daemon=True).start()


def _error_of(error: Exception) -> list[str]:
    if isinstance(error, NotConnected | pykka.ActorDeadError):
        return [NotConnected.__name__, ""]
    if not isinstance(error, TunnelError):
        logger.error("a tunnel failed when a socket was handed over: %r", error)
        return [TunnelError.__name__, "the tunnel failed, which the gateway's log tells more of"]
    is_plain = type(error) is TunnelError
    return [TunnelError.__name__ if is_plain else TunnelClosed.__name__, str(error)]


_HANDLERS: Final[dict[Do, Any]] = {
    Do.OPEN: WorkerProcess._open,  # noqa: SLF001 - of this module
    Do.CLOSE: WorkerProcess._close,  # noqa: SLF001
    Do.DRAIN: WorkerProcess._drain,  # noqa: SLF001
    Do.TOKEN: WorkerProcess._token,  # noqa: SLF001
    Do.LIMITS: WorkerProcess._limits,  # noqa: SLF001
    Do.GATE: WorkerProcess._gate,  # noqa: SLF001
    Do.TREE: WorkerProcess._tree,  # noqa: SLF001
    Do.FREEZE: WorkerProcess._freeze,  # noqa: SLF001
}
