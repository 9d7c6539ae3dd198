"""The nouns: what is remembered (`State`, the status of a ChangeRequest) and what is seen (`Seen`, `Observation`)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Self

from controller.core.blocks import Counts
from controller.core.codec import JSON, Ratio
from controller.core.diff import Difference, Image
from controller.core.policy import ChangeType, Policy
from controller.core.samples import Arm
from controller.core.sequential import Monitor
from controller.core.slo import Breach
from controller.core.template import canary_name
from controller.core.windows import Opening


class Phase(StrEnum):
    WAITING = "Waiting"
    PROGRESSING = "Progressing"
    PROMOTING = "Promoting"
    COMPLETED = "Completed"
    ROLLING_BACK = "RollingBack"
    ROLLED_BACK = "RolledBack"
    SUPERSEDED = "Superseded"
    DENIED = "Denied"

    @property
    def terminal(self) -> bool:
        return self in (Phase.COMPLETED, Phase.ROLLED_BACK, Phase.SUPERSEDED, Phase.DENIED)


class Stage(StrEnum):
    """The parts of Promoting and RollingBack, in their order; a rollback before promotion begins at RETURN."""

    ROLL = "Roll"
    """The Deployment replaces the stable pods by its own rolling update; the canary carries the traffic."""
    RECOVER = "Recover"
    """The roll is stopped and stable pods come back; the canary still carries the traffic."""
    RETURN = "Return"
    """The traffic goes back to the user's Service."""
    DRAIN = "Drain"
    """Requests in flight at the canary end."""
    WATCH = "Watch"
    """After the promotion the canary is gone and the Deployment is watched; its stable template can be brought back."""
    CLEAN = "Clean"
    """The canary and all else that is ours is removed."""


class Strategy(StrEnum):
    CANARY = "canary"
    NATIVE = "native"


class Held(StrEnum):
    """Values of the annotation serin.dev/held; absent: nothing of ours is pending."""

    WAITING = "true"
    """A new template waits for its change to start."""
    RUNNING = "running"
    """The change runs: the template is locked, but for an Emergency."""
    PROMOTING = "promoting"
    RESTORING = "restoring"
    """Template and pause are locked for everyone."""
    RETURNING = "returning"
    """The promotion is taken back. Locked as while it runs; and whoever sent a promotion before this was written, and
    has it arrive only now, finds the Deployment another one than was decided about."""
    REJECTED = "rejected"
    """The template was rolled back; it stays as applied, and its pods are the stable ones."""


LOCKED = frozenset((Held.RUNNING, Held.PROMOTING, Held.RESTORING, Held.RETURNING))
"""Marks behind which a change stands that is under way."""


class Action(StrEnum):
    """What a person decides about a change."""

    APPROVE = "Approve"
    DENY = "Deny"
    ROLLBACK = "Rollback"
    PROMOTE = "Promote"
    """The remaining bakes are skipped."""
    PAUSE = "Pause"
    RESUME = "Resume"
    REVIEW = "Review"
    BYPASS = "Bypass"
    """The change may start without approval, tests, window and budget; for a limited time, and loudly."""

    @property
    def verb(self) -> str:
        """The RBAC verb on changetypes.serin.dev that it takes."""
        return {"Deny": "approve", "Resume": "pause"}.get(self.value, self.value.lower())


class Outcome(StrEnum):
    """How a change went, in the words of its post-implementation review."""

    SUCCESSFUL = "Successful"
    PARTLY_SUCCESSFUL = "PartlySuccessful"
    FAILED = "Failed"


class JobOutcome(StrEnum):
    """How a Job before the start did."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    MISSING = "Missing"
    """There is no CronJob of that name."""
    NOT_OFFERED = "NotOffered"
    """Its CronJob is not labelled to be run by changes."""


class Verdict(StrEnum):
    PASS = "PASS"  # noqa: S105 (it is no password)
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"


# --- What is remembered ---


@dataclass(frozen=True)
class ServicePair:
    """A Service that selects the workload's pods, and the one made for its canary."""

    stable: str
    canary: str
    ports: tuple[int, ...] = ()


