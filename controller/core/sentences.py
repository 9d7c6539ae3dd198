"""What is said of a verdict, in one sentence: what the new version did, beside stable, and what follows from it.

It is read in status, events, logs and notifications, at 3 a.m. by whoever was woken.
"""

import math
from datetime import datetime, timedelta

from controller.core.blocks import NO_REQUESTS, Counts
from controller.core.codec import Ratio, format_duration, format_ratio
from controller.core.interval import ratio_interval, share_interval
from controller.core.policy import LogErrors, Question, Rule

MESSAGE_MAX = 240
_SMALLEST = 0.0001
"""Shares are told to a hundredth of a percent."""


def sentence(rule: str, name: str, text: str) -> str:
    """`rule: name text`; a name that leaves no room for the text is cut."""
    room = MESSAGE_MAX - len(f"{rule}:  {text}")
    return f"{rule}: {name if len(name) <= room else f'{name[: room - 1]}…'} {text}"


def did(rule: Rule | Question, counts: Counts, within: str = "") -> str:
    """`fails 4.8% of 1,240 requests in 1m`."""
    if not counts.total:
        return f"has no {rule.of} counted{within}"
    return does(rule, f"{percent(counts)} of {counts.total:,.0f} {rule.of}{within}")


def does(rule: Rule | Question, share_of: str) -> str:
    """`answers 4.8% of its requests slower than 1s`."""
    if rule.slower_than:
        return f"answers {share_of} slower than {format_duration(rule.slower_than)}"
    return f"{'logs errors in' if isinstance(rule, LogErrors) else 'fails'} {share_of}"


def beside(stable: Counts, ratio_max: float) -> str:
    """What stable did meanwhile; and that it is no better, where it is above the limit as well."""
    if not stable.total:
        return "stable has none"
    too = "stable is failing too:" if stable.ratio > ratio_max else "stable"
    return f"{too} {percent(stable)} of {stable.total:,.0f}"


def times(canary: Counts, stable: Counts) -> str:
    """` (33 to 71 times as often)`; empty where it may be less often too."""
    low, high = ratio_interval(canary, stable)
    if low <= 1:
        return ""
    least, most = (f"{bound:.0f}" if 10 <= bound < math.inf else f"{bound:.2g}" for bound in (low, high))
    return f" (at least {least} times as often)" if math.isinf(high) else f" ({least} to {most} times as often)"


def stale(data_at: datetime | None, problem: str) -> str:
    """Why nothing can be said now. `problem`: `Reason: text` of what is wrong with the metrics."""
    if problem:
        return f"; no usable data: {problem.partition(':')[0]}"
    return f"; no fresh data: the newest is of {data_at:%H:%M:%S} UTC" if data_at else "; no fresh data: there is none"


def percent(counts: Counts) -> str:
    """The share of bad ones, to a hundredth of a percent."""
    rounded = round(counts.ratio, 4)
    return f"<{format_ratio(_SMALLEST)}" if counts.bad and not rounded else format_ratio(rounded)


def limit(ratio_max: float) -> str:
    return format_ratio(round(ratio_max, 6))


def seconds(value: timedelta) -> str:
    return format_duration(value - value % timedelta(seconds=1))


# --- The same, in figures ---


def share(counts: Counts) -> Ratio | None:
    return Ratio(round(counts.ratio, 4)) if counts.total else None


def share_bounds(counts: Counts) -> tuple[Ratio, ...]:
    """The least and the greatest share of bad ones that the counts go with, at 95 %; empty without any."""
    return tuple(Ratio(round(bound, 4)) for bound in share_interval(counts)) if counts.total else ()


def times_bounds(canary: Counts, stable: Counts) -> tuple[float, ...]:
    """How many times as often as stable's its requests are bad, at least and, where there is a bound, at most."""
    bounds = ratio_interval(canary, stable)
    if bounds == ratio_interval(NO_REQUESTS, NO_REQUESTS):
        return ()
    return tuple(float(f"{bound:.3g}") for bound in bounds if bound < math.inf)
