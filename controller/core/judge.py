"""The judgement, as the process states it: of each rule, a verdict and the numbers that it stands on."""

from dataclasses import dataclass, replace
from datetime import datetime

from controller.core import compare, sentences, slo
from controller.core.blocks import Counts
from controller.core.checks import low_traffic_until
from controller.core.codec import format_duration, format_ratio
from controller.core.decisions import hurried
from controller.core.model import (
    Evidence,
    Observation,
    Phase,
    Stage,
    State,
    Strategy,
    Target,
    Verdict,
)
from controller.core.policy import ChangeType, ErrorRate, LogErrors, LowTraffic, Policy, Rule
from controller.core.samples import Arm
from controller.core.sentences import percent
from controller.core.slo import Breach


@dataclass(frozen=True)
class Reading:
    """What there is to judge one rule of one Deployment by."""

    target: Target
    rule: Rule
    canary: Arm
    stable: Arm
    fresh: bool
    """The canary's metrics are new enough to be used."""
    breach: Breach
    """With all of the canary's samples taken in."""


def judge(state: State, observation: Observation, policy: Policy, now: datetime) -> State:
    """The state with the newest verdicts; without any before the canary has weight."""
    measured = observation.measurements
    exposed = [t for t in state.targets if state.weighted_at and (t.strategy is Strategy.CANARY or state.promoted)]
    readings = [_read(state, observation, policy, target, rule, now) for target in exposed for rule in policy.rules]
    # Until the first scrape after the step was set up, silence says nothing.
    early = state.settled_at is not None and now - state.settled_at <= policy.metrics.stale_after
    excused = early and measured is not None and not measured.problem
    blind = any(
        not r.fresh and not (excused and r.canary.fresh_at is None)
        for r in readings
        if r.target.strategy is Strategy.CANARY
    )
    waiting = state.settled_at is not None or state.phase is Phase.PROMOTING
    since = exposed_since(state) or now
    compared = tuple(c for t in exposed for c in compare.follow(state, observation, policy, t, since, now))
    told = [_evidence(state, observation, policy, r, now) for r in readings]
    seeing = {r.target.name for r in readings if r.rule.name == ErrorRate.name and r.fresh}
    problem = measured.problem if measured else ""
    told += [compare.evidence(c, policy, fresh=c.target in seeing, problem=problem) for c in compared]
    return replace(
        state,
        breaches=tuple(r.breach for r in readings),
        comparisons=compared if exposed else state.comparisons,
        evidence=tuple(told),
        measured_at=measured.taken_at if measured else state.measured_at,
        no_data_since=(state.no_data_since or now) if blind and waiting else None,
    )


def _read(state: State, observation: Observation, policy: Policy, target: Target, rule: Rule, now: datetime) -> Reading:
    measured, since = observation.measurements, exposed_since(state)
    assert since is not None
    canary, stable = compare.arms_of(state, target.name, rule.name, observation.arms, since)
    known = next((b for b in state.breaches if (b.rule, b.target) == (rule.name, target.name)), None)
    stale_after = policy.metrics.stale_after
    return Reading(
        target=target,
        rule=rule,
        canary=canary,
        stable=stable,
        fresh=measured is not None and not measured.problem and slo.fresh(canary, now, stale_after),
        breach=slo.extend(
            known or Breach(rule.name, target.name, last_at=since),
            canary,
            ratio_max=rule.bad_ratio_max,
            window=rule.window,
            gap_max=stale_after,
        ),
    )


def exposed_since(state: State) -> datetime | None:
    """When the pods that are judged first had traffic; None: they have none yet."""
    return state.entered_at if state.stage is Stage.WATCH else state.weighted_at


def _evidence(state: State, observation: Observation, policy: Policy, r: Reading, now: datetime) -> Evidence:
    since = state.settled_at or state.entered_at or now
    canary, stable = (Counts(*slo.counts(arm, since)) for arm in (r.canary, r.stable))
    at, rule = r.breach.last_at or now, r.rule
    lately, stable_lately = (Counts(*slo.window(arm.samples, at, rule.window)) for arm in (r.canary, r.stable))
    known = next((e for e in state.evidence if (e.rule, e.target) == (rule.name, r.target.name)), None)
    had = sentences.share(stable_lately) if stable_lately.total else known.stable if known else None
    compared = had if state.stage is Stage.WATCH else stable_lately.ratio if stable_lately.total else None
    spared = compared is not None and compared >= lately.ratio
    verdict, why = _verdict(state, observation, policy, r, now, spared=spared)
    if state.stage is not Stage.WATCH:
        beside = f"; {sentences.beside(stable_lately, rule.bad_ratio_max)}"
    else:
        beside = "" if had is None else f"; stable had {format_ratio(had)} before"
    did = sentences.did(rule, lately, f" in {format_duration(rule.window)}")
    return Evidence(
        rule=rule.name,
        target=r.target.name,
        verdict=verdict,
        value=percent(lately),
        threshold=sentences.limit(rule.bad_ratio_max),
        message=sentences.sentence(rule.name, r.target.name, f"{did}{_against_limit(r)}{beside}{why}"),
        requests=round(canary.total),
        bad=round(canary.bad),
        stable_requests=round(stable.total),
        stable_bad=round(stable.bad),
        window=rule.window,
        interval=sentences.share_bounds(canary),
        times=sentences.times_bounds(canary, stable),
        began_at=since,
        data_at=r.breach.last_at if r.canary.samples else None,
        stable=had,
    )


def _against_limit(r: Reading) -> str:
    limit, sustained = sentences.limit(r.rule.bad_ratio_max), format_duration(r.rule.sustained)
    bad_for = sentences.seconds(r.breach.bad_for)
    if r.breach.bad_for >= r.rule.sustained:
        return f", above its limit of {limit} for {bad_for}"
    if r.breach.last_bad and r.breach.bad_for:
        return f", above its limit of {limit} for {bad_for} ({sustained} take it back)"
    if r.breach.last_bad:
        return f", above its limit of {limit} ({sustained} of that take it back)"
    return f" (limit {limit})"


def _verdict(
    state: State, observation: Observation, policy: Policy, r: Reading, now: datetime, *, spared: bool
) -> tuple[Verdict, str]:
    """And what is to be said of it. `spared`: an Emergency is not rolled back to what fails as much."""
    if r.breach.bad_for >= r.rule.sustained:
        if spared and observation.change.type is ChangeType.EMERGENCY:
            return Verdict.INCONCLUSIVE, "; an Emergency does not go back to what is no better"
        return Verdict.FAIL, ""
    if not r.fresh:
        measured = observation.measurements
        return Verdict.INCONCLUSIVE, sentences.stale(r.canary.fresh_at, measured.problem if measured else "")
    if r.breach.last_bad:
        return Verdict.INCONCLUSIVE, ""
    if state.promoted:  # the steps are behind it: only a breach counts now
        return Verdict.PASS, ""
    if r.canary.fresh_at is None or state.settled_at is None or r.canary.fresh_at <= state.settled_at:
        return Verdict.INCONCLUSIVE, "; no data newer than this step yet"
    _, requests = slo.counts(r.canary, state.settled_at)
    if requests >= policy.min_requests or isinstance(r.rule, LogErrors):  # a good version may log nothing
        return Verdict.PASS, ""
    counted = f"{requests:,.0f} of the {policy.min_requests:,} requests that a verdict needs"
    held = policy.low_traffic is LowTraffic.HOLD and not hurried(state)
    if now < low_traffic_until(state, policy) or held:
        return Verdict.INCONCLUSIVE, f"; so far {counted}"
    return Verdict.PASS, f"; low evidence: {counted}"
