"""`serin simulate`: a change that never was, under a real policy; one to look at, or many to count."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import quantiles

from controller.core import compare
from controller.core.codec import format_duration, format_ratio
from controller.core.model import Evidence, Phase, State, Verdict
from controller.core.policy import ChangeType, Policy
from controller.lab.cluster import Cluster
from controller.lab.play import Look, play
from controller.lab.service import Scenario, Service
from controller.metrics.presets import preset_of

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
HISTORY_STEP = timedelta(seconds=5)
WORST = (Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.PASS)


@dataclass(frozen=True)
class Played:
    """A change as it went. `turned_at`: when the new version began to fail more than stable; None: it never did."""

    looks: Sequence[Look]
    begun_at: datetime
    turned_at: datetime | None

    @property
    def end(self) -> State:
        return self.looks[-1].state

    @property
    def verdict_at(self) -> datetime | None:
        """When it was decided that it goes back; None: it was not."""
        return next((r.at for r in self.end.history if r.phase is Phase.ROLLING_BACK), None)

    @property
    def found_after(self) -> timedelta | None:
        """How long users bore with it: from when it was bad, and had requests, to the verdict; None: not at all."""
        verdict_at, weighted_at, turned_at = self.verdict_at, self.end.weighted_at, self.turned_at
        if not (verdict_at and weighted_at and turned_at) or verdict_at < turned_at:
            return None
        return verdict_at - max(turned_at, weighted_at)

    @property
    def false_alarm(self) -> bool:
        """Whether it went back while it was as good as stable."""
        return self.verdict_at is not None and self.found_after is None

    @property
    def failed(self) -> float:
        """Requests that the new version failed."""
        return self.looks[-1].new.bad


def simulate(policy: Policy, kind: ChangeType, scenario: Scenario, seed: str) -> Played:
    """The same seed gives the same change."""
    cluster = Cluster(policy, kind, BEGIN, replicas=scenario.replicas)
    now = BEGIN - compare.HISTORY
    service = Service(scenario, preset_of(policy.metrics), now, seed)
    while now < BEGIN:
        now += HISTORY_STEP
        service.serve(now, cluster.servers(BEGIN))
    service.begin(BEGIN)
    looks = tuple(play(policy, cluster, service, BEGIN, BEGIN + scenario.onset + 2 * policy.needs()))
    worse = scenario.canary_errors > scenario.stable_errors or scenario.canary_slow > scenario.stable_slow
    return Played(looks, BEGIN, BEGIN + scenario.onset if worse else None)


# --- What is said of one ---


@dataclass(frozen=True)
class Row:
    """A moment at which something turned. `failed`: requests that the new version has failed so far."""

    at: datetime
    weight: int
    verdict: str
    text: str
    failed: float


def rows(looks: Sequence[Look]) -> Iterator[Row]:
    """The steps of the journey, and between them each turn of the verdict."""
    told, shown = 0, None
    for look in looks:
        state = look.state
        for record in state.history[told:]:
            yield Row(record.at, record.weight, record.reason, record.message, look.new.bad)
        moved = len(state.history) > told
        told = len(state.history)
        evidence = leading(state)
        judged = evidence and not moved and state.phase in (Phase.PROGRESSING, Phase.PROMOTING)
        # At the beginning of each step no verdict is known, and nothing is wrong.
        trouble = evidence and (evidence.bad or state.no_data_since)
        if evidence and judged and evidence.verdict is not shown and (trouble or evidence.verdict is Verdict.PASS):
            yield Row(look.at, look.weight, evidence.verdict, evidence.message, look.new.bad)
            shown = evidence.verdict
    if looks and not looks[-1].state.phase.terminal:
        last = looks[-1]
        yield Row(last.at, last.weight, last.state.reason, last.state.message, last.new.bad)


def leading(state: State) -> Evidence | None:
    """The evidence that says most: of the worst verdict, of the comparison with stable rather than of a limit."""
    for verdict in WORST:
        if found := [e for e in state.evidence if e.verdict is verdict]:
            return max(found, key=lambda e: (e.rule in compare.RULES, e.bad))
    return None


def timeline(played: Played) -> Iterator[str]:
    """Lines for people."""
    yield f"{'after':>8}  {'weight':>6}  {'failed':>6}  verdict"
    for row in rows(played.looks):
        after = format_duration(row.at - played.begun_at)
        yield f"{after:>8}  {row.weight:>4} %  {row.failed:>6.0f}  {row.verdict:<16}  {row.text}"
    yield ""
    yield ending(played)


def ending(played: Played) -> str:
    end, last = played.end, played.looks[-1]
    lasted = format_duration(last.at - played.begun_at)
    failed = f"{last.new.bad:.0f} of the {last.new.total:.0f} requests that the new version answered failed"
    if end.phase is Phase.WAITING:
        return f"It does not start: {end.reason}: {end.message}"
    if played.verdict_at is None:
        how = "It completes" if end.phase is Phase.COMPLETED else f"It is {end.phase} ({end.reason})"
        low = ", marked LowEvidence" if end.low_evidence else ""
        return f"{how} after {lasted}{low}; {failed}."
    found = played.found_after
    since = f"{format_duration(found)} after it was bad for users" if found is not None else "a false alarm"
    went = format_duration(played.verdict_at - played.begun_at)
    return f"It goes back after {went}, {since}: {end.cause}; {failed}."


# --- What is said of many ---


@dataclass(frozen=True)
class Ending:
    """How one of many ended."""

    phase: Phase
    cause: str
    found_after: timedelta | None
    failed: float


def outcome(played: Played) -> Ending:
    end = played.end
    cause = end.cause if played.verdict_at else "" if end.phase.terminal else end.reason
    if played.false_alarm:
        cause = f"{cause}, a false alarm"
    return Ending(end.phase, cause, played.found_after, played.failed)


def summary(endings: Sequence[Ending]) -> Iterator[str]:
    """How often they ended how, the commonest first; the time to the verdict, and what users bore."""
    groups: dict[tuple[Phase, str], list[Ending]] = defaultdict(list)
    for each in endings:
        groups[each.phase, each.cause].append(each)
    yield f"{'':>12}  {'':<40}  {'verdict after':^15}  {'failed requests':^15}"
    yield f"{'changes':>12}  {'how they ended':<40}  {'p50':>7} {'p90':>7}  {'p50':>7} {'p90':>7}"
    for (phase, cause), its in sorted(groups.items(), key=lambda item: -len(item[1])):
        share = format_ratio(round(len(its) / len(endings), 3))
        found = [each.found_after.total_seconds() for each in its if each.found_after is not None]
        after = [f"{value:.0f} s" for value in p50_and_p90(found)] if found else ["", ""]
        failed = [f"{value:.0f}" for value in p50_and_p90([each.failed for each in its])]
        how = f"{phase} {cause}".strip()
        count = f"{len(its)} ({share})"
        yield f"{count:>12}  {how:<40}  {after[0]:>7} {after[1]:>7}  {failed[0]:>7} {failed[1]:>7}"


def p50_and_p90(values: Sequence[float]) -> tuple[float, float]:
    deciles = quantiles(values, n=10, method="inclusive") if len(values) > 1 else [values[0]] * 9
    return deciles[4], deciles[8]


def describe(scenario: Scenario, noise: str, policy: Policy, kind: ChangeType) -> str:
    turns = f" from {format_duration(scenario.onset)} on" if scenario.onset else ""
    stable, new = format_ratio(scenario.stable_errors), format_ratio(scenario.canary_errors)
    slow = f"; slow are {format_ratio(scenario.stable_slow)} and {format_ratio(scenario.canary_slow)}"
    return (
        f"A {kind} change: stable fails {stable} of its requests, the new version {new}{turns}"
        f"{slow if scenario.stable_slow or scenario.canary_slow else ''}\n"
        f"{scenario.rps:g} requests/s to {scenario.replicas} pods, noise {noise}; source {policy.metrics.preset}, "
        f"scraped every {format_duration(scenario.scrape)} and known {format_duration(scenario.lag)} later"
    )
