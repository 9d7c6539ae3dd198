"""The shipped policies say what the process says."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.core.change import change_type
from controller.core.policy import ChangeType, LowTraffic, OnRollback, Policy, When, parse_policy

FOLDER = Path(__file__).parents[1] / "policies"
PRESETS = frozenset({"envoy", "pods"})

ENVOY_BUCKETS_MS = (0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000, 300000, 600000)
"""The first of Envoy's default histogram, as Envoy 1.40 shows them in /stats/prometheus."""
CLIENT_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""The defaults of the Prometheus client libraries."""


def manifest(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    return document


def policy(name: str) -> Policy:
    return parse_policy(manifest(name)["spec"], PRESETS)


@pytest.mark.parametrize(
    ("name", "bakes", "approvals"),
    [("standard", (5, 5, 10), 0), ("normal", (10, 10, 15), 1), ("emergency", (1, 1, 2), 1)],
)
def test_steps_bakes_and_approvals(name: str, bakes: tuple[int, ...], approvals: int) -> None:
    shipped = policy(name)
    assert [step.weight for step in shipped.steps] == [10, 50, 100]
    assert [step.bake for step in shipped.steps] == [timedelta(minutes=bake) for bake in bakes]
    assert shipped.approval.required == approvals


def test_the_approval_matrix_is_the_process() -> None:
    standard, normal, emergency = (policy(name) for name in ("standard", "normal", "emergency"))
    assert (standard.approval.required, standard.review.due_within) == (0, None), "automated; the audit log"
    assert (normal.approval.required, normal.approval.when, normal.approval.tests) == (1, When.BEFORE, True)
    assert (normal.approval.respond_within, normal.review.due_within) == (timedelta(hours=4), timedelta(weeks=1))
    assert (emergency.approval.required, emergency.approval.when) == (1, When.AFTER)
    assert (emergency.approval.notify_within, emergency.review.due_within) == (timedelta(hours=1), timedelta(hours=24))


@pytest.mark.parametrize("name", ChangeType)
def test_every_type_has_a_policy_of_its_name(name: ChangeType) -> None:
    document = manifest(name)
    assert document["apiVersion"] == "serin.dev/v1alpha1"
    assert document["kind"] == "ChangePolicy"
    assert document["metadata"] == {"name": name.value}


@pytest.mark.parametrize("name", ChangeType)
def test_the_rollback_criteria_are_those_of_the_process(name: ChangeType) -> None:
    shipped = policy(name)
    assert (shipped.error_rate.max, shipped.error_rate.sustained) == (0.01, timedelta(minutes=5))
    assert [slo.name for slo in shipped.slos] == ["availability", "latency"]
    assert {slo.sustained for slo in shipped.slos} == {timedelta(minutes=5)}
    availability, latency = shipped.slos
    assert availability.slower_than is None
    assert availability.bad_ratio_max == pytest.approx(0.0144)
    assert latency.slower_than == timedelta(seconds=1)
    assert latency.bad_ratio_max == pytest.approx(0.144)
    assert shipped.incidents.labels == {"severity": "P0"}
    assert shipped.low_traffic is LowTraffic.CONTINUE
    assert shipped.no_data_deadline == timedelta(minutes=30)
    assert shipped.on_rollback is OnRollback.HOLD


@pytest.mark.parametrize("name", ChangeType)
def test_slow_is_told_from_fast_at_the_edge_of_a_bucket(name: ChangeType) -> None:
    for slo in policy(name).slos:
        if slo.slower_than:
            assert slo.slower_than / timedelta(milliseconds=1) in ENVOY_BUCKETS_MS
            assert slo.slower_than.total_seconds() in CLIENT_BUCKETS_S


def test_a_healthy_normal_change_ends_within_45_minutes() -> None:
    shipped = policy("normal")
    rest = timedelta(minutes=45) - sum((step.bake for step in shipped.steps), timedelta()) - shipped.drain_max
    # What is left is for pods to get ready: the canary's at each step, and 10 replicas in 4 rounds of a quarter.
    assert rest / (len(shipped.steps) + 4) >= timedelta(minutes=1)


def test_a_change_that_names_no_type_is_a_normal_one() -> None:
    assert change_type({}) is ChangeType.NORMAL
