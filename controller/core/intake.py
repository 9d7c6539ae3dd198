"""What a held Deployment asks for: a change of its own, its release, or a record that says why neither can be. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from controller.core.change import (
    AUTO,
    REQUESTED_BY,
    TYPE,
    Problem,
    change_type,
    check_form,
    check_id,
    form_of,
    job_names,
    next_id,
    object_name,
    printable,
)
from controller.core.codec import JSON
from controller.core.model import LOCKED, Change, Deployment, Held, Other, Phase, ReplicaSet
from controller.core.policy import ChangeType


@dataclass(frozen=True)
class Record:
    """A ChangeRequest that is to exist; `form.merge` brings this spec into one that is there already."""

    name: str
    spec: JSON


@dataclass(frozen=True)
class LetGo:
    """The template runs already, ran last or is served by a canary alone: release it, no gate and no record."""


@dataclass(frozen=True)
class Rehold:
    """A mark that no running change stands behind: hold it as a new template."""


@dataclass(frozen=True)
class LeaveAlone:
    """Nobody can say what stands behind it: a newer version wrote the status of a change that names it."""

    message: str


@dataclass(frozen=True)
class Ask:
    """All that is known around one Deployment.

    `changes`: every change of the namespace, with its spec as far as it is ours.
    """

    deployment: Deployment
    replica_sets: Sequence[ReplicaSet]
    changes: Sequence[tuple[Change, Other]]
    taken_ids: Sequence[str]


def refused_name(deployment: str) -> str:
    return f"refused-{deployment[:55]}"


def intake(ask: Ask, today: date) -> Record | LetGo | Rehold | LeaveAlone | None:
    d = ask.deployment
    naming = [
        (change, other) for change, other in ask.changes if d.name in other.revisions or d.name in change.deployments
    ]
    unread = next((other for _, other in naming if other.unreadable), None)
    if d.held and unread:
        return LeaveAlone(f"{unread.change_id}: {unread.unreadable}; {d.name} stays as it is until it can be read")
    if d.held in LOCKED:
        return None if any(other.active for _, other in naming) else Rehold()
    if d.held != Held.WAITING:
        return None
    active = [rs.revision for rs in ask.replica_sets if rs.replicas > 0]
    own = next((other for _, other in naming if other.active and other.revisions.get(d.name) == d.revision), None)
    if own:
        # Created anew under way: the canary of this template is all that serves, and waits for these pods.
        alone = own.cause == "DeploymentDeleted" and own.leaves(d.name, d.uid) and not active
        return LetGo() if alone else None
    if d.revision in (active or _ran_last(d, naming)):
        return LetGo()
    if d.change == AUTO:
        return _numbered(ask, naming, today)
    problem = check_id(d.change)
    if problem:
        return _refused(d, problem)
    return _named(ask, today)


def _ran_last(d: Deployment, naming: Sequence[tuple[Change, Other]]) -> Sequence[str]:
    """The revision that the last completed change of this name brought, if there is one."""
    done = [other for _, other in naming if other.phase is Phase.COMPLETED and d.name in other.revisions]
    done.sort(key=lambda other: other.ended_at.timestamp() if other.ended_at else 0)
    return [other.revisions[d.name] for other in done[-1:]]


def _numbered(ask: Ask, naming: Sequence[tuple[Change, Other]], today: date) -> Record | None:
    d = ask.deployment
    for change, other in naming:
        if change.revision == d.revision and not other.phase.terminal:
            decided = _decided_on(d, change, other)
            return None if decided else Record(change.name, _spec(d, change.change_id, revision=d.revision))
    change_id = next_id(today, ask.taken_ids)
    return Record(object_name(change_id), _spec(d, change_id, revision=d.revision))


def _named(ask: Ask, today: date) -> Record | None:
    d = ask.deployment
    existing = next(((c, o) for c, o in ask.changes if c.name == object_name(d.change)), None)
    if existing is None:
        return Record(object_name(d.change), _spec(d, d.change))
    change, other = existing
    free = next_id(today, ask.taken_ids)
    if other.phase.terminal:
        return _refused(
            d,
            Problem(
                "ChangeClosed",
                f"{d.change} is {other.phase} and never runs again: "
                f"label the new template with an ID of its own, like {free}",
            ),
        )
    if other.active:
        return _refused(
            d,
            Problem(
                "ChangeRunning",
                f"{d.change} is under way for other Deployments: give this one an ID of its own, like {free}",
            ),
        )
    return None if _decided_on(d, change, other) else Record(change.name, _spec(d, d.change))


def _decided_on(d: Deployment, change: Change, other: Other) -> bool:
    """This template was approved with the form as it is: what the annotations say since is not what was decided on."""
    return other.approved and other.revisions.get(d.name) == d.revision and not change.problem


def _refused(d: Deployment, problem: Problem) -> Record:
    return Record(refused_name(d.name), {**_spec(d, printable(d.change, 70)), "problem": str(problem)})


def _spec(d: Deployment, change_id: str, revision: str = "") -> JSON:
    """The form as the annotations claim it; the requester as admission stamped it."""
    kind = change_type(d.annotations)
    problem = kind if isinstance(kind, Problem) else check_form(d.annotations)
    jobs = job_names(d.annotations)
    if isinstance(jobs, Problem):
        problem, jobs = problem or jobs, []
    usable = problem is None or problem.reason != "InvalidAnnotation"
    spec = {
        "changeId": change_id,
        "type": printable(d.annotations.get(TYPE, ChangeType.NORMAL), 32) or "?",
        "requestedBy": printable(d.annotations.get(REQUESTED_BY, ""), 250),
        "deployments": [d.name],
        "jobs": jobs,
        "revision": revision,
        "problem": str(problem or ""),
        **(form_of(d.annotations) if usable else {}),
    }
    return {key: value for key, value in spec.items() if value}
