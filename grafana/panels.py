"""What the dashboards show: rows of panels, each with its queries, unit and explanation.

A metric of the catalogue that no panel shows gets one of its own, in a last row.

Owns the content; `dashboards.py` makes Grafana's JSON of it, `tools/draw_dashboard.py` a picture.
Layout for a person on call: is it up, what is wrong, how much traffic, who is slow, then the
kernel.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tunnelfleet.runtime.metrics import CATALOGUE, Kind
from tunnelfleet.runtime.metrics.catalogue import PER_TUNNEL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tunnelfleet.runtime.metrics import Metric

__all__ = ["FLEET", "TUNNEL", "Board", "Panel", "Row", "Target", "with_the_rest"]

FLEET_SELECTOR = 'job=~"$job",instance=~"$instance"'
TUNNEL_SELECTOR = 'job=~"$job",instance=~"$instance",tunnel=~"$tunnel"'


@dataclass(frozen=True)
class Target:
    """A query and the legend of its series."""

    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """One panel; `width` of 24."""

    title: str
    description: str
    unit: str
    targets: tuple[Target, ...]
    kind: Literal["timeseries", "stat"] = "timeseries"
    width: int = 8
    stacked: bool = False
    thresholds: tuple[tuple[float | None, str], ...] = ()


@dataclass(frozen=True)
class Row:
    """Panels under a heading."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Board:
    """A dashboard."""

    uid: str
    title: str
    description: str
    rows: tuple[Row, ...]
    variables: tuple[tuple[str, str], ...]
    """Name and the query of its values."""

    @property
    def panels(self) -> tuple[Panel, ...]:
        """All panels."""
        return tuple(panel for row in self.rows for panel in row.panels)


def _rate(metric: str, by: str, extra: str = "", selector: str = FLEET_SELECTOR) -> str:
    return f"sum by ({by}) (rate(tunnelfleet_{metric}{{{selector}{extra}}}[$__rate_interval]))"


def _total_rate(metric: str) -> str:
    return f"sum(rate(tunnelfleet_{metric}{{{FLEET_SELECTOR}}}[$__rate_interval]))"


def _sum(metric: str, by: str = "", extra: str = "", selector: str = FLEET_SELECTOR) -> str:
    grouping = f" by ({by}) " if by else ""
    return f"sum{grouping}(tunnelfleet_{metric}{{{selector}{extra}}})"


def _quantile(q: float, metric: str) -> str:
    return f"histogram_quantile({q}, {_rate(f'{metric}_bucket', 'le')})"


def _mean(metric: str, by: str, selector: str) -> str:
    above, below = (_rate(f"{metric}_{part}", by, selector=selector) for part in ("sum", "count"))
    # A tunnel that did nothing waited for nothing.
    return f"{above} / ({below} > 0) or 0 * {below}"


def with_the_rest(
    rows: Sequence[Row], metrics: Sequence[Metric], selector: str = FLEET_SELECTOR
) -> tuple[Row, ...]:
    """Add a row with a panel for each metric that none of `rows` shows, if there is one."""
    text = " ".join(target.expr for row in rows for panel in row.panels for target in panel.targets)
    missing = [
        each
        for each in metrics
        if not re.search(rf"\b{each.exposed}(_bucket|_sum|_count)?\b", text)
    ]
    if not missing:
        return tuple(rows)
    return (*rows, Row("Everything else", tuple(_plain_panel(each, selector) for each in missing)))


def _plain_panel(metric: Metric, selector: str) -> Panel:
    """Show a counter as its rate, a gauge as it is, a distribution as its mean, by label."""
    by = ", ".join(metric.labels)
    legend = " ".join(f"{{{{{label}}}}}" for label in metric.labels)
    name = metric.exposed.removeprefix("tunnelfleet_")
    base = "bytes" if "_bytes" in name else "s" if "_seconds" in name else "short"
    if metric.kind is Kind.COUNTER:
        unit, query = (
            {"bytes": "Bps", "short": "cps"}.get(base, base),
            _rate(name, by, "", selector),
        )
    elif metric.kind is Kind.GAUGE:
        unit, query = base, _sum(name, by, "", selector)
    else:
        unit, query = base, _mean(name, by, selector)
    title = metric.name.replace("_", " ").capitalize()
    return Panel(title, metric.help, unit, (Target(query.replace("sum by () ", "sum"), legend),))


GREEN_FROM_90 = ((None, "red"), (0.9, "orange"), (1.0, "green"))
RED_ABOVE_0 = ((None, "green"), (1, "red"))

