"""The API server as several users see it, and the scenes that the tests start from."""

import itertools
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import requests
import yaml

from testbed.bed import Bed

REPOSITORY = Path(__file__).resolve().parents[2]
SERIN = "system:serviceaccount:serin-system:serin"
DEPLOYMENT_CONTROLLER = "system:serviceaccount:kube-system:deployment-controller"
ROBOT = "system:serviceaccount:default:robot"
"""A ServiceAccount that may do everything: cluster-admin, like many a GitOps tool."""
ID = "CHG-20261123-001"
CHG = ID.lower()
REVISION = "5d8f"
LABEL, HELD, BY, TYPE, RUN, AUTHOR = (
    f"serin.dev/{name}" for name in ("change", "held", "requested-by", "type", "run", "author")
)
RECREATE = {"spec": {"strategy": {"type": "Recreate", "rollingUpdate": None}}}
ROLLBACK_TO = "deprecated.deployment.rollback.to"

Object = dict[str, Any]
T = TypeVar("T")
_numbers = itertools.count(1)

_GROUPS = {
    "deployments": "apis/apps/v1",
    "replicasets": "apis/apps/v1",
    "pods": "api/v1",
    "services": "api/v1",
    "networkpolicies": "apis/networking.k8s.io/v1",
    "poddisruptionbudgets": "apis/policy/v1",
    "jobs": "apis/batch/v1",
    "changerequests": "apis/serin.dev/v1alpha1",
    "changedecisions": "apis/serin.dev/v1alpha1",
}


@dataclass
class Answer:
    code: int
    body: Object

    @property
    def ok(self) -> bool:
        return self.code < 300

    @property
    def message(self) -> str:
        return str(self.body.get("message", ""))


@cache
def _connect(bed: Bed, name: str) -> tuple[str, requests.Session]:
    """Address of the API server, and a session as that user; names without a token are impersonated by the admin."""
    own = name in bed.options.users or name == "admin"
    config = yaml.safe_load(bed.kubeconfig(name if own else "admin").read_text())
    cluster = config["clusters"][0]["cluster"]
    session = requests.Session()
    session.trust_env = False
    session.verify = cluster["certificate-authority"]
    session.headers["Authorization"] = f"Bearer {config['users'][0]['user']['token']}"
    if not own:
        session.headers["Impersonate-User"] = name
    return str(cluster["server"]), session


class User:
    """One authenticated user in one namespace."""

    def __init__(self, bed: Bed, name: str, namespace: str) -> None:
        self.name, self.namespace = name, namespace
        self._server, self._session = _connect(bed, name)

    def request(self, method: str, path: str, body: Any = None, content_type: str = "application/json") -> Answer:
        answer = self._session.request(
            method,
            f"{self._server}/{path}",
            data=None if body is None else json.dumps(body),
            headers={"Content-Type": content_type},
            timeout=20,
        )
        return Answer(answer.status_code, answer.json())

    def lines(self, path: str) -> list[bytes]:
        """The lines of a watch, which must end by itself (`timeoutSeconds`)."""
        answer = self._session.get(f"{self._server}/{path}", timeout=20)
        assert answer.status_code == 200, answer.text
        return answer.content.splitlines()

    def create(self, resource: str, manifest: Object, query: str = "") -> Answer:
        return self.request("POST", self._path(resource) + query, manifest)

    def get(self, resource: str, name: str = "") -> Answer:
        return self.request("GET", self._path(resource, name))

    def items(self, resource: str) -> list[Object]:
        return list(self.get(resource).body["items"])

    def patch(self, resource: str, name: str, body: Any, how: str = "merge-patch", sub: str = "") -> Answer:
        return self.request("PATCH", self._path(resource, name, sub), body, f"application/{how}+json")

    def put(self, resource: str, name: str, body: Object, sub: str = "") -> Answer:
        return self.request("PUT", self._path(resource, name, sub), body)

    def delete(self, resource: str, name: str, propagation: str = "Background") -> Answer:
        return self.request("DELETE", self._path(resource, name), {"propagationPolicy": propagation})

    def _path(self, resource: str, name: str = "", sub: str = "") -> str:
        parts = (_GROUPS[resource], "namespaces", self.namespace, resource, name, sub)
        return "/".join(part for part in parts if part)


def wait_for(what: str, probe: Callable[[], T], within: timedelta = timedelta(seconds=40)) -> T:
    """The first true answer of `probe`; AssertionError when none comes in time."""
    end = time.monotonic() + within.total_seconds()
    while time.monotonic() < end:
        if answer := probe():
            return answer
        time.sleep(0.05)
    raise AssertionError(f"{what}: not within {within}")


