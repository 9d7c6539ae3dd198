"""The laws themselves: a lawful story breaks none, and each is broken by a story in which the thing happens."""

import copy
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from testbed.history import Version
from testbed.laws import LAWS, broken

Json = dict[str, Any]
NAMESPACE = "shop"


def named(name: str, **fields: Any) -> Json:
    return {"metadata": {"name": name, **fields}}


def deployment(held: str = "running", image: str = "v2", **spec: Any) -> Json:
    made = named("shop", labels={"serin.dev/change": "CHG-1"}, annotations={"serin.dev/held": held} if held else {})
    template = {"spec": {"containers": [{"name": "shop", "image": image}]}}
    made["spec"] = {
        "replicas": 4,
        "paused": held in ("true", "running", "returning", "rejected"),
        "template": template,
        **spec,
    }
    return made


def canary(replicas: int = 1, image: str = "v2") -> Json:
    made = named("shop-canary", labels={"serin.dev/run": "chg-1"})
    template = {"spec": {"containers": [{"name": "shop", "image": image}]}}
    return {**made, "spec": {"replicas": replicas, "template": template}}


def service() -> Json:
    return named("shop-canary", labels={"serin.dev/run": "chg-1"})


def route(weight: int | None) -> Json:
    refs: list[Json] = [{"name": "shop", "weight": 1}]
    if weight is not None:
        refs = [{"name": "shop", "weight": 100 - weight}, {"name": "shop-canary", "weight": weight}]
    return {**named("shop"), "spec": {"rules": [{"backendRefs": refs}]}}


def ready(name: str, count: int) -> Json:
    made = named(f"{name}-abc", labels={"kubernetes.io/service-name": name})
    return {**made, "endpoints": [{"addresses": [f"10.0.0.{i}"], "conditions": {"ready": True}} for i in range(count)]}


def replica_set(name: str, replicas: int) -> Json:
    made = named(f"shop-{name}", ownerReferences=[{"kind": "Deployment", "name": "shop"}])
    return {**made, "spec": {"replicas": replicas}}


def change(phase: str, step: int = 0, weight: int = 0, verdict: str = "PASS", **more: Any) -> Json:
    """With as many transitions as its step and phase need, and a record of each."""
    moves = [{"phase": "Progressing", "step": n} for n in range(1, step + 1)]
    moves += [{"phase": phase, "step": step}] if phase not in ("Waiting", "Progressing") else []
    lines = [{"seq": n, "prev": f"h{n - 1}" if n > 1 else "", "kind": "transition"} for n in range(1, len(moves) + 1)]
    audit = {"seq": len(lines), "hash": f"h{len(lines)}" if lines else "", "last": [json.dumps(x) for x in lines]}
    target = {"name": "shop", "replicas": 4, "stableReplicaSet": "shop-old"}
    status = {
        "phase": phase,
        "step": step,
        "weight": weight,
        "history": moves,
        "audit": audit,
        "targets": [target],
        "evidence": [{"verdict": verdict}] if step else [],
    }
    return {**named("chg-1"), "status": {**status, **more}}


def compared(bad: int) -> Json:
    """At its first step, with a PASS of the only rule, and a comparison with stable that has not come to an end."""
    found = change("Progressing", 1, 10)
    found["status"]["evidence"] += [{"rule": "errors-vs-stable", "verdict": "INCONCLUSIVE", "bad": bad}]
    return found


Event = tuple[str, Json]
KIND = {"shop-abc": "EndpointSlice", "shop-canary-abc": "EndpointSlice"}


def story(*events: tuple[str, Json] | tuple[str, Json, bool]) -> list[Version]:
    return [
        Version(revision, event[0], NAMESPACE, event[1]["metadata"]["name"], event[1], len(event) > 2)
        for revision, event in enumerate(events, 1)
    ]


