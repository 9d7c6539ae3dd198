"""GitOpsWillRevert: before the first canary pod, and only for what a change is to write."""

from dataclasses import replace
from datetime import timedelta

import pytest

from controller.core.decide import RULES
from controller.core.model import Author, Autoscaler, Observation, Phase, Revert, Route
from controller.core.policy import ChangeType
from tests.simulation.test_world import NORMAL
from tests.simulation.under_way import play
from tests.simulation.world import ORIGINAL, SIZE, World

SNIPPET = "spec:\n  ignoreDifferences: []\n"
SURE = Revert("/spec/rules of HTTPRoute/demo/shop", "Argo CD's Application argocd/shop", SNIPPET)
UNSURE = replace(SURE, snippet="", known=False)
SOON = timedelta(seconds=30)


class Git(World):
    """Its route comes from Git."""

    reverts: tuple[Revert, ...] = (SURE,)

    def route(self, key: str = ORIGINAL.key) -> Route:
        return replace(super().route(key), reverts=self.reverts)


def test_it_waits_before_the_first_canary_pod_and_goes_on_when_git_leaves_the_route_alone() -> None:
    world = Git(NORMAL)
    waiting = play(world, SOON)
    assert (waiting.phase, waiting.reason, world.canary) == (Phase.WAITING, "GitOpsWillRevert", None)
    assert "Argo CD's Application argocd/shop puts back /spec/rules of HTTPRoute/demo/shop" in waiting.message
    assert "kubectl serin status CHG-20261123-001 -n demo" in waiting.message
    assert waiting.targets[0].reverts == (SURE,)
    world.reverts = ()
    assert play(world).phase is Phase.COMPLETED


def test_without_the_rule_it_would_start(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = RULES[Phase.WAITING]
    rest = tuple(check for check in rules.hold if check.__name__ != "gitops_will_revert")
    monkeypatch.setitem(RULES, Phase.WAITING, replace(rules, hold=rest))
    assert play(Git(NORMAL), SOON).started_at is not None


def test_an_emergency_does_not_wait_for_that_but_says_it() -> None:
    world = Git(NORMAL)
    world.change = replace(world.change, type=ChangeType.EMERGENCY)
    world.label = world.change.change_id
    assert play(world, SOON).started_at is not None


def test_what_is_not_known_is_a_warning_and_no_wait() -> None:
    world = Git(NORMAL)
    world.reverts = (UNSURE,)
    world.environment = ("AdmissionMissing: serin-guard not found",)
    (warning,) = play(world, SOON).warnings
    assert warning.startswith("GitOpsUnknown: Argo CD's Application argocd/shop manages /spec/rules")
    world.environment = ()
    assert play(world, SOON).started_at is not None


@pytest.mark.parametrize(("least", "waits"), [(2, True), (SIZE, False)])
def test_a_floor_matters_only_if_it_has_to_be_raised(least: int, waits: bool) -> None:
    world = World(NORMAL)
    back = Revert("/spec/minReplicas of HorizontalPodAutoscaler/demo/shop", "Flux's Kustomization flux-system/apps", "")
    world.scaler = Autoscaler("shop", least, 20, author=Author("kustomize-controller"), reverts=(back,))
    state = play(world, SOON)
    assert (state.reason == "GitOpsWillRevert", state.started_at is None) == (waits, waits)


def test_a_native_rollout_writes_no_route() -> None:
    class Unfit(Git):
        async def observe(self, *args: object) -> Observation:
            seen = await super().observe(*args)  # type: ignore[arg-type]
            return replace(seen, targets={"shop": replace(seen.targets["shop"], obstacles=("hostPort",))})

    assert play(Unfit(NORMAL), SOON).started_at is not None
