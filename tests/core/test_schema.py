"""Whatever a schema lacks of what we write is named: each field of it, one by one."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from controller.core.model import State
from controller.core.schema import unkept

CRD = yaml.safe_load((Path(__file__).parents[2] / "manifests/crds/changerequests.yaml").read_text())
STATUS: dict[str, Any] = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]


def shipped() -> dict[str, Any]:
    """As an API server publishes it: without what YAML says once for two places."""
    return dict(json.loads(json.dumps(STATUS)))


def lost(schema: dict[str, Any]) -> list[str]:
    return list(unkept(State, schema, "status"))


def fields(schema: dict[str, Any], path: str) -> Iterator[tuple[dict[str, Any], str, str]]:
    """Every field: the properties that it is in, its name, and its path."""
    for name, inner in (schema.get("properties") or {}).items():
        yield schema["properties"], name, f"{path}.{name}"
        yield from fields(inner, f"{path}.{name}")
    if "items" in schema:
        yield from fields(schema["items"], f"{path}[]")


def test_the_crd_that_we_ship_keeps_all() -> None:
    assert lost(STATUS) == []


def test_any_field_that_is_missing_is_named() -> None:
    paths = [path for _, _, path in fields(STATUS, "status")]
    assert len(paths) > 200
    for path in paths:
        older = shipped()
        properties, name = next((p, n) for p, n, where in fields(older, "status") if where == path)
        del properties[name]
        assert lost(older) == [path]


def test_a_word_that_would_be_refused_is_named() -> None:
    older = shipped()
    older["properties"]["stage"]["enum"].remove("Watch")
    assert lost(older) == ["status.stage: Watch"]


def test_without_any_schema_everything_is_lost_and_what_is_kept_as_it_is_is_not() -> None:
    assert len(lost({})) == len(STATUS["properties"])
    assert lost({"x-kubernetes-preserve-unknown-fields": True}) == []
