"""ChangePolicy: what a change type means. Written by SREs, checked here before it is used."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from functools import cached_property

from controller.core.codec import JSON, FieldError, Ratio, decode, digest, encode, format_duration, parse_quantity
from controller.core.form import NAMES
from controller.core.windows import Window, check_window


class ChangeType(StrEnum):
    STANDARD = "standard"
    NORMAL = "normal"
    EMERGENCY = "emergency"


class LowTraffic(StrEnum):
    CONTINUE = "continue"
    HOLD = "hold"


class OnRollback(StrEnum):
    HOLD = "hold"
    RESTORE = "restore"


class FirstDeployment(StrEnum):
    RUN = "run"
    WAIT = "wait"


@dataclass(frozen=True)
class Step:
    """`weight` percent of the traffic to the canary, for at least `bake` once settled."""

    weight: int
    bake: timedelta


class When(StrEnum):
    BEFORE = "before"
    AFTER = "after"
    """It starts on the declaration of someone who may declare it; the approval follows."""


@dataclass(frozen=True)
class Approval:
    """`required` different people must approve, before the change starts or after; 0: pre-approved."""

    required: int = 1
    when: When = When.BEFORE
    tests: bool = False
    """An approval has to say how the tests were verified."""
    respond_within: timedelta | None = None
    """How soon an approver is to answer; then `escalate_to` is told. Time never approves."""
    escalate_to: str = ""
    notify_within: timedelta | None = None
    """With `when: after`: how soon who approves is to have been told, acknowledged by the sink."""
    service_accounts: tuple[str, ...] = ()
    """The only ServiceAccounts that may decide, as `system:serviceaccount:NAMESPACE:NAME`."""


@dataclass(frozen=True)
class ReviewRules:
    """The post-implementation review, by someone other than the requester."""

    due_within: timedelta | None = None
    """Counted from the end of the change; absent: the audit log is the review."""
    blocks: bool = False
    """While it is overdue, the workload's next change waits, unless it is an Emergency."""


@dataclass(frozen=True)
class Codes:
    """A label of the counter of requests, and those of its values that are failures; `*` stands for any characters."""

    label: str
    bad: tuple[str, ...]


@dataclass(frozen=True)
class ArmLabel:
    """A label that tells whose a series is: its value for an arm, made of PLACEHOLDERS."""

    label: str
    value: str
    canary: str = ""
    """Its value for the canary, where that is made in another way."""


@dataclass(frozen=True)
class FixedLabel:
    label: str
    value: str


class LatencyUnit(StrEnum):
    SECONDS = "s"
    MILLISECONDS = "ms"


PLACEHOLDERS = ("namespace", "service", "stable", "port", "workload", "pod")
"""What may stand in braces in an ArmLabel: the arm's Service, the one of stable, each port, the arm's Deployment, or
any of its pods (that one alone)."""


@dataclass(frozen=True)
class CustomSource:
    """Metrics that no preset knows, by names and labels alone: the queries are the controller's."""

    requests: str
    """A counter of requests, one series a response code."""
    codes: tuple[Codes, ...]
    """A request failed when one of these labels says so."""
    selected_by: tuple[ArmLabel, ...]
    where: tuple[FixedLabel, ...] = ()
    """Other labels that requests and latency must have."""
    latency: str = ""
    """A histogram, without `_bucket`; empty: no SLO can be about latency."""
    latency_unit: LatencyUnit = LatencyUnit.SECONDS
    heartbeat: str = "up"
    """A series that is there without any traffic: it tells few requests from no data. `up` counts while it is 1."""
    heartbeat_where: tuple[FixedLabel, ...] = ()
    """Labels of a heartbeat that is of the proxy; without them it is selected as the arms are."""


@dataclass(frozen=True)
class Source:
    """Where requests are counted: the name of a preset (`metrics/presets.py`), and when its data is too old to use."""

    preset: str = "envoy"
    stale_after: timedelta = timedelta(seconds=60)
    custom: CustomSource | None = None
    """With the preset `custom`, and no other."""


