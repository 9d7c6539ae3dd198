"""Fights: what others write over is named, put back with back-off, and given up after three rounds."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from controller.cluster import manifest
from controller.core.decide import RULES, decide
from controller.core.model import Author, Autoscaler, Drift, Floor, Held, Phase, Seen, Stage, State
from controller.core.plan import CreateService, Mark, Promote, ScaleCanary, SetFloor, Shift, plan
from tests.simulation.under_way import NORMAL, SECOND, at_stage, under_way
from tests.simulation.world import SIZE, World

ARGO = "argocd-controller"


class Fight:
    """A change that is under way, look by look, with what `others` make of what is seen."""

    def __init__(self, world: World) -> None:
        self.now, self.state, self.asked = world.now, world.state, world.change
        self.observation = asyncio.run(world.observe(world.change, world.state, world.measurements()))
        self.others: Callable[[Seen], Seen] = lambda seen: seen

    @property
    def seen(self) -> Seen:
        return self.others(self.observation.targets["shop"])

    def look(self, after: timedelta = SECOND) -> tuple[State, tuple[Any, ...]]:
        """What is decided, and the writes that follow."""
        self.now += after
        observation = replace(self.observation, targets={"shop": self.seen})
        self.state = decide(self.state, observation, NORMAL, self.now)
        return self.state, plan(self.state, observation)

    def rewritten(self, weight: int | None, *, by: str = ARGO) -> None:
        """Someone writes the route, now."""
        author = Author(by, self.now)

        def others(seen: Seen) -> Seen:
            return replace(seen, routes=tuple(replace(r, weight=weight, author=author) for r in seen.routes))

        self.others = others

    def put_back(self) -> None:
        self.others = lambda seen: seen


def of(seen: Seen, **fields: Any) -> Seen:
    """With another Deployment."""
    assert seen.deployment
    return replace(seen, deployment=replace(seen.deployment, **fields))


def at(moment: str = "50") -> Fight:
    return Fight(under_way(moment))


def test_a_reset_is_named_stands_for_a_moment_and_is_put_back() -> None:
    fight = at()
    fight.rewritten(0)
    state, writes = fight.look()
    assert state.reason == "Contested"
    assert f"{ARGO} wrote spec.rules of HTTPRoute/demo/shop (time 1" in state.message
    assert (state.phase, writes) == (Phase.PROGRESSING, ())
    assert fight.look()[1] == ()
    _, (write,) = fight.look()
    assert (type(write), write.weight) == (Shift, 50)
    fight.put_back()
    assert fight.look()[0].targets[0].drift is None


def test_the_wait_doubles_and_after_the_third_round_the_traffic_goes_to_stable() -> None:
    fight, waits = at(), []
    for _ in range(3):
        fight.rewritten(0)
        waits.append(0)
        while not fight.look()[1]:
            waits[-1] += 1
        fight.put_back()
        fight.look()
    assert waits == [2, 4, 8]
    assert fight.state.phase is Phase.PROGRESSING
    fight.rewritten(0)
    state, _ = fight.look()
    assert (state.phase, state.stage, state.cause) == (Phase.ROLLING_BACK, Stage.RETURN, "Conflict")
    assert (state.weight, state.rejected) == (0, False)
    assert ARGO in state.message
    assert "kubectl serin retry CHG-20261123-001 -n demo" in state.message


def test_who_is_faster_than_a_step_is_set_up_is_counted_as_well() -> None:
    """The route never gets as far as being accepted with our weight."""
    fight = at()
    for _ in range(60):
        fight.rewritten(0)
        if fight.look()[0].phase is Phase.ROLLING_BACK:
            break
    assert (fight.state.cause, fight.now - under_way("50").now < timedelta(seconds=30)) == ("Conflict", True)


def test_one_sync_that_takes_its_time_is_one_round() -> None:
    fight = at()
    fight.rewritten(0)
    fight.look()
    fight.rewritten(0, by="another")
    assert fight.look()[0].targets[0].drifts == 1


@pytest.mark.parametrize("weight", [100, None])
def test_more_for_the_canary_than_was_decided_is_put_back_at_once(weight: int | None) -> None:
    fight = at("10")
    fight.rewritten(weight)
    state, (write, *_) = fight.look()
    assert (type(write), write.weight) == (Shift, 10)
    assert state.reason == "Contested"


def test_an_excess_is_put_back_before_anything_is_made() -> None:
    fight = at("10")
    fight.rewritten(100)
    others = fight.others
    fight.others = lambda seen: replace(others(seen), companions=("PodDisruptionBudget/shop",))
    _, (write,) = fight.look()
    assert (type(write), write.weight) == (Shift, 10)


def scaler_of(fight: Fight, low: int, author: Author | None) -> None:
    target = replace(fight.state.targets[0], floor=Floor("shop", 2))
    fight.state = replace(fight.state, targets=(target,))
    scaler = Autoscaler("shop", low, 20, ours=author is None, author=author)
    fight.others = lambda seen: replace(seen, autoscaler=scaler)


def test_a_floor_that_git_lowers_is_raised_at_once_and_three_times() -> None:
    fight = at()
    for number in range(1, 5):
        scaler_of(fight, 3, Author("kustomize-controller", fight.now))
        state, writes = fight.look(timedelta(seconds=20))
        if number <= 3:
            message = "kustomize-controller wrote spec.minReplicas of HorizontalPodAutoscaler shop"
            assert (state.reason, message in state.message) == ("Contested", True)
            assert writes == (SetFloor(state.targets[0], "shop", SIZE),)
        scaler_of(fight, SIZE, None)
        fight.look() if number <= 3 else None
    assert (fight.state.cause, fight.state.rejected) == ("Conflict", False)


def test_a_canary_that_is_scaled_down_is_scaled_up_at_once() -> None:
    fight = at()

    def others(seen: Seen) -> Seen:
        assert seen.canary.deployment
        less = replace(seen.canary.deployment, replicas=1, authors={"replicas": Author("kubectl", fight.now)})
        return replace(seen, canary=replace(seen.canary, deployment=less))

    fight.others = others
    state, writes = fight.look()
    assert writes == (ScaleCanary(state.targets[0], SIZE // 2),)
    assert "kubectl wrote spec.replicas of Deployment shop-canary" in state.message


def test_stable_that_grows_is_no_fight() -> None:
    fight = at()
    fight.others = lambda seen: of(seen, replicas=SIZE + 4)
    state, writes = fight.look()
    assert (state.targets[0].drifts, state.targets[0].drift) == (0, None)
    assert isinstance(writes[0], ScaleCanary)


def test_a_mark_that_was_taken_away_is_put_back() -> None:
    fight = at()
    fight.others = lambda seen: of(seen, held="")
    state, (write,) = fight.look()
    assert isinstance(write, Mark)
    assert (write.held, state.reason) == (Held.RUNNING, "Contested")
    assert "serin.dev/held" in state.message


def unpaused(seen: Seen) -> Seen:
    return of(seen, paused=False, authors={"paused": Author("kubectl-patch")})


def test_who_unpauses_before_the_canary_has_passed_is_stopped_and_undone() -> None:
    fight = at("10")
    fight.others = unpaused
    state, (write,) = fight.look()
    assert (state.phase, state.stage, state.cause) == (Phase.ROLLING_BACK, Stage.RECOVER, "Unpaused")
    assert (state.rejected, state.promoted) == (False, True)
    assert isinstance(write, Mark)
    assert "kubectl-patch un-paused Deployment shop" in state.message


def test_without_its_rule_the_roll_would_only_be_paused_half_way(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = RULES[Phase.PROGRESSING]
    rest = tuple(check for check in rules.roll_back if check.__name__ != "unpaused")
    monkeypatch.setitem(RULES, Phase.PROGRESSING, replace(rules, roll_back=rest))
    fight = at("10")
    fight.others = unpaused
    assert fight.look()[0].phase is Phase.PROGRESSING


def test_who_pauses_the_promotion_is_answered_three_times() -> None:
    fight = Fight(at_stage(Stage.ROLL))
    for number in range(1, 5):
        author = {"paused": Author("kubectl", fight.now)}
        fight.others = partial(of, held=Held.PROMOTING.value, paused=True, authors=author)
        state, writes = fight.look()
        assert [type(write) for write in writes] == ([Promote] if number <= 3 else [Mark])
        fight.others = partial(of, held=Held.PROMOTING.value, paused=False)
        if number <= 3:
            assert "kubectl wrote spec.paused of Deployment shop" in state.message
            fight.look()
    assert (state.phase, state.stage, state.cause, state.rejected) == (
        *(Phase.ROLLING_BACK, Stage.RECOVER),
        *("Conflict", False),
    )


def test_a_canary_that_is_another_one_than_was_approved_loses_its_traffic_at_once() -> None:
    fight = at("10")
    edit = Drift("spec.template of Deployment shop-canary", "kubectl-edit")
    fight.others = lambda seen: replace(seen, canary=replace(seen.canary, edits=(edit,)))
    state, (write,) = fight.look()
    assert (state.cause, state.stage, state.rejected) == ("CanaryEdited", Stage.RETURN, False)
    assert (type(write), write.weight) == (Shift, 0)
    assert "kubectl-edit wrote spec.template of Deployment shop-canary" in state.message


def test_a_canary_service_that_is_deleted_is_not_made_anew_under_traffic() -> None:
    fight = at("10")
    fight.others = lambda seen: replace(seen, canary=replace(seen.canary, services=(), endpoints={}))
    state, writes = fight.look()
    assert (state.cause, state.stage) == ("CanaryLost", Stage.RETURN)
    assert not any(isinstance(write, CreateService) for write in writes)


def test_a_deployment_that_lost_its_label_gets_no_further_until_it_is_put_back() -> None:
    fight = at("10")
    fight.others = lambda seen: of(seen, change="")
    state, writes = fight.look(timedelta(minutes=30))
    assert (state.phase, state.weight, state.reason, writes) == (Phase.PROGRESSING, 10, "LabelRemoved", ())
    assert "kubectl serin rollback CHG-20261123-001 -n demo" in state.message
    fight.put_back()
    assert fight.look()[0].reason != "LabelRemoved"


def test_a_service_that_means_other_pods_lets_nothing_go_on() -> None:
    fight = at("10")
    stray = Drift("spec.selector of Service shop", "kubectl-edit")
    fight.others = lambda seen: replace(seen, strays=(stray,))
    state, writes = fight.look(timedelta(minutes=9))
    assert (state.phase, state.reason, writes) == (Phase.PROGRESSING, "ServiceChanged", ())
    assert "kubectl-edit wrote spec.selector of Service shop" in state.message


def test_without_its_rule_the_step_would_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = RULES[Phase.PROGRESSING]
    rest = tuple(check for check in rules.hold if check.__name__ != "service_strays")
    monkeypatch.setitem(RULES, Phase.PROGRESSING, replace(rules, hold=rest))
    fight = at("10")
    fight.others = lambda seen: replace(seen, strays=(Drift("spec.selector of Service shop"),))
    assert fight.look()[0].reason == "Baking"


def test_another_template_says_who_gave_it() -> None:
    fight = at("10")
    author = {"template": Author(ARGO)}
    fight.others = lambda seen: of(seen, revision="x", authors=author)
    assert fight.look()[0].message.endswith(f"was given another template by {ARGO}")


# --- Who it was ---


def owned(*entries: tuple[str, str, dict[str, Any]]) -> dict[str, Any]:
    fields = [{"manager": name, "time": time, "fieldsV1": {"f:spec": spec}} for name, time, spec in entries]
    return {"metadata": {"name": "shop", "managedFields": fields}}


EARLY, LATE = "2026-11-23T08:00:00Z", "2026-11-23T08:00:09Z"


def test_the_newest_of_those_who_own_a_field_wrote_it() -> None:
    raw = owned((ARGO, EARLY, {"f:rules": {}}), ("kubectl", LATE, {"f:rules": {}}), ("other", LATE, {"f:hosts": {}}))
    found = manifest.author(raw, "spec", "rules")
    assert found is not None
    assert (found.manager, found.at) == ("kubectl", manifest.moment(LATE))


@pytest.mark.parametrize(
    "raw",
    [
        owned((ARGO, LATE, {"f:rules": {}}), ("serin", EARLY, {"f:rules": {}})),
        owned((ARGO, LATE, {"f:hosts": {}})),
        {"metadata": {}},
    ],
    ids=["we own it too", "nobody owns it", "nobody is known"],
)
def test_otherwise_nobody_is_named(raw: dict[str, Any]) -> None:
    assert manifest.author(raw, "spec", "rules") is None


def test_whoever_wrote_a_part_of_a_template_wrote_it_and_cannot_write_into_our_messages() -> None:
    raw = owned(("evil\n\u202e", LATE, {"f:template": {"f:spec": {}}}))
    assert [drift.by for drift in manifest.edits(raw, "Deployment", "template")] == ["evil\\n\\u202e"]