_UP = Row(
    "Is it up?",
    (
        Panel(
            "Tunnels connected",
            "The part of the tunnels that is connected; drained and stopped ones do not count.",
            "percentunit",
            (
                Target(
                    _sum("tunnels", extra=',state="connected"')
                    + " / "
                    + _sum("tunnels", extra=',state!~"draining|stopped"')
                ),
            ),
            "stat",
            4,
            thresholds=GREEN_FROM_90,
        ),
        Panel(
            "Processes scraped",
            "Processes of tunnelfleet that Prometheus reaches.",
            "short",
            (Target('sum(up{job=~"$job",instance=~"$instance"})'),),
            "stat",
            4,
            thresholds=((None, "red"), (1, "green")),
        ),
        Panel(
            "Refused",
            "Tunnels whose token the service refuses: rotate and replace it.",
            "short",
            (Target(_sum("tunnels", extra=',state="refused"')),),
            "stat",
            4,
            thresholds=RED_ABOVE_0,
        ),
        Panel(
            "Quarantined",
            "Tunnels that fail again and again and are retried at the longest delay.",
            "short",
            (Target(_sum("tunnels", extra=',state="quarantined"')),),
            "stat",
            4,
            thresholds=RED_ABOVE_0,
        ),
        Panel(
            "Reconnects, last 15 minutes",
            "Connections that were lost and came back.",
            "short",
            (
                Target(
                    f"round(sum(increase(tunnelfleet_reconnects_total{{{FLEET_SELECTOR}}}[15m])))"
                ),
            ),
            "stat",
            4,
            thresholds=((None, "green"), (10, "orange")),
        ),
        Panel(
            "Versions",
            "Processes by version of tunnelfleet.",
            "short",
            (
                Target(
                    f"count by (version) (tunnelfleet_build_info{{{FLEET_SELECTOR}}})",
                    "{{version}}",
                ),
            ),
            "stat",
            4,
        ),
        Panel(
            "Tunnels by state",
            "How many tunnels are in which state.",
            "short",
            (Target(_sum("tunnels", "state"), "{{state}}"),),
            width=16,
            stacked=True,
        ),
        Panel(
            "Longest in its state",
            "For how long the tunnel that is in a state longest has been in it; a long backoff or "
            "refused needs somebody.",
            "s",
            (
                Target(
                    "time() - min by (state) "
                    f"(tunnelfleet_state_since_timestamp_seconds{{{FLEET_SELECTOR}}})",
                    "{{state}}",
                ),
            ),
        ),
    ),
)

_WRONG = Row(
    "What is wrong?",
    (
        Panel(
            "Reconnects by reason",
            "ping_timeout and lost mean the network, closed the service or a second client with "
            "the same token, protocol_error a peer.",
            "cps",
            (Target(_rate("reconnects_total", "reason"), "{{reason}}"),),
        ),
        Panel(
            "Failed connects by reason",
            "Attempts that failed; http_403 is a token, http_503 the service, the others the way "
            "to it.",
            "cps",
            (
                Target(_rate("connect_failures_total", "reason"), "{{reason}}"),
                Target(
                    _total_rate("connect_attempts_total"),
                    "all attempts",
                ),
            ),
        ),
        Panel(
            "Session resets and drops",
            "SESSION_RESET messages, and messages dropped by kind. Stale ones after a reset are "
            "normal; unknown_service is a configuration that does not fit.",
            "cps",
            (
                Target(
                    _total_rate("session_resets_total"),
                    "session reset",
                ),
                Target(_rate("dropped_messages_total", "kind"), "{{kind}}"),
            ),
        ),
        Panel(
            "Streams ended by reason",
            "disconnected and session_reset cut applications off; peer_reset and local_reset are "
            "ordinary ends.",
            "cps",
            (Target(_rate("streams_ended_total", "reason"), "{{reason}}"),),
        ),
        Panel(
            "Connections ended by reason",
            "What ended local connections first.",
            "cps",
            (Target(_rate("connections_ended_total", "reason"), "{{reason}}"),),
        ),
        Panel(
            "Failed sends, stalls and listeners",
            "Messages whose stream was over, connections reset because their application took "
            "nothing while others waited, and tries to listen that failed.",
            "cps",
            (
                Target(
                    _total_rate("failed_sends_total"),
                    "failed sends",
                ),
                Target(
                    _total_rate("stalled_connections_total"),
                    "stalled",
                ),
                Target(
                    _total_rate("failed_listens_total"),
                    "not listening",
                ),
            ),
        ),
        Panel(
            "Out of descriptors or memory",
            "Operations on local sockets that failed because the process or the system had no file "
            "descriptor or memory left.",
            "cps",
            (Target(_rate("exhausted_operations_total", "operation"), "{{operation}}"),),
        ),
    ),
)