@dataclass(frozen=True)
class ErrorRate:
    """Roll back when more than `max` of the requests fail, over `window`, for the whole of `sustained`."""

    max: Ratio = field(default_factory=lambda: Ratio(0.01))
    window: timedelta = timedelta(minutes=1)
    sustained: timedelta = timedelta(minutes=5)

    name = "error-rate"
    slower_than = None
    of = "requests"
    bad_events = "failed requests"

    @property
    def bad_ratio_max(self) -> float:
        return self.max


@dataclass(frozen=True)
class Slo:
    """Roll back when the budget of `1 - objective` burns faster than `burn_max` times, over `window`, for `sustained`.

    Without `slower_than` a bad event is a failed request; with it, a request that took longer.
    """

    name: str
    objective: Ratio
    burn_max: float = 1.0
    slower_than: timedelta | None = None
    window: timedelta = timedelta(minutes=1)
    sustained: timedelta = timedelta(minutes=5)

    of = "requests"

    @property
    def bad_ratio_max(self) -> float:
        return self.burn_max * (1 - self.objective)

    @property
    def bad_events(self) -> str:
        return f"answers slower than {format_duration(self.slower_than)}" if self.slower_than else "failed requests"


@dataclass(frozen=True)
class LogErrors:
    """Roll back when more than `max` of the lines that the pods log are errors, over `window`, for `sustained`.

    The pods themselves, or what reads their logs, count the lines in `counter`: one series a level, with the labels
    namespace and pod.
    """

    counter: str = "log_messages_total"
    level_label: str = "level"
    levels: tuple[str, ...] = ("error", "critical", "fatal", "panic")
    """Those of the label's values that are errors, in lower case."""
    max: Ratio = field(default_factory=lambda: Ratio(0.01))
    window: timedelta = timedelta(minutes=1)
    sustained: timedelta = timedelta(minutes=5)

    name = "log-errors"
    slower_than = None
    of = "lines"
    bad_events = "errors among the lines logged"

    @property
    def bad_ratio_max(self) -> float:
        return self.max


Rule = ErrorRate | Slo | LogErrors
"""A limit on the share of bad events (requests, log lines) over a window, and for how long it may be exceeded."""


class Statistical(StrEnum):
    ON = "on"
    OBSERVE = "observe"
    """It is recorded what it would have done."""
    OFF = "off"


BUDGET = Ratio(0.01)


@dataclass(frozen=True)
class Analysis:
    """The comparison with stable (core/sequential.py), which finds a worse version before the limits do.

    A good canary may fail `tolerated` times as often as stable, and `slack` more; how much slower it may be is fixed
    (`sequential.LATENCY`). Of a hundred of them `false_rollback_budget` at most are rolled back by it.
    """

    statistical: Statistical = Statistical.ON
    false_rollback_budget: Ratio = BUDGET
    tolerated: float = 1.2
    slack: Ratio = field(default_factory=lambda: Ratio(0.0002))


@dataclass(frozen=True)
class Question:
    """What a source is asked to count: requests that fail or, with `slower_than`, that take longer."""

    name: str
    slower_than: timedelta | None = None

    of = "requests"


@dataclass(frozen=True)
class Incidents:
    """Labels by which a firing alert is a P0 incident (all must match)."""

    labels: Mapping[str, str] = field(default_factory=lambda: {"severity": "P0"})


@dataclass(frozen=True)
class Health:
    """Failing health checks: needs no Prometheus."""

    restarts_max: int = 1
    not_ready_max: timedelta = timedelta(seconds=30)
    progress_deadline: timedelta = timedelta(minutes=10)


class ImageStep(StrEnum):
    NONE = "none"
    PATCH = "patch"
    """Of the same repository: the same major and minor version, and a patch that is not lower."""


@dataclass(frozen=True)
class Bounds:
    """Requests and limits may be `factor` times as much or as little as stable's, and none above its `max`."""

    factor: float = 2.0
    max: Mapping[str, str] = field(default_factory=dict)
    """cpu, memory or ephemeral-storage to the greatest quantity."""


