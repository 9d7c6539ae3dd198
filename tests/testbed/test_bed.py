"""What the bed shows is real: weights, readiness, crashes, metrics, alerts, faults."""

import asyncio
import urllib.error
from datetime import timedelta
from typing import Any

import pytest

from testbed.bed import Bed
from testbed.control_plane import Manifest
from testbed.errors import BedError
from testbed.waiting import answers, eventually

NAMESPACE = "reality"
HOST = "shop.test"


def workload(name: str, replicas: int = 1, **environment: str) -> list[Manifest]:
    """A Deployment of the demo workload and its Service, port 80."""
    labels = {"app": name}
    container = {
        "name": "shop",
        "image": "shop",
        "command": ["shop", "serve"],
        "env": [{"name": key, "value": value} for key, value in environment.items()],
        "ports": [{"name": "http", "containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 1},
    }
    metadata = {"name": name, "namespace": NAMESPACE}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    return [
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": metadata,
            "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata,
            "spec": {"selector": labels, "ports": [{"port": 80, "targetPort": "http"}]},
        },
    ]


def route(**weights: int) -> Manifest:
    backends = [{"name": name, "port": 80, "weight": weight} for name, weight in weights.items()]
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "shop", "namespace": NAMESPACE},
        "spec": {
            "parentRefs": [{"name": "contour", "namespace": "projectcontour"}],
            "hostnames": [HOST],
            "rules": [{"backendRefs": backends}],
        },
    }


@pytest.fixture(scope="module")
def shop(bed: Bed) -> Bed:
    """The bed with two versions behind one route, 90 to 10."""
    bed.kubectl("create", "namespace", NAMESPACE)
    bed.apply(*workload("one", 2, VERSION="one"), *workload("two", 2, VERSION="two"), route(one=90, two=10))
    for name in ("one", "two"):
        bed.kubectl("rollout", "status", f"deployment/{name}", "-n", NAMESPACE, "--timeout=30s")
    eventually(lambda: all(answers(bed.gateway_url, host=HOST) for _ in range(30)))  # both backends are known to Envoy
    return bed


def ready_replicas(bed: Bed, name: str) -> int:
    status: dict[str, Any] = bed.get("deployment", name, "-n", NAMESPACE)["status"]
    return int(status.get("readyReplicas", 0))


def value(bed: Bed, promql: str) -> float:
    return sum(float(sample["value"][1]) for sample in bed.query(promql))


async def test_a_bed_is_up_within_half_a_minute(bed: Bed) -> None:
    assert bed.started_in < timedelta(seconds=30)


async def test_weights_are_the_shares_that_users_get_and_prometheus_counts_them(shop: Bed) -> None:
    def counted(name: str) -> float:
        return value(shop, f'envoy_cluster_upstream_rq{{envoy_cluster_name="{NAMESPACE}_{name}_80"}}')

    await asyncio.sleep(5)  # two scrapes: what was asked before is counted by now
    before = {name: counted(name) for name in ("one", "two")}
    load = await shop.load(HOST, rps=300, duration=timedelta(seconds=5))
    summary = await load.wait()
    assert summary.failed == 0
    assert summary.sent == pytest.approx(1500, rel=0.05)
    share = summary.by_version["two"] / summary.sent
    assert share == pytest.approx(0.10, abs=0.035)  # 4.5 standard deviations of 1,500 draws

    for name in ("one", "two"):
        sent = before[name] + summary.by_version[name]
        eventually(lambda name=name, sent=sent: counted(name) >= sent)  # type: ignore[misc]
        assert counted(name) == sent
    by_pods = f'sum by (app) (http_requests_total{{namespace="{NAMESPACE}",code="200",app="two"}})'
    eventually(lambda: value(shop, by_pods) >= summary.by_version["two"])


async def test_a_changed_weight_reaches_users(shop: Bed) -> None:
    shop.apply(route(one=0, two=100))
    try:
        eventually(lambda: answers(shop.gateway_url, host=HOST))
        load = await shop.load(HOST, rps=100, duration=timedelta(seconds=3))
        summary = await load.wait()
        assert summary.failed == 0
        assert sum(summary.by_version.values()) - summary.by_version["two"] < 50  # those before Envoy had it
        last = next(second for second in reversed(load.seconds) if second.sent)
        assert last.by_version == {"two": last.sent}
    finally:
        shop.apply(route(one=90, two=10))


