"""No controller in the middle of a change: the split stays as it is, capacity follows, and nothing new gets out.

Its hour is played in virtual time (tests/simulation/test_absence.py); that an alert fires is seen in
tests/e2e/test_c_dashboard.py, that the clock of a breach goes on over a restart in tests/e2e/test_journeys.py.
"""

import time
from datetime import timedelta

import pytest

from testbed.errors import BedError
from testbed.kills import LEASE, SCENARIOS, Arena
from testbed.laws import broken
from testbed.waiting import eventually
from tests.reliability.test_prometheus_faults import HOUR

LONG = timedelta(minutes=2)
ABSENCE = 15.0


def test_a_new_process_takes_a_bake_up_where_it_was(arena: Arena) -> None:
    """It has seen neither the route's acceptance nor a measurement, and says nothing of either."""
    [play] = arena.set_up([SCENARIOS["complete"]])
    with arena.policy(bakes=(HOUR, HOUR, HOUR)):
        change = play.ask("v2")
        arena.go_on([], lambda: play.status(change).get("reason") == "Baking", LONG)
    settled, told = play.status(change)["settledAt"], len(arena.recorder.history([play.namespace]))
    for _ in range(3):
        before = leader(arena)
        arena.controller.kill()
        arena.go_on([], lambda before=before: leader(arena) not in ("", before), LONG)  # type: ignore[misc]
        time.sleep(2)
    since = [v.object["status"] for v in arena.recorder.history([play.namespace])[told:] if v.kind == "ChangeRequest"]
    assert {status.get("settledAt") for status in since} <= {settled}
    assert {status["reason"] for status in since} <= {"Baking", "Judged"}
    play.roll_back(change)
    arena.go_on([], play.over, LONG)


def leader(arena: Arena) -> str:
    return str((arena.api.get(LEASE) or {}).get("spec", {}).get("holderIdentity") or "")


def test_without_a_controller_the_split_stays_and_nothing_new_is_exposed(arena: Arena) -> None:
    [play] = arena.set_up([SCENARIOS["rollback-at-50"]])
    with arena.policy(bakes=(HOUR, HOUR, HOUR)):
        change = play.ask("v2")
        arena.go_on([], lambda: play.status(change).get("reason") == "Baking", LONG)
    [app] = play.apps
    arena.controller.kill()
    began = time.monotonic()
    # The autoscaler goes on: what is asked of stable comes, of the stable revision alone.
    path = f"/apis/autoscaling/v2/namespaces/{play.namespace}/horizontalpodautoscalers/{app.name}"
    code, _ = arena.api.ask("PATCH", path, {"spec": {"minReplicas": 3}})
    assert code == 200
    eventually(lambda: play.deployment()["status"].get("readyReplicas") == 3, within=timedelta(seconds=40))
    # A new template is refused, and an Emergency is held: neither gets a pod.
    with pytest.raises(BedError, match="is running on this Deployment"):
        play.ask("v3")
    play.ask("v4", kind="emergency", user="admin")
    time.sleep(max(0.0, ABSENCE - (time.monotonic() - began)))
    assert play.weight() == 10
    pods = arena.api.get(f"/api/v1/namespaces/{play.namespace}/pods")
    assert pods is not None
    images = [
        pod["spec"]["containers"][0]["image"] for pod in pods["items"] if "deletionTimestamp" not in pod["metadata"]
    ]
    assert sorted(images) == ["shop:v1", "shop:v1", "shop:v1", "shop:v2"]
    # Whoever comes takes up all of it: the Emergency supersedes what ran.
    arena.go_on([], play.over, LONG)
    assert [play.phase(change) for change in play.changes] == ["Superseded", "Completed"]
    assert broken(arena.recorder.history([play.namespace])) == []
