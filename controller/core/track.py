"""What the state takes in from an observation before any rule is asked.

Durations, evidence, and, until the start, the targets.
"""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime

from controller.core import slo
from controller.core.checks import has_capacity, need, ours, rolled, route_pending
from controller.core.codec import format_duration, format_ratio
from controller.core.model import (
    Arm,
    Breach,
    Evidence,
    Floor,
    Observation,
    Phase,
    Seen,
    Stage,
    State,
    Strategy,
    Target,
    Verdict,
)
from controller.core.policy import ChangeType, Policy, Rule

NO_ARM = Arm()


def track(state: State, observation: Observation, policy: Policy, now: datetime) -> State:
    if state.phase is Phase.WAITING:
        return replace(state, targets=_assess_all(state, observation, policy))
    state = replace(
        state, targets=tuple(_follow(state, t, observation.targets.get(t.name, Seen(None)), now) for t in state.targets)
    )
    state = replace(
        state,
        warnings=tuple(filter(None, (observation.policy_problem, *observation.environment))),
        settled_at=_settled_at(state, observation, policy, now),
        weighted_at=_weighted_at(state, observation, now),
    )
    if state.phase in (Phase.PROGRESSING, Phase.PROMOTING):
        state = _judge(state, observation, policy, now)
    return state


# --- Until the start: what each Deployment is, and how it will be rolled out ---


def _assess_all(state: State, observation: Observation, policy: Policy) -> tuple[Target, ...]:
    """The Deployments that this change is about; the last ones known when there is none any more."""
    found = tuple(
        assess(seen, policy)
        for _, seen in sorted(observation.targets.items())
        if seen.deployment is not None and ours(observation.change, seen.deployment)
    )
    return found or state.targets


def assess(seen: Seen, policy: Policy) -> Target:
    d = seen.deployment
    assert d is not None
    others = [rs for rs in seen.replica_sets if rs.revision != d.revision]
    stable = max(others, key=lambda rs: (rs.replicas > 0, rs.number), default=None)
    why_native = next(_why_native(seen, policy, first=stable is None), "")
    size = max(d.replicas, stable.replicas if stable else 0)
    return Target(
        name=d.name,
        uid=d.uid,
        revision=d.revision,
        strategy=Strategy.NATIVE if why_native else Strategy.CANARY,
        strategy_reason=why_native or f"{', '.join(r.key for r in seen.routes)}; other callers are not split",
        stable_revision=stable.revision if stable else "",
        stable_replica_set=stable.name if stable else "",
        stable_template=stable.template if stable else None,
        replicas=size,
        selector_key="" if why_native else seen.selector_key,
        services=() if why_native else seen.services,
        routes=() if why_native else tuple(route.original for route in seen.routes),
        floor=Floor(seen.autoscaler.name, seen.autoscaler.min_replicas) if seen.autoscaler and not why_native else None,
    )


def _why_native(seen: Seen, policy: Policy, *, first: bool) -> Iterator[str]:
    d = seen.deployment
    assert d is not None
    if first:
        yield "this is its first deployment"
    if not seen.routes:
        yield "no route names a Service of its pods"
    if d.recreate:
        yield "its update strategy is Recreate"
    yield from seen.obstacles
    if not seen.selector_key:
        yield "no label of its selector is also in the selector of each of its Services"
    if d.replicas < policy.canary_replicas_min:
        yield f"it has {d.replicas} replicas, and the policy asks for {policy.canary_replicas_min} to make a canary"


# --- Under way ---


def _follow(state: State, target: Target, seen: Seen, now: datetime) -> Target:
    deployment = seen.deployment
    own = next((rs.name for rs in seen.replica_sets if rs.revision == target.revision), target.replica_set)
    target = replace(target, replica_set=own)
    if deployment and state.phase is Phase.PROGRESSING:
        target = replace(target, replicas=max(target.replicas, deployment.replicas))
    if target.strategy is Strategy.NATIVE or state.phase is not Phase.PROGRESSING:
        return replace(target, not_ready_since=None)
    leaving = sum(pod.leaving for pod in seen.canary.pods)
    short = state.settled_at is not None and seen.canary.ready + leaving < need(target.replicas, state.weight)
    drifted = state.settled_at is not None and any(route.weight != state.weight for route in seen.routes)
    return replace(
        target, not_ready_since=(target.not_ready_since or now) if short else None, drifts=target.drifts + drifted
    )


