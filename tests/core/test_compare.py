"""What is compared with stable: failed requests, the percentiles' edges, and what each SLO of the policy is about."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from controller.core import compare
from controller.core.blocks import BY_CHANCE, Counts, History
from controller.core.compare import ERRORS_VS_STABLE, LATENCY_VS_STABLE
from controller.core.judge import judge
from controller.core.model import (
    Change,
    Comparison,
    Measurements,
    Observation,
    Phase,
    State,
    Strategy,
    Target,
    Verdict,
)
from controller.core.policy import Analysis, ChangeType, Policy, Slo, Statistical, Step
from controller.core.samples import Arm, Sample
from controller.core.sequential import LATENCY, begin, observe

START = datetime(2026, 11, 23, 8, tzinfo=UTC)
EVERY = timedelta(seconds=15)
MS = timedelta(milliseconds=1)
AVAILABILITY = Slo("availability", 0.999, 14.4)  # type: ignore[arg-type]
FAST, USUAL = (Slo(name, 0.9, 1.0, edge * MS) for name, edge in (("fast", 100), ("usual", 250)))  # type: ignore[arg-type]
POLICY = Policy(steps=(Step(10, timedelta(minutes=10)), Step(100, timedelta(minutes=10))))
TARGET = Target("shop", "uid", "new", Strategy.CANARY, stable_revision="old", replicas=10)
CHANGE = Change("demo", "chg-20261123-001", "CHG-20261123-001", ChangeType.NORMAL)


def stable(bad: float, begins: int = -120, ends: int = 0, total: float = 675) -> Arm:
    """A scrape every 15 s, `bad` of each `total` being bad."""
    samples = tuple(Sample(START + n * EVERY, bad, total) for n in range(begins + 1, ends + 1))
    return Arm(samples, samples[-1].at if samples else None, EVERY)


def begun(
    *slos: Slo, profile: tuple[int, ...] = (25, 100, 500), mode: Statistical = Statistical.ON
) -> list[Comparison]:
    policy = replace(POLICY, slos=slos, analysis=Analysis(mode))
    arms = {("shop", name, "stable"): stable(3) for name in ("error-rate", *(slo.name for slo in slos))}
    profiles = {"shop": tuple(edge * MS for edge in profile)} if profile else {}
    measured = Measurements(START, arms, profiles=profiles)
    observation = Observation(CHANGE, {}, policy, measurements=measured)
    return list(compare.begin(State(targets=(TARGET,)), observation, policy, START))


def edges(comparisons: list[Comparison]) -> list[tuple[str, list[float]]]:
    return [(c.rule, [edge / MS for edge in c.edges]) for c in comparisons]


PERCENTILES = (LATENCY_VS_STABLE, [25, 100, 500])


@pytest.mark.parametrize(
    ("slos", "expected"),
    [
        ((), [(ERRORS_VS_STABLE, []), PERCENTILES]),
        ((AVAILABILITY,), [(ERRORS_VS_STABLE, []), PERCENTILES]),
        ((AVAILABILITY, FAST), [(ERRORS_VS_STABLE, []), PERCENTILES]),
        ((USUAL, FAST), [(ERRORS_VS_STABLE, []), (LATENCY_VS_STABLE, [25, 100, 500, 250])]),
        ((USUAL, replace(USUAL, name="again")), [(ERRORS_VS_STABLE, []), (LATENCY_VS_STABLE, [25, 100, 500, 250])]),
    ],
    ids=["no SLO", "failed requests are compared anyway", "the edge of a percentile", "its own edge", "an edge once"],
)
def test_each_slo_has_its_comparison_and_shares_that_of_the_same_requests(
    slos: tuple[Slo, ...], expected: list[tuple[str, list[float]]]
) -> None:
    assert edges(begun(*slos)) == expected


def test_an_slo_is_compared_where_nothing_is_known_of_percentiles() -> None:
    found = begun(USUAL, profile=())
    assert edges(found) == [(ERRORS_VS_STABLE, []), (LATENCY_VS_STABLE, [250])]
    assert begun(AVAILABILITY, profile=())[1:] == []


def test_an_edge_of_an_slo_begins_with_stables_past() -> None:
    (_, latency) = begun(USUAL)
    *percentiles, slo = latency.monitors
    assert {m.known for m in percentiles} == {Counts()}
    assert (slo.known, slo.spacing) == (Counts(360.0, 81_000.0), timedelta(seconds=10))
    assert slo.dispersion != BY_CHANCE


def test_off_compares_nothing() -> None:
    assert begun(USUAL, mode=Statistical.OFF) == []


def test_the_budget_of_latency_is_for_all_edges_together_and_an_slo_is_judged_like_p99() -> None:
    (_, latency) = begun(USUAL, FAST)
    policy = replace(POLICY, slos=(USUAL, FAST))
    about = compare.stakes(latency, policy)
    assert [terms.tolerated for terms in about] == [1.15, 1.5, 1.5, 1.5], "25, 100 (an SLO's too), 500, and 250"
    assert {terms.budget for terms in about} == {0.003}
    assert compare.stakes(latency, replace(policy, slos=(USUAL,)))[1] == LATENCY[1]
    (alone,) = compare.stakes(begun(USUAL, profile=())[1], policy)
    assert alone == LATENCY[2]


def test_margins_of_the_policy_are_about_failed_requests_alone() -> None:
    policy = replace(POLICY, slos=(USUAL,), analysis=Analysis(tolerated=3.0, slack=0.05))  # type: ignore[arg-type]
    errors, latency = (compare.stakes(c, policy) for c in begun(USUAL))
    assert (errors[0].tolerated, errors[0].slack) == (3.0, 0.05)
    assert [(t.tolerated, t.slack) for t in latency[:3]] == [(t.tolerated, t.slack) for t in LATENCY]


def test_what_misses_an_slo_more_than_stable_goes_back_though_no_limit_is_exceeded() -> None:
    """7 % slower than 250 ms are within the objective of 90 %, and stable has 0.4 %."""
    policy = replace(POLICY, slos=(USUAL,))
    state = State(
        phase=Phase.PROGRESSING, step=1, weight=10, targets=(TARGET,), comparisons=tuple(begun(USUAL)),
        entered_at=START, weighted_at=START, settled_at=START,
    )  # fmt: skip
    new, old = stable(5.25, 0, 12, 75), stable(3, 0, 12)
    slow, none = {"canary": new, "stable": old}, {"canary": stable(0, 0, 12, 75), "stable": old}
    asked = {"error-rate": none, "usual": slow, **{q.name: slow for q in compare.questions(state, "shop")}}
    arms = {("shop", name, side): arm for name, sides in asked.items() for side, arm in sides.items()}
    # The percentiles' edges are as ever.
    for name in ("slower-than-25ms", "slower-than-100ms", "slower-than-500ms"):
        arms["shop", name, "canary"] = stable(0, 0, 12, 75)
    now = START + 12 * EVERY
    judged = judge(state, Observation(CHANGE, {}, policy, measurements=Measurements(now, arms)), policy, now)
    found = {e.rule: e for e in judged.evidence}
    assert found["usual"].verdict is Verdict.PASS
    assert found["errors-vs-stable"].verdict is Verdict.PASS
    assert found["latency-vs-stable"].verdict is Verdict.FAIL
    assert (
        "shop answers 7% of 900 requests slower than 250ms, stable 0.44% of 8,100" in found["latency-vs-stable"].message
    )


def test_stable_that_nobody_knew_is_in_no_shock() -> None:
    """Percentiles' edges have no past: the first block with slow requests is nothing unheard-of."""
    fresh = observe(begin(History(), START), stable(0, 0, 4, 75), stable(300, 0, 4), START, LATENCY[0])
    assert not fresh.shocked
    known = begin(History(Counts(10.0, 100_000.0)), START)
    assert observe(known, stable(0, 0, 4, 75), stable(300, 0, 4), START, LATENCY[0]).shocked
