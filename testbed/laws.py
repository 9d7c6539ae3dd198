"""What must hold at every instant (DESIGN §6), looked for in all that a cluster went through. Pure.

The history has every version of every object, in the cluster's own order: the laws are about what was there at one
time, not about what a process believed.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import ceil
from typing import Any

from testbed.history import Version

Json = dict[str, Any]
RUN, CHANGE = "serin.dev/run", "serin.dev/change"
COMPARED = ("errors-vs-stable", "latency-vs-stable")
ACTIVE = ("Progressing", "Promoting", "RollingBack")
TERMINAL = ("Completed", "RolledBack", "Superseded", "Denied")
FOLLOWS = {
    "": ("Waiting", *ACTIVE, "Superseded", "Denied"),
    "Waiting": ("Progressing", "Promoting", "RollingBack", "Superseded", "Denied"),
    "Progressing": ("Promoting", "RollingBack"),
    "Promoting": ("Completed", "RollingBack"),
    "RollingBack": ("RolledBack", "Superseded", "Denied"),
}


class World:
    """The objects as they are after some part of a history."""

    def __init__(self) -> None:
        self._objects: dict[tuple[str, str, str], Json] = {}
        self._asked: dict[tuple[str, str, str], Json] = {}

    def put(self, version: Version) -> None:
        key = (version.kind, version.namespace, version.name)
        if version.kind == "Deployment" and (label := _labels(version.object).get(CHANGE)):
            self._asked[version.namespace, version.name, label.lower()] = version.object
        if version.deleted:
            self._objects.pop(key, None)
        else:
            self._objects[key] = version.object

    def get(self, kind: str, namespace: str, name: str) -> Json | None:
        return self._objects.get((kind, namespace, name))

    def all(self, kind: str, namespace: str) -> list[Json]:
        return [o for (k, n, _), o in self._objects.items() if (k, n) == (kind, namespace)]

    def ready(self, namespace: str, service: str) -> int:
        """Ready endpoints of a Service."""
        slices = [
            s
            for s in self.all("EndpointSlice", namespace)
            if s["metadata"].get("labels", {}).get("kubernetes.io/service-name") == service
        ]
        found = [e for s in slices for e in s.get("endpoints") or [] if e.get("conditions", {}).get("ready")]
        return len({address for e in found for address in e["addresses"]})

    def asked(self, namespace: str, deployment: str, change: str) -> Json | None:
        """The Deployment as it last was under that change: a newer one may have come between."""
        return self._asked.get((namespace, deployment, change))

    def change_of(self, namespace: str, deployment: str) -> Json | None:
        """The change of a Deployment that is under way."""
        active = (c for c in self.all("ChangeRequest", namespace) if _phase(c) in ACTIVE)
        return next((c for c in active if _target(c, deployment)), None)


Law = Callable[[World, Version, Json | None], Iterator[str]]


def broken(history: Sequence[Version]) -> list[str]:
    """Every breach, as a sentence with the revision at which it was there."""
    world, found = World(), []
    for version in history:
        before = world.get(version.kind, version.namespace, version.name)
        world.put(version)
        for law in LAWS.get(version.kind, ()):
            where = f"{version.revision} {version.namespace} {law.__name__}"
            found += [f"{where}: {breach}" for breach in law(world, version, before)]
    return found


# --- The route: who gets the traffic ---


def _shares(route: Json | None) -> list[tuple[str, int, int]]:
    """Of each rule that names a canary: its stable Service, the weight of that one, and of the canary."""
    found = []
    for rule in (route or {}).get("spec", {}).get("rules") or []:
        weights = {ref["name"]: ref.get("weight", 1) for ref in rule.get("backendRefs") or []}
        for name, weight in weights.items():
            if name.endswith("-canary"):
                stable = name.removesuffix("-canary")
                found.append((stable, weights.get(stable, -1), weight))
    return found


def weights_sum_to_100(world: World, route: Version, before: Json | None) -> Iterator[str]:
    """I1"""
    for stable, rest, weight in _shares(None if route.deleted else route.object):
        if rest + weight != 100 or rest < 0:
            yield f"{stable} {rest}, its canary {weight}"


def who_has_traffic_can_answer(world: World, version: Version, before: Json | None) -> Iterator[str]:
    """I2, I5, I15: at no instant has a Service weight that has no ready pod."""
    for route in world.all("HTTPRoute", version.namespace):
        for stable, rest, weight in _shares(route):
            if weight and not world.ready(version.namespace, f"{stable}-canary"):
                yield f"{weight} % for the canary of {stable}, which has no ready pod"
            if rest and not world.ready(version.namespace, stable):
                yield f"{rest} % for {stable}, which has no ready pod"


def more_for_the_canary_only_as_committed(world: World, route: Version, before: Json | None) -> Iterator[str]:
    """I2, I4, I7: capacity, then traffic; and no more of it than the status of a started change says."""
    had = {stable: weight for stable, _, weight in _shares(before)}
    for stable, _, weight in _shares(None if route.deleted else route.object):
        if weight <= had.get(stable, 0):
            continue
        change = world.change_of(route.namespace, stable)
        if change is None:
            yield f"{weight} % for the canary of {stable}, and no change of it is under way"
            continue
        status, target = change["status"], _target(change, stable)
        if weight > status.get("weight", 0):
            yield f"{weight} % for the canary of {stable}, but its change is at {status.get('weight')} %"
        needed = max(1, ceil(target.get("replicas", 0) * weight / 100))
        ready = world.ready(route.namespace, f"{stable}-canary")
        if ready < needed and not status.get("promoted"):
            yield f"{weight} % for {ready} ready canary pods of {stable}: {needed} are needed"


def less_for_the_canary_only_where_stable_can_take_it(
    world: World, route: Version, before: Json | None
) -> Iterator[str]:
    """I3, I4: no traffic returns beyond the ready pods behind the user's Service."""
    now = {stable: weight for stable, _, weight in _shares(None if route.deleted else route.object)}
    for stable, _, weight in _shares(before):
        if now.get(stable, 0) < weight:
            deployment = world.get("Deployment", route.namespace, stable)
            if deployment is None or route.deleted:
                continue
            replicas = deployment["spec"].get("replicas", 1)
            least = replicas - _unavailable_max(deployment, replicas)
            if (ready := world.ready(route.namespace, stable)) < max(1, least):
                yield f"{weight} % return to {stable}, of which {ready} of {replicas} are ready"


