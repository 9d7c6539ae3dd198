"""The node's rules, without a cluster: back-off, probes, environment, status, targets, logs."""

import ipaddress
import itertools
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.node import spec
from testbed.node.agent import Addresses
from testbed.node.api import Json
from testbed.node.container import BackOff
from testbed.node.probe import Probe, Streak, first_looks
from testbed.node.process import LOG_BYTES_MAX, bound_log
from testbed.node.status import Reported, phase, pod_status
from testbed.node.targets import targets, write

SECOND = timedelta(seconds=1)
NOW = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
RUNNING: Json = {"running": {"startedAt": "2026-11-23T09:00:00Z"}}
WAITING: Json = {"waiting": {"reason": "ContainerCreating"}}


def exited(code: int) -> Json:
    return {"terminated": {"exitCode": code, "reason": "Error" if code else "Completed"}}


def container(state: Json, last: Json | None = None, *, ready: bool = False, name: str = "main") -> Json:
    return {"name": name, "ready": ready, "state": state, "lastState": last or {}}


def pod(policy: str = "Always", **metadata: Any) -> Json:
    return {
        "metadata": {"name": "shop-1", "namespace": "default", "uid": "u-1", **metadata},
        "spec": {"restartPolicy": policy, "nodeName": "node-1", "containers": [{"name": "main", "image": "shop:v1"}]},
    }


class TestBackOff:
    def test_doubles_from_ten_seconds_to_five_minutes_after_a_first_free_restart(self) -> None:
        back_off, waits = BackOff(10 * SECOND), []
        for _ in range(9):
            back_off = back_off.after(SECOND)
            waits.append(back_off.wait / SECOND)
        assert waits == [0, 10, 20, 40, 80, 160, 300, 300, 300]

    def test_a_long_run_is_forgiven(self) -> None:
        tried = BackOff(10 * SECOND, failures=5)
        assert tried.after(timedelta(minutes=10)).wait == timedelta()
        assert tried.after(timedelta(minutes=9, seconds=59)).wait == timedelta(seconds=160)

    @given(st.integers(0, 10_000))
    def test_never_waits_longer_than_the_longest(self, failures: int) -> None:
        assert BackOff(SECOND, failures).wait <= BackOff(SECOND).longest


class TestStreak:
    def test_turns_only_after_enough_equal_answers_in_a_row(self) -> None:
        streak = Streak(True, success_threshold=2, failure_threshold=3)
        answers = [False, False, True, False, False, False, True, False, True, True]
        assert [streak.see(answer) for answer in answers] == [True] * 5 + [False] * 4 + [True]

    @given(st.lists(st.booleans()), st.integers(1, 4), st.integers(1, 4), st.booleans())
    def test_is_the_last_run_that_was_long_enough(
        self, answers: list[bool], successes: int, failures: int, at_first: bool
    ) -> None:
        streak = Streak(at_first, successes, failures)
        for answer in answers:
            streak.see(answer)
        expected = at_first
        for value, run in itertools.groupby(answers):
            if len(list(run)) >= (successes if value else failures):
                expected = value
        assert streak.passing == expected


def test_a_starting_container_is_looked_at_often_and_then_every_period() -> None:
    pauses = list(itertools.islice(first_looks(SECOND), 8))
    assert [pause / SECOND for pause in pauses] == [0.05, 0.1, 0.2, 0.4, 0.8, 1, 1, 1]


class TestProbeSpec:
    def test_the_port_may_be_the_name_of_a_container_port(self) -> None:
        manifest = {"ports": [{"name": "http", "containerPort": 8080}]}
        probe = Probe.read({"httpGet": {"path": "/healthz", "port": "http"}}, manifest, "10.244.0.9", {})
        assert probe.http == {"path": "/healthz", "port": 8080}
        assert (probe.host, probe.period, probe.timeout) == ("10.244.0.9", 10 * SECOND, SECOND)

    @pytest.mark.parametrize("asked", [{"httpGet": {"port": "web"}}, {"grpc": {"port": 1}}])
    def test_what_cannot_be_asked_is_a_config_error(self, asked: Json) -> None:
        with pytest.raises(spec.ConfigError):
            Probe.read(asked, {}, "10.244.0.9", {})


