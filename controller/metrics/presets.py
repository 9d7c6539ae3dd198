"""Where requests are counted: the metric sources that a ChangePolicy can name.

A preset is data: names of metrics, and a table of labels that tells whose a series is. docs/metrics.md says for each
what it needs, what it cannot see and how it was tried; each docstring says where its names come from.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta

from controller.core.policy import CUSTOM, CustomSource, LatencyUnit, LogErrors, Source

SERVER_ERROR = "5.*|0+"
"""5xx, and 0: no answer at all."""
GRPC_SERVER_ERROR = "2|4|12|13|14|15"
"""Unknown, DeadlineExceeded, Unimplemented, Internal, Unavailable, DataLoss: what the conventions of OpenTelemetry
count as errors of a server; the others are the client's."""


@dataclass(frozen=True)
class Label:
    """A row of the table: a label, and its value for an arm, made of `policy.PLACEHOLDERS`.

    `canary`: its value for the canary, where that is made in another way; empty: as `value`. `before` and `after`:
    expressions of what stands around the value in the label.
    """

    name: str
    value: str
    canary: str = ""
    before: str = ""
    after: str = ""

    def of(self, canary: bool) -> str:
        return self.canary or self.value if canary else self.value


Labels = tuple[tuple[str, str], ...]
"""Names and fixed values."""


@dataclass(frozen=True)
class Preset:
    requests: str
    """A counter of requests, one series a response code."""
    codes: Labels
    """Labels, each with a regular expression of its values that are failures; case does not matter."""
    latency: str
    """A histogram, classic (then without `_bucket`) or native; empty: there is none."""
    latency_unit: timedelta
    heartbeat: str
    """A series that is there without any traffic: it tells few requests from no data. `up` counts while it is 1."""
    selected_by: tuple[Label, ...]
    where: Labels = ()
    """Labels that requests and latency must have."""
    heartbeat_where: Labels | None = None
    """Those of a heartbeat that is of the proxy, not of an arm: it counts for a workload that the proxy has counted
    requests of. None: it is selected as the arms are."""

    @property
    def pod_label(self) -> str:
        """The label that names the workload's own pods; empty where series are of something else."""
        return next((label.name for label in self.selected_by if label.value == "{pod}"), "")

    @property
    def by_pods(self) -> bool:
        """Whether arms are told apart by their pods alone: then no route and no Service is needed."""
        text = "".join(label.value + label.canary for label in self.selected_by)
        others = ("{service}", "{stable}", "{port}", "{workload}")
        return bool(self.pod_label) and not any(name in text for name in others)


BY_POD = (Label("namespace", "{namespace}"), Label("pod", "{pod}"))

ENVOY = Preset(
    requests="envoy_cluster_upstream_rq",
    codes=(("envoy_response_code", SERVER_ERROR),),
    latency="envoy_cluster_upstream_rq_time",
    latency_unit=timedelta(milliseconds=1),
    heartbeat="envoy_cluster_upstream_rq_total",
    selected_by=(Label("envoy_cluster_name", "{namespace}_{service}_{port}"),),
)
"""Envoy as Contour sets it up. Seen on Envoy 1.40 (tests/metrics/test_envoy.py):

At zero traffic only the heartbeat exists; the series of a code begins with its first request. Envoy's own answers count
by code too: 503 for no endpoint and for a refused connection (the heartbeat stays 0 then), 504 for a time-out. Clients
that hang up are not in the counter. The histogram leaves Envoy's own answers out: a time-out is an error, not a slow
request. It is brought up to date every 5 s.
"""

ENVOY_GATEWAY = replace(
    ENVOY,
    selected_by=(Label("envoy_cluster_name", "service/{namespace}/{service}/{port}", after="(?:/[a-z0-9]+)?"),),
)
"""Envoy Gateway 1.9 with `mergeBackends` in its EnvoyProxy: then each Service has a cluster of its own,
`service/NS/NAME/PORT` and its protocol (envoyproxy/gateway, internal/gatewayapi/helpers.go, irBackendClusterName).

Without it the weighted backends of a rule are localities of one cluster, `httproute/NS/ROUTE/rule/N`, and no metric of
Envoy tells them apart (internal/ir/xds.go, NeedsClusterPerSetting): choose `pods` then.
"""

PODS = Preset(
    requests="http_requests_total",
    codes=(("code", SERVER_ERROR), ("status", SERVER_ERROR)),
    latency="http_request_duration_seconds",
    latency_unit=timedelta(seconds=1),
    heartbeat="up",
    selected_by=BY_POD,
)
"""What the pods count themselves, as Prometheus client libraries name it; scraped with the labels namespace and pod."""

ISTIO = Preset(
    requests="istio_requests_total",
    codes=(("response_code", "5.*"), ("grpc_response_status", GRPC_SERVER_ERROR)),
    latency="istio_request_duration_milliseconds",
    latency_unit=timedelta(milliseconds=1),
    heartbeat="istio_build",
    selected_by=(
        Label("destination_service_namespace", "{namespace}"),
        Label("destination_service_name", "{service}"),
    ),
    where=(("reporter", "source"),),
    heartbeat_where=(("component", "proxy"),),
)
"""Istio's standard metrics, as the client's proxy counts them (gateway or sidecar): it sees refused connections too.

Names: istio.io, "Istio Standard Metrics", and the expectations of istio/proxy's own tests (testdata/metric/
client_request_total.yaml.tmpl, istio_build.yaml). The code 0 is a client that hung up, so it is no failure.
"""

