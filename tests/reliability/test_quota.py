"""A cluster that has no room for the canary."""

from datetime import timedelta

from testbed.kills import BAKES, SCENARIOS, Arena
from testbed.laws import broken
from testbed.waiting import eventually

IMPATIENT = {"restartsMax": 1, "notReadyMax": "5s", "progressDeadline": "5s"}


def test_pods_that_a_quota_forbids_bring_the_change_back_and_it_is_said_why(arena: Arena) -> None:
    [play] = arena.set_up([SCENARIOS["complete"]])
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "full", "namespace": play.namespace},
        "spec": {"hard": {"pods": "2"}},
    }
    arena.bed.apply(quota)
    path = f"/api/v1/namespaces/{play.namespace}/resourcequotas/full"
    eventually(lambda: (arena.api.get(path) or {}).get("status", {}).get("used", {}).get("pods") == "2")
    with arena.policy(bakes=BAKES, health=IMPATIENT):
        change = play.ask("v2")
        eventually(lambda: play.phase(change) not in ("", "Waiting"), within=timedelta(seconds=20))
    eventually(play.over, within=timedelta(minutes=1))
    done = play.status(change)
    assert (done["phase"], done["cause"]) == ("RolledBack", "ProgressDeadline")
    assert "exceeded quota" in next(t["message"] for t in done["history"] if t["phase"] == "RollingBack")
    assert broken(arena.recorder.history([play.namespace])) == []
