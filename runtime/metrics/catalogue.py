"""Every metric that tunnelfleet exposes: name, kind, labels, what it means.

The one source of these facts: the collector makes its families from it, `docs/metrics.md` is
generated from it. It knows nothing of how the numbers come about.

Names follow Prometheus' conventions: base units, `_total` for counters, attempts and failures as
two counters. Labels are bounded: what goes beyond a limit is counted under `other`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

__all__ = ["CATALOGUE", "GATEWAY", "PER_TUNNEL", "PREFIX", "Kind", "Metric", "metric"]

PREFIX: Final = "tunnelfleet_"


class Kind(StrEnum):
    """The kinds of metrics."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    SUMMARY = "summary"
    INFO = "info"


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
_ENDED = ("mode", "service_id", "reason")
_TUNNEL = ("tunnel", "mode")
_DISPATCHER = ("dispatcher",)

_TRAFFIC = _group(
    "Traffic",
    Metric(
        "sent_bytes",
        Kind.COUNTER,
        "DATA payload bytes sent: from local sockets to the WebSocket.",
        _SERVICE,
    ),
    Metric(
        "received_bytes",
        Kind.COUNTER,
        "DATA payload bytes received: from the WebSocket, for local sockets.",
        _SERVICE,
    ),
    Metric("sent_messages", Kind.COUNTER, "DATA messages sent.", _SERVICE),
    Metric("received_messages", Kind.COUNTER, "DATA messages received.", _SERVICE),
    Metric("streams_active", Kind.GAUGE, "Streams that are active.", _SERVICE),
    Metric("streams_opened", Kind.COUNTER, "Streams opened.", _SERVICE),
    Metric(
        "streams_ended",
        Kind.COUNTER,
        "Streams ended, by reason: peer_reset, local_reset, replaced, session_reset, disconnected.",
        _ENDED,
    ),
    Metric("connections_active", Kind.GAUGE, "Connections that are open.", _SERVICE),
    Metric("connections_opened", Kind.COUNTER, "Connections opened.", _SERVICE),
    Metric(
        "connections_ended",
        Kind.COUNTER,
        "Connections ended, by what ended them first: local, peer, disconnected, session_reset, "
        "replaced.",
        _ENDED,
    ),
)

