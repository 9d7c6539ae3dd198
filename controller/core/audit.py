"""The audit trail: what a commit changes, as records that are chained by their hashes, one chain a change. Pure.

A record is one line of canonical JSON (keys sorted, no spaces, ASCII). `hash` is the SHA-256 of the line without it;
`prev` is the hash of the record before. The head of the chain and the newest lines are committed with the status that
they tell of, so whoever leads next can write what the one before could not.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from controller.core.change import printable
from controller.core.codec import EMPTY, JSON, camel, canonical, digest, encode, format_moment
from controller.core.decisions import approvals
from controller.core.model import Audit, Change, Evidence, Observation, Ruling, State, Told, Transition
from controller.core.plan import Intent
from controller.core.policy import Policy

LINES_MAX = 32
"""Lines kept in the status while no sink has taken them: those of a change that runs on without one.

A commit with more records than that (dozens of decisions after an outage) keeps all of its own.
"""
TEXT_MAX = 1000


class Kind(StrEnum):
    RECORDED = "recorded"
    """The first of a chain: who asked for what."""
    AMENDED = "amended"
    """What is asked for, or who asks, is another now."""
    POLICY = "policy"
    """The ChangePolicy in force, word for word; the other records name its hash."""
    TRANSITION = "transition"
    DECISION = "decision"
    VERDICT = "verdict"
    WINDOW = "window"
    """The opening that it is to start in."""
    JOB = "job"
    """A Job before the start, and again with its outcome."""
    WARNING = "warning"
    NOTICE = "notice"
    """What people were told, and again with each sink that acknowledged it."""
    WRITE = "write"
    """A write that is about to be made or, on the way back, has just been made."""
    CLOSED = "closed"


@dataclass(frozen=True)
class Record:
    kind: Kind
    body: Mapping[str, JSON]


@dataclass(frozen=True)
class Head:
    """The newest record of a chain; 0 and empty: there is none yet."""

    seq: int = 0
    hash: str = ""


def chain(head: Head, about: Mapping[str, JSON], records: Sequence[Record]) -> tuple[Head, tuple[str, ...]]:
    """The records as lines that follow `head`, and the head after them. `about`: what all of them are about."""
    lines = []
    for record in records:
        body = {**about, "kind": record.kind.value, "prev": head.hash, "seq": head.seq + 1, "what": record.body}
        head = Head(head.seq + 1, digest(body))
        lines.append(canonical({**body, "hash": head.hash}))
    return head, tuple(lines)


# --- What a commit changes ---


@dataclass(frozen=True)
class Followed:
    """A field of State whose items are records once they are there. `told_by`: what makes an item a new one."""

    kind: Kind
    told_by: Callable[[Any], Hashable]
    body: Callable[[Any, State, Observation, datetime], dict[str, JSON]]


def _transition(item: Transition, after: State, observation: Observation, now: datetime) -> dict[str, JSON]:
    body = {**encode(item), "requesters": list(after.requesters), "evidence": [encode(e) for e in after.evidence]}
    if item.at == after.started_at:
        standing = approvals(after, observation, now)
        body["approvers"] = [{"uid": r.uid, "by": r.by, "at": format_moment(r.at)} for r in standing]
        body |= {"approval": after.approval, "revert": after.revert, "forwardOnly": after.forward_only}
        body["targets"] = [
            {"name": t.name, "uid": t.uid, "stable": t.stable_revision, "revision": t.revision, "strategy": t.strategy}
            for t in after.targets
        ]
    return {key: value for key, value in body.items() if value not in EMPTY and value != []}


def _decision(item: Ruling, after: State, observation: Observation, now: datetime) -> dict[str, JSON]:
    """`groups`: those of its author, by which the API server judged whether they may."""
    groups = next((d.groups for d in observation.decisions if d.uid == item.uid), ())
    return {**encode(item), "groups": list(groups)}


def _verdict(item: Evidence, after: State, observation: Observation, now: datetime) -> dict[str, JSON]:
    return {**encode(item), "step": after.step}


def _notice(item: Told, after: State, observation: Observation, now: datetime) -> dict[str, JSON]:
    return {key: value for key, value in encode(item).items() if key not in ("text", "command", "owed")}


def _warning(item: str, after: State, observation: Observation, now: datetime) -> dict[str, JSON]:
    reason, _, text = item.partition(": ")
    return {"reason": reason, "message": text}


FOLLOWED: Mapping[str, Followed] = {
    "decisions": Followed(Kind.DECISION, lambda item: item.uid, _decision),
    "window": Followed(Kind.WINDOW, lambda item: item, lambda item, *_: encode(item)),
    "jobs": Followed(Kind.JOB, lambda item: (item.job, item.outcome), lambda item, *_: encode(item)),
    "evidence": Followed(Kind.VERDICT, lambda item: (item.rule, item.target, item.verdict), _verdict),
    "told": Followed(Kind.NOTICE, lambda item: (item.what, item.receipts), _notice),
    "warnings": Followed(Kind.WARNING, lambda item: item.partition(": ")[0], _warning),
    "history": Followed(Kind.TRANSITION, lambda item: item, _transition),
}
"""In the order in which they are told: what led to a transition stands before it."""

PASSED_OVER = frozenset(
    (
        # told by the transition, or by the record of the policy
        *("phase", "stage", "outcome", "step", "weight", "reason", "message", "cause", "rejected", "started_at"),
        *(
            "entered_at",
            "ended_at",
            "promoted",
            "approval",
            "targets",
            "policy",
            "low_evidence",
            "revert",
            "forward_only",
        ),
        # told by recorded, amended and closed
        *("revision", "terms", "requesters", "closed_at", "review_due_at", "notified_at"),
        # clocks and counts that decisions rest on
        *(
            "weighted_at",
            "settled_at",
            "no_data_since",
            "measured_at",
            "breaches",
            "comparisons",
            "progress",
            "progressed_at",
        ),
        # about the record itself
        *("audit", "schema"),
    )
)
"""The other fields of State. A new field belongs into FOLLOWED or here: tests/core/test_audit.py asks for it."""


def follow(
    before: State,
    after: State,
    observation: Observation,
    policy: Policy | None,
    now: datetime,
    *,
    made: Sequence[Intent] = (),
    planned: Intent | None = None,
    kept: int = 0,
) -> State:
    """`after` with the records of this commit.

    `policy`: the one in force. `made`: writes on the way back that have no record yet. `planned`: the write that the
    commit is followed by; one that is tried again has its record already. `kept`: the seq that the sinks have.
    """
    change, audit = observation.change, before.audit
    wish = told(planned) if planned else {}
    intent = digest(wish)[:16] if wish else ""
    # A running change keeps its own, whose version is in its status already.
    version = audit.policy if policy is None or (policy is before.policy and audit.policy) else policy.version
    form = digest([change.spec, after.revision, after.requesters])[:16]
    records = [Record(Kind.WRITE, told(each)) for each in made]
    if form != audit.form:
        records.append(Record(Kind.AMENDED if audit.seq else Kind.RECORDED, asked(change, after)))
    if policy and version != audit.policy:
        records.append(Record(Kind.POLICY, {"spec": encode(policy)}))
    records += news(before, after, observation, now)
    if after.closed_at and not before.closed_at:
        records.append(Record(Kind.CLOSED, {"phase": after.phase.value}))
    if wish and intent != audit.intent:
        records.append(Record(Kind.WRITE, wish))
    about = {
        "at": format_moment(now),
        "change": printable(change.change_id, 70),
        "uid": change.uid,
        "namespace": change.namespace,
        "policy": version,
        "revision": after.revision,
    }
    head, lines = chain(Head(audit.seq, audit.hash), about, records)
    waiting = audit.last[max(0, len(audit.last) - max(0, audit.seq - kept)) :]
    # All of this commit, for whoever writes them has them from here, and of older ones as many as there is room for.
    last = (*waiting, *lines)[-max(LINES_MAX, len(lines)) :] if lines else audit.last
    return replace(after, audit=Audit(head.seq, head.hash, last, form, version, intent))


def news(before: State, after: State, observation: Observation, now: datetime) -> Iterator[Record]:
    for name, followed in FOLLOWED.items():
        if getattr(after, name) is getattr(before, name):
            continue
        known = {followed.told_by(item) for item in _items(before, name)}
        for item in _items(after, name):
            if followed.told_by(item) not in known:
                body = followed.body(item, after, observation, now)
                yield Record(followed.kind, {key: _short(value) for key, value in body.items()})


def _items(state: State, name: str) -> tuple[Any, ...]:
    value = getattr(state, name)
    return value if isinstance(value, tuple) else tuple(filter(None, [value]))


def asked(change: Change, after: State) -> dict[str, JSON]:
    spec = change.spec or {}
    return {
        "type": change.type.value if change.type else printable(str(spec.get("type", "")), 40),
        "requestedBy": printable(change.requested_by, 256),
        "requesters": list(after.requesters),
        "author": printable(change.author, 256),
        "description": _short(str(spec.get("description", ""))),
        "deployments": list(change.deployments),
        "form": digest(spec),
    }


def told(intent: Intent) -> dict[str, JSON]:
    """A write: its name, the Deployment, and what of its fields says more."""
    body: dict[str, JSON] = {"write": type(intent).__name__, "target": intent.target.name}
    for field in fields(intent):
        value = getattr(intent, field.name)
        if field.name not in ("target", "deployment"):
            named = getattr(value, "canary", None) or getattr(value, "name", None)
            plain = value if isinstance(value, str | int) else named
            body[camel(field.name)] = plain
    return {key: value.value if isinstance(value, StrEnum) else value for key, value in body.items()}


def _short(value: JSON) -> JSON:
    return printable(value, TEXT_MAX) if isinstance(value, str) else value