# --- Deployments and ReplicaSets: what runs ---


def _labels(found: Json) -> Json:
    return dict(found["metadata"].get("labels") or {})


def _held(deployment: Json) -> str:
    return str((deployment["metadata"].get("annotations") or {}).get("serin.dev/held", ""))


def held_is_paused(world: World, version: Version, before: Json | None) -> Iterator[str]:
    """I15: what waits, runs as a canary, or was rejected is not rolled out."""
    d = version.object
    managed = not version.deleted and CHANGE in _labels(d) and RUN not in _labels(d)
    if managed and _held(d) in ("true", "running", "returning", "rejected") and not d["spec"].get("paused"):
        yield f"{version.name} is {_held(d)} and not paused"


def promoted_as_committed(world: World, version: Version, before: Json | None) -> Iterator[str]:
    """I2, I15: the Deployment is un-paused for its new template only when the status says so already."""
    if version.deleted or _held(version.object) != "promoting" or (before and _held(before) == "promoting"):
        return
    change = world.change_of(version.namespace, version.name)
    if change is None or not change["status"].get("promoted"):
        yield f"{version.name} is promoted, and no status says so"


def stable_keeps_its_size(world: World, version: Version, before: Json | None) -> Iterator[str]:
    """I3"""
    change = world.change_of(version.namespace, version.name)
    if change and not version.deleted and not change["status"].get("promoted"):
        wanted, has = _target(change, version.name).get("replicas", 0), version.object["spec"].get("replicas", 1)
        if has < wanted:
            yield f"{version.name} is scaled to {has} of {wanted} while its canary runs"


def the_canary_is_the_approved_one(world: World, version: Version, before: Json | None) -> Iterator[str]:
    """I2, I6: it is of the change under way, made after its start, and runs what the Deployment asked for under it."""
    if RUN not in _labels(version.object) or version.deleted or before is not None:
        return
    name, run = version.name.removesuffix("-canary"), _labels(version.object)[RUN]
    change, user = world.change_of(version.namespace, name), world.asked(version.namespace, name, run)
    if change is None or change["metadata"]["name"] != run:
        yield f"{version.name} of {run} is made, and its change is not under way"
    elif user is None or _containers(user) != _containers(version.object):
        yield f"{version.name} of {run} runs something else than {name} asked for under it"


