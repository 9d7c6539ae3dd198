"""What a judgement was made of, as a record for the log; and the judgement made again from such a record.

A record stands for itself: it holds what was remembered before, the samples that were new, and what came of it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from controller.core import compare, sequential, slo
from controller.core.codec import JSON, decode, encode, format_duration, format_moment, parse_duration, parse_moment
from controller.core.judge import exposed_since
from controller.core.model import Comparison, Observation, State
from controller.core.policy import Policy
from controller.core.samples import Arm, Sample
from controller.core.sequential import BURN_WINDOWS, Terms
from controller.core.slo import Breach

E_VALUE_ERROR_MAX = 1e-6
"""Relative; sums of floating-point numbers differ from machine to machine."""


def record(before: State, after: State, observation: Observation, policy: Policy) -> JSON:
    """Of each rule and comparison, what its verdict in `after` was made of. Empty when nothing was judged."""
    judged = replace(before, weighted_at=after.weighted_at)  # a decision moves on after its judgement
    since = exposed_since(judged)
    if since is None or after.measured_at == before.measured_at:
        return {}
    arms = observation.arms
    verdicts = {(e.rule, e.target): e.verdict.value for e in after.evidence}
    known = {(b.rule, b.target): b for b in before.breaches}
    limits = []
    for breach in after.breaches:
        rule = next(r for r in policy.rules if r.name == breach.rule)
        began = known.get((breach.rule, breach.target)) or Breach(breach.rule, breach.target, last_at=since)
        canary, _ = compare.arms_of(judged, breach.target, breach.rule, arms, since)
        limits.append(
            {
                "limit": rule.bad_ratio_max,
                "window": format_duration(rule.window),
                "sustained": format_duration(rule.sustained),
                "gap": format_duration(policy.metrics.stale_after),
                "from": encode(began),
                "canary": _samples(canary, (began.last_at or since) - rule.window),
                "badFor": format_duration(breach.bad_for),
                "verdict": verdicts.get((breach.rule, breach.target), ""),
            }
        )
    return {"limits": limits, "comparisons": list(_comparisons(judged, after, observation, policy, since, verdicts))}


def _comparisons(
    before: State,
    after: State,
    observation: Observation,
    policy: Policy,
    since: datetime,
    verdicts: dict[tuple[str, str], str],
) -> Iterator[JSON]:
    arms = observation.arms
    began = {(c.rule, c.target): c for c in before.comparisons}
    for new in after.comparisons:
        old = began.get((new.rule, new.target), new)
        sides = compare.sides(old, before, arms, since)
        yield {
            "rule": new.rule,
            "target": new.target,
            "terms": [encode(each) for each in compare.stakes(new, policy)],
            "since": format_moment(since),
            "stepAt": format_moment(compare.step_at(before, since)),
            "from": encode(old),
            "arms": [
                {"canary": _samples(canary, monitor.at - BURN_WINDOWS[1]), "stable": _samples(stable, monitor.at)}
                for monitor, (canary, stable) in zip(old.monitors, sides, strict=True)
            ],
            "eValue": sequential.mean_e_value(new.monitors),
            "failed": new.failed_at is not None,
            "verdict": verdicts.get((new.rule, new.target), ""),
        }


def _samples(arm: Arm, since: datetime) -> list[JSON]:
    """[moment, bad, total, [pod, bad, total]…] of those that are later than `since`."""
    return [[format_moment(s.at), s.bad, s.total, *(list(pod) for pod in s.pods)] for s in arm.samples if s.at > since]


# --- Once more ---


@dataclass(frozen=True)
class Replayed:
    """A judgement that was made again. `differs`: empty, or what is not as it was recorded."""

    rule: str
    target: str
    verdict: str
    found: str
    differs: str = ""


def replay(recorded: JSON) -> Iterator[Replayed]:
    """Each judgement of a record, made again; ValueError when it is no record."""
    try:
        for each in recorded["limits"]:
            yield _limit(each)
        for each in recorded["comparisons"]:
            yield _comparison(each)
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"no judgement that can be replayed: {type(error).__name__}: {error}") from error


def _limit(each: JSON) -> Replayed:
    breach = slo.extend(
        decode(Breach, each["from"]),
        _arm(each["canary"]),
        ratio_max=each["limit"],
        window=parse_duration(each["window"]),
        gap_max=parse_duration(each["gap"]),
    )
    bad_for, sustained = breach.bad_for, parse_duration(each["sustained"])
    differs = "" if format_duration(bad_for) == each["badFor"] else f"recorded was {each['badFor']}"
    if each["verdict"] == "FAIL" and bad_for < sustained:
        differs = f"it failed, and was above the limit for less than {each['sustained']}"
    found = f"above {each['limit']:.4g} for {format_duration(bad_for)} of {each['sustained']}"
    return Replayed(breach.rule, breach.target, each["verdict"], found, differs)


def _comparison(each: JSON) -> Replayed:
    before = decode(Comparison, each["from"])
    arms = [(_arm(pair["canary"]), _arm(pair["stable"])) for pair in each["arms"]]
    about = [decode(Terms, terms) for terms in each["terms"]]
    since, step_at = parse_moment(each["since"]), parse_moment(each["stepAt"])
    after = compare.extend(before, arms, about, since, step_at, max(m.at for m in before.monitors))
    e_value, was = sequential.mean_e_value(after.monitors), each["eValue"]
    differs = ""
    if abs(e_value - was) > E_VALUE_ERROR_MAX * max(e_value, was):
        differs = f"the recorded e-value was {was:.6g}"
    elif (after.failed_at is not None) != each["failed"]:
        differs = "it failed" if each["failed"] else "it did not fail"
    found = f"e-value {e_value:.4g} of {about[0].e_value_max:.0f}{', burning' if after.burnt else ''}"
    return Replayed(before.rule, before.target, each["verdict"], found, differs)


def _arm(samples: Sequence[Sequence[Any]]) -> Arm:
    return Arm(
        tuple(
            Sample(parse_moment(at), bad, total, tuple((name, b, t) for name, b, t in pods))
            for at, bad, total, *pods in samples
        )
    )