_GATEWAY = Row(
    "Connects and the gateway",
    (
        Panel(
            "Wanted and running",
            "Tunnels that this gateway should run, and those that run, connected or not.",
            "short",
            (
                Target(_sum("gateway_tunnels_wanted"), "wanted"),
                Target(_sum("gateway_tunnels_running"), "running"),
            ),
        ),
        Panel(
            "Waiting to connect",
            "turn: the rate or others are before them; endpoint_down: one at a time tries it. "
            "suspended is 1 while nobody may connect.",
            "short",
            (
                Target(_sum("connects_waiting", "why"), "{{why}}"),
                Target(_sum("connects_under_way"), "under way"),
                Target(_sum("connects_suspended"), "suspended"),
            ),
        ),
        Panel(
            "Permits to connect",
            "Granted a second, and called back: hung ones while others waited, and because "
            "connects were suspended.",
            "cps",
            (
                Target(_total_rate("connect_permits_total"), "granted"),
                Target(_rate("connect_permits_called_back_total", "why"), "called back, {{why}}"),
            ),
        ),
        Panel(
            "Endpoints that are down",
            "By the state of their breaker, and how often one was found to be down, a second.",
            "short",
            (
                Target(_sum("endpoint_breakers", "state"), "{{state}}"),
                Target(_total_rate("endpoint_breaker_openings_total"), "found down/s"),
            ),
        ),
        Panel(
            "Front doors",
            "Clients that were accepted and denied, and the connections that are open.",
            "short",
            (
                Target(_total_rate("door_accepted_total"), "accepted/s"),
                Target(_rate("door_denied_total", "reason"), "denied/s, {{reason}}"),
                Target(_sum("door_connections"), "open"),
            ),
        ),
        Panel(
            "Devices",
            "Notifications by what became of them, tunnels that devices were told of, and "
            "connections to brokers that are away: these should be 0.",
            "short",
            (
                Target(_rate("notifications_total", "outcome"), "{{outcome}}/s"),
                Target(_sum("notify_tunnels"), "tunnels"),
                Target(_sum("notify_connections", "state"), "connections, {{state}}"),
            ),
        ),
        Panel(
            "State, audit, workers, reload",
            "Errors of the state, records that the audit lost, workers that were started again, "
            "and files with mistakes: all should be 0.",
            "short",
            (
                Target(_rate("store_errors_total", "operation"), "store errors/s, {{operation}}"),
                Target(_total_rate("audit_dropped_total"), "audit dropped/s"),
                Target(_total_rate("worker_restarts_total"), "worker restarts/s"),
                Target(
                    f"sum(1 - tunnelfleet_config_last_reload_successful{{{FLEET_SELECTOR}}})",
                    "files with mistakes",
                ),
            ),
        ),
    ),
)

_SHARED = Row(
    "Do the gateways share the fleet?",
    (
        Panel(
            "Gateways and shards",
            "Gateways whose lease holds, as each sees it, and the shards that each has.",
            "short",
            (
                Target(_sum("placement_shards", "instance"), "shards, {{instance}}"),
                Target(f"min(tunnelfleet_placement_members{{{FLEET_SELECTOR}}})", "gateways"),
            ),
            width=6,
        ),
        Panel(
            "Without an owner",
            "Shards, and tunnels in them, that no gateway with a lease has: all should be 0.",
            "short",
            (
                Target(
                    f"min(tunnelfleet_placement_shards_without_owner{{{FLEET_SELECTOR}}})", "shards"
                ),
                Target(
                    f"min(tunnelfleet_placement_tunnels_without_owner{{{FLEET_SELECTOR}}})",
                    "tunnels",
                ),
                Target(_total_rate("placement_takeovers_total"), "shards taken over/s"),
            ),
            width=6,
        ),
        Panel(
            "Age of the lease",
            "Since the store has confirmed it; above 0.9 x lease_seconds nothing connects.",
            "s",
            (Target(_sum("placement_lease_age_seconds", "instance"), "{{instance}}"),),
            width=6,
        ),
        Panel(
            "The store of the leases",
            "How long it takes to answer, and requests that it did not answer.",
            "s",
            (
                Target(
                    _mean("placement_request_seconds", "instance", FLEET_SELECTOR), "{{instance}}"
                ),
                Target(_total_rate("placement_request_failures_total"), "unanswered/s"),
            ),
            width=6,
        ),
        Panel(
            "Between gateways",
            "Connections that are forwarded, and gateways that could not be asked, by reason.",
            "short",
            (
                Target(_rate("forward_connections_total", "direction"), "{{direction}}/s"),
                Target(_sum("forward_open"), "open"),
                Target(_rate("forward_failures_total", "reason"), "failed/s, {{reason}}"),
            ),
            width=12,
        ),
        Panel(
            "Bytes between gateways",
            "Of applications, to other gateways and from them.",
            "Bps",
            (Target(_rate("forward_bytes_total", "direction"), "{{direction}}"),),
            width=12,
        ),
    ),
)

