"""What must hold, told of the truth alone: DESIGN §6, and what every row of the rules table is there for.

Nothing here asks `controller.core.checks` or `gates`: a rule that were wrong would agree with itself. Three kinds:
what no write may do, what no move forward may go past (`NO_START`, `NO_STEP`), and what has to take a change back in
bounded time while nothing disturbs (`GO_BACK`).
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from math import ceil
from typing import Protocol

from controller.cluster.read import Known
from controller.core.compare import RULES as COMPARED
from controller.core.model import (
    LOCKED,
    Action,
    Decision,
    Held,
    JobOutcome,
    Phase,
    Stage,
    State,
    Strategy,
    Target,
    Verdict,
)
from controller.core.policy import ChangeType, LowTraffic, Policy, Statistical, When
from controller.core.windows import OnClose
from tests.simulation.storm.cluster import (
    FORGERS,
    LATENCY,
    LOGS,
    MANAGERS,
    Cluster,
    Way,
    Workload,
    during,
    share,
)
from tests.simulation.storm.plans import UNANSWERED_HOLD, UNANSWERED_MAX

UNDER_WAY = (Phase.PROGRESSING, Phase.PROMOTING)
SOON = timedelta(seconds=12)
"""Time enough for two looks and a write."""
NAMED = timedelta(seconds=6)
"""Time enough for one look, and the name of a wait."""
CHATTY, CHATTY_FOR = 60, timedelta(seconds=70)
"""More commits of one change than that in so long are too many."""
CLOCKS = timedelta(seconds=6)
"""By so much may a clock be off that is not told so (`run`), and a moment more."""


class Broken(AssertionError):
    """An invariant does not hold."""

    def __init__(self, rule: str, detail: str) -> None:
        super().__init__(rule, detail)
        self.rule, self.detail = rule, detail

    def __str__(self) -> str:
        return f"{self.rule}: {self.detail}"


class Actor(Protocol):
    """The process that writes, as far as it matters what it could know."""

    @property
    def seen(self) -> datetime:
        """How far its watches have come."""

    @property
    def prometheus_problem(self) -> str:
        """Of the newest answers."""

    @property
    def unseen(self) -> bool:
        """They found no series at all."""

    @property
    def refused(self) -> bool:
        """The API server refuses all its writes but those of status."""

    @property
    def surprised(self) -> bool:
        """It was stopped since it looked: what happened meanwhile it cannot know."""


@dataclass(frozen=True)
class Sight:
    """One change at one moment, for the predicates. `before` is its status, as it is or was until this commit."""

    cluster: Cluster
    known: Known
    before: State
    policy: Policy
    actor: Actor

    @property
    def now(self) -> datetime:
        return self.cluster.now

    @property
    def type(self) -> ChangeType | None:
        return self.known.change.type

    def workloads(self) -> Iterator[tuple[Target, Workload]]:
        return ((t, self.cluster.workloads[t.name]) for t in self.before.targets)

    def canaries(self) -> Iterator[tuple[Target, Workload]]:
        return ((t, w) for t, w in self.workloads() if t.strategy is Strategy.CANARY)

    def decisions(self, *actions: Action) -> list[Decision]:
        """Those that stand, as far as the writer could know of them; oldest first."""
        change = self.known.change
        found = [d for past in self.cluster.decisions.values() if (d := past.at(self.actor.seen)) is not None]
        return [
            d
            for d in found
            if d.change_id == change.change_id
            and d.change_uid == change.uid
            and d.type == change.type
            and d.action in actions
            and d.by not in FORGERS
            and (d.action in ANYONES or d.by != "dev")
        ]

    def standing(self, *actions: Action) -> list[Decision]:
        """Those about this revision whose authors may still decide."""
        return [
            d
            for d in self.decisions(*actions)
            if d.revision == self.before.revision and d.by not in self.cluster.revoked
        ]

    @property
    def free(self) -> bool:
        expires = (d.expires_at for d in self.standing(Action.BYPASS))
        return self.before.revert or any(at is not None and at > self.now - SOON for at in expires)

    def share(self, arm: str, rule: str, window: timedelta, name: str) -> tuple[float, float]:
        """(bad, total) in the newest `window` that Prometheus has."""
        kept = self.cluster.samples.get((name, rule, arm), [])
        found = [s for s in kept if s.at > self.cluster.scraped_at - window]
        return sum(s.bad for s in found), sum(s.total for s in found)


ANYONES = (Action.ROLLBACK, Action.PAUSE, Action.RESUME, Action.DENY)
Predicate = Callable[[Sight], bool]


# --- What no start may go past. Those of FREE do not bind what is bypassed or a revert. ---


def spec(sight: Sight, name: str) -> str:
    return str((sight.known.change.spec or {}).get(name, ""))


def approved(sight: Sight) -> list[Decision]:
    return list({d.by: d for d in sight.standing(Action.APPROVE)}.values())


def asks_first(sight: Sight) -> bool:
    first = all(not t.stable_revision for t in sight.before.targets)
    return sight.policy.approval.required > 0 and sight.policy.approval.when is When.BEFORE and not first


def stable_breaks(sight: Sight) -> bool:
    """Clearly, and for long enough to be seen."""
    for t, w in sight.workloads():
        limit = min(r.bad_ratio_max for r in sight.policy.request_rules if not r.slower_than)
        bad, total = sight.share("stable", "", sight.policy.error_rate.window, w.name)
        if t.stable_revision and total >= 2 * sight.policy.min_requests and bad > 2 * limit * total:
            return True
    return False


def pauses(sight: Sight) -> bool:
    found = sight.decisions(Action.PAUSE, Action.RESUME)
    found = [
        d
        for d in found
        if d.by not in sight.cluster.revoked or d.created_at is None or d.created_at < sight.cluster.revoked[d.by]
    ]
    taken = {r.uid for r in sight.before.decisions if r.counts}
    found = [d for d in found if d.uid in taken]
    return bool(found) and max(found, key=lambda d: d.created_at or sight.now).action is Action.PAUSE


def jobs_left(sight: Sight) -> bool:
    runs = {run.cron_job: run.outcome for run in sight.before.jobs}
    return any(
        rule.required and runs.get(rule.cron_job) is not JobOutcome.SUCCEEDED for rule in sight.policy.before.jobs
    )


def two_active(w: Workload) -> bool:
    return sum(len(pods) > 0 for pods in w.sets.values()) > 1


NO_START: dict[str, Predicate] = {
    "unusable": lambda s: bool(s.known.change.problem),
    "environment_lacking": lambda s: bool(s.cluster.lacking or s.cluster.trail_problem),
    "policy_unusable": lambda s: s.type is None or bool(s.cluster.policies[s.type].at(s.actor.seen)[1]),
    "duplicate_id": lambda s: any(o.change_id == s.known.change.change_id for o in s.cluster.foreign),
    "no_deployment": lambda s: not s.before.targets,
    "rejected_revision": lambda s: any(
        k.state.rejected
        and k.state.phase.terminal
        and w.revision == t.revision
        and w.retry != k.change.change_id
        and any(o.name == t.name and o.revision == t.revision for o in k.state.targets)
        for t, w in s.workloads()
        for k in s.cluster.standing()
        if k.change.name != s.known.change.name
    ),
    "workload_unfit": lambda s: any(
        w.controlled_by
        or not w.paused
        or two_active(w)
        or (t.strategy is Strategy.CANARY and "someone" in w.services.values())
        for t, w in s.workloads()
    ),
    "type_differs": lambda s: any(
        w.kind != s.type and (w.kind or s.type is ChangeType.EMERGENCY) for _, w in s.workloads()
    ),
    "paused": pauses,
    "metrics_unreachable": lambda s: any(s.canaries()) and bool(s.actor.prometheus_problem),
}
NO_START_UNLESS_FREE: dict[str, Predicate] = {
    "form_incomplete": lambda s: (
        any(not spec(s, name) for name in s.policy.form.required) and any(t.stable_revision for t in s.before.targets)
    ),
    "not_standard": lambda s: s.policy.scope is not None and any(t.stable_revision for t in s.before.targets),
    "awaiting_approval": lambda s: asks_first(s) and len(approved(s)) < s.policy.approval.required,
    "tests_unverified": lambda s: asks_first(s) and s.policy.approval.tests and not any(d.tests for d in approved(s)),
    "standard_cannot_go_back": lambda s: spec(s, "rollback") == "forwardOnly" and s.type is ChangeType.STANDARD,
    "forward_only_unsaid": lambda s: (
        asks_first(s) and spec(s, "rollback") == "forwardOnly" and not any(d.forward_only for d in approved(s))
    ),
    "review_overdue": lambda s: (
        s.policy.review.blocks
        and s.type is not ChangeType.EMERGENCY
        and any(
            k.state.review_due_at
            and not k.state.closed_at
            and k.state.review_due_at <= s.now - SOON
            and {t.name for t in k.state.targets} & {t.name for t in s.before.targets}
            for k in s.cluster.standing()
        )
    ),
    "outside_window": lambda s: s.type is not ChangeType.EMERGENCY and closed(s),
    "stable_out_of_budget": lambda s: (
        s.type is not ChangeType.EMERGENCY
        and not any(d.over_budget for d in approved(s))
        and any(s.canaries())
        and stable_breaks(s)
    ),
    "gitops_will_revert": lambda s: s.type is not ChangeType.EMERGENCY and any(w.reverts for _, w in s.canaries()),
    "unseen": lambda s: s.type is not ChangeType.EMERGENCY and any(s.canaries()) and s.actor.unseen,
    "jobs_pending": jobs_left,
}


def closed(sight: Sight) -> bool:
    closes_at = sight.cluster.closes_at
    if closes_at and sight.now >= closes_at:
        return True
    return any(f.from_ and f.until and f.from_ <= sight.now < f.until for f in sight.policy.window.freezes)


# --- What no step up may go past ---


def need(replicas: int, weight: int) -> int:
    return max(1, ceil(replicas * weight / 100))


def settled_for(sight: Sight) -> timedelta:
    """Since the last of the routes got the weight of this step."""
    written = [way.written_at for _, w in sight.canaries() for way in w.routes.values()]
    return sight.now - max(written, default=sight.now)


def hurried(sight: Sight) -> bool:
    taken = {r.uid for r in sight.before.decisions if r.counts}
    return any(d.uid in taken for d in sight.decisions(Action.PROMOTE))


def few(sight: Sight) -> bool:
    """Fewer requests in this step than a verdict needs."""
    since = min((way.written_at for _, w in sight.canaries() for way in w.routes.values()), default=sight.now)
    for _, w in sight.canaries():
        kept = sight.cluster.samples.get((w.name, "", "canary"), [])
        if sum(s.total for s in kept if s.at > since) < sight.policy.min_requests * 0.9:
            return True
    return False


def over(sight: Sight) -> bool:
    """Some limit is clearly exceeded over its window, in data that can be had."""
    if sight.now < sight.cluster.prometheus.until + timedelta(seconds=15):
        return False
    for rule in sight.policy.rules:
        source = LOGS if rule.name == LOGS else LATENCY if rule.slower_than else ""
        for _, w in sight.canaries():
            bad, total = sight.share("canary", source, rule.window, w.name)
            if total and bad > 1.5 * rule.bad_ratio_max * total:
                return True
    return False


def objected(sight: Sight) -> bool:
    taken = {r.uid for r in sight.before.decisions if r.counts}
    found = [d for d in sight.decisions(Action.APPROVE, Action.DENY) if d.uid in taken]
    return bool(found) and max(found, key=lambda d: (d.created_at, d.action is Action.DENY)).action is Action.DENY


NO_STEP: dict[str, Predicate] = {
    "capacity_pending": lambda s: any(
        s.cluster.canary_ready(w, s.actor.seen) < need(t.judged or t.replicas, s.before.weight) for t, w in s.canaries()
    ),
    "paused": pauses,
    "approval_denied": lambda s: s.policy.approval.when is When.AFTER and objected(s),
    "waits_for_window": lambda s: (
        s.policy.window.on_close is OnClose.HOLD
        and s.type is not ChangeType.EMERGENCY
        and s.before.window is not None
        and s.cluster.closes_at is not None
        and s.now > s.cluster.closes_at + CLOCKS
    ),
    "label_removed": lambda s: any(w.uid == t.uid and not w.label for t, w in s.workloads()),
    "service_strays": lambda s: any(w.strays for _, w in s.workloads()),
    "route_pending": lambda s: (
        any(way.weight != s.before.weight for _, w in s.canaries() for way in w.routes.values())
        or any(not w.routes for _, w in s.canaries())
    ),
    "no_data": lambda s: bool(s.actor.prometheus_problem),
    "over_limit": over,
    "baking": lambda s: not hurried(s) and settled_for(s) < s.policy.step(s.before.step).bake - CLOCKS,
    "low_traffic": lambda s: (
        not hurried(s)
        and few(s)
        and (s.policy.low_traffic is LowTraffic.HOLD or settled_for(s) < 2 * s.policy.step(s.before.step).bake - CLOCKS)
    ),
    "suspicious": lambda s: (
        s.policy.analysis.statistical is Statistical.ON
        and any(e.rule in COMPARED and e.verdict is Verdict.INCONCLUSIVE and e.bad for e in s.before.evidence)
    ),
}


# --- What takes a change back, while nothing disturbs, within a time of its own ---


def behaviours(sight: Sight) -> Iterator[tuple[Target, Workload, object]]:
    return ((t, w, sight.cluster.versions.get(t.revision)) for t, w in sight.workloads())


def new_pods(sight: Sight) -> bool:
    """Pods of the new revision are there."""
    return any(w.canary is not None or len(w.sets.get(t.revision, ())) for t, w in sight.workloads())


def failing(sight: Sight, rule_name: str, source: str, part: str) -> bool:
    rule = next((r for r in sight.policy.rules if r.name == rule_name), None)
    if rule is None or sight.cluster.rps < 10:
        return False
    for t, w, b in behaviours(sight):
        bad = share(getattr(b, part, None), sight.now)
        if bad > 1.2 * rule.bad_ratio_max and carries(sight, t, w):
            return True
    return False


def carries(sight: Sight, t: Target, w: Workload) -> bool:
    if sight.before.stage is Stage.WATCH:
        return bool(sight.cluster.ready(w, t.revision))
    return t.strategy is Strategy.CANARY and w.weight > 0 and sight.cluster.canary_ready(w) > 0


def spared(sight: Sight) -> bool:
    """An Emergency is not rolled back to what fails as much."""
    return sight.type is ChangeType.EMERGENCY and (
        sight.cluster.usual > 0 or share(sight.cluster.stable_errors, sight.now) > 0
    )


def asked_back(sight: Sight) -> bool:
    taken = [d for d in sight.decisions(Action.ROLLBACK) if d.by not in sight.cluster.revoked]
    entered = sight.before.started_at
    return any(entered and d.created_at and d.created_at > entered + timedelta(seconds=2) for d in taken)


def rewritten(sight: Sight) -> bool:
    """Something else has taken this step's weight six times."""
    since = sight.before.entered_at
    return since is not None and sum(at > since for at in sight.cluster.rewrites) >= 6 * len(sight.before.targets)


