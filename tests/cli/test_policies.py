"""`kubectl serin policy check` names the field, its value and the mend."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from controller.cli.policies import check

ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 11, 23, 8, tzinfo=UTC)
GOOD = (ROOT / "policies/normal.yaml").read_text()
CUSTOM = (
    '{requests: hits, codes: [{label: code, bad: ["5*"]}], '
    'selectedBy: [{label: backend, value: "{namespace}.{service}"}]}'
)


def test_the_shipped_policies_are_good() -> None:
    findings = [f for name in ("standard", "normal", "emergency") for f in check(ROOT / f"policies/{name}.yaml", NOW)]
    assert [(f.good, f.text) for f in findings] == [
        (True, "10 % for 5m, 50 % for 5m, 100 % for 10m; no approvals; starts where it finds 50m30s: at any time"),
        (
            True,
            "10 % for 10m, 50 % for 10m, 100 % for 15m; 1 approval; starts where it finds 1h20m30s: "
            "first Sunday of the month, Sun 2026-12-06 02:00 to 04:00 UTC",
        ),
        (True, "10 % for 1m, 50 % for 1m, 100 % for 2m; 1 approval; starts where it finds 18m30s: at any time"),
    ]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (GOOD.replace("bake: 15m", "bake: 15 min"), "spec.steps[2].bake is '15 min': write a duration, like 90s"),
        (GOOD.replace("weight: 100", "weight: 99"), "spec.steps is [10, 50, 99]: write weights that rise"),
        (
            GOOD.replace("preset: envoy", "preset: apache"),
            "spec.metrics.preset is 'apache': write one of envoy, envoy-gateway, istio, linkerd, nginx, nginx-gateway, "
            "pods, traefik, or custom",
        ),
        (GOOD.replace("preset: envoy", "preset: custom"), "spec.metrics.preset is 'custom': write spec.metrics.custom"),
        (
            GOOD.replace("preset: envoy", f"preset: istio\n    custom: {CUSTOM}"),
            "spec.metrics.preset is 'istio': write custom, or leave out spec.metrics.custom",
        ),
        (
            GOOD.replace("preset: envoy", f"preset: custom\n    custom: {CUSTOM.replace('{service}', '{servcie}')}"),
            "spec.metrics.custom.selectedBy[0].value is '{namespace}.{servcie}': write text, and in braces only namesp",
        ),
        (
            GOOD.replace(
                "preset: envoy", f"preset: custom\n    custom: {CUSTOM.replace('label: code', 'label: backend')}"
            ),
            "spec.metrics.custom.selectedBy[0].label is 'backend': name each label once",
        ),
        (
            GOOD.replace("preset: envoy", f"preset: custom\n    custom: {CUSTOM}"),
            "spec.metrics.custom.latency is '': write the name of a histogram: the SLO ",
        ),
        (
            GOOD.replace("preset: envoy", "preset: nginx-gateway"),
            "spec.slos: latency has slowerThan, but nginx-gateway does not say how slow it was: take it out, or choose",
        ),
        (GOOD.replace("max: 1%", "max: 0.01"), "spec.errorRate.max is 0.01: write a percentage"),
        (GOOD.replace("lowTraffic:", "lowTrafic:"), "spec.lowTrafic is 'continue': no such field; known are"),
        (GOOD.replace("burnMax: 14.4", "burnMax: 1000"), "spec.slos[1].burnMax is 1000.0: with this objective"),
        (
            GOOD.replace("zone: UTC", "zone: CET"),
            "spec.window.opens[0].zone is 'CET': write a zone of the IANA database",
        ),
        (
            GOOD.replace("duration: 2h", "duration: 45m"),
            "spec.window: no opening of the next two years has the 1h20m30s that this needs; the longest lasts 45m",
        ),
        (
            GOOD.replace("name: normal", "name: emergency", 1),
            "spec.window is set: leave it out, an emergency starts at on",
        ),
        (GOOD.replace("name: normal", "name: fast"), "metadata.name is 'fast': write standard, normal, emergency"),
        (GOOD.replace("v1alpha1", "v1"), "apiVersion is 'serin.dev/v1': write serin.dev/v1alpha1"),
        ("kind: ChangePolicy\nmetadata: {name: normal}\napiVersion: serin.dev/v1alpha1\n", "spec is None: write a map"),
        ("kind: ConfigMap\n", "has no ChangePolicy in it"),
        ("", "has no ChangePolicy in it"),
        ("a: [1\nb: 2\n", "is no YAML: expected ',' or ']'"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    (finding,) = check(path, NOW)
    assert not finding.good
    assert complaint in finding.text
    assert finding.where.startswith(str(path))


def test_openings_in_which_clocks_change_are_named(tmp_path: Path) -> None:
    (path := tmp_path / "policy.yaml").write_text(GOOD.replace("zone: UTC", "zone: Australia/Sydney"))
    (finding,) = check(path, NOW)
    assert finding.good
    assert finding.text.endswith(
        "; clocks change: Sun 2027-04-04 02:00 AEDT to 04:00 AEST lasts 3h"
        "; clocks change: Sun 2027-10-03 03:00 to 04:00 AEDT lasts 1h"
    )


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (missing,) = check(tmp_path / "none.yaml", NOW)
    assert missing.text == "cannot be read: No such file or directory"
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (binary,) = check(tmp_path / "binary", NOW)
    assert binary.text == "cannot be read: it is no text"


def test_each_policy_of_a_file_is_judged(tmp_path: Path) -> None:
    path = tmp_path / "all.yaml"
    path.write_text(f"{GOOD}\n---\nkind: Namespace\n---\n{GOOD.replace('10m', '-1m')}")
    assert [finding.good for finding in check(path, NOW)] == [True, False]