_TRAFFIC = Row(
    "How much traffic?",
    (
        Panel(
            "Sent by service",
            "DATA payload from local sockets to the tunnels.",
            "Bps",
            (Target(_rate("sent_bytes_total", "service_id, mode"), "{{service_id}} {{mode}}"),),
            stacked=True,
        ),
        Panel(
            "Received by service",
            "DATA payload from the tunnels for local sockets.",
            "Bps",
            (Target(_rate("received_bytes_total", "service_id, mode"), "{{service_id}} {{mode}}"),),
            stacked=True,
        ),
        Panel(
            "DATA messages",
            "Messages a second, both ways.",
            "mps",
            (
                Target(_rate("sent_messages_total", "mode"), "sent, {{mode}}"),
                Target(_rate("received_messages_total", "mode"), "received, {{mode}}"),
            ),
        ),
        Panel(
            "Active streams and open connections",
            "By mode; a V3 stream has many connections.",
            "short",
            (
                Target(_sum("streams_active", "mode"), "streams, {{mode}}"),
                Target(_sum("connections_active", "mode"), "connections, {{mode}}"),
            ),
        ),
        Panel(
            "Opened",
            "Streams and connections opened a second.",
            "cps",
            (
                Target(_rate("streams_opened_total", "mode"), "streams, {{mode}}"),
                Target(_rate("connections_opened_total", "mode"), "connections, {{mode}}"),
            ),
        ),
        Panel(
            "Tunnels opened and closed",
            "How many come and go.",
            "cps",
            (
                Target(
                    _total_rate("tunnels_opened_total"),
                    "opened",
                ),
                Target(
                    _total_rate("tunnels_closed_total"),
                    "closed",
                ),
            ),
        ),
    ),
)

_SLOW = Row(
    "Who is slow?",
    (
        Panel(
            "Wait in the queue",
            "How long a piece of data waits in front of the wire until its turn.",
            "s",
            (
                Target(_quantile(0.5, "queue_wait_seconds"), "half"),
                Target(_quantile(0.99, "queue_wait_seconds"), "99 %"),
            ),
        ),
        Panel(
            "Standing in the service",
            "How long data stands in the service, in front of its throttle, as pings tell.",
            "s",
            (
                Target(_quantile(0.5, "standing_seconds"), "half"),
                Target(_quantile(0.99, "standing_seconds"), "99 %"),
            ),
        ),
        Panel(
            "Queued, throttled and paced",
            "Bytes in front of the wire, and the seconds a second that tunnels wait for their "
            "bandwidth, or for what is in flight.",
            "short",
            (
                Target(_sum("queue_bytes"), "queued bytes"),
                Target(
                    _total_rate("throttled_seconds_total"),
                    "throttled s/s",
                ),
                Target(_total_rate("paced_seconds_total"), "paced s/s"),
            ),
        ),
        Panel(
            "Service: ping and connect",
            "Ping round trip, and the time that a connect takes.",
            "s",
            (
                Target(_quantile(0.5, "ping_round_trip_seconds"), "ping, half"),
                Target(_quantile(0.99, "ping_round_trip_seconds"), "ping, 99 %"),
                Target(_quantile(0.99, "connect_duration_seconds"), "connect, 99 %"),
            ),
        ),
        Panel(
            "Events to callbacks",
            "What callbacks of the embedding program take, a second.",
            "cps",
            (Target(_total_rate("callback_events_total"), "events"),),
        ),
        Panel(
            "Callbacks that hold up",
            "Callbacks above a second, tunnels not read because of callbacks, events dropped, "
            "and callbacks that raised.",
            "cps",
            (
                Target(_total_rate("slow_callbacks_total"), "slow"),
                Target(_total_rate("callback_stalls_total"), "held back"),
                Target(_total_rate("dropped_events_total"), "dropped events"),
                Target(_total_rate("callback_errors_total"), "errors"),
            ),
        ),
        Panel(
            "Threads for callbacks",
            "One or two while none blocks; at 32 all are held up.",
            "short",
            (Target(f"tunnelfleet_callback_threads{{{FLEET_SELECTOR}}}", "{{instance}}"),),
        ),
    ),
)

