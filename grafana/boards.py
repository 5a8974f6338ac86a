"""The dashboards, as code: `make dashboards` writes grafana/dashboards/*.json with Grafana's own foundation SDK.

A panel is one line in a table: title, how it is drawn, its unit, what it asks, and what a person should think of the answer. Every
query is run by tests/deploy against a real Prometheus that scraped real traffic.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    FieldColorModeId,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
)

HERE = Path(__file__).parent / "dashboards"
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
PLACE = '{tenant=~"$tenant", listener=~"$listener"}'
BY_PLACE = "by (tenant, listener)"


@dataclass(frozen=True, slots=True)
class Panel:
    """`queries`: (expression, legend). `alarming`: from this value on a stat is red; None: it is never."""

    title: str
    about: str
    queries: Sequence[tuple[str, str]]
    unit: str = "short"
    draw: str = "lines"
    span: int = 12
    alarming: float | None = None


def p99(histogram: str, span: str, by: str = "", where: str = "") -> str:
    """The 99th percentile of a histogram over `span`."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile(0.99, sum by ({labels}) (rate(exfilguard_{histogram}_bucket{where}[{span}])))"


def per_second(counter: str, legend: str = "{{tenant}} {{listener}}") -> tuple[str, str]:
    return f"sum {BY_PLACE} (rate(exfilguard_{counter}{PLACE}[1m]))", legend


def one(title: str, about: str, query: str, unit: str = "short", alarming: float | None = None, span: int = 4) -> Panel:
    return Panel(title, about, [(query, title)], unit, "number", span, alarming)


OVERVIEW = [
    one("Accounts stopped", "Under a standing cut or lock. More than 0: open the console.",
        'max(sum by (instance) (exfilguard_standing_verdicts{level=~"cut|lock"}))', alarming=1),
    one("Accounts to look at", "Under a standing alert or throttle.",
        'max(sum by (instance) (exfilguard_standing_verdicts{level=~"alert|throttle"}))', alarming=10),
    one("Suspended where they live", "Locked by a hook, verified.", "max(exfilguard_locked_accounts)", alarming=1),
    one("Processes down", "Each is started again by itself; more than 0 for a minute pages.",
        "count(exfilguard_process_up == 0) or vector(0)", alarming=1),
    one("Events waiting for Kafka", "Age of the oldest. Queries are not affected.", "max(exfilguard_spool_oldest_seconds)", "s", 60),
    one("Not recorded", "Events lost by a full spool, frames missing on the topic: totals are too low by these.",
        "sum(exfilguard_spool_lost_events_total) + sum(exfilguard_frames_gap_total)", alarming=1),
    Panel("Patients seen a second", "Distinct within each event. A plateau where there was none is somebody working through a list.",
          [per_second("patients_total")], "short"),
    Panel("Statements a second", "The clinic's own rhythm.", [per_second("queries_total")], "short"),
    Panel("Largest accounts, records in an hour", "Only the largest are shown by name.",
          [('topk(10, max by (tenant, account) (exfilguard_account_window_records{tenant=~"$tenant", window="1h"}))', "{{account}}")]),
    Panel("Verdicts", "Issued in five minutes, by level.",
          [("sum by (level) (increase(exfilguard_verdicts_total[5m]))", "{{level}}")], draw="bars"),
]  # fmt: skip

ACCOUNT = [
    Panel("Records in its windows", "The rolling totals that limits are compared with.",
          [('max by (window) (exfilguard_account_window_records{tenant=~"$tenant", account=~"$account"})', "{{window}}")], span=24),
    Panel("The last hour", "The account among the largest ones.",
          [('topk(5, max by (account) (exfilguard_account_window_records{tenant=~"$tenant", window="1h"}))', "{{account}}")]),
    Panel("The last day", "What a patient thief cannot hide.",
          [('topk(5, max by (account) (exfilguard_account_window_records{tenant=~"$tenant", window="24h"}))', "{{account}}")]),
    Panel("Ten seconds", "What a hasty one cannot.",
          [('topk(5, max by (account) (exfilguard_account_window_records{tenant=~"$tenant", window="10s"}))', "{{account}}")]),
    Panel("Verdicts in force", "By level.", [("max by (level) (exfilguard_standing_verdicts)", "{{level}}")]),
]  # fmt: skip

