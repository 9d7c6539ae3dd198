"""Routes: every rule that leads to the workload is split and put back, and what others write there is theirs."""

import http.client
import json
from collections import Counter
from datetime import timedelta
from typing import Any

from testbed.control_plane import Manifest
from testbed.waiting import eventually
from tests.e2e.conftest import Played
from tests.e2e.scenes import Scene, begin

Rules = list[dict[str, Any]]
HALF = {"steps": [{"weight": 50, "bake": "6s"}, {"weight": 100, "bake": "3s"}]}


def requests(app: Played, count: int, host: str = "", **headers: str) -> Counter[str]:
    """The versions that answered `count` requests through the gateway; the HTTP status of those that failed."""
    address = app.bed.gateway_url.removeprefix("http://")
    seen: Counter[str] = Counter()
    for _ in range(count):
        connection = http.client.HTTPConnection(address, timeout=5)
        connection.request("GET", "/", headers={"Host": host or app.host, **headers})
        answer = connection.getresponse()
        answer.read()
        seen[answer.getheader("x-version", "") if answer.status == http.HTTPStatus.OK else str(answer.status)] += 1
        connection.close()
    return seen


def route_of(app: Played, rules: Rules, *, name: str = "shop", kind: str = "HTTPRoute", host: str = "") -> Manifest:
    made = app.route()
    made["kind"] = kind
    made["metadata"]["name"] = name
    made["spec"] |= {"hostnames": [host or app.host], "rules": rules}
    return made


def rules_of(app: Played, name: str = "shop", plural: str = "httproutes", namespace: str = "") -> Rules:
    where = namespace or app.namespace
    found = app.serin.api.get(f"/apis/gateway.networking.k8s.io/v1/namespaces/{where}/{plural}/{name}")
    assert found is not None
    return list(found["spec"]["rules"])


def weights(rule: dict[str, Any]) -> dict[str, int]:
    return {ref["name"]: ref.get("weight", 1) for ref in rule["backendRefs"]}


def test_every_rule_of_every_route_is_split_and_put_back_word_for_word(app: Played) -> None:
    begin(Scene(app.serin, app.namespace, "other", replicas=1, routed=False), version="other")
    header = {"headers": [{"name": "x-team", "value": "red"}]}
    filters = [{"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "x-seen", "value": "1"}]}}]
    app.apply(
        route_of(
            app,
            [
                {"matches": [header], "filters": filters, "backendRefs": [{"name": "shop", "port": 80, "weight": 7}]},
                {
                    "matches": [{"headers": [{"name": "x-team", "value": "blue"}]}],
                    "backendRefs": [{"name": "shop", "port": 80, "weight": 2}, {"name": "other", "port": 80}],
                },
                {"backendRefs": [{"name": "shop", "port": 80}]},
            ],
        ),
        route_of(app, [{"backendRefs": [{"name": "shop", "port": 80}]}], name="second", host=f"second.{app.host}"),
        route_of(app, [{"backendRefs": [{"name": "other", "port": 80}]}], name="foreign", host=f"foreign.{app.host}"),
        route_of(
            app,
            [
                {
                    "matches": [{"method": {"service": "shop.Cart", "method": "Add"}}],
                    "backendRefs": [{"name": "shop", "port": 80}],
                }
            ],
            name="grpc",
            kind="GRPCRoute",
            host=f"grpc.{app.host}",
        ),
    )
    names = (("shop", "httproutes"), ("second", "httproutes"), ("foreign", "httproutes"), ("grpc", "grpcroutes"))
    before = {name: rules_of(app, name, plural) for name, plural in names}
    with app.users(rps=20):
        change = app.start("v2", policy=HALF)
        eventually(lambda: weights(rules_of(app, "grpc", "grpcroutes")[0]) == {"shop": 50, "shop-canary": 50})
        app.wait(change, "Progressing", reason="Baking")
        during = {name: rules_of(app, name, plural) for name, plural in names}
        assert [weights(rule) for rule in during["shop"]] == [
            {"shop": 50, "shop-canary": 50},
            {"shop": 100, "shop-canary": 100, "other": 100},
            {"shop": 50, "shop-canary": 50},
        ]
        assert weights(during["second"][0]) == {"shop": 50, "shop-canary": 50}
        assert during["foreign"] == before["foreign"]
        for name, rules in during.items():
            for rule, old in zip(rules, before[name], strict=True):
                assert {k: v for k, v in rule.items() if k != "backendRefs"} == {
                    k: v for k, v in old.items() if k != "backendRefs"
                }
        red, blue = requests(app, 60, **{"x-team": "red"}), requests(app, 60, **{"x-team": "blue"})
        assert set(red) == {"v1", "v2"}
        assert min(red.values()) >= 12  # of 60 at one half: five standard deviations
        assert set(blue) == {"v1", "v2", "other"}
        status = app.wait(change, "Completed")
    assert {name: rules_of(app, name, plural) for name, plural in names} == before
    reason = status["targets"][0]["strategyReason"]
    assert all(f"/{app.namespace}/{name}" in reason for name in ("shop", "second", "grpc"))
    assert "foreign" not in reason


def test_a_route_of_another_namespace_needs_a_grant_and_is_left_alone_without(app: Played) -> None:
    front = f"{app.namespace}-front"
    app.bed.kubectl("create", "namespace", front)
    app.bed.kubectl("delete", "httproute", "shop", "-n", app.namespace)
    far = app.route()
    far["metadata"]["namespace"] = front
    far["spec"]["rules"] = [{"backendRefs": [{"name": "shop", "namespace": app.namespace, "port": 80}]}]
    app.apply(far)
    change = app.serin.change_id()
    app.change("v2", change)
    status = app.wait(change, "Waiting", reason="NoReferenceGrant")
    assert f"no ReferenceGrant in {app.namespace} lets HTTPRoutes of {front} name Service shop" in status["message"]
    for kind in ("ChangeRequest", "Deployment"):
        app.told(kind, "NoReferenceGrant")
    assert any(line.get("reason") == "NoReferenceGrant" for line in app.serin.lines(app.namespace, "decision"))
    assert [weights(rule) for rule in rules_of(app, namespace=front)] == [{"shop": 1}]
    assert app.pods("v2") == {}
    grant = {
        "apiVersion": "gateway.networking.k8s.io/v1beta1",
        "kind": "ReferenceGrant",
        "metadata": {"name": "front", "namespace": app.namespace},
        "spec": {
            "from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": front}],
            "to": [{"group": "", "kind": "Service"}],
        },
    }
    with app.users(rps=20) as users:
        with app.serin.policy({}):
            app.apply(grant)
            app.wait(change, "Progressing", within=timedelta(seconds=70))
        seen: set[tuple[tuple[str, int], ...]] = set()

        def completed() -> bool:
            seen.add(tuple(weights(rules_of(app, namespace=front)[0]).items()))
            return app.status(change).get("phase") == "Completed"

        eventually(
            completed,
            within=timedelta(seconds=60),
        )
        assert any(0 < dict(shares).get("shop-canary", 0) < 100 for shares in seen)
        assert users.stop().by_version["v2"] > 0
    assert [weights(rule) for rule in rules_of(app, namespace=front)] == [{"shop": 1}]


