"""What an auditor samples: one row for each change, and the answers that are asked for most. Pure.

Rows are made of records, from the log or, where there is no log of a change, from its status.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from controller.core.audit import Kind, asked, news
from controller.core.codec import encode, format_moment, parse_moment
from controller.core.model import Action, Change, Observation, Phase, State

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """One change. Moments are RFC 3339 texts, empty when it has not come to that."""

    change: str
    namespace: str
    uid: str
    type: str = ""
    requested_by: str = ""
    author: str = ""
    description: str = ""
    approval: str = ""
    approved_by: tuple[str, ...] = ()
    approved_at: str = ""
    window: str = ""
    recorded_at: str = ""
    started_at: str = ""
    ended_at: str = ""
    outcome: str = ""
    cause: str = ""
    reviewed_by: str = ""
    reviewed_at: str = ""
    review: str = ""
    closed_at: str = ""
    policy: str = ""
    records: int = 0
    requesters: tuple[str, ...] = ()
    decisions: tuple[Record, ...] = field(default=(), repr=False)
    rules: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """The policy in force when it started."""
    told_cto_at: str = ""

    def within(self, start: datetime | None, end: datetime | None) -> bool:
        """Whether it was under way, from its record to its end, at any moment of the period."""
        began = parse_moment(self.recorded_at) if self.recorded_at else None
        over = parse_moment(self.ended_at) if self.ended_at else None
        return not ((end and began and began >= end) or (start and over and over < start))


def rows(records: Iterable[Record]) -> list[Row]:
    """Oldest first."""
    chains: dict[str, dict[int, Record]] = {}
    for record in records:
        chains.setdefault(record["uid"], {})[record["seq"]] = record
    made = [_row([chain[seq] for seq in sorted(chain)]) for chain in chains.values()]
    return sorted(made, key=lambda row: (row.recorded_at, row.namespace, row.change))


def records_of(change: Change, state: State, now: datetime) -> list[Record]:
    """What the status of a change still tells of it, in the shape of records."""
    observation = Observation(change, {}, None)
    told = [(Kind.RECORDED, asked(change, state))]
    if state.policy:
        told.append((Kind.POLICY, {"spec": encode(state.policy)}))
    told += [(record.kind, dict(record.body)) for record in news(State(), state, observation, now)]
    if state.closed_at:
        told.append((Kind.CLOSED, {"at": format_moment(state.closed_at), "phase": state.phase.value}))
    at = format_moment(change.created_at) if change.created_at else ""
    about = {"at": at, "change": change.change_id, "namespace": change.namespace, "uid": change.uid}
    extra = {"policy": state.audit.policy, "revision": state.revision, "prev": "", "hash": ""}
    return [
        {**about, **extra, "kind": kind.value, "seq": seq, "what": body} for seq, (kind, body) in enumerate(told, 1)
    ]


def _row(chain: Sequence[Record]) -> Row:
    first = chain[0]
    found: dict[str, Any] = {"records": len(chain), "policy": chain[-1]["policy"]}
    decisions: list[Record] = []
    for record in chain:
        what, at = record["what"], record["what"].get("at", record["at"])
        match record["kind"]:
            case "recorded" | "amended":
                found.setdefault("recorded_at", record["at"])
                names = {
                    "type": "type",
                    "requested_by": "requestedBy",
                    "author": "author",
                    "description": "description",
                }
                found |= {name: what.get(key, "") for name, key in names.items()}
                found["requesters"] = tuple(what.get("requesters") or ())
            case "policy" if "started_at" not in found:
                found["rules"] = what["spec"]
            case "window":
                found["window"] = " to ".join(filter(None, [what.get("start", ""), what.get("end", "")]))
            case "decision":
                decisions.append({**what, "at": at})
            case "notice" if "cto" in what.get("audience", ()) and what.get("receipts"):
                found.setdefault("told_cto_at", what["receipts"][0]["at"])
            case "transition":
                found |= _moved(what, at, "started_at" in found)
            case "closed":
                found["closed_at"] = at
    given = [d for d in decisions if _counts(d, Action.APPROVE)]
    if approvers := found.pop("approvers", None):
        given = approvers
    reviews = [d for d in decisions if _counts(d, Action.REVIEW)]
    if reviews:
        last = reviews[-1]
        found |= {
            "reviewed_by": last["by"],
            "reviewed_at": last["at"],
            "review": (last.get("review") or {}).get("outcome", ""),
        }
    return Row(
        change=first["change"],
        namespace=first["namespace"],
        uid=first["uid"],
        approved_by=tuple(dict.fromkeys(d["by"] for d in given)),
        approved_at=max((d["at"] for d in given), default=""),
        decisions=tuple(decisions),
        **found,
    )


def _moved(what: Record, at: str, started: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if not started and what.get("reason") == "Started":
        found = {"started_at": at, "approval": what.get("approval", ""), "approvers": what.get("approvers")}
        found["requesters"] = tuple(what.get("requesters") or ())
    if Phase(what["phase"]).terminal:
        cause = "" if what["phase"] == Phase.COMPLETED else what["reason"]
        found |= {"ended_at": at, "outcome": what["phase"], "cause": cause}
    return found


def _counts(decision: Record, action: Action) -> bool:
    return decision["action"] == action and not decision.get("refusal")


# --- The answers that are asked for most ---


@dataclass(frozen=True)
class Answer:
    question: str
    found: tuple[str, ...]
    """One line each; none is an answer too."""


def answers(found: Sequence[Row], now: datetime) -> list[Answer]:
    started = [row for row in found if row.started_at]
    return [
        Answer("Started without an approval that their policy asks for", tuple(_unapproved(started))),
        Answer("Started by a bypass", tuple(_bypassed(started))),
        Answer("Approved by who asked for them", tuple(_own(found))),
        Answer("Decisions that were refused", tuple(_refused(found))),
        Answer("Emergencies, and their deadlines", tuple(_emergencies(started, now))),
        Answer("Rolled back, and why", tuple(_back(found))),
        Answer("Started, and not ended", tuple(_name(row) for row in started if not row.ended_at)),
    ]


def _name(row: Row) -> str:
    return f"{row.namespace}/{row.change} ({row.type or '?'}, asked by {row.requested_by or 'unknown'})"


def _unapproved(started: Iterable[Row]) -> Iterator[str]:
    for row in started:
        approval = row.rules.get("approval") or {}
        required = approval.get("required", 1)
        excused = row.approval.startswith(("pre-approved", "bypassed"))
        if required and not excused and len(row.approved_by) < required:
            late = "declared; nobody has approved it afterwards" if approval.get("when") == "after" else "not approved"
            yield f"{_name(row)}: {late}; {len(row.approved_by)} of {required}"


def _bypassed(started: Iterable[Row]) -> Iterator[str]:
    for row in started:
        for decision in row.decisions:
            if _counts(decision, Action.BYPASS):
                yield f"{_name(row)}: by {decision['by']} at {decision['at']}: {decision.get('reason', '')}"


def _own(found: Iterable[Row]) -> Iterator[str]:
    for row in found:
        if both := sorted(set(row.approved_by) & {*row.requesters, row.requested_by}):
            yield f"{_name(row)}: {', '.join(both)}"


def _refused(found: Iterable[Row]) -> Iterator[str]:
    for row in found:
        for decision in row.decisions:
            if decision.get("refusal"):
                who = f"{decision['action']} by {decision['by']} at {decision['at']}"
                yield f"{_name(row)}: {who}: {decision['refusal']}"


def _emergencies(started: Iterable[Row], now: datetime) -> Iterator[str]:
    for row in started:
        if row.type == "emergency":
            told = (
                f"CTO told {row.told_cto_at}" if row.told_cto_at else "no sink has acknowledged the notice to the CTO"
            )
            by = f"approved by {', '.join(row.approved_by)} at {row.approved_at}" if row.approved_by else "NOT approved"
            review = f"reviewed by {row.reviewed_by} at {row.reviewed_at}" if row.reviewed_by else "NOT reviewed"
            yield f"{_name(row)}: started {row.started_at}; {told}; {by}; {review}"


def _back(found: Iterable[Row]) -> Iterator[str]:
    for row in found:
        if row.outcome == Phase.ROLLED_BACK:
            yield f"{_name(row)}: {row.cause} at {row.ended_at}"
