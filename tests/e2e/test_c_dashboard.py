"""What an SRE sees of changes: every panel of the dashboard has data, and the alerts fire when they should."""

import json
import math
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from testbed import stage
from testbed.bed import Bed
from testbed.process import Process
from testbed.waiting import answers, eventually
from tests.e2e.conftest import LEASE, Played, Serin
from tests.manifests.promql import ALERTS, PANELS, rendered

STANDBY_PORT = 9811
WINDOW = "10s"


def ask(bed: Bed, endpoint: str, **parameters: str) -> Any:
    """The data of Prometheus's answer."""
    url = f"{bed.prometheus_url}/api/v1/{endpoint}?{urllib.parse.urlencode(parameters)}"
    with urllib.request.urlopen(url, timeout=10) as response:
        return json.load(response)["data"]


def values(bed: Bed, target: dict[str, Any], app: Played, since: float) -> list[float]:
    """The numbers that Grafana would draw for a query of a panel."""
    now = time.time()
    span = f"{math.ceil(now - since)}s"
    query = rendered(target["expr"].replace("$__range", span), namespace=app.namespace, window=WINDOW)
    if target["instant"]:
        found = [series["value"][1] for series in ask(bed, "query", query=query)["result"]]
    else:
        parameters = {"query": query, "start": str(since), "end": str(now), "step": "1s"}
        result = ask(bed, "query_range", **parameters)["result"]
        found = [value for series in result for _, value in series["values"]]
    return [number for number in map(float, found) if math.isfinite(number)]


def states(bed: Bed) -> dict[str, list[dict[str, Any]]]:
    """Alert to its pending and firing instances; all rules were evaluated without an error."""
    (group,) = (g for g in ask(bed, "rules")["groups"] if g["name"] == "serin")
    assert {rule["health"] for rule in group["rules"]} <= {"ok", "unknown"}, group
    return {rule["name"]: rule["alerts"] for rule in group["rules"]}


def firing(bed: Bed, alert: str, **labels: str) -> bool:
    return any(each["state"] == "firing" and labels.items() <= each["labels"].items() for each in states(bed)[alert])


@pytest.fixture(scope="module", autouse=True)
def monitored(serin: Serin) -> Iterator[Process]:
    """Both replicas scraped, and the shipped alerts loaded; those that wait for longer than a test does wait less."""
    bed = serin.bed
    standby = stage.controller(bed, "standby", port=STANDBY_PORT, **LEASE)
    standby.start()
    address = f"http://{bed.host}:{STANDBY_PORT}/readyz"
    standby.wait_until("/readyz", lambda: answers(address), timedelta(seconds=20))
    bed.scrape("serin", f"{bed.host}:{stage.LISTEN_PORT}", f"{bed.host}:{STANDBY_PORT}")
    bed.rules("serin", *({**alert, **({"for": "2s"} if "for" in alert else {})} for alert in ALERTS))
    eventually(lambda: len(bed.query("serin_build_info")) == 2, within=timedelta(seconds=20))
    yield standby
    bed.rules("serin")
    bed.scrape("serin")
    standby.stop()


@pytest.mark.alone
def test_every_panel_shows_a_change_that_completes_and_one_that_comes_back(app: Played) -> None:
    since = time.time()
    compared = {"analysis": {"statistical": "on"}}
    with app.users(60):
        good = app.start("v2", policy=compared)
        app.wait(good, "Completed", within=timedelta(seconds=90))
        bad = app.start("v3", policy=compared, ERROR_RATIO="0.3")
        cause = app.wait(bad, "RolledBack", within=timedelta(seconds=90))["cause"]
    bed = app.bed
    eventually(lambda: firing(bed, "SerinRolledBack", change=bad, reason=cause), within=timedelta(seconds=10))
    assert not firing(bed, "SerinRolledBack", change=good)
    empty = [
        (panel["title"], target["refId"])
        for panel in PANELS
        for target in panel["targets"]
        if not values(bed, target, app, since)
    ]
    assert not empty
    phases = bed.query(f'serin_change_phase{{change="{good}"}} == 1')
    assert [series["metric"]["phase"] for series in phases] == ["Completed"]
    lights = {panel["title"]: values(bed, panel["targets"][0], app, since) for panel in PANELS[:3]}
    assert lights == {"Leader": [1.0], "Prometheus": [1.0], "Admission": [1.0]}
    assert "orbidden" not in app.serin.log_of(app.namespace)  # as the ServiceAccount, with its rights and no others
    quiet = {"SerinNobodyWatches", "SerinAbsent", "SerinNoLeader", "SerinPrometheusSilent", "SerinAdmissionMissing"}
    assert not [each for name, alerts in states(bed).items() if name in quiet for each in alerts]


@pytest.mark.alone
def test_the_dead_man_calls_when_a_canary_has_traffic_and_nobody_leads(
    app: Played, serin: Serin, monitored: Process
) -> None:
    bed = app.bed
    with app.users(60) as users:
        change = app.start("v2", policy={"steps": [{"weight": 10, "bake": "20s"}, {"weight": 100, "bake": "2s"}]})
        eventually(lambda: bed.query(f'serin_change_weight_actual{{change="{change}"}} == 10'), timedelta(seconds=20))
        assert not firing(bed, "SerinNobodyWatches")
        for process in (monitored, serin.controller):
            process.kill()
        eventually(lambda: firing(bed, "SerinNobodyWatches", change=change), within=timedelta(seconds=20))
        eventually(lambda: firing(bed, "SerinAbsent"), within=timedelta(seconds=10))
        for process in (monitored, serin.controller):
            process.start()
        app.wait(change, "Completed", within=timedelta(seconds=90))
    assert users.stop().failed == 0
    eventually(lambda: not states(bed)["SerinNobodyWatches"] + states(bed)["SerinAbsent"], within=timedelta(seconds=20))


def test_the_other_alerts_fire_on_what_they_are_about(bed: Bed) -> None:
    """On series made up by recording rules: a missing policy or a silent Prometheus would hurt every other test."""

    def series(name: str, value: int, **labels: str) -> dict[str, Any]:
        return {"record": name, "expr": f"vector({value})", "labels": {"namespace": "made", "change": "up", **labels}}

    made_up = (
        series("serin_change_reason", 1, reason="NoData"),
        series("serin_change_phase", 1, phase="RollingBack"),
        series("serin_admission_up", 0),
        series("serin_prometheus_up", 0),
        series("serin_leader", 1),
    )
    bed.rules("made-up", *made_up)
    about = {
        "SerinNoData": {"change": "up"},
        "SerinRollbackStuck": {"change": "up"},
        "SerinAdmissionMissing": {"namespace": "made"},
        "SerinPrometheusSilent": {"namespace": "made"},
    }
    try:
        for alert, labels in about.items():
            eventually(lambda a=alert, v=labels: firing(bed, a, **v), within=timedelta(seconds=20))  # type: ignore[misc]
        assert not states(bed)["SerinNobodyWatches"]
    finally:
        bed.rules("made-up")
    eventually(lambda: not any(firing(bed, alert, **v) for alert, v in about.items()), within=timedelta(seconds=20))
