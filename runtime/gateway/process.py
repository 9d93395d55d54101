"""What a gateway does about its process: open files, the lock on its state, the service manager.

Owns the arithmetic of descriptors, the tree of actors for people, and the protocol of sd_notify(3):
ready, alive, stopping. Two gateways with the same state would run the same tunnels, and throw each
other out of them again and again. It is for whoever owns the process; a library leaves it alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import resource
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pykka
from pykka import ActorRef

from tunnelfleet.actors.kernel import ChildInfo, Dispatcher, SupervisorActor, WhichChildren
from tunnelfleet.actors.kernel.log import get_logger
from tunnelfleet.proto import ConfigError, Mode
from tunnelfleet.runtime import TunnelRuntime
from tunnelfleet.runtime.supervisor import GOVERNOR, tunnel_child_id

from .config.paths import make_private_folder

if TYPE_CHECKING:
    from .wanted import WantedTunnel

logger = logging.getLogger(__name__)


LOCK_NAME = "gateway.lock"
MAX_PID_DIGITS = 10


@contextlib.contextmanager
def state_lock(folder: Path) -> Iterator[None]:
    """Hold the folder of a gateway's state while the block runs.

    Args:
        folder: of the state; made if need be.

    Raises:
        ConfigError: another gateway holds it; the message names its process.
    """
    path = folder / LOCK_NAME
    try:
        make_private_folder(folder)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except (ConfigError, OSError) as error:
        # Nothing can be kept there, so nobody else can have it either: whoever has to write
        # there says so.
        logger.debug("no lock on %s: %s", folder, error)
        yield
        return
    try:
        _take(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        found = os.pread(descriptor, MAX_PID_DIGITS, 0).decode("ascii", "replace").strip()
        who = f" (process {found})" if found.isdecimal() else ""
        raise ConfigError(
            f"another gateway{who} runs with the state in {folder}: stop it, or give this one "
            "another folder, by STATE_DIRECTORY or by the path of a file in gateway.state"
        ) from None
    except OSError as error:
        # A file system without locks, such as some of the network.
        logger.warning("the state in %s cannot be locked: %s", folder, error.strerror)
        return
    # The number is for people. A full disk must not keep a gateway from its tunnels.
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)


OWN_FILES = 64
"""The process's own: dispatchers, log, pages, state, and some to spare."""
SPARE_FILES = 1_024
"""For connections at the least, when the limit can be raised."""
TREE_SECONDS = 5.0
MAX_TREE_NODES = 50_000


def open_standard_streams() -> None:
    """Open what the process was started without: the next file would be taken for stderr."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


def needed_files(tunnels: Iterable[WantedTunnel], things: int = 0) -> int:
    """Return how many open files the tunnels need before the first connection comes.

    Args:
        tunnels: of the files.
        things: devices that may be told of a tunnel each, at any time.
    """
    count = OWN_FILES + things
    for tunnel in tunnels:
        count += 1
        if tunnel.mode is Mode.SOURCE:
            count += sum(address is not None for address in (tunnel.services or {}).values())
    return count


def raise_file_limit(needed: int) -> str:
    """Raise the soft limit of open files as far as is allowed, and compare.

    Args:
        needed: without connections.

    Returns:
        A warning, or an empty text.

    Raises:
        ConfigError: the tunnels alone do not fit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and (hard == resource.RLIM_INFINITY or soft < hard):
        wanted = 2 * needed + SPARE_FILES
        target = wanted if hard == resource.RLIM_INFINITY else min(hard, max(wanted, soft))
        if target > soft:
            resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
            soft = target
    if soft == resource.RLIM_INFINITY or soft >= 2 * needed:
        return ""
    advice = "raise it with ulimit -n, or LimitNOFILE= of the unit"
    if soft < needed:
        raise ConfigError(
            f"the tunnels need {needed} open files, and the limit is {soft}: {advice}"
        )
    return (
        f"the limit of open files is {soft}, and the tunnels need {needed} before the first "
        f"connection comes: {advice}"
    )


@dataclass(frozen=True, slots=True)
class ActorNode:
    """An actor below the root, or a place where one should be."""

    depth: int
    id: str
    kind: str
    state: str
    restarts: int
    reason: str
    detail: str = ""
    """What it is at, for people: the state of a tunnel, who waits to connect."""

    def __str__(self) -> str:
        detail = f", {self.detail}" if self.detail else ""
        restarts = f", {self.restarts} restarts" if self.restarts else ""
        reason = f", last ended: {self.reason}" if self.reason else ""
        indent = "  " * self.depth
        return f"{indent}{self.id} ({self.kind}) {self.state}{detail}{restarts}{reason}"


def actor_tree(
    root: ActorRef[Any],
    timeout_seconds: float = TREE_SECONDS,
    describe: Callable[[str], str] = lambda _child_id: "",
) -> list[ActorNode]:
    """Return the actors below a root, each after its supervisor; bounded in time and number.

    Not for an actor's thread: it waits for the supervisors' answers. One that does not answer
    is shown without its children.

    Args:
        root: the root.
        timeout_seconds: for all answers together.
        describe: tells what a child of that id is at; `describer` makes one.
    """
    deadline = time.monotonic() + timeout_seconds
    nodes = [ActorNode(0, "gateway", root.actor_class.__name__, "running", 0, "")]
    _add_children(root, 1, nodes, deadline, describe)
    return nodes