def test_what_a_user_edits_in_mid_run_is_split_too_and_stays(app: Played) -> None:
    with app.users(rps=20):
        change = app.start("v2", policy=HALF)
        eventually(lambda: "shop-canary" in app.weights())
        rule = {
            "matches": [{"path": {"type": "PathPrefix", "value": "/new"}}],
            "filters": [
                {"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": [{"name": "x", "value": "1"}]}}
            ],
            "backendRefs": [{"name": "shop", "port": 80}],
        }
        patch = [{"op": "add", "path": "/spec/rules/0", "value": rule}]
        app.bed.kubectl(
            "patch", "httproute", "shop", "-n", app.namespace, "--type=json", "-p", json.dumps(patch), user="admin"
        )
        halves = [{"shop": 50, "shop-canary": 50}] * 2
        eventually(lambda: [weights(r) for r in app.rules()] == halves)
        app.wait(change, "Completed")
    first, second = app.rules()
    assert first["matches"][0]["path"]["value"] == "/new"
    assert first["filters"] == rule["filters"]
    assert [weights(first), weights(second)] == [{"shop": 1}, {"shop": 1}]


def test_weights_that_git_resets_are_written_again(app: Played) -> None:
    with app.users(rps=20):
        change = app.start("v2", policy=HALF)
        eventually(lambda: app.weights().get("shop-canary") == 50)
        app.wait(change, "Progressing", reason="Baking")
        app.apply(app.route())
        eventually(lambda: app.weights().get("shop-canary") == 50)
        status = app.wait(change, "Completed")
    assert not any(t["reason"] == "Conflict" for t in status["history"])
    assert app.weights() == {"shop": 1}


def test_a_sync_that_resets_the_weights_again_and_again_ends_the_change(app: Played) -> None:
    with app.users(rps=20) as users:
        change = app.start("v2", policy=HALF)

        resets = []

        def reset_until_given_up() -> bool:
            if "shop-canary" in app.weights() and app.status(change).get("reason") == "Baking":
                resets.append(app.apply(app.route()))
            return app.status(change)["phase"] in ("RolledBack", "Completed")

        eventually(reset_until_given_up, within=timedelta(seconds=60))
        status = app.wait(change, "RolledBack")
        assert status["cause"] == "Conflict"
        assert not status.get("rejected")
        # Each reset takes the canary's cluster from Envoy at once: a request on its way there may be lost by it.
        assert users.stop().failed <= len(resets)
    assert app.weights() == {"shop": 1}
    assert app.leftovers() == []
    app.told("Deployment", "Conflict")
