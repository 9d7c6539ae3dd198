"""ChangePolicies in files, read and checked as the controller would check them."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from controller.core.codec import FieldError
from controller.core.policy import ChangeType, Policy, parse_policy
from controller.core.windows import Window
from controller.lab import LabError
from controller.metrics.presets import PRESETS, preset_of

_SHIPPED = Path(__file__).parents[2] / "policies"
"""In a checkout; an installed package is without it."""


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


def read(path: Path) -> list[dict[str, Any]] | Finding:
    """The objects of a file, those of Lists among them; or why it cannot be read. `-` is standard input."""
    try:
        text = sys.stdin.read() if path == Path("-") else path.read_text()
        documents = [d for d in yaml.load_all(text, Loader) if isinstance(d, dict)]
    except (OSError, UnicodeDecodeError) as error:
        return Finding(False, str(path), f"cannot be read: {getattr(error, 'strerror', None) or 'it is no text'}")
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        return Finding(False, where, f"is no YAML: {getattr(error, 'problem', None) or error}")
    items = (d.get("items") if d.get("kind") == "List" else [d] for d in documents)
    return [item for each in items for item in each or () if isinstance(item, dict)]


def judge(path: Path, document: dict[str, Any]) -> Policy | Finding:
    """The policy that a ChangePolicy holds; or the field, its value and the mend."""
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
    slow = next((slo.name for slo in policy.slos if slo.slower_than), "")
    if slow and not preset_of(policy.metrics).latency:
        said = f"spec.slos: {slow} has slowerThan, but {policy.metrics.preset} does not say how slow it was"
        return Finding(
            False, where, f"{said}: take it out, or choose a source that has a histogram, see docs/metrics.md"
        )
    return policy


def load(given: str) -> tuple[ChangeType, Policy]:
    """The one policy that is to be tried: of a file, of standard input (`-`), or a shipped one by its name.

    Raises LabError.
    """
    path = Path(given)
    if given in list(ChangeType) and not path.exists():
        path = _SHIPPED / f"{given}.yaml"
        if not path.exists():
            mend = f"this installation is without it: kubectl get chgp {given} -o yaml | serin … --policy -"
            raise _unusable(Finding(False, given, mend))
    found = read(path)
    if isinstance(found, Finding):
        raise _unusable(found)
    policies = [document for document in found if document.get("kind") == "ChangePolicy"]
    if len(policies) != 1:
        raise _unusable(Finding(False, str(path), f"has {len(policies)} ChangePolicies in it: one at a time is tried"))
    policy = judge(path, policies[0])
    if isinstance(policy, Finding):
        raise _unusable(policy)
    return ChangeType(policies[0]["metadata"]["name"]), policy


def sourced(policy: Policy, preset: str) -> Policy:
    """The policy with its requests counted elsewhere; as it is without a `preset`. Raises LabError."""
    if preset and preset not in PRESETS:
        raise LabError(f"--preset is {preset!r}: write one of {', '.join(sorted(PRESETS))}")
    return replace(policy, metrics=replace(policy.metrics, preset=preset, custom=None)) if preset else policy


def _unusable(finding: Finding) -> LabError:
    return LabError(f"{finding.where}: {finding.text}")
