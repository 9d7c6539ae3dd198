"""The canary beside stable: what is bet on its being worse (core/sequential.py), turned into verdicts and words.

The rules of the process need minutes above a limit; this finds a worse canary as soon as chance is ruled out.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from controller.core import sequential, slo
from controller.core.blocks import Counts, History, recall
from controller.core.codec import Ratio, format_duration, format_ratio
from controller.core.interval import ratio_interval, share_interval
from controller.core.model import Comparison, Evidence, Observation, Stage, State, Strategy, Target, Verdict
from controller.core.policy import BUDGET, ErrorRate, Policy, Question, Statistical
from controller.core.samples import Arm
from controller.core.sequential import ERRORS, LATENCY, Monitor, Terms

ERRORS_VS_STABLE, LATENCY_VS_STABLE = RULES = ("errors-vs-stable", "latency-vs-stable")
HISTORY = timedelta(minutes=30)
"""So much of stable's past is looked at before the canary begins."""
_E_VALUE_SHOWN = 1e6


def terms(policy: Policy, rule: str, number: int = 0) -> Terms:
    """What is bet on, by the policy. `number`: which of the latency edges it is about."""
    analysis = policy.analysis
    part = analysis.false_rollback_budget / BUDGET
    if rule == ERRORS_VS_STABLE:
        return replace(
            ERRORS,
            budget=ERRORS.budget * part,
            tolerated=analysis.tolerated,
            slack=float(analysis.slack),
            limit=policy.error_rate.bad_ratio_max,
        )
    latency = LATENCY[min(number, len(LATENCY) - 1)]
    return replace(latency, budget=latency.budget * part)


def begin(state: State, observation: Observation, policy: Policy, now: datetime) -> tuple[Comparison, ...]:
    """What is known of stable when a change starts: its canary will be compared with that, and with stable itself."""
    if policy.analysis.statistical is Statistical.OFF:
        return ()
    arms = observation.arms
    profiles = observation.measurements.profiles if observation.measurements else {}
    found = []
    for target in state.targets:
        history = recall(arms.get((target.name, ErrorRate.name, "stable"), Arm()))
        found.append(Comparison(ERRORS_VS_STABLE, target.name, (sequential.begin(history, now),)))
        if edges := profiles.get(target.name, ()):
            monitors = tuple(sequential.begin(History(spacing=history.spacing), now) for _ in edges)
            found.append(Comparison(LATENCY_VS_STABLE, target.name, monitors, edges))
    return tuple(found)


def questions(state: State, target: str) -> tuple[Question, ...]:
    """What has to be counted of a target for its comparisons, beside the rules of its policy."""
    compared = (c for c in state.comparisons if c.target == target)
    return tuple(Question(_slower(edge), edge) for c in compared for edge in c.edges)


def lookback(policy: Policy) -> timedelta:
    """How long before a sample the judgement of it has to see."""
    windows = [rule.window for rule in policy.rules]
    return max(windows if policy.analysis.statistical is Statistical.OFF else [*windows, *sequential.BURN_WINDOWS])


def _slower(edge: timedelta) -> str:
    return f"slower-than-{format_duration(edge)}"


# --- Under way ---


def follow(
    state: State, observation: Observation, policy: Policy, target: Target, since: datetime, now: datetime
) -> tuple[Comparison, ...]:
    """The comparisons of a target, with all samples taken in. `since`: when its pods first had traffic."""
    arms = observation.arms
    return tuple(
        extend(c, sides(c, state, arms, since), stakes(c, policy), since, step_at(state, since), now)
        for c in state.comparisons
        if c.target == target.name
    )


def stakes(c: Comparison, policy: Policy) -> tuple[Terms, ...]:
    """The terms of each of its monitors."""
    return tuple(terms(policy, c.rule, number) for number in range(len(c.monitors)))


def step_at(state: State, since: datetime) -> datetime:
    """When the canary was given the weight that it has."""
    return max(state.entered_at or since, since)


def extend(
    c: Comparison,
    arms: Sequence[tuple[Arm, Arm]],
    about: Sequence[Terms],
    since: datetime,
    step_at: datetime,
    now: datetime,
) -> Comparison:
    """The comparison after the samples of (canary, stable) that each monitor has not seen."""
    monitors: list[Monitor] = []
    burnt: Counts | None = None
    for before, (canary, stable), its in zip(c.monitors, arms, about, strict=True):
        started = replace(before, at=max(before.at, since))  # until then, stable alone was measured
        monitor = sequential.observe(started, canary, stable, step_at, its)
        monitors.append(monitor)
        if its.severe is not None and (at := sequential.burning(monitor, canary, started.at, its)):
            burnt = burnt or Counts(*slo.window(canary.samples, at, sequential.BURN_WINDOWS[0]))
    seen = any(after.at > before.at for before, after in zip(c.monitors, monitors, strict=True))
    won = sequential.fails(monitors, about[0])
    return replace(
        c,
        monitors=tuple(monitors),
        failed_at=c.failed_at or (now if won or burnt else None),
        burnt=burnt if seen else c.burnt,
    )


