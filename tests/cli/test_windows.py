"""`kubectl serin windows`: the next openings, what is frozen, and whether a change fits."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.cli import windows
from controller.cli.policies import check
from controller.core.model import Phase, State, Strategy
from controller.core.windows import Opening
from testbed.bed import Bed
from tests.cli.conftest import Run, put
from tests.cli.journeys import TARGET

ROOT = Path(__file__).parents[2]
NAMESPACE = "cli-windows"
SYDNEY: dict[str, Any] = {
    "opens": [
        {
            "name": "first Sunday of the month",
            "rrule": "FREQ=MONTHLY;BYDAY=1SU",
            "start": "02:00",
            "duration": "2h",
            "zone": "Australia/Sydney",
        }
    ],
    "freezes": [
        {
            "reason": "end of the year",
            "owner": "Retail",
            "from": "2026-12-18T00:00:00Z",
            "until": "2027-01-04T00:00:00Z",
        }
    ],
}
"""Its openings in UTC: Saturdays from 15:00 to 17:00; longer and shorter by an hour when clocks are changed."""


def at(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc,arg-type]


@pytest.fixture(scope="module")
def cluster(control_plane: Bed) -> Iterator[Bed]:
    for plural in ("changerequests", "changepolicies"):
        control_plane.kubectl("apply", "--server-side", "-f", str(ROOT / f"manifests/crds/{plural}.yaml"))
        control_plane.await_crds()
    control_plane.kubectl("create", "namespace", NAMESPACE)
    policies(control_plane, SYDNEY)
    put(control_plane, "CHG-20261201-001", State(reason="AwaitingApproval", targets=(TARGET,)), NAMESPACE)
    put(control_plane, "CHG-20261201-002", State(phase=Phase.COMPLETED), NAMESPACE)
    put(control_plane, "CHG-20261201-003", State(reason="AwaitingApproval"), NAMESPACE, type="emergency")
    opening = Opening(at(2026, 12, 5, 15), at(2026, 12, 5, 17), "first Sunday of the month", "Australia/Sydney")
    running = State(phase=Phase.PROGRESSING, started_at=at(2026, 12, 5, 15, 5), window=opening)
    put(control_plane, "CHG-20261201-004", running, NAMESPACE)
    put(control_plane, "CHG-20261201-006", State(revert=True, targets=(TARGET,)), NAMESPACE)
    yield control_plane
    control_plane.kubectl("delete", "chg", "--all", "-n", NAMESPACE)
    control_plane.kubectl("delete", "chgp", "standard", "emergency")
    control_plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "policies/normal.yaml"))


def policies(bed: Bed, window: dict[str, Any]) -> None:
    shipped = [yaml.safe_load((ROOT / f"policies/{kind}.yaml").read_text()) for kind in ("standard", "emergency")]
    normal = yaml.safe_load((ROOT / "policies/normal.yaml").read_text())
    normal["spec"]["window"] = window
    for manifest in (*shipped, normal):
        bed.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=json.dumps(manifest))


@pytest.fixture
def now(cluster: Bed, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig()))
    clock(monkeypatch, at(2026, 11, 23, 8))
    return monkeypatch


def clock(monkeypatch: pytest.MonkeyPatch, moment: datetime) -> None:
    monkeypatch.setattr(windows, "now", lambda: moment)


def test_the_next_openings_by_the_wall_and_in_utc(now: pytest.MonkeyPatch, run: Run) -> None:
    code, out, err = run("windows", "--type", "normal", "--count", "4")
    assert (code, err) == (0, "")
    assert [line.rstrip() for line in out.splitlines()] == [
        "normal changes start where they find 1h20m30s in one piece",
        "OPEN                                     UTC                                LASTS              START BY        WINDOW",  # noqa: E501
        "Sun 2026-12-06 02:00 to 04:00 AEDT       Sat 2026-12-05 15:00 to 17:00 UTC  2h                 Sun 02:39 AEDT  first Sunday of the month",  # noqa: E501
        "Sun 2027-02-07 02:00 to 04:00 AEDT       Sat 2027-02-06 15:00 to 17:00 UTC  2h                 Sun 02:39 AEDT  first Sunday of the month",  # noqa: E501
        "Sun 2027-03-07 02:00 to 04:00 AEDT       Sat 2027-03-06 15:00 to 17:00 UTC  2h                 Sun 02:39 AEDT  first Sunday of the month",  # noqa: E501
        "Sun 2027-04-04 02:00 AEDT to 04:00 AEST  Sat 2027-04-03 15:00 to 18:00 UTC  3h, clocks change  Sun 02:39 AEST  first Sunday of the month",  # noqa: E501
        "",
        "FROZEN                                             UTC                                               REASON           OWNER",  # noqa: E501
        "Fri 2026-12-18 11:00 to Mon 2027-01-04 11:00 AEDT  Fri 2026-12-18 00:00 to Mon 2027-01-04 00:00 UTC  end of the year  Retail",  # noqa: E501
    ]  # fmt: skip


def test_all_types_are_shown_when_none_is_named(now: pytest.MonkeyPatch, run: Run) -> None:
    out = run("windows").out
    assert "standard changes start where they find 50m30s in one piece\nAt any time\n" in out
    assert "normal changes start where they find 1h20m30s" in out
    assert "emergency changes: as needed: no window and no freeze binds an emergency" in out


def test_an_opening_in_progress_may_be_too_late(now: pytest.MonkeyPatch, run: Run) -> None:
    clock(now, at(2026, 12, 5, 16))
    assert "04:00 AEDT (now)" in (row := run("windows", "--type", "normal").out.splitlines()[2])
    assert "too late" in row


@pytest.mark.parametrize(
    ("moment", "code", "said"),
    [
        (
            at(2026, 12, 5, 15, 30),
            0,
            "it may start: first Sunday of the month, which ends at Sun 2026-12-06 04:00 AEDT",
        ),
        (at(2026, 12, 5, 16), 5, "OutsideWindow: what starts now has to be done by Sun 2026-12-06 04:00 AEDT"),
        (at(2026, 11, 23), 5, "OutsideWindow: no window is open; this needs 1h20m30s; next opening: first Sunday"),
        (at(2026, 12, 20), 5, "Frozen: frozen until Mon 2027-01-04 11:00 AEDT (00:00 UTC) by Retail: end of the year"),
    ],
)
def test_whether_a_change_fits(now: pytest.MonkeyPatch, run: Run, moment: datetime, code: int, said: str) -> None:
    clock(now, moment)
    ended = run("windows", "--for", "CHG-20261201-001", "-n", NAMESPACE)
    assert ended.code == code
    assert ended.out.splitlines()[-1].startswith(f"CHG-20261201-001: {said}")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("CHG-20261201-002", "it has ended"),
        ("CHG-20261201-003", "as needed: no window and no freeze binds an emergency"),
        (
            "CHG-20261201-004",
            "it started at Sun 2026-12-06 02:05 AEDT (Sat 2026-12-05 15:05 UTC), "
            "in an opening until Sun 2026-12-06 04:00 AEDT (Sat 2026-12-05 17:00 UTC)",
        ),
        ("CHG-20261201-006", "it goes back to a revision that is known: no window and no freeze binds it"),
    ],
)
def test_what_no_window_holds_back(now: pytest.MonkeyPatch, run: Run, change: str, said: str) -> None:
    ended = run("windows", "--for", change, "-n", NAMESPACE)
    assert (ended.code, ended.out.splitlines()[-1]) == (0, f"{change}: {said}")


def test_a_change_that_fits_into_no_opening(now: pytest.MonkeyPatch, cluster: Bed, run: Run) -> None:
    policies(cluster, {"opens": [SYDNEY["opens"][0] | {"duration": "45m"}]})
    code, out, _ = run("windows", "--for", "CHG-20261201-001", "-n", NAMESPACE)
    # A rolling update in place of a canary needs 25 minutes.
    put(cluster, "CHG-20261201-005", State(targets=(replace(TARGET, strategy=Strategy.NATIVE),)), NAMESPACE)
    native = run("windows", "--for", "CHG-20261201-005", "-n", NAMESPACE)
    policies(cluster, SYDNEY)
    assert code == 6
    assert "too short" in out
    assert "NoOpening: no opening of the next two years has the 1h20m30s that this needs; the longest lasts 45m" in out
    assert native.code == 5
    assert "this needs 25m" in native.out


def test_programs_get_json(now: pytest.MonkeyPatch, run: Run) -> None:
    document = json.loads(
        run("windows", "--for", "CHG-20261201-001", "-n", NAMESPACE, "--count", "1", "-o", "json").out
    )
    assert document == {
        "types": [
            {
                "type": "normal",
                "bound": True,
                "needs": "1h20m30s",
                "onClose": "finish",
                "openings": [
                    {
                        "name": "first Sunday of the month",
                        "zone": "Australia/Sydney",
                        "start": "2026-12-05T15:00:00.000Z",
                        "end": "2026-12-05T17:00:00.000Z",
                        "localStart": "2026-12-06T02:00:00+11:00",
                        "localEnd": "2026-12-06T04:00:00+11:00",
                        "startBy": "2026-12-05T15:39:30.000Z",
                        "longEnough": True,
                    }
                ],
                "freezes": [
                    {
                        "start": "2026-12-18T00:00:00.000Z",
                        "end": "2027-01-04T00:00:00.000Z",
                        "reason": "end of the year",
                        "owner": "Retail",
                    }
                ],
            }
        ],
        "change": {
            "changeId": "CHG-20261201-001",
            "heldBack": True,
            "reason": "OutsideWindow",
            "message": "no window is open; this needs 1h20m30s; next opening: first Sunday of the month, "
            "Sun 2026-12-06 02:00 to 04:00 AEDT (Sat 2026-12-05 15:00 to 17:00 UTC)",
            "startAt": "2026-12-05T15:00:00.000Z",
        },
    }
    anytime = yaml.safe_load(run("windows", "--type", "standard", "-o", "yaml").out)["types"][0]
    assert [(o["end"], o["longEnough"]) for o in anytime["openings"]] == [(None, True)]


def test_what_cannot_be_shown_is_said(now: pytest.MonkeyPatch, cluster: Bed, run: Run) -> None:
    code, _, err = run("windows", "--for", "CHG-20261201-001", "-n", NAMESPACE, "--type", "standard")
    assert code == 2
    assert "is of type normal" in err
    assert run("windows", "--for", "CHG-20261201-099", "-n", NAMESPACE).code == 1
    cluster.kubectl("delete", "chgp", "standard")
    missing = run("windows")
    policies(cluster, {"opens": [SYDNEY["opens"][0] | {"rrule": "FREQ=HOURLY"}]})
    hourly = run("windows", "--type", "normal")
    policies(cluster, SYDNEY)
    assert (missing.code, missing.err) == (
        1,
        "error: there is no ChangePolicy standard: kubectl apply --server-side -k policies/\n",
    )
    assert hourly.code == 1
    assert (
        "error: ChangePolicy normal: spec.window.opens[0].rrule is 'FREQ=HOURLY': write FREQ= with one of" in hourly.err
    )


def test_kubectl_and_the_plugin_read_unquoted_times_alike(cluster: Bed, tmp_path: Path) -> None:
    text = (ROOT / "policies/normal.yaml").read_text().replace('start: "02:00"', "start: 22:30")
    text = text.replace("zone: UTC", "since: 2026-11-23\n      zone: UTC")
    (path := tmp_path / "normal.yaml").write_text(text)
    applied = cluster.kubectl("apply", "--dry-run=server", "-f", str(path), "-o", "json")
    stored = json.loads(applied)["spec"]["window"]["opens"][0]
    assert (stored["start"], stored["since"]) == ("22:30", "2026-11-23")
    (found,) = check(path, at(2026, 11, 23))
    assert found.good, found.text
    assert "Sun 2026-12-06 22:30 to Mon 2026-12-07 00:30 UTC" in found.text
