"""The node on a real API server: what a kubelet would do with these pods, this node does."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from testbed import build
from testbed.bed import CONTROL_PLANE, Bed, Options
from testbed.process import Process
from testbed.waiting import eventually

Json = dict[str, Any]

NODE = "node-under-test"
NAMESPACE = "pods"
HTTP = {"name": "http", "containerPort": 8080}
READINESS = {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 1}


class Cluster:
    """A bed with the node under test, and the words that the tests use of it."""

    def __init__(self, bed: Bed, directory: Path) -> None:
        self.bed = bed
        self.directory = directory

    def create(self, *manifests: Json) -> None:
        self.bed.apply(*manifests)

    def pod(self, name: str) -> Json:
        pod: Json = self.bed.get("pod", name, "-n", NAMESPACE)
        return pod

    def pods(self, app: str) -> list[Json]:
        pods: list[Json] = self.bed.get("pods", "-n", NAMESPACE, "-l", f"app={app}")["items"]
        return pods

    def exists(self, name: str) -> bool:
        return bool(self.bed.kubectl("get", "pod", name, "-n", NAMESPACE, "--ignore-not-found"))

    def wait(self, name: str, holds: Callable[[Json], object], seconds: float = 15) -> Json:
        """The pod, once `holds` is true of it."""

        def read() -> Json | None:
            pod = self.pod(name)
            return pod if holds(pod) else None

        found = eventually(read, timedelta(seconds=seconds))
        assert found is not None
        return found

    def log(self, pod: str, container: str = "main") -> str:
        return (self.directory / "logs" / f"{NAMESPACE}_{pod}_{container}.log").read_text()

    def targets(self) -> list[Json]:
        entries: list[Json] = json.loads((self.directory / "targets" / "pods.json").read_text())
        return entries


def agent_command(bed: Bed, directory: Path, node: str, cidr: str) -> list[str]:
    return [
        *(sys.executable, "-m", "testbed.node"),
        *("--kubeconfig", str(bed.kubeconfig()), "--node-name", node, "--pod-cidr", cidr),
        *("--targets-dir", str(directory / "targets"), "--work-dir", str(directory / "logs")),
        *("--path", f"{build.find('shop').parent}:{os.environ['PATH']}", "--crash-backoff", "1s"),
    ]


@pytest.fixture(scope="module")
def cluster(control_plane: Bed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    directory = tmp_path_factory.mktemp("node")
    command = agent_command(control_plane, directory, NODE, control_plane.pod_cidr)
    agent = Process("node", command, directory / "node.log", contain=True)
    agent.start()
    try:
        control_plane.kubectl("create", "namespace", NAMESPACE)
        agent.wait_until("the node", lambda: (directory / "targets" / "pods.json").exists(), timedelta(seconds=10))
        eventually(lambda: control_plane.get("serviceaccounts", "-n", NAMESPACE)["items"])
        yield Cluster(control_plane, directory)
        assert agent.alive, agent.tail()
        assert "Traceback" not in agent.log.read_text(), agent.tail(60)
        control_plane.kubectl("delete", "namespace", NAMESPACE, "--timeout=30s")
    finally:
        agent.stop()


def pod_spec(container: Json | None = None, **spec: Any) -> Json:
    main = {"name": "main", "image": "shop:v1", **(container or {})}
    return {
        "nodeSelector": {"kubernetes.io/hostname": NODE},
        "terminationGracePeriodSeconds": 1,
        "containers": [main],
        **spec,
    }


def pod(name: str, container: Json | None = None, annotations: Json | None = None, **spec: Any) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE, "annotations": annotations or {}},
        "spec": pod_spec(container, **spec),
    }


def shell(script: str) -> Json:
    return {"image": "busybox", "command": ["sh", "-c", script]}


def shop(**env: str) -> Json:
    return {
        "ports": [HTTP],
        "readinessProbe": READINESS,
        "env": [{"name": name, "value": value} for name, value in env.items()],
    }


def job(name: str, container: Json, *, backoff_limit: int = 0, policy: str = "Never") -> Json:
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"backoffLimit": backoff_limit, "template": {"spec": pod_spec(container, restartPolicy=policy)}},
    }


def deployment(name: str, image: str, replicas: int = 3) -> Json:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": pod_spec({**shop(), "image": image})},
        },
    }


def main_status(pod: Json) -> Json:
    return next(iter(pod.get("status", {}).get("containerStatuses", [])), {"state": {}, "lastState": {}})


def is_ready(pod: Json) -> bool:
    return condition(pod, "Ready").get("status") == "True"


def condition(pod: Json, kind: str) -> Json:
    conditions = pod.get("status", {}).get("conditions", [])
    return next((condition for condition in conditions if condition["type"] == kind), {})


def waits_with(reason: str) -> Callable[[Json], bool]:
    return lambda pod: main_status(pod)["state"].get("waiting", {}).get("reason") == reason


def ask(pod: Json, path: str = "/", method: str = "GET") -> tuple[int, str | None]:
    request = urllib.request.Request(f"http://{pod['status']['podIP']}:8080{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=2) as response:
            return response.status, response.headers["x-version"]
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["x-version"]


class TestReadiness:
    def test_a_healthy_pod_is_ready_at_once_and_serves_at_its_own_address(self, cluster: Cluster) -> None:
        began = time.monotonic()
        cluster.create(pod("healthy", shop()))
        ready = cluster.wait("healthy", is_ready)
        assert time.monotonic() - began < 3  # alone on the machine: 0.2 s
        assert ready["status"]["phase"] == "Running"
        assert {
            kind: condition(ready, kind)["status"] for kind in ("PodScheduled", "Initialized", "ContainersReady")
        } == {
            "PodScheduled": "True",
            "Initialized": "True",
            "ContainersReady": "True",
        }
        assert "reason" not in condition(ready, "Ready")
        assert main_status(ready)["restartCount"] == 0
        assert ask(ready) == (200, "v1")
        assert "version v1" in cluster.log("healthy")
        target = eventually(lambda: [t for t in cluster.targets() if t["labels"]["pod"] == "healthy"])[0]
        assert target["targets"] == [f"{ready['status']['podIP']}:8080"]
        assert (target["labels"]["namespace"], target["labels"]["node"]) == (NAMESPACE, NODE)

    def test_readiness_follows_the_probe_both_ways(self, cluster: Cluster) -> None:
        probe = {**READINESS, "failureThreshold": 2}
        cluster.create(pod("wavering", {**shop(), "readinessProbe": probe}))
        before = cluster.wait("wavering", is_ready)
        assert ask(before, "/fault?never_ready=true", "POST")[0] == 200
        unready = cluster.wait("wavering", lambda pod: not is_ready(pod))
        assert condition(unready, "Ready")["reason"] == "ContainersNotReady"
        assert condition(unready, "Ready")["lastTransitionTime"] > condition(before, "Ready")["lastTransitionTime"]
        assert ask(unready) == (200, "v1")  # it still runs
        ask(unready, "/fault?never_ready=false", "POST")
        again = cluster.wait("wavering", is_ready)
        assert main_status(again)["restartCount"] == 0

    def test_a_pod_that_is_never_ready_runs_and_is_in_no_endpoints(self, cluster: Cluster) -> None:
        broken = pod("never-ready", shop(NEVER_READY="1"))
        broken["metadata"]["labels"] = {"app": "never-ready"}
        service = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "never-ready", "namespace": NAMESPACE},
            "spec": {"selector": {"app": "never-ready"}, "ports": [{"port": 80, "targetPort": "http"}]},
        }
        cluster.create(service, broken)
        running = cluster.wait("never-ready", lambda pod: "running" in main_status(pod)["state"])
        assert not is_ready(running)
        selector = "kubernetes.io/service-name=never-ready"

        def endpoints() -> list[Json]:
            slices = cluster.bed.get("endpointslices", "-n", NAMESPACE, "-l", selector)["items"]
            return [endpoint for entry in slices for endpoint in entry["endpoints"] or []]

        (endpoint,) = eventually(endpoints)
        assert endpoint["addresses"] == [running["status"]["podIP"]]
        assert endpoint["conditions"]["ready"] is False
        ask(running, "/fault?never_ready=false", "POST")
        eventually(lambda: endpoints()[0]["conditions"]["ready"])

    @pytest.mark.parametrize(
        ("name", "probe"),
        [
            ("asks-tcp", {"tcpSocket": {"port": "http"}}),
            ("asks-exec", {"exec": {"command": ["sh", "-c", 'test "$HOSTNAME" = asks-exec']}}),
        ],
    )
    def test_other_probes(self, cluster: Cluster, name: str, probe: Json) -> None:
        cluster.create(pod(name, {**shop(), "readinessProbe": probe}))
        cluster.wait(name, is_ready)

    def test_a_slow_start_is_waited_for(self, cluster: Cluster) -> None:
        startup = {**READINESS, "failureThreshold": 20}
        cluster.create(pod("slow-start", {**shop(START_DELAY="1500ms"), "startupProbe": startup}))
        began = time.monotonic()
        assert main_status(cluster.wait("slow-start", is_ready))["restartCount"] == 0
        assert time.monotonic() - began > 1


class TestFailure:
    def test_a_crash_loop_backs_off_longer_each_time(self, cluster: Cluster) -> None:
        cluster.create(pod("crash-loop", shop(CRASH_AT_START="1")))
        restarted_at: dict[int, float] = {}
        while len(restarted_at) < 4:
            status = main_status(cluster.pod("crash-loop"))
            restarted_at.setdefault(status.get("restartCount", 0), time.monotonic())
            time.sleep(0.1)
        looping = cluster.wait("crash-loop", waits_with("CrashLoopBackOff"))
        last = main_status(looping)["lastState"]["terminated"]
        assert (last["exitCode"], last["reason"]) == (1, "Error")
        assert looping["status"]["phase"] == "Running"
        assert not is_ready(looping)
        # the first restart is at once, then 1 s, then 2 s
        assert 0.5 < restarted_at[2] - restarted_at[1] < 1.8
        assert 1.5 < restarted_at[3] - restarted_at[2] < 3.5
        assert cluster.log("crash-loop").count("CRASH_AT_START") >= 4

    def test_a_pod_that_is_ready_and_crashes_again_is_restarted(self, cluster: Cluster) -> None:
        cluster.create(pod("crash-later", shop(CRASH_AFTER="1s")))
        cluster.wait("crash-later", is_ready)
        cluster.wait("crash-later", lambda pod: not is_ready(pod))
        again = cluster.wait("crash-later", lambda pod: is_ready(pod) and main_status(pod)["restartCount"] > 0)
        assert main_status(again)["lastState"]["terminated"]["exitCode"] == 1

    def test_a_missing_image_is_tried_for_ever(self, cluster: Cluster) -> None:
        cluster.create(pod("no-image", {"image": "shop:missing"}))
        cluster.wait("no-image", waits_with("ImagePullBackOff"))
        waiting = cluster.wait("no-image", waits_with("ErrImagePull"))
        assert waiting["status"]["phase"] == "Pending"
        assert main_status(waiting)["restartCount"] == 0
        cluster.bed.kubectl("delete", "pod", "no-image", "-n", NAMESPACE, "--timeout=5s")

    def test_out_of_memory(self, cluster: Cluster) -> None:
        cluster.create(pod("hungry", shop(), {"testbed.serin.dev/oom-after": "500ms"}))
        killed = cluster.wait("hungry", lambda pod: main_status(pod)["lastState"])
        terminated = main_status(killed)["lastState"]["terminated"]
        assert (terminated["exitCode"], terminated["reason"]) == (137, "OOMKilled")
        assert main_status(killed)["restartCount"] >= 1

    def test_a_dead_process_is_restarted_by_its_liveness_probe(self, cluster: Cluster) -> None:
        liveness = {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 1, "failureThreshold": 1}
        cluster.create(pod("dead", {**shop(), "livenessProbe": liveness}))
        ask(cluster.wait("dead", is_ready), "/fault?never_ready=true", "POST")
        restarted = cluster.wait("dead", lambda pod: is_ready(pod) and main_status(pod)["restartCount"] == 1)
        assert "terminated" in main_status(restarted)["lastState"]

    def test_a_command_that_is_not_there_is_a_start_error(self, cluster: Cluster) -> None:
        cluster.create(pod("no-command", {"command": ["no-such-command"]}))
        looping = cluster.wait("no-command", waits_with("CrashLoopBackOff"))
        terminated = main_status(looping)["lastState"]["terminated"]
        assert (terminated["exitCode"], terminated["reason"]) == (128, "StartError")

    @pytest.mark.parametrize(
        ("name", "container", "annotations"),
        [
            ("no-config", {"envFrom": [{"configMapRef": {"name": "none"}}]}, {}),
            ("no-duration", {}, {"testbed.serin.dev/oom-after": "soon"}),
        ],
    )
    def test_what_the_node_cannot_give_is_a_config_error(
        self, cluster: Cluster, name: str, container: Json, annotations: Json
    ) -> None:
        cluster.create(pod(name, container, annotations))
        cluster.wait(name, waits_with("CreateContainerConfigError"))


class TestDeletion:
    def test_a_deaf_process_is_killed_when_its_grace_is_over(self, cluster: Cluster) -> None:
        script = 'trap "echo asked to end" TERM; echo up; while :; do sleep 0.1; done'
        cluster.create(pod("deaf", shell(script), terminationGracePeriodSeconds=3))
        cluster.wait("deaf", is_ready)
        eventually(lambda: "up" in cluster.log("deaf"))
        began = time.monotonic()
        cluster.bed.kubectl("delete", "pod", "deaf", "-n", NAMESPACE, "--wait=false")
        leaving = cluster.wait("deaf", lambda pod: not is_ready(pod), seconds=1)
        assert "running" in main_status(leaving)["state"]
        eventually(lambda: not cluster.exists("deaf"))
        assert 2.5 < time.monotonic() - began < 5
        assert "asked to end" in cluster.log("deaf")

    def test_a_polite_process_drains_and_the_pod_is_gone_before_its_grace_is_over(self, cluster: Cluster) -> None:
        cluster.create(pod("polite", shop(LATENCY="1s"), terminationGracePeriodSeconds=20))
        address = cluster.wait("polite", is_ready)["status"]["podIP"]
        request = subprocess.Popen(
            ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"http://{address}:8080/"],
            stdout=subprocess.PIPE,
            text=True,
        )
        time.sleep(0.3)
        began = time.monotonic()
        cluster.bed.kubectl("delete", "pod", "polite", "-n", NAMESPACE, "--timeout=10s")
        assert time.monotonic() - began < 5
        assert request.communicate(timeout=5)[0] == "200"

    def test_a_pre_stop_sleep_keeps_it_serving(self, cluster: Cluster) -> None:
        lifecycle = {"preStop": {"sleep": {"seconds": 2}}}
        cluster.create(pod("lingering", {**shop(), "lifecycle": lifecycle}, terminationGracePeriodSeconds=20))
        ready = cluster.wait("lingering", is_ready)
        cluster.bed.kubectl("delete", "pod", "lingering", "-n", NAMESPACE, "--wait=false")
        time.sleep(1)
        assert ask(ready) == (200, "v1")
        eventually(lambda: not cluster.exists("lingering"))

    def test_a_forced_deletion_kills_at_once(self, cluster: Cluster) -> None:
        script = 'trap "" TERM; while :; do date +%s%N; sleep 0.1; done'
        cluster.create(pod("forced", shell(script), terminationGracePeriodSeconds=60))
        cluster.wait("forced", is_ready)
        eventually(lambda: cluster.log("forced"))
        cluster.bed.kubectl("delete", "pod", "forced", "-n", NAMESPACE, "--grace-period=0", "--force")
        time.sleep(1)
        written = cluster.log("forced")
        time.sleep(0.5)
        assert cluster.log("forced") == written

    def test_an_evicted_pod_is_replaced(self, cluster: Cluster) -> None:
        cluster.create(deployment("evicted", "shop:v1", replicas=1))
        victim = eventually(lambda: [p for p in cluster.pods("evicted") if is_ready(p)])[0]["metadata"]["name"]
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": victim, "namespace": NAMESPACE}}
        path = f"/api/v1/namespaces/{NAMESPACE}/pods/{victim}/eviction"
        cluster.bed.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))
        eventually(
            lambda: [p["metadata"]["name"] for p in cluster.pods("evicted") if is_ready(p)] not in ([], [victim])
        )
        eventually(lambda: not cluster.exists(victim))


class TestWorkloads:
    def test_a_deployment_rolls_through_the_real_controllers(self, cluster: Cluster) -> None:
        cluster.create(deployment("rolling", "shop:v1"))
        status = ("rollout", "status", "deployment/rolling", "-n", NAMESPACE, "--timeout=20s")
        cluster.bed.kubectl(*status)
        before = cluster.pods("rolling")
        assert [ask(pod) for pod in before] == [(200, "v1")] * 3
        cluster.bed.kubectl("set", "image", "deployment/rolling", "main=shop:v2", "-n", NAMESPACE)
        cluster.bed.kubectl(*status)
        after = [pod for pod in cluster.pods("rolling") if "deletionTimestamp" not in pod["metadata"]]
        assert [ask(pod) for pod in after] == [(200, "v2")] * 3
        addresses = {pod["status"]["podIP"] for pod in before + after}
        assert len(addresses) == 6
        eventually(lambda: len(cluster.pods("rolling")) == 3)
        expected = {f"{pod['status']['podIP']}:8080" for pod in after}
        eventually(
            lambda: {t["targets"][0] for t in cluster.targets() if t["labels"].get("app") == "rolling"} == expected
        )

    def test_jobs_complete_fail_and_are_tried_again(self, cluster: Cluster) -> None:
        flaky = 'test -e "/tmp/$0" && exec rm "/tmp/$0"; touch "/tmp/$0"; exit 3'
        again = {"image": "busybox", "command": ["sh", "-c", flaky, f"serin-node-{os.getpid()}"]}
        cluster.create(
            job("completes", shell("echo done")),
            job("fails", shell("exit 3")),
            job("tries-again", again, backoff_limit=4, policy="OnFailure"),
        )
        for name, outcome in (("completes", "complete"), ("fails", "failed"), ("tries-again", "complete")):
            cluster.bed.kubectl("wait", f"--for=condition={outcome}", f"job/{name}", "-n", NAMESPACE, "--timeout=15s")
        selector = ("-n", NAMESPACE, "-l", "batch.kubernetes.io/job-name=fails")
        (failed,) = cluster.bed.get("pods", *selector)["items"]
        assert failed["status"]["phase"] == "Failed"
        assert main_status(failed)["state"]["terminated"]["exitCode"] == 3

    def test_init_containers_run_one_after_the_other_before_the_rest(self, cluster: Cluster) -> None:
        steps = [
            {"name": "first", "image": "busybox", "command": ["sh", "-c", "sleep 0.5; date +%s%N"]},
            {"name": "second", "image": "busybox", "command": ["sh", "-c", "date +%s%N"]},
        ]
        cluster.create(pod("initialised", shell("date +%s%N; sleep 60"), initContainers=steps))
        early = cluster.wait("initialised", lambda pod: condition(pod, "Initialized"))
        assert condition(early, "Initialized")["status"] == "False"
        assert waits_with("PodInitializing")(early)
        cluster.wait("initialised", is_ready)
        eventually(lambda: cluster.log("initialised"))
        moments = [int(cluster.log("initialised", name)) for name in ("first", "second", "main")]
        assert moments == sorted(moments)

    def test_commands_see_the_pods_environment(self, cluster: Cluster) -> None:
        fields = {"NAME": "metadata.name", "IP": "status.podIP", "WHERE": "metadata.namespace"}
        env = [{"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in fields.items()]
        words = {"command": ["echo"], "args": ["$(NAME) $(WHERE) $(IP) $(UNKNOWN)"], "env": env}
        cluster.create(pod("telling", words, restartPolicy="Never"))
        done = cluster.wait("telling", lambda pod: pod.get("status", {}).get("phase") == "Succeeded")
        assert cluster.log("telling") == f"telling {NAMESPACE} {done['status']['podIP']} $(UNKNOWN)\n"


def test_pods_outlive_an_absence_of_the_api_server(cluster: Cluster) -> None:
    cluster.create(pod("survivor", shop()), pod("wavers", shop()))
    before = main_status(cluster.wait("survivor", is_ready))
    wavering = cluster.wait("wavers", is_ready)
    api_server = cluster.bed.process("kube-apiserver")
    api_server.stop()
    ask(wavering, "/fault?never_ready=true", "POST")
    time.sleep(4)  # the probe fails three times while nobody can be told
    api_server.start()
    readyz = ("get", "--raw", "/readyz")
    api_server.wait_until("/readyz", lambda: cluster.bed.kubectl(*readyz, check=False) == "ok", timedelta(seconds=30))
    cluster.wait("wavers", lambda pod: not is_ready(pod))
    cluster.create(pod("newcomer", shop()))
    cluster.wait("newcomer", is_ready)
    assert main_status(cluster.pod("survivor")) == before
    cluster.bed.kubectl("delete", "pod", "survivor", "-n", NAMESPACE, "--timeout=10s")


def test_pods_die_with_a_node_that_is_killed(cluster: Cluster, tmp_path: Path) -> None:
    doomed = "node-doomed"
    network = ".".join(cluster.bed.pod_cidr.split(".")[:2])
    agent = subprocess.Popen(agent_command(cluster.bed, tmp_path, doomed, f"{network}.128.0/24"))
    try:
        manifest = pod("orphan", shell("echo $$$$; exec sleep 300"), nodeSelector={"kubernetes.io/hostname": doomed})
        cluster.create(manifest)
        log = tmp_path / "logs" / f"{NAMESPACE}_orphan_main.log"
        pid = int(eventually(lambda: log.exists() and log.read_text()) or 0)
        os.kill(pid, 0)
    finally:
        agent.send_signal(signal.SIGKILL)
        agent.wait()
    eventually(lambda: not Path(f"/proc/{pid}").exists() or "(zombie)" in Path(f"/proc/{pid}/status").read_text())
    cluster.bed.kubectl("delete", "pod", "orphan", "-n", NAMESPACE, "--grace-period=0", "--force")


def test_pods_that_no_node_has_are_taken(in_namespace: None, tmp_path: Path) -> None:
    with Bed(Options(components=CONTROL_PLANE)) as bed:
        bed.kubectl("delete", "mutatingadmissionpolicybinding", "testbed-bind")
        create = ("create", "--dry-run=server", "-f", "-", "-o", "jsonpath={.spec.nodeName}")
        free = json.dumps(pod("free", shop()) | {"metadata": {"name": "free", "namespace": "default"}})
        eventually(lambda: bed.kubectl(*create, stdin=free) == "")
        agent = Process("node", agent_command(bed, tmp_path, NODE, bed.pod_cidr), tmp_path / "node.log", contain=True)
        agent.start()
        try:
            bed.kubectl("create", "-f", "-", stdin=free)
            bed.kubectl("wait", "--for=condition=Ready", "pod/free", "--timeout=15s")
            assert bed.get("pod", "free")["spec"]["nodeName"] == NODE
        finally:
            agent.stop()