RELAY = [
    one("Sessions", "Client sessions open.", f"sum(exfilguard_sessions{PLACE})"),
    one("Connections a second", "New ones; a storm is an application without a pool.",
        f"sum(rate(exfilguard_connections_total{PLACE}[1m]))"),
    one("Not followed", "Sessions whose protocol was lost.", "sum(exfilguard_desynced_total) or vector(0)", alarming=1),
    one("Database unreachable", "Sessions that could not be connected to it.",
        f"sum(increase(exfilguard_upstream_failures_total{PLACE}[5m]))", alarming=1),
    one("Not the protocol", "Connections closed for that: a scanner, a wrong port.",
        f"sum(increase(exfilguard_garbage_connections_total{PLACE}[5m]))"),
    one("Past a local limit", "Must be 0: enforce stops before the row.",
        f"sum(exfilguard_records_past_limit_total{PLACE})", alarming=1),
    Panel("Time the relay adds", "p99 of what it spends itself on one piece of data.",
          [(p99("relay_added_seconds", "5m", "tenant, listener", PLACE), "{{tenant}} {{listener}}")], "s"),
    Panel("Rows a second", "Delivered to clients.", [per_second("rows_total")]),
    Panel("Bytes a second", "Result data.", [per_second("result_bytes_total")], "Bps"),
    Panel("Refused and cut", "Sessions ended by the guard; results cut by budget or verdict.",
          [per_second("refused_total", "refused {{listener}}"),
           (f"sum by (by) (rate(exfilguard_cuts_total{PLACE}[1m]))", "cut by {{by}}")]),
]  # fmt: skip

STREAM = [
    one("Detector's lag", "Kafka records not judged yet.", "sum(exfilguard_consumer_lag_records)", alarming=5000),
    one("Spool", "Bytes that Kafka has not acknowledged.", "max(exfilguard_spool_bytes)", "bytes"),
    one("Oldest event waiting", "Above a minute pages nobody, but look.", "max(exfilguard_spool_oldest_seconds)", "s", 60),
    one("Frames missing", "Holes in a sidecar's sequence.", "sum(exfilguard_frames_gap_total)", alarming=1),
    one("Frames twice", "Dropped by their sequence number: harmless.", "sum(exfilguard_frames_duplicate_total)"),
    one("Unreadable records", "On the dead letter topic, with the reason.", "sum(exfilguard_deadletters_total)", alarming=1),
    Panel("Events a second", "Written to the spool, acknowledged by Kafka, added to the windows: three lines that should be one.",
          [("sum(rate(exfilguard_events_spooled_total[1m]))", "spooled"),
           ("sum(rate(exfilguard_events_published_total[1m]))", "published"),
           ("sum(rate(exfilguard_events_processed_total[1m]))", "counted")], span=24),
    Panel("From the event to the verdict", "p99.", [(p99("event_to_verdict_seconds", "1h"), "p99")], "s"),
    Panel("Frames a second", "Kafka records.", [("sum(rate(exfilguard_frames_published_total[1m]))", "published"),
                                               ("sum(rate(exfilguard_frames_resent_total[1m]))", "published again")]),
    Panel("Clocks of the sidecars", "Against the detector's; above 0: ahead. More than 5 s is an alert.",
          [("max by (sidecar) (exfilguard_clock_skew_seconds)", "{{sidecar}}")], "s", span=24),
]  # fmt: skip

RESPONSE = [
    one("Locked accounts", "By a hook, verified.", "max(exfilguard_locked_accounts)", alarming=1),
    one("Failed attempts, one hour", "The account is cut at the sidecar all the same.",
        'sum(increase(exfilguard_lockouts_total{outcome="failed"}[1h])) or vector(0)', alarming=1),
    one("Limit crossed to suspended, p99", "The bar is one second.", p99("lockout_seconds", "1h"), "s", 1),
    Panel("Attempts", "Of each hook, by how they ended.",
          [("sum by (hook, outcome) (increase(exfilguard_lockouts_total[5m]))", "{{hook}} {{outcome}}")], draw="bars"),
    Panel("Given back", "Accounts restored.",
          [("sum by (hook, outcome) (increase(exfilguard_unlocks_total[5m])) or vector(0)", "{{hook}} {{outcome}}")], draw="bars"),
    Panel("Verdicts in force", "By level.", [("max by (level) (exfilguard_standing_verdicts)", "{{level}}")], span=24),
]  # fmt: skip

