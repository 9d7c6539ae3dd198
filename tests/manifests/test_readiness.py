"""Two replicas as the Deployment runs them: when each is ready, leading or not."""

import asyncio
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from testbed import proxy
from testbed.bed import Bed
from testbed.process import Process
from testbed.waiting import eventually
from tests.manifests.conftest import ROOT

SOON = timedelta(seconds=20)
PORTS = (9821, 9822)


def ask(bed: Bed, port: int, path: str) -> tuple[int, str]:
    """Status and body; 0 while nobody listens."""
    try:
        with urllib.request.urlopen(f"http://{bed.host}:{port}{path}", timeout=2) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


@pytest.fixture
def replica(empty_cluster: Bed) -> Iterator[Callable[[int, Path], Process]]:
    """Start a controller that listens on a port."""
    with ExitStack() as running:

        def start(port: int, kubeconfig: Path) -> Process:
            environment = {
                "KUBECONFIG": str(kubeconfig),
                "SERIN_PROMETHEUS_URL": f"http://{empty_cluster.host}:9",
                "SERIN_LISTEN": f"{empty_cluster.host}:{port}",
                "SERIN_RESYNC": "300ms",
            }
            log = empty_cluster.directory / f"serin-{port}.log"
            process = Process(f"serin-{port}", [sys.executable, "-m", "controller", "run"], log, env=environment)
            running.callback(process.stop)
            process.start()
            return process

        empty_cluster.kubectl("apply", "--server-side", "-k", str(ROOT / "manifests"))
        empty_cluster.await_crds()
        yield start


def test_a_replica_that_stands_by_is_ready_too_once_admission_is_there(
    empty_cluster: Bed, replica: Callable[[int, Path], Process]
) -> None:
    bed = empty_cluster
    for port in PORTS:
        replica(port, bed.kubeconfig())

    def answers(text: str) -> bool:
        return all(text in ask(bed, port, "/readyz")[1] for port in PORTS)

    eventually(lambda: answers("AdmissionMissing"), SOON)
    assert all(ask(bed, port, "/healthz") == (200, "ok\n") for port in PORTS)
    bed.kubectl("apply", "--server-side", "-k", str(ROOT / "policies"))
    eventually(lambda: answers("ok, "), SOON)
    said = sorted(ask(bed, port, "/readyz")[1] for port in PORTS)
    assert said == ["ok, leading\n", "ok, standing by\n"]
    bed.kubectl("delete", "mutatingadmissionpolicybinding", "serin-hold")
    eventually(lambda: answers("MutatingAdmissionPolicyBinding serin-hold not found"), SOON)
    found = [re.findall(r"^serin_(admission_up|leader) (\S+)$", ask(bed, p, "/metrics")[1], re.M) for p in PORTS]
    assert sorted(found) == [
        [("leader", "0.0"), ("admission_up", "0.0")],
        [("leader", "1.0"), ("admission_up", "0.0")],
    ]


async def test_nobody_is_ready_before_the_first_lists(
    empty_cluster: Bed, replica: Callable[[int, Path], Process], tmp_path: Path
) -> None:
    config = yaml.safe_load(empty_cluster.kubeconfig().read_text())
    async with proxy.in_front_of(config["clusters"][0]["cluster"]["server"]) as slow:
        slow.inject(proxy.hang, proxy.lists)
        replica(PORTS[0], proxy.kubeconfig(tmp_path / "slow", slow.url, config["users"][0]["user"]))
        answer = (0, "")
        while answer[0] == 0:
            await asyncio.sleep(0.1)
            answer = await asyncio.to_thread(ask, empty_cluster, PORTS[0], "/readyz")
        assert answer == (503, "the first lists are not in yet\n")