@dataclass(frozen=True)
class RouteOriginal:
    """The backendRefs of each rule of a route, as the user wrote them: put back word for word at the end."""

    kind: str
    namespace: str
    name: str
    rules: tuple[JSON, ...]

    @property
    def key(self) -> str:
        return f"{self.kind}/{self.namespace}/{self.name}"


@dataclass(frozen=True)
class Floor:
    """The HorizontalPodAutoscaler whose minReplicas is raised while the canary has weight.

    `min_replicas` is the user's.
    """

    name: str
    min_replicas: int


@dataclass(frozen=True)
class Revert:
    """A field that a change writes and a GitOps tool puts back.

    `snippet` is the YAML that has it leave the field alone. Not `known`: what it does cannot be read here.
    """

    what: str
    by: str
    snippet: str = ""
    known: bool = True


@dataclass(frozen=True)
class Drift:
    """What of ours someone else has written, and who: the field manager, where the API server knows one.

    `at` is the API server's moment of that write, `seen_at` ours of the first look that saw it.
    """

    what: str
    by: str = ""
    at: datetime | None = None
    seen_at: datetime | None = None


@dataclass(frozen=True)
class Target:
    """One Deployment of a change, frozen when the change starts."""

    name: str
    uid: str
    revision: str
    strategy: Strategy = Strategy.NATIVE
    strategy_reason: str = ""
    stable_revision: str = ""
    """Empty: the first deployment, there is nothing to go back to."""
    stable_replica_set: str = ""
    stable_template: JSON = None
    diff: tuple[Difference, ...] = ()
    """From the stable template to the new one, as `diff.for_record` cuts it."""
    images: tuple[Image, ...] = ()
    """Those of the new template."""
    replica_set: str = ""
    """The Deployment's own ReplicaSet of the new revision, once it is rolled."""
    replicas: int = 0
    """The size stable had, or has grown to, and keeps while the canary has weight."""
    judged: int = 0
    """The size before it grew: readiness is judged by it until the canary has grown as well. 0: it has."""
    grew_at: datetime | None = None
    selector_key: str = ""
    """The selector label whose value is altered on canary pods."""
    services: tuple[ServicePair, ...] = ()
    routes: tuple[RouteOriginal, ...] = ()
    floor: Floor | None = None
    reverts: tuple[Revert, ...] = ()
    """What GitOps will put back; looked at until the start."""
    drifts: int = 0
    """How often, at this step, someone else has written over what is ours."""
    drift: Drift | None = None
    """The last time, as long as it is not put back."""
    gives_way: bool = False
    """What it did stands for a moment, for it took traffic from the canary only."""
    not_ready_since: datetime | None = None

    @property
    def canary(self) -> str:
        return canary_name(self.name)


@dataclass(frozen=True)
class Comparison:
    """A bet on a target's new pods being worse than its stable ones, and how it stands.

    `monitors`: one, of failed requests; or one for each of `edges`, of requests slower than that.
    `failed_at`: when it was first won. `burnt`: the requests of the minute in which, without stable beside it, the new
    version failed too much to wait for more.
    """

    rule: str
    target: str
    monitors: tuple[Monitor, ...]
    edges: tuple[timedelta, ...] = ()
    failed_at: datetime | None = None
    burnt: Counts | None = None


@dataclass(frozen=True)
class Evidence:
    """One rule's verdict and the numbers that it stands on.

    Requests are those of the step, counted from `began_at` to `data_at` on the data's clock.
    """

    rule: str
    target: str
    verdict: Verdict
    value: str
    threshold: str
    message: str
    requests: int = 0
    bad: int = 0
    data_at: datetime | None = None
    began_at: datetime | None = None
    stable: Ratio | None = None
    """The share of bad requests that stable had when it last had any."""
    stable_requests: int = 0
    stable_bad: int = 0
    window: timedelta | None = None
    """`value` is the share in it, `threshold` the limit; absent: both are e-values, of the evidence since the start."""
    interval: tuple[Ratio, ...] = ()
    """The least and the greatest share of bad requests that `bad` of `requests` go with, at 95 %."""
    times: tuple[float, ...] = ()
    """How many times as often as stable's its requests are bad: at least and, where there is a bound, at most, at 95 %.
    Empty where there is nothing to compare."""


