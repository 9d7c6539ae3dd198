"""Fights: appliers that put back what Git says, under the field managers of Argo CD and Flux, while a change runs."""

import json
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
import yaml

from testbed.control_plane import Manifest
from testbed.waiting import eventually
from tests.e2e.conftest import Played
from tests.e2e.test_b_surroundings import autoscaler, floor
from tests.e2e.test_process import serin

ARGO, FLUX = "argocd-controller", "kustomize-controller"
HALF = {"steps": [{"weight": 50, "bake": "6s"}, {"weight": 100, "bake": "3s"}]}


def sync(app: Played, manager: str, *manifests: Manifest) -> None:
    """Server-side apply by force, as both tools do it."""
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests})
    options = ("--server-side", "--force-conflicts", f"--field-manager={manager}")
    app.bed.kubectl("apply", *options, "-f", "-", stdin=text)


def heal(app: Played, change: str, drifted: Callable[[], bool], manager: str, what: Manifest) -> list[dict[str, Any]]:
    """Apply `what` whenever it has drifted, until the change has ended or half a minute is over; the statuses seen."""
    seen: list[dict[str, Any]] = []
    end = time.monotonic() + 40
    while time.monotonic() < end:
        seen.append(app.status(change))
        if seen[-1].get("phase") in ("RolledBack", "Completed"):
            break
        if drifted():
            sync(app, manager, what)
        time.sleep(0.1)
    return seen


def test_self_heal_that_resets_the_weights_is_named_and_the_revision_may_run_again(app: Played) -> None:
    sync(app, ARGO, app.route())
    with app.users(rps=20) as users:
        change = app.start("v2", policy=HALF)
        seen = heal(app, change, lambda: app.weights().get("shop-canary", 0) > 0, ARGO, app.route())
        resets = 4
        assert users.stop().failed <= resets
    done = seen[-1]
    assert (done["phase"], done["cause"], done.get("rejected", False)) == ("RolledBack", "Conflict", False)
    last = next(record for record in done["history"] if record["reason"] == "Conflict")
    assert f"{ARGO} wrote spec.rules of HTTPRoute/{app.namespace}/shop, time 4 at this step" in last["message"]
    held = [status["message"] for status in seen if status.get("reason") == "Contested"]
    assert any(f"{ARGO} wrote spec.rules" in message for message in held)
    app.told("ChangeRequest", "Contested")
    assert app.weights() == {"shop": 1}
    assert app.leftovers() == []
    with app.users(rps=20):
        again = app.start("v2", policy=HALF)
        assert app.wait(again, "Completed")["phase"] == "Completed"


def test_a_sync_that_lowers_the_floor_of_the_autoscaler_is_answered_at_once(app: Played) -> None:
    scaler = autoscaler(app, least=1, most=8)
    sync(app, FLUX, scaler)
    with app.users(rps=20):
        change = app.start("v2", policy=HALF)
        eventually(lambda: app.weights().get("shop-canary") == 50)
        for _ in range(2):
            app.wait(change, "Progressing", reason="Baking")
            sync(app, FLUX, scaler)
            eventually(lambda: floor(app) == app.replicas, within=timedelta(seconds=5))
        status = app.wait(change, "Completed", within=timedelta(seconds=60))
    reasons = [line["reason"] for line in app.serin.lines(app.namespace, "decision")]
    assert "Contested" in reasons
    assert not any(record["reason"] == "Conflict" for record in status["history"])
    eventually(lambda: floor(app) == 1)


def served(group: str, version: str, kind: str) -> Manifest:
    """A kind of Argo CD's or Flux's, as far as anyone reads it here."""
    plural = f"{kind.lower()}s"
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    each = {"name": version, "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"kind": kind, "plural": plural, "singular": kind.lower()}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {"group": group, "names": names, "scope": "Namespaced", "versions": [each]},
    }