@dataclass(frozen=True)
class Scope:
    """What a change of this type may change in a pod template; whatever is not named here is outside.

    Replicas are no part of a pod template: scaling is never held, and needs no change.
    """

    images: ImageStep = ImageStep.NONE
    env: tuple[str, ...] = ()
    """Names of environment variables whose value may be set, `*` for any part of a name."""
    resources: Bounds | None = None
    annotations: tuple[str, ...] = ()
    """Keys of the pods' annotations, `*` for any part of a key."""
    labels: tuple[str, ...] = ()
    """Keys of the pods' labels, likewise."""


@dataclass(frozen=True)
class Form:
    """The fields of the change-request form that a change of this type has to fill, by their paths in its spec."""

    required: tuple[str, ...] = ()


@dataclass(frozen=True)
class JobRule:
    """A Job that is made, before the start, from the CronJob of this name in the change's namespace."""

    cron_job: str
    required: bool = True
    """It must succeed; the failure of another one is a warning."""
    deadline: timedelta = timedelta(minutes=10)


@dataclass(frozen=True)
class Before:
    """What is done when all else lets the change start: backups, tests."""

    jobs: tuple[JobRule, ...] = ()


@dataclass(frozen=True)
class After:
    """What follows the promotion, before the change ends."""

    watch: timedelta = timedelta()
    """How long the Deployment is judged by its own traffic, with the stable template to go back to."""


@dataclass(frozen=True)
class Policy:
    """The spec of a ChangePolicy; its name is the change type."""

    steps: tuple[Step, ...]
    approval: Approval = Approval()
    review: ReviewRules = ReviewRules()
    before: Before = Before()
    after: After = After()
    window: Window = field(default_factory=Window)
    form: Form = Form()
    scope: Scope | None = None
    """Without it a change of this type may change anything."""
    metrics: Source = Source()
    error_rate: ErrorRate = ErrorRate()
    slos: tuple[Slo, ...] = ()
    log_errors: LogErrors | None = None
    """Without it logs are not watched: where their lines are counted is for the SREs to say."""
    analysis: Analysis = field(default_factory=Analysis)
    incidents: Incidents = field(default_factory=Incidents)
    health: Health = Health()
    low_traffic: LowTraffic = LowTraffic.CONTINUE
    min_requests: int = 75
    no_data_alert_after: timedelta = timedelta(seconds=60)
    no_data_deadline: timedelta = timedelta(minutes=30)
    drain_max: timedelta = timedelta(seconds=30)
    capacity_wait_max: timedelta = timedelta(seconds=30)
    canary_replicas_min: int = 2
    on_rollback: OnRollback = OnRollback.HOLD
    first_deployment: FirstDeployment = FirstDeployment.RUN
    revert_bake: timedelta = timedelta(minutes=1)
    """A revert to the revision before bakes no longer than that at each step."""

    @cached_property
    def version(self) -> str:
        """What records name it by: a hash of all that it says."""
        return digest(encode(self))[:16]

    def step(self, number: int) -> Step:
        """The first step has the number 1."""
        return self.steps[number - 1]

    @property
    def rules(self) -> tuple[Rule, ...]:
        return (*self.request_rules, *((self.log_errors,) if self.log_errors else ()))

    @property
    def request_rules(self) -> tuple[Rule, ...]:
        """Those that `metrics` is the source of."""
        return (self.error_rate, *self.slos)

    def needs(self, *, canary: bool = True) -> timedelta:
        """How long a change is expected to take from its start to its end, when nothing goes wrong and users are few.

        With a canary: every bake, twice over where too few requests prolong it (`checks.low_traffic_until`); one
        `progress_deadline` for all pods to get ready, those of the steps and those of the rolling update; and the
        drain. Without one: the rolling update and the last step's bake, in which it is watched. Waits for data, and
        the way back, are not in it, nor the watch afterwards: nothing moves forward in it.
        """
        if not canary:
            return self.health.progress_deadline + self.steps[-1].bake
        bakes = sum((step.bake for step in self.steps), timedelta())
        prolonged = 2 if self.low_traffic is LowTraffic.CONTINUE else 1
        return prolonged * bakes + self.health.progress_deadline + self.drain_max


