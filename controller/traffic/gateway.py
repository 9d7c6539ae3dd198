"""Gateway API routes: which of them lead to a workload, what share the canary has, and the rules that give it another.

Pure functions over HTTPRoutes and GRPCRoutes as the API server returns them. A route is output: the share read here
says whether it is as it should be, never how far a change has come.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from controller.core.model import RouteOriginal, ServicePair

Json = Any
TOTAL = 100
"""Weights of a rule that names the stable Service alone sum to this."""


def names_service(route: Json, namespace: str, services: Iterable[str]) -> bool:
    """Whether any rule sends requests to one of these Services of `namespace`."""
    wanted = set(services)
    return any(
        _service_of(route, ref, namespace) in wanted for rule in _rules(route) for ref in rule.get("backendRefs") or []
    )


def services_named(route: Json, namespace: str) -> set[str]:
    """The Services of `namespace` that the route names."""
    refs = (ref for rule in _rules(route) for ref in rule.get("backendRefs") or [])
    return {name for ref in refs if (name := _service_of(route, ref, namespace))}


def is_mesh(route: Json) -> bool:
    """Whether a parent is a Service: then callers of the ClusterIP are split too."""
    return any(ref.get("kind") == "Service" for ref in route["spec"].get("parentRefs") or [])


def original(route: Json, namespace: str, pairs: Sequence[ServicePair], known: RouteOriginal | None) -> RouteOriginal:
    """The backendRefs of every rule as the user wants them.

    A rule that does not name the canary is as the user wrote it, whenever that was; one that does is looked up in
    `known`, and where that has nothing (a rule that someone moved) the canary's part is given back to stable.
    """
    rules = []
    for i, rule in enumerate(_rules(route)):
        refs = rule.get("backendRefs") or []
        if not _has_canary(route, refs, namespace, pairs):
            rules.append(refs)
            continue
        plain = _without_canary(route, refs, namespace, pairs)
        candidates = [known.rules[i]] if known and i < len(known.rules) else []
        candidates += known.rules if known else ()
        rules.append(next((old for old in candidates if _same_but_weights(old, plain)), plain))
    meta = route["metadata"]
    return RouteOriginal(route["kind"], meta["namespace"], meta["name"], tuple(rules))


def weight(route: Json, namespace: str, pairs: Sequence[ServicePair], wanted: RouteOriginal) -> int | None:
    """Percent of the stable Service's share that the canary has, the same in every rule; None when they differ."""
    if intact(route, wanted):
        return 0
    rules = [refs for rule in _rules(route) if (refs := rule.get("backendRefs") or [])]
    originals = [refs for refs in wanted.rules if refs]
    shares = [
        next((p for p in range(TOTAL + 1) if refs == _split(route, plain, namespace, pairs, p)), None)
        for refs, plain in zip(rules, originals, strict=True)
        if any(_pair_of(route, ref, namespace, pairs) for ref in plain)
    ]
    return shares[0] if shares and len(set(shares)) == 1 else None


def intact(route: Json, wanted: RouteOriginal) -> bool:
    """Whether every rule's backendRefs are the user's, word for word."""
    return [rule.get("backendRefs") or [] for rule in _rules(route)] == list(wanted.rules)


def rules_with(
    route: Json, namespace: str, pairs: Sequence[ServicePair], wanted: RouteOriginal, percent: int
) -> list[Json]:
    """All rules of the route with `percent` of each stable Service's share for its canary, which is named at 0 too."""
    return [
        {**rule, "backendRefs": _split(route, plain, namespace, pairs, percent)} if rule.get("backendRefs") else rule
        for rule, plain in zip(_rules(route), wanted.rules, strict=True)
    ]


def rules_as_written(route: Json, wanted: RouteOriginal) -> list[Json]:
    """All rules of the route with the user's backendRefs."""
    return [
        {**rule, "backendRefs": plain} if plain else rule
        for rule, plain in zip(_rules(route), wanted.rules, strict=True)
    ]


