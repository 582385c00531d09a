"""The few kinds of panels that the dashboards are made of: titles in French, descriptions in English."""

from collections.abc import Mapping, Sequence
from string import ascii_uppercase

from grafana_foundation_sdk.builders import common as shared
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders import prometheus, stat, table, timeseries
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    GraphDrawStyle,
    GraphThresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardLinkType,
    DataSourceRef,
    DataTransformerConfig,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
    VariableOption,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = DataSourceRef(type_val="prometheus", uid="$datasource")
"""Whichever Prometheus the reader chooses: none is written here."""
GREEN, ORANGE, RED, GREY = "green", "orange", "red", "text"
Steps = Sequence[tuple[float | None, str]]
"""From which value on which colour; the first value is None."""
PLAIN: Steps = ((None, GREY),)
NONE_IS_FINE: Steps = ((None, GREEN), (1, ORANGE))
HOURS, DAYS = 3600, 86_400
P = 'platform=~"$platform"'
"""What every query about platforms asks for."""
ENDED = "cohorts_reconciliation_ended_timestamp_seconds"
SUCCEEDED = f'max({ENDED}{{state=~"done|partial"}})'


def dashboard(uid: str, title: str, description: str, *, since: str, platforms: bool = True) -> build.Dashboard:
    """Begin a dashboard, with a choice of data source and, by default, of platforms."""
    others = build.DashboardLink("Cohortes d'étape").tags(["etape-cohorts"]).as_dropdown(as_dropdown=True)
    page = (
        build.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags(["etape-cohorts"])
        .link(others.type(DashboardLinkType.DASHBOARDS).include_vars(include_vars=True).keep_time(keep_time=False))
        .time(since, "now")
        .refresh("1m")
        .timezone("browser")
        .readonly()
        .with_variable(build.DatasourceVariable("datasource").label("Source").type("prometheus"))
    )
    if platforms:
        page = page.with_variable(
            build.QueryVariable("platform")
            .label("Plateforme")
            .datasource(SOURCE)
            .query("label_values(cohorts_memberships, platform)")
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(VariableSort.ALPHABETICAL_ASC)
            .multi(multi=True)
            .include_all(include_all=True)
            .all_value(".*")
            .current(VariableOption(selected=True, text=["All"], value=["$__all"]))
        )
    return page


def row(title: str) -> build.Row:
    """Begin a row."""
    return build.Row(title)


def number(
    title: str,
    description: str,
    expr: str,
    *,
    legend: str = "",
    unit: str = "short",
    steps: Steps = PLAIN,
    words: Mapping[int, tuple[str, str]] | None = None,
    none: str = "—",
    width: int = 4,
    height: int = 4,
) -> stat.Panel:
    """Show current values as large figures, one per series; `words` are text and colour in place of a value."""
    panel = (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .with_target(_query(expr, legend).instant())
        .reduce_options(shared.ReduceDataOptions().calcs(["lastNotNull"]))
        .unit(unit)
        .no_value(none)
        .thresholds(_thresholds(steps))
        .graph_mode(BigValueGraphMode.NONE)
        .color_mode(BigValueColorMode.BACKGROUND if len(steps) > 1 or words else BigValueColorMode.VALUE)
        .span(width)
        .height(height)
    )
    if words:
        results = {str(value): ValueMappingResult(text=text, color=color) for value, (text, color) in words.items()}
        panel = panel.mappings([ValueMap(options=results)])
    return panel


def graph(
    title: str,
    description: str,
    queries: Mapping[str, str],
    *,
    unit: str = "short",
    steps: Steps | None = None,
    stacked: bool = False,
    width: int = 12,
    height: int = 8,
) -> timeseries.Panel:
    """Show values over time; `queries` are legends by expression."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .axis_soft_min(0)
        .fill_opacity(30 if stacked else 8)
        .legend(
            shared.VizLegendOptions()
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(show_legend=True)
        )
        .tooltip(shared.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
        .draw_style(GraphDrawStyle.LINE)
        .span(width)
        .height(height)
    )
    for letter, (expr, legend) in zip(ascii_uppercase, queries.items(), strict=False):
        panel = panel.with_target(_query(expr, legend, letter).range())
    if stacked:
        panel = panel.stacking(shared.StackingConfig().mode(StackingMode.NORMAL).group("A"))
    if steps is not None:
        panel = panel.thresholds(_thresholds(steps)).thresholds_style(
            shared.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.LINE)
        )
    return panel


def listing(
    title: str, description: str, expr: str, columns: Mapping[str, str], *, none: str, width: int, height: int = 8
) -> table.Panel:
    """Show the labels of current series, one per line; `columns` are their titles, in order."""
    kept = DataTransformerConfig(id_val="filterFieldsByName", options={"include": {"names": list(columns)}})
    named = DataTransformerConfig(
        id_val="organize",
        options={
            "indexByName": {label: index for index, label in enumerate(columns)},
            "renameByName": dict(columns),
        },
    )
    return (
        table.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .with_target(_query(expr, "").instant().format(PromQueryFormat.TABLE))
        .with_transformation(kept)
        .with_transformation(named)
        .no_value(none)
        .span(width)
        .height(height)
    )


def _query(expr: str, legend: str, letter: str = "A") -> prometheus.Dataquery:
    return prometheus.Dataquery().ref_id(letter).expr(expr).legend_format(legend)


def _thresholds(steps: Steps) -> build.ThresholdsConfig:
    values = [Threshold(value=value, color=color) for value, color in steps]
    return build.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(values)
