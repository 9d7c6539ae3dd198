"""What `doctor` finds: on a cluster as the README installs it, on one that was weakened, and part by part."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from controller.cli.doctor import Level, held_as_promised, leading, metrics
from controller.cluster import manifest
from controller.core.model import Change, Deployment, Held, ReplicaSet, State
from controller.core.template import revision
from controller.errors import ForbiddenError
from testbed.bed import Bed
from testbed.waiting import eventually
from tests.cli.conftest import AS_CONTROLLER, ROOT, SHOP, Run
from tests.cli.journeys import BAKING, CHANGE

NOW = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)
TEMPLATE = {"metadata": {"labels": {"app": "shop"}}, "spec": {"containers": [{"name": "shop", "image": "shop:v2"}]}}
DEPLOYMENT = manifest.deployment(
    {
        "metadata": {"name": "shop", "namespace": "shop", "uid": "1", "resourceVersion": "1"},
        "spec": {"template": TEMPLATE, "selector": {"matchLabels": {"app": "shop"}}},
    }
)
RUNS = [ReplicaSet("shop-1", "2", "1", revision(TEMPLATE), replicas=3, ready=3, number=1)]


def test_a_fresh_lease_is_well_and_an_old_one_is_not() -> None:
    def lease(**spec: Any) -> dict[str, Any]:
        return {
            "holderIdentity": "serin-1",
            "renewTime": "2026-11-23T07:59:58.000000Z",
            "leaseDurationSeconds": 15,
            **spec,
        }

    assert leading(lease(), NOW, "").level is Level.OK
    assert leading(lease(), NOW + timedelta(minutes=1), "").level is Level.WRONG
    assert leading(lease(holderIdentity=None), NOW, "").level is Level.WRONG


@pytest.mark.parametrize(
    ("deployment", "replica_sets", "active", "level"),
    [
        (DEPLOYMENT, RUNS, False, None),
        (replace(DEPLOYMENT, paused=True), RUNS, False, Level.WARN),
        (replace(DEPLOYMENT, paused=True, held=Held.WAITING), [], False, None),
        (replace(DEPLOYMENT, held=Held.WAITING), [], False, Level.WRONG),
        (replace(DEPLOYMENT, paused=True, held=Held.REJECTED), [], False, None),
        (replace(DEPLOYMENT, paused=True, held=Held.REJECTED), RUNS, False, Level.WRONG),
        (replace(DEPLOYMENT, held=Held.PROMOTING), RUNS, True, None),
        (replace(DEPLOYMENT, held=Held.PROMOTING), RUNS, False, Level.WARN),
    ],
)
def test_a_hold_is_what_the_label_promises(
    deployment: Deployment, replica_sets: list[ReplicaSet], active: bool, level: Level | None
) -> None:
    found = list(held_as_promised(deployment, replica_sets, active=active))
    assert [finding.level for finding in found] == ([level] if level else [])
    assert all(finding.mend for finding in found)


class Pods:
    """A cluster whose controller has these pods, by name the text of their metrics; None: it cannot be reached."""

    def __init__(self, *known: tuple[Change, State], **metrics: str | None) -> None:
        self.client, self._known, self._metrics = self, known, metrics

    async def list(self, *_: Any, **__: Any) -> tuple[list[dict[str, Any]], str]:
        return [{"metadata": {"name": name, "uid": name}} for name in self._metrics], ""

    async def pod_text(self, namespace: str, pod: str, port: int, path: str) -> str:
        assert (namespace, port, path) == ("serin-system", 8080, "/metrics")
        if (text := self._metrics[pod]) is None:
            raise ForbiddenError("Forbidden", "no", verb="get", resource="pods/proxy", namespace=namespace)
        return text

    async def changes(self) -> Sequence[tuple[Change, State]]:
        return self._known


LEADER = "# HELP serin_leader 1 while it leads\nserin_leader 1.0\nserin_prometheus_up {up}\n"
BLIND = State(reason="PrometheusUnreachable", message="it does not answer")


@pytest.mark.parametrize(
    ("pods", "level", "said"),
    [
        (Pods(a="serin_leader 0.0\nserin_prometheus_up 0.0\n", b=LEADER.format(up="1.0")), Level.OK, "answers"),
        (Pods(a=LEADER.format(up="0.0")), Level.WRONG, "does not answer the controller"),
        (Pods((CHANGE, BLIND), a=None), Level.WRONG, "CHG-20261123-001 in shop: PrometheusUnreachable"),
        (Pods((CHANGE, BAKING), a=None), Level.OK, "cannot be seen from here"),
        (Pods(), Level.OK, "cannot be seen from here"),
    ],
)
async def test_prometheus_is_seen_through_the_leader_or_through_the_changes(pods: Any, level: Level, said: str) -> None:
    [found] = [finding async for finding in metrics(pods)]
    assert found.level is level
    assert said in found.text


def lines(out: str) -> dict[str, set[str]]:
    """Levels by what they are about."""
    found: dict[str, set[str]] = {}
    for line in out.splitlines():
        if line.startswith(("ok ", "warn ", "wrong ")):
            level, about, *_ = line.split()
            found.setdefault(about, set()).add(level)
    return found


WELL = {"server", "kinds", "admission", "policies", "rights", "metrics", "routes", "workloads", "you"}


def test_a_cluster_as_the_readme_installs_it_lacks_only_the_controller_that_does_not_run(
    guarded: Bed, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(guarded.kubeconfig()))
    code, out, err = run("doctor", "-n", SHOP)
    assert (code, err) == (1, "")
    found = lines(out)
    assert found["controller"] == {"wrong"}
    assert "→ kubectl get pods -n serin-system" in out
    assert {about for about in found if "wrong" in found[about]} == {"controller"}
    assert found.keys() >= WELL
    renewed = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    lease = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "serin", "namespace": "serin-system"},
        "spec": {"holderIdentity": "serin-1", "leaseDurationSeconds": 600, "renewTime": renewed},
    }
    guarded.apply(lease)
    found = json.loads(run("doctor", "-n", SHOP, "-o", "json").out)["findings"]
    assert [f for f in found if f["level"] == "wrong"] == []
    assert run("doctor", "-n", SHOP).code == 0
    guarded.kubectl("delete", "lease", "serin", "-n", "serin-system")


def test_who_may_not_look_is_told_so_and_sees_the_rest(guarded: Bed, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(guarded.kubeconfig("bob")))
    found = lines(run("doctor", "-n", SHOP).out)
    assert (found["rights"], found["admission"]) == ({"warn"}, {"warn"})
    assert (found["server"], found["policies"], found["you"]) == ({"ok"}, {"ok"}, {"ok"})


def test_a_weakened_guard_and_a_broken_policy_are_found(
    guarded: Bed, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(guarded.kubeconfig()))

    def patch(kind: str, name: str, text: str) -> None:
        guarded.kubectl("patch", kind, name, "--type=merge", "-p", text)

    patch("validatingadmissionpolicybinding", "serin-guard", '{"spec": {"validationActions": ["Audit"]}}')
    patch("mutatingadmissionpolicy", "serin-hold", '{"spec": {"failurePolicy": "Ignore"}}')
    patch("chgp", "normal", '{"spec": {"metrics": {"preset": "nothing"}}}')
    guarded.kubectl("delete", "validatingadmissionpolicybinding", "serin-own")
    try:
        out = run("doctor", "-n", SHOP).out
    finally:
        guarded.kubectl("apply", "--server-side", "--force-conflicts", "-k", str(ROOT / "policies"))
    said = " ".join(out.split())
    assert "wrong admission ValidatingAdmissionPolicyBinding serin-own not found" in said
    assert "ValidatingAdmissionPolicy serin-own is not bound" in said
    assert "MutatingAdmissionPolicy serin-hold does not fail closed" in said
    assert "binding serin-guard does not deny" in said
    assert "wrong policies ChangePolicy normal: spec.metrics.preset is 'nothing'" in said
    assert "→ kubectl edit chgp normal" in said


def test_a_deployment_that_slipped_out_of_its_hold_is_found(
    guarded: Bed, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(guarded.kubeconfig()))
    held = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "slipped", "namespace": SHOP, "labels": {"serin.dev/change": "auto"}},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "shop"}}, "template": TEMPLATE},
    }
    guarded.apply(held)
    assert "wrong" not in lines(run("doctor", "-n", SHOP).out)["workloads"]
    unpause = ("patch", "deployment", "slipped", "-n", SHOP, "--type=merge", "-p", '{"spec": {"paused": false}}')
    guarded.kubectl(*unpause, AS_CONTROLLER)
    eventually(lambda: "wrong" in lines(run("doctor", "-n", SHOP).out)["workloads"])
    assert "Deployment slipped in guarded-shop is held and not paused" in " ".join(run("doctor", "-A").out.split())
    guarded.kubectl("delete", "deployment", "slipped", "-n", SHOP)
