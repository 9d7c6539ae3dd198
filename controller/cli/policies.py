"""`kubectl serin policy check`: ChangePolicies in files, judged as the controller would judge them."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import takewhile
from pathlib import Path
from typing import Any

from controller.core.codec import format_duration
from controller.core.policy import Policy
from controller.core.windows import (
    FOREVER,
    Opening,
    clocks_change,
    local_span,
    opening_text,
    openings,
    timing,
)
from controller.lab.policies import Finding, judge, read


def check(path: Path, now: datetime) -> Iterator[Finding]:
    """A finding for each ChangePolicy in the file; other kinds are passed over. `now`: its openings come after."""
    found = read(path)
    if isinstance(found, Finding):
        yield found
        return
    policies = [document for document in found if document.get("kind") == "ChangePolicy"]
    if not policies:
        yield Finding(False, str(path), "has no ChangePolicy in it")
    for document in policies:
        yield _judge(path, document, now)


def _judge(path: Path, document: dict[str, Any], now: datetime) -> Finding:
    policy = judge(path, document)
    if isinstance(policy, Finding):
        return policy
    where = f"{path}: ChangePolicy {document['metadata']['name']}"
    answer = timing(policy.window, now, policy.needs())
    if answer.opening is None:
        return Finding(False, where, f"spec.window: {answer.message}")
    return Finding(True, where, f"{_summary(policy)}; {_when(policy, answer.opening, now)}")


def _when(policy: Policy, opening: Opening, now: datetime) -> str:
    """The first opening that is long enough, and those of the next year in which clocks change."""
    needs = format_duration(policy.needs())
    at_once = opening.end == FOREVER and opening.start == now
    text = f"starts where it finds {needs}: {'at any time' if at_once else opening_text(opening)}"
    year = takewhile(lambda o: o.start < now + timedelta(days=365), openings(policy.window, now))
    for changed in filter(clocks_change, year):
        lasts = format_duration(changed.end - changed.start)
        text += f"; clocks change: {local_span(changed.start, changed.end, changed.zone)} lasts {lasts}"
    return text


def _summary(policy: Policy) -> str:
    steps = ", ".join(f"{step.weight} % for {format_duration(step.bake)}" for step in policy.steps)
    return f"{steps}; {policy.approval.required or 'no'} approval{'' if policy.approval.required == 1 else 's'}"
