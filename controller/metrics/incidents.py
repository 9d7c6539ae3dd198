"""P0 incidents: firing alerts with the labels that the policy names, and which workload they are about. Pure."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from controller.core.change import Problem, printable
from controller.core.model import Incident
from controller.metrics.arms import Subject, quote
from controller.metrics.counters import Series

_LABEL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_NAMES_A_WORKLOAD = ("deployment", "workload", "service", "app")
_EARLIEST_START = datetime(2000, 1, 1, tzinfo=UTC).timestamp()


@dataclass(frozen=True)
class Alert:
    """A firing alert; `began_at` is None when Prometheus does not say."""

    labels: Mapping[str, str]
    began_at: datetime | None


def incidents_query(labels: Mapping[str, str]) -> str:
    """Asks for firing alerts with the moments at which they became active: the values of ALERTS_FOR_STATE.

    One without such a value is answered with its 1. Raises ValueError for what cannot be the name of a label.
    """
    for name in labels:
        if not _LABEL_NAME.fullmatch(name):
            raise ValueError(
                f"spec.incidents.labels of the ChangePolicy: {printable(name)!r} is not the name of a label"
            )
    wanted = ",".join(f"{name}={quote(value)}" for name, value in sorted(labels.items()))
    firing = f'ALERTS{{{wanted},alertstate="firing"}}'
    return f"(ALERTS_FOR_STATE{{{wanted}}} and ignoring(alertstate) {firing}) or ignoring(alertstate) {firing}"


def read_alerts(answer: Iterable[Series]) -> list[Alert]:
    return [
        Alert(
            {name: value for name, value in series.labels.items() if name != "alertstate"},
            _moment(series.points[-1][1] if series.points else 0),
        )
        for series in answer
    ]


def _moment(value: float) -> datetime | None:
    return datetime.fromtimestamp(value, UTC) if _EARLIEST_START < value < 2**40 else None


def concerns(labels: Mapping[str, str], subject: Subject) -> bool:
    """Whether an alert with these labels is about the workload, or about nothing narrower than its namespace."""
    if labels.get("namespace", subject.namespace) != subject.namespace:
        return False
    named = {labels[label] for label in _NAMES_A_WORKLOAD if labels.get(label)}
    pods = tuple(filter(None, (subject.canary_pods, subject.stable_pods)))
    if pod := labels.get("pod"):
        return pod.startswith(pods) or bool(named & _names(subject))
    return bool(named & _names(subject)) if named else "namespace" in labels


def _names(subject: Subject) -> set[str]:
    services = {name for pair in subject.services for name in (pair.stable, pair.canary)}
    return {subject.target, subject.canary_pods.removesuffix("-"), *services} - {""}


def incidents_of(subject: Subject, alerts: Sequence[Alert]) -> tuple[tuple[Incident, ...], tuple[Problem, ...]]:
    """The incidents of a workload, and those of which it cannot be said whether they began before the change."""
    mine = [(alert, alert.labels.get("alertname", "")) for alert in alerts if concerns(alert.labels, subject)]
    known = tuple(Incident(name, alert.labels, alert.began_at) for alert, name in mine if alert.began_at)
    unknown = tuple(
        Problem(
            "IncidentWithoutStart",
            f"the alert {printable(name)} is firing, but Prometheus has no ALERTS_FOR_STATE for it: query the server "
            "that evaluates the rule",
        )
        for alert, name in mine
        if not alert.began_at
    )
    return known, unknown
