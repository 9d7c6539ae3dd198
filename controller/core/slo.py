"""How long a limit has been exceeded, on the data's own timestamps.

The process says "roll back when error rate > 1 % for 5 minutes" and "SLO violation for 5 minutes". Both are this: at
every sample of the canary the ratio of bad requests over a short window is above a limit, and has been for a time.
Samples hold finite numbers only, oldest first; whatever Prometheus could not say is not in them.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from controller.core.samples import Arm, Sample

_ROUNDING = 1 + 1e-9
"""Exactly 1 % is not above 1 %, whatever binary fractions make of `1 - 0.999` or "2.3%"."""


@dataclass(frozen=True)
class Breach:
    """How long a rule's limit has been exceeded without a good sample, on the data's own timestamps."""

    rule: str
    target: str
    bad_for: timedelta = timedelta()
    last_at: datetime | None = None
    last_bad: bool = False


def window(samples: Sequence[Sample], at: datetime, length: timedelta) -> tuple[float, float]:
    """(bad, total) of the requests counted in (at - length, at]."""
    inside = samples[_after(samples, at - length) : _after(samples, at)]
    return sum(sample.bad for sample in inside), sum(sample.total for sample in inside)


def counts(arm: Arm, since: datetime) -> tuple[float, float]:
    """(bad, total) of the requests in samples later than `since`."""
    later = arm.samples[_after(arm.samples, since) :]
    return sum(sample.bad for sample in later), sum(sample.total for sample in later)


def fresh(arm: Arm, now: datetime, stale_after: timedelta) -> bool:
    """Whether the metrics path was seen to work lately. Without it, silence is not the same as few requests."""
    return arm.fresh_at is not None and now - arm.fresh_at <= stale_after


def exceeds(bad: float, total: float, ratio_max: float) -> bool | None:
    """Whether more than `ratio_max` of the requests were bad; None when there were none to tell by."""
    return bad > ratio_max * total * _ROUNDING if total > 0 else None


def extend(breach: Breach, arm: Arm, *, ratio_max: float, window: timedelta, gap_max: timedelta) -> Breach:
    """The breach after the samples of `arm` that are later than `breach.last_at`.

    At each sample the ratio over `window` is judged. Two bad ones in a row, not more than `gap_max` apart, add the time
    between them; a good one sets the time back to zero; one without requests is unknown and does neither.
    Source: "Error rate > 1% for 5 minutes", which is `bad_for >= sustained`.

    The result does not depend on how the stream is cut into calls, so a restart loses nothing, as long as each call's
    samples reach back `window` before `breach.last_at`.
    """
    for sample in arm.samples[_after(arm.samples, breach.last_at) if breach.last_at else 0 :]:
        breach = _judge(breach, sample.at, _bad(arm, sample.at, window, ratio_max), gap_max)
    return breach


def _bad(arm: Arm, at: datetime, length: timedelta, ratio_max: float) -> bool | None:
    return exceeds(*window(arm.samples, at, length), ratio_max)


def _judge(breach: Breach, at: datetime, bad: bool | None, gap_max: timedelta) -> Breach:
    bad_for = timedelta() if bad is False else breach.bad_for
    if bad and breach.last_bad and breach.last_at and at - breach.last_at <= gap_max:
        bad_for += at - breach.last_at
    return replace(breach, bad_for=bad_for, last_at=at, last_bad=bad is True)


def _after(samples: Sequence[Sample], at: datetime) -> int:
    return bisect_right(samples, at, key=lambda sample: sample.at)
