"""HTTPRoutes as people write them: shares add up, what is theirs stays, and all of it can be put back."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from controller.core.model import ServicePair
from controller.traffic import gateway
from tests.fuzz.junk import FUZZ, Json, spoilt, values

PAIRS = (ServicePair("shop", "shop-canary", (80,)), ServicePair("shop-admin", "shop-admin-canary", (81,)))
CANARIES = {pair.canary for pair in PAIRS}

filters = st.lists(st.fixed_dictionaries({"type": st.just("ExtensionRef"), "x": values}), max_size=2)
refs = st.fixed_dictionaries(
    {"name": st.sampled_from(["shop", "shop", "shop-admin", "other"])},
    optional={
        "port": st.integers(1, 65535),
        "weight": st.integers(0, 1_000_000),
        "kind": st.just("Service"),
        "group": st.just(""),
        "namespace": st.sampled_from(["demo", "far"]),
        "filters": filters,
    },
)
rules = st.fixed_dictionaries(
    {},
    optional={
        "name": st.text(max_size=5),
        "matches": st.just([{"path": {"type": "PathPrefix", "value": "/"}}]),
        "filters": filters,
        "timeouts": st.just({"request": "5s"}),
        "backendRefs": st.lists(refs, max_size=4),
    },
)
routes = st.builds(
    lambda each: {
        "kind": "HTTPRoute",
        "metadata": {"name": "shop", "namespace": "demo", "generation": 1},
        "spec": {"parentRefs": [{"name": "gate"}], "rules": each},
    },
    st.lists(rules, max_size=4),
)


def with_rules(route: Json, each: list[Json]) -> Json:
    return {**route, "spec": {**route["spec"], "rules": each}}


def theirs(rule: Json) -> dict[str, Any]:
    return {key: value for key, value in rule.items() if key != "backendRefs"}


def share(rule: Json, *, of: set[str]) -> int:
    return sum(int(ref.get("weight", 1)) for ref in rule.get("backendRefs") or [] if ref["name"] in of)


@FUZZ
@given(routes, st.integers(0, 100))
def test_every_rule_is_split_and_what_is_theirs_stays(route: Json, percent: int) -> None:
    wanted = gateway.original(route, "demo", PAIRS, None)
    split = gateway.rules_with(route, "demo", PAIRS, wanted, percent)
    for old, new in zip(route["spec"]["rules"], split, strict=True):
        assert theirs(new) == theirs(old)
        before, after = old.get("backendRefs") or [], new.get("backendRefs") or []
        mine = [r for r in before if r["name"] in ("shop", "shop-admin") and r.get("namespace", "demo") == "demo"]
        made = [ref for ref in after if ref["name"] in CANARIES]
        assert len(made) == len(mine)
        for stable, canary in zip(mine, made, strict=True):
            kept = {key: value for key, value in canary.items() if key not in ("name", "weight")}
            assert kept == {key: value for key, value in stable.items() if key not in ("name", "weight")}
        if mine:
            total = sum(int(ref.get("weight", 1)) for ref in before) if len(before) > 1 else 1
            assert share(new, of={ref["name"] for ref in after}) == 100 * total
            own = sum(int(ref.get("weight", 1)) for ref in mine) if len(before) > 1 else 1
            assert share(new, of=CANARIES) == own * percent


@FUZZ
@given(routes, st.lists(st.integers(0, 100), min_size=1, max_size=3))
def test_what_was_split_is_put_back_word_for_word(route: Json, percents: list[int]) -> None:
    wanted = gateway.original(route, "demo", PAIRS, None)
    now = route
    for percent in percents:
        now = with_rules(now, gateway.rules_with(now, "demo", PAIRS, wanted, percent))
        assert gateway.original(now, "demo", PAIRS, wanted) == wanted
    assert gateway.rules_as_written(now, wanted) == route["spec"]["rules"]


ROUTE = {
    "kind": "HTTPRoute",
    "metadata": {"name": "shop", "namespace": "demo", "generation": 2},
    "spec": {
        "parentRefs": [{"name": "gate"}],
        "hostnames": ["shop.test"],
        "rules": [
            {
                "filters": [{"type": "X"}],
                "backendRefs": [{"name": "shop", "port": 80, "weight": 90}, {"name": "other"}],
            },
            {"backendRefs": [{"name": "shop", "port": 80}, {"name": "shop-canary", "port": 80, "weight": 0}]},
        ],
    },
    "status": {
        "parents": [
            {
                "parentRef": {"name": "gate"},
                "conditions": [
                    {"type": "Accepted", "status": "True", "observedGeneration": 2},
                    {"type": "ResolvedRefs", "status": "True", "observedGeneration": 2},
                ],
            }
        ]
    },
}


@FUZZ
@given(spoilt({"parents": ROUTE["status"]["parents"]}))  # type: ignore[index]
def test_an_odd_status_is_never_taken_for_accepted_by_mistake(odd: Json) -> None:
    """Each gateway writes its own; the schema of the kind has checked the types."""
    route = {**ROUTE, "status": odd}
    try:
        found = gateway.accepted(route)
    except (ValueError, LookupError, TypeError, AttributeError):
        return
    assert isinstance(found, bool)
