"""Asks Prometheus for all changes at once, at a steady beat, and wakes those that have news."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import NoReturn, Protocol

import structlog

from controller.core import compare
from controller.core.gates import ABOUT_STABLE
from controller.core.model import Change, Measurements, Phase, Stage, State, Strategy, Target
from controller.core.policy import Policy, Statistical
from controller.metrics.presets import PODS, of_logs, preset_of
from controller.metrics.source import Subject

log = structlog.get_logger()

UNDER_WATCH = (Phase.PROGRESSING, Phase.PROMOTING, Phase.ROLLING_BACK)
SLACK = timedelta(minutes=1)
"""Increments need the sample before the first one that is wanted."""


class Source(Protocol):
    async def measure(self, subjects: Sequence[Subject], now: datetime) -> Mapping[tuple[str, str], Measurements]: ...
    async def ping(self) -> str: ...


class Measuring:
    """`running`: the changes that are not over, with their states; each state has the policy that is to be asked about.

    `wake` is told which have new measurements.
    """

    def __init__(
        self,
        source: Source,
        running: Callable[[], Iterable[tuple[Change, State]]],
        wake: Callable[[str, str], None],
        answers: Callable[[bool], None],
        now: Callable[[], datetime],
    ) -> None:
        self._source, self._running, self._wake, self._answers, self._now = source, running, wake, answers, now
        self.begun = asyncio.Event()
        """Whether it was measured at all: before that a look would find that nothing is known."""
        self._newest: dict[tuple[str, str], Measurements] = {}
        self._trouble = ""

    def newest(self, namespace: str, change: str) -> Measurements | None:
        return self._newest.get((namespace, change))

    async def run(self, interval: timedelta, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> NoReturn:
        while True:
            await self.once()
            await sleep(interval.total_seconds())

    async def once(self) -> None:
        now = self._now()
        running = list(self._running())
        subjects = [s for change, state in running for s in subjects_of(change, state, now)]
        measured = dict(await self._source.measure(subjects, now)) if subjects else {}
        answered = any(not m.problem for m in measured.values())
        problem = "" if answered else await self._source.ping()
        self._answers(not problem)
        if problem != self._trouble:
            (log.warning if problem else log.info)(
                "prometheus", problem=problem or None, reason=problem.partition(":")[0] or "Answers"
            )
            self._trouble = problem
        for change, state in running:
            key = (change.namespace, change.name)
            if key not in measured and not state.phase.terminal:
                measured[key] = Measurements(now, problem=problem)
        news = [
            key
            for key, m in measured.items()
            if key not in self._newest or self._newest[key].problem != m.problem or m.arms or m.incidents
        ]
        self._newest = measured
        self.begun.set()
        for key in news:
            self._wake(*key)


def subjects_of(change: Change, state: State, now: datetime) -> Iterable[Subject]:
    """What to ask about a change: how stable does when it is about to start, and both once any of it is exposed."""
    policy = state.policy
    exposed = state.weighted_at is not None and state.phase in UNDER_WATCH
    if policy is None or not (exposed or state.reason in ABOUT_STABLE):
        return
    source = preset_of(policy.metrics)
    for target in state.targets:
        if target.strategy is Strategy.CANARY or target.replica_set or not exposed:
            subject = Subject(
                namespace=change.namespace,
                change=change.name,
                target=target.name,
                rules=(*policy.request_rules, *compare.questions(state, target.name)),
                incidents=policy.incidents,
                source=source if target.strategy is Strategy.CANARY or source.by_pods else PODS,
                services=target.services,
                canary_pods=_canary_pods(state, target) if exposed else "",
                stable_pods=f"{target.replica_set if state.stage is Stage.WATCH else target.stable_replica_set}-",
                since=_since(state, target, policy, now),
                profile=not exposed and policy.analysis.statistical is not Statistical.OFF,
            )
            yield subject
            if policy.log_errors:
                yield replace(subject, rules=(policy.log_errors,), source=of_logs(policy.log_errors))


def _canary_pods(state: State, target: Target) -> str:
    """Once a canary is promoted and gone, the Deployment's own pods are the only arm."""
    if target.strategy is Strategy.NATIVE:
        return f"{target.replica_set}-"
    return "" if state.stage is Stage.WATCH else f"{target.canary}-"


def _since(state: State, target: Target, policy: Policy, now: datetime) -> datetime:
    """As far back as the judgement has not been committed, or as this step's requests are counted."""
    if state.weighted_at is None and policy.analysis.statistical is not Statistical.OFF:
        return now - compare.HISTORY
    judged = [b.last_at for b in state.breaches if b.target == target.name and b.last_at]
    judged += [compare.newest(c.monitors) for c in state.comparisons if c.target == target.name]
    first = min([*judged, state.settled_at or now, now], default=now)
    return first - compare.lookback(policy) - SLACK
