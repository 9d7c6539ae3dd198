"""The canary beside stable on a real gateway and a real Prometheus: the process's five minutes are not waited for."""

import time
from datetime import datetime, timedelta
from typing import Any

from tests.e2e.conftest import Played

LONG = timedelta(seconds=180)
AS_THE_PROCESS_SAYS = {
    "analysis": {"statistical": "on"},
    "errorRate": {"max": "1%", "window": "1m", "sustained": "5m"},
    "slos": [],
}
STEPS = [{"weight": weight, "bake": "60s"} for weight in (10, 50, 100)]


def moment(status: dict[str, Any], phase: str) -> datetime:
    return next(datetime.fromisoformat(r["at"]) for r in status["history"] if r["phase"] == phase)


def compared(status: dict[str, Any]) -> dict[str, Any]:
    return next(dict(e) for e in status["evidence"] if e["rule"] == "errors-vs-stable")


def test_a_fifth_of_the_requests_failing_is_found_in_seconds(app: Played) -> None:
    with app.users(100) as users:
        change = app.start(
            "v2",
            policy=AS_THE_PROCESS_SAYS | {"steps": STEPS},
            ERROR_RATIO="0.2",
        )
        done = app.wait(change, "RolledBack", within=LONG)
        seen = users.stop()
    assert (done["cause"], done["rejected"]) == ("WorseThanStable", True)
    assert moment(done, "RollingBack") - moment(done, "Progressing") < timedelta(seconds=40)
    evidence = compared(done)
    assert evidence["verdict"] == "FAIL"
    assert "a good canary looks like this in less than 1 of 143 rollouts" in evidence["message"]
    assert evidence["bad"] >= 5
    assert evidence["stableRequests"] > 5 * evidence["requests"] > 0
    assert 0 < seen.failed < 100
    assert app.weights() == {"shop": 1}


def test_a_version_that_fails_as_often_as_stable_is_not_found_worse(app: Played) -> None:
    app.begin("v1", ERROR_RATIO="0.05")
    with app.users(100):
        lenient = {"analysis": {"statistical": "on"}, "errorRate": {"max": "50%"}, "slos": []}
        change = app.start("v2", policy=lenient, ERROR_RATIO="0.05")
        done = app.wait(change, "Completed", within=LONG)
    assert compared(done)["verdict"] in ("PASS", "INCONCLUSIVE")
    assert not any(c.get("failedAt") for c in done["comparisons"])


def test_answers_that_are_slower_than_stables_are_found_though_no_objective_is_missed(app: Played) -> None:
    with app.users(100) as users:
        time.sleep(10)  # stable has a past
        change = app.start("v2", policy=AS_THE_PROCESS_SAYS | {"steps": STEPS}, LATENCY="40ms")
        done = app.wait(change, "RolledBack", within=LONG)
        seen = users.stop()
    assert done["cause"] == "WorseThanStable"
    found = next(e for e in done["evidence"] if e["rule"] == "latency-vs-stable")
    assert found["verdict"] == "FAIL"
    assert " slower than " in found["message"]
    assert seen.failed == 0
