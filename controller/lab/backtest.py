"""`serin backtest`: what a policy would have decided about roll-outs that are over, from what Prometheus has kept.

At each moment the controller's own queries are asked as of then, and its own core decides. The cluster is made up: it
does at once what the policy's steps ask for, while the requests are those that each revision really had.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import accumulate

from controller.core.blocks import NO_REQUESTS, Counts
from controller.core.codec import format_duration
from controller.core.model import Measurements, Phase
from controller.core.policy import ChangeType, ErrorRate, Policy
from controller.core.template import canary_name
from controller.lab import LabError
from controller.lab.cluster import Cluster, Server
from controller.lab.play import Look, play
from controller.lab.recorded import Recorder, Workload
from controller.lab.simulate import rows
from controller.metrics.arms import Subject
from controller.metrics.batch import LOOKBACK_MAX
from controller.metrics.presets import PRESETS, preset_of

USUAL = timedelta(minutes=5)
"""What had most of the requests in so long a time is the stable revision."""
START = timedelta(seconds=10)
"""How long before its first requests the change is started, so that these are the canary's."""


@dataclass(frozen=True)
class Revision:
    """What the pods of one ReplicaSet answered, and when: (moment, all until then), oldest first."""

    pods: str
    """How their names begin."""
    answered: Sequence[tuple[datetime, Counts]]

    @property
    def first_at(self) -> datetime:
        """The end of the interval in which it had its first requests."""
        return next(at for at, counts in self.answered if counts.total)

    @property
    def last_at(self) -> datetime:
        return next(at for at, counts in self.answered if counts.total == self.answered[-1][1].total)

    def until(self, at: datetime) -> Counts:
        found = bisect_right(self.answered, at, key=lambda pair: pair[0])
        return self.answered[found - 1][1] if found else NO_REQUESTS

    def between(self, begin: datetime, end: datetime) -> Counts:
        before, after = self.until(begin), self.until(end)
        return Counts(after.bad - before.bad, after.total - before.total)


@dataclass(frozen=True)
class Rollout:
    """A revision that got requests while another one had them."""

    stable: Revision
    new: Revision


@dataclass(frozen=True)
class Tried:
    """A roll-out, and what the policy would have made of it."""

    rollout: Rollout
    looks: Sequence[Look]

    @property
    def verdict_at(self) -> datetime | None:
        history = self.looks[-1].state.history
        return next((record.at for record in history if record.phase is Phase.ROLLING_BACK), None)


def rollouts(recorder: Recorder, workload: Workload, policy: Policy, begin: datetime, end: datetime) -> list[Rollout]:
    """Those that began in the range, oldest first. Raises LabError when nothing can be read."""
    if not preset_of(policy.metrics).by_pods:
        usable = ", ".join(name for name, preset in sorted(PRESETS.items()) if preset.by_pods)
        raise LabError(
            f"the source {policy.metrics.preset} counts by Service, which all revisions share: "
            f"take one that counts by pods, --preset {usable.replace(', ', ' or ')}"
        )
    revisions = _revisions(recorder, workload, policy, begin, end)
    if not revisions:
        source = preset_of(policy.metrics).requests
        raise LabError(
            f"no requests of {workload.namespace}/{workload.name} in that time: {source} has none of its pods"
        )
    found = [Rollout(stable, new) for new in revisions if (stable := _usual(revisions, new))]
    # The pods of a canary that has won are followed by those of its Deployment: that is no other roll-out.
    won = f"{canary_name(workload.name)}-"
    return sorted((r for r in found if not r.stable.pods.startswith(won)), key=lambda rollout: rollout.new.first_at)


def _usual(revisions: Sequence[Revision], new: Revision) -> Revision | None:
    """The one that had most of the requests just before another had its first; None: it is the first of all."""
    had = {r.between(new.first_at - USUAL, new.first_at).total: r for r in revisions if r.first_at < new.first_at}
    most = max(had, default=0.0)
    return had[most] if most else None


