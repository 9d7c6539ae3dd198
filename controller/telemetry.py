"""What an SRE sees of the process: JSON logs, one line a decision, and metrics in a registry of their own.

The series of changes are made when they are scraped, from the states last decided: what is gone leaves nothing behind.
"""

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import TextIO

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from structlog.typing import EventDict, Processor, WrappedLogger

from controller.core import compare
from controller.core.change import printable
from controller.core.codec import JSON, encode
from controller.core.model import Change, Evidence, Observation, Phase, Ruling, State, Verdict
from controller.core.notices import overdue
from controller.core.sequential import mean_e_value
from controller.settings import LogFormat, LogLevel

TEXT_MAX = 2000
ENDED_KEPT = timedelta(hours=1)
"""A change that has ended is shown in metrics for this long: for the last scrape, and for alerts on it."""

log = structlog.get_logger()


# --- Logs ---


def configure_logs(level: LogLevel, form: LogFormat, stream: TextIO | None = None) -> None:
    """Every log line of the process, of libraries and warnings too: UTC moment, level, constant event name, keys."""
    stream = stream or sys.stderr
    renderer: Processor = (
        structlog.processors.JSONRenderer(ensure_ascii=False)
        if form is LogFormat.JSON
        else structlog.dev.ConsoleRenderer(colors=stream.isatty())
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
            structlog.processors.format_exc_info,
            _escape,
            renderer,
        ]
    )
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logging.basicConfig(level=level.number, handlers=[handler], force=True)
    logging.captureWarnings(True)


