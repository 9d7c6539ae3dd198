"""The control plane is a real one: users, tokens, controllers, admission in CEL."""

import base64
import json

import pytest

from testbed.bed import Bed
from testbed.errors import BedError
from testbed.waiting import eventually


def test_users_are_who_they_say_and_edit_workloads_only(control_plane: Bed) -> None:
    assert "alice" in control_plane.kubectl("auth", "whoami", user="alice")
    control_plane.kubectl("create", "configmap", "mine", user="alice")
    refused = control_plane.kubectl_result("create", "clusterrole", "x", "--verb=get", "--resource=pods", user="alice")
    assert "forbidden" in refused.stderr
    with pytest.raises(BedError, match="no user eve"):
        control_plane.kubeconfig("eve")


def test_a_deployment_gets_pods_that_are_bound_without_a_scheduler(control_plane: Bed) -> None:
    control_plane.kubectl("create", "namespace", "bound")
    control_plane.kubectl("create", "deployment", "app", "--image=app", "--replicas=3", "-n", "bound", user="bob")
    pods = eventually(lambda: control_plane.get("pods", "-n", "bound")["items"])
    assert {pod["spec"]["nodeName"] for pod in pods} == {"node-1"}


def test_service_account_tokens_are_issued_and_accepted(control_plane: Bed) -> None:
    token = control_plane.kubectl("create", "token", "default").strip()
    payload = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    assert claims["sub"] == "system:serviceaccount:default:default"
    review = control_plane.kubectl("auth", "whoami", f"--token={token}", user="alice")
    assert "system:serviceaccount:default:default" in review


def test_an_autoscaler_without_metrics_says_so(control_plane: Bed) -> None:
    control_plane.kubectl("create", "namespace", "scaled")
    control_plane.kubectl("create", "deployment", "app", "--image=app", "-n", "scaled")
    control_plane.kubectl("autoscale", "deployment", "app", "--min=2", "--max=4", "--cpu=50%", "-n", "scaled")
    conditions = eventually(
        lambda: control_plane.get("hpa", "app", "-n", "scaled").get("status", {}).get("conditions", [])
    )
    assert {condition["type"] for condition in conditions} >= {"AbleToScale"}
