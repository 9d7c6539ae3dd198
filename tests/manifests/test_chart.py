"""The chart is the manifests: rendered with its defaults it is what kustomize builds, and it installs for real."""

import json
import re
import subprocess
import tomllib
from typing import Any

import pytest
import yaml

from helm import generate
from testbed import build
from testbed.bed import Bed
from testbed.control_plane import Manifest
from tests.manifests.conftest import ROOT

CHART = ROOT / "helm" / "serin"
Key = tuple[str, str, str]


def helm(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([build.find("helm"), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, done.stderr
    return done


def objects(text: str) -> dict[Key, Manifest]:
    found: dict[Key, Manifest] = {}
    for each in filter(None, yaml.safe_load_all(text)):
        key = (each["kind"], each["metadata"].get("namespace", ""), each["metadata"]["name"])
        assert key not in found
        found[key] = each
    return found


def one_line_end(value: Any) -> Any:
    """kustomize folds long CEL anew and doubles the line ends in it, which mean nothing there."""
    return json.loads(re.sub(r"(\\n)+", r"\\n", json.dumps(value)))


def rendered(*values: str) -> dict[Key, Manifest]:
    arguments = [f"--set={value}" for value in values]
    place = ("--namespace=serin-system", "--include-crds", "--kube-version=1.37")
    return objects(helm("template", "serin", str(CHART), *place, *arguments).stdout)


def kustomized(*folders: str) -> dict[Key, Manifest]:
    found: dict[Key, Manifest] = {}
    for folder in folders:
        command = [str(build.find("kubectl")), "kustomize", str(ROOT / folder)]
        found |= objects(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return found


def test_the_chart_is_what_the_generator_writes() -> None:
    there = {
        path.relative_to(CHART).as_posix(): path.read_text()
        for folder in generate.GENERATED
        for path in (CHART / folder).rglob("*")
        if path.is_file()
    }
    assert there == generate.generated(), "run: python -m helm.generate"


def test_by_default_it_renders_what_kustomize_builds() -> None:
    wanted = kustomized("manifests", "policies")
    # helm keeps its own record in the namespace, so that has to be there before the chart is.
    namespace = wanted.pop(("Namespace", "", "serin-system"))
    assert namespace["metadata"]["labels"] == {"pod-security.kubernetes.io/enforce": "restricted"}
    chart = rendered()
    assert len(chart) > 25
    assert set(chart) == set(wanted)
    for key, each in chart.items():
        assert one_line_end(each) == one_line_end(wanted[key]), key


def test_values_arrive() -> None:
    chart = rendered(
        "replicas=3",
        "image.repository=registry.example/serin",
        "image.tag=v9",
        "prometheusUrl=https://prometheus.example",
        "sinksSecret=hooks",
        "alertTokenSecret=pager",
        "auditClaim=serin-audit",
        "resources.limits.memory=1Gi",
        "policies.install=false",
        "admission.install=false",
    )
    spec = chart["Deployment", "serin-system", "serin"]["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    assert (spec["replicas"], container["image"]) == (3, "registry.example/serin:v9")
    assert {"name": "SERIN_PROMETHEUS_URL", "value": "https://prometheus.example"} in container["env"]
    assert container["resources"]["limits"] == {"memory": "1Gi"}
    assert spec["template"]["spec"]["volumes"] == [
        {"name": "sinks", "secret": {"secretName": "hooks", "optional": True}},
        {"name": "alerts", "secret": {"secretName": "pager", "optional": True}},
        {"name": "audit", "persistentVolumeClaim": {"claimName": "serin-audit"}},
    ]
    assert {kind for kind, _, _ in chart if "Policy" in kind} == set()
    assert chart.keys() == kustomized("manifests").keys() - {("Namespace", "", "serin-system")}


def test_another_namespace_is_refused() -> None:
    refused = helm("template", "serin", str(CHART), "--namespace=else", "--kube-version=1.37", check=False)
    assert refused.returncode != 0
    assert "--namespace serin-system" in refused.stderr


def test_versions_agree() -> None:
    chart: dict[str, Any] = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert chart["version"] == chart["appVersion"] == project


def test_it_installs_and_goes_and_keeps_what_is_recorded(empty_cluster: Bed) -> None:
    cluster = ("--namespace=serin-system", f"--kubeconfig={empty_cluster.kubeconfig()}")
    helm("install", "serin", str(CHART), *cluster, "--create-namespace", "--set=replicas=1")
    for kind, namespace, name in rendered():
        place = ("-n", namespace) if namespace else ()
        assert empty_cluster.kubectl("get", kind, name, *place, "-o", "name")
    assert empty_cluster.get("deployment", "serin", "-n", "serin-system")["spec"]["replicas"] == 1
    helm("upgrade", "serin", str(CHART), *cluster, "--set=replicas=3")
    assert empty_cluster.get("deployment", "serin", "-n", "serin-system")["spec"]["replicas"] == 3
    change = {
        "apiVersion": "serin.dev/v1alpha1",
        "kind": "ChangeRequest",
        "metadata": {"name": "chg-20261123-001", "namespace": "default"},
        "spec": {"changeId": "CHG-20261123-001", "type": "normal", "deployments": ["shop"]},
    }
    empty_cluster.kubectl("create", "-f", "-", stdin=json.dumps(change))
    helm("uninstall", "serin", *cluster, "--wait")
    assert empty_cluster.get("chg", "-n", "default")["items"]
    assert not empty_cluster.get("deployments", "-n", "serin-system")["items"]


@pytest.mark.parametrize("value", ["policies", "admission"])
def test_each_part_can_be_left_out(value: str) -> None:
    left = rendered().keys() - rendered(f"{value}.install=false").keys()
    folder = {"policies": kustomized("policies").keys() - kustomized("policies/admission").keys()}
    assert left == folder.get(value, kustomized("policies/admission").keys())
