"""Dashboard and alerts: queries that parse and name our metrics, panels that do not overlap, links that lead on."""

import re
import runpy
from itertools import combinations
from typing import Any

import promql_parser
import pytest
import yaml

from controller.core.model import Change, Observation, State
from controller.telemetry import Telemetry
from tests.manifests.conftest import ROOT
from tests.manifests.promql import ALERTS, DASHBOARD, PANELS, QUERIES, rendered


def place(panel: dict[str, Any]) -> tuple[range, range]:
    at = panel["gridPos"]
    return range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])


def test_the_dashboard_is_what_the_script_writes() -> None:
    made = runpy.run_path(str(ROOT / "manifests/grafana/build.py"))["dashboard"]()
    assert made == DASHBOARD, "run: python manifests/grafana/build.py"


def test_panels_fill_the_grid_and_do_not_overlap() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS) > 12
    for panel in PANELS:
        across, _ = place(panel)
        assert 0 <= across.start < across.stop <= 24, panel["title"]
    for one, other in combinations(PANELS, 2):
        (x1, y1), (x2, y2) = place(one), place(other)
        apart = x1.stop <= x2.start or x2.stop <= x1.start or y1.stop <= y2.start or y2.stop <= y1.start
        assert apart, (one["title"], other["title"])
    assert sum(len(x) * len(y) for x, y in map(place, PANELS)) == 24 * max(place(panel)[1].stop for panel in PANELS)


def test_every_panel_says_what_it_shows_and_reads_the_chosen_prometheus() -> None:
    for panel in PANELS:
        assert panel["title"]
        assert panel["description"].endswith(".")
        references = [target["refId"] for target in panel["targets"]]
        assert len(references) == len(set(references)) > 0
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}


@pytest.mark.parametrize("query", [*QUERIES, *(alert["expr"] for alert in ALERTS)])
def test_every_query_parses_and_names_metrics_that_we_have(query: str) -> None:
    promql_parser.parse(rendered(query))
    telemetry = Telemetry()
    change = Change("shop", "chg-20261123-001", "CHG-20261123-001", None)
    telemetry.decision(change, State(), State(), Observation(change, {}, None))
    ours = set(re.findall(r"^# TYPE (\w+)", telemetry.exposition()[0].decode(), re.MULTILINE))
    named = set(re.findall(r"\b(?:serin|process)_\w+", query))
    assert named
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in named} <= ours


def test_variables_are_those_that_the_queries_use() -> None:
    used = {name for query in QUERIES for name in re.findall(r"\$(\w+)", query)} - {"__range", "__rate_interval"}
    assert used | {"datasource"} == {variable["name"] for variable in DASHBOARD["templating"]["list"]}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_says_how_bad_it_is_and_where_to_read_on(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in ("warning", "critical")  # P0 would be an incident, and roll changes back
    assert {"summary", "description", "runbook_url"} == alert["annotations"].keys()
    page, anchor = alert["annotations"]["runbook_url"].split("#")
    assert page in ("docs/operations.md", "docs/troubleshooting.md")
    if page == "docs/operations.md":
        headings = re.findall(r"^#+ (\w+)$", (ROOT / page).read_text(), re.MULTILINE)
        assert anchor in map(str.lower, headings)


def test_the_shipped_incident_is_none_of_these_alerts() -> None:
    for path in sorted((ROOT / "policies").glob("*.yaml")):
        labels = (yaml.safe_load(path.read_text()).get("spec") or {}).get("incidents", {}).get("labels")
        for alert in ALERTS if labels else ():
            assert not labels.items() <= alert["labels"].items(), (path.name, alert["alert"])
