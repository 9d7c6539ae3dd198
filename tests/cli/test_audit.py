"""`kubectl serin audit` over files: what it prints, and how it ends."""

import csv
import io
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from controller.cli.__main__ import app
from controller.core.audit import Head, Kind, Record, chain
from controller.errors import SerinError

ABOUT = {
    "at": "2026-11-23T08:00:00.000Z",
    "change": "CHG-20261123-001",
    "namespace": "demo",
    "policy": "p",
    "revision": "r",
    "uid": "u",
}
RECORDS = [
    Record(Kind.RECORDED, {"type": "normal", "requestedBy": "alice", "requesters": ["alice"], "description": "=1+1"}),
    Record(Kind.TRANSITION, {"phase": "Progressing", "reason": "Started", "at": ABOUT["at"]}),
    Record(Kind.TRANSITION, {"phase": "RolledBack", "reason": "ErrorRate", "at": "2026-11-23T09:00:00.000Z"}),
]
LINES = chain(Head(), ABOUT, RECORDS)[1]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "audit.jsonl"
    path.write_text("".join(f"{line}\n" for line in LINES))
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["audit", *map(str, arguments)])


def test_a_whole_log_is_said_to_be_whole_as_far_as_that_can_be_told(log: Path, tmp_path: Path) -> None:
    done = run("verify", "--file", log)
    assert (done.exit_code, done.output) == (
        0,
        "the log is whole: 3 records of 1 changes, 0 anchors; without anchors a cut tail cannot be seen\n",
    )
    anchors = tmp_path / "anchors"
    anchors.write_text(run("anchors", "--file", log).output)
    done = run("verify", "--file", log, "--anchors", anchors)
    assert (done.exit_code, done.output) == (0, "the log is whole: 3 records of 1 changes, 1 anchors\n")


def test_a_log_that_is_edited_or_cut_ends_with_1_and_names_the_place(log: Path, tmp_path: Path) -> None:
    anchors = tmp_path / "anchors"
    anchors.write_text(run("anchors", "--file", log).output)
    log.write_text("\n".join((LINES[0].replace("alice", "carol"), *LINES[1:])) + "\n")
    done = run("verify", "--file", log)
    assert done.exit_code == 1
    assert f"Edited      {log}:1: record 1 of CHG-20261123-001 is not what was written" in done.output
    log.write_text("\n".join(LINES[:2]) + "\n")
    assert run("verify", "--file", log).exit_code == 0
    done = run("verify", "--file", log, "--anchors", anchors)
    assert done.exit_code == 1
    assert "Cut         CHG-20261123-001: record 3 is not there" in done.output


def test_files_that_cannot_be_read_are_named(log: Path, tmp_path: Path) -> None:
    assert run("verify").exit_code == 2
    for arguments in (["verify", "--file", tmp_path / "none"], ["verify", "--file", log, "--anchors", log]):
        done = run(*arguments)
        assert done.exit_code == 1
        assert isinstance(done.exception, SerinError)
    done = run("export", "--file", log, "--from", "yesterday")
    assert done.exit_code == 2


def test_the_population_is_json_csv_and_the_records_themselves(log: Path) -> None:
    (row,) = json.loads(run("export", "--file", log).output)
    assert (row["change"], row["requestedBy"], row["outcome"], row["cause"]) == (
        "CHG-20261123-001",
        "alice",
        "RolledBack",
        "ErrorRate",
    )
    (cells,) = csv.DictReader(io.StringIO(run("export", "--file", log, "-o", "csv").output))
    assert cells["description"] == "'=1+1", "no spreadsheet takes it for a formula"
    assert run("export", "--file", log, "--file", log, "--records").output.splitlines() == list(LINES)
    for begin, end, there in (("2026-11-23", "2026-11-24", 1), ("2026-11-24", "2026-11-25", 0)):
        found = json.loads(run("export", "--file", log, "--from", begin, "--to", end).output)
        assert len(found) == there


def test_the_report_answers_from_files_without_a_cluster(log: Path) -> None:
    done = run("report", "--file", log)
    assert done.exit_code == 0
    assert done.output.startswith("1 changes: 0 standard, 1 normal, 0 emergency\n")
    assert "Rolled back, and why: 1\n  demo/CHG-20261123-001 (normal, asked by alice): ErrorRate" in done.output
    assert "Approved by who asked for them: none\n" in done.output
