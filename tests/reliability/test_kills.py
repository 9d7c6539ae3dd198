"""SIGKILL between any two writes of a change, on a real API server: it ends as if nothing had happened.

`python -m benchmarks.kills` kills before and after every one, each in a run of its own or all of them in one.
"""

from datetime import timedelta

import pytest

from controller.core.proof import Anchor, verify
from testbed import stage
from testbed.kills import EVERY_OTHER, SCENARIOS, Arena, differences
from testbed.laws import broken

ENDS = {
    "complete": [("Completed", "")],
    "rollback-at-10": [("RolledBack", "RollbackRequested")],
    "rollback-at-50": [("RolledBack", "RollbackRequested")],
    "rollback-at-100": [("RolledBack", "RollbackRequested")],
    "rollback-in-promotion": [("RolledBack", "RollbackRequested")],
    "restore-in-promotion": [("RolledBack", "RollbackRequested")],
    "supersede": [("Superseded", "Superseded"), ("Completed", "")],
    "supersede-before-the-start": [("Superseded", "Superseded"), ("Completed", "")],
    "first-deployment": [("Completed", "")],
    "group-of-two": [("Completed", "")],
}


@pytest.mark.timeout(900)
def test_killed_between_any_two_writes_each_change_ends_as_it_would_have(arena: Arena) -> None:
    scenarios = list(SCENARIOS.values())
    golden = arena.play(scenarios)
    for scenario, ended in zip(scenarios, golden, strict=True):
        assert [(c["phase"], c["cause"]) for c in ended.changes] == ENDS[scenario.name], scenario.name
        assert ended.deaths == 0
        assert len(ended.writes) >= 10, scenario.name
    killed = arena.play(scenarios, EVERY_OTHER, within=timedelta(minutes=8))
    for scenario, before, after in zip(scenarios, golden, killed, strict=True):
        assert differences(before, after) == [], scenario.name
        assert after.deaths >= len(after.writes) >= 10, scenario.name


def test_what_was_seen_under_fire_broke_no_law(arena: Arena) -> None:
    assert broken(arena.recorder.history(arena.played)) == []


def test_the_audit_trail_is_whole(arena: Arena) -> None:
    lines = stage.audit_file(arena.bed).read_text().splitlines()
    anchors = [
        Anchor(
            r["spec"]["changeId"],
            v.namespace,
            r["metadata"]["uid"],
            r["status"]["audit"]["seq"],
            r["status"]["audit"]["hash"],
        )
        for v in arena.recorder.history(arena.played)
        if v.kind == "ChangeRequest" and not v.deleted and (r := v.object).get("status", {}).get("endedAt")
    ]
    assert len(anchors) > 20
    assert verify({"audit": lines}, anchors) == []
