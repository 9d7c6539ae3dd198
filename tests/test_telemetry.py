"""One line a decision, and series that come and go with their change."""

import io
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import structlog

from controller.core.codec import Ratio, encode
from controller.core.model import (
    Change,
    Comparison,
    Evidence,
    Measurements,
    Observation,
    Phase,
    Route,
    RouteOriginal,
    Seen,
    Stage,
    State,
    Target,
    Told,
    Verdict,
)
from controller.core.notices import DECLARED
from controller.core.policy import Approval, ChangeType, Policy, Slo, Step, When
from controller.core.samples import Arm, Sample
from controller.core.sequential import Monitor
from controller.core.slo import Breach
from controller.settings import LogFormat, LogLevel
from controller.telemetry import ENDED_KEPT, Telemetry, configure_logs

NOW = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)
CHANGE = Change("shop", "chg-20261123-001", "CHG-20261123-001", ChangeType.NORMAL, deployments=("shop",))
PASSING = Evidence("error-rate", "shop", Verdict.PASS, "0%", "1%", "error-rate: shop fails 0% of 100 requests", 100)
RUNNING = State(
    phase=Phase.PROGRESSING,
    step=2,
    weight=50,
    reason="Baking",
    message="50 % until 08:10:00 UTC",
    started_at=NOW,
    targets=(Target("shop", "uid", "0123456789"),),
    evidence=(PASSING,),
)
ROLLED_BACK = replace(
    RUNNING,
    phase=Phase.ROLLING_BACK,
    stage=Stage.RETURN,
    weight=0,
    reason="ErrorRate",
    cause="ErrorRate",
    message="error-rate: shop fails 20% of 100 requests",
    evidence=(PASSING, replace(PASSING, rule="latency", verdict=Verdict.FAIL, value="20%", threshold="14.4%")),
)


@contextmanager
def capture(form: LogFormat) -> Iterator[io.StringIO]:
    stream = io.StringIO()
    before = logging.root.handlers[:], logging.root.level
    configure_logs(LogLevel.INFO, form, stream)
    yield stream
    logging.captureWarnings(False)
    logging.root.handlers[:], logging.root.level = before
    structlog.reset_defaults()


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    with capture(LogFormat.JSON) as stream:
        yield stream