def nothing_of_ours_goes_while_it_is_named(world: World, version: Version, before: Json | None) -> Iterator[str]:
    """I4: lowering is traffic, drain, then capacity."""
    if RUN not in _labels(version.object):
        return
    shares = [share for route in world.all("HTTPRoute", version.namespace) for share in _shares(route)]
    weight = max((w for stable, _, w in shares if f"{stable}-canary" == version.name), default=None)
    if version.deleted and weight is not None:
        yield f"{version.kind} {version.name} is deleted while a route names it with {weight} %"
    if version.kind == "Deployment" and weight and before and _size(version.object) < _size(before):
        yield f"{version.name} is made smaller while it has {weight} %"


def no_pods_before_the_promotion(world: World, version: Version, before: Json | None) -> Iterator[str]:
    """I15: the user's Deployment has pods of a new template only when a change was promoted."""
    deployment = _owner(version.object, "Deployment")
    d = world.get("Deployment", version.namespace, deployment)
    if version.deleted or d is None or RUN in _labels(d) or CHANGE not in _labels(d):
        return
    if not version.object["spec"].get("replicas") or (before and before["spec"].get("replicas")):
        return
    change = world.change_of(version.namespace, deployment)
    if change is None:
        yield f"{version.name} gets pods, and no change of {deployment} is under way"
    elif not change["status"].get("promoted") and version.name != _target(change, deployment).get("stableReplicaSet"):
        yield f"{version.name} gets pods before {change['metadata']['name']} is promoted"


def stable_is_never_taken_away(world: World, version: Version, before: Json | None) -> Iterator[str]:
    """I5: its ReplicaSet stays while the change may go back; the rejected one goes only from a paused Deployment."""
    deployment = _owner(version.object, "Deployment")
    change = world.change_of(version.namespace, deployment)
    d = world.get("Deployment", version.namespace, deployment)
    if not version.deleted or change is None or d is None:
        return
    stable = _target(change, deployment).get("stableReplicaSet", "")
    if version.name == stable:
        yield f"{version.name} is deleted, and it is the stable one"
    if version.object["spec"].get("replicas"):
        kept = world.get("ReplicaSet", version.namespace, stable)
        if not d["spec"].get("paused") or not (kept and kept["spec"].get("replicas")):
            yield f"{version.name} is deleted with its pods, and stable cannot take their place"


# --- The status: what is remembered ---


def _phase(change: Json) -> str:
    return str(change.get("status", {}).get("phase", ""))


def _target(change: Json, deployment: str) -> Json:
    found = (t for t in change.get("status", {}).get("targets") or [] if t["name"] == deployment)
    return next(found, {})


def phases_follow_each_other(world: World, version: Version, before: Json | None) -> Iterator[str]:
    """I12: what has ended stays as it ended; and history only grows."""
    if version.deleted or before is None:
        return
    was, now = before.get("status") or {}, version.object.get("status") or {}
    if _phase(before) != _phase(version.object) and _phase(version.object) not in FOLLOWS.get(_phase(before), ()):
        yield f"{version.name} goes from {_phase(before)} to {_phase(version.object)}"
    told, tells = was.get("history") or [], now.get("history") or []
    if tells[: len(told)] != told:
        yield f"{version.name} forgets a part of its history"


def one_change_at_a_time(world: World, version: Version, before: Json | None) -> Iterator[str]:
    """I6"""
    active = [c for c in world.all("ChangeRequest", version.namespace) if _phase(c) in ACTIVE]
    names = [t["name"] for c in active for t in c["status"].get("targets") or []]
    if len(names) != len(set(names)):
        yield f"{', '.join(c['metadata']['name'] for c in active)} are under way at the same time"


