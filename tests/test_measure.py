"""controller.measure: which source a Deployment is asked about."""

from datetime import UTC, datetime, timedelta

import pytest

from controller.core.model import Change, Phase, State, Strategy, Target
from controller.core.policy import ArmLabel, ChangeType, Codes, CustomSource, Policy, Source, Step
from controller.measure import subjects_of
from controller.metrics.presets import PODS, PRESETS, Preset, preset_of

NOW = datetime(2026, 11, 23, 8, tzinfo=UTC)
CHANGE = Change("default", "chg-20261123-001", "CHG-20261123-001", ChangeType.NORMAL)
OF_PODS = CustomSource(
    "http_server_requests_seconds_count",
    (Codes("status", ("5*",)),),
    (ArmLabel("ns", "{namespace}"), ArmLabel("pod_name", "{pod}")),
)
OF_A_PROXY = CustomSource("hits", (Codes("code", ("5*",)),), (ArmLabel("backend", "{namespace}.{service}"),))


def source_of(strategy: Strategy, metrics: Source) -> Preset:
    state = State(
        phase=Phase.PROGRESSING,
        weighted_at=NOW,
        policy=Policy((Step(100, timedelta(minutes=5)),), metrics=metrics),
        targets=(Target("shop", "u", "r", strategy, stable_replica_set="shop-6d4c", replica_set="shop-77fd"),),
    )
    [subject] = subjects_of(CHANGE, state, NOW)
    return subject.source


@pytest.mark.parametrize("preset", PRESETS)
def test_a_canary_is_judged_by_the_source_of_its_policy(preset: str) -> None:
    assert source_of(Strategy.CANARY, Source(preset)) == PRESETS[preset]


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        (Source("envoy"), PODS),
        (Source("istio"), PODS),
        (Source("pods"), PODS),
        (Source("linkerd"), PRESETS["linkerd"]),
        (Source("custom", custom=OF_A_PROXY), PODS),
        (Source("custom", custom=OF_PODS), preset_of(Source("custom", custom=OF_PODS))),
    ],
    ids=lambda value: value.preset if isinstance(value, Source) else None,
)
def test_without_a_route_it_is_judged_by_its_pods(metrics: Source, expected: Preset) -> None:
    """By those metrics of the policy that go by pods, else by what pods usually count."""
    assert source_of(Strategy.NATIVE, metrics) == expected
