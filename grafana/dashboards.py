"""Makes the dashboards' JSON from `panels.py`.

    python -m grafana.dashboards            writes grafana/dashboards/*.json
    python -m grafana.dashboards --check    fails when they are not what it would write

Owns how a panel looks in Grafana. What is asked and said stands in `panels.py`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models

from grafana.panels import FLEET, TUNNEL, Board, Panel
from grafana.service_panels import SERVICE

FOLDER = Path(__file__).parent / "dashboards"
FILES = {"fleet.json": FLEET, "tunnel.json": TUNNEL, "service.json": SERVICE}

DATASOURCE = "${datasource}"
STAT_HEIGHT = 4
GRAPH_HEIGHT = 8
COLUMNS = 24


def source() -> models.DataSourceRef:
    """The data source that the variable names."""
    return models.DataSourceRef(type_val="prometheus", uid=DATASOURCE)


def build(board: Board) -> str:
    """The JSON of a dashboard."""
    builder = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .description(board.description)
        .tags(["tunnelfleet"])
        .refresh("10s")
        .time("now-30m", "now")
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .link(_link())
        .with_variable(
            dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")
        )
    )
    for name, query in board.variables:
        builder.with_variable(_variable(name, query))
    number, top = 0, 0
    for row in board.rows:
        number += 1
        builder.with_row(dashboard.Row(row.title).id(number).grid_pos(_place(0, top, COLUMNS, 1)))
        top += 1
        left = height = 0
        for panel in row.panels:
            if left + panel.width > COLUMNS:
                top, left, height = top + height, 0, 0
            number += 1
            height = max(height, _height(panel))
            place = _place(left, top, panel.width, _height(panel))
            builder.with_panel(_panel(panel).id(number).grid_pos(place))
            left += panel.width
        top += height
    return JSONEncoder(sort_keys=True, indent=2).encode(builder.build()) + "\n"


def _place(left: int, top: int, width: int, height: int) -> models.GridPos:
    return models.GridPos(x=left, y=top, w=width, h=height)


def _height(panel: Panel) -> int:
    return STAT_HEIGHT if panel.kind == "stat" else GRAPH_HEIGHT


def _link() -> Any:
    return (
        dashboard.DashboardLink("tunnelfleet")
        .type(models.DashboardLinkType.DASHBOARDS)
        .tags(["tunnelfleet"])
        .include_vars(True)
        .keep_time(True)
    )


def _variable(name: str, query: str) -> Any:
    return (
        dashboard.QueryVariable(name)
        .label(name.capitalize())
        .datasource(source())
        .query(query)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(models.VariableOption(selected=True, text="All", value="$__all"))
    )


def _panel(panel: Panel) -> Any:
    builder = _stat(panel) if panel.kind == "stat" else _graph(panel)
    builder.title(panel.title).description(panel.description).datasource(source()).unit(panel.unit)
    for index, target in enumerate(panel.targets):
        query = (
            prometheus.Dataquery()
            .datasource(source())
            .expr(target.expr)
            .legend_format(target.legend or "__auto")
            .ref_id(chr(ord("A") + index))
        )
        builder.with_target(query.instant() if panel.kind == "stat" else query.range())
    if panel.thresholds:
        steps = [models.Threshold(value=value, color=color) for value, color in panel.thresholds]
        builder.thresholds(
            dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)
        )
    return builder


def _stat(panel: Panel) -> Any:
    named = any(target.legend for target in panel.targets)
    mode = (
        common_models.BigValueTextMode.VALUE_AND_NAME
        if named
        else common_models.BigValueTextMode.VALUE
    )
    return (
        stat.Panel()
        .color_mode(
            common_models.BigValueColorMode.BACKGROUND
            if panel.thresholds
            else common_models.BigValueColorMode.NONE
        )
        .graph_mode(common_models.BigValueGraphMode.NONE)
        .text_mode(mode)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    )


def _graph(panel: Panel) -> Any:
    builder = (
        timeseries.Panel()
        .min(0)
        .line_width(1)
        .fill_opacity(25 if panel.stacked else 5)
        .show_points(common_models.VisibilityMode.NEVER)
        .legend(
            common.VizLegendOptions()
            .show_legend(True)
            .display_mode(common_models.LegendDisplayMode.LIST)
            .placement(common_models.LegendPlacement.BOTTOM)
        )
        .tooltip(common.VizTooltipOptions().mode(common_models.TooltipDisplayMode.MULTI))
    )
    if panel.stacked:
        builder.stacking(common.StackingConfig().mode(common_models.StackingMode.NORMAL))
    return builder


def main() -> int:
    """Write or check the files."""
    parser = argparse.ArgumentParser(description="Make the dashboards' JSON.")
    parser.add_argument("--check", action="store_true", help="fail when a file is out of date")
    check = parser.parse_args().check
    stale = []
    for name, board in FILES.items():
        path, text = FOLDER / name, build(board)
        if path.is_file() and path.read_text() == text:
            continue
        stale.append(name)
        if not check:
            FOLDER.mkdir(exist_ok=True)
            path.write_text(text)
    if check and stale:
        sys.stderr.write(f"stale: {', '.join(stale)}; run python -m grafana.dashboards\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
