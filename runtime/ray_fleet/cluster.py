"""All that is asked of Ray itself, in one place: its interface is typed only in part.

Owns joining a cluster and what is checked there, the names of a fleet's actors, calls with a limit
in time, the records in Ray's control store, and how a process of an actor ends. Failures of Ray
come out as `OSError`, those of a method as themselves. The settings of a cluster are read by a
private name, `ray._raylet.Config`, which was there in ray 2.52 to 2.60.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from tunnelfleet.proto import ConfigError, TunnelError, printable

NAMESPACE: Final = "tunnelfleet"
DIRECTORY: Final = "directory"
HEAD: Final = "node:__internal_head__"
"""The resource of the head's node alone."""
FAST_CHECKS: Final[Mapping[str, int]] = {
    "health_check_period_ms": 1_000,
    "health_check_timeout_ms": 1_000,
    "health_check_failure_threshold": 3,
    "health_check_initial_delay_ms": 0,
}
"""With these Ray notices a frozen node after about 6 seconds; without, after a minute."""
SLOWEST_CHECKS_MS: Final = 10_000
"""Period and timeout, times the threshold: what is slower is worth a warning."""
DEFAULT_CHECKS: Final = (3_000, 10_000, 5)
"""Ray's own period, timeout in milliseconds, and threshold."""
MAX_CAUSE_CHARACTERS: Final = 300
ASK_SECONDS: Final = 10.0
# A need of some memory and of no CPU: what needs nothing at all is put anywhere by Ray, and what
# needs a CPU waits where all are taken.
ACTOR_OPTIONS: Final[Mapping[str, Any]] = {
    "lifetime": "detached",
    "max_restarts": -1,
    "num_cpus": 0,
    "memory": 50_000_000,
    "get_if_exists": True,
}


def fast_checks_environment() -> dict[str, str]:
    """What the environment of a node has to have when a cluster is started, for fast checks."""
    return {f"RAY_{name}": str(value) for name, value in FAST_CHECKS.items()}


class Node(NamedTuple):
    """A node that is alive."""

    id: str
    address: str


