"""Subjects as the tests want them, and answers as Prometheus writes them."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from controller.core.codec import Ratio
from controller.core.model import ServicePair
from controller.core.policy import ErrorRate, Incidents, Slo
from controller.metrics.arms import Subject
from controller.metrics.presets import PRESETS

START = datetime(2026, 11, 23, 8, tzinfo=UTC)


def seconds(value: float) -> timedelta:
    return timedelta(seconds=value)


def at(offset: float) -> float:
    """The unix time of START + offset seconds."""
    return START.timestamp() + offset


def latency_slo(name: str = "latency", slower_than: timedelta = timedelta(milliseconds=500)) -> Slo:
    return Slo(name, Ratio(0.99), slower_than=slower_than)


def subject(
    name: str = "shop",
    *,
    namespace: str = "default",
    preset: str = "envoy",
    slos: Sequence[Slo] = (),
    since: datetime = START,
    incidents: Mapping[str, str] | None = None,
    canary_pods: str | None = None,
    stable_pods: str | None = None,
) -> Subject:
    return Subject(
        namespace=namespace,
        change=f"chg-{name}",
        target=name,
        rules=(ErrorRate(), *slos),
        incidents=Incidents(incidents or {"severity": "P0"}),
        source=PRESETS[preset],
        services=(ServicePair(name, f"{name}-canary", (80,)),),
        canary_pods=f"{name}-canary-" if canary_pods is None else canary_pods,
        stable_pods=f"{name}-6d4c-" if stable_pods is None else stable_pods,
        since=since,
    )


def matrix(labels: Mapping[str, str], *points: tuple[float, Any], name: str = "any") -> dict[str, Any]:
    """A series with (seconds since START, value) points; values are written as Prometheus does."""
    return {"metric": {"__name__": name, **labels}, "values": [[at(offset), str(value)] for offset, value in points]}


def cluster(arm: str, code: str = "", *, name: str = "shop", instance: str = "envoy-1") -> dict[str, str]:
    """Labels of an Envoy cluster's series; without a code, of its heartbeat."""
    service = f"{name}-canary" if arm == "canary" else name
    labels = {"envoy_cluster_name": f"default_{service}_80", "instance": instance, "job": "envoy"}
    return {**labels, "envoy_response_code": code} if code else labels
