"""The canary beside stable: what is bet on its being worse (core/sequential.py), turned into verdicts and words.

The rules of the process need minutes above a limit; this finds a worse canary as soon as chance is ruled out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from controller.core import sentences, sequential, slo
from controller.core.blocks import NO_REQUESTS, Counts, History, recall
from controller.core.codec import format_duration
from controller.core.model import Comparison, Evidence, Observation, Stage, State, Strategy, Target, Verdict
from controller.core.policy import BUDGET, ErrorRate, Policy, Question, Statistical
from controller.core.samples import Arm
from controller.core.sequential import BURN_WINDOWS, ERRORS, LATENCY, Monitor, Terms

ERRORS_VS_STABLE, LATENCY_VS_STABLE = RULES = ("errors-vs-stable", "latency-vs-stable")
HISTORY = timedelta(minutes=30)
"""So much of stable's past is looked at before the canary begins."""
_E_VALUE_SHOWN = 1e6


def terms(policy: Policy, rule: str, margins: Terms = LATENCY[0]) -> Terms:
    """What is bet on, by the policy. `margins`: of a latency, what a good canary may do."""
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
    return replace(margins, budget=margins.budget * part)


def stakes(c: Comparison, policy: Policy) -> tuple[Terms, ...]:
    """The terms of each of its monitors. An SLO's edge is judged like the one nearest p99."""
    slos = _edges(policy)
    slow = [LATENCY[-1] if edge in slos else LATENCY[n] for n, edge in enumerate(c.edges)]
    return tuple(terms(policy, c.rule, margins) for margins in slow or (ERRORS,))


def begin(state: State, observation: Observation, policy: Policy, now: datetime) -> tuple[Comparison, ...]:
    """What is known of stable when a change starts: its canary will be compared with that, and with stable itself.

    Failed requests are one comparison, whether a limit or an SLO is about them. Slow ones are another: than the edges
    nearest stable's percentiles, and than those of SLOs, each edge once.
    """
    if policy.analysis.statistical is Statistical.OFF:
        return ()
    arms = observation.arms
    profiles = observation.measurements.profiles if observation.measurements else {}
    found = []
    for target in state.targets:
        history = recall(arms.get((target.name, ErrorRate.name, "stable"), Arm()))
        found.append(Comparison(ERRORS_VS_STABLE, target.name, (sequential.begin(history, now),)))
        of_slos = {edge: arms.get((target.name, name, "stable"), Arm()) for edge, name in _edges(policy).items()}
        usual = profiles.get(target.name, ())
        if edges := (*usual, *(edge for edge in of_slos if edge not in usual)):
            pasts = [recall(of_slos[e]) if e in of_slos else History(spacing=history.spacing) for e in edges]
            monitors = tuple(sequential.begin(past, now) for past in pasts)
            found.append(Comparison(LATENCY_VS_STABLE, target.name, monitors, edges))
    return tuple(found)


def _edges(policy: Policy) -> Mapping[timedelta, str]:
    """Those that SLOs are about, each with the name of one that is."""
    return {slo.slower_than: slo.name for slo in policy.slos if slo.slower_than}


def questions(state: State, target: str) -> tuple[Question, ...]:
    """What has to be counted of a target for its comparisons, beside the rules of its policy."""
    return tuple(q for c in state.comparisons if c.target == target and c.edges for q in _questions(c))


def _questions(c: Comparison) -> Sequence[Question]:
    """What each of its monitors is about."""
    return [Question(f"slower-than-{format_duration(edge)}", edge) for edge in c.edges] or [Question(ErrorRate.name)]


def lookback(policy: Policy) -> timedelta:
    """How long before a sample the judgement of it has to see."""
    windows = [rule.window for rule in policy.rules]
    return max(windows if policy.analysis.statistical is Statistical.OFF else [*windows, *BURN_WINDOWS])


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
            burnt = burnt or Counts(*slo.window(canary.samples, at, BURN_WINDOWS[0]))
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
    return tuple(arms_of(state, c.target, question.name, arms, since) for question in _questions(c))


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


# --- What it means ---


