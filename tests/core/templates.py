"""Pod templates for properties: near to real ones, with odd names and values among them."""

import copy
from typing import Any

from hypothesis import strategies as st


def template(image: str = "registry.test/shop:1.4.2") -> dict[str, Any]:
    shop = {
        "name": "shop",
        "image": image,
        "args": ["--a", "--b"],
        "env": [{"name": "LOG_LEVEL", "value": "info"}, {"name": "URL", "value": "http://cart"}],
        "ports": [{"name": "http", "containerPort": 80}],
        "resources": {"requests": {"cpu": "100m"}, "limits": {"memory": "1Gi"}},
    }
    return {
        "metadata": {"labels": {"app": "shop"}},
        "spec": {
            "initContainers": [{"name": "init", "image": "init:1"}],
            "containers": [shop, {"name": "proxy", "image": "envoy:v1.31.0"}],
        },
    }


NAMES = st.sampled_from(["shop", "LOG_LEVEL", "a", "cpu", "A].env[LOG_LEVEL", "x.y/z", "é", "a\nb", "…"])
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(0, 3),
    st.sampled_from(["", '""', "info", "1", "true", "a\nb", "a\\nb", "\x7f", "\x1b[31m", "v" * 250, "v" * 251, "null"]),
)
FIELDS = st.sampled_from(["name", "value", "valueFrom", "env", "args", "ports", "labels", "containers", "image", "n-o"])
JSONS: st.SearchStrategy[Any] = st.recursive(
    VALUES,
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.one_of(FIELDS, NAMES), inner, max_size=2)),
    max_leaves=4,
)


def named(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(
        st.builds(lambda name, more: {"name": name, **more}, NAMES, st.dictionaries(FIELDS, inner, max_size=2)),
        max_size=2,
    )


CONTAINERS = named(st.one_of(named(VALUES), JSONS))


def templates() -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries(
        {},
        optional={
            "metadata": st.one_of(st.none(), st.dictionaries(FIELDS, JSONS, max_size=2).map(_with_labels)),
            "spec": st.one_of(st.none(), st.fixed_dictionaries({"containers": CONTAINERS}, optional={"env": JSONS})),
        },
    )


def _with_labels(metadata: dict[str, Any]) -> dict[str, Any]:
    return {**metadata, "labels": {"app": "shop"}}


@st.composite
def edited(draw: st.DrawFn, before: Any) -> Any:
    """`before` with one value anywhere in it replaced, removed or added."""
    after = copy.deepcopy(before)
    places = list(_places(after))
    if not places:
        return {"spec": draw(JSONS)}
    holder, key = draw(st.sampled_from(places))
    match draw(st.sampled_from(["replace", "remove", "add", "twice"])):
        case "replace":
            holder[key] = draw(JSONS)
        case "remove":
            del holder[key]
        case "add" if isinstance(holder, dict):
            holder[draw(st.one_of(FIELDS, NAMES))] = draw(JSONS)
        case "add":
            holder.insert(key, draw(JSONS))
        case "twice" if isinstance(holder, list):
            holder.insert(0, copy.deepcopy(holder[key]))
    metadata = after.get("metadata")
    if metadata and not isinstance(metadata, dict):
        after["metadata"] = {"labels": {}}
    elif metadata and not isinstance(metadata.get("labels", {}), dict):
        metadata["labels"] = {}
    return after


def _places(value: Any) -> Any:
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])
