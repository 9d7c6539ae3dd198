"""`kubectl serin policy check`: ChangePolicies in files, judged as the controller would judge them."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from controller.core.codec import FieldError, format_duration
from controller.core.policy import ChangeType, Policy, parse_policy
from controller.core.windows import (
    FOREVER,
    Opening,
    Window,
    clocks_change,
    local_span,
    opening_text,
    openings,
    timing,
)
from controller.metrics.presets import PRESETS


class Finding(NamedTuple):
    """`where` is the file and the policy in it; `text` says what it does, or the field, its value and the mend."""

    good: bool
    where: str
    text: str


class Loader(yaml.SafeLoader):
    """As kubectl reads YAML: 2026-11-23 and 22:00 are text."""


def _text(_: Loader, node: yaml.ScalarNode) -> str:
    return str(node.value)


def _number(loader: Loader, node: yaml.ScalarNode) -> int | str:
    return _text(loader, node) if ":" in node.value else int(loader.construct_yaml_int(node))


Loader.add_constructor("tag:yaml.org,2002:timestamp", _text)
Loader.add_constructor("tag:yaml.org,2002:int", _number)


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


def read(path: Path) -> list[dict[str, Any]] | Finding:
    """The objects of a file, those of Lists among them; or why it cannot be read."""
    try:
        documents = [d for d in yaml.load_all(path.read_text(), Loader) if isinstance(d, dict)]
    except (OSError, UnicodeDecodeError) as error:
        return Finding(False, str(path), f"cannot be read: {getattr(error, 'strerror', None) or 'it is no text'}")
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        return Finding(False, where, f"is no YAML: {getattr(error, 'problem', None) or error}")
    items = (d.get("items") if d.get("kind") == "List" else [d] for d in documents)
    return [item for each in items for item in each or () if isinstance(item, dict)]


def _judge(path: Path, document: dict[str, object], now: datetime) -> Finding:
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    where = f"{path}: ChangePolicy {name or 'without a name'}"
    if name not in list(ChangeType):
        return Finding(False, where, f"metadata.name is {name!r}: write {', '.join(ChangeType)}")
    if document.get("apiVersion") != "serin.dev/v1alpha1":
        return Finding(False, where, f"apiVersion is {document.get('apiVersion')!r}: write serin.dev/v1alpha1")
    try:
        policy = parse_policy(document.get("spec"), frozenset(PRESETS))
    except FieldError as error:
        return Finding(False, where, str(error))
    if name == ChangeType.EMERGENCY and policy.window != Window():
        return Finding(False, where, "spec.window is set: leave it out, an emergency starts at once")
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