class Tool:
    """What Argo CD, or Flux, does with a route from Git, by the words of its own object: as its documents have it."""

    def __init__(self, app: Played, manager: str) -> None:
        self.app, self.manager = app, manager
        place = f"gateway.networking.k8s.io/HTTPRoute:{app.namespace}/shop"
        if manager == ARGO:
            self.kind, self.path = ("argoproj.io", "v1alpha1", "Application"), ("ignoreDifferences", "jsonPointers")
            self.spec: Manifest = {"syncPolicy": {"automated": {"selfHeal": True}}}
            self.marks = {"annotations": {"argocd.argoproj.io/tracking-id": f"{app.namespace}_shop:{place}"}}
        else:
            self.kind, self.path = ("kustomize.toolkit.fluxcd.io", "v1", "Kustomization"), ("ignore", "paths")
            self.spec = {"interval": "1m"}
            own = {"name": "shop", "namespace": app.namespace}
            self.marks = {"labels": {f"kustomize.toolkit.fluxcd.io/{key}": value for key, value in own.items()}}
        self.git = app.route()
        self.git["metadata"] |= self.marks
        self.applied = 0

    def install(self) -> None:
        self.app.bed.apply(served(*self.kind))
        self.app.bed.await_crds()
        self.write()
        sync(self.app, self.manager, self.git)

    def write(self) -> None:
        """Its own object."""
        group, version, kind = self.kind
        meta = {"name": "shop", "namespace": self.app.namespace}
        self.app.bed.apply({"apiVersion": f"{group}/{version}", "kind": kind, "metadata": meta, "spec": self.spec})

    def heal(self) -> None:
        """Apply Git where the live route differs from it; what it is to ignore is taken from the live route."""
        wanted = json.loads(json.dumps(self.git))
        rules, pointers = self.path
        live = self.app.rules()
        if any("/spec/rules" in rule[pointers] for rule in self.spec.get(rules, [])):
            wanted["spec"]["rules"] = live
        if self.bare(wanted["spec"]["rules"]) != self.bare(live):
            self.applied += 1
            sync(self.app, self.manager, wanted)

    @staticmethod
    def bare(rules: list[dict[str, Any]]) -> list[list[tuple[str, int]]]:
        """Without what the API server adds."""
        return [[(ref["name"], ref.get("weight", 1)) for ref in rule["backendRefs"]] for rule in rules]


@pytest.mark.parametrize("manager", [ARGO, FLUX])
def test_what_git_would_revert_is_not_started_until_the_yaml_that_is_shown_is_there(app: Played, manager: str) -> None:
    tool = Tool(app, manager)
    tool.install()
    with app.users(rps=20) as users:
        change = app.serin.change_id()
        with app.serin.policy(HALF):
            app.change("v2", change)
            status = app.wait(change, "Waiting", reason="GitOpsWillRevert")
            assert f"{tool.kind[2]} {app.namespace}/shop puts back /spec/rules" in status["message"]
            assert app.pods("v2") == {}
            (revert,) = status["targets"][0]["reverts"]
            shown = serin(app, "alice", "status", change).stdout
            assert all(line in shown for line in revert["snippet"].splitlines())
            added = yaml.safe_load(revert["snippet"])["spec"]
            policy = {**tool.spec.get("syncPolicy", {}), **added.pop("syncPolicy", {})}
            tool.spec |= {**added, **({"syncPolicy": policy} if policy else {})}
            tool.write()
            app.bed.kubectl("annotate", "httproute", "shop", "-n", app.namespace, "looked=at")  # sooner than by itself
            app.started(change)

        def over() -> bool:
            tool.heal()
            return app.status(change).get("phase") in ("Completed", "RolledBack")

        eventually(over, within=timedelta(seconds=90))
        assert app.status(change)["phase"] == "Completed"
        assert users.stop().failed == 0
    reasons = [line["reason"] for line in app.serin.lines(app.namespace, "decision")]
    assert (tool.applied, "Contested" in reasons) == (0, False)
    assert app.weights() == {"shop": 1}


@pytest.mark.alone
@pytest.mark.alone
def test_who_unpauses_it_past_admission_is_stopped_and_stable_comes_back(app: Played) -> None:
    """A cluster admin has taken the binding of the guard away, and starts the native rolling update by hand."""
    binding = app.bed.get("validatingadmissionpolicybinding", "serin-guard")
    slow = {"steps": [{"weight": 50, "bake": "30s"}, {"weight": 100, "bake": "3s"}]}
    with app.users(rps=20) as users:
        change = app.start("v2", policy=slow)
        eventually(lambda: app.weights().get("shop-canary") == 50)
        app.bed.kubectl("delete", "validatingadmissionpolicybinding", "serin-guard")
        try:
            patch = ("patch", "deployment", "shop", "-n", app.namespace, "-p")

            def let_through() -> bool:
                done = app.bed.kubectl_result(*patch, '{"spec":{"paused":false}}')
                return done.returncode == 0

            eventually(let_through, within=timedelta(seconds=20))
            status = app.wait(change, "RolledBack")
        finally:
            app.bed.apply({key: value for key, value in binding.items() if key != "metadata"} | _named(binding))
        summary = users.stop()
    assert (status["cause"], status.get("rejected", False)) == ("Unpaused", False)
    turned = next(record for record in status["history"] if record["reason"] == "Unpaused")
    # `paused: false` is left out of the object, and what is not there has no field manager.
    assert "someone else un-paused Deployment shop" in turned["message"]
    writes = app.serin.lines(app.namespace, "write")
    answered = max(datetime.fromisoformat(line["at"]) for line in writes if line["kind"] in ("Mark", "Restore"))
    known = answered + timedelta(seconds=1)  # by then the gateway has heard of each pod that was still ended by hand
    assert summary.last_at.get("none", known) <= known, "what failed, failed while it was rolled by hand"
    eventually(lambda: len(app.pods("v1")) == app.replicas and not app.pods("v2"))
    assert app.weights() == {"shop": 1}


def _named(raw: Manifest) -> Manifest:
    return {"metadata": {"name": raw["metadata"]["name"], "labels": raw["metadata"].get("labels") or {}}}