async def test_errors_and_latency_on_demand_show_in_what_users_get(shop: Bed) -> None:
    shop.apply(*workload("two", 2, VERSION="two", ERROR_RATIO="1"), route(one=50, two=50))
    try:
        shop.kubectl("rollout", "status", "deployment/two", "-n", NAMESPACE, "--timeout=30s")
        load = await shop.load(HOST, rps=100, duration=timedelta(seconds=2))
        summary = await load.wait()
        assert summary.failed_by_version.get("two", 0) == summary.by_version["two"] > 0
        assert summary.failed_by_version.get("one", 0) == 0
        errors = f'envoy_cluster_upstream_rq{{envoy_cluster_name="{NAMESPACE}_two_80",envoy_response_code=~"5.."}}'
        eventually(lambda: value(shop, errors) > 0)
    finally:
        shop.apply(*workload("two", 2, VERSION="two"), route(one=90, two=10))


async def test_a_pod_that_is_not_ready_runs_and_gets_no_traffic(shop: Bed) -> None:
    shop.apply(*workload("unready", NEVER_READY="true"))
    pods = eventually(lambda: running(shop, "unready"))
    assert pods[0]["status"]["containerStatuses"][0]["ready"] is False

    def behind() -> list[bool]:
        """What its endpoints say; there is none until the pod has an address."""
        pieces = shop.get("endpointslices", "-n", NAMESPACE, "-l", "kubernetes.io/service-name=unready")["items"]
        return [endpoint["conditions"]["ready"] for piece in pieces for endpoint in piece["endpoints"] or ()]

    assert eventually(behind) == [False]
    assert ready_replicas(shop, "unready") == 0
    shop.kubectl("delete", "deployment,service", "unready", "-n", NAMESPACE)


async def test_a_crashing_pod_is_restarted_and_backs_off(shop: Bed) -> None:
    shop.apply(*workload("crashing", CRASH_AFTER="200ms"))

    def crash_looping() -> bool:
        return any(
            status["restartCount"] >= 1 and status["state"].get("waiting", {}).get("reason") == "CrashLoopBackOff"
            for pod in shop.get("pods", "-n", NAMESPACE, "-l", "app=crashing")["items"]
            for status in pod["status"].get("containerStatuses", [])
        )

    eventually(crash_looping, timedelta(seconds=25))
    shop.kubectl("delete", "deployment,service", "crashing", "-n", NAMESPACE)


async def test_an_alert_can_be_made_to_fire_and_to_end(bed: Bed) -> None:
    bed.rules("incident", {"alert": "P0", "expr": "vector(1)", "labels": {"severity": "p0", "namespace": NAMESPACE}})
    eventually(lambda: bed.query('ALERTS{alertname="P0",alertstate="firing",severity="p0"}'))
    bed.rules("incident")
    eventually(lambda: not bed.query('ALERTS{alertname="P0"}'))


async def test_rules_that_prometheus_refuses_say_why_and_leave_the_others(bed: Bed) -> None:
    with pytest.raises(BedError, match="broken"):
        bed.rules("broken", {"record": "x", "expr": "sum("})
    bed.rules("fine", {"record": "testbed:fine", "expr": "vector(7)"})
    eventually(lambda: value(bed, "testbed:fine") == 7)


async def test_any_address_can_be_scraped_as_a_job_of_its_own(bed: Bed) -> None:
    bed.scrape("serin", f"{bed.host}:9090")
    eventually(lambda: value(bed, 'up{job="serin"}') == 1)
    bed.scrape("serin")


async def test_a_process_can_hang_be_killed_and_come_back(bed: Bed) -> None:
    prometheus = bed.process("prometheus")
    ready = f"{bed.prometheus_url}/-/ready"
    prometheus.pause()
    with pytest.raises(TimeoutError):
        answers(ready)
    prometheus.resume()
    assert answers(ready)
    prometheus.kill()
    with pytest.raises(urllib.error.URLError, match="refused"):
        answers(ready)
    with pytest.raises(BedError, match=r"prometheus has died"):
        bed.check()
    prometheus.restart()
    assert answers(ready)
    bed.check()


async def test_a_restarted_api_server_and_etcd_still_know_everything(shop: Bed) -> None:
    before = shop.get("deployment", "one", "-n", NAMESPACE)["metadata"]["uid"]
    for name in ("etcd", "kube-apiserver"):
        shop.process(name).kill()
    for name in ("etcd", "kube-apiserver"):
        shop.process(name).restart()
    assert shop.get("deployment", "one", "-n", NAMESPACE)["metadata"]["uid"] == before
    shop.kubectl("scale", "deployment/one", "--replicas=3", "-n", NAMESPACE)
    eventually(lambda: ready_replicas(shop, "one") == 3, timedelta(seconds=30))
    shop.check()


def running(bed: Bed, app: str) -> list[Any]:
    pods = bed.get("pods", "-n", NAMESPACE, "-l", f"app={app}")["items"]
    return [pod for pod in pods if pod["status"].get("phase") == "Running"]
