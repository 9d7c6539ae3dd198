"""What `emergency`, `revert` and `retry` write into a Deployment: one JSON patch each. Pure."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from controller.core.change import CHANGE_LABEL, HELD, KNOWN, PREFIX, REQUESTED_BY, RETRY
from controller.core.model import Change, Phase, ReplicaSet, State
from controller.core.policy import ChangeType
from controller.core.template import revision
from controller.errors import PermanentError

Json = dict[str, Any]
TYPE, DESCRIPTION = PREFIX + "type", PREFIX + "description"


def ask_for(deployment: Json, change_id: str, template: Json, kind: ChangeType, description: str) -> list[Json]:
    """Ask for a new change: another template under a new ID, in one write.

    What the annotations said of the change before is taken away: it is not true of this one.
    """
    kept = {key: text for key, text in _annotations(deployment).items() if key not in _STALE}
    form = {TYPE: str(kind), DESCRIPTION: description}
    return _patch(deployment, change_id, {**kept, **form}, template)


def ask_again(deployment: Json, change_id: str, rejected: str) -> list[Json]:
    """Ask for the template that is there once more, under a new ID, knowing that `rejected` was rolled back."""
    return _patch(deployment, change_id, {**_annotations(deployment), RETRY: rejected}, None)


_STALE = set(KNOWN) - {HELD, REQUESTED_BY}


def _annotations(deployment: Json) -> Mapping[str, str]:
    return deployment["metadata"].get("annotations") or {}


def _patch(deployment: Json, change_id: str, annotations: Mapping[str, str], template: Json | None) -> list[Json]:
    meta = deployment["metadata"]
    ops = [
        {"op": "replace", "path": "/metadata/resourceVersion", "value": meta["resourceVersion"]},
        {"op": "add", "path": "/metadata/labels", "value": {**(meta.get("labels") or {}), CHANGE_LABEL: change_id}},
        {"op": "add", "path": "/metadata/annotations", "value": dict(annotations)},
    ]
    return [*ops, {"op": "replace", "path": "/spec/template", "value": template}] if template else ops


# --- Which template ---


def with_images(template: Json, wanted: Sequence[str]) -> Json:
    """The template with other images; each is IMAGE, when it has one container, or CONTAINER=IMAGE.

    PermanentError when a container is not there, or when nothing would change.
    """
    new = copy.deepcopy(template)
    containers = [*(new["spec"].get("initContainers") or []), *new["spec"]["containers"]]
    by_name = {container["name"]: container for container in containers}
    for text in wanted:
        name, equals, image = text.partition("=")
        if not equals and len(new["spec"]["containers"]) > 1:
            raise PermanentError("WhichContainer", f"--image {text}: write CONTAINER=IMAGE, of {', '.join(by_name)}")
        if not equals:
            name, image = new["spec"]["containers"][0]["name"], text
        if name not in by_name:
            raise PermanentError("NoContainer", f"--image {text}: its containers are {', '.join(by_name)}")
        by_name[name]["image"] = image
    if revision(new) == revision(template):
        raise PermanentError("NothingChanges", f"it runs {', '.join(wanted)} already")
    return new


@dataclass(frozen=True)
class Back:
    """Where a revert leads: away from `source` (a change ID, or words). `runs`: its pods are there already."""

    source: str
    template: Json
    runs: bool = False


def way_back(
    name: str, template: Json, replica_sets: Sequence[ReplicaSet], known: Sequence[tuple[Change, State]]
) -> Back:
    """A template that does not run gives way to the one that does; one that runs, to the one that it replaced."""
    touching = [(change, state) for change, state in known if state.target(name)]
    active = [(c, s) for c, s in touching if s.phase in (Phase.PROGRESSING, Phase.PROMOTING, Phase.ROLLING_BACK)]
    if active:
        change, state = active[0]
        way_on = f"kubectl serin rollback {change.change_id} -n {change.namespace}"
        raise PermanentError("ChangeRunning", f"{change.change_id} is {state.phase} on {name}: {way_on}")
    here = revision(template)
    running = max((rs for rs in replica_sets if rs.replicas), key=lambda rs: rs.replicas, default=None)
    if running and running.revision != here:
        waiting = next((c.change_id for c, s in reversed(touching) if s.revision == here), "the template that waits")
        return Back(waiting, running.template, runs=True)
    completed = [(c, s) for c, s in touching if s.phase is Phase.COMPLETED and s.ended_at]
    newest = max(completed, key=lambda k: str(k[1].ended_at), default=None)
    if newest:
        change, target = newest[0], newest[1].target(name)
        if target and target.revision == here and target.stable_template:
            return Back(change.change_id, target.stable_template)
    raise PermanentError(
        "NothingToRevert",
        f"{name}: no completed change says what ran before the template that runs now. "
        f"See kubectl rollout history deployment/{name}, and apply the older manifest under a new change ID",
    )
