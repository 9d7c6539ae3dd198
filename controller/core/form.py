"""The change-request form: its fields, where each stands in the spec and in annotations, and who fills it. Pure."""

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from controller.core.codec import JSON, parse_moment

if TYPE_CHECKING:
    from controller.core.model import Change
    from controller.core.policy import Policy

FORWARD_ONLY = "forwardOnly"


@dataclass(frozen=True)
class Field:
    """`name`: its path in the spec. `annotation`: without the prefix. `most`: characters. `what`: what to write."""

    name: str
    annotation: str
    most: int
    what: str
    choices: tuple[str, ...] = ()
    moment: bool = False

    def normal(self, text: str) -> str:
        """A choice as it is spelt here, whatever its case; other text as it is."""
        return next((choice for choice in self.choices if choice.lower() == text.strip().lower()), text)

    def mend(self, text: str) -> str:
        """What to write instead of a text that cannot be used; empty: it can."""
        if self.choices and self.normal(text) not in self.choices:
            return f"write {', '.join(self.choices[:-1])} or {self.choices[-1]}"
        if self.moment:
            try:
                parse_moment(text)
            except ValueError:
                return "write a moment with a zone, like 2026-12-06T02:00:00Z"
        return ""


FIELDS = (
    Field("priority", "priority", 10, "how urgent it is", ("P0", "P1", "P2", "P3")),
    Field("author", "author", 256, "who wrote what is changed"),
    Field("description", "description", 4096, "what is changing and why"),
    Field("impact.systemsAffected", "systems-affected", 1024, "which systems are affected"),
    Field("impact.usersAffected", "users-affected", 1024, "which users are affected: a number, all or none"),
    Field("impact.downtime", "downtime", 256, "whether downtime is required, and how long"),
    Field("impact.risk", "risk", 256, "the risk level", ("low", "medium", "high")),
    Field("implementationPlan", "implementation-plan", 16384, "the steps of the change"),
    Field("rollbackPlan", "rollback-plan", 16384, "the steps back"),
    Field("rollback", "rollback", 20, "whether it can go back by itself", ("automatic", FORWARD_ONLY)),
    Field("testingPlan", "testing-plan", 16384, "what is tested and how"),
    Field("testing.unit", "testing-unit", 1024, "the result of the unit tests, or a link to it"),
    Field("testing.integration", "testing-integration", 1024, "the result of the integration tests, or a link to it"),
    Field("testing.bdd", "testing-bdd", 1024, "the result of the BDD scenarios, or a link to it"),
    Field("testing.manual", "testing-manual", 1024, "the result of manual testing, or a link to it"),
    Field("successCriteria", "success-criteria", 4096, "by what the change is judged afterwards"),
    Field("notBefore", "not-before", 64, "before which moment it must not start", moment=True),
)
NAMES: Mapping[str, Field] = {f.name: f for f in FIELDS}
_CLAIMS = ("type", "requestedBy", *NAMES)
MARKS = "fromAnnotations"
_JOB = "jobs/"


def text_of(spec: JSON, name: str) -> str:
    """The text of a field, by its path in the spec; empty: it is not given."""
    for part in name.split("."):
        spec = spec.get(part) if isinstance(spec, Mapping) else None
    return spec if isinstance(spec, str) else ""


def put(spec: JSON, name: str, text: str) -> None:
    """Set a field of the spec; empty text takes it away."""
    *above, last = name.split(".")
    for part in above:
        spec = spec.setdefault(part, {})
    if text:
        spec[last] = text
    else:
        spec.pop(last, None)


def filled(values: Mapping[str, str]) -> JSON:
    """The part of a spec that has these fields, by their paths."""
    spec: JSON = {}
    for name, text in values.items():
        if text:
            put(spec, name, text)
    return spec


def merge(written: JSON, asked: JSON) -> JSON:
    """The spec of a ChangeRequest as it is, with what one held Deployment asks for.

    A Deployment fills the fields that nobody filled, and may change those that it filled itself: `fromAnnotations`
    keeps for each whose text it is, and a hash of it. Jobs add up. What people wrote into the request stays as it is.
    """
    (source,) = asked["deployments"]
    spec, marks = copy.deepcopy(written), {}
    for name in _CLAIMS:
        have, want = text_of(written, name), text_of(asked, name)
        owner, _, digest = (written.get(MARKS) or {}).get(name, "").rpartition("/")
        if digest != _digest(have):
            owner = ""  # somebody wrote it since
        if not have or owner == source:
            have, owner = want, source
        put(spec, name, have)
        if have and owner:
            marks[name] = f"{owner}/{_digest(have)}"
    ours = {key: asked.get(key) for key in ("changeId", "revision", "problem") if asked.get(key) or key == "problem"}
    names = sorted({*(written.get("deployments") or []), source})
    jobs, whose = _jobs(written, asked, source)
    spec = {**spec, **ours, "deployments": names, "jobs": jobs, MARKS: marks | whose}
    return {key: value for key, value in spec.items() if value}


def _jobs(written: JSON, asked: JSON, source: str) -> tuple[list[str], dict[str, str]]:
    """The Jobs that anyone asked for, without those that this Deployment asked for and does so no longer."""
    old = written.get(MARKS) or {}
    wanted, known = list(asked.get("jobs") or []), list(written.get("jobs") or [])
    kept = [name for name in known if name in wanted or old.get(_JOB + name) != source]
    added = [name for name in wanted if name not in kept]
    whose = {_JOB + name: old[_JOB + name] for name in kept if _JOB + name in old}
    return [*kept, *added], whose | {_JOB + name: source for name in added}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def missing(change: "Change", policy: "Policy") -> tuple[str, ...]:
    """The fields that the policy asks for and the form does not have, by their paths in the spec."""
    return tuple(name for name in policy.form.required if not text_of(change.spec, name).strip())


def unverified(spec: JSON) -> tuple[str, ...]:
    """Fields whose text is a claim of the Deployment's annotations, which nobody wrote into the request itself."""
    marks = (spec or {}).get(MARKS) or {}
    return tuple(name for name in NAMES if marks.get(name, "").rpartition("/")[2] == _digest(text_of(spec, name)))


def written(spec: JSON) -> JSON:
    """The part of a spec that people wrote into the request itself: no annotation would bring it again."""
    claims = unverified(spec)
    part = filled({name: text_of(spec, name) for name in NAMES if name not in claims})
    marks = (spec or {}).get(MARKS) or {}
    if jobs := [name for name in (spec or {}).get("jobs") or [] if _JOB + name not in marks]:
        part["jobs"] = jobs
    return part


def forward_only(spec: JSON) -> bool:
    """Whether the change is one that cannot go back, a migration: judged and approved as such."""
    return NAMES["rollback"].normal(text_of(spec, "rollback")) == FORWARD_ONLY


def not_before(spec: JSON) -> datetime | None:
    """The moment before which the change must not start; None: there is none that can be read."""
    try:
        return parse_moment(text_of(spec, "notBefore"))
    except ValueError:
        return None
