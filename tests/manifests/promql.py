"""The queries of manifests/: those of the dashboard with Grafana's variables filled in, and those of the alerts."""

import json
from typing import Any

import yaml

from tests.manifests.conftest import ROOT

DASHBOARD: dict[str, Any] = json.loads((ROOT / "manifests/grafana/serin-rollouts.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
QUERIES: list[str] = [target["expr"] for panel in PANELS for target in panel["targets"]]
ALERTS: list[dict[str, Any]] = yaml.safe_load((ROOT / "manifests/alerts.yaml").read_text())["groups"][0]["rules"]


def rendered(query: str, *, namespace: str = ".+", change: str = ".+", window: str = "1m") -> str:
    """As Grafana sends it."""
    values = {"$namespace": namespace, "$change": change, "$__rate_interval": window, "$__range": window}
    for variable, value in values.items():
        query = query.replace(variable, value)
    return query
