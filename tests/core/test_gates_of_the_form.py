"""What holds a change before it is approved: its form, its type, and the scope of its type."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
import yaml

from controller.core.change import TYPE
from controller.core.decide import decide
from controller.core.diff import differences
from controller.core.form import filled
from controller.core.model import Deployment, Other, Phase, ReplicaSet, State
from controller.core.policy import Approval, ChangeType, FirstDeployment, Form, ImageStep, Policy, Scope, parse_policy
from controller.core.scope import outside
from controller.metrics.presets import PRESETS
from tests.core.templates import template
from tests.simulation.test_world import SHIPPED, policy
from tests.simulation.world import World

STANDARD = policy("standard")
SCOPED = replace(STANDARD, scope=Scope(images=ImageStep.PATCH))
ASKING = replace(STANDARD, form=Form(("description", "impact.risk")))


class Templates(World):
    """A world whose templates are real ones; `said` is what the Deployment's annotation calls its type."""

    image = "registry.test/shop:1.4.3"
    said = ""
    first = False

    def made(self, name: str, uid: str, replicas: int) -> Deployment:
        made = super().made(name, uid, replicas)
        return replace(made, template=template(self.image), annotations={TYPE: self.said} if self.said else {})

    def replica_sets(self) -> tuple[ReplicaSet, ...]:
        return () if self.first else tuple(replace(rs, template=template()) for rs in super().replica_sets())


def looked_at(world: Templates, in_force: Policy) -> State:
    world.way.written_at = world.now - timedelta(minutes=1)  # the gateway accepted the route long ago
    observation = asyncio.run(world.observe(world.change, world.state, world.measurements()))
    return decide(world.state, observation, in_force, world.now)


PASSED = ("Started", "CheckingStable")
"""It has started, or waits for what comes after these gates."""


def test_a_patch_of_an_image_starts_and_its_difference_is_frozen() -> None:
    state = looked_at(Templates(SCOPED), SCOPED)
    assert state.reason in PASSED
    (target,) = state.targets
    (found,) = target.diff
    assert (found.path, found.before[-5:], found.after[-5:]) == ("containers[shop].image", "1.4.2", "1.4.3")
    assert [image.image for image in target.images] == ["init:1", "registry.test/shop:1.4.3", "envoy:v1.31.0"]


def test_another_image_is_not_standard_and_the_way_on_is_said() -> None:
    world = Templates(SCOPED)
    world.image = "registry.test/shop:2.0.0"
    state = looked_at(world, SCOPED)
    assert (state.phase, state.reason) == (Phase.WAITING, "NotStandard")
    assert "containers[shop].image is no step of a patch version (from registry.test/shop:1.4.2 to" in state.message
    assert "kubectl annotate deployment/shop -n demo --overwrite serin.dev/type=normal" in state.message
    assert looked_at(world, STANDARD).reason in PASSED, "without a scope it may change anything"


def test_a_restart_is_a_standard_change_as_shipped() -> None:
    shipped = parse_policy(yaml.safe_load((SHIPPED / "standard.yaml").read_text())["spec"], frozenset(PRESETS)).scope
    assert shipped
    stable, new = template(), template()
    new["metadata"]["annotations"] = {"kubectl.kubernetes.io/restartedAt": "2026-11-23T08:00:00Z"}
    stable["spec"]["containers"][0].pop("env")
    new["spec"]["containers"][0]["env"] = [{"name": "LOG_LEVEL", "value": "debug"}]
    assert len(found := differences(stable, new)) == 2
    assert outside(found, shipped) == ()


def test_a_first_deployment_differs_from_nothing() -> None:
    world = Templates(SCOPED)
    world.first = True
    assert looked_at(world, SCOPED).reason in PASSED


def test_one_that_is_created_anew_is_no_first_deployment() -> None:
    world = Templates(SCOPED)
    world.first = True
    before = Other(
        "demo", "chg-20261122-001", "CHG-20261122-001", Phase.COMPLETED, {"shop": "old"}, False, started=True
    )
    world.others = (before,)
    state = looked_at(world, SCOPED)
    assert state.reason == "NotStandard"
    assert "created anew, and there is no stable template to compare it with" in state.message


def test_each_field_that_is_missing_is_named() -> None:
    world = Templates(ASKING)
    state = looked_at(world, ASKING)
    assert (state.phase, state.reason) == (Phase.WAITING, "FormIncomplete")
    assert "description (annotation serin.dev/description), impact.risk (annotation serin.dev/risk)" in state.message
    assert (
        "kubectl annotate deployment/shop -n demo serin.dev/description='TEXT' serin.dev/risk='TEXT'" in state.message
    )
    world.change = replace(world.change, spec=filled({"description": "v2", "impact.risk": "low"}))
    assert looked_at(world, ASKING).reason in PASSED


@pytest.mark.parametrize(("first", "reason"), [(FirstDeployment.RUN, ""), (FirstDeployment.WAIT, "FormIncomplete")])
def test_a_first_deployment_that_may_run_is_asked_for_nothing(first: FirstDeployment, reason: str) -> None:
    world = Templates(ASKING)
    world.first = True
    state = looked_at(world, replace(ASKING, first_deployment=first))
    assert (state.reason in PASSED) if not reason else (state.reason == reason)


@pytest.mark.parametrize(
    ("kind", "said", "reason"),
    [
        (ChangeType.STANDARD, "", ""),
        (ChangeType.STANDARD, "standard", ""),
        (ChangeType.STANDARD, "emergency", "TypeDiffers"),
        (ChangeType.NORMAL, "standard", "TypeDiffers"),
        (ChangeType.EMERGENCY, "", "TypeDiffers"),
        (ChangeType.EMERGENCY, "emergency", ""),
        (ChangeType.STANDARD, "hotfix", "UnknownType"),
    ],
)
def test_a_deployment_says_the_type_of_its_change(kind: ChangeType, said: str, reason: str) -> None:
    world = Templates(STANDARD)
    world.change = replace(world.change, type=kind)
    world.said = said
    state = looked_at(world, STANDARD)
    assert (state.reason in PASSED) if not reason else (state.reason == reason)
    if reason == "TypeDiffers":
        assert f"serin.dev/type={kind}" in state.message


def test_what_is_missing_is_said_before_an_approver_is_asked() -> None:
    both = replace(ASKING, approval=Approval(1))
    assert looked_at(Templates(both), both).reason == "FormIncomplete"


def test_the_form_is_asked_for_until_it_is_there_and_then_the_change_runs() -> None:
    world = Templates(ASKING)
    asyncio.run(world.run(timedelta(minutes=1)))
    assert world.state.reason == "FormIncomplete"
    world.change = replace(world.change, spec=filled({"description": "v2", "impact.risk": "low"}))
    asyncio.run(world.run(timedelta(hours=1)))
    assert world.state.phase is Phase.COMPLETED
