"""A fleet on a Ray cluster as the commands hold it: bring it up, look at it, take it down.

Owns the order of the steps, and what is said of a fleet whose parts answer late or not at all. It
runs in a driver, and waits; the fleet goes on when the driver has ended.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from tunnelfleet.proto import TunnelError
from tunnelfleet.runtime import TunnelState

from . import cluster
from .directory import Directory, DirectoryClient
from .group import Group
from .keeper import NoFleetError, group_names
from .plan import FleetPlan, PlanChange

__all__ = ["Brought", "RayFleet"]

DIRECTORY_SECONDS: Final = 30.0
"""For the directory to be there: Ray may have to start its process first."""
GROUP_SECONDS: Final = 8.0
"""For all groups to say how they are; one that is away is shown as such."""
LOOK_SECONDS: Final = 0.2
LEAVE_SECONDS: Final = 20.0
"""For the end of all tunnels, beside the time that open connections have."""
STATE_LOST: Final = TunnelState.STOPPED.value


class Brought(NamedTuple):
    """What `up` has done.

    Attributes:
        change: of the plan.
        groups: how each group is.
        late: groups that were not up with this plan in time.
    """

    change: PlanChange
    groups: Sequence[Mapping[str, Any]]
    late: Sequence[str]


class RayFleet:
    """The fleet of a namespace. Made inside `cluster.joined`.

    Args:
        namespace: of the fleet.
    """

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._directory = DirectoryClient(namespace)

    def _ask(self, method: str, *arguments: Any) -> Any:
        """Ask the directory, once more if it is being started again: twice does no harm."""
        deadline = time.monotonic() + DIRECTORY_SECONDS
        while True:
            left_seconds = max(LOOK_SECONDS, deadline - time.monotonic())
            try:
                return self._directory.ask(method, *arguments, timeout_seconds=left_seconds)
            except OSError as error:
                if cluster.find_actor(cluster.DIRECTORY, self._namespace) is None:
                    raise NoFleetError from None
                if time.monotonic() > deadline:
                    raise TunnelError(
                        f"the directory of the fleet does not answer: {error}"
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
            timeout_seconds: for all groups to have taken it over.
            on_wait: told, for people, what is waited for.

        Raises:
            ConfigError: the fleet that runs cannot become that.
            TunnelError: the directory does not answer.
        """
        # Beside the control store that it asks all the time.
        cluster.make_actor(
            Directory,
            cluster.DIRECTORY,
            self._namespace,
            self._namespace,
            node_id=cluster.head(),
        )
        nodes: dict[str, str] = {}
        change: PlanChange = self._ask("declare", plan.to_bytes())
        names = group_names(plan.groups)
        deadline = time.monotonic() + timeout_seconds
        while True:
            # One that was on its way out when it was asked for again is made anew.
            nodes |= self._make_groups(names, nodes)
            groups = self.groups()
            late = [each["group"] for each in groups if not _has(each, change.version, names)]
            if not late or time.monotonic() > deadline:
                return Brought(change, groups, late)
            on_wait(f"waiting for {', '.join(late[:8])}")
            time.sleep(LOOK_SECONDS)

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
            own = said.get(seat["group"])
            state = "away" if own is None else own["phase"]
            if state == "running" and not seat["lease_seconds_left"]:
                state = "no lease"
            elif not seat["is_wanted"]:
                state = "leaving"
            found.append(
                {
                    "group": seat["group"],
                    "state": state,
                    "node": seat["node"] if own is None else own["node"],
                    "node_address": addresses.get(seat["node"], "")
                    if own is None
                    else own["node_address"],
                    "shards": seat["shards"],
                    "tunnels": 0 if own is None else own["tunnels"],
                    "connected": 0 if own is None else own["connected"],
                    "lease_seconds_left": seat["lease_seconds_left"],
                    "restarts": seat["restarts"],
                    "metrics": seat["metrics"],
                    "plan_version": 0 if own is None else own["plan_version"],
                    "trouble": "it does not answer" if own is None else own["trouble"],
                    "problems": [] if own is None else own["problems"],
                    "pid": 0 if own is None else own["pid"],
                }
            )
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