CHANGE, DEPLOYMENT, ROUTE, SLICE = "ChangeRequest", "Deployment", "HTTPRoute", "EndpointSlice"
BEGUN: tuple[tuple[str, Json], ...] = (
    ("ReplicaSet", replica_set("old", 4)),
    (SLICE, ready("shop", 4)),
    (ROUTE, route(None)),
    (DEPLOYMENT, deployment("true")),
    (CHANGE, change("Waiting")),
    (CHANGE, change("Progressing", 1, 10)),
    (DEPLOYMENT, deployment("running")),
    ("Service", service()),
    (DEPLOYMENT, canary(1)),
    (SLICE, ready("shop-canary", 1)),
    (ROUTE, route(0)),
    (ROUTE, route(10)),
)
ROLLED_BACK: tuple[Any, ...] = (
    *BEGUN,
    (ROUTE, route(0)),
    (CHANGE, change("RollingBack", 1)),
    (ROUTE, route(None)),
    (DEPLOYMENT, canary(1), True),
    (SLICE, ready("shop-canary", 0)),
    ("Service", service(), True),
    (DEPLOYMENT, deployment("rejected")),
)
PROMOTED: tuple[Any, ...] = (
    *BEGUN,
    (CHANGE, change("Progressing", 2, 50)),
    (DEPLOYMENT, canary(4)),
    (SLICE, ready("shop-canary", 4)),
    (ROUTE, route(50)),
    (CHANGE, change("Progressing", 3, 100)),
    (ROUTE, route(100)),
    (CHANGE, change("Promoting", 3, 100, promoted=True)),
    (DEPLOYMENT, deployment("promoting")),
    ("ReplicaSet", replica_set("new", 4)),
)


def ended(phase: str) -> Json:
    made = change("RollingBack", 1)
    status = made["status"]
    status["phase"] = phase
    status["history"] = [*status["history"], {"phase": phase, "step": 1}]
    line = {"seq": 3, "prev": "h2", "kind": "transition"}
    status["audit"] = {"seq": 3, "hash": "h3", "last": [*status["audit"]["last"], json.dumps(line)]}
    return made


@pytest.mark.parametrize(
    "events", [BEGUN, (*ROLLED_BACK, (CHANGE, ended("RolledBack"))), PROMOTED], ids=["begun", "rolled back", "promoted"]
)
def test_a_lawful_story_breaks_no_law(events: Sequence[Any]) -> None:
    assert broken(story(*events)) == []


def uneven() -> Json:
    made = route(10)
    made["spec"]["rules"][0]["backendRefs"][0]["weight"] = 95
    return made


def told_twice() -> Json:
    made = copy.deepcopy(change("Progressing", 2, 50))
    made["status"]["audit"]["last"].append(json.dumps({"seq": 3, "prev": "h2", "kind": "transition"}))
    made["status"]["audit"] |= {"seq": 3, "hash": "h3"}
    return made


def forked() -> Json:
    made = copy.deepcopy(change("Progressing", 2, 50))
    made["status"]["audit"]["last"][1] = json.dumps({"seq": 2, "prev": "another", "kind": "transition"})
    return made


