"""A fleet on a Ray cluster as the commands hold it: bring it up, look at it, take it down.

Owns the order of the steps, and what is said of a fleet whose parts answer late or not at all. It
runs in a driver, and waits; the fleet goes on when the driver has ended.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from tunnelfleet.proto import TunnelError
from tunnelfleet.runtime import TunnelState
from tunnelfleet.runtime.gateway.placement import owner_of

from . import cluster
from .directory import Directory, DirectoryClient
from .group import Group
from .keeper import NoFleetError, group_names
from .plan import FleetPlan, PlanChange

DIRECTORY_SECONDS: Final = 30.0
"""For the directory to be there, at least: Ray may have to start its process first."""
GROUP_SECONDS: Final = 8.0
"""For all groups to say how they are; one that is away is shown as such."""
LOOK_SECONDS: Final = 0.2
LEAVE_SECONDS: Final = 20.0
"""For the end of all tunnels, beside the time that open connections have."""
MIN_DIFFERENCE: Final = 2
"""Of the numbers of groups on two nodes: with less, a move would change nothing."""
STATE_LOST: Final = TunnelState.STOPPED.value


class Brought(NamedTuple):
    """What `up` has done.

    Attributes:
        change: of the plan.
        groups: how each group is.
        late: groups that were not up with this plan in time.
        moved: groups that have gone to another node.
    """

    change: PlanChange
    groups: Sequence[Mapping[str, Any]]
    late: Sequence[str]
    moved: Sequence[str] = ()


class RayFleet:
    """The fleet of a namespace. Made inside `cluster.joined`.

    Args:
        namespace: of the fleet.
    """

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._directory = DirectoryClient(namespace)
        self._answer_seconds = DIRECTORY_SECONDS

    def _be_patient(self, timeout_seconds: float) -> None:
        """Give the directory as long as the groups, where that is longer."""
        self._answer_seconds = max(DIRECTORY_SECONDS, timeout_seconds)

    def _ask(self, method: str, *arguments: Any) -> Any:
        """Ask the directory, once more if it is being started again: twice does no harm."""
        deadline = time.monotonic() + self._answer_seconds
        while True:
            left_seconds = max(LOOK_SECONDS, deadline - time.monotonic())
            try:
                return self._directory.ask(method, *arguments, timeout_seconds=left_seconds)
            except OSError as error:
                if cluster.find_actor(cluster.DIRECTORY, self._namespace) is None:
                    raise NoFleetError from None
                if time.monotonic() > deadline:
                    raise TunnelError(
                        "the directory of the fleet does not answer within "
                        f"{self._answer_seconds:g} s: {error}"
                    ) from None
            time.sleep(LOOK_SECONDS)

    # -- up

    def groups_wanted(self) -> int:
        """How many groups the fleet has; 0 if there is none."""
        if cluster.find_actor(cluster.DIRECTORY, self._namespace) is None:
            return 0
        try:
            found: dict[str, Any] = self._ask("status")
        except NoFleetError:
            return 0
        return 0 if found["is_ending"] else int(found["groups_wanted"])

    def up(
        self, plan: FleetPlan, timeout_seconds: float, on_wait: Callable[[str], object]
    ) -> Brought:
        """Begin the fleet, or have the one that runs be as this plan says.

        Args:
            plan: what is to run.
            timeout_seconds: for all groups to have taken it over; the directory has as long
                before, and `DIRECTORY_SECONDS` at least.
            on_wait: told, for people, what is waited for.

        Raises:
            ConfigError: the fleet that runs cannot become that.
            TunnelError: the directory does not answer.
        """
        self._be_patient(timeout_seconds)
        # Beside the control store that it asks all the time.
        cluster.make_actor(
            Directory,
            cluster.DIRECTORY,
            self._namespace,
            self._namespace,
            node_id=cluster.head(),
        )
        change: PlanChange = self._ask("declare", plan.to_bytes())
        names = group_names(plan.groups)
        deadline = time.monotonic() + timeout_seconds
        groups, late = self._bring(names, change.version, deadline, on_wait)
        return Brought(change, groups, late)

    def _bring(
        self, names: Sequence[str], version: int, deadline: float, on_wait: Callable[[str], object]
    ) -> tuple[Sequence[Mapping[str, Any]], Sequence[str]]:
        """Make the groups that are missing, and wait for all; how they are, and who is late."""
        nodes: dict[str, str] = {}
        while True:
            # One that was on its way out when it was asked for again is made anew.
            nodes |= self._make_groups(names, nodes)
            groups = self.groups()
            late = [each["group"] for each in groups if not _has(each, version, names)]
            if not late or time.monotonic() > deadline:
                return groups, late
            on_wait(f"waiting for {', '.join(late[:8])}")
            time.sleep(LOOK_SECONDS)

    # -- spread

    def spread(
        self, brought: Brought, timeout_seconds: float, on_wait: Callable[[str], object]
    ) -> Brought:
        """Move groups, one at a time, until no node has two more than another.

        A group hands its shards over to the others as one that is not wanted any more, ends, begins
        on the node with the fewest, and takes its shards back. Each of its tunnels is away for two
        moments; no other tunnel notices.

        Args:
            brought: what `up` has done.
            timeout_seconds: for each step.
            on_wait: told, for people, what is waited for.

        Raises:
            TunnelError: a step took too long; `up` again brings the group back.
        """
        self._be_patient(timeout_seconds)
        names = group_names(brought.change.groups[1])
        moved: list[str] = []
        groups, late = brought.groups, brought.late
        while not late and (found := next_to_move(groups, [each.id for each in cluster.nodes()])):
            if found in moved:
                # Ray has put it elsewhere than it was asked to: there is no room.
                break
            on_wait(f"{found} hands over")
            self._ask("dismiss", found)
            is_gone = functools.partial(self._is_gone, found)
            self._until(is_gone, timeout_seconds, f"{found} to end")
            self._ask("restore")
            deadline = time.monotonic() + timeout_seconds
            groups, late = self._bring(names, brought.change.version, deadline, on_wait)
            moved.append(found)
            on_wait(f"{found} takes its part back")
            self._until(lambda: self._is_shared(names), timeout_seconds, f"{found} to be whole")
        return brought._replace(groups=self.groups(), late=late, moved=moved)

    def _until(self, is_so: Callable[[], bool], timeout_seconds: float, what: str) -> None:
        deadline = time.monotonic() + timeout_seconds
        while not is_so():
            if time.monotonic() > deadline:
                raise TunnelError(
                    f"waited {timeout_seconds:g} s for {what}; tunnelfleet ray ls --fleet shows "
                    "how the groups are, and ray up again brings back what is missing"
                )
            time.sleep(LOOK_SECONDS)

    def _is_gone(self, name: str) -> bool:
        if cluster.find_actor(name, self._namespace) is not None:
            return False
        return name not in {each["group"] for each in self._ask("status")["groups"]}

    def _is_shared(self, names: Sequence[str]) -> bool:
        """Whether each group has the shards that it should have."""
        owners = self._ask("status")["owners"]
        return all(owner == owner_of(shard, names) for shard, owner in enumerate(owners))

    def _make_groups(self, names: Sequence[str], known: Mapping[str, str]) -> dict[str, str]:
        """Make the groups that are missing, each on the node with the fewest; where, by name."""
        missing = [each for each in names if cluster.find_actor(each, self._namespace) is None]
        if not missing:
            return {}
        counts = dict.fromkeys((each.id for each in cluster.nodes()), 0)
        others = {each["group"]: each["node"] for each in self._ask("status")["groups"]}
        for name, node in {**others, **known}.items():
            if node in counts and name not in missing:
                counts[node] += 1
        made = {}
        for name in missing:
            node = min(counts, key=lambda each: counts[each])
            counts[node] += 1
            made[name] = node
            cluster.make_actor(Group, name, self._namespace, self._namespace, name, node_id=node)
        return made

    # -- looking

    def groups(self) -> list[dict[str, Any]]:
        """How each group is: what the directory says of it, and what it says itself."""
        return self._look()[1]

    def tunnels(self) -> list[dict[str, Any]]:
        """The tunnels of the fleet, with the group and the node that has each, sorted by name."""
        status, groups = self._look()
        rows: dict[str, dict[str, Any]] = {}
        for found in self._of_groups("rows", [each["group"] for each in groups]).values():
            for row in found:
                known = rows.get(row["name"])
                if known is None or row["state"] == TunnelState.CONNECTED.value:
                    rows[row["name"]] = row
        for name, mode in status["tunnels"].items():
            if name not in rows:
                rows[name] = _lost_row(name, mode, status)
        return [rows[name] for name in sorted(rows)]

    def targets(self) -> list[dict[str, Any]]:
        """Where the metrics of all groups are, as Prometheus reads it from a file or over HTTP."""
        return [
            {
                "targets": [each["metrics"]],
                "labels": {"group": each["group"], "node": each["node_address"]},
            }
            for each in self.groups()
            if each["metrics"]
        ]

    def _look(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        status: dict[str, Any] = self._ask("status")
        said = self._of_groups("describe", [each["group"] for each in status["groups"]])
        addresses = {each.id: each.address for each in cluster.nodes()}
        found = []
        for seat in status["groups"]:
            silent = _silent(seat, addresses.get(seat["node"], ""))
            found.append(_group_row(seat, said.get(seat["group"]) or silent))
        return status, found

    def _of_groups(self, method: str, names: Sequence[str], *arguments: Any) -> dict[str, Any]:
        """Ask all groups at once; those that do not answer in time are left out."""
        asked = {}
        for name in names:
            actor = cluster.find_actor(name, self._namespace)
            if actor is not None:
                asked[name] = cluster.call(actor, method, *arguments)
        seconds = GROUP_SECONDS + sum(each for each in arguments if isinstance(each, float))
        deadline = time.monotonic() + seconds
        found = {}
        for name, reference in asked.items():
            with contextlib.suppress(OSError, TunnelError):
                left_seconds = max(0.0, deadline - time.monotonic())
                found[name] = cluster.result(reference, left_seconds)
        return found

    # -- down

    def down(self, drain_seconds: float | None = None) -> list[str]:
        """End the fleet: no new connections, time for those that are open, then all actors.

        Args:
            drain_seconds: None takes the plan's.

        Returns:
            The tunnels whose connections were cut.

        Raises:
            NoFleetError: there is none.
        """
        status: dict[str, Any] = self._ask("status")
        names: Sequence[str] = self._ask("end")
        seconds = status["drain_seconds"] if drain_seconds is None else drain_seconds
        left = self._of_groups("leave", names, float(seconds))
        for name in [*names, cluster.DIRECTORY]:
            actor = cluster.find_actor(name, self._namespace)
            if actor is not None:
                cluster.kill(actor)
        cluster.ControlRecords(self._namespace).delete_all()
        return sorted(name for cut in left.values() for name in cut)


def next_to_move(groups: Sequence[Mapping[str, Any]], nodes: Sequence[str]) -> str | None:
    """The group to move so that nodes become more even; None if they are even.

    Args:
        groups: each with its name and its `node`.
        nodes: those that are alive.
    """
    placed = {each["group"]: each["node"] for each in groups if each["node"] in nodes}
    counts = Counter(placed.values())
    fullest = max(nodes, key=lambda node: (counts[node], node), default="")
    if not placed or counts[fullest] - min(counts[node] for node in nodes) < MIN_DIFFERENCE:
        return None
    names: list[str] = [name for name, node in placed.items() if node == fullest]
    return max(names, key=lambda name: (len(name), name))


def _has(group: Mapping[str, Any], version: int, names: Sequence[str]) -> bool:
    """Whether a group is up with a plan, or on its way out as it should be."""
    if group["group"] not in names:
        return not group["shards"]
    is_up = group["state"] == "running" and not group["trouble"]
    return is_up and group["plan_version"] >= version


def _lost_row(name: str, mode: str, status: Mapping[str, Any]) -> dict[str, Any]:
    """A tunnel whose group does not answer, or that no group has yet."""
    return {
        "name": name,
        "mode": mode,
        "state": STATE_LOST,
        "reason": "no group that answers has it now; tunnelfleet ray ls --fleet shows why",
        "services": {},
        "labels": {},
        "streams": 0,
        "connections": 0,
        "sent_bytes": 0,
        "received_bytes": 0,
        "reconnects": 0,
        "since": time.time(),
        "source": "files",
        "endpoint": "",
        "place": "",
        "channel_id": "",
        "group": "",
        "node": "",
        "plan_version": status["plan_version"],
    }


def _silent(seat: dict[str, Any], node_address: str) -> dict[str, Any]:
    """What is said of a group that does not answer itself."""
    return {
        "phase": "away",
        "node": seat["node"],
        "node_address": node_address,
        "tunnels": 0,
        "connected": 0,
        "plan_version": 0,
        "trouble": "it does not answer",
        "problems": [],
        "pid": 0,
    }


def _group_row(seat: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """A group, for programs: what the directory has of it, and what it says itself."""
    state = own["phase"]
    if state == "running" and not seat["lease_seconds_left"]:
        state = "no lease"
    elif not seat["is_wanted"]:
        state = "leaving"
    return {
        "group": seat["group"],
        "state": state,
        "node": own["node"],
        "node_address": own["node_address"],
        "shards": seat["shards"],
        "tunnels": own["tunnels"],
        "connected": own["connected"],
        "lease_seconds_left": seat["lease_seconds_left"],
        "restarts": seat["restarts"],
        "metrics": seat["metrics"],
        "plan_version": own["plan_version"],
        "trouble": own["trouble"],
        "problems": own["problems"],
        "pid": own["pid"],
    }