def _revisions(
    recorder: Recorder, workload: Workload, policy: Policy, begin: datetime, end: datetime
) -> list[Revision]:
    """Read in parts that one question may be about."""
    increments: dict[str, dict[datetime, Counts]] = defaultdict(lambda: defaultdict(Counts))
    while begin < end:
        until = min(begin + LOOKBACK_MAX, end)
        measured = recorder.measure([workload.whole(policy, begin)], until)
        if measured.problem and not measured.arms:
            raise LabError(measured.problem)
        for side in ("canary", "stable"):
            arm = measured.arms.get((workload.name, ErrorRate.name, side))
            for sample in arm.samples if arm else ():
                for pod, bad, total in sample.pods:
                    increments[pod.rpartition("-")[0]][sample.at] += Counts(bad, total)
        begin = until
    return [
        Revision(f"{pods}-", list(zip(sorted(its), accumulate(its[at] for at in sorted(its)), strict=True)))
        for pods, its in increments.items()
        if any(counts.total for counts in its.values())
    ]


class Recording:
    """The requests of a roll-out, as they were (`play.Traffic`)."""

    def __init__(self, recorder: Recorder, workload: Workload, rollout: Rollout) -> None:
        self._recorder, self._workload, self._rollout = recorder, workload, rollout
        self.new = self.stable = NO_REQUESTS

    def serve(self, until: datetime, servers: Iterable[Server]) -> None:
        self.new, self.stable = (r.until(until) for r in (self._rollout.new, self._rollout.stable))

    def measure(self, subjects: Iterable[Subject], now: datetime) -> Measurements:
        canary = f"{canary_name(self._workload.name)}-"
        asked = [replace(s, canary_pods=self._rollout.new.pods) if s.canary_pods == canary else s for s in subjects]
        return self._recorder.measure(asked, now) if asked else Measurements(now)


def backtest(
    recorder: Recorder, workload: Workload, policy: Policy, kind: ChangeType, rollout: Rollout, end: datetime
) -> Tried:
    """Plays the roll-out until its verdict, or until its pods have no more requests, or its record ends."""
    begin = rollout.new.first_at - START
    stable, new = (r.pods.removeprefix(f"{workload.name}-").removesuffix("-") for r in (rollout.stable, rollout.new))
    cluster = Cluster(
        policy,
        kind,
        begin,
        namespace=workload.namespace,
        name=workload.name,
        stable=stable,
        new=new,
        ready_after=timedelta(),
        accepted_after=timedelta(),
    )
    looks = []
    for look in play(policy, cluster, Recording(recorder, workload, rollout), begin, min(end, rollout.new.last_at)):
        looks.append(look)
        if look.state.phase is Phase.ROLLING_BACK:
            break
    return Tried(rollout, looks)


# --- What is said of it ---


def told(tried: Tried) -> Iterator[str]:
    """Lines for people."""
    new, stable = tried.rollout.new, tried.rollout.stable
    yield f"{new.first_at:%Y-%m-%d %H:%M:%S} UTC: {new.pods}* beside {stable.pods}*"
    yield f"  {'at':>8}  {'failed':>6}  verdict"
    for row in rows(tried.looks):
        yield f"  {row.at:%H:%M:%S}  {row.failed:>6.0f}  {row.verdict:<16}  {row.text}"
        if row.at == tried.verdict_at:
            break  # how it would have gone back is not in the record
    yield f"  {_ending(tried)}"


def _ending(tried: Tried) -> str:
    new, end = tried.rollout.new, tried.looks[-1].state
    every = new.answered[-1][1]
    had = f"{every.bad:.0f} of its {every.total:.0f} requests failed"
    if tried.verdict_at:
        after = format_duration(tried.verdict_at - new.first_at)
        later = f"{every.bad - new.until(tried.verdict_at).bad:.0f} of them later"
        return f"It would have gone back {after} after its first requests: {end.cause}; {had}, {later}."
    if end.phase is Phase.WAITING:
        return f"It would not have started: {end.reason}: {end.message}; {had}."
    if end.phase is Phase.COMPLETED:
        return f"It would have completed; {had}."
    return f"Nothing takes it back until its record ends, at {end.weight} % ({end.reason}); {had}."