CRIMES: dict[str, tuple[str, Sequence[Any]]] = {
    "weights of 105": ("weights_sum_to_100", (*BEGUN, (ROUTE, uneven()))),
    "stable is gone under its 90 %": ("who_has_traffic_can_answer", (*BEGUN, (SLICE, ready("shop", 0)))),
    "the canary is gone under its 10 %": ("who_has_traffic_can_answer", (*BEGUN, (SLICE, ready("shop-canary", 0)))),
    "more weight than committed": ("more_for_the_canary_only_as_committed", (*BEGUN, (ROUTE, route(50)))),
    "weight before the start": (
        "more_for_the_canary_only_as_committed",
        ((SLICE, ready("shop", 4)), (SLICE, ready("shop-canary", 4)), (ROUTE, route(None)), (ROUTE, route(10))),
    ),
    "weight before capacity": (
        "more_for_the_canary_only_as_committed",
        (*BEGUN, (CHANGE, change("Progressing", 2, 50)), (ROUTE, route(50))),
    ),
    "traffic back to half of stable": (
        "less_for_the_canary_only_where_stable_can_take_it",
        (*BEGUN, (SLICE, ready("shop", 2)), (ROUTE, route(0))),
    ),
    "un-paused under way": ("held_is_paused", (*BEGUN, (DEPLOYMENT, deployment("running", paused=False)))),
    "promoted without a word": ("promoted_as_committed", (*BEGUN, (DEPLOYMENT, deployment("promoting")))),
    "stable is scaled down": ("stable_keeps_its_size", (*BEGUN, (DEPLOYMENT, deployment("running", replicas=2)))),
    "a canary of something else": (
        "the_canary_is_the_approved_one",
        (*BEGUN[:8], (DEPLOYMENT, canary(1, image="v3"))),
    ),
    "a canary before the start": ("the_canary_is_the_approved_one", (*BEGUN[:5], (DEPLOYMENT, canary(1)))),
    "a canary that is deleted under its traffic": (
        "nothing_of_ours_goes_while_it_is_named",
        (*BEGUN, (DEPLOYMENT, canary(1), True)),
    ),
    "its Service deleted under its traffic": (
        "nothing_of_ours_goes_while_it_is_named",
        (*BEGUN, ("Service", service(), True)),
    ),
    "a canary made smaller": ("nothing_of_ours_goes_while_it_is_named", (*BEGUN, (DEPLOYMENT, canary(0)))),
    "pods of the new template": ("no_pods_before_the_promotion", (*BEGUN, ("ReplicaSet", replica_set("new", 1)))),
    "stable's ReplicaSet deleted": (
        "stable_is_never_taken_away",
        (*PROMOTED, ("ReplicaSet", replica_set("old", 0), True)),
    ),
    "the rejected one deleted while it rolls": (
        "stable_is_never_taken_away",
        (*PROMOTED, ("ReplicaSet", replica_set("new", 4), True)),
    ),
    "an end that is none": (
        "phases_follow_each_other",
        (*ROLLED_BACK, (CHANGE, ended("RolledBack")), (CHANGE, change("Progressing", 1, 10))),
    ),
    "two at a time": (
        "one_change_at_a_time",
        (*BEGUN, (CHANGE, {**change("Progressing", 1, 10), "metadata": {"name": "chg-2"}})),
    ),
    "a step without a verdict": (
        "a_step_follows_its_verdict",
        (*BEGUN, (CHANGE, change("Progressing", 1, 10, "INCONCLUSIVE")), (CHANGE, change("Progressing", 2, 50))),
    ),
    "a step that the comparison speaks against": (
        "a_step_follows_its_verdict",
        (*BEGUN, (CHANGE, compared(bad=3)), (CHANGE, change("Progressing", 2, 50))),
    ),
    "a transition that is told twice": ("the_record_is_one_chain", (*BEGUN, (CHANGE, told_twice()))),
    "a record that follows another one": ("the_record_is_one_chain", (*BEGUN, (CHANGE, forked()))),
    "a canary that is left behind": (
        "what_ends_leaves_nothing",
        (*BEGUN, (ROUTE, route(None)), (CHANGE, change("RollingBack", 1)), (CHANGE, ended("RolledBack"))),
    ),
}


@pytest.mark.parametrize("name", CRIMES)
def test_each_law_is_broken_by_what_it_forbids(name: str) -> None:
    law, events = CRIMES[name]
    assert law in {breach.split()[2].rstrip(":") for breach in broken(story(*events))}


def test_a_comparison_without_anything_bad_stops_no_step() -> None:
    assert broken(story(*BEGUN, (CHANGE, compared(bad=0)), (CHANGE, change("Progressing", 2, 50)))) == []


def test_a_newer_template_may_come_right_before_the_canary_of_the_approved_one() -> None:
    """Nobody can write two objects at once; the canary is of its own change, and goes with it."""
    newer = deployment("true", image="v3")
    newer["metadata"]["labels"]["serin.dev/change"] = "CHG-2"
    assert broken(story(*BEGUN[:8], (DEPLOYMENT, newer), (DEPLOYMENT, canary(1)))) == []


def test_every_law_has_a_story_that_breaks_it() -> None:
    every: set[Callable[..., Any]] = {law for laws in LAWS.values() for law in laws}
    assert {law.__name__ for law in every} == {law for law, _ in CRIMES.values()}