def stuck(sight: Sight) -> bool:
    """The Deployment lacks pods of the new revision, and none comes."""
    return any(
        w.uid == t.uid and w.revision == t.revision and w.failure and sight.cluster.ready(w, t.revision) < w.size
        for t, w in sight.workloads()
    )


@dataclass(frozen=True)
class Must:
    """`after`: for how long it has to be so, undisturbed."""

    when: Predicate
    after: Callable[[Policy], timedelta]
    phases: tuple[Phase, ...] = UNDER_WAY
    stages: tuple[Stage | None, ...] = (None, Stage.ROLL)
    by_will: bool = False
    """It takes back what is forward-only, too."""


def at_once(policy: Policy) -> timedelta:
    return SOON


def sustained(name: str) -> Callable[[Policy], timedelta]:
    def after(policy: Policy) -> timedelta:
        rule = next((r for r in policy.rules if r.name == name), policy.error_rate)
        return rule.sustained + rule.window + timedelta(seconds=20)

    return after


WATCHED = (None, Stage.ROLL, Stage.WATCH)
GO_BACK: dict[str, Must] = {
    "withdrawn": Must(lambda s: s.known.change.deleting, at_once, (Phase.WAITING, *UNDER_WAY), WATCHED, by_will=True),
    "deployment_deleted": Must(
        lambda s: any(w.uid != t.uid for t, w in s.workloads()), at_once, (Phase.WAITING, *UNDER_WAY), by_will=True
    ),
    "superseded": Must(
        lambda s: any(w.uid == t.uid and w.revision != t.revision for t, w in s.workloads()),
        at_once,
        UNDER_WAY,
        by_will=True,
    ),
    "superseded while waiting": Must(
        lambda s: (
            not s.known.change.revision
            and bool(s.before.targets)
            and all(w.uid == t.uid for t, w in s.workloads())
            and any(w.label != s.known.change.change_id or not w.held for _, w in s.workloads())
        ),
        lambda p: NAMED,
        (Phase.WAITING,),
    ),
    "denied": Must(
        lambda s: (
            s.policy.approval.when is When.BEFORE
            and any(d.revision == s.before.revision for d in s.decisions(Action.DENY) if d.by not in s.cluster.revoked)
        ),
        at_once,
        (Phase.WAITING,),
    ),
    "rollback_requested": Must(asked_back, at_once, UNDER_WAY, WATCHED, by_will=True),
    "pods_failing": Must(
        lambda s: (
            new_pods(s) and any(s.cluster.crashed(t.revision, s.now) and t.stable_revision for t, _ in s.workloads())
        ),
        lambda p: NAMED,
        UNDER_WAY,
        WATCHED,
    ),
    "canary_lost": Must(lambda s: any(w.weight and w.canary is None for _, w in s.canaries()), lambda p: NAMED),
    "pods_not_ready": Must(
        lambda s: any(
            w.weight > 0 and w.canary and s.cluster.canary_ready(w) < need(t.judged or t.replicas, w.weight)
            for t, w in s.canaries()
        ),
        lambda p: p.health.not_ready_max + SOON,
    ),
    "p0_incident": Must(
        lambda s: (
            s.type is not ChangeType.EMERGENCY
            and s.before.weighted_at is not None
            and any(i.began_at > s.before.weighted_at + timedelta(seconds=2) for i in s.cluster.incidents)
        ),
        lambda p: SOON,
        UNDER_WAY,
        WATCHED,
    ),
    "error_rate": Must(
        lambda s: failing(s, "error-rate", "", "errors") and not spared(s), sustained("error-rate"), UNDER_WAY, WATCHED
    ),
    "slo_burn": Must(
        lambda s: failing(s, "availability", "", "errors") and not spared(s),
        sustained("availability"),
        UNDER_WAY,
        WATCHED,
    ),
    "slow": Must(
        lambda s: failing(s, "latency", LATENCY, "slow") and not spared(s), sustained("latency"), UNDER_WAY, WATCHED
    ),
    "log_errors": Must(
        lambda s: failing(s, LOGS, LOGS, "log_errors") and not spared(s), sustained(LOGS), UNDER_WAY, WATCHED
    ),
    "worse_than_stable": Must(
        lambda s: (
            s.policy.analysis.statistical is Statistical.ON
            and s.cluster.rps >= 40
            and s.before.weight < 100
            and not s.cluster.usual
            and not share(s.cluster.stable_errors, s.now)
            and any(share(getattr(b, "errors", None), s.now) >= 0.4 and carries(s, t, w) for t, w, b in behaviours(s))
        ),
        lambda p: timedelta(seconds=30),
        (Phase.PROGRESSING,),
    ),
    "no_traffic": Must(
        lambda s: (
            s.before.weight < 100
            and any(
                during(getattr(b, "deaf", None), s.now) and carries(s, t, w) and s.cluster.rps * w.weight / 100 > 1
                for t, w, b in behaviours(s)
            )
        ),
        lambda p: UNANSWERED_MAX + 2 * SOON,
        (Phase.PROGRESSING,),
    ),
    "progress_deadline": Must(
        lambda s: any(w.canary and not s.cluster.canary_ready(w) for t, w in s.canaries()),
        lambda p: p.health.progress_deadline + 2 * SOON,
    ),
    "progress_deadline of the promotion": Must(
        stuck, lambda p: p.health.progress_deadline + 2 * SOON, (Phase.PROMOTING,), (Stage.ROLL,)
    ),
    "conflict": Must(rewritten, lambda p: NAMED, (Phase.PROGRESSING,)),
    "conflict in the promotion": Must(
        lambda s: (
            s.before.entered_at is not None
            and sum(at > s.before.entered_at for at in s.cluster.repauses) >= 6 * len(s.before.targets)
        ),
        lambda p: NAMED,
        (Phase.PROMOTING,),
        (Stage.ROLL,),
    ),
    "unpaused": Must(
        lambda s: any(
            w.uid == t.uid and w.revision == t.revision and len(w.sets.get(t.revision, ())) for t, w in s.canaries()
        ),
        lambda p: NAMED,
        (Phase.PROGRESSING,),
    ),
    "route_deadline": Must(
        lambda s: s.now < s.cluster.unaccepted_until and s.before.settled_at is None and any(s.canaries()),
        lambda p: p.health.progress_deadline + 2 * SOON,
        (Phase.PROGRESSING,),
    ),
    "inconclusive": Must(
        lambda s: (
            bool(s.actor.prometheus_problem)
            and (s.before.settled_at is not None or s.before.promoted)
            and any(s.canaries())
        ),
        lambda p: p.no_data_deadline + 2 * SOON,
    ),
    "closed_on": Must(
        lambda s: (
            s.policy.window.on_close is OnClose.ROLL_BACK
            and s.before.window is not None
            and s.cluster.closes_at is not None
            and s.now >= s.cluster.closes_at
        ),
        at_once,
        (Phase.PROGRESSING,),
    ),
}
ENDS = ("withdrawn", "deployment_deleted", "superseded")
"""What ends a change that has nothing to go back to, too."""
BLIND = ("inconclusive", "route_deadline", "conflict", "conflict in the promotion")
"""What a fault of the platform itself leads to: it does not count as a disturbance of these."""
TOLD_ANYWAY = ("no_data", "route_pending", "write_refused", "contested")
"""Waits for such a fault to be over: it does not keep them from being named, either."""