class TestEnvironment:
    @pytest.mark.parametrize(
        ("text", "expanded"),
        [
            ("$(A)-$(B)", "1-$(B)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$A $ $( )", "$A $ $( )"),
            ("$(A", "$(A"),
            ("$($(A))", "$(1)"),
        ],
    )
    def test_expansion_is_that_of_kubernetes(self, text: str, expanded: str) -> None:
        assert spec.expand(text, {"A": "1"}) == expanded

    def test_values_come_from_fields_and_from_the_variables_before(self) -> None:
        manifest = pod(labels={"app": "shop"})
        env = [
            {"name": "LATER", "value": "$(NAME)"},
            {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
            {"name": "URL", "value": "http://$(IP)/$(NAME)"},
            {"name": "EMPTY"},
        ]
        assert spec.environment(manifest, {"env": env}, "10.244.0.9", "10.244.0.1") == {
            "LATER": "$(NAME)",
            "NAME": "shop-1",
            "IP": "10.244.0.9",
            "APP": "shop",
            "URL": "http://10.244.0.9/shop-1",
            "EMPTY": "",
        }

    @pytest.mark.parametrize(
        "entry",
        [
            {"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}}]},
            {"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.nothing"}}}]},
            {"envFrom": [{"secretRef": {"name": "s"}}]},
        ],
    )
    def test_what_this_node_cannot_give_is_a_config_error(self, entry: Json) -> None:
        with pytest.raises(spec.ConfigError):
            spec.environment(pod(), entry, "10.244.0.9", "10.244.0.1")


@pytest.mark.parametrize(
    ("image", "name", "tag"),
    [
        ("shop", "shop", "latest"),
        ("shop:v2", "shop", "v2"),
        ("registry:5000/team/shop", "shop", "latest"),
        ("registry:5000/team/shop:v2@sha256:abc", "shop", "v2"),
    ],
)
def test_an_image_stands_for_a_command_and_a_version(image: str, name: str, tag: str) -> None:
    assert (spec.image_name(image), spec.image_tag(image)) == (name, tag)
    assert spec.command({"image": image, "args": ["serve", "$(X)"]}, {"X": "y"}) == [name, "serve", "y"]
    assert spec.command({"image": image, "command": ["sleep"]}, {}) == ["sleep"]


@pytest.mark.parametrize(
    ("text", "seconds"), [("5s", 5), ("1m30s", 90), ("500ms", 0.5), ("1.5s", 1.5), ("2h", 7200), ("0s", 0)]
)
def test_durations_are_those_of_go(text: str, seconds: float) -> None:
    assert spec.duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "5", "s", "5 s", "5s!", "-5s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        spec.duration(text)


@pytest.mark.parametrize(
    ("change", "taken"),
    [
        ({}, True),
        ({"nodeSelector": {"disk": "ssd"}}, True),
        ({"nodeSelector": {"disk": "tape"}}, False),
        ({"nodeName": "node-2"}, False),
        ({"schedulerName": "other"}, False),
        ({"schedulingGates": [{"name": "wait"}]}, False),
    ],
)
def test_a_pod_is_taken_only_when_it_is_free_and_fits(change: Json, taken: bool) -> None:
    manifest = {"metadata": {}, "spec": {"schedulerName": "default-scheduler", **change}}
    assert spec.schedulable(manifest, {"disk": "ssd"}) == taken


class TestPhase:
    @pytest.mark.parametrize(
        ("policy", "states", "expected"),
        [
            ("Always", [container(WAITING)], "Pending"),
            ("Always", [container(RUNNING)], "Running"),
            ("Always", [container(RUNNING), container(WAITING)], "Pending"),
            ("Always", [container(WAITING, exited(1))], "Running"),
            ("Always", [container(exited(0))], "Running"),
            ("OnFailure", [container(exited(0))], "Succeeded"),
            ("OnFailure", [container(exited(0)), container(RUNNING)], "Running"),
            ("OnFailure", [container(WAITING, exited(1))], "Running"),
            ("Never", [container(exited(0))], "Succeeded"),
            ("Never", [container(exited(0)), container(exited(1))], "Failed"),
        ],
    )
    def test_is_the_kubelets(self, policy: str, states: list[Json], expected: str) -> None:
        assert phase(pod(policy), Reported([], states), ended=False) == expected

    @pytest.mark.parametrize(("code", "expected"), [(0, "Succeeded"), (137, "Failed")])
    def test_of_a_deleted_pod_is_final(self, code: int, expected: str) -> None:
        assert phase(pod("Always"), Reported([], [container(exited(code))]), ended=True) == expected

    @pytest.mark.parametrize(
        ("policy", "init", "expected"),
        [
            ("Always", RUNNING, "Pending"),
            ("Always", exited(1), "Pending"),
            ("Never", exited(1), "Failed"),
            ("Never", exited(0), "Running"),
        ],
    )
    def test_waits_for_the_init_containers(self, policy: str, init: Json, expected: str) -> None:
        main = container(RUNNING if init == exited(0) else WAITING)
        assert phase(pod(policy), Reported([container(init)], [main]), ended=False) == expected


