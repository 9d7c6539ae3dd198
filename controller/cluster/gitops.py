"""Whether a GitOps tool will put back a field that a change writes, and the YAML that has it leave that alone. Pure.

Argo CD heals an object when its Application says `selfHeal` and the live object differs from Git; `ignoreDifferences`
takes a field out of that comparison, and only with `RespectIgnoreDifferences=true` out of what a sync applies as well.
Flux's kustomize-controller applies by force at every interval what `spec.ignore` (from 1.9 on) or an annotation does
not except; helm-controller does so where `driftDetection.mode` is `enabled`. What cannot be read for sure counts as
harmless: a fight that comes all the same is met by core/fights.py.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from controller.core.change import printable
from controller.core.model import Revert

Json = dict[str, Any]
ARGO_TRACKING = "argocd.argoproj.io/tracking-id"
ARGO_OPTIONS = "argocd.argoproj.io/sync-options"
INSTANCE = "app.kubernetes.io/instance"
KUSTOMIZE, HELM = "kustomize.toolkit.fluxcd.io", "helm.toolkit.fluxcd.io"
RESPECT = "RespectIgnoreDifferences="
MANAGER = "serin"
NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


@dataclass(frozen=True)
class Owner:
    """What an object says that it comes from. `namespace` empty: not known. `sure`: it is what the mark is for."""

    kind: str
    namespace: str
    name: str
    sure: bool = True

    def __str__(self) -> str:
        tool = "Argo CD's" if self.kind == "Application" else "Flux's"
        return printable(f"{tool} {self.kind} {self.namespace}{'/' if self.namespace else ''}{self.name}")


@dataclass(frozen=True)
class Written:
    """A field that a change writes: the object that has it, with its kind, and a JSON pointer."""

    raw: Json
    group: str
    pointer: str

    @property
    def names(self) -> Mapping[str, str]:
        """The object as the selectors of both tools name it."""
        meta, kind = self.raw["metadata"], str(self.raw["kind"])
        return {"group": self.group, "kind": kind, "namespace": meta["namespace"], "name": meta["name"]}

    @property
    def what(self) -> str:
        return f"{self.pointer} of {self.names['kind']}/{self.names['namespace']}/{self.names['name']}"

    def marked(self, key: str, *values: str) -> bool:
        """Whether a label or an annotation says one of these."""
        meta = self.raw["metadata"]
        return any(str(_map(meta.get(part)).get(key, "")).lower() in values for part in ("labels", "annotations"))


def owners(raw: Json) -> Iterator[Owner]:
    meta = raw["metadata"]
    labels, annotations = _map(meta.get("labels")), _map(meta.get("annotations"))
    tracking = str(annotations.get(ARGO_TRACKING, ""))
    application, _, place = tracking.partition(":")
    namespace, _, name = application.rpartition("_")
    found = []
    if place.endswith(f"{raw['kind']}:{meta['namespace']}/{meta['name']}"):  # else it was copied from another object
        found.append(Owner("Application", namespace, name))
    elif not tracking:
        found.append(Owner("Application", "", str(labels.get(INSTANCE, "")), sure=False))
    for kind, group in (("Kustomization", KUSTOMIZE), ("HelmRelease", HELM)):
        namespace, name = (str(labels.get(f"{group}/{key}", "")) for key in ("namespace", "name"))
        found.append(Owner(kind, namespace, name, sure=kind == "Kustomization"))
    # Anything may stand in an annotation; what is no name is none.
    return (o for o in found if NAME.fullmatch(o.name) and (not o.namespace or NAME.fullmatch(o.namespace)))


def revert(field: Written, owner: Owner, found: Sequence[Json]) -> Revert | None:
    """What the owner does to the field. `found`: the objects that it may be; none when they cannot be read here."""
    if owner.kind == "Application":
        found = [app for app in found if _manages(app, field, sure=owner.sure)]
    if not found and owner.sure and not _excepted(field):
        return Revert(field.what, str(owner), known=False)
    lacking = {"Application": _argo, "Kustomization": _kustomize, "HelmRelease": _helm}[owner.kind]
    for raw in found:
        if yaml := lacking(_map(raw.get("spec")), field):
            named = Owner(owner.kind, raw["metadata"]["namespace"], raw["metadata"]["name"])
            return Revert(field.what, str(named), f"spec:\n{yaml}")
    return None


# --- Argo CD ---


def _manages(app: Json, field: Written, *, sure: bool) -> bool:
    """By its own list of resources; while it has none, its mark is believed."""
    resources = _list(_map(app.get("status")).get("resources"))
    return (sure and not resources) or any(
        all(resource.get(key) == value for key, value in field.names.items()) for resource in resources
    )


def _argo(spec: Json, field: Written) -> str:
    policy = _map(spec.get("syncPolicy"))
    automated = _map(policy.get("automated"))
    if automated.get("enabled") is False or not automated.get("selfHeal"):
        return ""
    own = str(_map(field.raw["metadata"].get("annotations")).get(ARGO_OPTIONS, "")).split(",")
    options = [option.strip() for option in (*own, *_texts(policy.get("syncOptions")))]  # its own go first
    respected = next((option for option in options if option.startswith(RESPECT)), "") == f"{RESPECT}true"
    if respected and any(_ignores(rule, field) for rule in _list(spec.get("ignoreDifferences"))):
        return ""
    names = "\n    ".join(f"{key}: {value}" for key, value in field.names.items())
    rule = f"  ignoreDifferences:\n  - {names}\n    jsonPointers: [{field.pointer}]\n"
    return f"{rule}  syncPolicy:\n    syncOptions: [{RESPECT}true]\n"


def _ignores(rule: Json, field: Written) -> bool:
    names = field.names
    globs = all(fnmatchcase(names[key], str(rule.get(key) or "")) for key in ("group", "kind"))
    if not globs or not all(rule.get(key) in (None, "", names[key]) for key in ("namespace", "name")):
        return False
    queries = {pointer.replace("/", ".") or "." for pointer in _above(field.pointer)}
    if field.pointer == "/spec/rules":
        queries |= {".spec.rules[]", ".spec.rules[].backendRefs"}
    said = {query.replace("?", "").replace(" ", "") for query in _texts(rule.get("jqPathExpressions"))}
    pointers = set(_texts(rule.get("jsonPointers")))
    ours = MANAGER in _texts(rule.get("managedFieldsManagers"))
    return ours or bool(pointers & _above(field.pointer)) or bool(said & queries)


def _above(pointer: str) -> set[str]:
    """The pointers to the field, and to all that has it."""
    parts = pointer.split("/")
    return {"/".join(parts[:i]) for i in range(1, len(parts) + 1)}


# --- Flux ---


def _kustomize(spec: Json, field: Written) -> str:
    if spec.get("suspend") or _excepted(field) or _excludes(spec.get("ignore"), field):
        return ""
    return _rule(field, "  ")


def _helm(spec: Json, field: Written) -> str:
    detection = _map(spec.get("driftDetection"))
    off = detection.get("mode") != "enabled" or field.marked(f"{HELM}/driftDetection", "disabled")
    if spec.get("suspend") or off or _excludes(detection.get("ignore"), field):
        return ""
    return f"  driftDetection:\n{_rule(field, '    ')}"


def _rule(field: Written, indent: str) -> str:
    target = "".join(f"{indent}    {key}: {value}\n" for key, value in field.names.items())
    return f"{indent}ignore:\n{indent}- paths: [{field.pointer}]\n{indent}  target:\n{target}"


def _excepted(field: Written) -> bool:
    """The object itself has kustomize-controller leave it as it is."""
    by_policy = field.marked(f"{KUSTOMIZE}/ssa", "ignore", "ifnotpresent")
    return by_policy or field.marked(f"{KUSTOMIZE}/reconcile", "disabled")


def _excludes(rules: Any, field: Written) -> bool:
    """Whether one of the rules leaves the field alone, for this object or for all."""
    return any(
        set(_texts(rule.get("paths"))) & _above(field.pointer)
        and all(_selects(str(_map(rule.get("target")).get(key) or ""), value) for key, value in field.names.items())
        for rule in _list(rules)
    )


def _selects(pattern: str, value: str) -> bool:
    """A pattern of Flux: a regular expression, of which alternatives and `.*` are read; empty: anything.

    Nobody's expression is run here: one that is made for it takes hours. One that says more than these counts as a yes.
    """
    plain = pattern.removeprefix("^").removesuffix("$").removeprefix("(").removesuffix(")")
    if not plain or any(ch in "[]{}+?\\()" for ch in plain):
        return True
    return any(fnmatchcase(value, part.replace(".*", "*")) for part in plain.split("|"))


def _map(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Json]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _texts(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
