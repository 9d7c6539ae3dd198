"""The audit trail of a real controller on a real cluster: killed, verified, edited, and outliving its namespace."""

import json
import subprocess
import sys
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from testbed import stage
from testbed.waiting import eventually
from tests.e2e.conftest import Played

LONG = timedelta(seconds=90)
QUICK = timedelta(seconds=30)


def audit(app: Played, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`kubectl serin audit`, as the admin."""
    command = [sys.executable, "-m", "controller.cli", "audit", *arguments, "--kubeconfig", str(app.bed.kubeconfig())]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def logs(app: Played) -> list[str]:
    """Of every controller of this bed."""
    return [f"--file={path}" for path in sorted(app.bed.directory.glob("*.audit.jsonl"))]


def records(app: Played, change: str) -> list[dict[str, Any]]:
    lines = stage.audit_file(app.bed).read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["change"] == change]


@pytest.mark.alone
def test_the_trail_of_a_killed_controller_is_whole_and_outlives_the_namespace(app: Played, tmp_path: Path) -> None:
    steps = {"steps": [{"weight": w, "bake": "2s"} for w in (10, 50, 100)], "minRequests": 0}
    good = app.start("v2", policy=steps)
    for phase in ("Progressing", "Promoting"):
        app.wait(good, phase, within=LONG)
        app.serin.controller.kill()
        app.serin.controller.start()
    done = app.wait(good, "Completed", within=LONG)
    bad = app.start("v3", policy=steps, CRASH_AFTER="1s")
    app.serin.controller.kill()
    app.serin.controller.start()
    back = app.wait(bad, "RolledBack", within=LONG)
    for change, status in ((good, done), (bad, back)):
        eventually(lambda c=change, s=status: len(records(app, c)) >= s["audit"]["seq"], within=QUICK)  # type: ignore[misc]
        told = [(r["what"]["phase"], r["what"].get("stage"), r["at"]) for r in records(app, change) if is_move(r)]
        assert told == [(t["phase"], t.get("stage"), t["at"]) for t in status["history"]]
        assert records(app, change)[0]["what"]["requestedBy"] == "alice"
    writes = Counter(r["what"]["write"] for r in records(app, good) if r["kind"] == "write")
    assert writes["CreateCanary"] == writes["Promote"] == 1
    assert writes["Shift"] >= 4

    anchors = f"--anchors={app.bed.directory / 'audit.log'}"
    verified = audit(app, "verify", *logs(app), "--cluster", "-n", app.namespace, anchors)
    assert verified.returncode == 0, verified.stdout
    assert "the log is whole" in verified.stdout

    path = tmp_path / "edited.jsonl"
    path.write_text(stage.audit_file(app.bed).read_text().replace('"requestedBy":"alice"', '"requestedBy":"carol"', 1))
    edited = audit(app, "verify", f"--file={path}")
    assert (edited.returncode, edited.stdout.count("Edited")) == (1, 1)
    cut = [line for line in stage.audit_file(app.bed).read_text().splitlines() if json.loads(line)["change"] != bad]
    path.write_text("\n".join(cut) + "\n")
    assert audit(app, "verify", f"--file={path}", "--cluster", "-n", app.namespace).returncode == 1
    assert bad in audit(app, "verify", f"--file={path}", anchors).stdout

    app.bed.kubectl("delete", "namespace", app.namespace, "--wait=true", "--timeout=60s")
    exported = json.loads(audit(app, "export", *logs(app)).stdout)
    rows = {row["change"]: row for row in exported}
    assert (rows[good]["outcome"], rows[bad]["outcome"]) == ("Completed", "RolledBack")
    assert audit(app, "verify", *logs(app), anchors).returncode == 0


def is_move(record: dict[str, Any]) -> bool:
    return bool(record["kind"] == "transition")


@pytest.mark.alone
def test_a_namespace_that_is_deleted_while_a_change_runs_leaves_the_end_of_it_in_the_trail(app: Played) -> None:
    change = app.start("v2", policy={"steps": [{"weight": w, "bake": "20s"} for w in (10, 50, 100)]})
    app.bed.kubectl("delete", "namespace", app.namespace, "--wait=true", "--timeout=90s")
    ends = [r for r in records(app, change) if is_move(r) and r["what"]["phase"] in stage.TERMINAL]
    assert len(ends) == 1
    assert audit(app, "verify", *logs(app)).returncode == 0