_KERNEL = Row(
    "Kernel",
    (
        Panel(
            "Messages handled",
            "By dispatcher; the ceiling is some hundred thousand a second and core.",
            "mps",
            (Target(_rate("messages_handled_total", "dispatcher"), "{{dispatcher}}"),),
        ),
        Panel(
            "Dispatcher lag and longest turn",
            "The longest delay in the last minute; above 100 ms people feel it.",
            "s",
            (
                Target(
                    f"max by (dispatcher) (tunnelfleet_dispatcher_lag_seconds{{{FLEET_SELECTOR}}})",
                    "lag, {{dispatcher}}",
                ),
                Target(
                    f"max by (dispatcher) (tunnelfleet_longest_turn_seconds{{{FLEET_SELECTOR}}})",
                    "longest turn, {{dispatcher}}",
                ),
            ),
        ),
        Panel(
            "Mailboxes",
            "Messages that wait to be handled.",
            "short",
            (Target(_sum("mailbox_messages", "dispatcher"), "{{dispatcher}}"),),
        ),
        Panel(
            "Failures and restarts by actor",
            "A WebSocketActor that fails is a lost connection; the others should not.",
            "cps",
            (
                Target(_rate("actor_failures_total", "actor"), "failed {{actor}}"),
                Target(_rate("actor_restarts_total", "actor"), "restarted {{actor}}"),
            ),
        ),
        Panel(
            "Slow turns, dead letters, quarantines",
            "Turns above 100 ms, messages to actors that had ended, children put in quarantine.",
            "cps",
            (
                Target(_rate("slow_turns_total", "dispatcher"), "slow turns"),
                Target(_rate("dead_letters_total", "dispatcher"), "dead letters"),
                Target(_rate("quarantines_total", "dispatcher"), "quarantines"),
                Target(_rate("abandoned_children_total", "dispatcher"), "abandoned threads"),
            ),
        ),
        Panel(
            "Actors and turns",
            "Actors alive, actors started a second, turns a second.",
            "short",
            (
                Target(_sum("actors_alive", "dispatcher"), "alive"),
                Target(_rate("actors_started_total", "dispatcher"), "started/s"),
                Target(_rate("turns_total", "dispatcher"), "turns/s"),
            ),
        ),
        Panel(
            "CPU",
            "Of the process, in cores.",
            "short",
            (
                Target(
                    f"rate(process_cpu_seconds_total{{{FLEET_SELECTOR}}}[$__rate_interval])",
                    "{{instance}}",
                ),
            ),
        ),
        Panel(
            "Memory",
            "Resident memory of the process.",
            "bytes",
            (Target(f"process_resident_memory_bytes{{{FLEET_SELECTOR}}}", "{{instance}}"),),
        ),
        Panel(
            "Files and threads",
            "Open file descriptors, their limit, and threads.",
            "short",
            (
                Target(f"process_open_fds{{{FLEET_SELECTOR}}}", "files"),
                Target(f"tunnelfleet_threads{{{FLEET_SELECTOR}}}", "threads"),
            ),
        ),
    ),
)

_WHICH = (
    ("job", "label_values(tunnelfleet_build_info, job)"),
    ("instance", 'label_values(tunnelfleet_build_info{job=~"$job"}, instance)'),
)

FLEET = Board(
    "tunnelfleet-fleet",
    "tunnelfleet: fleet",
    "All tunnels of a fleet: is it up, what is wrong, how much traffic, who is slow, the kernel.",
    with_the_rest(
        (_UP, _WRONG, _GATEWAY, _SHARED, _TRAFFIC, _SLOW, _KERNEL), CATALOGUE[: -len(PER_TUNNEL)]
    ),
    _WHICH,
)


def _of_tunnel(metric: str, extra: str = "") -> str:
    return _rate(metric, "tunnel, mode", extra, TUNNEL_SELECTOR)