BOARDS: dict[str, tuple[str, str, list[Panel]]] = {
    "overview": ("ExfilGuard: overview", "For the security officer: is anybody taking records out, and does the guard see?", OVERVIEW),
    "account": ("ExfilGuard: one account", "One account's story. Choose it above; only the largest are known by name.", ACCOUNT),
    "relay": ("ExfilGuard: relay", "What clinicians would feel.", RELAY),
    "stream": ("ExfilGuard: stream", "From the spool through Kafka to the windows: nothing lost, nothing late.", STREAM),
    "response": ("ExfilGuard: response", "What was done, and how fast.", RESPONSE),
}  # fmt: skip


def _query(expression: str, legend: str, *, instant: bool) -> prometheus.Dataquery:
    made = prometheus.Dataquery().expr(expression).legend_format(legend)
    return made.instant() if instant else made.range()


def _panel(panel: Panel) -> stat.Panel | timeseries.Panel:
    if panel.draw == "number":
        steps = [Threshold(value=None, color="green")]
        if panel.alarming is not None:
            steps.append(Threshold(value=panel.alarming, color="red"))
        made: stat.Panel | timeseries.Panel = (
            stat.Panel()
            .color_mode(
                common.BigValueColorMode.BACKGROUND if panel.alarming is not None else common.BigValueColorMode.NONE
            )
            .graph_mode(common.BigValueGraphMode.NONE)
            .reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]))
            .thresholds(dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
            .no_value("-")
            .height(4)
        )
    else:
        made = (
            timeseries.Panel()
            .draw_style(common.GraphDrawStyle.BARS if panel.draw == "bars" else common.GraphDrawStyle.LINE)
            .fill_opacity(60 if panel.draw == "bars" else 8)
            .line_width(2)
            .min(0)
            .color_scheme(dashboard.FieldColor().mode(FieldColorModeId.PALETTE_CLASSIC))
            .tooltip(common_builders.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI))
            .height(8)
        )
    made.title(panel.title).description(panel.about).unit(panel.unit).span(panel.span).datasource(SOURCE)
    for expression, legend in panel.queries:
        made.with_target(_query(expression, legend, instant=panel.draw == "number"))
    return made


def _choice(name: str, label: str, query: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query(query)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .include_all(True)
        .all_value(".*")
        .multi(True)
    )


def build(name: str) -> str:
    """One board as JSON text."""
    title, about, panels = BOARDS[name]
    made = (
        dashboard.Dashboard(title)
        .uid(f"exfilguard-{name}")
        .description(about)
        .tags(["exfilguard"])
        .readonly()
        .refresh("5s")
        .time("now-1h", "now")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(_choice("tenant", "Establishment", "label_values(exfilguard_queries_total, tenant)"))
        .with_variable(
            _choice("listener", "Listener", 'label_values(exfilguard_queries_total{tenant=~"$tenant"}, listener)')
        )
        .with_variable(dashboard.TextBoxVariable("console").label("Console").default_value("http://127.0.0.1:9188"))
        .link(dashboard.DashboardLink("Boards").type(DashboardLinkType.DASHBOARDS).tags(["exfilguard"]).keep_time(True))
        .link(dashboard.DashboardLink("Console").type(DashboardLinkType.LINK).url("${console}").target_blank(True))
        .annotation(
            dashboard.AnnotationQuery()
            .name("Locks")
            .datasource(SOURCE)
            .enable(True)
            .icon_color("red")
            .expr("changes(exfilguard_locked_accounts[30s]) > 0")
        )
    )
    if name == "account":
        made.with_variable(
            _choice("account", "Account", 'label_values(exfilguard_account_window_records{tenant=~"$tenant"}, account)')
        )
    for panel in panels:
        made.with_panel(_panel(panel))
    return JSONEncoder(sort_keys=True, indent=2).encode(made.build()) + "\n"


def main() -> int:
    for name in BOARDS:
        (HERE / f"{name}.json").write_text(build(name), encoding="utf-8")
        print(f"grafana/dashboards/{name}.json", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