@dataclass(frozen=True)
class Review:
    """The post-implementation review."""

    outcome: Outcome
    success_criteria: str = ""
    lessons_learned: str = ""
    follow_ups: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ruling:
    """A ChangeDecision that was taken in, once and for good: counted, or refused for a reason."""

    uid: str
    action: Action
    by: str
    at: datetime
    """When the ChangeDecision was made."""
    revision: str = ""
    refusal: str = ""
    """`Reason: text`; empty: it counts."""
    reason: str = ""
    tests: str = ""
    over_budget: bool = False
    forward_only: bool = False
    expires_at: datetime | None = None
    review: Review | None = None
    terms: str = ""
    """State.terms when it was taken in."""

    @property
    def counts(self) -> bool:
        return not self.refusal


@dataclass(frozen=True)
class JobRun:
    """A Job before the start, and what came of it."""

    cron_job: str
    job: str
    """Its name: of the change, the revision and the CronJob, so that an amended template has it run anew."""
    required: bool = True
    deadline: timedelta = timedelta(minutes=10)
    outcome: JobOutcome = JobOutcome.PENDING
    exit_code: int | None = None
    detail: str = ""
    """Why it failed, as Kubernetes says."""
    started_at: datetime | None = None
    ended_at: datetime | None = None


@dataclass(frozen=True)
class Transition:
    """The audit record of one step of the journey."""

    at: datetime
    phase: Phase
    step: int
    weight: int
    reason: str
    message: str
    stage: Stage | None = None


@dataclass(frozen=True)
class Receipt:
    """A sink acknowledged a notice."""

    sink: str
    at: datetime


@dataclass(frozen=True)
class Told:
    """A notice to people, and how far it got. Its words are kept until every sink that is owed it has it."""

    what: str
    """Its name within the change."""
    kind: str
    at: datetime
    audience: tuple[str, ...] = ()
    text: str = ""
    command: str = ""
    owed: tuple[str, ...] = ()
    """Sinks that have not acknowledged it yet."""
    receipts: tuple[Receipt, ...] = ()


@dataclass(frozen=True)
class Audit:
    """Where the audit chain of the change stands (core/audit.py): the number and hash of its newest record."""

    seq: int = 0
    hash: str = ""
    last: tuple[str, ...] = ()
    """The newest records, word for word: those of the last commit, and older ones that no sink had taken by then."""
    form: str = ""
    policy: str = ""
    """Hashes of the request and of the policy as they were recorded last."""
    intent: str = ""
    """Hash of the write that was recorded last and is still to be seen in the cluster."""


SCHEMA = 1
"""Of the status. Another number means fields that mean another thing; one that has only more fields keeps it."""