@contextlib.contextmanager
def joined(address: str, namespace: str) -> Any:
    """Be a driver of a running cluster while the block runs.

    Args:
        address: of its head, or `auto` for the one of this machine; of no account in a process
            that is a driver already.
        namespace: of the fleet.

    Raises:
        ConfigError: Ray is not installed, or no cluster answers.
    """
    if importlib.util.find_spec("ray") is None:
        raise ConfigError("Ray is not installed: pip install 'tunnelfleet[ray]'")
    import ray  # noqa: PLC0415 - an extra, and slow to load

    if ray.is_initialized():
        # An application of Ray's that calls this in its own process.
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(address=address, namespace=namespace, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"no Ray cluster answers at {address}: {_text(error)}; start one with: "
            f"{' '.join(f'{k}={v}' for k, v in fast_checks_environment().items())} "
            "ray start --head --include-dashboard=false; one that asks for a token needs "
            "RAY_AUTH_MODE=token and its RAY_AUTH_TOKEN here as well"
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def nodes() -> list[Node]:
    """The nodes that are alive."""
    import ray  # noqa: PLC0415

    return [
        Node(each["NodeID"], each["NodeManagerAddress"]) for each in ray.nodes() if each["Alive"]
    ]


def head() -> str:
    """The id of the head's node; empty if it has none that is alive."""
    import ray  # noqa: PLC0415

    found = (each for each in ray.nodes() if each["Alive"] and HEAD in each["Resources"])
    return next((str(each["NodeID"]) for each in found), "")


def node_here() -> Node:
    """The node that this process runs on."""
    import ray  # noqa: PLC0415

    return Node(ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address())


# -- health checks


def slow_checks() -> str:
    """Return a warning if the cluster notices late that a node is frozen; empty if it does not."""
    try:
        # A task takes a second or two, so look at this machine first.
        found = _read_checks(_session()) or result(_on_head(_read_checks), ASK_SECONDS)
    except OSError as error:
        return f"how fast Ray notices a frozen node could not be seen: {error}"
    if found is None:
        return "how fast Ray notices a frozen node could not be seen: its head hides it"
    period, timeout, threshold = found
    # A frozen node lets each check run into its timeout, and the next one comes a period later.
    slowest_ms = (period + timeout) * threshold
    if slowest_ms <= SLOWEST_CHECKS_MS:
        return ""
    settings = " ".join(f"{k}={v}" for k, v in fast_checks_environment().items())
    return (
        f"this cluster takes about {slowest_ms / 1_000:.0f} s to notice a "
        f"frozen node, and its tunnels are away for so long: start the head with {settings}"
    )


def _session() -> str:
    import ray  # noqa: PLC0415

    return str(ray.get_runtime_context().get_session_name())


def _on_head(function: Callable[[], Any]) -> Any:
    import ray  # noqa: PLC0415

    task = ray.remote(function)
    return task.options(num_cpus=0, resources={HEAD: 0.001}).remote()


def _read_checks(session: str = "") -> tuple[int, int, int] | None:
    """Period, timeout and threshold of the checks, of the process on this machine that checks.

    Args:
        session: of the cluster; empty for any.
    """
    import ray._raylet  # noqa: PLC0415

    environment = _environment_of("gcs_server", f"--session-name={session}" if session else "")
    if environment is None:
        return None
    names = ("health_check_period_ms", "health_check_timeout_ms", "health_check_failure_threshold")
    found = []
    for name in names:
        given = environment.get(f"RAY_{name}")
        # A `_system_config` reaches every process of the cluster, and wins.
        of_cluster = int(getattr(ray._raylet.Config, name)())  # noqa: SLF001
        found.append(int(given) if given and given.isdecimal() else of_cluster)
    return found[0], found[1], found[2]


def _environment_of(program: str, argument: str) -> dict[str, str] | None:
    """The environment of a process of ours on this machine; None if it cannot be read."""
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        with contextlib.suppress(OSError):
            if (folder / "comm").read_text().strip() != program:
                continue
            given = (folder / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
            if argument and argument not in given:
                continue
            content = (folder / "environ").read_bytes().decode("utf-8", "replace")
            pairs = (each.partition("=") for each in content.split("\0"))
            return {name: value for name, _, value in pairs}
    return None


# -- actors


def make_actor(
    kind: type[Any], name: str, namespace: str, *arguments: Any, node_id: str = ""
) -> Any:
    """Return the actor of a name, which is made if it is not there; it outlives this process.

    Args:
        kind: its class.
        name: its name.
        namespace: of the fleet.
        arguments: of its class.
        node_id: where it begins, if it can. When that node is gone Ray takes another.
    """
    import ray  # noqa: PLC0415
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: PLC0415

    strategy = NodeAffinitySchedulingStrategy(node_id, soft=True) if node_id else "SPREAD"
    options = {**ACTOR_OPTIONS, "scheduling_strategy": strategy}
    return ray.remote(kind).options(name=name, namespace=namespace, **options).remote(*arguments)


def find_actor(name: str, namespace: str) -> Any | None:
    """Return the actor of a name; None if there is none."""
    import ray  # noqa: PLC0415

    try:
        return ray.get_actor(name, namespace=namespace)
    except ValueError:
        return None


def call(actor: Any, method: str, *arguments: Any) -> Any:
    """Call a method; what is returned is for `result`, or `when_done`."""
    return getattr(actor, method).remote(*arguments)


def result(reference: Any, timeout_seconds: float) -> Any:
    """Wait for what a method returns.

    Raises:
        OSError: the actor did not answer in time, or is not there.
        TunnelError: as the method says.
    """
    from ray.exceptions import RayError, RayTaskError  # noqa: PLC0415

    try:
        # Not `ray.get`, which takes any thread of an asynchronous actor for its event loop's.
        return reference.future().result(timeout_seconds)
    except TimeoutError:
        raise TimeoutError(f"it did not answer within {timeout_seconds:g} s") from None
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, TunnelError):
            raise cause from None
        raise ConnectionError(f"it has failed: {_text(cause)}") from None
    except RayError as error:
        raise ConnectionError(_text(error)) from None


def when_done(reference: Any, then: Callable[[], object]) -> None:
    """Call `then`, on some thread, when a method has returned or failed."""
    reference.future().add_done_callback(lambda _future: then())


def kill(actor: Any) -> None:
    """End an actor for good."""
    import ray  # noqa: PLC0415

    with contextlib.suppress(Exception):
        ray.kill(actor, no_restart=True)


def end_this_actor() -> None:
    """End the actor in whose process this is called, for good, in whatever life it is."""
    import ray  # noqa: PLC0415

    kill(ray.get_runtime_context().current_actor)


def end_this_process() -> None:
    """End this process and no other life of its actor: at once, since nothing of it counts."""
    os._exit(1)


def _text(error: BaseException | None) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return printable(lines[0], MAX_CAUSE_CHARACTERS)


# -- records


class ControlRecords:
    """Records in the control store of a cluster: in the memory of its head, for all nodes.

    Args:
        namespace: of the fleet.
    """

    def __init__(self, namespace: str) -> None:
        self._namespace = f"tunnelfleet/{namespace}".encode()

    def _do(self, name: str, *arguments: Any, **options: Any) -> Any:
        from ray.experimental import internal_kv  # noqa: PLC0415

        try:
            return getattr(internal_kv, f"_internal_kv_{name}")(
                *arguments, **options, namespace=self._namespace
            )
        except Exception as error:
            raise ConnectionError(f"Ray's control store does not answer: {_text(error)}") from error

    def get(self, key: str) -> bytes | None:
        """The record; None if there is none."""
        found: bytes | None = self._do("get", key.encode())
        return found

    def put(self, key: str, value: bytes) -> None:
        """Write it."""
        self._do("put", key.encode(), value)

    def put_new(self, key: str, value: bytes) -> bool:
        """Write it unless it is there; return whether it was written."""
        return not self._do("put", key.encode(), value, overwrite=False)

    def delete(self, key: str) -> None:
        """Take it away."""
        self._do("del", key.encode())

    def delete_all(self) -> None:
        """Take all away, those of directories that are gone too."""
        self._do("del", b"", del_by_prefix=True)
