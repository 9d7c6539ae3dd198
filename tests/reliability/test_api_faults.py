"""An API server, or something before it, that fails in the middle of a change: it ends as it would have, a bit later.

All of them are played side by side, each fault for one application alone.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta

import pytest
from aiohttp import web

from testbed.kills import NONE, SCENARIOS, Arena, Ended, Kills, Play
from testbed.laws import broken
from testbed.proxy import Act, Fault, Proxy, When, both, hang, lists, refuse, status, text, under, watches, writes

Inject = Callable[[Proxy, str], list[Fault]]


def reads(request: web.Request) -> bool:
    return request.method == "GET" and not watches(request)


def every_other(when: When) -> When:
    """Every second request that matches."""
    seen = [0]

    def strikes(request: web.Request) -> bool:
        seen[0] += when(request)
        return when(request) and seen[0] % 2 == 1

    return strikes


def on(act: Act | str, when: When, times: int = 10**9, skip: int = 0) -> Inject:
    """`act`: or the name of one that passes the request on first."""

    def inject(proxy: Proxy, namespace: str) -> list[Fault]:
        there = both(under(f"/namespaces/{namespace}/"), when)
        return [proxy.inject(getattr(proxy, act) if isinstance(act, str) else act, there, times, skip=skip)]

    return inject


def lagging(when: When, fresh: int, stale: int) -> Inject:
    """Answers of the past, after as many `fresh` ones."""

    def inject(proxy: Proxy, namespace: str) -> list[Fault]:
        there = both(under(f"/namespaces/{namespace}/"), when)
        return [proxy.inject(proxy.replayed(fresh, stale), there)]

    return inject


FORWARD, BACK = "complete", "rollback-at-50"
STATUS, ROUTES, DEPLOYMENTS = under("/changerequests/", "/status"), under("/httproutes/"), under("/deployments")
THROTTLED = status(429, "TooManyRequests", Retry_After="1")

FAULTS: Mapping[str, tuple[str, Inject]] = {
    "409 of the status": (FORWARD, on(status(409, "Conflict"), both(writes, STATUS), 6, 3)),
    "409 of the route": (FORWARD, on(status(409, "Conflict"), both(writes, ROUTES), 6)),
    "409 of the route, on the way back": (BACK, on(status(409, "Conflict"), both(writes, ROUTES), 4, 3)),
    "409 of the Deployment": (FORWARD, on(status(409, "Conflict"), both(writes, DEPLOYMENTS), 6)),
    "429 with Retry-After": (FORWARD, on(THROTTLED, writes, 4, 4)),
    "429 with Retry-After, on the way back": (BACK, on(THROTTLED, both(writes, ROUTES), 2, 3)),
    "500 of writes": (FORWARD, on(status(500, "InternalError"), every_other(writes), 30)),
    "500 of reads": (FORWARD, on(status(500, "InternalError"), every_other(reads), 200, 20)),
    "503 of a load balancer": (FORWARD, on(text(503), lambda request: True, 60, 60)),
    "503 of a load balancer, on the way back": (BACK, on(text(503), writes, 5, 18)),
    "a connection that is reset": (FORWARD, on(refuse, lambda request: True, 40, 60)),
    "a read that hangs": (FORWARD, on(hang, both(reads, under("/deployments/shop")), 2, 12)),
    "a write that hangs": (FORWARD, on(hang, both(writes, ROUTES), 1, 1)),
    "an answer that is cut off": (FORWARD, on("cut", every_other(reads), 200, 20)),
    "answers of writes that are lost": (FORWARD, on("lose_answer", every_other(writes))),
    "answers of writes that are lost, on the way back": (BACK, on("lose_answer", every_other(writes))),
    "lists of the past": (FORWARD, lagging(lists, 20, 3)),
    "objects of the past": (FORWARD, lagging(both(reads, under("/shop")), 30, 3)),
    "canaries of the past": (BACK, lagging(both(lists, DEPLOYMENTS), 6, 5)),
    "no right to write the route": (FORWARD, on(status(403, "Forbidden"), both(writes, ROUTES), 5, 2)),
}


@pytest.fixture(scope="module")
def ended(arena: Arena) -> dict[str, tuple[Play, Ended, list[Fault]]]:
    """All of them, over; with the faults that they met."""
    found: dict[str, tuple[Play, list[Fault]]] = {}

    def hurt(plays: Sequence[Play]) -> Kills:
        for (name, (_, inject)), play in zip(FAULTS.items(), plays, strict=True):
            found[name] = (play, inject(arena.proxy, play.namespace))
        return NONE

    done = arena.play([SCENARIOS[scenario] for scenario, _ in FAULTS.values()], hurt, within=timedelta(minutes=4))
    return {name: (*found[name][:1], end, found[name][1]) for name, end in zip(found, done, strict=True)}


@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", FAULTS)
def test_it_ends_as_if_nothing_had_happened(
    arena: Arena, ended: dict[str, tuple[Play, Ended, list[Fault]]], name: str
) -> None:
    scenario, _ = FAULTS[name]
    play, end, faults = ended[name]
    assert all(fault.hits > 0 for fault in faults)
    [change] = end.changes
    weights = [weight for phase, _, _, weight, _ in change["moves"] if phase == "Progressing"]
    if scenario == FORWARD:
        assert (change["phase"], change["cause"], weights) == ("Completed", "", [10, 50, 100])
    else:
        assert (change["phase"], change["cause"], weights) == ("RolledBack", "RollbackRequested", [10, 50])
    for rest in end.objects.values():
        assert rest["leftovers"] == []
        assert rest["backends"][0][0]["name"] == "shop"
        assert rest["minReplicas"] == 1
        assert rest["held"] == ("" if scenario == FORWARD else "rejected")
    assert broken(arena.recorder.history([play.namespace])) == []


def test_a_right_that_was_taken_away_is_named(arena: Arena, ended: dict[str, tuple[Play, Ended, list[Fault]]]) -> None:
    play, _, _ = ended["no right to write the route"]
    told = {
        (v.object["status"].get("reason"), "httproutes" in v.object["status"].get("message", ""))
        for v in arena.recorder.history([play.namespace])
        if v.kind == "ChangeRequest" and v.object.get("status")
    }
    assert ("PermissionDenied", True) in told
