"""Every metric that tunnelfleet exposes: name, kind, labels, what it means.

What is counted is declared where it is counted, a field each (`actors/kernel/counting.py`). Here
are the few that are looked at instead. The collector makes its families from the catalogue;
`docs/metrics.md`, and a panel for each metric that nobody drew by hand, are generated from it.

Names follow Prometheus' conventions: base units, `_total` for counters, attempts and failures as
two counters. Labels are bounded: what goes beyond a limit is counted under `other`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tunnelfleet.actors.callbacks import CallbackCounts
from tunnelfleet.actors.counters import FLOW, TRAFFIC, TUNNELS, Counters, ServiceCounters
from tunnelfleet.actors.kernel.counting import Declared, DispatcherStats, Kind, declared

PREFIX: Final = "tunnelfleet_"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        name: without prefix and without the suffix of its kind.
        kind: counter, gauge...
        help: what it counts or measures, with its unit.
        labels: the names of its labels.
        group: under which heading the documentation has it.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    group: str = ""

    @property
    def family(self) -> str:
        """The name of the metric family, which has no `_total` and no `_info`."""
        return PREFIX + self.name

    @property
    def exposed(self) -> str:
        """The name that one writes in a query."""
        suffix = {Kind.COUNTER: "_total", Kind.INFO: "_info"}.get(self.kind, "")
        return self.family + suffix


def _group(name: str, *metrics: Metric) -> tuple[Metric, ...]:
    return tuple(Metric(m.name, m.kind, m.help, m.labels, name) for m in metrics)


_SERVICE = ("mode", "service_id")
_TUNNEL = ("tunnel", "mode")
_DISPATCHER = ("dispatcher",)
_CLASS = ("actor",)


def _declared(
    counting: type, group: str = "", labels: tuple[str, ...] = (), by: tuple[str, ...] | None = None
) -> Iterator[Metric]:
    """Yield the metrics of a class of counters.

    Args:
        counting: the class.
        group: only those of this heading; all if it is empty.
        labels: that all of them have.
        by: the labels of those that count by something; `labels` and their own unless given.
    """
    for each in declared(counting):
        if not group or each.group == group:
            own = (*labels, each.label) if by is None else by
            yield Metric(
                each.metric, each.kind, each.help, own if each.label else labels, each.group
            )


_TUNNEL_STATES = _group(
    TUNNELS,
    Metric("tunnels", Kind.GAUGE, "Open tunnels by state.", ("state",)),
    Metric(
        "state_since_timestamp_seconds",
        Kind.GAUGE,
        "Since when the tunnel that has been in the state longest is in it, in seconds of the Unix "
        "epoch; only for states that a tunnel is in.",
        ("state",),
    ),
    Metric("tunnels_opened", Kind.COUNTER, "Tunnels opened in this runtime."),
    Metric("tunnels_closed", Kind.COUNTER, "Tunnels closed in this runtime."),
)

_GOVERNOR = _group(
    "Connect governor",
    Metric(
        "connects_waiting",
        Kind.GAUGE,
        "Tunnels that want to connect and may not yet, by why: turn, others are before them; "
        "endpoint_down, one at a time tries it.",
        ("why",),
    ),
    Metric("connects_under_way", Kind.GAUGE, "Permits to connect that are out."),
    Metric("connect_permits", Kind.COUNTER, "Permits to connect that were granted."),
    Metric(
        "connect_permits_called_back",
        Kind.COUNTER,
        "Permits that were called back, by why: hung, no answer while others waited; suspended.",
        ("why",),
    ),
    Metric("connects_suspended", Kind.GAUGE, "1 while no tunnel may connect, else 0."),
    Metric(
        "endpoint_breakers",
        Kind.GAUGE,
        "Endpoints that are down, by the state of their breaker: open, nobody tries; half_open, "
        "one tunnel does.",
        ("state",),
    ),
    Metric("endpoint_breaker_openings", Kind.COUNTER, "Times an endpoint was found to be down."),
)

_CALLBACK_THREADS = _group(
    "Callbacks",
    Metric(
        "callback_threads",
        Kind.GAUGE,
        "Threads that run callbacks; at 32 all are held up by callbacks that block.",
    ),
)

_PROCESS = _group(
    "Actor kernel",
    Metric("mailbox_messages", Kind.GAUGE, "Messages that wait to be handled.", _DISPATCHER),
    Metric(
        "dispatcher_lag_seconds",
        Kind.GAUGE,
        "The longest delay of a timer of the dispatcher in the last minute; grows while it hangs.",
        _DISPATCHER,
    ),
    Metric("threads", Kind.GAUGE, "Threads of this process that Python knows."),
    Metric(
        "build",
        Kind.INFO,
        "Always 1; the versions are labels.",
        ("version", "python", "implementation"),
    ),
)


def _row(each: Declared) -> Metric:
    """The series of a single tunnel: its reasons are summed, its distributions have no buckets."""
    kind = Kind.SUMMARY if each.kind is Kind.HISTOGRAM else each.kind
    return Metric(f"tunnel_{each.metric}", kind, each.row, _TUNNEL)


PER_TUNNEL: Final = _group(
    "One tunnel (optional)",
    *(_row(each) for each in declared(ServiceCounters) if each.row),
    Metric(
        "tunnel_state",
        Kind.GAUGE,
        "1 for the state that the tunnel is in; in the row `other` the number of tunnels in it.",
        (*_TUNNEL, "state"),
    ),
    Metric(
        "tunnel_state_since_timestamp_seconds",
        Kind.GAUGE,
        "Since when the tunnel is in its state, in seconds of the Unix epoch; not in `other`.",
        _TUNNEL,
    ),
    *(_row(each) for each in declared(Counters) if each.row),
)

CATALOGUE: Final[tuple[Metric, ...]] = (
    *_declared(ServiceCounters, TRAFFIC, _SERVICE),
    *_TUNNEL_STATES,
    *_declared(Counters, TUNNELS),
    *_GOVERNOR,
    *_declared(Counters, FLOW),
    *_declared(CallbackCounts),
    *_CALLBACK_THREADS,
    *_declared(DispatcherStats, labels=_DISPATCHER, by=_CLASS),
    *_PROCESS,
    *PER_TUNNEL,
)

GATEWAY: Final = _group(
    "Fleet gateway",
    Metric(
        "config_last_reload_successful",
        Kind.GAUGE,
        "Whether the files were taken over when they were last read.",
    ),
    Metric(
        "config_last_reload_success_timestamp_seconds",
        Kind.GAUGE,
        "When the files were last taken over.",
    ),
    Metric(
        "gateway_tunnels_wanted",
        Kind.GAUGE,
        "Tunnels that are wanted and assigned to this gateway.",
    ),
    Metric("gateway_tunnels_running", Kind.GAUGE, "Tunnels that run, connected or not."),
    Metric(
        "tunnel_info",
        Kind.GAUGE,
        "The tunnels of the gateway with their labels as `label_NAME`; always 1.",
        _TUNNEL,
    ),
) + _group(
    "Parts of a gateway",
    Metric("door_accepted", Kind.COUNTER, "Clients that connected to a front door."),
    Metric(
        "door_denied", Kind.COUNTER, "Clients that a front door refused, by reason.", ("reason",)
    ),
    Metric(
        "door_handed_over",
        Kind.COUNTER,
        "Connections that a front door handed over to a tunnel.",
        ("protocol",),
    ),
    Metric("door_left", Kind.COUNTER, "Clients that left, or were late, before they had said all."),
    Metric(
        "door_connections",
        Kind.GAUGE,
        "Connections that came through a front door and are open.",
    ),
    Metric(
        "door_handshakes", Kind.GAUGE, "Clients in their handshake, or refused and about to go."
    ),
    Metric(
        "notifications",
        Kind.COUNTER,
        "Notifications that brokers have delivered, by what became of them.",
        ("outcome",),
    ),
    Metric(
        "notify_connections",
        Kind.GAUGE,
        "Connections to the brokers of devices, by state: up, or away and tried again.",
        ("state",),
    ),
    Metric("notify_things", Kind.GAUGE, "Things whose notifications the brokers have granted."),
    Metric("notify_tunnels", Kind.GAUGE, "Tunnels that devices were told of, and that are wanted."),
    Metric(
        "notify_unsaved",
        Kind.GAUGE,
        "Tunnels of devices whose tokens could not be kept in the state so far.",
    ),
    Metric("store_ready", Kind.GAUGE, "Whether the state was reached and read since the start."),
    Metric(
        "store_errors",
        Kind.COUNTER,
        "Operations on the state that failed, those that were tried again counted again.",
        ("operation",),
    ),
    Metric("audit_records", Kind.COUNTER, "Records that were written into the audit."),
    Metric(
        "audit_dropped",
        Kind.COUNTER,
        "Records that were not: the queue was full, or the end came.",
    ),
    Metric("audit_queue_records", Kind.GAUGE, "Records that wait to be written."),
    Metric(
        "audit_stopped", Kind.GAUGE, "Whether the audit stands because the state takes nothing."
    ),
    Metric(
        "demand_opened",
        Kind.COUNTER,
        "Tunnels that were opened on demand; AWS charges for each.",
    ),
    Metric(
        "demand_failed", Kind.COUNTER, "Openings on demand that came to nothing for who had asked."
    ),
    Metric(
        "demand_closed", Kind.COUNTER, "Tunnels on demand that were closed, by cause.", ("cause",)
    ),
    Metric(
        "demand_refused",
        Kind.COUNTER,
        "Questions for tunnels on demand that were refused at once, by reason.",
        ("reason",),
    ),
    Metric(
        "demand_call_failures",
        Kind.COUNTER,
        "Calls of AWS's management API that failed, by operation and reason.",
        ("operation", "reason"),
    ),
    Metric("demand_tunnels", Kind.GAUGE, "Tunnels on demand, by phase.", ("phase",)),
    Metric("demand_waiting", Kind.GAUGE, "Clients that wait for a tunnel on demand."),
    Metric(
        "forward_connections",
        Kind.COUNTER,
        "Connections that were carried to another gateway of the fleet (`out`) or from one (`in`).",
        ("direction",),
    ),
    Metric("forward_open", Kind.GAUGE, "Connections to and from other gateways that are open."),
    Metric(
        "forward_refused",
        Kind.COUNTER,
        "Connections that another gateway refused to carry when it was asked.",
    ),
    Metric(
        "forward_failures",
        Kind.COUNTER,
        "Gateways that could not be asked, and callers that were turned away, by reason.",
        ("reason",),
    ),
    Metric(
        "forward_bytes",
        Kind.COUNTER,
        "Bytes of applications to other gateways (`out`) and from them (`in`).",
        ("direction",),
    ),
    Metric("worker_restarts", Kind.COUNTER, "Worker processes that ended and were started again."),
    Metric(
        "placement_lease_age_seconds",
        Kind.GAUGE,
        "Since the gateway's lease in the store was last confirmed; tunnels connect only while it "
        "is less than nine tenths of lease_seconds.",
    ),
    Metric("placement_shards", Kind.GAUGE, "Shards of the fleet that this gateway has."),
    Metric("placement_members", Kind.GAUGE, "Gateways of the fleet whose lease holds."),
    Metric(
        "placement_shards_without_owner",
        Kind.GAUGE,
        "Shards of the fleet that no gateway with a lease that holds has.",
    ),
    Metric(
        "placement_tunnels_without_owner",
        Kind.GAUGE,
        "Tunnels that this gateway knows and that are in such shards.",
    ),
    Metric(
        "placement_takeovers",
        Kind.COUNTER,
        "Shards that were taken over from a gateway whose lease had run out.",
    ),
    Metric(
        "placement_request_failures",
        Kind.COUNTER,
        "Requests to the store that were not answered: each is repeated.",
    ),
    Metric(
        "placement_request_seconds",
        Kind.SUMMARY,
        "How long the store takes for a request about leases.",
    ),
)
"""What `tunnelfleet up` adds: of the gateway itself, and of those of its parts that run."""

_BY_NAME: Final = {each.name: each for each in (*CATALOGUE, *GATEWAY)}


def metric(name: str) -> Metric:
    """Return the metric of that name, without its prefix. Raises KeyError if there is none."""
    return _BY_NAME[name]