def deployment(image: str = "shop:1", labels: Mapping[str, str] | None = None, **more: Any) -> Object:
    annotations = more.pop("annotations", {})
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "shop", "labels": dict(labels or {}), "annotations": annotations},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "shop"}}, **more, "template": template(image)},
    }


def template(image: str, labels: Mapping[str, str] | None = None) -> Object:
    container = {"name": "shop", "image": image}
    setup = {"name": "setup", "image": "setup:1"}
    return {
        "metadata": {"labels": {"app": "shop", **(labels or {})}},
        "spec": {"containers": [container], "initContainers": [setup], "automountServiceAccountToken": False},
    }


def new_image(image: str = "shop:2") -> Object:
    """A strategic merge patch of the pod template."""
    return {"spec": {"template": {"spec": {"containers": [{"name": "shop", "image": image}]}}}}


def annotate(**values: str | None) -> Object:
    names = {"held": HELD, "by": BY, "type": TYPE, "author": AUTHOR}
    names |= {"note": "example.com/note", "rollback": ROLLBACK_TO}
    return {"metadata": {"annotations": {names[key]: value for key, value in values.items()}}}


def label(value: str | None) -> Object:
    return {"metadata": {"labels": {LABEL: value}}}


@dataclass
class Scene:
    """One namespace with a Deployment called shop in it, and `attacker`, who is about to do something."""

    bed: Bed
    attacker_name: str = "alice"
    namespace_labels: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.namespace = f"scene-{next(_numbers)}"
        self.admin, self.bob = self.user("admin"), self.user("bob")
        self.serin, self.attacker = self.user(SERIN), self.user(self.attacker_name)
        metadata = {"name": self.namespace, "labels": dict(self.namespace_labels)}
        made = self.admin.request("POST", "api/v1/namespaces", {"metadata": metadata})
        assert made.ok, made

    def user(self, name: str) -> User:
        return User(self.bed, name, self.namespace)

    # ---- where a scene starts

    def unlabelled(self, **more: Any) -> "Scene":
        return self._must(self.bob.create("deployments", deployment(**more)))

    def running(self, **more: Any) -> "Scene":
        """A Deployment that ran before it got the label: adopted, never held."""
        return self.unlabelled(**more)._must(self.bob.patch("deployments", "shop", label(ID)))

    def held(self, **more: Any) -> "Scene":
        """bob has asked for shop:2."""
        self.running(**more)._must(self.bob.patch("deployments", "shop", new_image(), "strategic-merge-patch"))
        assert self.annotations()[HELD] == "true"
        return self

    def locked(self, held: str = "promoting") -> "Scene":
        release = {"metadata": {"annotations": {HELD: held}}, "spec": {"paused": False}}
        return self.held()._must(self.serin.patch("deployments", "shop", release))

    def marked(self, held: str) -> "Scene":
        """The controller has marked the held Deployment: `running`, or `rejected` at the end."""
        return self.held()._must(self.serin.patch("deployments", "shop", {"metadata": {"annotations": {HELD: held}}}))

    def enforce(self) -> "Scene":
        """From now on the namespace requires the label."""
        labels = {"metadata": {"labels": {"serin.dev/enforce": "required"}}}
        path = f"api/v1/namespaces/{self.namespace}"
        self._must(self.admin.request("PATCH", path, labels, "application/merge-patch+json"))
        probe = {"metadata": {"name": "enforced"}}
        known = lambda: not self.admin.request("POST", f"{path}/configmaps?dryRun=All", probe).ok  # noqa: E731
        wait_for("the label to be known to admission", known)
        return self

    def canary(self, *owners: Object) -> "Scene":
        """What the controller makes for a canary: a Deployment, and what goes with it."""
        labels = {"app": "shop-canary", RUN: ID}
        meta = {"name": "shop-canary", "labels": {**labels, LABEL: ID}, "ownerReferences": list(owners)}
        selector = {"matchLabels": labels}
        canary = {
            "metadata": meta,
            "spec": {"replicas": 1, "selector": selector, "template": template("shop:2", labels)},
        }
        self._must(self.serin.create("deployments", canary))
        service = {"metadata": meta, "spec": {"selector": labels, "ports": [{"port": 80}]}}
        self._must(self.serin.create("services", service))
        self._must(self.serin.create("networkpolicies", {"metadata": meta, "spec": {"podSelector": selector}}))
        budget = {"metadata": meta, "spec": {"minAvailable": 1, "selector": selector}}
        return self._must(self.serin.create("poddisruptionbudgets", budget))

    def request(self) -> "Scene":
        """bob's ChangeRequest, with the controller's finalizer."""
        self._must(self.bob.create("changerequests", change_request()))
        finalizer = {"metadata": {"finalizers": ["serin.dev/route"]}}
        return self._must(self.serin.patch("changerequests", "chg-20261123-001", finalizer))

    def asked(self, by: str = "bob", status: Object | None = None, **spec: Any) -> "Scene":
        """`by`'s change, as the controller has looked at it: its ChangeRequest, revision and requesters."""
        self._must(self.serin.create("changerequests", change_request(requestedBy=by, **spec)))
        body = {"phase": "Waiting", "revision": REVISION, "requesters": [by], **(status or {})}
        self._must(self.serin.patch("changerequests", CHG, {"status": body}, sub="status"))
        # The API server's admission reads its own copies, which come a moment later.
        probe = self.decision("Approve", type=spec.get("type", "normal"))

        def known() -> bool:
            answer = str(self.admin.create("changedecisions", probe, "?dryRun=All").body)
            return "there is no CHG-" not in answer and ("(none yet)" not in answer or not body["revision"])

        wait_for("the change to be known to admission", known)
        return self

    def decision(self, action: str = "Approve", **spec: Any) -> Object:
        """A decision about the change of this scene, as whoever sends it makes it."""
        return decision(action, uid=self.uid(), **spec)

    def decided(self, action: str = "Approve", by: str = "alice") -> str:
        """Name of a decision that `by` has made."""
        made = self.user(by).create("changedecisions", self.decision(action))
        assert made.ok, made
        return str(made.body["metadata"]["name"])

    # ---- what is seen

    def uid(self) -> str:
        """Of the ChangeRequest."""
        answer = self.admin.get("changerequests", CHG)
        assert answer.ok, answer
        return str(answer.body["metadata"]["uid"])

    def live(self) -> Object:
        answer = self.admin.get("deployments", "shop")
        assert answer.ok, answer
        return answer.body

    def annotations(self) -> dict[str, str]:
        return dict(self.live()["metadata"].get("annotations", {}))

    def replica_set(self, image: str = "shop:1") -> str:
        """Name of the ReplicaSet that the deployment controller made for `image`."""

        def find() -> str:
            for each in self.admin.items("replicasets"):
                if image_of(each["spec"]["template"]) == image and each["metadata"].get("ownerReferences"):
                    return str(each["metadata"]["name"])
            return ""

        return wait_for(f"ReplicaSet of {image}", find)

    def settle(self) -> None:
        """Wait until the deployment controller has seen the Deployment as it is now."""

        def seen() -> bool:
            live = self.live()
            return bool(live.get("status", {}).get("observedGeneration") == live["metadata"]["generation"])

        wait_for("the deployment controller", seen)

    def pod(self) -> str:
        """Name of a pod of the Deployment."""

        def find() -> str:
            ours = [each for each in self.admin.items("pods") if image_of(each) == "shop:1"]
            return str(ours[0]["metadata"]["name"]) if ours else ""

        return wait_for("a pod of shop:1", find)

    def _must(self, answer: Answer) -> "Scene":
        assert answer.ok, answer
        return self