def doubt(state: State, policy: Policy) -> str:
    """Why the canary should not get more traffic yet; empty: nothing speaks against it."""
    for c in state.comparisons:
        if sequential.suspects(c.monitors, terms(policy, c.rule)) or any(m.shocked for m in c.monitors):
            return next((e.message for e in state.evidence if (e.rule, e.target) == (c.rule, c.target)), c.rule)
    return ""


def evidence(c: Comparison, policy: Policy, *, fresh: bool, problem: str = "") -> Evidence:
    """Its verdict. Of several edges it tells the one with the most evidence. `problem`: of the metrics."""
    monitor = max(c.monitors, key=lambda m: m.e_value)
    about = terms(policy, c.rule)
    e_value = sequential.mean_e_value(c.monitors)
    won = sequential.fails(c.monitors, about)
    burnt = None if won else c.burnt
    within = BURN_WINDOWS[0] if burnt else None
    canary, stable = burnt or monitor.canary, monitor.stable if monitor.compared else NO_REQUESTS
    burns = sentences.limit(sequential.burn_ratio_max(monitor, about))
    verdict, why = _verdict(c, policy, about, e_value, won=won, fresh=fresh)
    if burnt:
        why = f"; more than {burns} is too many to wait{why}"
    if not fresh and verdict is Verdict.INCONCLUSIVE:
        why = sentences.stale(monitor.at if monitor.capital else None, problem)
    question = next(q for q, m in zip(_questions(c), c.monitors, strict=True) if m is monitor)
    did = sentences.did(question, canary, f" in {format_duration(within)}" if within else "")
    beside = sentences.beside(stable, 1.0 if c.edges else about.limit) if monitor.compared else "no stable beside it"
    text = f"{did}, {beside}{sentences.times(canary, stable) if won else ''}{why}"
    return Evidence(
        rule=c.rule,
        target=c.target,
        verdict=verdict,
        value=sentences.percent(burnt) if burnt else f"{min(e_value, _E_VALUE_SHOWN):.3g}",
        threshold=burns if burnt else f"{about.e_value_max:.0f}",
        message=sentences.sentence(c.rule, c.target, text),
        requests=round(canary.total),
        bad=round(canary.bad),
        stable_requests=round(stable.total),
        stable_bad=round(stable.bad),
        window=within,
        interval=sentences.share_bounds(canary),
        times=sentences.times_bounds(canary, stable),
        began_at=monitor.at - within if within else monitor.step_at,
        data_at=monitor.at if canary.total else None,
        stable=sentences.share(stable),
    )


def _verdict(
    c: Comparison, policy: Policy, about: Terms, e_value: float, *, won: bool, fresh: bool
) -> tuple[Verdict, str]:
    observed = policy.analysis.statistical is Statistical.OBSERVE
    if won or c.burnt or (observed and c.failed_at):
        why = ""
        if won:
            why = f"; a good canary looks like this in less than 1 of {about.e_value_max:,.0f} rollouts"
        elif not c.burnt:
            why = f"; found worse at {c.failed_at:%H:%M:%S} UTC"
        return Verdict.FAIL, f"{why}; only observed, by policy" if observed else why
    if not fresh:
        return Verdict.INCONCLUSIVE, ""
    enough = f"of the {about.e_value_max:,.0f} that take it back"
    if sequential.suspects(c.monitors, about):
        return Verdict.INCONCLUSIVE, f"; suspicious: evidence {e_value:.0f} {enough}"
    if shocked := next((m for m in c.monitors if m.shocked), None):
        worse = f"just now stable does far worse than its usual {sentences.percent(shocked.known)}"
        return Verdict.INCONCLUSIVE, f"; {worse}: nothing to compare with yet"
    if not any(m.canary.total for m in c.monitors):
        return Verdict.INCONCLUSIVE, "; no data newer than this step yet"
    return Verdict.PASS, f"; nothing against it: evidence {e_value:.2g} {enough}"


def newest(monitors: Sequence[Monitor]) -> datetime:
    """Up to where all of them have been followed."""
    return min(monitor.at for monitor in monitors)