RESERVED = (ErrorRate.name, LogErrors.name)
"""Rules that are no SLO have these names."""
_METRIC = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
CUSTOM = "custom"
_CODE = re.compile(r"[A-Za-z0-9_.*-]{1,63}")
_TEMPLATE = re.compile(rf"(?:[^{{}}]|\{{(?:{'|'.join(PLACEHOLDERS)})\}})*")
_TELL_ARMS_APART = ("{service}", "{workload}", "{pod}")
_SERVICE_ACCOUNT = re.compile(r"system:serviceaccount:[a-z0-9-]{1,63}:[a-z0-9.-]{1,253}")
JOB_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,50}[a-z0-9])?")
"""Names that a CronJob may have."""
_SLO_NAME = re.compile(r"[a-z]([a-z0-9-]{0,30}[a-z0-9])?")


def parse_policy(spec: JSON, presets: frozenset[str]) -> Policy:
    """A Policy from the spec of a ChangePolicy.

    Raises:
        FieldError: names the field, the value and the mend.
    """
    policy = decode(Policy, spec, "spec")
    _check_steps(policy)
    _check_source(policy, presets)
    names = [slo.name for slo in policy.slos]
    for i, slo in enumerate(policy.slos):
        if not _SLO_NAME.fullmatch(slo.name) or names.count(slo.name) > 1 or slo.name in RESERVED:
            mend = f"write a name of its own of a-z, 0-9 and -, not {' or '.join(RESERVED)}"
            raise FieldError(f"spec.slos[{i}].name", slo.name, mend)
        if not 0 < slo.objective < 1:
            raise FieldError(
                f"spec.slos[{i}].objective",
                f"{slo.objective:.4%}",
                'write a percentage between 0 and 100, like "99.9%"',
            )
        if not 0 < slo.bad_ratio_max < 1:
            raise FieldError(
                f"spec.slos[{i}].burnMax", slo.burn_max, "with this objective it could never be exceeded, or always is"
            )
    paths = ["errorRate", *(f"slos[{i}]" for i in range(len(names))), "logErrors"]
    for path, rule in zip(paths, policy.rules, strict=False):
        if not timedelta(seconds=10) <= rule.window <= timedelta(minutes=10):
            mend = "write a duration between 10s and 10m"
            raise FieldError(f"spec.{path}.window", format_duration(rule.window), mend)
    if not policy.incidents.labels or not all(isinstance(v, str) for v in policy.incidents.labels.values()):
        raise FieldError("spec.incidents.labels", policy.incidents.labels, "write at least one label and its value")
    if bad := next((name for name in policy.incidents.labels if not _LABEL.fullmatch(name)), None):
        raise FieldError("spec.incidents.labels", bad, "write a Prometheus label name: letters, digits and _")
    _check_analysis(policy.analysis)
    if policy.log_errors:
        _check_log_errors(policy.log_errors)
    _check_approval(policy.approval)
    _check_jobs(policy.before.jobs)
    check_window(policy.window)
    _check_form(policy.form)
    if policy.scope:
        _check_scope(policy.scope)
    return policy


def _check_source(policy: Policy, presets: frozenset[str]) -> None:
    source = policy.metrics
    if source.preset not in presets | {CUSTOM}:
        mend = f"write one of {', '.join(sorted(presets))}, or {CUSTOM}"
        raise FieldError("spec.metrics.preset", source.preset, mend)
    if (source.preset == CUSTOM) is not (source.custom is not None):
        mend = f"write {CUSTOM}, or leave out spec.metrics.custom" if source.custom else "write spec.metrics.custom too"
        raise FieldError("spec.metrics.preset", source.preset, mend)
    if source.custom:
        _check_custom(source.custom)
        if not source.custom.latency and (slo := next((slo for slo in policy.slos if slo.slower_than), None)):
            mend = f"write the name of a histogram: the SLO {slo.name} has slowerThan"
            raise FieldError("spec.metrics.custom.latency", "", mend)


