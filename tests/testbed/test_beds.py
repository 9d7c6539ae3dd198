"""Beds beside each other and beds whose owner is gone: nobody meets, nothing stays."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from testbed.bed import DIRECTORY_PREFIX, Bed, Options
from testbed.control_plane import Manifest
from testbed.errors import BedError
from testbed.kwok import NODE as KWOK_NODE
from testbed.waiting import eventually

OWNER = """
import json, os, signal, sys
from testbed.bed import Bed, Options
assert os.geteuid() == 1000
with Bed(Options(components=frozenset({"node"}))) as bed:
    bed.apply(json.loads(sys.argv[1]))
    bed.kubectl("wait", "--for=condition=Ready", "pod/one", "--timeout=20s")
    system = bed.get("namespace", "kube-system")["metadata"]["uid"]
    print(json.dumps([str(bed.directory), system]), flush=True)
    signal.sigwait({signal.SIGUSR1})
"""


def pod() -> Manifest:
    """A pod whose process starts another one, in a session of its own, and leaves it alone."""
    script = "setsid sleep 1000 & exec shop serve"
    container = {"name": "shop", "image": "shop", "command": ["sh", "-c", script]}
    metadata = {"name": "one", "namespace": "default"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [container]}}


def inhabitants(network: Path) -> set[int]:
    """The processes in a network namespace, given as what /proc/PID/ns/net points to."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "ns" / "net").readlink() == network:
                found.add(int(process.name))
        except OSError:  # it ended while we looked
            continue
    return found


@dataclass(frozen=True)
class Owner:
    """A process of a person without root, who has a bed with a running pod."""

    process: subprocess.Popen[str]
    network: Path
    directory: Path
    system: str


@pytest.fixture(scope="module")
def owner() -> Iterator[Owner]:
    person = ("unshare", "--user", "--map-user=1000", "--map-group=1000", "--")
    command = [*person, sys.executable, "-c", OWNER, json.dumps(pod())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            directory, system = json.loads(process.stdout.readline())
            yield Owner(process, Path(f"/proc/{process.pid}/ns/net").readlink(), Path(directory), system)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def crowd(in_namespace: None) -> Iterator[Bed]:
    """A bed with kwok's node."""
    with Bed(Options(components=frozenset({"kwok"}))) as bed:
        yield bed
    assert not bed.directory.exists()


def test_beds_of_one_process_and_of_others_do_not_meet(control_plane: Bed, crowd: Bed, owner: Owner) -> None:
    systems = {bed.get("namespace", "kube-system")["metadata"]["uid"] for bed in (control_plane, crowd)}
    assert len({*systems, owner.system}) == 3
    assert len({control_plane.directory, crowd.directory, owner.directory}) == 3
    assert len({control_plane.pod_cidr, crowd.pod_cidr}) == 2
    assert owner.network != Path("/proc/self/ns/net").readlink()
    crowd.kubectl("create", "namespace", "only-here")
    assert control_plane.kubectl_result("get", "namespace", "only-here").returncode != 0
    for bed in (control_plane, crowd):
        bed.check()


def test_nothing_is_left_when_the_owner_is_killed(owner: Owner) -> None:
    names = {Path(f"/proc/{pid}/comm").read_text().strip() for pid in inhabitants(owner.network)}
    assert names >= {"etcd", "kube-apiserver", "kube-controller", "shop", "sleep"}
    owner.process.send_signal(signal.SIGKILL)
    owner.process.wait()
    eventually(lambda: not inhabitants(owner.network), timedelta(seconds=5))
    eventually(lambda: not owner.directory.exists(), timedelta(seconds=5))


def test_a_thousand_pods_run_on_kwok(crowd: Bed) -> None:
    template = {
        "metadata": {"labels": {"app": "many"}},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": KWOK_NODE},
            "containers": [{"name": "main", "image": "many"}],
        },
    }
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "many", "namespace": "default"},
        "spec": {"replicas": 1000, "selector": {"matchLabels": {"app": "many"}}, "template": template},
    }
    crowd.apply(deployment)
    crowd.kubectl("rollout", "status", "deployment/many", "--timeout=90s")
    running = crowd.kubectl("get", "pods", "--field-selector=status.phase=Running", "-o", "name").split()
    assert len(running) == 1000


def test_a_bed_that_cannot_start_shows_why_and_is_gone(in_namespace: None, monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(Path(tempfile.gettempdir()).glob(f"{DIRECTORY_PREFIX}*"))
    with (
        pytest.raises(BedError, match=r"kube-apiserver ended with code(.|\n)*kube-apiserver\.log\|"),
        Bed(Options(users={'al"ice': ()})),
    ):
        pass
    eventually(lambda: set(Path(tempfile.gettempdir()).glob(f"{DIRECTORY_PREFIX}*")) <= before)


def test_an_unknown_component_is_named() -> None:
    with pytest.raises(BedError, match="unknown component gatway: choose from gateway, kwok, node, prometheus"):
        Options(components=frozenset({"gatway"}))


def serin_testbed(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "testbed", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_command_brings_a_cluster_up_lets_you_in_and_takes_it_down() -> None:
    up = serin_testbed("up", "--keep", "--components", "")
    assert up.returncode == 0, up.stderr
    name = up.stdout.split()[0]
    try:
        kubeconfig = next(line.split()[1] for line in up.stdout.splitlines() if "kubeconfig" in line)
        assert name in serin_testbed("list").stdout
        inside = serin_testbed("exec", "--name", name, "--", "kubectl", "get", "namespaces", "-o", "name")
        assert "namespace/kube-system" in inside.stdout, inside.stderr
        network = serin_testbed("exec", "--name", name, "--", "readlink", "/proc/self/ns/net").stdout.strip()
        assert network != os.readlink("/proc/self/ns/net")
        assert inhabitants(Path(network))
    finally:
        down = serin_testbed("down", name)
    assert down.returncode == 0, down.stderr
    assert not inhabitants(Path(network))
    eventually(lambda: not Path(kubeconfig).parent.exists(), timedelta(seconds=5))
    assert name not in serin_testbed("list").stdout
    gone = serin_testbed("down", name)
    assert gone.returncode == 1
    assert f"no bed {name} is up" in gone.stderr