def _escape(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Text from outside (annotations, pod messages) cannot end a line, colour a terminal or turn the script."""
    return {key: _harmless(key, value) if isinstance(value, str) else value for key, value in event.items()}


def _harmless(key: str, text: str) -> str:
    if key == "exception":  # a traceback has lines of its own
        return "\n".join(printable(line, TEXT_MAX) for line in text.split("\n"))
    return printable(text, TEXT_MAX)


# --- Metrics of changes ---


@dataclass(frozen=True)
class _Seen:
    change: Change
    state: State
    weights: dict[str, int]
    ratios: dict[tuple[str, str, str], float]
    overdue: tuple[str, ...]


class _Changes(Collector):
    """The series of the changes that are known at the moment of a scrape."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self.known: dict[tuple[str, str], _Seen] = {}

    def collect(self) -> Iterator[Metric]:
        def gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
            return GaugeMetricFamily(f"serin_{name}", text, labels=("namespace", "change", *labels))

        phase = gauge("change_phase", "1 for the phase that the change is in, 0 for the others.", "type", "phase")
        reason = gauge("change_reason", "Always 1; the label says why the change is where it is, or ended.", "reason")
        step = gauge("change_step", "Step of the change, 1 is the first; 0 before the start.")
        desired = gauge("change_weight_desired", "Percent of the traffic that the canary is to have.")
        actual = gauge("change_weight_actual", "Percent that the routes of a Deployment give its canary.", "target")
        ratio = gauge("measured_ratio", "Share of bad requests, newest sample.", "target", "rule", "arm")
        ratio_max = gauge("measured_ratio_max", "Share of bad requests above which a rule is broken.", "rule")
        breach = gauge("breach_seconds", "How long a limit has been exceeded, on the data's clock.", "target", "rule")
        breach_max = gauge("breach_seconds_max", "How long until the change is rolled back.", "rule")
        e_value = gauge("evidence", "Against the canary, compared with stable; 1 or less is none.", "target", "rule")
        e_value_max = gauge("evidence_max", "The evidence at which the change is rolled back.", "rule")
        stuck = gauge("change_cannot_go_back", "Always 1; evidence is against a change that is forwardOnly.")
        late = gauge("deadline_overdue", "Always 1; the label says which deadline of people is missed.", "deadline")
        for key, seen in list(self.known.items()):
            state = seen.state
            for deadline in seen.overdue:
                late.add_metric((seen.change.namespace, seen.change.change_id, deadline), 1)
            if state.ended_at and self._now() - state.ended_at > ENDED_KEPT:
                if seen.overdue:
                    continue
                del self.known[key]
                continue
            kind = seen.change.type.value if seen.change.type else "unknown"
            names = (seen.change.namespace, seen.change.change_id)
            for each in Phase:
                phase.add_metric((*names, kind, each.value), each is state.phase)
            if state.reason:
                reason.add_metric((*names, state.reason), 1)
            step.add_metric(names, state.step)
            desired.add_metric(names, state.weight)
            if any(warning.startswith("CannotGoBack: ") for warning in state.warnings):
                stuck.add_metric(names, 1)
            for target, weight in seen.weights.items():
                actual.add_metric((*names, target), weight)
            for labels, value in seen.ratios.items():
                ratio.add_metric((*names, *labels), value)
            if state.phase.terminal:
                continue
            for rule in state.policy.rules if state.policy else ():
                ratio_max.add_metric((*names, rule.name), rule.bad_ratio_max)
                breach_max.add_metric((*names, rule.name), rule.sustained.total_seconds())
            for b in state.breaches:
                breach.add_metric((*names, b.target, b.rule), b.bad_for.total_seconds())
            for c in state.comparisons:
                e_value.add_metric((*names, c.target, c.rule), mean_e_value(c.monitors))
                if state.policy:
                    e_value_max.add_metric((*names, c.rule), compare.terms(state.policy, c.rule).e_value_max)
        yield from (phase, reason, step, desired, actual, ratio, ratio_max, breach, breach_max)
        yield from (e_value, e_value_max, stuck, late)


# --- What the reconciler calls ---


class Telemetry:
    """Counts, gauges and log lines of one process. `now` tells the time (UTC)."""

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._now = now
        self.registry = registry = CollectorRegistry()
        self._changes = _Changes(now)
        registry.register(self._changes)
        ProcessCollector(registry=registry)
        self._decisions = Counter(
            "serin_decisions", "Decisions that changed something.", ("phase", "reason"), registry=registry
        )
        self._transitions = Counter(
            "serin_transitions", "Phases, stages and steps entered.", ("type", "phase"), registry=registry
        )
        self._rulings = Counter(
            "serin_rulings", "Decisions of people that were taken in.", ("action", "reason"), registry=registry
        )
        self._unmanaged = Gauge(
            "serin_unmanaged_replica_sets",
            "ReplicaSets of a managed Deployment that no change accounts for.",
            ("namespace", "workload"),
            registry=registry,
        )
        self._writes = Counter("serin_writes", "Writes to the cluster.", ("kind",), registry=registry)
        self._reconcile = Histogram("serin_reconcile_seconds", "Time of one look at a change.", registry=registry)
        self._first_write = Histogram(
            "serin_first_write_seconds",
            "From the verdict of a rollback to its first write.",
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
            registry=registry,
        )
        self._leader = Gauge("serin_leader", "1 while this process leads.", registry=registry)
        self._prometheus_up = Gauge("serin_prometheus_up", "1 while Prometheus answers.", registry=registry)
        self._clock = Gauge(
            "serin_clock_behind_seconds",
            "How far this machine's clock is behind the API server's, by which everything goes.",
            registry=registry,
        )
        self._admission = Gauge("serin_admission_up", "1 while the admission policies are there.", registry=registry)
        self._notifications = Counter(
            "serin_notifications", "Attempts to tell a sink something.", ("sink", "outcome"), registry=registry
        )
        self._oldest_notice = Gauge(
            "serin_notification_oldest_seconds",
            "Age of the oldest notice that a sink is owed.",
            ("sink",),
            registry=registry,
        )
        self._alert_posts = Counter(
            "serin_alert_posts", "Posts of an Alertmanager, by how each ended.", ("outcome",), registry=registry
        )
        self._audit = Gauge("serin_audit_up", "1 while the audit trail is written.", registry=registry)
        self._tasks = Gauge(
            "serin_tasks", "Tasks of the event loop, that of the scrape itself included.", registry=registry
        )
        build = Gauge("serin_build_info", "Always 1; the version is a label.", ("version",), registry=registry)
        build.labels(version("serin")).set(1)

    def decision(self, change: Change, before: State, after: State, observation: Observation) -> None:
        """A decision was taken. Call it at every cycle: the gauges follow, and a line is logged when something changed.

        `observation` is what `after` rests on.
        """
        policy = after.policy or observation.policy
        self._changes.known[change.namespace, change.name] = _Seen(
            change,
            after,
            _weights(observation),
            {} if after.phase.terminal else _ratios(after, observation),
            overdue(after, policy, self._now()) if policy else (),
        )
        if _gist(before) == _gist(after):
            return
        if (before.phase, before.stage, before.step) != (after.phase, after.stage, after.step):
            self._transitions.labels(change.type or "unknown", after.phase).inc()
        self._decisions.labels(after.phase, after.reason).inc()
        evidence = _decisive(after)
        ill = after.cause or (evidence and evidence.verdict is Verdict.FAIL)
        targets = [t for t in after.targets if evidence is None or t.name == evidence.target]
        (log.warning if ill else log.info)(
            "decision",
            change=change.change_id,
            namespace=change.namespace,
            workload=",".join(t.name for t in targets) or ",".join(change.deployments),
            revision=",".join(t.revision for t in targets),
            phase=after.phase.value,
            stage=after.stage.value if after.stage else None,
            step=after.step,
            weight=after.weight,
            verdict=evidence.verdict.value if evidence else None,
            reason=after.reason,
            rule=evidence.rule if evidence else None,
            value=evidence.value if evidence else None,
            threshold=evidence.threshold if evidence else None,
            evidence=encode(evidence) if evidence else None,
            message=after.message,
        )

    def judged(self, change: Change, record: JSON) -> None:
        """What the newest verdicts were made of, to be replayed: `serin judge replay`. Nothing, when it is empty."""
        if record:
            log.info("judged", change=change.change_id, namespace=change.namespace, judgement=record)

    def unmanaged(self, namespace: str, workload: str, count: int) -> None:
        """How many ReplicaSets of a managed Deployment no change accounts for."""
        if count:
            self._unmanaged.labels(namespace, workload).set(count)
        else:
            with contextlib.suppress(KeyError):
                self._unmanaged.remove(namespace, workload)

    def ruling(self, change: Change, ruling: Ruling) -> None:
        """A ChangeDecision was taken in: counted, or refused for a reason."""
        reason = ruling.refusal.partition(": ")[0]
        self._rulings.labels(ruling.action, reason or "Counts").inc()
        (log.info if ruling.counts else log.warning)(
            "ruling",
            change=change.change_id,
            namespace=change.namespace,
            action=ruling.action.value,
            by=ruling.by,
            revision=ruling.revision,
            counts=ruling.counts,
            reason=reason or None,
            message=ruling.refusal or ruling.reason,
        )

    def write(self, change: Change, kind: str, message: str, *, after_verdict: timedelta | None = None) -> None:
        """A write to the cluster was accepted. `kind` is one word of a fixed set.

        `after_verdict`: with the first write of a rollback, the time since its verdict.
        """
        self._writes.labels(kind).inc()
        took: dict[str, float] = {}
        if after_verdict is not None:
            self._first_write.observe(after_verdict.total_seconds())
            took = {"seconds_after_verdict": round(after_verdict.total_seconds(), 3)}
        log.info("write", change=change.change_id, namespace=change.namespace, kind=kind, message=message, **took)

    def forget(self, namespace: str, name: str) -> None:
        """The ChangeRequest is gone: so are its series."""
        self._changes.known.pop((namespace, name), None)

    def sink(self, name: str, oldest: Callable[[], timedelta]) -> None:
        """There is a sink; `oldest` is asked at every scrape."""
        self._oldest_notice.labels(name).set_function(lambda: oldest().total_seconds())

    def notified(self, sink: str, outcome: str) -> None:
        """An attempt to deliver a notice: `delivered`, or one word for why not."""
        self._notifications.labels(sink, outcome).inc()

    def alerts_posted(self, outcome: str) -> None:
        """An Alertmanager posted: `ok`, or a few words for why it was not taken."""
        self._alert_posts.labels(outcome).inc()

    def reconciled(self, took: timedelta) -> None:
        self._reconcile.observe(took.total_seconds())

    def leading(self, leads: bool) -> None:
        self._leader.set(leads)

    def prometheus_answers(self, up: bool) -> None:
        self._prometheus_up.set(up)

    def clock_behind(self, behind: timedelta) -> None:
        self._clock.set(behind.total_seconds())

    def admission_found(self, found: bool) -> None:
        self._admission.set(found)

    def audit_written(self, up: bool) -> None:
        self._audit.set(up)

    def tasks(self, count: int) -> None:
        self._tasks.set(count)

    def exposition(self) -> tuple[bytes, str]:
        """The body of /metrics and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST


def _gist(state: State) -> State:
    """What of a state is worth a line: not the clocks, counts and words that move at every look."""
    verdicts = tuple(Evidence(e.rule, e.target, e.verdict, "", "", "") for e in state.evidence)
    kept = ("phase", "stage", "outcome", "step", "weight", "reason", "cause", "rejected")
    return replace(State(), evidence=verdicts, **{name: getattr(state, name) for name in kept})


def _decisive(state: State) -> Evidence | None:
    """The evidence that weighs most: the first failure, else the first that is inconclusive, else the first."""
    weight = (Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.PASS)
    return min(state.evidence, key=lambda e: weight.index(e.verdict), default=None)


def _weights(observation: Observation) -> dict[str, int]:
    """The greatest weight that a route gives the canary of each Deployment; nothing while one cannot be told."""
    found = {}
    for name, seen in observation.targets.items():
        weights = [route.weight for route in seen.routes if route.weight is not None]
        if weights and len(weights) == len(seen.routes):
            found[name] = max(weights)
    return found


def _ratios(state: State, observation: Observation) -> dict[tuple[str, str, str], float]:
    """Of the newest sample that has requests, of each rule and arm."""
    arms = observation.arms
    compared = {question.name for target in state.targets for question in compare.questions(state, target.name)}
    kept = {key: arm for key, arm in arms.items() if key[1] not in compared}
    newest = {key: next((s for s in reversed(arm.samples) if s.total), None) for key, arm in kept.items()}
    return {key: sample.bad / sample.total for key, sample in newest.items() if sample}