def accepted(route: Json) -> bool:
    """Whether every parent that reports at all has accepted the newest generation and resolved its references.

    False while no parent reports: nothing is known to carry the traffic.
    """
    generation = route["metadata"].get("generation", 0)
    parents = (route.get("status") or {}).get("parents") or []
    return bool(parents) and all(
        _holds(parent, kind, generation) for parent in parents for kind in ("Accepted", "ResolvedRefs")
    )


def _holds(parent: Json, kind: str, generation: int) -> bool:
    condition = next((c for c in parent.get("conditions") or [] if c["type"] == kind), None)
    if condition is None:
        return kind != "Accepted"
    return condition["status"] == "True" and int(condition.get("observedGeneration") or 0) >= generation


def grant_problem(route: Json, namespace: str, pairs: Sequence[ServicePair], grants: Iterable[Json]) -> str:
    """Why a route of another namespace may not name the canary's Service; empty when it may."""
    home = route["metadata"]["namespace"]
    if home == namespace:
        return ""
    allowed: set[str] = set()
    for grant in grants:
        sources = grant["spec"].get("from") or []
        if any(s.get("kind") == route["kind"] and s.get("namespace") == home for s in sources):
            allowed |= {t.get("name") or "*" for t in grant["spec"].get("to") or [] if t.get("kind") == "Service"}
    missing = [name for pair in pairs for name in (pair.stable, pair.canary) if not {"*", name} & allowed]
    if not missing:
        return ""
    return (
        f"no ReferenceGrant in {namespace} lets {route['kind']}s of {home} name Service {', '.join(missing)}: add one"
    )


def _rules(route: Json) -> list[Json]:
    return route["spec"].get("rules") or []


def _service_of(route: Json, ref: Mapping[str, Json], namespace: str) -> str:
    if ref.get("kind", "Service") != "Service" or ref.get("group", ""):
        return ""
    home = ref.get("namespace") or route["metadata"]["namespace"]
    return str(ref["name"]) if home == namespace else ""


def _pair_of(route: Json, ref: Json, namespace: str, pairs: Sequence[ServicePair]) -> ServicePair | None:
    name = _service_of(route, ref, namespace)
    return next((pair for pair in pairs if pair.stable == name), None)


def _has_canary(route: Json, refs: Sequence[Json], namespace: str, pairs: Sequence[ServicePair]) -> bool:
    canaries = {pair.canary for pair in pairs}
    return any(_service_of(route, ref, namespace) in canaries for ref in refs)


def _without_canary(route: Json, refs: Sequence[Json], namespace: str, pairs: Sequence[ServicePair]) -> list[Json]:
    canaries = {pair.canary for pair in pairs}
    kept = [ref for ref in refs if _service_of(route, ref, namespace) not in canaries]
    split = {id(ref) for ref in kept if _pair_of(route, ref, namespace, pairs)}
    return [{**ref, "weight": 1} if id(ref) in split and len(kept) == 1 else ref for ref in kept]


def _same_but_weights(left: Sequence[Json], right: Sequence[Json]) -> bool:
    def plain(refs: Sequence[Json]) -> list[Json]:
        return [{key: value for key, value in ref.items() if key != "weight"} for ref in refs]

    return plain(left) == plain(right)


def _split(route: Json, refs: Sequence[Json], namespace: str, pairs: Sequence[ServicePair], percent: int) -> list[Json]:
    """`refs` with each stable Service's share divided between it and its canary."""
    if not any(_pair_of(route, ref, namespace, pairs) for ref in refs):
        return list(refs)
    alone = len(refs) == 1
    divided: list[Json] = []
    for ref in refs:
        pair = _pair_of(route, ref, namespace, pairs)
        share = 1 if alone else int(ref.get("weight", 1))
        if pair is None:
            divided.append({**ref, "weight": share * TOTAL})
        else:
            divided.append({**ref, "weight": share * (TOTAL - percent)})
            divided.append({**ref, "name": pair.canary, "weight": share * percent})
    return divided
