"""What a gateway does about its process: open files, the garbage collector, the tree of actors.

Owns the arithmetic of descriptors and the form of the tree. It is for whoever owns the process;
a library leaves these alone.
"""

from __future__ import annotations

import gc
import os
import resource
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pykka

from tunnelfleet.actors.kernel import ChildInfo, SupervisorActor, WhichChildren
from tunnelfleet.proto import ConfigError, Mode
from tunnelfleet.runtime.supervisor import GOVERNOR, tunnel_child_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pykka import ActorRef

    from tunnelfleet.runtime import TunnelRuntime

    from .wanted import WantedTunnel

__all__ = [
    "ActorNode",
    "actor_tree",
    "describer",
    "freeze_garbage",
    "needed_files",
    "open_standard_streams",
    "raise_file_limit",
]

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
    """How many open files the tunnels need before the first connection comes.

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


def freeze_garbage() -> None:
    """Put what is alive out of the garbage collector's sight: the fleet is up and stays.

    A full turn over thousands of tunnels stops every thread for half a second otherwise.
    """
    gc.collect()
    gc.freeze()


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
    """The actors below a root, each after its supervisor; bounded in time and number.

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
