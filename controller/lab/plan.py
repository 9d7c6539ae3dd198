"""`serin plan`: what a policy comes to with the requests that a service has: how long it takes, and what it catches."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from controller.core import compare, sentences, slo
from controller.core.blocks import Counts, History, recall
from controller.core.codec import format_duration, format_ratio
from controller.core.model import Measurements
from controller.core.policy import ErrorRate, LowTraffic, Policy, Rule, Statistical, Step
from controller.core.reach import smallest_caught
from controller.core.samples import Arm
from controller.core.windows import FOREVER, opening_text, openings
from controller.lab import LabError

WINDOW_MAX = timedelta(minutes=10)
_STEADY = 3
"""With so many bad requests expected in a window, one without any is rare (5 %)."""


@dataclass(frozen=True)
class Today:
    """How a service does now: requests a second, its past, and of each rule the share of its events that are bad."""

    rps: float
    history: History
    scraped_every: timedelta
    bad: Mapping[str, float]
    problem: str = ""

    def describe(self) -> str:
        together = f", {self.history.dispersion.phi:.2g} at a time" if self.history.dispersion.blocks else ""
        return (
            f"{self.rps:.3g} requests/s, of which stable fails {_percent(self.history.stable.ratio)}{together}; "
            f"scraped every {format_duration(_seconds(self.scraped_every))}"
        )


@dataclass(frozen=True)
class Stretch:
    """A step: how long a good version stays in it; and the least bad share that is caught by its end, if any is."""

    step: Step
    lasts: timedelta | None
    """Absent where the policy holds it until there are more requests, and none come."""
    caught: float | None


def supposed(policy: Policy, rps: float, errors: float, scraped_every: timedelta) -> Today:
    """A service of which no more is known than its requests, and the share of them that fails."""
    spacing = scraped_every * 2 / 3
    requests = rps * compare.HISTORY.total_seconds()
    return Today(
        rps,
        History(Counts(errors * requests, requests), spacing=spacing),
        scraped_every,
        {rule.name: errors for rule in policy.request_rules if rule.slower_than is None},
    )


def seen(policy: Policy, target: str, measured: Measurements) -> Today:
    """A service as Prometheus has seen it. Raises LabError when it has not."""
    arms = {rule.name: measured.arms.get((target, rule.name, "stable"), Arm()) for rule in policy.request_rules}
    requests = arms[ErrorRate.name]
    total = sum(sample.total for sample in requests.samples)
    if requests.scraped_every is None or len(requests.samples) < 2:
        nothing = f"the preset {policy.metrics.preset} finds no requests of {target} in Prometheus"
        raise LabError(measured.problem or f"{nothing}: docs/metrics.md says what each preset needs")
    lasted = requests.samples[-1].at - requests.samples[0].at
    counts = {name: slo.counts(arm, arm.samples[0].at) for name, arm in arms.items() if arm.samples}
    return Today(
        (total - requests.samples[0].total) / lasted.total_seconds(),
        recall(requests),
        requests.scraped_every,
        {name: bad / of for name, (bad, of) in counts.items() if of},
        measured.problem,
    )


def stretches(policy: Policy, today: Today) -> list[Stretch]:
    terms = compare.terms(policy, compare.ERRORS_VS_STABLE)
    judged = policy.analysis.statistical is not Statistical.OFF
    found: list[Stretch] = []
    so_far: list[Step] = []
    for step in policy.steps:
        lasts = dwell(policy, step, today.rps)
        so_far.append(replace(step, bake=lasts or step.bake))
        caught = smallest_caught(so_far, today.rps, today.history, today.scraped_every, terms) if judged else None
        found.append(Stretch(step, lasts, caught))
    return found


def dwell(policy: Policy, step: Step, rps: float) -> timedelta | None:
    """Its bake; with few requests up to twice that, or, where the policy holds, until there are enough."""
    rate = rps * step.weight / 100
    enough = timedelta(seconds=policy.min_requests / rate) if rate else None
    if policy.low_traffic is LowTraffic.HOLD:
        return max(step.bake, enough) if enough else None
    return max(step.bake, min(enough or 2 * step.bake, 2 * step.bake))


# --- What is said of it ---


def told(policy: Policy, today: Today, now: datetime) -> Iterator[str]:
    """Lines for people. `now`: the windows that open after it are looked at."""
    found = stretches(policy, today)
    yield f"{'step':>6}  {'weight':>6}  {'requests/s':>10}  {'bake':>8}  {'expected':>8}  catches a version that fails"
    for number, stretch in enumerate(found, 1):
        step = stretch.step
        rate = today.rps * step.weight / 100
        lasts = format_duration(_seconds(stretch.lasts)) if stretch.lasts else "held"
        yield (
            f"{number:>6}  {step.weight:>4} %  {rate:>10.3g}  {format_duration(step.bake):>8}  {lasts:>8}  "
            f"{_caught(stretch.caught)}"
        )
    yield ""
    yield from _whole(policy, found)
    yield from _reach(policy, today, found[-1])
    for warning in warnings(policy, today, found, now):
        yield f"warning: {warning}"


def _whole(policy: Policy, found: Sequence[Stretch]) -> Iterator[str]:
    if any(stretch.lasts is None for stretch in found):
        yield "It never ends: the policy holds it until there are more requests (spec.lowTraffic)."
        return
    steps = sum((stretch.lasts for stretch in found if stretch.lasts), timedelta())
    watch = f", and is watched for {format_duration(policy.after.watch)} afterwards" if policy.after.watch else ""
    yield f"A good version takes {format_duration(_seconds(steps))} and the time in which its pods get ready{watch}."


def _reach(policy: Policy, today: Today, last: Stretch) -> Iterator[str]:
    mode = policy.analysis.statistical
    limit = f"{format_ratio(policy.error_rate.max)} for {format_duration(policy.error_rate.sustained)}"
    if mode is Statistical.OFF:
        yield f"The comparison with stable is off: only a limit takes a version back (errors: {limit})."
        return
    tolerated = compare.terms(policy, compare.ERRORS_VS_STABLE)
    most = tolerated.tolerated * (today.history.stable.ratio + tolerated.slack)
    if last.caught is None:
        yield f"At this rate the comparison with stable catches no version; the limit does (errors: {limit})."
    else:
        yield f"Nine of ten versions that fail {_caught(last.caught)} are caught by the end of the last step."
    yield f"What fails up to {_percent(most)} is as good as stable, by policy."
    if mode is Statistical.OBSERVE:
        yield "It is only observed: a limit alone takes a version back."


def warnings(policy: Policy, today: Today, found: Sequence[Stretch], now: datetime) -> Iterator[str]:
    """What SREs should mend or know before they trust the policy with this service."""
    if today.problem:
        yield today.problem
    paths = ["spec.errorRate", *(f"spec.slos[{i}] ({rule.name})" for i, rule in enumerate(policy.slos))]
    for path, rule in zip(paths, policy.request_rules, strict=True):
        yield from _of_rule(path, rule, policy, today)
    for number, stretch in enumerate(found, 1):
        enough = today.rps * stretch.step.weight / 100 * (stretch.lasts or stretch.step.bake).total_seconds()
        if enough < policy.min_requests * 0.999:
            rest = "the change stays there" if stretch.lasts is None else "it goes on marked LowEvidence"
            yield (
                f"step {number}: {enough:.0f} of the {policy.min_requests} requests of spec.minRequests come in "
                f"{format_duration(_seconds(stretch.lasts or stretch.step.bake))}: {rest}; give it a larger weight"
            )
    if today.scraped_every * 2 > policy.metrics.stale_after:
        stale = format_duration(policy.metrics.stale_after)
        yield (
            f"spec.metrics.staleAfter is {stale}, and scrapes are {format_duration(today.scraped_every)} apart: "
            f"one that is lost stops the change (NoData); write at least {format_duration(3 * today.scraped_every)}"
        )
    yield from _of_windows(policy, found, now)


def _of_rule(path: str, rule: Rule, policy: Policy, today: Today) -> Iterator[str]:
    limit, had = rule.bad_ratio_max, today.bad.get(rule.name)
    if had is None:
        return
    does = sentences.does(rule, f"{_percent(had)} of its {rule.of}")
    shown = f"{path}: stable {does}, limit {_percent(limit)}"
    if had > limit:
        yield f"{shown}: no change starts (StableOutOfBudget)"
    elif had > limit / 2:
        yield f"{shown}: a bad minute of stable's own is above it"
    expected = today.rps * policy.steps[0].weight / 100 * rule.window.total_seconds()
    if 0 < expected * limit < _STEADY:
        enough = timedelta(seconds=rule.window.total_seconds() * _STEADY / (expected * limit))
        one = "one bad one is above it, and " if expected * limit < 1 else ""
        mend = f"write {format_duration(_minutes(enough))}" if enough <= WINDOW_MAX else "the comparison has to find it"
        yield (
            f"{path}.window: {expected:.0f} {rule.of} in {format_duration(rule.window)} at {policy.steps[0].weight} %, "
            f"limit {_percent(limit)}: {one}a {format_duration(rule.window)} without any starts the "
            f"{format_duration(rule.sustained)} anew; {mend}"
        )


def _of_windows(policy: Policy, found: Sequence[Stretch], now: datetime) -> Iterator[str]:
    """Openings in which a change of this policy cannot start, for it takes longer."""
    needs = policy.needs()
    if not policy.window.opens:
        return
    short = [o for o, _ in zip(openings(policy.window, now), range(10), strict=False) if o.end - o.start < needs]
    if short and short[0].end != FOREVER:
        yield (
            f"spec.window: {opening_text(short[0])} is shorter than the {format_duration(needs)} that a change may "
            "need: none starts in it"
        )


def _caught(share: float | None) -> str:
    return "none" if share is None else f"{_percent(share)} or more"


def _percent(share: float) -> str:
    return format_ratio(float(f"{share:.2g}"))


def _seconds(value: timedelta) -> timedelta:
    return timedelta(seconds=round(value.total_seconds()))


def _minutes(value: timedelta) -> timedelta:
    """Whole ones, upwards."""
    return timedelta(minutes=-(-value // timedelta(minutes=1)))
