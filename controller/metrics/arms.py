"""The two arms of each change, and how the series of Prometheus are told apart by them."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from controller.core.model import ServicePair
from controller.core.policy import Incidents, Rule
from controller.metrics.presets import Preset, SelectedBy

CANARY, STABLE = ARMS = ("canary", "stable")

_POD_PREFIX_MAX = 58
"""Kubernetes cuts the prefix of a generated pod name to this length, and adds _RANDOM characters."""
_RANDOM = 5


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
    rules: tuple[Rule, ...]
    incidents: Incidents
    source: Preset
    services: tuple[ServicePair, ...]
    canary_pods: str
    stable_pods: str
    since: datetime

    @property
    def indistinguishable(self) -> bool:
        """Whether Kubernetes cuts the names of canary and stable pods until nothing tells them apart."""
        return bool(self.canary_pods) and self.canary_pods[:_POD_PREFIX_MAX] == self.stable_pods[:_POD_PREFIX_MAX]


def quote(text: str) -> str:
    """A PromQL string literal of any text."""
    return json.dumps(text, ensure_ascii=False)


def one_of(values: Iterable[str], suffix: str = "") -> str:
    """A PromQL string literal of a regular expression: any of the values, then `suffix` (an expression)."""
    return quote(f"(?:{'|'.join(re.escape(value) for value in sorted(set(values)))}){suffix}")


class Selection:
    """The arms of many subjects: what to ask Prometheus for, and whose a series of its answer is."""

    def __init__(self, selected_by: SelectedBy, subjects: Sequence[Subject]) -> None:
        self._selected_by = selected_by
        self._owners: dict[tuple[str, str], list[tuple[int, str]]] = defaultdict(list)
        for i, subject in enumerate(subjects):
            for key, arm in _keys(selected_by, subject):
                self._owners[key].append((i, arm))
        self._namespaces = {namespace for namespace, _ in self._owners}
        self._names = {name for _, name in self._owners}

    def __bool__(self) -> bool:
        return bool(self._owners)

    def matchers(self) -> str:
        if self._selected_by is SelectedBy.SERVICE:
            return f"envoy_cluster_name=~{one_of(self._names)}"
        return f"namespace=~{one_of(self._namespaces)},pod=~{one_of(self._names, suffix='.+')}"

    def owners(self, labels: Mapping[str, str]) -> Sequence[tuple[int, str]] | None:
        """(index of the subject, arm) of those that count this series.

        Empty: asked for, but nobody's, for namespaces and pod prefixes are asked for apart. None: never asked for.
        """
        if self._selected_by is SelectedBy.SERVICE:
            return self._owners.get(("", labels.get("envoy_cluster_name", "")))
        namespace, pod = labels.get("namespace", ""), labels.get("pod", "")
        if namespace not in self._namespaces or not pod:
            return None
        of_replica_set, of_deployment = (f"{pod.rsplit('-', n)[0]}-" for n in (1, 2))
        for prefix in (pod[:-_RANDOM], of_replica_set, of_deployment):
            if owners := self._owners.get((namespace, prefix)):
                return owners
        return ()


def _keys(selected_by: SelectedBy, subject: Subject) -> Iterator[tuple[tuple[str, str], str]]:
    if selected_by is SelectedBy.SERVICE:
        for pair in subject.services:
            for port in pair.ports:
                yield ("", f"{subject.namespace}_{pair.canary}_{port}"), CANARY
                yield ("", f"{subject.namespace}_{pair.stable}_{port}"), STABLE
    else:
        for prefix, arm in ((subject.canary_pods, CANARY), (subject.stable_pods, STABLE)):
            if prefix:
                yield (subject.namespace, prefix[:_POD_PREFIX_MAX]), arm