_NAME = "{{tunnel}} {{mode}}"

TUNNEL = Board(
    "tunnelfleet-tunnel",
    "tunnelfleet: one tunnel",
    "One tunnel, when the process exposes per-tunnel series; `other` is all without a row.",
    with_the_rest(
        (
            Row(
                "Is it up?",
                (
                    Panel(
                        "State",
                        "The state that the tunnel is in.",
                        "short",
                        (
                            Target(
                                _sum(
                                    "tunnel_state", "tunnel, mode, state", selector=TUNNEL_SELECTOR
                                ),
                                "{{state}}: {{tunnel}}",
                            ),
                        ),
                        "stat",
                        12,
                    ),
                    Panel(
                        "In this state for",
                        "Since the last change of its state.",
                        "s",
                        (
                            Target(
                                "time() - tunnelfleet_tunnel_state_since_timestamp_seconds"
                                f"{{{TUNNEL_SELECTOR}}}",
                                _NAME,
                            ),
                        ),
                        "stat",
                        12,
                    ),
                    Panel(
                        "State over time",
                        "1 while the tunnel is in the state.",
                        "short",
                        (
                            Target(
                                _sum(
                                    "tunnel_state", "tunnel, mode, state", selector=TUNNEL_SELECTOR
                                ),
                                "{{tunnel}} {{state}}",
                            ),
                        ),
                        width=12,
                    ),
                    Panel(
                        "Reconnects and session resets",
                        "What interrupted it.",
                        "cps",
                        (
                            Target(_of_tunnel("tunnel_reconnects_total"), "reconnects " + _NAME),
                            Target(_of_tunnel("tunnel_session_resets_total"), "resets " + _NAME),
                        ),
                        width=12,
                    ),
                ),
            ),
            Row(
                "How much traffic?",
                (
                    Panel(
                        "Sent",
                        "DATA payload to the tunnel.",
                        "Bps",
                        (Target(_of_tunnel("tunnel_sent_bytes_total"), _NAME),),
                    ),
                    Panel(
                        "Received",
                        "DATA payload from the tunnel.",
                        "Bps",
                        (Target(_of_tunnel("tunnel_received_bytes_total"), _NAME),),
                    ),
                    Panel(
                        "Streams and connections",
                        "Active streams, open connections, connections opened a second.",
                        "short",
                        (
                            Target(
                                _sum(
                                    "tunnel_streams_active",
                                    "tunnel, mode",
                                    selector=TUNNEL_SELECTOR,
                                ),
                                "streams " + _NAME,
                            ),
                            Target(
                                _sum(
                                    "tunnel_connections_active",
                                    "tunnel, mode",
                                    selector=TUNNEL_SELECTOR,
                                ),
                                "connections " + _NAME,
                            ),
                            Target(
                                _of_tunnel("tunnel_connections_opened_total"), "opened/s " + _NAME
                            ),
                        ),
                    ),
                ),
            ),
            Row(
                "Is it slow?",
                (
                    Panel(
                        "Mean wait in the queue",
                        "How long its data waits in front of the wire.",
                        "s",
                        (
                            Target(
                                _mean("tunnel_queue_wait_seconds", "tunnel, mode", TUNNEL_SELECTOR),
                                _NAME,
                            ),
                        ),
                    ),
                    Panel(
                        "Queue and throttle",
                        "Bytes in front of the wire; seconds a second it waits for its bandwidth.",
                        "short",
                        (
                            Target(
                                _sum(
                                    "tunnel_queue_bytes", "tunnel, mode", selector=TUNNEL_SELECTOR
                                ),
                                "bytes " + _NAME,
                            ),
                            Target(
                                _of_tunnel("tunnel_throttled_seconds_total"), "throttled " + _NAME
                            ),
                        ),
                    ),
                    Panel(
                        "Mean ping",
                        "Round trip to the service.",
                        "s",
                        (
                            Target(
                                _mean(
                                    "tunnel_ping_round_trip_seconds",
                                    "tunnel, mode",
                                    TUNNEL_SELECTOR,
                                ),
                                _NAME,
                            ),
                        ),
                    ),
                ),
            ),
        ),
        PER_TUNNEL,
        TUNNEL_SELECTOR,
    ),
    (
        *_WHICH,
        (
            "tunnel",
            'label_values(tunnelfleet_tunnel_state{job=~"$job",instance=~"$instance"}, tunnel)',
        ),
    ),
)