class TestPodStatus:
    def status(self, manifest: Json, state: Json, before: Json, now: datetime = NOW, *, ready: bool = False) -> Json:
        main = [container(state, ready=ready)]
        return pod_status(manifest, Reported([], main), "10.244.0.9", "10.244.0.1", before, now)

    def condition(self, status: Json, kind: str = "Ready") -> Json:
        return next(condition for condition in status["conditions"] if condition["type"] == kind)

    def test_a_condition_keeps_its_time_until_it_changes(self) -> None:
        first = self.status(pod(), RUNNING, {})
        same = self.status(pod(), RUNNING, first, NOW + SECOND)
        assert same == first
        ready = self.status(pod(), RUNNING, first, NOW + 2 * SECOND, ready=True)
        assert self.condition(ready) == {
            "type": "Ready",
            "status": "True",
            "reason": None,
            "message": None,
            "lastTransitionTime": "2026-11-23T09:00:02Z",
        }
        assert self.condition(ready, "Initialized")["lastTransitionTime"] == "2026-11-23T09:00:00Z"
        assert ready["startTime"] == "2026-11-23T09:00:00Z"

    def test_a_pod_that_is_being_deleted_is_not_ready(self) -> None:
        leaving = pod(deletionTimestamp="2026-11-23T09:00:30Z")
        status = self.status(leaving, RUNNING, {}, ready=True)
        assert self.condition(status)["status"] == "False"
        assert status["phase"] == "Running"

    def test_a_completed_pod_is_not_ready_and_says_so(self) -> None:
        assert self.condition(self.status(pod("Never"), exited(0), {}))["reason"] == "PodCompleted"


class TestTargets:
    def entries(self, container: Json, phase: str = "Running", **metadata: Any) -> list[Json]:
        manifest = pod(**metadata)
        manifest["spec"]["containers"] = [{"name": "sidecar"}, {"name": "main", **container}]
        return targets([(manifest, {"phase": phase, "podIP": "10.244.0.9"})], "node-1")

    def test_a_named_port_is_a_target_with_the_pods_labels(self) -> None:
        ports = [{"name": "http", "containerPort": 8080}, {"name": "admin", "containerPort": 9000}]
        assert self.entries({"ports": ports}, labels={"app": "shop", "serin.dev/run": "x"}) == [
            {
                "targets": ["10.244.0.9:8080"],
                "labels": {
                    "namespace": "default",
                    "pod": "shop-1",
                    "node": "node-1",
                    "container": "main",
                    "app": "shop",
                    "pod_label_app": "shop",
                    "pod_label_serin_dev_run": "x",
                },
            }
        ]

    def test_the_annotation_wins_and_may_name_a_path(self) -> None:
        annotations = {"prometheus.io/port": "9000", "prometheus.io/path": "/m"}
        ports = [{"name": "http", "containerPort": 8080}, {"containerPort": 9000}]
        (entry,) = self.entries({"ports": ports}, annotations=annotations)
        assert entry["targets"] == ["10.244.0.9:9000"]
        assert (entry["labels"]["container"], entry["labels"]["__metrics_path__"]) == ("main", "/m")

    def test_what_does_not_run_or_has_no_metrics_is_no_target(self) -> None:
        ports = {"ports": [{"name": "http", "containerPort": 8080}]}
        assert self.entries(ports, phase="Pending") == []
        assert self.entries(ports, phase="Failed") == []
        assert self.entries({"ports": [{"containerPort": 8080}]}) == []

    def test_the_file_is_replaced_whole(self, tmp_path: Path) -> None:
        file = tmp_path / "pods.json"
        write([{"targets": ["a:1"]}], file)
        write([], file)
        assert json.loads(file.read_text()) == []
        assert [entry.name for entry in tmp_path.iterdir()] == ["pods.json"]


def test_addresses_are_used_again_only_when_all_were_used() -> None:
    addresses = Addresses(ipaddress.IPv4Network("10.244.0.0/29"))
    assert addresses.host == "10.244.0.1"
    first = addresses.take()
    addresses.give_back(first)
    assert [addresses.take() for _ in range(5)] == [f"10.244.0.{n}" for n in (3, 4, 5, 6, 2)]
    with pytest.raises(IndexError):
        addresses.take()


def test_a_long_log_keeps_its_end_and_its_writer_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "pod.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"".join(b"line %06d\n" % n for n in range(200_000)))
        bound_log(log)
        writer.write(b"more\n")
        assert log.stat().st_size <= LOG_BYTES_MAX
        bound_log(log)
    lines = log.read_text().splitlines()
    assert lines[-2:] == ["line 199999", "more"]
    assert lines[0].startswith("line ")
