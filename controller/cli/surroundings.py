"""A change's Deployments as they are in the cluster now: routes and pods, as far as one person may see them."""

import asyncio
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from controller.cluster import manifest
from controller.cluster.client import Client
from controller.cluster.kinds import DEPLOYMENTS, PODS, REPLICA_SETS, ROUTES
from controller.core.change import RUN_LABEL
from controller.core.model import Change, Pod, RouteOriginal, State, Target
from controller.errors import ForbiddenError, NotFoundError, NotServedError
from controller.traffic import gateway

Json = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Live:
    """One Deployment. `weights`: percent to the canary by route, None where its rules differ.

    `pods`: by what they are: stable, canary, new (the Deployment's own of the new revision).
    `unseen`: what this person may not read.
    """

    name: str
    weights: Mapping[str, int | None] = field(default_factory=dict)
    pods: Mapping[str, tuple[Pod, ...]] = field(default_factory=dict)
    unseen: tuple[str, ...] = ()

    def as_data(self) -> Json:
        """For programs."""
        pods = {
            kind: [{"name": p.name, "ready": p.ready, "restarts": p.restarts, "trouble": p.trouble} for p in group]
            for kind, group in self.pods.items()
        }
        return {
            "deployment": self.name,
            "weights": dict(self.weights),
            "pods": pods,
            "unseen": list(self.unseen),
        }


async def surroundings(client: Client, change: Change, state: State) -> list[Live]:
    """Of every Deployment of the change; nothing is an error here, what cannot be read is not shown."""
    return list(await asyncio.gather(*(_look(client, change, target) for target in state.targets)))


async def _look(client: Client, change: Change, target: Target) -> Live:
    unseen: list[str] = []

    async def seen(what: str, reading: Awaitable[T]) -> T | None:
        try:
            return await reading
        except ForbiddenError:
            unseen.append(what)
        except (NotFoundError, NotServedError):
            pass
        return None

    namespace = change.namespace
    raw, replica_sets, routes = await asyncio.gather(
        seen("the Deployment", client.get(DEPLOYMENTS, namespace, target.name)),
        seen("ReplicaSets", client.list(REPLICA_SETS, namespace)),
        asyncio.gather(*(seen("routes", _weight(client, namespace, target, route)) for route in target.routes)),
    )
    canary, own = await asyncio.gather(
        seen("pods", client.list(PODS, namespace, label_selector=f"{RUN_LABEL}={change.name}")),
        seen("pods", client.list(PODS, namespace, label_selector=_selector(raw))) if raw else _nothing(),
    )
    revisions = {
        rs["metadata"]["name"]: manifest.replica_set(rs).revision
        for rs in (replica_sets[0] if replica_sets else ())
        if raw and any(o["uid"] == raw["metadata"]["uid"] for o in rs["metadata"].get("ownerReferences") or ())
    }
    pods = [manifest.pod(pod) for pod in (own[0] if own else ())]
    groups = {
        "stable": tuple(pod for pod in pods if revisions.get(pod.replica_set) == target.stable_revision),
        "canary": tuple(
            pod
            for pod in (manifest.pod(p) for p in (canary[0] if canary else ()))
            if pod.replica_set.startswith(f"{target.canary}-")
        ),
        "new": tuple(pod for pod in pods if revisions.get(pod.replica_set) == target.revision),
    }
    return Live(
        name=target.name,
        weights=dict(pair for pair in routes if pair),
        pods={kind: group for kind, group in groups.items() if group},
        unseen=tuple(sorted(set(unseen))),
    )


async def _nothing() -> None:
    return None


async def _weight(client: Client, namespace: str, target: Target, route: RouteOriginal) -> tuple[str, int | None]:
    raw = {"kind": route.kind, **await client.get(ROUTES[route.kind], route.namespace, route.name)}
    wanted = gateway.original(raw, namespace, target.services, route)
    return route.key, gateway.weight(raw, namespace, target.services, wanted)


def _selector(deployment: Json) -> str:
    labels = deployment["spec"]["selector"].get("matchLabels") or {}
    return ",".join(f"{key}={value}" for key, value in labels.items())
