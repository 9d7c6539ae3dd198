"""Writes serin-rollouts.json beside it, a Grafana dashboard of rollouts: `python manifests/grafana/build.py`."""

import json
from pathlib import Path
from typing import Any

OUTPUT = Path(__file__).with_name("serin-rollouts.json")
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
CHANGE = 'namespace=~"$namespace",change=~"$change"'
WIDTH = 24

Panel = dict[str, Any]


def panel(kind: str, title: str, text: str, *queries: tuple[str, str], unit: str = "none", **more: Any) -> Panel:
    """A panel without a place. `queries`: PromQL and the legend; `text`: what an SRE reads from it."""
    instant = kind in ("stat", "bargauge")
    targets = [
        {
            "refId": "ABCDEFGH"[i],
            "datasource": DATASOURCE,
            "expr": expr,
            "legendFormat": legend,
            "instant": instant,
            "range": not instant,
        }
        for i, (expr, legend) in enumerate(queries)
    ]
    defaults = {"unit": unit, **more.pop("defaults", {})}
    return {
        "type": kind,
        "title": title,
        "description": text,
        "datasource": DATASOURCE,
        "targets": targets,
        "fieldConfig": {"defaults": defaults, "overrides": more.pop("overrides", [])},
        "options": more.pop("options", {}),
        **more,
    }


def quantile(share: float, histogram: str, function: str, window: str) -> str:
    return f"histogram_quantile({share}, sum by (le) ({function}({histogram}_bucket[{window}])))"


def light(title: str, text: str, expr: str, *, good: str, bad: str) -> Panel:
    """Green for 1, red for less."""
    states = {"0": {"text": bad, "color": "red"}, "1": {"text": good, "color": "green"}}
    mappings = [{"type": "value", "options": states}]
    return panel("stat", title, text, (expr, ""), defaults={"mappings": mappings}, options={"colorMode": "background"})