# --- What a wait has to be called, while nothing disturbs ---


@dataclass(frozen=True)
class Named:
    """A wait that people have to find named: one of `reasons`, when it has lasted for a moment."""

    when: Predicate
    reasons: tuple[str, ...]
    phase: Phase = Phase.PROGRESSING
    after: timedelta = NAMED


def quiet_step(sight: Sight) -> bool:
    return not pauses(sight) and not closed(sight) and not objected(sight)


CONTESTED = ("Contested", "Conflict", "LabelRemoved", "ServiceChanged")
"""What somebody else does comes first."""
NAMES: dict[str, Named] = {
    "capacity_pending": Named(
        lambda s: (
            quiet_step(s)
            and any(
                w.canary and not w.weight and s.cluster.canary_ready(w) < need(t.replicas, s.before.weight)
                for t, w in s.canaries()
            )
        ),
        ("CapacityPending", "PermissionDenied"),
    ),
    "route_pending": Named(
        lambda s: (
            quiet_step(s)
            and s.now - s.actor.seen < NAMED
            and s.now < s.cluster.unaccepted_until
            and all(s.cluster.canary_ready(w) >= need(t.replicas, s.before.weight) for t, w in s.canaries())
        ),
        ("RoutePending", "RouteLost", "PermissionDenied"),
    ),
    "no_data": Named(
        lambda s: (
            quiet_step(s)
            and ready_for_all(s)
            and bool(s.actor.prometheus_problem)
            and s.before.no_data_since is not None
            and s.before.settled_at is not None
            and s.now >= s.cluster.unaccepted_until
        ),
        ("NoData",),
    ),
    "over_limit": Named(
        lambda s: (
            quiet_step(s)
            and over(s)
            and ready_for_all(s)
            and not s.actor.prometheus_problem
            and s.before.settled_at is not None
            and s.now - s.before.settled_at > SOON
        ),
        ("OverLimit", "CannotGoBack", "ErrorRate", "SLOBurn", "LogErrors", "WorseThanStable"),
    ),
    "low_traffic": Named(
        lambda s: (
            quiet_step(s)
            and few(s)
            and not over(s)
            and not hurried(s)
            and not s.actor.prometheus_problem
            and s.before.settled_at is not None
            and s.policy.step(s.before.step).bake + CLOCKS
            < settled_for(s)
            < 2 * s.policy.step(s.before.step).bake - CLOCKS
            and any(s.canaries())
            and not any(
                share(getattr(b, "errors", None), s.now) or during(getattr(b, "deaf", None), s.now)
                for _, _, b in behaviours(s)
            )
            and not share(s.cluster.stable_errors, s.now)
            and ready_for_all(s)
        ),
        ("LowTraffic",),
    ),
    "no_traffic_yet": Named(
        lambda s: (
            quiet_step(s)
            and s.before.settled_at is not None
            and s.before.weight < 100
            and not over(s)
            and not s.actor.prometheus_problem
            and ready_for_all(s)
            and any(unanswered(s, w, getattr(b, "deaf", None)) for _, w, b in behaviours(s))
        ),
        ("NoTraffic", "Suspicious"),
    ),
    "contested": Named(
        lambda s: (
            quiet_step(s)
            and s.cluster.undisturbed
            and any(
                way.by in MANAGERS
                and way.weight < s.before.weight
                and s.before.weighted_at
                and s.now - way.written_at >= NAMED / 2
                for _, w in s.canaries()
                for way in w.routes.values()
            )
        ),
        ("Contested", "Conflict"),
        after=timedelta(),
    ),
    "contested in the promotion": Named(
        lambda s: (
            s.cluster.undisturbed
            and s.before.stage is Stage.ROLL
            and any(w.uid == t.uid and w.paused and w.held == Held.PROMOTING for t, w in s.workloads())
        ),
        ("Contested", "Conflict"),
        Phase.PROMOTING,
        after=timedelta(seconds=2),
    ),
    "write_refused": Named(
        lambda s: (
            s.actor.refused
            and any(
                (w.canary is None and not s.now < s.cluster.unaccepted_until)
                or (
                    s.cluster.canary_ready(w) >= need(t.replicas, s.before.weight)
                    and w.weight != s.before.weight
                    and s.now >= s.cluster.unaccepted_until
                )
                for t, w in s.canaries()
            )
        ),
        ("PermissionDenied", "CanaryLost"),
    ),
    "write_refused in the promotion": Named(
        lambda s: (
            s.actor.refused
            and s.before.stage is Stage.ROLL
            and any(
                w.held != Held.PROMOTING and w.uid == t.uid and w.revision == t.revision and t.stable_revision
                for t, w in s.workloads()
            )
        ),
        ("PermissionDenied",),
        Phase.PROMOTING,
    ),
    "write_refused in the watch": Named(
        lambda s: (
            s.actor.refused
            and s.before.stage is Stage.WATCH
            and any(w.canary is not None or s.known.change.name in w.services.values() for _, w in s.workloads())
        ),
        ("PermissionDenied",),
        Phase.PROMOTING,
    ),
}