def a_step_follows_its_verdict(world: World, version: Version, before: Json | None) -> Iterator[str]:
    """I7: every step up follows a PASS of each rule that is in the status that it was made of.

    The comparison with stable has no say until it has data, but for what speaks against the canary.
    """
    if version.deleted or before is None:
        return
    was, now = before.get("status") or {}, version.object.get("status") or {}
    up = now.get("step", 0) > was.get("step", 0) >= 1 or (now.get("promoted") and not was.get("promoted"))
    if not up or not was.get("step"):
        return
    told = was.get("evidence") or []
    against = [e for e in told if e["verdict"] != "PASS" and not _has_no_say(e)]
    if against or all(map(_has_no_say, told)):
        why = "; ".join(f"{e['verdict']} ({e.get('message')})" for e in against) or "no verdict"
        yield f"{version.name} leaves step {was['step']} with {why}"


def _has_no_say(evidence: Json) -> bool:
    return evidence.get("rule") in COMPARED and evidence["verdict"] == "INCONCLUSIVE" and not evidence.get("bad")


def the_record_is_one_chain(world: World, version: Version, before: Json | None) -> Iterator[str]:
    """I13, I14: each commit follows the one before it, and tells of each of its transitions once."""
    if version.deleted or before is None:
        return
    was, now = before.get("status") or {}, version.object.get("status") or {}
    head, audit = was.get("audit") or {}, now.get("audit") or {}
    new = [r for r in map(json.loads, audit.get("last") or []) if r["seq"] > head.get("seq", 0)]
    if audit.get("seq", 0) < head.get("seq", 0):
        yield f"{version.name} goes back to record {audit.get('seq', 0)}"
    elif new and new[0]["prev"] != head.get("hash", ""):
        yield f"record {new[0]['seq']} of {version.name} does not follow the one before it"
    told = sum(r["kind"] == "transition" for r in new)
    happened = len(now.get("history") or []) - len(was.get("history") or [])
    if told != happened:
        yield f"{version.name} has {happened} new transitions, and {told} records of them"


def what_ends_leaves_nothing(world: World, version: Version, before: Json | None) -> Iterator[str]:
    """I12"""
    ended = not version.deleted and _phase(version.object) in TERMINAL and before and _phase(before) not in TERMINAL
    return leftovers(world, version.namespace, version.name) if ended else iter(())


def leftovers(world: World, namespace: str, change: str) -> Iterator[str]:
    for kind in ("Deployment", "Service"):
        for found in world.all(kind, namespace):
            if _labels(found).get(RUN) == change:
                yield f"{kind} {found['metadata']['name']} of {change} is left behind"
    record = world.get("ChangeRequest", namespace, change) or {}
    for target in record.get("status", {}).get("targets") or []:
        for route in world.all("HTTPRoute", namespace):
            if any(stable == target["name"] for stable, _, _ in _shares(route)):
                yield f"{route['metadata']['name']} still names the canary of {target['name']}"


# --- Small things ---


def _owner(found: Json, kind: str) -> str:
    owners = found["metadata"].get("ownerReferences") or []
    return next((str(o["name"]) for o in owners if o["kind"] == kind), "")


def _size(deployment: Json) -> int:
    return int(deployment["spec"].get("replicas", 1))


def _containers(deployment: Json) -> Any:
    return deployment["spec"]["template"]["spec"]["containers"]


def _unavailable_max(deployment: Json, replicas: int) -> int:
    rolling = (deployment["spec"].get("strategy") or {}).get("rollingUpdate") or {}
    most = rolling.get("maxUnavailable", "25%")
    return replicas * int(most.removesuffix("%")) // 100 if isinstance(most, str) else int(most)


LAWS: Mapping[str, Iterable[Law]] = {
    "HTTPRoute": (
        weights_sum_to_100,
        who_has_traffic_can_answer,
        more_for_the_canary_only_as_committed,
        less_for_the_canary_only_where_stable_can_take_it,
    ),
    "EndpointSlice": (who_has_traffic_can_answer,),
    "Deployment": (
        held_is_paused,
        promoted_as_committed,
        stable_keeps_its_size,
        the_canary_is_the_approved_one,
        nothing_of_ours_goes_while_it_is_named,
    ),
    "Service": (nothing_of_ours_goes_while_it_is_named,),
    "ReplicaSet": (no_pods_before_the_promotion, stable_is_never_taken_away),
    "ChangeRequest": (
        phases_follow_each_other,
        one_change_at_a_time,
        a_step_follows_its_verdict,
        the_record_is_one_chain,
        what_ends_leaves_nothing,
    ),
}
