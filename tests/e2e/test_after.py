"""The watch after the promotion on a real cluster: a version that is fine on its way, and then fails."""

import re
import time
import urllib.request
from datetime import UTC, datetime, timedelta

from testbed.waiting import eventually
from tests.e2e.conftest import Played

WATCHED = {"after": {"watch": "25s"}}
LONG = timedelta(seconds=120)


def fault(app: Played, query: str) -> None:
    """Every pod of v2 begins to do that."""
    for pod in app.pods("v2").values():
        address = f"http://{pod['status']['podIP']}:8080/fault?{query}"
        with urllib.request.urlopen(urllib.request.Request(address, method="POST"), timeout=5) as answer:
            assert answer.status == 200


def test_a_healthy_version_is_watched_without_its_canary_and_completes(app: Played) -> None:
    before = app.rules()
    with app.users(50) as users:
        change = app.start("v2", policy=WATCHED)
        app.wait(change, "Promoting", reason="Watching", within=LONG)
        eventually(lambda: not app.leftovers(), within=timedelta(seconds=15))
        assert app.rules() == before
        eventually(lambda: app.live()["metadata"]["annotations"].get("serin.dev/held") == "running")
        done = app.wait(change, "Completed", within=LONG)
        seen = users.stop()
    assert seen.failed == 0
    stages = [record["stage"] for record in done["history"] if record.get("stage")]
    assert stages == ["Roll", "Return", "Drain", "Watch", "Clean"]
    assert all("; stable had 0%" in e["message"] and e["requests"] > 100 for e in done["evidence"])
    live = app.live()
    assert not live["spec"].get("paused")
    assert "serin.dev/held" not in (live["metadata"].get("annotations") or {})


def test_errors_in_the_log_alone_take_a_version_back(app: Played) -> None:
    watched = {"logErrors": {"max": "5%", "window": "10s", "sustained": "5s"}}
    with app.users(50) as users:
        change = app.start("v2", policy=watched, LOG_REQUESTS="1", LOG_ERROR_RATIO="0.2")
        done = app.wait(change, "RolledBack", within=LONG)
        seen = users.stop()
    assert done["cause"] == "LogErrors"
    (told,) = (e["message"] for e in done["evidence"] if e["rule"] == "log-errors")
    found = re.search(r"shop logs errors in ([0-9.]+)% of [0-9]+ lines in 10s, above its limit of 5%", told)
    assert found, told
    assert 15 < float(found[1]) < 25
    assert seen.failed == 0, "users saw nothing of it"
    assert app.pods().keys() == app.pods("v1").keys()


def test_a_version_that_fails_after_its_promotion_is_brought_back(app: Played) -> None:
    with app.users(50) as users:
        change = app.start("v2", policy=WATCHED)
        app.wait(change, "Promoting", reason="Watching", within=LONG)
        fault(app, "error_ratio=0.5")
        done = app.wait(change, "RolledBack", within=LONG)
        since = datetime.now(UTC) + timedelta(seconds=1)
        time.sleep(4)
        seen = users.stop()
    assert done["cause"] in ("ErrorRate", "SLOBurn")
    assert done["rejected"]
    assert seen.failed > 0
    assert users.load.window(since).failed == 0
    live = app.live()
    assert live["spec"]["template"]["spec"]["containers"][0]["image"] == "shop:v1"
    assert not live["spec"].get("paused")
    assert live["status"]["readyReplicas"] == app.replicas
    assert app.pods().keys() == app.pods("v1").keys()
    assert app.leftovers() == []


def test_a_version_that_is_not_ready_any_more_after_its_promotion_is_brought_back(app: Played) -> None:
    change = app.start("v2", policy=WATCHED)
    app.wait(change, "Promoting", reason="Watching", within=LONG)
    fault(app, "never_ready=true")
    done = app.wait(change, "RolledBack", within=LONG)
    assert done["cause"] == "NotReady"
    assert app.live()["spec"]["template"]["spec"]["containers"][0]["image"] == "shop:v1"
    assert app.leftovers() == []