def unanswered(sight: Sight, w: Workload, deaf: tuple[datetime, datetime] | None) -> bool:
    """For long enough, and of enough requests, that it has to be noticed."""
    if deaf is None or not during(deaf, sight.now) or sight.before.settled_at is None:
        return False
    lasted = sight.now - max(deaf[0], sight.before.settled_at)
    return lasted > UNANSWERED_HOLD + NAMED and sight.cluster.rps * w.weight / 100 * lasted.total_seconds() > 100


def ready_for_all(sight: Sight) -> bool:
    return all(sight.cluster.canary_ready(w) >= need(t.replicas, sight.before.weight) for t, w in sight.canaries())


# --- The watch itself ---


@dataclass
class Watch:
    """Looks at every write, every commit and every moment."""

    cluster: Cluster
    calm_since: datetime
    """Nothing has disturbed the controller, its API or its data since."""
    since: dict[str, dict[str, datetime]] = field(default_factory=dict)
    """By change: what has to lead to something, and since when it is so."""
    reasons: set[str] = field(default_factory=set)
    commits: dict[str, list[datetime]] = field(default_factory=dict)
    allowed: set[tuple[str, str]] = field(default_factory=set)
    """(Deployment, revision) that may reach users: stable ones, and those of changes that started."""

    actor: Actor = field(init=False)

    def must(self, holds: bool, rule: str, detail: str = "") -> None:
        if not holds:
            raise Broken(rule, detail)

    def told(self, reason: str, message: str) -> None:
        self.must(message.isprintable(), "I17: text is escaped", repr(message))

    def running_job(self, run: str) -> None:
        known = self.cluster.known(run)
        self.must(known is not None and known.state.phase is Phase.WAITING, "a Job runs before the start alone", run)

    # --- Commits ---

    def committing(self, known: Known, after: State) -> None:
        before = known.state
        self.reasons.add(after.reason)
        self._not_chatty(known.change.name)
        self._recorded(before, after)
        if before.phase.terminal:
            same = (before.phase, before.weight, before.history, before.targets) == (
                after.phase,
                after.weight,
                after.history,
                after.targets,
            )
            self.must(same, "I12: what has ended does not change", f"{before.phase} to {after.phase}")
            return
        sight = Sight(self.cluster, known, before, after.policy or before.policy or NO_RULES, self.actor)
        if before.started_at is None and after.started_at is not None:
            self._starting(replace_before(sight, after), before)
        sight = replace_before(sight, replace(before, decisions=after.decisions))  # taken in at the same look
        if before.started_at is None:
            pass
        elif (after.phase is Phase.PROGRESSING and after.step > before.step) or (before.phase, after.phase) == (
            Phase.PROGRESSING,
            Phase.PROMOTING,
        ):
            self._stepping(sight)
        elif before.stage is Stage.ROLL and after.stage is Stage.RETURN and after.phase is Phase.PROMOTING:
            self._returning(sight)
        elif before.stage is Stage.WATCH and after.stage is Stage.CLEAN and after.phase is Phase.PROMOTING:
            watched = self.cluster.now - before.entered_at if before.entered_at else timedelta()
            newer = all(w.revision != t.revision or w.uid != t.uid for t, w in sight.workloads())
            enough = watched >= sight.policy.after.watch - CLOCKS or newer
            self.must(enough, "watched: the watch is as long as the policy says", f"{watched}")
            self.must(
                newer
                or not any(sight.canaries())
                or not self.actor.prometheus_problem
                or watched >= sight.policy.no_data_deadline,
                "watched: missing data is waited for",
                "",
            )
        if after.phase is Phase.ROLLING_BACK and before.phase is not Phase.ROLLING_BACK:
            self._turning_back(sight, after)
        self._acts_on_evidence(sight, after)
        if after.phase is Phase.PROMOTING and after.stage is Stage.ROLL and any(t.drift for t in after.targets):
            named = after.reason in ("Contested", "Conflict", "PermissionDenied") or after.warnings
            self.must(bool(named), "contested: what others wrote over is named", after.reason)
        if after.phase.terminal:
            self._ended(known, after)

    def _not_chatty(self, name: str) -> None:
        """Status is not written over and over: an etcd is shared by everybody."""
        now, written = self.cluster.now, self.commits.setdefault(name, [])
        written.append(now)
        if len(written) > CHATTY and written.pop(0) > now - CHATTY_FOR:
            calm = now >= self.calm_since + CHATTY_FOR
            self.must(not calm, "status is not written over and over", f"{CHATTY} times since {written[0]:%H:%M:%S}")

    def _recorded(self, before: State, after: State) -> None:
        added = len(after.history) - len(before.history)
        moved = (before.phase, before.stage, before.step) != (after.phase, after.stage, after.step)
        self.must(
            added == moved, "I14: one audit record for each transition, and for nothing else", f"{added} for {moved}"
        )
        if after.audit.seq == before.audit.seq:
            return
        lines = [json.loads(line) for line in after.audit.last]
        new = [line for line in lines if line["seq"] > before.audit.seq]
        whole = [line["seq"] for line in new] == list(range(before.audit.seq + 1, after.audit.seq + 1))
        self.must(whole, "I14: the audit chain has no gap", f"{before.audit.seq} to {after.audit.seq}")
        self.must(new[0]["prev"] == before.audit.hash, "I14: each record follows the one before", "")
        count = sum(line["kind"] == "transition" for line in new)
        self.must(
            count == added, "I14: one audit record for each transition", f"{count} records of {added} transitions"
        )

    def _starting(self, sight: Sight, before: State) -> None:
        if self.actor.surprised:
            return
        for name, blocked in NO_START.items():
            self.must(not blocked(sight), f"{name}: nothing starts past it", "")
        if not sight.free:
            for name, blocked in NO_START_UNLESS_FREE.items():
                self.must(not blocked(sight), f"{name}: nothing starts past it", "")
        for t, w in sight.workloads():
            self.allowed.add((w.name, t.revision))
            other = next((k for k in self._active(w.name) if k.change.name != sight.known.change.name), None)
            self.must(other is None, "I6: one active change a Deployment", other.change.change_id if other else "")

    def _active(self, workload: str) -> Iterator[Known]:
        active = (*UNDER_WAY, Phase.ROLLING_BACK)
        return (
            k
            for k in self.cluster.standing()
            if k.state.phase in active
            and k.state.started_at
            and any(t.name == workload and t.uid == self.cluster.workloads[workload].uid for t in k.state.targets)
        )

    def _stepping(self, sight: Sight) -> None:
        passed = {(e.target, e.rule) for e in sight.before.evidence if e.verdict is Verdict.PASS}
        wanted = {(t.name, rule.name) for t, _ in sight.canaries() for rule in sight.policy.rules}
        missing = sorted(wanted - passed)
        self.must(not missing, "I7: a step up follows a PASS that is already in status", f"{missing}")
        newer = all(
            e.data_at is None
            or sight.before.entered_at is None
            or e.data_at > sight.before.entered_at - timedelta(seconds=1)
            for e in sight.before.evidence
            if e.rule not in COMPARED and e.requests
        )
        self.must(newer, "I7: on data newer than the step", "")
        if self.actor.surprised:
            return
        for name, blocked in NO_STEP.items():
            self.must(not blocked(sight), f"{name}: no step up past it", "")

    def _returning(self, sight: Sight) -> None:
        if self.actor.surprised:
            return
        seen = not self.actor.prometheus_problem
        self.must(not (seen and over(sight)), "over_limit: no return past it", "")
        lost = any(w.weight and w.canary is None for _, w in sight.canaries())
        self.must(not lost, "canary_lost: nothing goes on without it", "")
        for t, w in sight.workloads():
            if w.uid == t.uid:
                up = self.cluster.ready(w, t.revision)
                self.must(
                    up > 0 or (w.size == 0 and t.strategy is Strategy.NATIVE),
                    "rolling: the traffic returns to pods of the new revision",
                    w.name,
                )
                bake = sight.policy.steps[-1].bake
                native = t.strategy is Strategy.NATIVE and t.stable_revision
                watched = self.cluster.now - sight.before.settled_at if sight.before.settled_at else timedelta()
                self.must(
                    not native or watched >= bake - CLOCKS, "watching: a native roll-out is watched", f"{watched}"
                )

    def _turning_back(self, sight: Sight, after: State) -> None:
        """I8: what is said to have failed was bad, at least once."""
        cause, cluster = after.cause, self.cluster
        bad = {
            "ErrorRate": lambda b: b and b.errors,
            "CrashLoop": lambda b: b and b.crashes,
            "LogErrors": lambda b: b and b.log_errors,
            "WorseThanStable": lambda b: b and (b.errors or b.slow),
            "SLOBurn": lambda b: b and (b.errors or b.slow),
        }.get(cause)
        if bad and not cluster.usual and not cluster.stable_errors:
            seen = any(bad(b) for _, _, b in behaviours(sight))
            self.must(seen, "I8: no rollback for errors that nobody made", cause)
        if cause == "RoutePending" and not self.actor.surprised:
            self.must(
                ready_for_all(sight), "progress_deadline: pods that do not come are the cause, not their routes", ""
            )
        if sight.before.forward_only and sight.before.started_at:
            will = ("Withdrawn", "DeploymentDeleted", "Superseded", "RollbackRequested", "Reverted")
            self.must(cause in will, "what cannot go back goes back by will alone", cause)

    def _acts_on_evidence(self, sight: Sight, after: State) -> None:
        """A verdict of FAIL is carried out with the commit that tells of it."""
        acts = sight.policy.analysis.statistical is Statistical.ON
        failed = [e.rule for e in after.evidence if e.verdict is Verdict.FAIL and (acts or e.rule not in COMPARED)]
        bound = after.forward_only or not any(t.stable_revision for t in after.targets)
        if failed and not bound and after.stage in WATCHED:
            rules = {"ErrorRate": "error_rate", "LogErrors": "log_errors"}
            name = next((rules.get(r, "") for r in failed), "") or (
                "worse_than_stable" if failed[0] in COMPARED else "slo_burn"
            )
            self.must(after.phase not in UNDER_WAY, f"{name}: a FAIL is acted upon", f"{failed} in {after.phase}")

    def _ended(self, known: Known, after: State) -> None:
        run = known.change.name
        for t in after.targets:
            w = self.cluster.workloads[t.name]
            left = [w.canary is not None and w.canary.run == run, run in w.services.values()]
            left += [way.named and way.by == run for way in w.routes.values()]
            self.must(not any(left), "I12: an ended change leaves nothing of ours behind", f"{w.name}: {left}")
            if after.started_at and w.uid == t.uid and not any(k.change.name != run for k in self._active(w.name)):
                locked = w.held in LOCKED
                self.must(not locked, "I12: an ended change holds no lock", f"{w.name}: {w.held}")
            scaler, floor = w.scaler, t.floor
            if scaler and floor and scaler.ours and after.started_at:
                self.must(scaler.min_replicas == floor.min_replicas, "I12: the floor is put back", w.name)
        if after.phase is Phase.ROLLED_BACK:
            for t in after.targets:
                w = self.cluster.workloads[t.name]
                stays = w.uid == t.uid and w.revision == t.revision and t.stable_revision and not w.free
                left_over = len(w.sets.get(t.revision, ())) if stays else 0
                self.must(not left_over, "I5: what was rolled back has no pods left", f"{w.name}: {left_over}")
        if after.phase is Phase.COMPLETED:
            for t in after.targets:
                w = self.cluster.workloads[t.name]
                runs = (
                    w.uid != t.uid or w.revision != t.revision or self.cluster.ready(w, t.revision) > 0 or w.size == 0
                )
                unwatched = after.policy is not None and not after.policy.after.watch  # as its policy says
                excused = unwatched or self.actor.surprised
                self.must(runs or excused, "a completed change runs its revision", w.name)

    def forgetting(self, known: Known) -> None:
        self.must(known.state.phase.terminal, "a ChangeRequest goes when it has ended", known.state.phase)

    # --- Writes ---

    def deploying(self, w: Workload, held: str, *, paused: bool, revision: str) -> None:
        if paused or (w.sets.get(revision) is None and not w.sets):
            return
        runs_already = len(w.sets.get(revision, ())) > 0
        ran_last = (w.name, revision) in self.allowed
        first = not any(len(p) for p in w.sets.values())
        self.must(
            runs_already or ran_last or first, "I2: only an approved revision is rolled out", f"{w.name}: {revision}"
        )

    def routing(self, w: Workload, way: Way, run: str, weight: int | None) -> None:
        known, cluster = self.cluster.known(run), self.cluster
        own, canary = cluster.ready_own(w), cluster.canary_ready(w)
        if weight is None:
            self.must(way.weight == 0, "the canary is named until it has no weight", w.name)
            return
        state = known.state if known else State()
        deleting = known is not None and known.change.deleting
        target = state.target(w.name)
        if weight > way.weight:
            self.must(state.started_at is not None, "I2: weight only for an approved revision", run)
            self.must(
                state.weight == weight and state.phase in (*UNDER_WAY, Phase.ROLLING_BACK),
                "I13: no write of an old decision",
                f"{weight} % in {state.phase} {state.weight} %",
            )
            self.must(
                w.canary is not None and target is not None and w.canary.revision == target.revision,
                "I2: weight for the approved revision alone",
                run,
            )
            self.must(way.named or state.promoted, "the canary is named before it has weight", run)
            replicas = target.replicas if target else w.size
            seen = max(canary, cluster.canary_ready(w, self.actor.seen))
            self.must(
                state.promoted or self.actor.surprised or seen >= need(replicas, weight),
                "I4: capacity, then traffic",
                f"{canary} ready for {weight} %",
            )
        elif weight < way.weight and w.uid and not deleting and canary:
            enough = own >= min(w.size, target.replicas if target else w.size) - 1
            waited = state.entered_at is not None and cluster.now - state.entered_at >= timedelta(seconds=28)
            foreign = target is not None and (
                w.uid != target.uid or w.revision not in (target.revision, target.stable_revision)
            )
            self.must(
                (own > 0 and (enough or waited)) or foreign or self.actor.surprised,
                "I3: traffic returns to ready pods only",
                f"{own} of {w.size}",
            )

    def deleting_set(self, w: Workload, revision: str) -> None:
        if len(w.sets[revision]):
            others = any(len(pods) for r, pods in w.sets.items() if r != revision)
            self.must(
                w.paused and others, "I5: a rejected one goes while paused, and stable stands", f"{w.name} {revision}"
            )

    def creating(self, w: Workload, run: str, revision: str) -> None:
        known = self.cluster.known(run)
        target = known.state.target(w.name) if known else None
        started = known is not None and known.state.started_at is not None
        self.must(
            w.weight == 0 or self.actor.surprised or (known is not None and known.state.forward_only),
            "canary_lost: a canary that is lost is not made anew under traffic",
            run,
        )
        self.must(
            started and target is not None and target.revision == revision,
            "I2: no unapproved template runs",
            f"{run} {revision}",
        )

    def deleting_canary(self, w: Workload) -> None:
        unused = all(way.weight == 0 and not way.named for way in w.routes.values())
        self.must(unused or self.actor.surprised, "I4: traffic, drain, then capacity", w.name)

    def deleting_service(self, w: Workload) -> None:
        self.must(w.canary is None or self.actor.surprised, "a Service outlives the pods behind it", w.name)

    # --- Moments ---

    def passing(self) -> None:
        """What must hold at every instant, and what should have happened by now."""
        cluster = self.cluster
        for w in cluster.workloads.values():
            active = [k.change.change_id for k in self._active(w.name)]
            self.must(len(active) <= 1, "I6: one active change a Deployment", " ".join(active))
            for r, pods in w.sets.items():
                if len(pods) and not w.paused and r == w.revision and r not in ("v1",):
                    self.must(
                        (w.name, r) in self.allowed or w.free,
                        "I15: no unapproved template reaches a user",
                        f"{w.name}: {r}",
                    )
            for way in w.routes.values():
                if way.weight and way.by not in ("user", *MANAGERS):
                    known = cluster.known(way.by)
                    self.must(
                        known is not None and not known.state.phase.terminal,
                        "I12: what has ended has no traffic",
                        f"{w.name}: {way.by}",
                    )
        for known in list(cluster.standing()):
            if not known.state.phase.terminal:
                self._overdue(known)

    def _overdue(self, known: Known) -> None:
        if "refused" in known.change.name:
            return
        cluster, state = self.cluster, known.state
        policy = state.policy or (cluster.policies[known.change.type].now[0] if known.change.type else None) or NO_RULES
        sight = Sight(cluster, known, state, policy, self.actor)
        stable = any(t.stable_revision for t in state.targets)
        stays = any(text.startswith("CannotGoBack") for text in state.warnings)
        held = {
            name: must
            for name, must in GO_BACK.items()
            if state.phase in must.phases
            and (state.phase is Phase.WAITING or state.stage in must.stages)
            and (must.by_will or not state.forward_only)
            and (stable or name in ENDS or state.phase is Phase.WAITING)
            and must.when(sight)
        }
        waits = {n: wait for n, wait in NAMES.items() if state.phase is wait.phase and not stays and wait.when(sight)}
        before = self.since.get(known.change.name, {})
        since = self.since[known.change.name] = {name: before.get(name, cluster.now) for name in (*held, *waits)}
        for name, must in held.items():
            began = since[name] if name in BLIND else max(since[name], self.calm_since)
            self.must(
                cluster.now - began <= must.after(policy),
                f"{name}: it takes the change back",
                f"{known.change.change_id} since {began:%H:%M:%S}, {state.phase} {state.reason}",
            )
        for name, wait in waits.items():
            began = since[name] if name.split()[0] in TOLD_ANYWAY else max(since[name], self.calm_since)
            self.must(
                cluster.now - began <= wait.after or state.reason in (*wait.reasons, *CONTESTED),
                f"{name}: the wait is named",
                f"{state.reason} since {began:%H:%M:%S}",
            )


def replace_before(sight: Sight, after: State) -> Sight:
    """A start is judged by what it takes to be true of its targets."""
    return Sight(sight.cluster, sight.known, after, sight.policy, sight.actor)


NO_RULES = Policy(steps=())