_TUNNELS = _group(
    "Tunnels",
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
    Metric("connect_attempts", Kind.COUNTER, "Attempts to connect to the service."),
    Metric(
        "connect_failures",
        Kind.COUNTER,
        "Attempts that failed, by reason: http_403 and other well-known statuses, http_3xx and "
        "other classes, http_other, connect_failed, connect_timeout, suspended, crashed.",
        ("reason",),
    ),
    Metric(
        "connect_duration_seconds",
        Kind.HISTOGRAM,
        "Time from the permit to connect to the WebSocket upgrade, of the attempts that succeeded.",
    ),
    Metric(
        "reconnects",
        Kind.COUNTER,
        "Connections that came back after they were lost, by the reason of the loss: closed, lost, "
        "ping_timeout, protocol_error, announce_timeout, token_replaced, crashed.",
        ("reason",),
    ),
    Metric("session_resets", Kind.COUNTER, "SESSION_RESET messages received."),
    Metric("ping_round_trip_seconds", Kind.HISTOGRAM, "Time until the service answered a ping."),
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

_FLOW = _group(
    "Flow control",
    Metric("queue_bytes", Kind.GAUGE, "Payload bytes that wait in front of the WebSockets."),
    Metric(
        "queue_wait_seconds",
        Kind.HISTOGRAM,
        "How long each piece waited in the fair queue until it was its connection's turn.",
    ),
    Metric("throttled_seconds", Kind.COUNTER, "Time spent waiting because of `bandwidth`."),
    Metric(
        "dropped_messages",
        Kind.COUNTER,
        "Messages received and not acted on, by kind: stale_stream, unknown_connection, "
        "unknown_service, duplicate_reset, duplicate_connection, too_many_streams, "
        "too_many_connections, refused_start, local_end_gone.",
        ("kind",),
    ),
    Metric(
        "exhausted_operations",
        Kind.COUNTER,
        "Operations on local sockets that failed because the process or the system had no file "
        "descriptor or memory left, by operation: local_connect, accept, listen.",
        ("operation",),
    ),
    Metric("failed_sends", Kind.COUNTER, "Messages that could not be sent: their stream was over."),
    Metric(
        "stalled_connections",
        Kind.COUNTER,
        "Connections reset because the local application took no byte while others waited.",
    ),
)

_CALLBACKS = _group(
    "Callbacks",
    Metric("callback_events", Kind.COUNTER, "Events that callbacks have taken."),
    Metric("callback_errors", Kind.COUNTER, "Exceptions that callbacks raised."),
    Metric("slow_callbacks", Kind.COUNTER, "Callbacks that took longer than a second."),
    Metric(
        "callback_stalls",
        Kind.COUNTER,
        "Times the reading of a tunnel was held back because its callbacks did not keep up.",
    ),
    Metric(
        "dropped_events",
        Kind.COUNTER,
        "Events that were dropped because a tunnel's callbacks did not keep up.",
    ),
    Metric(
        "callback_threads",
        Kind.GAUGE,
        "Threads that run callbacks; at 32 all are held up by callbacks that block.",
    ),
)

_KERNEL = _group(
    "Actor kernel",
    Metric("messages_handled", Kind.COUNTER, "Messages that actors handled.", _DISPATCHER),
    Metric("turns", Kind.COUNTER, "Turns of actors.", _DISPATCHER),
    Metric("slow_turns", Kind.COUNTER, "Turns longer than 100 ms.", _DISPATCHER),
    Metric("longest_turn_seconds", Kind.GAUGE, "The longest turn since the start.", _DISPATCHER),
    Metric("mailbox_messages", Kind.GAUGE, "Messages that wait to be handled.", _DISPATCHER),
    Metric(
        "dispatcher_lag_seconds",
        Kind.GAUGE,
        "The longest delay of a timer of the dispatcher in the last minute; grows while it hangs.",
        _DISPATCHER,
    ),
    Metric("actors_alive", Kind.GAUGE, "Actors that are alive.", _DISPATCHER),
    Metric("actors_started", Kind.COUNTER, "Actors started.", _DISPATCHER),
    Metric("actor_failures", Kind.COUNTER, "Actors ended by an exception, by class.", ("actor",)),
    Metric("actor_restarts", Kind.COUNTER, "Restarts by supervisors, by class.", ("actor",)),
    Metric(
        "quarantines",
        Kind.COUNTER,
        "Times a supervisor put a child that fails too often in quarantine, or back after a retry.",
        _DISPATCHER,
    ),
    Metric("dead_letters", Kind.COUNTER, "Messages to actors that had ended.", _DISPATCHER),
    Metric(
        "abandoned_children",
        Kind.COUNTER,
        "Threads of a host's actors that did not stop in their time and were left behind.",
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

PER_TUNNEL: Final = _group(
    "One tunnel (optional)",
    Metric("tunnel_sent_bytes", Kind.COUNTER, "DATA payload bytes sent.", _TUNNEL),
    Metric("tunnel_received_bytes", Kind.COUNTER, "DATA payload bytes received.", _TUNNEL),
    Metric("tunnel_streams_active", Kind.GAUGE, "Streams that are active.", _TUNNEL),
    Metric("tunnel_connections_active", Kind.GAUGE, "Connections that are open.", _TUNNEL),
    Metric("tunnel_connections_opened", Kind.COUNTER, "Connections opened.", _TUNNEL),
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
    Metric("tunnel_reconnects", Kind.COUNTER, "Connections that came back.", _TUNNEL),
    Metric("tunnel_session_resets", Kind.COUNTER, "SESSION_RESET messages received.", _TUNNEL),
    Metric("tunnel_queue_bytes", Kind.GAUGE, "Payload bytes waiting for the WebSocket.", _TUNNEL),
    Metric("tunnel_queue_wait_seconds", Kind.SUMMARY, "Wait of each piece in the queue.", _TUNNEL),
    Metric("tunnel_ping_round_trip_seconds", Kind.SUMMARY, "Time until a ping's answer.", _TUNNEL),
    Metric("tunnel_throttled_seconds", Kind.COUNTER, "Time waited for `bandwidth`.", _TUNNEL),
)

CATALOGUE: Final[tuple[Metric, ...]] = (
    *_TRAFFIC,
    *_TUNNELS,
    *_GOVERNOR,
    *_FLOW,
    *_CALLBACKS,
    *_KERNEL,
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
    Metric("worker_restarts", Kind.COUNTER, "Worker processes that ended and were started again."),
)
"""What `tunnelfleet up` adds: of the gateway itself, and of those of its parts that run."""

_BY_NAME: Final = {each.name: each for each in (*CATALOGUE, *GATEWAY)}


def metric(name: str) -> Metric:
    """The metric of that name, without its prefix. Raises KeyError if there is none."""
    return _BY_NAME[name]