NGINX = Preset(
    requests="nginx_ingress_controller_requests",
    codes=(("status", "5.*"),),
    latency="nginx_ingress_controller_request_duration_seconds",
    latency_unit=timedelta(seconds=1),
    heartbeat="nginx_ingress_controller_config_last_reload_successful",
    selected_by=(
        Label("namespace", "{namespace}"),
        Label("service", "{stable}"),
        Label("canary", "", canary="{namespace}-{service}-{port}"),
    ),
    heartbeat_where=(),
)
"""ingress-nginx, scraped with honor_labels, for namespace and service are those of the Ingress.

The label service is always that of the main Ingress; what a canary Ingress got has its upstream in the label canary
(kubernetes/ingress-nginx: balancer.lua and monitor.lua in rootfs/etc/nginx/lua; internal/ingress/metric/collectors;
upstreamName in internal/ingress/controller/util.go).
"""

TRAEFIK = Preset(
    requests="traefik_service_requests_total",
    codes=(("code", "5.*"),),
    latency="traefik_service_request_duration_seconds",
    latency_unit=timedelta(seconds=1),
    heartbeat="traefik_config_last_reload_success",
    selected_by=(
        Label(
            "service",
            "{namespace}-{service}",
            before="(?:.+?-[0-9]+-svc-)?",
            after="(?:-http|-[0-9]+)@kubernetesgateway",
        ),
    ),
    heartbeat_where=(),
)
"""Traefik's provider for the Gateway API, scraped with honor_labels.

Its services are called NS-SERVICE-http up to 3.7.5, and ROUTE…-svc-NS-SERVICE-N since; ports are not in the name
(traefik/traefik, pkg/provider/kubernetes/gateway/httproute.go). Metrics are of the service that answers, not of the
weighted one above it (pkg/server/service/service.go; seen on Traefik 3.7.13). Names: doc.traefik.io, "Metrics".
"""

LINKERD = Preset(
    requests="response_total",
    codes=(("classification", "failure"),),
    latency="response_latency_ms",
    latency_unit=timedelta(milliseconds=1),
    heartbeat="proxy_build_info",
    selected_by=BY_POD,
    where=(("direction", "inbound"),),
)
"""Linkerd's proxies beside the workload's own pods, scraped as linkerd-viz does, with the labels namespace and pod.

A failure is a 5xx, a gRPC status of the server, or a stream that broke; latency is up to the first byte. Names:
linkerd.io, "Proxy Metrics"; linkerd/linkerd2-proxy, linkerd/http/metrics/src/requests/report.rs and
linkerd/app/core/src/metrics.rs.
"""

NGINX_GATEWAY = Preset(
    requests="nginx_http_upstream_peer_responses_total",
    codes=(("nginx_status_range", "5.*"),),
    latency="",
    latency_unit=timedelta(milliseconds=1),
    heartbeat="nginx_http_upstream_peer_count_peers",
    selected_by=(Label("nginx_upstream_name", "{namespace}_{service}_{port}"),),
)
"""NGINX Gateway Fabric 2 with NGINX Plus: answers by upstream, `NS_SERVICE_PORT`; an average is all it says of latency.

With open-source NGINX there is no metric of an upstream: choose `pods` then. Names: docs.nginx.com, "Monitoring with
Prometheus and Grafana"; nginx/agent, internal/collector/nginxplusreceiver/metadata.yaml; nginx/nginx-gateway-fabric,
BaseServicePortKey in internal/controller/state/graph/backend_refs.go.
"""

PRESETS: Mapping[str, Preset] = {
    "envoy": ENVOY,
    "envoy-gateway": ENVOY_GATEWAY,
    "istio": ISTIO,
    "linkerd": LINKERD,
    "nginx": NGINX,
    "nginx-gateway": NGINX_GATEWAY,
    "pods": PODS,
    "traefik": TRAEFIK,
}

_UNITS = {LatencyUnit.SECONDS: timedelta(seconds=1), LatencyUnit.MILLISECONDS: timedelta(milliseconds=1)}


def preset_of(source: Source) -> Preset:
    """The preset that a policy names, or the one that it describes."""
    return of_custom(source.custom) if source.preset == CUSTOM and source.custom else PRESETS[source.preset]


def of_custom(custom: CustomSource) -> Preset:
    return Preset(
        requests=custom.requests,
        codes=tuple((codes.label, "|".join(map(_wildcards, codes.bad))) for codes in custom.codes),
        latency=custom.latency,
        latency_unit=_UNITS[custom.latency_unit],
        heartbeat=custom.heartbeat,
        selected_by=tuple(Label(by.label, by.value, by.canary) for by in custom.selected_by),
        where=tuple((fixed.label, fixed.value) for fixed in custom.where),
        heartbeat_where=tuple((fixed.label, fixed.value) for fixed in custom.heartbeat_where) or None,
    )


def of_logs(rule: LogErrors) -> Preset:
    """The log lines of pods, told apart by their level as requests are by their code."""
    levels = "|".join(map(re.escape, rule.levels))
    return replace(PODS, requests=rule.counter, codes=((rule.level_label, levels),), latency="")


def _wildcards(code: str) -> str:
    return re.escape(code).replace(r"\*", ".*")