def _settled_at(state: State, observation: Observation, policy: Policy, now: datetime) -> datetime | None:
    """When the cluster reached the target of this step or stage; nothing while a route says otherwise."""
    if state.phase is Phase.PROGRESSING:
        if route_pending(state, observation, policy, now):
            return None
        ready = all(
            has_capacity(state, t, observation.targets[t.name])
            for t in state.targets
            if t.strategy is Strategy.CANARY and t.name in observation.targets
        )
        return state.settled_at or (now if ready else None)
    if state.stage is Stage.ROLL:
        done = all(rolled(t, observation.targets.get(t.name, Seen(None))) for t in state.targets)
        return state.settled_at or (now if done else None)
    return None


def _weighted_at(state: State, observation: Observation, now: datetime) -> datetime | None:
    shown = any(not route.intact for seen in observation.targets.values() for route in seen.routes)
    return state.weighted_at or (now if shown and state.phase is Phase.PROGRESSING else None)


# --- The judgement, as the process states it ---


def _judge(state: State, observation: Observation, policy: Policy, now: datetime) -> State:
    measured = observation.measurements
    exposed = [t for t in state.targets if state.weighted_at and (t.strategy is Strategy.CANARY or state.promoted)]
    breaches, evidence = [], []
    blind = False
    # Until the first scrape after the step was set up, silence says nothing.
    early = state.settled_at is not None and now - state.settled_at <= policy.metrics.stale_after
    for target in exposed:
        for rule in policy.rules:
            name = rule.name
            arms = measured.arms if measured else {}
            canary, stable = (arms.get((target.name, name, side), NO_ARM) for side in ("canary", "stable"))
            fresh = measured is not None and not measured.problem and slo.fresh(canary, now, policy.metrics.stale_after)
            known = next((b for b in state.breaches if (b.rule, b.target) == (name, target.name)), None)
            known = known or Breach(name, target.name, last_at=state.weighted_at)
            breach = slo.extend(
                known, canary, ratio_max=rule.bad_ratio_max, window=rule.window, gap_max=policy.metrics.stale_after
            )
            breaches.append(breach)
            evidence.append(_evidence(state, observation, policy, rule, breach, canary, stable, fresh=fresh, now=now))
            new = early and canary.fresh_at is None and not (measured and measured.problem)
            blind |= not fresh and not new and target.strategy is Strategy.CANARY
    waiting = bool(state.settled_at) or state.phase is Phase.PROMOTING
    return replace(
        state,
        breaches=tuple(breaches),
        evidence=tuple(evidence),
        measured_at=measured.taken_at if measured else state.measured_at,
        no_data_since=(state.no_data_since or now) if blind and waiting else None,
    )


def _evidence(
    state: State,
    observation: Observation,
    policy: Policy,
    rule: Rule,
    breach: Breach,
    canary: Arm,
    stable: Arm,
    *,
    fresh: bool,
    now: datetime,
) -> Evidence:
    name = breach.rule
    data_at = breach.last_at if canary.samples else None
    since = state.settled_at or state.entered_at or now
    bad_all, total_all = slo.counts(canary, since)
    last = breach.last_at or now
    bad, total = slo.window(canary.samples, last, rule.window)
    stable_bad, stable_total = slo.window(stable.samples, last, rule.window)
    limit = rule.bad_ratio_max
    what = f"answers slower than {format_duration(rule.slower_than)}" if rule.slower_than else "fails"
    share = bad / total if total else 0.0
    stable_share = stable_bad / stable_total if stable_total else 0.0
    spared = observation.change.type is ChangeType.EMERGENCY and stable_total > 0 and stable_share >= share
    verdict, tail = Verdict.PASS, ""
    if breach.bad_for >= rule.sustained and not spared:
        verdict = Verdict.FAIL
        tail = f" for {format_duration(breach.bad_for)}"
    elif not fresh:
        verdict, tail = Verdict.INCONCLUSIVE, "; no fresh data"
    elif breach.last_bad:
        verdict, tail = (
            Verdict.INCONCLUSIVE,
            f" for {format_duration(breach.bad_for)} of {format_duration(rule.sustained)}",
        )
    elif canary.fresh_at is None or canary.fresh_at <= since:
        verdict, tail = Verdict.INCONCLUSIVE, "; no data newer than the step"
    if stable_total and stable_share > limit:
        tail += f"; stable is failing too ({format_ratio(round(stable_share, 4))})"
    bad_share, stable_bad_share = (format_ratio(round(value, 4)) for value in (share, stable_share))
    counted = f"{bad_share} of {total:.0f} requests in {format_duration(rule.window)}"
    text = f"{name}: {breach.target} {what} {counted} (limit {format_ratio(limit)}, stable {stable_bad_share}){tail}"
    return Evidence(
        rule=name,
        target=breach.target,
        verdict=verdict,
        value=format_ratio(round(share, 4)),
        threshold=format_ratio(limit),
        message=text[:240],
        requests=round(total_all),
        bad=round(bad_all),
        data_at=data_at,
    )
