"""Whether an audit log is whole: each chain recomputed, and compared with anchors, heads that were written elsewhere.

Pure.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import Any

from controller.core.codec import canonical, decode, digest

FIELDS = frozenset(("at", "change", "hash", "kind", "namespace", "policy", "prev", "revision", "seq", "uid", "what"))


class Fault(StrEnum):
    UNREADABLE = "Unreadable"
    """A line that is no record."""
    EDITED = "Edited"
    """A record that its hash does not fit."""
    DUPLICATED = "Duplicated"
    REORDERED = "Reordered"
    MISSING = "Missing"
    FORKED = "Forked"
    """Two records with one number, or one that does not follow the one before it."""
    CUT = "Cut"
    """The log ends before an anchor."""
    REWRITTEN = "Rewritten"
    """The chain is whole, and not the one that the anchor was taken of."""


@dataclass(frozen=True)
class Finding:
    fault: Fault
    where: str
    """File and line, or the change."""
    message: str


@dataclass(frozen=True)
class Anchor:
    """The head of a chain as it was seen outside of the log."""

    change: str
    namespace: str
    uid: str
    seq: int
    hash: str


@dataclass
class _Chain:
    change: str
    records: dict[int, dict[str, Any]] = field(default_factory=dict)


def read(line: str) -> dict[str, Any] | None:
    """The record of a line; None when it is none."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    good = isinstance(record, dict) and record.keys() == FIELDS and isinstance(record["what"], dict)
    whole = good and isinstance(record["seq"], int) and record["seq"] is not True and record["seq"] > 0
    return record if whole and all(isinstance(record[key], str) for key in FIELDS - {"seq", "what"}) else None


def intact(record: Mapping[str, Any], line: str) -> bool:
    """Whether the line is, to the letter, what was hashed."""
    return canonical(record) == line and record["hash"] == digest({k: v for k, v in record.items() if k != "hash"})


def verify(logs: Mapping[str, Iterable[str]], anchors: Iterable[Anchor] = ()) -> list[Finding]:
    """What is wrong with the logs (name to lines), taken together; a record may stand in several of them.

    Without anchors a cut tail and a chain that was rewritten from some record on cannot be seen.
    """
    chains: dict[str, _Chain] = {}
    findings = [finding for name, lines in logs.items() for finding in _read_log(name, lines, chains)]
    for known in chains.values():
        findings += _check_chain(known)
    for anchor in anchors:
        findings += _check_anchor(anchor, chains.get(anchor.uid))
    return findings


def _read_log(name: str, lines: Iterable[str], chains: dict[str, _Chain]) -> Iterable[Finding]:
    newest: dict[str, int] = {}
    seen: set[tuple[str, int]] = set()
    for number, line in enumerate(lines, 1):
        where = f"{name}:{number}"
        record = read(line)
        if record is None:
            yield Finding(Fault.UNREADABLE, where, "this line is not a record")
            continue
        uid, seq, change = record["uid"], record["seq"], record["change"]
        what = f"record {seq} of {change}"
        if not intact(record, line):
            yield Finding(Fault.EDITED, where, f"{what} is not what was written: its hash does not fit")
            continue
        chain = chains.setdefault(uid, _Chain(change))
        if chain.records.setdefault(seq, record) != record:
            yield Finding(Fault.FORKED, where, f"{what} is there twice, with different words")
        elif (uid, seq) in seen:
            yield Finding(Fault.DUPLICATED, where, f"{what} is there twice")
        elif seq < newest.get(uid, 0):
            yield Finding(Fault.REORDERED, where, f"{what} stands behind record {newest[uid]}")
        seen.add((uid, seq))
        newest[uid] = max(seq, newest.get(uid, 0))


def _check_chain(chain: _Chain) -> Iterable[Finding]:
    seqs = sorted(chain.records)
    for before, after in pairwise((0, *seqs)):
        if after != before + 1:
            yield Finding(Fault.MISSING, chain.change, f"{_numbers(before + 1, after - 1)} not there")
        elif chain.records[after]["prev"] != (chain.records[before]["hash"] if before else ""):
            yield Finding(Fault.FORKED, chain.change, f"record {after} does not follow the one that stands before it")


def _check_anchor(anchor: Anchor, chain: _Chain | None) -> Iterable[Finding]:
    newest = max(chain.records) if chain else 0
    if anchor.seq > newest:
        yield Finding(
            Fault.CUT, anchor.change, f"{_numbers(newest + 1, anchor.seq)} not there, though an anchor names the last"
        )
    elif chain and anchor.seq in chain.records and chain.records[anchor.seq]["hash"] != anchor.hash:
        yield Finding(Fault.REWRITTEN, anchor.change, f"record {anchor.seq} is not the one that an anchor names")


def _numbers(first: int, last: int) -> str:
    return f"record {first} is" if first == last else f"records {first} to {last} are"


# --- Anchors ---


def anchors_of(lines: Sequence[str]) -> list[Anchor]:
    """From lines of `audit anchors`, or of the API server's audit log (annotation serin-audit/head).

    Raises:
        ValueError: a line that is neither.
    """
    return [anchor for number, line in enumerate(lines, 1) if line.strip() and (anchor := _anchor(line, number))]


def _anchor(line: str, number: int) -> Anchor | None:
    try:
        found = json.loads(line)
        return _of_event(found) if "auditID" in found else decode(Anchor, found)
    except (ValueError, TypeError, AttributeError):
        raise ValueError(f"line {number} is neither an anchor nor an event of the API server's audit log") from None


def _of_event(event: Mapping[str, Any]) -> Anchor | None:
    """The head that a write of a status carried.

    None when the event is about something else, when the write was refused, and when the ID of the change is no plain
    text: whoever makes such a ChangeRequest spoils no anchor but its own.
    """
    noted = (event.get("annotations") or {}).get(ANNOTATION)
    if noted is None or (event.get("responseStatus") or {}).get("code", 200) >= 300:
        return None
    try:
        return decode(Anchor, json.loads(noted))
    except ValueError:
        return None


ANNOTATION = "serin-audit/head"
"""Made by policies/admission/audit.yaml."""
