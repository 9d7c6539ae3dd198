"""Where requests are counted: the metric sources that a ChangePolicy can name."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import Enum

from controller.core.policy import LogErrors

SERVER_ERROR = "5.*|0+"
"""5xx, and 0: no answer at all."""


class SelectedBy(Enum):
    """How the series of a workload's arm are told from those of others, and the labels that say so."""

    SERVICE = ("envoy_cluster_name",)
    """`NAMESPACE_SERVICE_PORT`, once for each port of the arm's Services."""
    POD = ("namespace", "pod")
    """Pods whose names are those that a Deployment or a ReplicaSet gives."""

    def __init__(self, *labels: str) -> None:
        self.labels = labels


@dataclass(frozen=True)
class Preset:
    requests: str
    """A counter of requests, one series a response code."""
    code_labels: tuple[str, ...]
    """Labels that may hold the code; the first that is there counts."""
    bad_codes: str
    """A regular expression of the codes of bad events; case does not matter."""
    latency: str
    """The `_bucket` series of a classic histogram."""
    latency_unit: timedelta
    heartbeat: str
    """A series that is there without any traffic: it tells few requests from no data."""
    heartbeat_is_one: bool
    """It proves something only while it is 1."""
    selected_by: SelectedBy


ENVOY = Preset(
    requests="envoy_cluster_upstream_rq",
    code_labels=("envoy_response_code",),
    bad_codes=SERVER_ERROR,
    latency="envoy_cluster_upstream_rq_time_bucket",
    latency_unit=timedelta(milliseconds=1),
    heartbeat="envoy_cluster_upstream_rq_total",
    heartbeat_is_one=False,
    selected_by=SelectedBy.SERVICE,
)
"""Envoy as Contour sets it up. Seen on Envoy 1.40 (tests/metrics/test_envoy.py):

At zero traffic only the heartbeat exists; the series of a code begins with its first request. Envoy's own answers count
by code too: 503 for no endpoint and for a refused connection (the heartbeat stays 0 then), 504 for a time-out. Clients
that hang up are not in the counter. The histogram leaves Envoy's own answers out: a time-out is an error, not a slow
request. It is brought up to date every 5 s.
"""

PODS = Preset(
    requests="http_requests_total",
    code_labels=("code", "status"),
    bad_codes=SERVER_ERROR,
    latency="http_request_duration_seconds_bucket",
    latency_unit=timedelta(seconds=1),
    heartbeat="up",
    heartbeat_is_one=True,
    selected_by=SelectedBy.POD,
)
"""What the pods count themselves, as Prometheus client libraries name it; scraped with the labels namespace and pod."""


def of_logs(rule: LogErrors) -> Preset:
    """The log lines of pods, told apart by their level as requests are by their code."""
    return replace(
        PODS,
        requests=rule.counter,
        code_labels=(rule.level_label,),
        bad_codes="|".join(map(re.escape, rule.levels)),
        latency="",
    )


PRESETS: Mapping[str, Preset] = {"envoy": ENVOY, "pods": PODS}
