"""What the dashboard of a tunneling service shows: its tunnels, what it refuses, its parts.

Owns the content, as `panels.py` does for tunnels; `dashboards.py` makes Grafana's JSON of it.
"""

from __future__ import annotations

from grafana.panels import Board, Panel, Row, Target

__all__ = ["SERVICE"]

SELECTOR = 'job=~"$job",instance=~"$instance"'
PREFIX = "tunnelfleet_service_"
RED_ABOVE_0 = ((None, "green"), (1, "red"))


def _now(metric: str, by: str = "") -> str:
    grouping = f" by ({by}) " if by else ""
    return f"sum{grouping}({PREFIX}{metric}{{{SELECTOR}}})"


def _rate(metric: str, by: str = "", extra: str = "") -> str:
    grouping = f" by ({by}) " if by else ""
    return f"sum{grouping}(rate({PREFIX}{metric}{{{SELECTOR}{extra}}}[$__rate_interval]))"


_NOW = Row(
    "Is it up?",
    (
        Panel(
            "Open tunnels",
            "Tunnels that are open, connected or not.",
            "short",
            (Target(_now("tunnels")),),
            "stat",
        ),
        Panel(
            "State not written",
            "Whether the last try to write state.db failed: a full disk, mostly.",
            "short",
            (Target(_now("state_failing")),),
            "stat",
            thresholds=RED_ABOVE_0,
        ),
        Panel(
            "Notifications waiting",
            "Notifications that wait for the broker; each is given up after ten minutes.",
            "short",
            (Target(_now("notifications_waiting")),),
            "stat",
            thresholds=((None, "green"), (10, "orange")),
        ),
        Panel(
            "Clients",
            "Clients connected to a tunnel, and connections without a token so far.",
            "short",
            (
                Target(_now("clients", "mode"), "{{mode}}"),
                Target(_now("connections"), "connections"),
            ),
            width=12,
        ),
        Panel(
            "Relayed",
            "Payload by the side that sent it.",
            "Bps",
            (Target(_rate("relayed_bytes_total", "mode"), "{{mode}}"),),
            width=12,
        ),
    ),
)

_WRONG = Row(
    "What is wrong?",
    (
        Panel(
            "Events",
            "client_refused is a token that is wrong, spent or void; protocol_error a client that "
            "breaks the protocol; client_replaced two clients with one token.",
            "cps",
            (
                Target(
                    _rate(
                        "events_total",
                        "event",
                        ',event=~"client_refused|client_replaced|protocol_error|session_reset"',
                    ),
                    "{{event}}",
                ),
            ),
            width=12,
        ),
        Panel(
            "Waiting for a client",
            "Bytes that wait for a client to read; the other side is not read meanwhile.",
            "bytes",
            (Target(_now("buffered_bytes"), "buffered"),),
            width=12,
        ),
        Panel(
            "Calls of the management API",
            "Calls by operation.",
            "cps",
            (Target(_rate("management_calls_total", "operation"), "{{operation}}"),),
            width=12,
        ),
        Panel(
            "Calls that failed, and notifications",
            "Calls by their error, and what became of notifications.",
            "cps",
            (
                Target(_rate("management_calls_total", "error", ',error!=""'), "{{error}}"),
                Target(_rate("notifications_total", "result"), "notification {{result}}"),
            ),
            width=12,
        ),
    ),
)

SERVICE = Board(
    "tunnelfleet-service",
    "tunnelfleet: service",
    "A tunneling service of your own: who is connected, what is refused, its management API.",
    (_NOW, _WRONG),
    (
        ("job", f"label_values({PREFIX}tunnels, job)"),
        ("instance", f'label_values({PREFIX}tunnels{{job=~"$job"}}, instance)'),
    ),
)