def dashed(pattern: str) -> list[Panel]:
    """Series whose legend matches are limits: dashed, red."""
    line = {"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [8, 6]}}
    colour = {"id": "color", "value": {"mode": "fixed", "fixedColor": "red"}}
    return [{"matcher": {"id": "byRegexp", "options": pattern}, "properties": [line, colour]}]


def rows() -> list[tuple[int, list[Panel]]]:
    """Height and panels of each row; the panels of a row share its width."""
    return [
        (
            4,
            [
                light(
                    "Leader",
                    "One replica holds the Lease and acts. Red: no change moves, and none is rolled back.",
                    "sum(serin_leader)",
                    good="leads",
                    bad="none",
                ),
                light(
                    "Prometheus",
                    "Whether the leader gets answers. Red: changes hold, and go back at the policy's deadline.",
                    "min(serin_prometheus_up and serin_leader == 1)",
                    good="answers",
                    bad="silent",
                ),
                light(
                    "Admission",
                    "Whether the admission policies are installed. Red: no change starts.",
                    "min(serin_admission_up)",
                    good="installed",
                    bad="missing",
                ),
                panel(
                    "stat",
                    "Changes under way",
                    "Waiting ones included.",
                    (f'sum(serin_change_phase{{{CHANGE},phase!~"Completed|RolledBack|Superseded"}}) or vector(0)', ""),
                ),
                panel(
                    "stat",
                    "Rolled back",
                    "Within the last hour.",
                    (f'sum(serin_change_phase{{{CHANGE},phase="RolledBack"}}) or vector(0)', ""),
                ),
                panel(
                    "stat",
                    "Verdict to first write",
                    "99 % of rollbacks in the time shown were begun within this. Empty: there was none.",
                    (
                        quantile(0.99, "serin_first_write_seconds", "increase", "$__range"),
                        "",
                    ),
                    unit="s",
                ),
            ],
        ),
        (
            8,
            [
                panel(
                    "state-timeline",
                    "Phase",
                    "Where each change is in its journey.",
                    (
                        f"max by (namespace, change, phase) (serin_change_phase{{{CHANGE}}} == 1)",
                        "{{change}}: {{phase}}",
                    ),
                    options={"showValue": "never"},
                ),
                panel(
                    "state-timeline",
                    "Reason",
                    "Why it is there; docs/troubleshooting.md explains each reason.",
                    (
                        f"max by (namespace, change, reason) (serin_change_reason{{{CHANGE}}})",
                        "{{change}}: {{reason}}",
                    ),
                    options={"showValue": "never"},
                ),
            ],
        ),
        (
            8,
            [
                panel(
                    "timeseries",
                    "Weight of the canary",
                    "What it is to have, and what the routes give it.",
                    (f"max by (namespace, change) (serin_change_weight_desired{{{CHANGE}}})", "{{change}} desired"),
                    (
                        f"max by (namespace, change, target) (serin_change_weight_actual{{{CHANGE}}})",
                        "{{change}} {{target}} actual",
                    ),
                    unit="percent",
                    defaults={"min": 0, "max": 100, "custom": {"lineInterpolation": "stepAfter", "fillOpacity": 8}},
                ),
                panel(
                    "timeseries",
                    "Step",
                    "1 is the first, 0 before the start.",
                    (f"max by (namespace, change) (serin_change_step{{{CHANGE}}})", "{{change}}"),
                    defaults={"min": 0, "decimals": 0, "custom": {"lineInterpolation": "stepAfter"}},
                ),
            ],
        ),
        (
            8,
            [
                panel(
                    "timeseries",
                    "Error ratio",
                    "Failed requests of the canary and of stable, and the limit.",
                    (
                        f'max by (namespace, change, target, arm) (serin_measured_ratio{{{CHANGE},rule="error-rate"}})',
                        "{{change}} {{target}} {{arm}}",
                    ),
                    (
                        f'max by (namespace, change) (serin_measured_ratio_max{{{CHANGE},rule="error-rate"}})',
                        "{{change}} limit",
                    ),
                    unit="percentunit",
                    defaults={"min": 0},
                    overrides=dashed("/ limit$/"),
                ),
                panel(
                    "timeseries",
                    "SLOs",
                    "Bad requests by the other rules of the policy, and their limits.",
                    (
                        "max by (namespace, change, target, rule, arm) "
                        f'(serin_measured_ratio{{{CHANGE},rule!="error-rate"}})',
                        "{{change}} {{target}} {{rule}} {{arm}}",
                    ),
                    (
                        f'max by (namespace, change, rule) (serin_measured_ratio_max{{{CHANGE},rule!="error-rate"}})',
                        "{{change}} {{rule}} limit",
                    ),
                    unit="percentunit",
                    defaults={"min": 0},
                    overrides=dashed("/ limit$/"),
                ),
                panel(
                    "timeseries",
                    "Breach",
                    "How long a limit has been exceeded without a good sample. At the dashed line it goes back.",
                    (
                        f"max by (namespace, change, target, rule) (serin_breach_seconds{{{CHANGE}}})",
                        "{{change}} {{target}} {{rule}}",
                    ),
                    (f"max by (namespace, change) (serin_breach_seconds_max{{{CHANGE}}})", "{{change}} limit"),
                    unit="s",
                    defaults={"min": 0},
                    overrides=dashed("/ limit$/"),
                ),
                panel(
                    "timeseries",
                    "Evidence",
                    "Against the canary, compared with stable: 1 is none. At the dashed line it goes back.",
                    (
                        f"max by (namespace, change, target, rule) (serin_evidence{{{CHANGE}}})",
                        "{{change}} {{target}} {{rule}}",
                    ),
                    (f"max by (namespace, change, rule) (serin_evidence_max{{{CHANGE}}})", "{{change}} {{rule}} limit"),
                    defaults={"custom": {"scaleDistribution": {"type": "log", "log": 10}}},
                    overrides=dashed("/ limit$/"),
                ),
            ],
        ),
        (
            8,
            [
                panel(
                    "bargauge",
                    "Decisions by reason",
                    "Since the leader began.",
                    ("sort_desc(sum by (phase, reason) (serin_decisions_total))", "{{phase}} {{reason}}"),
                    options={"orientation": "horizontal"},
                ),
                panel(
                    "bargauge",
                    "Writes by kind",
                    "Since the leader began.",
                    ("sort_desc(sum by (kind) (serin_writes_total))", "{{kind}}"),
                    options={"orientation": "horizontal"},
                ),
                panel(
                    "timeseries",
                    "Time of one look",
                    "Of all looks at changes, half and 99 % took no longer.",
                    (
                        quantile(0.5, "serin_reconcile_seconds", "rate", "$__rate_interval"),
                        "median",
                    ),
                    (
                        quantile(0.99, "serin_reconcile_seconds", "rate", "$__rate_interval"),
                        "p99",
                    ),
                    unit="s",
                    defaults={"min": 0},
                ),
                panel(
                    "timeseries",
                    "The process",
                    "CPU and memory of each replica.",
                    (
                        "rate(process_cpu_seconds_total[$__rate_interval]) and on (job, instance) serin_build_info",
                        "{{instance}} CPUs",
                    ),
                    ("process_resident_memory_bytes and on (job, instance) serin_build_info", "{{instance}} memory"),
                    defaults={"min": 0},
                    overrides=[
                        {
                            "matcher": {"id": "byRegexp", "options": "/ memory$/"},
                            "properties": [
                                {"id": "unit", "value": "bytes"},
                                {"id": "custom.axisPlacement", "value": "right"},
                            ],
                        }
                    ],
                ),
            ],
        ),
    ]


def placed() -> list[Panel]:
    """The panels with an ID and a place on the grid."""
    panels: list[Panel] = []
    y = 0
    for height, row in rows():
        width = WIDTH // len(row)
        for i, each in enumerate(row):
            place = {"x": i * width, "y": y, "w": width, "h": height}
            panels.append({"id": len(panels) + 1, "gridPos": place, **each})
        y += height
    return panels


def variable(name: str, label: str, query: str) -> dict[str, Any]:
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 2,
        "includeAll": True,
        "allValue": ".+",
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
    }


def dashboard() -> dict[str, Any]:
    return {
        "uid": "serin-rollouts",
        "title": "Serin: rollouts",
        "description": "Changes on their way, what they are judged by, and the controller itself.",
        "tags": ["serin"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {"type": "datasource", "name": "datasource", "label": "Prometheus", "query": "prometheus"},
                variable("namespace", "Namespace", "label_values(serin_change_phase, namespace)"),
                variable("change", "Change", 'label_values(serin_change_phase{namespace=~"$namespace"}, change)'),
            ]
        },
        "panels": placed(),
    }


if __name__ == "__main__":
    OUTPUT.write_text(json.dumps(dashboard(), indent=2) + "\n")
