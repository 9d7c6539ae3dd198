"""Routes are split and put back word for word, whatever their rules are."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.model import RouteOriginal, ServicePair
from controller.traffic import gateway

HOME = "demo"
PAIRS = (ServicePair("shop", "shop-canary", (80,)), ServicePair("shop-admin", "shop-admin-canary", (81,)))

Json = dict[str, Any]

foreign = st.sampled_from(["cart", "search"])
backend = st.fixed_dictionaries(
    {"name": st.sampled_from(["shop", "shop-admin"]) | foreign, "port": st.sampled_from([80, 81])},
    optional={
        "weight": st.integers(0, 10_000),
        "kind": st.just("Service"),
        "group": st.just(""),
        "namespace": st.sampled_from([HOME, "elsewhere"]),
        "filters": st.just([{"type": "RequestHeaderModifier"}]),
    },
)
rule = st.fixed_dictionaries(
    {"backendRefs": st.lists(backend, min_size=1, max_size=3)},
    optional={"matches": st.just([{"path": {"value": "/x"}}]), "filters": st.just([{"type": "URLRewrite"}])},
) | st.just({"filters": [{"type": "RequestRedirect"}]})
rules = st.lists(rule, min_size=1, max_size=4)


def route(rules: list[Any], namespace: str = HOME, **more: Any) -> Json:
    meta = {"name": "shop", "namespace": namespace, "generation": 3}
    return {"kind": "HTTPRoute", "metadata": meta, "spec": {"rules": rules}, **more}


def original(found: Json, known: RouteOriginal | None = None) -> RouteOriginal:
    return gateway.original(found, HOME, PAIRS, known)


def split(found: Json, wanted: RouteOriginal, percent: int) -> Json:
    return route(gateway.rules_with(found, HOME, PAIRS, wanted, percent))


@given(rules, st.lists(st.integers(0, 100), min_size=1, max_size=4))
def test_any_way_there_leads_back_word_for_word(given_rules: list[Any], ways: list[int]) -> None:
    start = route(copy.deepcopy(given_rules))
    wanted, now = original(start), start
    for percent in ways:
        now = split(now, original(now, wanted), percent)
    back = route(gateway.rules_as_written(now, original(now, wanted)))
    assert back["spec"]["rules"] == given_rules
    assert gateway.intact(back, wanted)


@given(rules, st.integers(1, 100))
def test_what_is_written_is_what_is_read(given_rules: list[Any], percent: int) -> None:
    start = route(given_rules)
    wanted = original(start)
    written = split(start, wanted, percent)
    named = gateway.names_service(start, HOME, ["shop", "shop-admin"])
    if named and any(ref.get("weight", 1) for r in given_rules for ref in r.get("backendRefs", [])):
        shares = {gateway.weight(written, HOME, PAIRS, wanted)}
        assert shares <= {percent, None} or all_zero(given_rules)
    else:
        assert gateway.weight(written, HOME, PAIRS, wanted) in (0, None, percent)


def all_zero(given_rules: list[Any]) -> bool:
    """A rule whose shares are all 0 looks alike at every percentage."""
    return any(
        len(r.get("backendRefs", [])) > 1 and any(ref.get("weight", 1) == 0 for ref in r["backendRefs"])
        for r in given_rules
    )


@given(st.integers(0, 100))
def test_weights_of_a_service_that_stands_alone_sum_to_100(percent: int) -> None:
    start = route([{"backendRefs": [{"name": "shop", "port": 80, "weight": 7}]}])
    (only,) = split(start, original(start), percent)["spec"]["rules"]
    assert [(ref["name"], ref["weight"]) for ref in only["backendRefs"]] == [
        ("shop", 100 - percent),
        ("shop-canary", percent),
    ]


@given(st.integers(0, 100), st.integers(0, 500), st.integers(0, 500))
def test_a_foreign_backend_keeps_its_share(percent: int, ours: int, theirs: int) -> None:
    refs = [{"name": "shop", "port": 80, "weight": ours}, {"name": "cart", "port": 80, "weight": theirs}]
    start = route([{"backendRefs": refs}])
    (only,) = split(start, original(start), percent)["spec"]["rules"]
    weights = {ref["name"]: ref["weight"] for ref in only["backendRefs"]}
    assert weights["cart"] * (ours or 1) == theirs * ((weights["shop"] + weights["shop-canary"]) if ours else 100)


def test_filters_matches_and_ports_are_kept() -> None:
    ref = {"name": "shop", "port": 81, "filters": [{"type": "RequestMirror"}]}
    start = route([{"matches": [{"method": "GET"}], "filters": [{"type": "URLRewrite"}], "backendRefs": [ref]}])
    (only,) = split(start, original(start), 50)["spec"]["rules"]
    assert (only["matches"], only["filters"]) == ([{"method": "GET"}], [{"type": "URLRewrite"}])
    assert [(r["port"], r["filters"]) for r in only["backendRefs"]] == [(81, ref["filters"])] * 2


def test_the_canary_may_be_named_without_weight() -> None:
    start = route([{"backendRefs": [{"name": "shop", "port": 80}]}])
    wanted = original(start)
    named = split(start, wanted, 0)
    assert gateway.weight(named, HOME, PAIRS, wanted) == gateway.weight(start, HOME, PAIRS, wanted) == 0
    assert (gateway.intact(start, wanted), gateway.intact(named, wanted)) == (True, False)


def test_a_rule_that_its_owner_adds_under_way_is_split_too_and_stays() -> None:
    start = route([{"backendRefs": [{"name": "shop", "port": 80}]}])
    wanted = original(start)
    edited = split(start, wanted, 10)
    added = {"matches": [{"path": {"value": "/new"}}], "backendRefs": [{"name": "shop", "port": 80, "weight": 3}]}
    edited["spec"]["rules"].insert(0, added)
    newer = original(edited, wanted)
    assert gateway.weight(edited, HOME, PAIRS, newer) is None
    after = split(edited, newer, 10)
    assert gateway.weight(after, HOME, PAIRS, newer) == 10
    back = gateway.rules_as_written(after, newer)
    assert back == [added, start["spec"]["rules"][0]]


def test_weights_of_someone_else_are_no_share() -> None:
    start = route([{"backendRefs": [{"name": "shop", "port": 80}]}])
    wanted = original(start)
    odd = split(start, wanted, 10)
    odd["spec"]["rules"][0]["backendRefs"][0]["weight"] = 77
    assert gateway.weight(odd, HOME, PAIRS, wanted) is None


@pytest.mark.parametrize(
    ("conditions", "accepted"),
    [
        ([("Accepted", "True", 3), ("ResolvedRefs", "True", 3)], True),
        ([("Accepted", "True", 3)], True),
        ([("Accepted", "True", 2), ("ResolvedRefs", "True", 2)], False),
        ([("Accepted", "True", 3), ("ResolvedRefs", "False", 3)], False),
        ([("Accepted", "False", 3)], False),
        ([], False),
    ],
)
def test_accepted_means_this_generation_by_every_parent(conditions: list[tuple[str, str, int]], accepted: bool) -> None:
    parent = {"conditions": [{"type": t, "status": s, "observedGeneration": g} for t, s, g in conditions]}
    good = {"conditions": [{"type": "Accepted", "status": "True", "observedGeneration": 3}]}
    assert gateway.accepted(route([], status={"parents": [good, parent]})) is accepted
    assert not gateway.accepted(route([]))


def test_a_route_of_another_namespace_needs_a_grant_for_both_services() -> None:
    far = route([], namespace="edge")
    pairs = PAIRS[:1]

    def grant(**to: str) -> Json:
        source = {"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "edge"}
        return {"spec": {"from": [source], "to": [{"group": "", "kind": "Service", **to}]}}

    assert gateway.grant_problem(route([]), HOME, pairs, []) == ""
    assert "shop, shop-canary" in gateway.grant_problem(far, HOME, pairs, [])
    assert "name Service shop-canary" in gateway.grant_problem(far, HOME, pairs, [grant(name="shop")])
    assert gateway.grant_problem(far, HOME, pairs, [grant()]) == ""
    assert gateway.grant_problem(far, HOME, pairs, [grant(name="shop"), grant(name="shop-canary")]) == ""