def image_of(pod_template: Object) -> str:
    return str(pod_template["spec"]["containers"][0]["image"])


def change_request(**spec: Any) -> Object:
    return {
        "apiVersion": "serin.dev/v1alpha1",
        "kind": "ChangeRequest",
        "metadata": {"name": "chg-20261123-001"},
        "spec": {"changeId": ID, "type": "normal", **spec},
    }


REVIEW = {"outcome": "Successful", "successCriteria": "all met", "lessonsLearned": "none"}


def decision(action: str = "Approve", uid: str = "made-up", change: str = ID, **spec: Any) -> Object:
    """Complete but for what admission stamps."""
    more = {
        **({"reason": "users complain"} if action in ("Deny", "Rollback", "Pause", "Bypass") else {}),
        **({"expiresAt": in_hours(3)} if action == "Bypass" else {}),
        **({"review": REVIEW} if action == "Review" else {}),
    }
    body = {"change": change, "changeUid": uid, "revision": REVISION, "type": "normal", "action": action}
    return {
        "apiVersion": "serin.dev/v1alpha1",
        "kind": "ChangeDecision",
        "metadata": {"generateName": f"{change.lower()}-{action.lower()}-"},
        "spec": {**body, **more, **spec},
    }


def in_hours(hours: float) -> str:
    return f"{datetime.now(UTC) + timedelta(hours=hours):%Y-%m-%dT%H:%M:%SZ}"