@dataclass(frozen=True)
class State:
    """The status of a ChangeRequest: all that the controller remembers of a change."""

    phase: Phase = Phase.WAITING
    stage: Stage | None = None
    outcome: Phase | None = None
    """Where a RollingBack ends: RolledBack or Superseded."""
    step: int = 0
    """1 is the first; 0 until the start."""
    weight: int = 0
    """Percent of the traffic that the canary is to have."""
    reason: str = ""
    message: str = ""
    cause: str = ""
    """The reason of the rollback, kept to the end."""
    rejected: bool = False
    """The revision failed on evidence; it is not run again unless someone says so."""
    started_at: datetime | None = None
    weighted_at: datetime | None = None
    """When the canary first had weight; incidents that began before it do not count."""
    entered_at: datetime | None = None
    """When this phase, stage or step began."""
    settled_at: datetime | None = None
    """When the cluster had reached this step's target, and no new pod crashed since: its dwell counts from here."""
    progress: int = 0
    """How far the new pods of this step or stage have come: the deadline for them counts from the last progress."""
    progressed_at: datetime | None = None
    """When they came that far, or were asked for; None while all are there."""
    ended_at: datetime | None = None
    no_data_since: datetime | None = None
    low_evidence: bool = False
    promoted: bool = False
    """The Deployment was un-paused: a rollback has to stop the roll first."""
    revision: str = ""
    """The pod template, or, of several Deployments, all of them, that decisions about this change have to name."""
    terms: str = ""
    """A hash of what else decisions are about, beside the pod template: the change type, and how pods are replaced."""
    requesters: tuple[str, ...] = ()
    """Everyone who asked for it: authenticated by admission, and the author that is claimed. They do not approve it."""
    revert: bool = False
    """Back to the revision before the last completed change: pre-approved, with short bakes."""
    forward_only: bool = False
    """It cannot go back: evidence holds it, and only a person rolls it back. As it was said at the start."""
    approval: str = ""
    """By whom it may start, or how many approvals there are of how many."""
    window: Opening | None = None
    """The opening in which it is to run, from the moment at which it may start; absent where no window binds it."""
    decisions: tuple[Ruling, ...] = ()
    """What people decided about it, oldest first."""
    jobs: tuple[JobRun, ...] = ()
    """What was run before the start."""
    review_due_at: datetime | None = None
    closed_at: datetime | None = None
    """The change has ended and its review, if it needs one, is done."""
    measured_at: datetime | None = None
    policy: Policy | None = None
    """The policy as it was when the change started."""
    targets: tuple[Target, ...] = ()
    breaches: tuple[Breach, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    """The canary beside stable, since it had traffic."""
    evidence: tuple[Evidence, ...] = ()
    history: tuple[Transition, ...] = ()
    warnings: tuple[str, ...] = ()
    """`Reason: text` of what someone should mend, though the change goes on without it."""
    told: tuple[Told, ...] = ()
    """What people were told, or are still owed, oldest first."""
    notified_at: datetime | None = None
    """When the CTO had heard of this emergency: a sink of his acknowledged it, or he decided about it."""
    audit: Audit = Audit()
    schema: int = SCHEMA

    def target(self, name: str) -> Target | None:
        return next((t for t in self.targets if t.name == name), None)


# --- What is seen ---


@dataclass(frozen=True)
class Author:
    """Who, other than us, wrote a field last, as the object's managedFields say."""

    manager: str
    at: datetime | None = None


@dataclass(frozen=True)
class Deployment:
    name: str
    namespace: str
    uid: str
    resource_version: str
    replicas: int
    total: int
    updated: int
    ready: int
    available: int
    """`updated`, `ready`, `available` and `total` are 0 until the controller-manager has seen this generation."""
    observed: bool
    paused: bool
    held: str
    change: str
    """The label serin.dev/change."""
    revision: str
    template: JSON
    selector: Mapping[str, str]
    recreate: bool
    unavailable_max: int
    """Pods that its own rolling update may have missing."""
    progress_deadline_seconds: int
    min_ready_seconds: int
    annotations: Mapping[str, str]
    labels: Mapping[str, str]
    failure: str = ""
    """Why it cannot progress: quota, limits, a deadline passed."""
    controlled_by: str = ""
    """Another rollout controller that owns it."""
    template_owners: tuple[str, ...] = ()
    """Field managers that own the pod template."""
    authors: Mapping[str, Author] = field(default_factory=dict)
    """Of the fields of its spec (`template`, `paused`, `replicas`) that someone else wrote last."""
    strategy: JSON = None
    """spec.strategy, as it is."""
    created_at: datetime | None = None


@dataclass(frozen=True)
class ReplicaSet:
    name: str
    uid: str
    resource_version: str
    revision: str
    replicas: int
    ready: int
    number: int
    template: JSON = None
    created_at: datetime | None = None


@dataclass(frozen=True)
class Pod:
    name: str
    uid: str
    ready: bool
    leaving: bool
    """Being deleted or evicted: never counts against a canary."""
    restarts: int
    trouble: str = ""
    """CrashLoopBackOff, OOMKilled, ImagePullBackOff, …: the worst of its containers."""
    replica_set: str = ""
    detail: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    crashed_at: datetime | None = None
    """When a container of it last ended and was started again."""


@dataclass(frozen=True)
class Route:
    """A route that names a Service of the workload."""

    key: str
    weight: int | None
    """Percent to the canary in every rule; None: the rules differ or someone else wrote them."""
    intact: bool
    """As the user wrote it: the canary is not named."""
    accepted: bool
    """Every parent reports the newest generation accepted, with its references resolved, and the data plane had a
    moment to take it in."""
    original: RouteOriginal
    problem: str = ""
    """Why it cannot carry a canary: no grant."""
    author: Author | None = None
    """Who else wrote its rules last; None: we did."""
    reverts: tuple[Revert, ...] = ()
    """What GitOps does about them; read until the start."""
    resource_version: str = ""
    """Of the route that was seen: what was decided about it is not written over a newer one."""


@dataclass(frozen=True)
class CanaryParts:
    """What exists of the canary."""

    deployment: Deployment | None = None
    services: tuple[str, ...] = ()
    endpoints: Mapping[str, int] = field(default_factory=dict)
    """Ready endpoints by canary Service."""
    pods: tuple[Pod, ...] = ()
    companions: tuple[str, ...] = ()
    """`Kind/name` of the copies of NetworkPolicies and PodDisruptionBudgets that exist."""
    edits: tuple[Drift, ...] = ()
    """What someone else wrote into its Deployment and Services, so that they are not what was approved any more."""

    @property
    def ready(self) -> int:
        return sum(pod.ready and not pod.leaving for pod in self.pods)


@dataclass(frozen=True)
class Autoscaler:
    name: str
    min_replicas: int
    max_replicas: int
    ours: bool = False
    """Its minReplicas was written last by us."""
    author: Author | None = None
    """… or by whom."""
    reverts: tuple[Revert, ...] = ()
    """What GitOps does about it; read until the start."""
    resource_version: str = ""


@dataclass(frozen=True)
class Seen:
    """One Deployment of the change and all around it, as the cluster is now."""

    deployment: Deployment | None
    replica_sets: tuple[ReplicaSet, ...] = ()
    pods: tuple[Pod, ...] = ()
    """Pods of the Deployment's own ReplicaSets; read while it rolls."""
    endpoints: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Pods behind each of its Services that are ready there; read while it rolls, and when it is gone."""
    successor: Deployment | None = None
    """Created anew under the name of the one that the change is about, which is gone."""
    canary: CanaryParts = CanaryParts()
    routes: tuple[Route, ...] = ()
    services: tuple[ServicePair, ...] = ()
    autoscaler: Autoscaler | None = None
    companions: tuple[str, ...] = ()
    """`Kind/name` of the NetworkPolicies and PodDisruptionBudgets that the canary needs copies of."""
    obstacles: tuple[str, ...] = ()
    """Why a canary cannot be made of it: hostPort, ReadWriteOnce volume, …; empty when it can."""
    selector_key: str = ""
    taken: str = ""
    """`Kind name` of an object that has a name which the canary needs, and is not ours."""
    unserved: str = ""
    """A Service that routes name but that selects no pod."""
    strays: tuple[Drift, ...] = ()
    """Services of the change that were given a selector which does not mean the Deployment's pods any more."""


@dataclass(frozen=True)
class Incident:
    name: str
    labels: Mapping[str, str]
    began_at: datetime


@dataclass(frozen=True)
class Measurements:
    """What Prometheus said at `taken_at`.

    `arms`: (target, rule, "canary" | "stable") to its samples; rule is "error-rate" or the name of an SLO.
    `problem`: what could not be asked (`PrometheusUnreachable: …`); the arms of the rules that need it are missing.
    """

    taken_at: datetime
    arms: Mapping[tuple[str, str, str], Arm] = field(default_factory=dict)
    incidents: tuple[Incident, ...] = ()
    problem: str = ""
    profiles: Mapping[str, tuple[timedelta, ...]] = field(default_factory=dict)
    """Of each target that was asked for it, the edges of histogram buckets next to stable's p50, p90 and p99."""


@dataclass(frozen=True)
class Change:
    """The spec of a ChangeRequest and its identity."""

    namespace: str
    name: str
    change_id: str
    type: ChangeType | None
    uid: str = ""
    resource_version: str = ""
    requested_by: str = ""
    author: str = ""
    """Who is claimed to have written what is changed."""
    not_before: datetime | None = None
    deployments: tuple[str, ...] = ()
    jobs: tuple[str, ...] = ()
    """CronJobs that it asks to be run before it starts, beside those of its policy."""
    revision: str = ""
    """Set when Serin numbered the change (`auto`): it is for this revision alone."""
    deleting: bool = False
    finalizer: bool = False
    created_at: datetime | None = None
    problem: str = ""
    """`Reason: text` when the request itself is unusable: a malformed ID, an unknown type, an annotation too long."""
    spec: JSON = None
    """The form as it stands."""


@dataclass(frozen=True)
class Decision:
    """A ChangeDecision, as it is in the cluster."""

    uid: str
    name: str
    namespace: str
    change_id: str
    change_uid: str
    revision: str
    type: str
    action: Action
    by: str
    groups: tuple[str, ...] = ()
    created_at: datetime | None = None
    reason: str = ""
    tests: str = ""
    over_budget: bool = False
    forward_only: bool = False
    expires_at: datetime | None = None
    review: Review | None = None
    authorized: bool | None = None
    """Whether its author may decide that now, by RBAC; None: not asked at this look."""


@dataclass(frozen=True)
class Job:
    """A Job that was made for a change. Without a moment of its end it runs, or is to run."""

    name: str
    started_at: datetime | None = None
    ended_at: datetime | None = None
    failed: bool = False
    exit_code: int | None = None
    detail: str = ""


@dataclass(frozen=True)
class CronJob:
    """What a change names to be run before it starts, and the Job that was made of it for this revision.

    `found`: there is such a CronJob. `offered`: its label lets changes run it.
    """

    found: bool
    offered: bool = False
    job: Job | None = None


@dataclass(frozen=True)
class Other:
    """Another change: one that names one of the same Deployments, or has the same ID in another namespace."""

    namespace: str
    name: str
    change_id: str
    phase: Phase
    revisions: Mapping[str, str]
    """Deployment to revision."""
    rejected: bool
    created_at: datetime | None = None
    cause: str = ""
    stable_revisions: Mapping[str, str] = field(default_factory=dict)
    """Deployment to the revision that was stable when it started."""
    ended_at: datetime | None = None
    review_due_at: datetime | None = None
    """Of a change whose review is not done."""
    uids: Mapping[str, str] = field(default_factory=dict)
    """Deployment to the uid of the one that it is about."""
    started: bool = False
    unreadable: str = ""
    """A newer version of us wrote its status: nothing is known of it but its spec."""
    approved: bool = False
    """Someone approved what it is about now: its form stays as it was decided on."""

    @classmethod
    def of(cls, change: Change, state: State) -> Self:
        return cls(
            namespace=change.namespace,
            name=change.name,
            change_id=change.change_id,
            phase=state.phase,
            revisions={t.name: t.revision for t in state.targets},
            rejected=state.rejected,
            created_at=change.created_at,
            cause=state.cause,
            stable_revisions={t.name: t.stable_revision for t in state.targets},
            ended_at=state.ended_at,
            review_due_at=None if state.closed_at else state.review_due_at,
            uids={t.name: t.uid for t in state.targets},
            started=state.started_at is not None,
            approved=any(
                r.counts and r.action is Action.APPROVE and r.revision == state.revision for r in state.decisions
            ),
        )

    @property
    def active(self) -> bool:
        return self.phase in (Phase.PROGRESSING, Phase.PROMOTING, Phase.ROLLING_BACK)

    def leaves(self, name: str, uid: str) -> bool:
        """Whether it is on its way back from another Deployment of this name, and has no claim on this one."""
        return self.phase is Phase.ROLLING_BACK and self.uids.get(name, uid) != uid


@dataclass(frozen=True)
class Observation:
    """All that one decision rests on, but for the state and the clock."""

    change: Change
    targets: Mapping[str, Seen]
    policy: Policy | None
    policy_problem: str = ""
    measurements: Measurements | None = None
    others: tuple[Other, ...] = ()
    decisions: tuple[Decision, ...] = ()
    cron_jobs: Mapping[str, CronJob] = field(default_factory=dict)
    """Those that are to be run before the start, by name; read until then."""
    environment: tuple[str, ...] = ()
    """`Reason: text` for what the controller itself lacks: admission policies, rights."""
    refusal: str = ""
    """`Reason: text` of the last write towards this state, if the API server refused it."""

    @property
    def arms(self) -> Mapping[tuple[str, str, str], Arm]:
        """What was measured, as in Measurements; nothing while nothing was."""
        return self.measurements.arms if self.measurements else {}
