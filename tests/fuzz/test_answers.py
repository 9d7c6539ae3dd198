"""Answers of the API server and of Prometheus that are not what they ought to be: a named error, and plain words."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from controller.cluster import client, gitops, manifest
from controller.core.change import Problem
from controller.errors import SerinError, from_response
from controller.metrics.batch import Answers, Batch
from controller.metrics.counters import parse
from controller.metrics.incidents import read_alerts
from tests.fuzz.junk import FUZZ, Json, plain, spoilt, texts, values
from tests.metrics.subjects import START, at, cluster, latency_slo, matrix, seconds, subject

CALL = client._Call("get", "deployments.apps", "demo", "shop", "GET", "/apis/apps/v1/namespaces/demo/deployments/shop")
STATUS = {
    "kind": "Status",
    "code": 409,
    "reason": "Conflict",
    "message": "the object has been modified",
    "details": {"name": "shop", "causes": [{"reason": "NamespaceTerminating"}]},
}


def named(error: SerinError) -> None:
    assert error.reason
    assert plain(error.reason), error.reason
    assert plain(error.message), error.message
    assert len(error.message) < 2000


@FUZZ
@given(st.integers(100, 999), spoilt({"body": STATUS}) | st.fixed_dictionaries({"body": values}), texts)
def test_a_refusal_is_named(status: int, odd: Json, after: str) -> None:
    body = odd.get("body")
    body = body if isinstance(body, dict | str) else {}
    named(from_response(status, body, verb="get", resource="deployments.apps", retry_after=after))


events = st.fixed_dictionaries({"type": st.sampled_from(["ADDED", "BOOKMARK", "ERROR"]) | texts, "object": values})


@FUZZ
@given(st.binary(max_size=60) | events.map(lambda event: json.dumps(event).encode()))
def test_a_line_of_a_watch_is_an_event_or_an_error(line: bytes) -> None:
    try:
        client._event(CALL, line)
    except SerinError as error:
        named(error)


DEPLOYMENT = {
    "metadata": {
        "name": "shop",
        "namespace": "demo",
        "uid": "u",
        "resourceVersion": "1",
        "generation": 2,
        "labels": {"serin.dev/change": "auto"},
        "annotations": {"serin.dev/held": "true"},
        "creationTimestamp": "2026-11-23T08:00:00Z",
        "managedFields": [
            {"manager": "kubectl", "time": "2026-11-23T08:00:00Z", "fieldsV1": {"f:spec": {"f:paused": {}}}}
        ],
    },
    "spec": {
        "replicas": 3,
        "paused": True,
        "selector": {"matchLabels": {"app": "shop"}},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%"}},
        "template": {"metadata": {"labels": {"app": "shop"}}, "spec": {"containers": [{"name": "shop", "image": "a"}]}},
    },
    "status": {
        "replicas": 3,
        "conditions": [{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "quota"}],
    },
}


@FUZZ
@given(texts, texts)
def test_what_kubernetes_says_in_passing_is_shown_in_plain_words(reason: str, message: str) -> None:
    """A webhook, a registry or a quota writes these."""
    condition = {"type": "ReplicaFailure", "status": "True", "reason": reason, "message": message}
    odd = {**DEPLOYMENT, "status": {"conditions": [condition]}}
    assert plain(manifest.deployment(odd).failure)
    container = {"name": "shop", "state": {"waiting": {"reason": reason, "message": message}}}
    pod = {"metadata": {"name": "a", "uid": "u"}, "status": {"containerStatuses": [container]}}
    found = manifest.pod(pod)
    assert plain(found.trouble + found.detail)
    failed = {"type": "Failed", "status": "True", "reason": reason, "message": message}
    job = {"metadata": {"name": "backup"}, "status": {"conditions": [failed]}}
    assert plain(manifest.job(job, []).detail)


READ_ERRORS = (ValueError, LookupError, TypeError, AttributeError)
"""What the cache calls an unreadable object (cluster/cache.py): there is nothing else to call it."""


@FUZZ
@given(spoilt(DEPLOYMENT))
def test_an_odd_object_is_read_or_unreadable(odd: Json) -> None:
    for read in (manifest.deployment, manifest.pod, manifest.replica_set, manifest.autoscaler, manifest.lax):
        try:
            read(odd)
        except READ_ERRORS:
            continue


ROUTE = {
    "kind": "HTTPRoute",
    "metadata": {
        "name": "shop",
        "namespace": "demo",
        "labels": {
            "app.kubernetes.io/instance": "shop",
            "kustomize.toolkit.fluxcd.io/name": "apps",
            "helm.toolkit.fluxcd.io/name": "shop",
        },
        "annotations": {"argocd.argoproj.io/tracking-id": "shop:gateway.networking.k8s.io/HTTPRoute:demo/shop"},
    },
}
OWNER: dict[str, Any] = {
    "metadata": {"name": "shop", "namespace": "argocd"},
    "spec": {
        "syncPolicy": {"automated": {"selfHeal": True}, "syncOptions": ["RespectIgnoreDifferences=true"]},
        "ignoreDifferences": [
            {"group": "*", "kind": "HTTPRoute", "jsonPointers": ["/spec/x"], "jqPathExpressions": [".a"]}
        ],
        "ignore": [{"paths": ["/spec/x"], "target": {"kind": "HTTPRoute", "name": "sh.*"}}],
        "driftDetection": {"mode": "enabled", "ignore": [{"paths": ["/spec/x"]}]},
    },
    "status": {"resources": [{"kind": "HTTPRoute", "name": "shop"}]},
}


@FUZZ
@given(
    st.dictionaries(st.sampled_from(sorted(ROUTE["metadata"]["labels"])), texts),  # type: ignore[index]
    texts,
    spoilt({"spec": OWNER["spec"], "status": OWNER["status"]}),
)
def test_whatever_a_gitops_tool_wrote_it_reverts_or_it_does_not(labels: Json, tracking: str, odd: Json) -> None:
    meta = {**ROUTE["metadata"], "labels": labels, "annotations": {gitops.ARGO_TRACKING: tracking}}  # type: ignore[dict-item]
    for raw in (ROUTE, {**ROUTE, "metadata": meta}):
        field = gitops.Written(raw, "gateway.networking.k8s.io", "/spec/rules")
        for owner in gitops.owners(raw):
            found = gitops.revert(field, owner, [{**OWNER, **odd}])
            assert found is None or plain(found.what + found.by)


# --- Prometheus ---

SERIES = [
    matrix(cluster("canary", "200"), (-15, 1), (0, 2), (15, 40)),
    matrix({**cluster("stable"), "le": "0.5"}, (-15, 1), (0, 2), (15, 40)),
    {
        "metric": {"__name__": "h"},
        "histogram": [at(0), {"count": "7", "sum": "3", "buckets": [[0, "0.1", "0.5", "7"]]}],
    },
]
BATCH = Batch([subject(slos=(latency_slo(),))], START + seconds(30))


@FUZZ
@given(spoilt(SERIES) | values)
def test_an_odd_answer_is_measured_or_a_problem_in_plain_words(odd: Json) -> None:
    try:
        series = parse(odd)
    except ValueError:
        return
    for answers in (Answers(series, series, series, series, series), Answers(series, ())):
        for reading in BATCH.read(answers):
            assert all(plain(str(problem)) for problem in reading.problems), reading.problems
    alerts = read_alerts(series)
    if isinstance(alerts, Problem):
        assert plain(str(alerts))
