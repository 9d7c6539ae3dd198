"""What differs between two pod templates, as people name it: `containers[shop].image`. Pure.

Two templates differ here if and only if their revisions differ: nothing that makes a new revision goes unnamed. Names
in brackets that are not plain (letters, digits, `. _ / -`) are quoted, so that no name can pass for another path.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from controller.core.change import printable
from controller.core.codec import JSON
from controller.core.template import HASH_LABEL

DIFFERENCES_MAX = 50
VALUE_MAX = 200
PATH_MAX = 320
_PLAIN = re.compile(r"[A-Za-z0-9._/-]+")
_FIELD = re.compile(r"[a-z][A-Za-z0-9]*")
_ABSENT = object()
_KEYS = {
    "containers": ("name",),
    "initContainers": ("name",),
    "ephemeralContainers": ("name",),
    "env": ("name",),
    "volumes": ("name",),
    "imagePullSecrets": ("name",),
    "ports": ("name", "containerPort"),
    "volumeMounts": ("mountPath",),
    "volumeDevices": ("devicePath",),
}
"""Lists whose entries are matched by the first of these fields that they have, and not by their place."""
_MAPS = ("labels", "annotations", "nodeSelector", "matchLabels")
"""Fields whose keys are data."""


@dataclass(frozen=True)
class Difference:
    """One field that is not the same: printable text, empty where the field is absent; the two are never equal."""

    path: str
    before: str = ""
    after: str = ""


@dataclass(frozen=True)
class Image:
    """The image of a container. Without a digest the tag may come to mean another image later."""

    container: str
    image: str
    digest: str = ""


def differences(stable: JSON, new: JSON) -> tuple[Difference, ...]:
    """From the stable template to the new one, whole, in the order of the fields."""
    before, after = _plain(stable), _plain(new)
    return (*_compare("", before["spec"], after["spec"]), *_compare("metadata", before["metadata"], after["metadata"]))


def images(template: JSON) -> tuple[Image, ...]:
    """The images of a template, init containers first, as far as a record keeps them."""
    spec = (template or {}).get("spec") or {}
    found = [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]
    named = ((str(c.get("name", "")), *str(c.get("image", "")).partition("@")) for c in found)
    return tuple(
        Image(printable(name, 63), printable(image, VALUE_MAX), printable(digest, VALUE_MAX))
        for name, image, _, digest in named
    )[:DIFFERENCES_MAX]


def for_record(found: Sequence[Difference]) -> tuple[Difference, ...]:
    """As much as is kept: at most 50, each value within 200 characters; what is cut says so."""
    kept = tuple(
        Difference(printable(d.path, PATH_MAX), _cut(d.before), _cut(d.after)) for d in found[:DIFFERENCES_MAX]
    )
    if (more := len(found) - DIFFERENCES_MAX) <= 0:
        return kept
    return (*kept[:-1], Difference("…", "", f"{more + 1} more differences are not kept here"))


def _cut(text: str) -> str:
    """A value that is cut ends with a hash of the whole, so that two that differ still do."""
    if len(text) <= VALUE_MAX:
        return text
    end = f"… ({len(text)} characters, sha256 {hashlib.sha256(text.encode()).hexdigest()[:12]})"
    return text[: VALUE_MAX - len(end)] + end


# --- The comparison ---


def _plain(template: JSON) -> dict[str, JSON]:
    """What `template.revision` takes into account."""
    template = template or {}
    metadata = dict(template.get("metadata") or {})
    metadata.pop("creationTimestamp", None)
    metadata["labels"] = {k: v for k, v in (metadata.get("labels") or {}).items() if k != HASH_LABEL}
    return {"metadata": metadata, "spec": template.get("spec")}


def _compare(path: str, before: JSON, after: JSON) -> Iterator[Difference]:
    if _canonical(before) == _canonical(after):
        return
    name = "" if path.endswith("]") else path.rpartition(".")[2]
    before, after = _beside(name, before, after), _beside(name, after, before)
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in _union(before, after):
            yield from _compare(_join(path, name, key), before.get(key, _ABSENT), after.get(key, _ABSENT))
        return
    if _lists(before, after):
        keyed = [_keyed(name, side) for side in (before, after)]
        if keyed[0] is not None and keyed[1] is not None:
            yield from _compare_keyed(path, name, keyed[0], keyed[1])
            return
        if name not in _KEYS and len(before) == len(after):
            for i, (one, other) in enumerate(zip(before, after, strict=True)):
                yield from _compare(f"{path}[{i}]", one, other)
            return
    yield _leaf(path, before, after)


def _compare_keyed(path: str, name: str, before: Mapping[str, JSON], after: Mapping[str, JSON]) -> Iterator[Difference]:
    for key in _union(before, after):
        one, other = before.get(key, _ABSENT), after.get(key, _ABSENT)
        compare = _compare_variable if name == "env" else _compare
        yield from compare(f"{path}[{_name(key)}]", one, other)
    common = [[key for key in side if key in before and key in after] for side in (before, after)]
    if common[0] != common[1]:
        yield _leaf(path, f"in the order {json.dumps(common[0])}", f"in the order {json.dumps(common[1])}")


def _compare_variable(path: str, before: JSON, after: JSON) -> Iterator[Difference]:
    """`env[X]` stands for a value that is written there; one from elsewhere is `env[X].valueFrom`."""
    if _canonical(before) == _canonical(after):
        return
    rests = [{} if side is _ABSENT else {k: v for k, v in side.items() if k not in ("name", "value")}
             for side in (before, after)]  # fmt: skip
    literals = [
        side.get("value", _ABSENT if rest else "") if side is not _ABSENT else _ABSENT
        for side, rest in zip((before, after), rests, strict=True)
    ]
    found = [
        *([_leaf(path, *literals)] if _canonical(literals[0]) != _canonical(literals[1]) else []),
        *_compare(path, *rests),
    ]
    yield from found or [_leaf(path, before, after)]


def _beside(name: str, value: JSON, other: JSON) -> JSON:
    """Where a list or map that is matched by names is absent, it is an empty one: each entry of the other is named."""
    if value is _ABSENT and other and name in _KEYS and isinstance(other, list):
        return []
    return {} if value is _ABSENT and other and name in _MAPS and isinstance(other, Mapping) else value


def _union(before: Mapping[str, JSON], after: Mapping[str, JSON]) -> list[str]:
    return [*before, *(key for key in after if key not in before)]


def _lists(before: JSON, after: JSON) -> bool:
    return isinstance(before, list | tuple) and isinstance(after, list | tuple)


def _keyed(name: str, entries: Sequence[JSON]) -> dict[str, JSON] | None:
    """The entries by their names; None when a name is missing or not alone."""
    fields = _KEYS.get(name, ())
    found: dict[str, JSON] = {}
    for entry in entries:
        key = next((entry[f] for f in fields if f in entry), None) if isinstance(entry, Mapping) else None
        if key is None or str(key) in found:
            return None
        found[str(key)] = entry
    return found


def _join(path: str, name: str, key: str) -> str:
    if name in _MAPS or not _FIELD.fullmatch(key):
        return f"{path}[{_name(key)}]"
    return f"{path}.{key}" if path else key


def _name(key: str) -> str:
    return key if _PLAIN.fullmatch(key) else json.dumps(key)


def _leaf(path: str, before: JSON, after: JSON) -> Difference:
    shown = (_text(before), _text(after))
    if shown[0] == shown[1]:  # a number and its text, a line break and its escape
        shown = (_json(before), _json(after))
    return Difference(_escaped(path), *shown)


def _text(value: JSON) -> str:
    return _escaped(value) if isinstance(value, str) and value else _json(value)


def _json(value: JSON) -> str:
    return "" if value is _ABSENT else _escaped(json.dumps(value, sort_keys=True))


def _escaped(text: str) -> str:
    return printable(text, len(text) * 12)


def _canonical(value: JSON) -> object:
    return _ABSENT if value is _ABSENT else json.dumps(value, sort_keys=True)
