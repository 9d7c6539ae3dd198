"""`kubectl serin policy check`: ChangePolicies in files, judged as the controller would judge them."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import yaml

from controller.core.codec import FieldError, format_duration
from controller.core.policy import ChangeType, Policy, parse_policy
from controller.metrics.presets import PRESETS


class Finding(NamedTuple):
    """`where` is the file and the policy in it; `text` says what it does, or the field, its value and the mend."""

    good: bool
    where: str
    text: str


def check(path: Path) -> Iterator[Finding]:
    """A finding for each ChangePolicy in the file; other kinds are passed over."""
    try:
        documents = list(yaml.safe_load_all(path.read_text()))
    except (OSError, UnicodeDecodeError) as error:
        yield Finding(False, str(path), f"cannot be read: {getattr(error, 'strerror', None) or 'it is no text'}")
        return
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        yield Finding(False, where, f"is no YAML: {getattr(error, 'problem', None) or error}")
        return
    policies = [d for d in documents if isinstance(d, dict) and d.get("kind") == "ChangePolicy"]
    if not policies:
        yield Finding(False, str(path), "has no ChangePolicy in it")
    for document in policies:
        yield _judge(path, document)


def _judge(path: Path, document: dict[str, object]) -> Finding:
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    where = f"{path}: ChangePolicy {name or 'without a name'}"
    if name not in list(ChangeType):
        return Finding(False, where, f"metadata.name is {name!r}: write {', '.join(ChangeType)}")
    if document.get("apiVersion") != "serin.dev/v1alpha1":
        return Finding(False, where, f"apiVersion is {document.get('apiVersion')!r}: write serin.dev/v1alpha1")
    try:
        return Finding(True, where, _summary(parse_policy(document.get("spec"), frozenset(PRESETS))))
    except FieldError as error:
        return Finding(False, where, str(error))


def _summary(policy: Policy) -> str:
    steps = ", ".join(f"{step.weight} % for {format_duration(step.bake)}" for step in policy.steps)
    return f"{steps}; {policy.approval.required or 'no'} approval{'' if policy.approval.required == 1 else 's'}"