def _check_custom(custom: CustomSource) -> None:
    path = "spec.metrics.custom"
    _check_metric(f"{path}.requests", custom.requests)
    _check_metric(f"{path}.heartbeat", custom.heartbeat)
    if custom.latency:
        _check_metric(f"{path}.latency", custom.latency)
    if custom.latency.endswith(("_bucket", "_count", "_sum")):
        mend = f"write the name of the histogram alone: {custom.latency.rpartition('_')[0]}"
        raise FieldError(f"{path}.latency", custom.latency, mend)
    if not custom.codes:
        raise FieldError(f"{path}.codes", [], "write at least one label and its values that are failures")
    for i, codes in enumerate(custom.codes):
        _check_label(f"{path}.codes[{i}].label", codes.label)
        if not codes.bad or (odd := next((code for code in codes.bad if not _CODE.fullmatch(code)), None)) is not None:
            mend = 'write at least one value, like "5*", of letters, digits, _, ., - and *'
            raise FieldError(f"{path}.codes[{i}].bad", list(codes.bad) if not codes.bad else odd, mend)
    taken: set[str] = {codes.label for codes in custom.codes}
    for name, labels in (
        ("selectedBy", [by.label for by in custom.selected_by]),
        ("where", [fixed.label for fixed in custom.where]),
    ):
        for i, label in enumerate(labels):
            _check_label(f"{path}.{name}[{i}].label", label)
            if label in taken:
                raise FieldError(f"{path}.{name}[{i}].label", label, "name each label once")
            taken.add(label)
    for i, fixed in enumerate(custom.heartbeat_where):
        _check_label(f"{path}.heartbeatWhere[{i}].label", fixed.label)
    for i, by in enumerate(custom.selected_by):
        _check_template(f"{path}.selectedBy[{i}].value", by.value)
        _check_template(f"{path}.selectedBy[{i}].canary", by.canary)
        if not by.value and not by.canary:
            raise FieldError(f"{path}.selectedBy[{i}].value", "", "write what the label's value is made of")
    templates = [(by.value, by.canary or by.value) for by in custom.selected_by]
    if not all(any("{namespace}" in pair[arm] for pair in templates) for arm in (0, 1)):
        mend = "write {namespace} into the value of one label: names are unique in their namespace only"
        raise FieldError(f"{path}.selectedBy", [pair[0] for pair in templates], mend)
    if not any(canary != stable or any(each in stable for each in _TELL_ARMS_APART) for stable, canary in templates):
        mend = f"nothing in it tells canary from stable: write one of {', '.join(_TELL_ARMS_APART)} into a value"
        raise FieldError(f"{path}.selectedBy", [pair[0] for pair in templates], mend)


def _check_template(path: str, template: str) -> None:
    if not _TEMPLATE.fullmatch(template):
        mend = f"write text, and in braces only {', '.join(PLACEHOLDERS)}, like {{namespace}}_{{service}}_{{port}}"
        raise FieldError(path, template, mend)
    if "{pod}" in template and template != "{pod}":
        raise FieldError(path, template, "write {pod} alone: a pod's name is known by its beginning only")


def _check_metric(path: str, name: str) -> None:
    if not _METRIC.fullmatch(name):
        raise FieldError(path, name, "write a metric's name: letters, digits, _ and :")


def _check_label(path: str, name: str) -> None:
    if not _LABEL.fullmatch(name) or name.startswith("__") or name == "le":
        raise FieldError(
            path, name, "write a Prometheus label name, other than le: letters, digits and _, not __ first"
        )


def _check_analysis(analysis: Analysis) -> None:
    if not 0.0001 <= analysis.false_rollback_budget <= 0.2:
        found = f"{analysis.false_rollback_budget:.4%}"
        raise FieldError("spec.analysis.falseRollbackBudget", found, "write a percentage from 0.01% to 20%")
    if not 1 <= analysis.tolerated <= 10:
        raise FieldError("spec.analysis.tolerated", analysis.tolerated, "write a number from 1 to 10")
    if not 0 <= analysis.slack <= 0.1:
        raise FieldError("spec.analysis.slack", f"{analysis.slack:.4%}", "write a percentage from 0% to 10%")