def read(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def observe(*weights: int | None, measurements: Measurements | None = None) -> Observation:
    original = RouteOriginal("HTTPRoute", "shop", "shop", ())
    routes = tuple(Route(f"HTTPRoute/shop/{i}", w, False, True, original) for i, w in enumerate(weights))
    return Observation(CHANGE, {"shop": Seen(None, routes=routes)}, None, measurements=measurements)


def series(telemetry: Telemetry, name: str) -> dict[str, float]:
    """The series of a metric: their labels as text, less namespace and change, to the value."""
    return {
        ",".join(f"{k}={v}" for k, v in sample.labels.items() if k not in ("namespace", "change")): sample.value
        for metric in telemetry.registry.collect()
        for sample in metric.samples
        if sample.name == name
    }


# --- Logs ---


def test_a_decision_is_one_line_with_every_key(lines: io.StringIO) -> None:
    Telemetry().decision(CHANGE, State(), RUNNING, observe(50))
    (line,) = read(lines)
    assert datetime.fromisoformat(line.pop("at")).tzinfo == UTC
    assert line == {
        "event": "decision",
        "level": "info",
        "change": "CHG-20261123-001",
        "namespace": "shop",
        "workload": "shop",
        "revision": "0123456789",
        "phase": "Progressing",
        "stage": None,
        "step": 2,
        "weight": 50,
        "verdict": "PASS",
        "reason": "Baking",
        "rule": "error-rate",
        "value": "0%",
        "threshold": "1%",
        "evidence": encode(PASSING),
        "message": "50 % until 08:10:00 UTC",
    }


def test_a_rollback_is_a_warning_that_names_the_failed_rule(lines: io.StringIO) -> None:
    Telemetry().decision(CHANGE, RUNNING, ROLLED_BACK, observe(50))
    (line,) = read(lines)
    keys = ("level", "verdict", "rule", "value", "threshold", "stage")
    assert [line[key] for key in keys] == ["warning", "FAIL", "latency", "20%", "14.4%", "Return"]


@pytest.mark.parametrize(
    "moving",
    [
        {"measured_at": NOW},
        {"message": "50 % until 08:10:01 UTC"},
        {"evidence": (replace(PASSING, value="0.1%", requests=200, data_at=NOW),)},
        {"breaches": (Breach("error-rate", "shop", timedelta(seconds=5)),)},
    ],
)
def test_what_moves_at_every_look_is_no_line(lines: io.StringIO, moving: dict[str, Any]) -> None:
    telemetry = Telemetry()
    telemetry.decision(CHANGE, RUNNING, replace(RUNNING, **moving), observe(50))
    assert read(lines) == []
    assert series(telemetry, "serin_decisions_total") == {}


@pytest.mark.parametrize(
    "telling",
    [{"reason": "NoData"}, {"weight": 100, "step": 2}, {"evidence": (replace(PASSING, verdict=Verdict.INCONCLUSIVE),)}],
)
def test_what_an_sre_wants_to_know_is_a_line(lines: io.StringIO, telling: dict[str, Any]) -> None:
    Telemetry().decision(CHANGE, RUNNING, replace(RUNNING, **telling), observe(50))
    assert len(read(lines)) == 1


def test_a_change_without_targets_yet_names_the_deployments_that_it_asks_for(lines: io.StringIO) -> None:
    change = replace(CHANGE, deployments=("shop", "cart"), type=None)
    Telemetry().decision(change, State(), State(reason="UnknownType", message="write …"), Observation(change, {}, None))
    (line,) = read(lines)
    assert (line["workload"], line["verdict"], line["rule"]) == ("shop,cart", None, None)


def test_text_from_outside_is_escaped(lines: io.StringIO) -> None:
    evil = 'red \x1b[31m, turned \u202e, new\nline, "quoted", {job="x"} → ü'
    Telemetry().decision(CHANGE, State(), replace(RUNNING, message=evil), observe(50))
    assert "\u202e" not in lines.getvalue()
    (line,) = read(lines)
    assert line["message"] == 'red \\x1b[31m, turned \\u202e, new\\nline, "quoted", {job="x"} → ü'


def test_lines_of_libraries_and_warnings_are_json_too(lines: io.StringIO) -> None:
    logging.getLogger("aiohttp.server").error("bad %s", "request\n")
    logging.getLogger("asyncio").debug("not shown")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", UserWarning, stacklevel=1)
    library, warning = read(lines)
    assert (library["event"], library["level"]) == ("bad request\\n", "error")
    assert "UserWarning: old" in warning["event"]


def test_a_traceback_keeps_its_lines_but_not_what_is_in_them(lines: io.StringIO) -> None:
    try:
        raise ValueError("\u202e")
    except ValueError:
        structlog.get_logger().exception("work_failed", key="shop/x")
    (line,) = read(lines)
    assert line["exception"].startswith("Traceback (most recent call last):\n")
    assert line["exception"].endswith("ValueError: \\u202e")


def test_logs_for_people_are_not_json() -> None:
    with capture(LogFormat.CONSOLE) as stream:
        structlog.get_logger().info("decision", message="10 %\x1b[0m")
    assert "decision" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


# --- Metrics ---


@pytest.fixture
def telemetry(lines: io.StringIO) -> Telemetry:
    return Telemetry(lambda: NOW)


def test_only_the_current_phase_is_one(telemetry: Telemetry) -> None:
    telemetry.decision(CHANGE, State(), RUNNING, observe(50))
    telemetry.decision(CHANGE, RUNNING, ROLLED_BACK, observe(50))
    phases = series(telemetry, "serin_change_phase")
    assert len(phases) == len(Phase)
    assert [labels for labels, value in phases.items() if value] == ["type=normal,phase=RollingBack"]


def test_the_reason_is_the_newest_one(telemetry: Telemetry) -> None:
    telemetry.decision(CHANGE, State(), State(), observe())
    assert series(telemetry, "serin_change_reason") == {}
    telemetry.decision(CHANGE, State(), RUNNING, observe(50))
    telemetry.decision(CHANGE, RUNNING, ROLLED_BACK, observe(50))
    assert series(telemetry, "serin_change_reason") == {"reason=ErrorRate": 1}


def test_step_and_weights(telemetry: Telemetry) -> None:
    telemetry.decision(CHANGE, State(), State(), observe())
    assert series(telemetry, "serin_change_step") == {"": 0}
    assert series(telemetry, "serin_change_weight_actual") == {}
    telemetry.decision(CHANGE, State(), RUNNING, observe(10, 50))
    assert series(telemetry, "serin_change_step") == {"": 2}
    assert series(telemetry, "serin_change_weight_desired") == {"": 50}
    assert series(telemetry, "serin_change_weight_actual") == {"target=shop": 50}


def test_a_weight_that_cannot_be_told_is_not_made_up(telemetry: Telemetry) -> None:
    telemetry.decision(CHANGE, State(), RUNNING, observe(50, None))
    assert series(telemetry, "serin_change_weight_actual") == {}


def test_ratios_and_breaches_are_of_the_newest_data(telemetry: Telemetry) -> None:
    arms = {
        ("shop", "error-rate", "canary"): Arm((Sample(NOW, 0, 10), Sample(NOW, 2, 10), Sample(NOW, 0, 0))),
        ("shop", "error-rate", "stable"): Arm((Sample(NOW, 0, 90),)),
        ("shop", "latency", "canary"): Arm((Sample(NOW, 0, 0),)),
    }
    state = replace(RUNNING, breaches=(Breach("error-rate", "shop", timedelta(seconds=90)),))
    telemetry.decision(CHANGE, State(), state, observe(50, measurements=Measurements(NOW, arms)))
    assert series(telemetry, "serin_measured_ratio") == {
        "target=shop,rule=error-rate,arm=canary": 0.2,
        "target=shop,rule=error-rate,arm=stable": 0,
    }
    assert series(telemetry, "serin_breach_seconds") == {"target=shop,rule=error-rate": 90}


def test_evidence_is_shown_beside_what_it_takes(telemetry: Telemetry) -> None:
    compared = Comparison("errors-vs-stable", "shop", (Monitor(NOW, capital=(20.0, 2.0), rest=0.5),))
    state = replace(RUNNING, comparisons=(compared,), policy=Policy((Step(100, timedelta()),)))
    telemetry.decision(CHANGE, State(), state, observe(50))
    assert series(telemetry, "serin_evidence") == {"target=shop,rule=errors-vs-stable": 22.5}
    assert series(telemetry, "serin_evidence_max") == {"rule=errors-vs-stable": pytest.approx(142.857, rel=1e-4)}


def test_limits_are_those_of_the_changes_own_policy_while_it_runs(telemetry: Telemetry) -> None:
    slo = Slo("latency", Ratio(0.99), burn_max=14.4, sustained=timedelta(minutes=2))
    state = replace(RUNNING, policy=Policy((Step(100, timedelta()),), slos=(slo,)))
    telemetry.decision(CHANGE, State(), state, observe(50))
    ratios = series(telemetry, "serin_measured_ratio_max")
    assert ratios == {"rule=error-rate": 0.01, "rule=latency": pytest.approx(0.144)}
    assert series(telemetry, "serin_breach_seconds_max") == {"rule=error-rate": 300, "rule=latency": 120}
    telemetry.decision(CHANGE, state, replace(state, phase=Phase.COMPLETED, ended_at=NOW), observe(0))
    assert series(telemetry, "serin_measured_ratio_max") == {}


def test_decisions_transitions_and_writes_are_counted(telemetry: Telemetry) -> None:
    telemetry.decision(CHANGE, State(), RUNNING, observe(50))
    telemetry.decision(CHANGE, RUNNING, replace(RUNNING, reason="NoData"), observe(50))
    telemetry.decision(CHANGE, RUNNING, ROLLED_BACK, observe(50))
    telemetry.write(CHANGE, "route", "weight 0", after_verdict=timedelta(milliseconds=300))
    telemetry.write(CHANGE, "clean", "canary deleted")
    assert series(telemetry, "serin_decisions_total") == {
        "phase=Progressing,reason=Baking": 1,
        "phase=Progressing,reason=NoData": 1,
        "phase=RollingBack,reason=ErrorRate": 1,
    }
    assert series(telemetry, "serin_transitions_total") == {
        "type=normal,phase=Progressing": 1,
        "type=normal,phase=RollingBack": 1,
    }
    assert series(telemetry, "serin_writes_total") == {"kind=route": 1, "kind=clean": 1}
    assert series(telemetry, "serin_first_write_seconds_sum") == {"": 0.3}


def test_the_process_tells_of_itself(telemetry: Telemetry) -> None:
    telemetry.leading(True)
    telemetry.prometheus_answers(False)
    telemetry.admission_found(True)
    telemetry.tasks(21)
    telemetry.reconciled(timedelta(milliseconds=20))
    body, content_type = telemetry.exposition()
    text = body.decode()
    assert content_type.startswith("text/plain")
    for line in (
        "serin_leader 1.0",
        "serin_prometheus_up 0.0",
        "serin_admission_up 1.0",
        "serin_tasks 21.0",
        "serin_reconcile_seconds_count 1.0",
    ):
        assert line in text
    assert 'serin_build_info{version="' in text
    assert "process_cpu_seconds_total" in text


def test_a_deleted_change_leaves_no_series(telemetry: Telemetry) -> None:
    telemetry.decision(CHANGE, State(), RUNNING, observe(50))
    assert b"CHG-20261123-001" in telemetry.exposition()[0]
    telemetry.forget(CHANGE.namespace, CHANGE.name)
    assert b"CHG-20261123-001" not in telemetry.exposition()[0]


def test_a_change_that_ended_is_shown_for_a_while(telemetry: Telemetry) -> None:
    ended = replace(ROLLED_BACK, phase=Phase.ROLLED_BACK, ended_at=NOW - ENDED_KEPT)
    telemetry.decision(CHANGE, RUNNING, ended, observe(0))
    assert b"CHG-20261123-001" in telemetry.exposition()[0]
    longer_ago = replace(ended, ended_at=NOW - ENDED_KEPT - timedelta(seconds=1))
    telemetry.decision(CHANGE, longer_ago, longer_ago, observe(0))
    assert b"CHG-20261123-001" not in telemetry.exposition()[0]


def test_two_processes_in_one_do_not_share_series() -> None:
    one, other = Telemetry(), Telemetry()
    one.leading(True)
    assert series(other, "serin_leader") == {"": 0}


# --- People ---


def test_a_missed_deadline_is_shown_as_long_as_it_is_missed_whenever_the_change_ended() -> None:
    emergency = Policy((Step(100, timedelta()),), approval=Approval(when=When.AFTER, notify_within=timedelta(hours=1)))
    declared = Told(DECLARED, "dev.serin.emergency.declared", NOW - timedelta(hours=1))
    state = replace(RUNNING, phase=Phase.COMPLETED, started_at=NOW, policy=emergency, told=(declared,), closed_at=NOW)
    state = replace(state, ended_at=NOW - ENDED_KEPT - timedelta(seconds=1))
    telemetry = Telemetry(lambda: NOW)
    telemetry.decision(CHANGE, state, state, observe(0))
    for _ in range(2):
        assert series(telemetry, "serin_deadline_overdue") == {"deadline=notification": 1}
    assert series(telemetry, "serin_change_step") == {}
    told = replace(state, notified_at=NOW)
    telemetry.decision(CHANGE, state, told, observe(0))
    assert series(telemetry, "serin_deadline_overdue") == {}


def test_sinks_are_counted_and_their_oldest_notice_is_asked_for_at_every_scrape() -> None:
    telemetry, age = Telemetry(), [timedelta(seconds=90)]
    telemetry.sink("chat", lambda: age[0])
    telemetry.notified("chat", "failed")
    telemetry.notified("chat", "delivered")
    telemetry.notified("chat", "delivered")
    assert series(telemetry, "serin_notifications_total") == {
        "sink=chat,outcome=failed": 1,
        "sink=chat,outcome=delivered": 2,
    }
    for age[0] in (timedelta(seconds=90), timedelta()):
        assert series(telemetry, "serin_notification_oldest_seconds") == {"sink=chat": age[0].total_seconds()}
