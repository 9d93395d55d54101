"""The queries of dashboards and rules, as one asks Prometheus outside Grafana.

Owns the replacement of Grafana's variables, and what of an alert's query has an answer when all is
well.
"""

from __future__ import annotations

import re

__all__ = ["compared", "plain"]

_COMPARISON = re.compile(r"\s(==|!=|[<>]=?)\s")


def plain(expr: str, rate_interval: str = "5s") -> str:
    """A dashboard's query, over everything."""
    expr = expr.replace("$__rate_interval", rate_interval)
    return re.sub(r"\$(job|instance|tunnel)\b", ".*", expr)


def compared(alert_expr: str) -> list[str]:
    """What an alert's query compares with a threshold, each side that it joins by `or`."""
    parts = re.split(r"\sor\s", alert_expr)
    sides = [_COMPARISON.split(part)[0].strip() for part in parts]
    return [side for side in sides if not side.startswith("absent(")]