def describer(runtime: TunnelRuntime) -> Callable[[str], str]:
    """What the actors of a runtime are at: the state of each tunnel, and the governor's queue."""
    by_id = {tunnel_child_id(tunnel.name): tunnel for tunnel in runtime.tunnels()}

    def describe(child_id: str) -> str:
        tunnel = by_id.get(child_id)
        if tunnel is not None:
            reason = tunnel.reason
            return f"{tunnel.stats.state}: {reason}" if reason else str(tunnel.stats.state)
        return str(runtime.connect_stats()) if child_id == GOVERNOR else ""

    return describe


def _add_children(
    supervisor: ActorRef[Any],
    depth: int,
    nodes: list[ActorNode],
    deadline: float,
    describe: Callable[[str], str],
) -> None:
    for info in _children(supervisor, deadline):
        if len(nodes) >= MAX_TREE_NODES:
            return
        kind = "down" if info.ref is None else info.ref.actor_class.__name__
        reason = "" if info.last_reason is None else str(info.last_reason)
        state, detail = info.state.value, describe(info.id)
        nodes.append(ActorNode(depth, info.id, kind, state, info.restarts, reason, detail))
        if info.ref is not None and issubclass(info.ref.actor_class, SupervisorActor):
            _add_children(info.ref, depth + 1, nodes, deadline, describe)


def _children(supervisor: ActorRef[Any], deadline: float) -> list[ChildInfo]:
    left_seconds = deadline - time.monotonic()
    if left_seconds <= 0:
        return []
    try:
        found: list[ChildInfo] = supervisor.ask(WhichChildren(), block=True, timeout=left_seconds)
    except (pykka.Timeout, pykka.ActorDeadError):
        return []
    return found


SOCKET_VARIABLE: Final = "NOTIFY_SOCKET"
WATCHDOG_VARIABLE: Final = "WATCHDOG_USEC"
WATCHDOG_PID_VARIABLE: Final = "WATCHDOG_PID"
BEATS_A_PERIOD: Final = 3
"""How often the watchdog is fed within its time; sd_watchdog_enabled(3) advises at least two."""

_log = get_logger(__name__)


class Heartbeat:
    """Knows whether all dispatchers turn, without waiting for them.

    Each `beat` asks every dispatcher something, and looks whether the last question was answered.
    """

    def __init__(self) -> None:
        self._asked: dict[str, list[bool]] = {}

    def beat(self, dispatchers: Sequence[Dispatcher]) -> bool:
        """Ask again.

        Returns:
            Whether every dispatcher has answered the question of the beat before. One that is new
            counts as answering.
        """
        is_alive = True
        asked: dict[str, list[bool]] = {}
        for dispatcher in dispatchers:
            last = self._asked.get(dispatcher.name)
            if last is not None and not last[0]:
                # The old question still stands: another one would only make the queue longer.
                is_alive = False
                asked[dispatcher.name] = last
                continue
            answer = [False]
            try:
                dispatcher.call_soon(answer.__setitem__, 0, True)
            except RuntimeError:
                is_alive = False
            asked[dispatcher.name] = answer
        self._asked = asked
        return is_alive


MAX_STATUS_LENGTH: Final = 200


class ServiceManager:
    """The service manager of this process, or nobody.

    Args:
        environ: where its variables are; they are not taken out of it.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        environ: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        given = os.environ if environ is None else environ
        self._clock = clock
        self._address = _address(given.get(SOCKET_VARIABLE, ""))
        self._interval_seconds = _watchdog_seconds(given)
        self._fed_at = float("-inf")
        self._status = ""
        self._is_silent_told = False

    @property
    def is_there(self) -> bool:
        """Whether anybody listens."""
        return self._address is not None

    def ready(self) -> None:
        """The gateway has started: its files are good, and its actors run."""
        self._send("READY=1")

    def stopping(self) -> None:
        """It ends in good order; this may take `drain_seconds`."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """Say in a line how it is; the same line again is not sent."""
        line = " ".join(text.split())[:MAX_STATUS_LENGTH]
        if line != self._status:
            self._status = line
            self._send(f"STATUS={line}")

    def extend(self, seconds: float) -> None:
        """The end takes so long from now on: `TimeoutStopSec` is not to cut it off."""
        self._send(f"EXTEND_TIMEOUT_USEC={round(seconds * 1_000_000)}")

    def tick(self, beat: Callable[[], bool]) -> None:
        """Feed the watchdog when it is time.

        Args:
            beat: asked then whether the process is alive; if not, the watchdog goes hungry.
        """
        now = self._clock()
        if self._interval_seconds is None or now - self._fed_at < self._interval_seconds:
            return
        self._fed_at = now
        if beat():
            self._is_silent_told = False
            self._send("WATCHDOG=1")
        elif not self._is_silent_told:
            self._is_silent_told = True
            _log.error("a dispatcher does not turn; the watchdog is not fed")

    def _send(self, text: str) -> None:
        if self._address is None:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.setblocking(False)
            try:
                sock.sendto(text.encode(), self._address)
            except OSError as error:
                # It has gone, or does not read: the gateway goes on without it.
                _log.debug("the service manager was not told %s: %s", text, error.strerror)


def _address(text: str) -> bytes | str | None:
    if text.startswith("@"):
        return b"\0" + text[1:].encode()
    return text if text.startswith("/") else None


def _watchdog_seconds(environ: Mapping[str, str]) -> float | None:
    microseconds = environ.get(WATCHDOG_VARIABLE, "")
    process = environ.get(WATCHDOG_PID_VARIABLE, "")
    is_for_us = not process or process == str(os.getpid())
    if not is_for_us or not microseconds.isascii() or not microseconds.isdigit():
        return None
    if len(microseconds) > 18 or not int(microseconds):
        return None
    return int(microseconds) / 1_000_000 / BEATS_A_PERIOD
