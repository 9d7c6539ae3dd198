"""`kubectl apply -k manifests/` on a real API server: all of it is applied, and its pods are let in."""

import copy
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.settings import IDENTITY, PREFIX, Settings
from testbed.bed import Bed
from testbed.waiting import eventually
from tests.manifests.conftest import ROOT

DOCUMENTS: list[dict[str, Any]] = list(yaml.safe_load_all((ROOT / "manifests/controller.yaml").read_text()))
DEPLOYMENT, BUDGET, SERVICE = DOCUMENTS
TEMPLATE = DEPLOYMENT["spec"]["template"]
(CONTAINER,) = TEMPLATE["spec"]["containers"]
ENVIRONMENT = {entry["name"]: entry["value"] for entry in CONTAINER["env"]}


def pod() -> dict[str, Any]:
    """One of the Deployment's pods."""
    place = {"name": "serin-try", "namespace": DEPLOYMENT["metadata"]["namespace"]}
    metadata = {**place, **TEMPLATE["metadata"]}
    return copy.deepcopy({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": TEMPLATE["spec"]})


@pytest.fixture(scope="module")
def installed(control_plane: Bed) -> Bed:
    control_plane.kubectl("apply", "--server-side", "-k", str(ROOT / "manifests"))
    return control_plane


def test_settings_are_known_and_accepted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert {name.removeprefix(PREFIX).lower() for name in ENVIRONMENT} <= Settings.model_fields.keys()
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SERIN_SINKS", str(tmp_path))  # as the Secret is mounted when there is none
    monkeypatch.delenv("KUBECONFIG", raising=False)
    settings = Settings.model_validate({})
    assert (settings.kubeconfig, settings.sinks) == (None, ())
    mounts = [mount["mountPath"] for mount in CONTAINER["volumeMounts"]]
    files = [str(Path(ENVIRONMENT[name]).parent) for name in ("SERIN_ALERT_TOKEN_FILE", "SERIN_AUDIT_FILE")]
    assert mounts == [ENVIRONMENT["SERIN_SINKS"], *files]
    assert settings.listen == ("0.0.0.0", CONTAINER["ports"][0]["containerPort"])
    assert settings.namespace == DEPLOYMENT["metadata"]["namespace"]
    assert settings.lease_duration + settings.lease_retry < timedelta(seconds=20)


def test_it_is_who_the_controller_has_to_be() -> None:
    who = DEPLOYMENT["metadata"]["namespace"], TEMPLATE["spec"]["serviceAccountName"]
    assert f"system:serviceaccount:{who[0]}:{who[1]}" == IDENTITY


def test_selectors_and_probes_meet_what_they_are_for() -> None:
    labels, port = TEMPLATE["metadata"]["labels"], CONTAINER["ports"][0]
    (spread,) = TEMPLATE["spec"]["topologySpreadConstraints"]
    matched = [each["matchLabels"] for each in (DEPLOYMENT["spec"]["selector"], BUDGET["spec"]["selector"])]
    assert [*matched, spread["labelSelector"]["matchLabels"], SERVICE["spec"]["selector"]] == [labels] * 4
    assert SERVICE["spec"]["ports"] == [{"name": "http", "port": port["containerPort"], "targetPort": port["name"]}]
    assert SERVICE["metadata"]["annotations"]["prometheus.io/port"] == str(port["containerPort"])
    probes = {kind: CONTAINER[kind]["httpGet"] for kind in ("readinessProbe", "livenessProbe")}
    assert probes == {
        "readinessProbe": {"path": "/readyz", "port": "http"},
        "livenessProbe": {"path": "/healthz", "port": "http"},
    }


def test_it_applies_and_again_changes_nothing(installed: Bed) -> None:
    assert installed.get("deployment", "serin", "-n", "serin-system")["spec"]["replicas"] == 2
    budget = installed.get("pdb", "serin", "-n", "serin-system")
    before = budget["metadata"]["generation"]
    installed.kubectl("apply", "--server-side", "-k", str(ROOT / "manifests"))
    assert installed.get("pdb", "serin", "-n", "serin-system")["metadata"]["generation"] == before
    for name, key in (("serin-alerts", "alerts.yaml"), ("serin-dashboards", "serin-rollouts.json")):
        assert installed.get("configmap", name, "-n", "serin-system")["data"][key]


def test_its_pods_are_created(installed: Bed) -> None:
    labels = ",".join(f"{key}={value}" for key, value in TEMPLATE["metadata"]["labels"].items())
    eventually(
        lambda: len(installed.get("pods", "-n", "serin-system", "-l", labels)["items"]) == 2,
        within=timedelta(seconds=20),
    )


def test_a_pod_security_of_restricted_lets_it_in_and_less_would_not(installed: Bed) -> None:
    create = ("create", "--dry-run=server", "-f", "-", "-o", "name")
    assert installed.kubectl(*create, stdin=json.dumps(pod())) == "pod/serin-try\n"
    for part in ("runAsNonRoot", "seccompProfile"):
        less = pod()
        del less["spec"]["securityContext"][part]
        refused = installed.kubectl_result(*create, stdin=json.dumps(less))
        assert 'violates PodSecurity "restricted:latest": ' in refused.stderr, part
        assert part in refused.stderr
    for part in ("allowPrivilegeEscalation", "capabilities"):
        less = pod()
        del less["spec"]["containers"][0]["securityContext"][part]
        assert part in installed.kubectl_result(*create, stdin=json.dumps(less)).stderr
    assert CONTAINER["securityContext"]["readOnlyRootFilesystem"]  # no part of `restricted`
