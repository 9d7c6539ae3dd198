"""The two arms of each change, and how the series of Prometheus are told apart by them."""

import itertools
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from controller.core.model import ServicePair
from controller.core.policy import Incidents, Question, Rule
from controller.metrics.presets import Label, Labels, Preset

CANARY, STABLE = ARMS = ("canary", "stable")

_POD_PREFIX_MAX = 58
"""Kubernetes cuts the prefix of a generated pod name to this length, and adds _RANDOM characters."""
_RANDOM = 5
_POD = "{pod}"
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Subject:
    """A Deployment under change, and those of its rules that one source is asked about.

    Sources that select by Service find its arms by `services`, the others by pod name prefixes (`shop-canary-`,
    `shop-6d4c-`; empty: no such arm). Samples later than `since` are wanted, at most `batch.LOOKBACK_MAX` back; to
    continue a breach that is its `last_at` minus the rule's window.
    """

    namespace: str
    change: str
    target: str
    rules: tuple[Rule | Question, ...]
    incidents: Incidents
    source: Preset
    services: tuple[ServicePair, ...]
    canary_pods: str
    stable_pods: str
    since: datetime
    profile: bool = False
    """How slow stable has been since then is wanted too."""

    @property
    def indistinguishable(self) -> bool:
        """Whether Kubernetes cuts the names of canary and stable pods until nothing tells them apart."""
        return bool(self.canary_pods) and self.canary_pods[:_POD_PREFIX_MAX] == self.stable_pods[:_POD_PREFIX_MAX]


def quote(text: str) -> str:
    """A PromQL string literal of any text."""
    return json.dumps(text, ensure_ascii=False)


def one_of(values: Iterable[str], *, before: str = "", after: str = "") -> str:
    """A PromQL string literal of a regular expression: any of the values, between the expressions around them."""
    return quote(f"{before}(?:{'|'.join(re.escape(value) for value in sorted(set(values)))}){after}")


def fixed(labels: Labels) -> str:
    """Matchers of labels with these values."""
    return ",".join(f"{name}={quote(value)}" for name, value in labels)


class Selection:
    """The arms of many subjects: what to ask Prometheus for, and whose a series of its answer is."""

    def __init__(self, preset: Preset, subjects: Sequence[Subject]) -> None:
        self._labels = preset.selected_by
        self._where = preset.where
        self._owners: dict[tuple[str, ...], list[tuple[int, str]]] = defaultdict(list)
        for i, subject in enumerate(subjects):
            for arm in ARMS:
                for key in dict.fromkeys(_keys(preset.selected_by, subject, arm)):
                    self._owners[key].append((i, arm))
        self._values = [set(values) for values in zip(*self._owners, strict=True)]
        self._around = [re.compile(f"{each.before}(.+?){each.after}") for each in preset.selected_by]

    def __bool__(self) -> bool:
        return bool(self._owners)

    @property
    def names(self) -> tuple[str, ...]:
        """The labels that it goes by."""
        return tuple(label.name for label in self._labels)

    def matchers(self) -> str:
        arms = (
            f"{label.name}=~{one_of(values, before=label.before, after='.+' if label.value == _POD else label.after)}"
            for label, values in zip(self._labels, self._values, strict=True)
        )
        return ",".join((*arms, *filter(None, [fixed(self._where)])))

    def owners(self, labels: Mapping[str, str]) -> Sequence[tuple[int, str]] | None:
        """(index of the subject, arm) of those that count this series.

        Empty: asked for, but nobody's, for the labels are asked for apart. None: never asked for.
        """
        candidates = []
        for i, label in enumerate(self._labels):
            value = labels.get(label.name, "")
            if label.value == _POD:
                if not value:
                    return None
                candidates.append(_prefixes(value))
            elif label.before or label.after:
                inside = self._around[i].fullmatch(value)
                candidates.append([inside[1]] if inside else [])
            elif value in self._values[i]:
                candidates.append([value])
            else:
                return None
        for key in itertools.product(*candidates):
            if owners := self._owners.get(key):
                return owners
        return ()


def _prefixes(pod: str) -> list[str]:
    """How the name of the pod of an arm may begin: of a name that was cut, of a ReplicaSet, of a Deployment."""
    return [pod[:-_RANDOM], *(f"{pod.rsplit('-', n)[0]}-" for n in (1, 2))]


def _keys(labels: Sequence[Label], subject: Subject, arm: str) -> Iterator[tuple[str, ...]]:
    """The values of the labels that the series of an arm have, one key for each of its Services and ports."""
    templates = [label.of(canary=arm == CANARY) for label in labels]
    used = {name for template in templates for name in _PLACEHOLDER.findall(template)}
    prefix = subject.canary_pods if arm == CANARY else subject.stable_pods
    if used & {"pod", "workload"} and not prefix:
        return
    workload = prefix.removesuffix("-") if arm == CANARY else subject.target
    pairs = subject.services if used & {"service", "stable", "port"} else (ServicePair("", ""),)
    for pair in pairs:
        for port in pair.ports if "port" in used else (0,):
            values = {
                "namespace": subject.namespace,
                "service": pair.canary if arm == CANARY else pair.stable,
                "stable": pair.stable,
                "port": str(port),
                "workload": workload,
                "pod": prefix[:_POD_PREFIX_MAX],
            }
            yield tuple(_filled(template, values) for template in templates)


def _filled(template: str, values: Mapping[str, str]) -> str:
    return _PLACEHOLDER.sub(lambda placeholder: values[placeholder[1]], template)