def sides(
    c: Comparison, state: State, arms: Mapping[tuple[str, str, str], Arm], since: datetime
) -> tuple[tuple[Arm, Arm], ...]:
    """Canary and stable, for each monitor."""
    return tuple(arms_of(state, c.target, question, arms, since) for question in _asked(c))


def arms_of(
    state: State, target: str, question: str, arms: Mapping[tuple[str, str, str], Arm], since: datetime
) -> tuple[Arm, Arm]:
    """What the new pods of a target and its stable ones answered. `since`: when the new ones first had traffic."""
    canary, stable = (arms.get((target, question, side), Arm()) for side in ("canary", "stable"))
    known = state.target(target)
    if state.stage is Stage.WATCH and known and known.strategy is Strategy.CANARY:
        canary, stable = stable, Arm()  # the Deployment's own traffic is the new revision's now
    # What the canary before this one answered, under the same name, is not this one's.
    return replace(canary, samples=tuple(sample for sample in canary.samples if sample.at > since)), stable


def _asked(c: Comparison) -> Sequence[str]:
    return [_slower(edge) for edge in c.edges] or [ErrorRate.name]


# --- What it means ---


def doubt(state: State, policy: Policy) -> str:
    """Why the canary should not get more traffic yet; empty: nothing speaks against it."""
    for c in state.comparisons:
        if sequential.suspects(c.monitors, terms(policy, c.rule)):
            return next((e.message for e in state.evidence if (e.rule, e.target) == (c.rule, c.target)), c.rule)
        if any(monitor.shocked for monitor in c.monitors):
            return f"stable of {c.target} fails far more than it used to: there is nothing to compare with"
    return ""


def evidence(c: Comparison, policy: Policy, *, fresh: bool) -> Evidence:
    monitor = max(c.monitors, key=lambda m: m.e_value)
    about = terms(policy, c.rule)
    e_value = sequential.mean_e_value(c.monitors)
    won = sequential.fails(c.monitors, about)
    burnt = None if won else c.burnt
    canary, stable = burnt or monitor.canary, monitor.stable
    edge = c.edges[c.monitors.index(monitor)] if c.edges else None
    does = f"answers slower than {format_duration(edge)}" if edge else "fails"
    text = f"{c.target} {does} {percent(canary)} of {canary.total:,.0f} requests"
    if burnt:
        text += " in a minute, no stable beside it"
    else:
        text += f", stable {percent(stable)} of {stable.total:,.0f}" if monitor.compared else ", no stable beside it"
    verdict, why = _verdict(c, policy, about, e_value, won=won, fresh=fresh)
    return Evidence(
        rule=c.rule,
        target=c.target,
        verdict=verdict,
        value=f"{min(e_value, _E_VALUE_SHOWN):.3g}",
        threshold=f"{about.e_value_max:.0f}",
        message=f"{c.rule}: {text}{_times(canary, stable) if won else ''}; {why}",
        requests=round(canary.total),
        bad=round(canary.bad),
        stable_requests=round(stable.total),
        stable_bad=round(stable.bad),
        interval=interval(canary),
        data_at=monitor.at if canary.total else None,
    )


def _verdict(
    c: Comparison, policy: Policy, about: Terms, e_value: float, *, won: bool, fresh: bool
) -> tuple[Verdict, str]:
    observed = policy.analysis.statistical is Statistical.OBSERVE
    if won or c.burnt or (observed and c.failed_at):
        if won or not c.burnt:
            why = f"a good canary looks like this in less than 1 of {about.e_value_max:.0f} rollouts"
        else:
            why = "too many to wait for more"
        return Verdict.FAIL, f"{why}; only observed, by policy" if observed else why
    if not fresh:
        return Verdict.INCONCLUSIVE, "no fresh data"
    if sequential.suspects(c.monitors, about):
        return Verdict.INCONCLUSIVE, f"suspicious: evidence {e_value:.0f} of {about.e_value_max:.0f}"
    if not any(m.canary.total for m in c.monitors):
        return Verdict.INCONCLUSIVE, "no data newer than the step"
    return Verdict.PASS, f"nothing against it: evidence {e_value:.2g} of {about.e_value_max:.0f}"


def _times(canary: Counts, stable: Counts) -> str:
    low, high = ratio_interval(canary, stable)
    if not low:
        return ""
    least, most = (f"{times:.0f}" if times >= 100 else f"{times:.2g}" for times in (low, high))
    return f" (at least {least} times as often)" if math.isinf(high) else f" ({least} to {most} times as often)"


def percent(counts: Counts) -> str:
    """The share of bad ones, to a hundredth of a percent."""
    return format_ratio(round(counts.ratio, 4))


def interval(counts: Counts) -> tuple[Ratio, ...]:
    """The least and the greatest share of bad ones that the counts go with, at 95 %; empty without any."""
    return tuple(Ratio(round(bound, 4)) for bound in share_interval(counts)) if counts.total else ()


def newest(monitors: Sequence[Monitor]) -> datetime:
    """Up to where all of them have been followed."""
    return min(monitor.at for monitor in monitors)