def _check_log_errors(rule: LogErrors) -> None:
    _check_metric("spec.logErrors.counter", rule.counter)
    if not _LABEL.fullmatch(rule.level_label):
        mend = "write a Prometheus label name: letters, digits and _"
        raise FieldError("spec.logErrors.levelLabel", rule.level_label, mend)
    if not rule.levels or any(level != level.lower() or not level.strip() for level in rule.levels):
        raise FieldError("spec.logErrors.levels", list(rule.levels), "write values of that label in lower case")
    if not 0 <= rule.max < 1:
        raise FieldError("spec.logErrors.max", f"{rule.max:.4%}", 'write a percentage from 0 to below 100, like "1%"')


def _check_jobs(jobs: tuple[JobRule, ...]) -> None:
    names = [rule.cron_job for rule in jobs]
    for i, rule in enumerate(jobs):
        path = f"spec.before.jobs[{i}]"
        if not JOB_NAME.fullmatch(rule.cron_job) or names.count(rule.cron_job) > 1:
            raise FieldError(f"{path}.cronJob", rule.cron_job, "write the name of a CronJob, each one once")
        if not timedelta(seconds=1) <= rule.deadline <= timedelta(hours=4):
            raise FieldError(f"{path}.deadline", format_duration(rule.deadline), "write a duration from 1s to 4h")


def _check_approval(approval: Approval) -> None:
    if not 0 <= approval.required <= 10:
        raise FieldError("spec.approval.required", approval.required, "write a number from 0 to 10")
    for i, name in enumerate(approval.service_accounts):
        if not _SERVICE_ACCOUNT.fullmatch(name):
            mend = "write system:serviceaccount:NAMESPACE:NAME"
            raise FieldError(f"spec.approval.serviceAccounts[{i}]", name, mend)
    if approval.tests and approval.required == 0:
        raise FieldError("spec.approval.tests", True, "without approvals nobody states it: write required: 1 or more")


def _check_steps(policy: Policy) -> None:
    weights = [step.weight for step in policy.steps]
    if not weights or weights != sorted(set(weights)) or weights[0] <= 0 or weights[-1] != 100:
        raise FieldError("spec.steps", weights, "write weights that rise from above 0 to 100, like 10, 50, 100")


def _check_form(form: Form) -> None:
    for i, name in enumerate(form.required):
        if name not in NAMES:
            raise FieldError(
                f"spec.form.required[{i}]", name, f"no such field of the form; known are {', '.join(NAMES)}"
            )


_PATTERN = re.compile(r"[A-Za-z0-9_./*-]{0,316}[A-Za-z0-9_][A-Za-z0-9_./*-]{0,316}")
BOUNDED = ("cpu", "memory", "ephemeral-storage")


def _check_scope(scope: Scope) -> None:
    for path, patterns in (("env", scope.env), ("annotations", scope.annotations), ("labels", scope.labels)):
        for i, pattern in enumerate(patterns):
            if not _PATTERN.fullmatch(pattern):
                raise FieldError(f"spec.scope.{path}[{i}]", pattern, "write a name, or a part of it with *, like LOG_*")
    if scope.resources is None:
        return
    if not 1 <= scope.resources.factor <= 100:
        raise FieldError("spec.scope.resources.factor", scope.resources.factor, "write a number from 1 to 100")
    for name, most in scope.resources.max.items():
        if name not in BOUNDED:
            raise FieldError("spec.scope.resources.max", name, f"no such bound; known are {', '.join(BOUNDED)}")
        try:
            parse_quantity(most)
        except (ValueError, TypeError):
            raise FieldError(f"spec.scope.resources.max.{name}", most, 'write a quantity, like "500m" or 2Gi') from None
