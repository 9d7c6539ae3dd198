"""The real loop in virtual time: the process's numbers, faults by seed, and a control for every safety rule."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from controller.core import decide
from controller.core.codec import Ratio
from controller.core.decide import RULES
from controller.core.model import Other, Phase, State, Verdict
from controller.core.policy import Analysis, Approval, Form, LogErrors, LowTraffic, Policy, Statistical, parse_policy
from controller.metrics.presets import PRESETS
from tests.simulation.world import BEGIN, Broken, Trouble, World

SHIPPED = Path(__file__).parents[2] / "policies"
HOUR = timedelta(hours=1)
LIVELY = timedelta(hours=3)


def policy(kind: str, **changes: object) -> Policy:
    """A policy as it is shipped, but for its gates, the watch and the comparison with stable.

    Nobody decides here, nobody fills a form, and the process's own criteria are shown by themselves.
    """
    spec = yaml.safe_load((SHIPPED / f"{kind}.yaml").read_text())["spec"]
    for without in ("window", "after"):
        spec.pop(without, None)
    shipped = replace(parse_policy(spec, frozenset(PRESETS)), approval=Approval(0), form=Form(), scope=None)
    shipped = replace(shipped, analysis=Analysis(Statistical.OFF))
    return replace(shipped, **changes)  # type: ignore[arg-type]


def play(world: World, until: timedelta = LIVELY) -> State:
    return asyncio.run(world.run(until))


def steps(state: State) -> list[int]:
    return [record.weight for record in state.history if record.phase is Phase.PROGRESSING]


# --- The process's numbers ---


@pytest.mark.parametrize(("kind", "bakes"), [("standard", 20 + 5), ("normal", 35 + 15), ("emergency", 4 + 5)])
def test_a_healthy_change_bakes_and_is_watched_as_long_as_the_process_says_and_ends(kind: str, bakes: int) -> None:
    after = parse_policy(yaml.safe_load((SHIPPED / f"{kind}.yaml").read_text())["spec"], frozenset(PRESETS)).after
    world = World(policy(kind, after=after))
    done = play(world)
    assert (done.phase, steps(done), done.low_evidence) == (Phase.COMPLETED, [10, 50, 100], False)
    assert (world.failed, world.lost) == (0, 0)
    assert {e.verdict for e in done.evidence} == {Verdict.PASS}
    took = world.now - BEGIN
    assert timedelta(minutes=bakes) < took < timedelta(minutes=bakes + 3)
    promoted = next(r.at for r in done.history if r.stage)
    assert promoted - BEGIN < timedelta(minutes=45)


def test_an_error_rate_above_one_percent_for_five_minutes_goes_back() -> None:
    world = World(policy("normal"), Trouble(errors_from=120, error_ratio=0.0101))
    done = play(world)
    assert (done.phase, done.cause, steps(done)) == (Phase.ROLLED_BACK, "ErrorRate", [10])
    verdict = next(r for r in done.history if r.phase is Phase.ROLLING_BACK)
    # The ratio over the last minute is above 1 % from a minute after the errors began; five minutes later it is proven.
    assert timedelta(seconds=120 + 300) <= verdict.at - BEGIN <= timedelta(seconds=120 + 60 + 300 + 30)


@pytest.mark.parametrize(
    "trouble", [Trouble(errors_from=120, errors_until=120 + 225), Trouble(errors_from=0, error_ratio=0.0099)]
)
def test_less_than_five_minutes_or_one_percent_does_not(trouble: Trouble) -> None:
    assert play(World(policy("normal"), trouble)).phase is Phase.COMPLETED


@pytest.mark.parametrize("restarts", [(), (200,), (150, 180, 210, 240, 270, 300, 330, 360, 390, 420)])
def test_restarts_change_nothing_about_the_moment_of_a_verdict(restarts: tuple[float, ...]) -> None:
    done = play(World(policy("normal"), Trouble(errors_from=120, restarts=restarts)))
    verdict = next(r for r in done.history if r.phase is Phase.ROLLING_BACK)
    without = play(World(policy("normal"), Trouble(errors_from=120)))
    assert verdict.at == next(r for r in without.history if r.phase is Phase.ROLLING_BACK).at


def test_errors_that_begin_at_the_last_step_or_in_the_promotion_go_back_too() -> None:
    for start in (25 * 60, 30 * 60):
        done = play(World(policy("normal"), Trouble(errors_from=start)))
        assert (done.phase, done.cause) == (Phase.ROLLED_BACK, "ErrorRate")


@pytest.mark.parametrize("rps", [0, 0.1, 1])
def test_few_requests_go_on_after_twice_the_bake(rps: float) -> None:
    world = World(policy("standard"), Trouble(rps=rps))
    done = play(world)
    assert (done.phase, done.low_evidence) == (Phase.COMPLETED, True)
    assert world.now - BEGIN > timedelta(minutes=2 * 5)


def test_few_requests_hold_where_the_policy_says_so() -> None:
    done = play(World(policy("standard", low_traffic=LowTraffic.HOLD), Trouble(rps=0.1)), HOUR)
    assert (done.phase, done.step, done.reason) == (Phase.PROGRESSING, 1, "LowTraffic")


def test_silence_holds_and_then_the_change_goes_on() -> None:
    world = World(policy("normal"), Trouble(silent_from=300, silent_until=300 + 20 * 60))
    done = play(world)
    assert done.phase is Phase.COMPLETED
    second = next(r for r in done.history if r.step == 2)
    assert second.at - BEGIN > timedelta(seconds=300 + 20 * 60), "never a step up on missing data"


def test_silence_for_too_long_goes_back_without_a_judgement() -> None:
    done = play(World(policy("normal"), Trouble(silent_from=300)))
    assert (done.phase, done.cause, done.rejected) == (Phase.ROLLED_BACK, "Inconclusive", False)


# --- Faults by seed ---


def trouble(seed: int) -> Trouble:
    chance = random.Random(seed)

    def maybe(share: float, most: float) -> float | None:
        return chance.uniform(0, most) if chance.random() < share else None

    errors, silence = maybe(0.4, 2400), maybe(0.4, 2400)
    return Trouble(
        errors_from=errors,
        errors_until=errors + chance.uniform(30, 900) if errors is not None and chance.random() < 0.5 else None,
        error_ratio=chance.choice([0.005, 0.02, 0.2, 1.0]),
        crash_at=maybe(0.15, 2400),
        never_ready=chance.random() < 0.1,
        silent_from=silence,
        silent_until=silence + chance.uniform(30, 2600) if silence is not None else None,
        new_template_at=maybe(0.15, 2400),
        deleted_at=maybe(0.15, 2400),
        restarts=tuple(sorted(chance.uniform(0, 2600) for _ in range(chance.randrange(4)))),
        conflicts=chance.choice([0, 0, 0.1, 0.5]),
        rps=chance.choice([0, 0.1, 5, 50, 500]),
    )


@pytest.mark.parametrize("tens", range(12))
def test_whatever_goes_wrong_nothing_that_must_hold_is_broken_and_it_ends(tens: int) -> None:
    for seed in range(tens * 10, tens * 10 + 10):
        what = trouble(seed)
        kind = ("standard", "normal", "emergency")[seed % 3]
        world = World(policy(kind), what, seed)
        try:
            done = play(world)
            world.must(done.phase.terminal, "I16: every change ends")
            good = done.phase is not Phase.ROLLED_BACK or done.cause != "ErrorRate" or what.errors_from is not None
            world.must(good, "I8: no rollback for errors that nobody saw")
        except Broken as broken:
            raise AssertionError(f"seed {seed}, {kind}: {what}\n{broken}") from None


# --- Controls: without the rule, its test would fail ---

ERRORS = Trouble(errors_from=120)


def without(monkeypatch: pytest.MonkeyPatch, phase: Phase, name: str) -> None:
    rules = RULES[phase]
    back, hold = (tuple(c for c in row if c.__name__ != name) for row in (rules.roll_back, rules.hold))
    assert len(back) + len(hold) == len(rules.roll_back) + len(rules.hold) - 1, f"no rule {name}"
    monkeypatch.setitem(RULES, phase, replace(rules, roll_back=back, hold=hold))


def ends(world: World, until: timedelta = LIVELY) -> tuple[Phase, str]:
    done = play(world, until)
    return done.phase, done.cause


NORMAL = policy("normal")
LENIENT = replace(NORMAL, error_rate=replace(NORMAL.error_rate, max=Ratio(0.05)))
LOGGED = replace(NORMAL, error_rate=replace(NORMAL.error_rate, max=Ratio(0.5)), slos=(), log_errors=LogErrors())
HOLDING, DONE = (Phase.PROGRESSING, ""), (Phase.COMPLETED, "")


def back(cause: str) -> tuple[Phase, str]:
    return Phase.ROLLED_BACK, cause


PROGRESSING: list[tuple[str, Policy, Trouble, tuple[Phase, str], tuple[Phase, str]]] = [
    # the rule, what happens, how it ends with the rule, and without it: what the next wall makes of it
    ("superseded", NORMAL, Trouble(new_template_at=120), (Phase.SUPERSEDED, "Superseded"), back("ProgressDeadline")),
    ("pods_failing", NORMAL, Trouble(crash_at=120), back("CrashLoop"), back("NotReady")),
    ("canary_lost", NORMAL, Trouble(canary_lost_at=120), back("CanaryLost"), back("NotReady")),
    ("error_rate", NORMAL, ERRORS, back("ErrorRate"), back("SLOBurn")),
    ("slo_burn", LENIENT, replace(ERRORS, error_ratio=0.02), back("SLOBurn"), HOLDING),
    ("log_errors", LOGGED, ERRORS, back("LogErrors"), HOLDING),
    ("progress_deadline", NORMAL, Trouble(never_ready=True), back("ProgressDeadline"), back("RoutePending")),
    ("inconclusive", NORMAL, Trouble(silent_from=300), back("Inconclusive"), HOLDING),
    ("conflict", NORMAL, Trouble(rewritten_every=60), back("Conflict"), HOLDING),
    (
        "route_deadline",
        NORMAL,
        Trouble(unaccepted_from=120, unaccepted_until=2400),
        back("RoutePending"),
        DONE,
    ),
]


@pytest.mark.parametrize(
    ("rule", "policy", "what", "expected", "otherwise"), PROGRESSING, ids=[row[0] for row in PROGRESSING]
)
def test_a_way_back_is_gone_with_its_rule(
    monkeypatch: pytest.MonkeyPatch,
    rule: str,
    policy: Policy,
    what: Trouble,
    expected: tuple[Phase, str],
    otherwise: tuple[Phase, str],
) -> None:
    until = timedelta(minutes=75)
    assert ends(World(policy, what), until) == expected
    without(monkeypatch, Phase.PROGRESSING, rule)
    assert ends(World(policy, what), until) == otherwise


def test_pods_that_are_not_ready_hold_the_step_for_ever_without_their_rule(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without(monkeypatch, Phase.PROGRESSING, "pods_failing")
    assert turned_back(World(NORMAL, Trouble(crash_at=120))) < 200
    without(monkeypatch, Phase.PROGRESSING, "pods_not_ready")
    late = play(World(NORMAL, Trouble(crash_at=120)), HOUR)
    assert (late.phase, late.step, late.reason) == (Phase.PROGRESSING, 1, "CapacityPending")


def turned_back(world: World) -> float:
    record = next(r for r in play(world).history if r.phase is Phase.ROLLING_BACK)
    return (record.at - BEGIN).total_seconds()


def test_an_incident_turns_back_only_at_the_promotion_without_its_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    what = Trouble(incident_at=120)
    assert 120 <= turned_back(World(NORMAL, what)) <= 180
    without(monkeypatch, Phase.PROGRESSING, "p0_incident")
    assert turned_back(World(NORMAL, what)) > 35 * 60
    without(monkeypatch, Phase.PROMOTING, "p0_incident")
    assert ends(World(NORMAL, what)) == DONE


@pytest.mark.parametrize(
    ("rule", "what", "shown"),
    [
        ("capacity_pending", Trouble(never_ready=True), "CapacityPending"),
        ("route_pending", Trouble(unaccepted_from=4), "RoutePending"),
    ],
)
def test_a_wait_has_no_name_without_its_rule(
    monkeypatch: pytest.MonkeyPatch, rule: str, what: Trouble, shown: str
) -> None:
    minute = timedelta(minutes=1)
    assert play(World(NORMAL, what), minute).reason == shown
    without(monkeypatch, Phase.PROGRESSING, rule)
    assert play(World(NORMAL, what), minute).reason != shown


def test_a_withdrawn_change_would_go_on_through_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    soon = timedelta(minutes=15)
    assert ends(World(policy("normal"), Trouble(deleted_at=120)), soon) == (Phase.SUPERSEDED, "Withdrawn")
    without(monkeypatch, Phase.PROGRESSING, "withdrawn")
    assert ends(World(policy("normal"), Trouble(deleted_at=120)), soon) == (Phase.PROGRESSING, "")


@pytest.mark.parametrize(
    ("rule", "what", "shown", "broken"),
    [
        ("no_data", Trouble(silent_from=400, silent_until=400 + 1200), lambda w: first_step_up(w) < 1600, "I7"),
        ("baking", Trouble(), lambda w: first_step_up(w) < 600, ""),
        ("low_traffic", Trouble(rps=0), lambda w: not low_evidence_waited(w), "I7"),
    ],
    ids=["no_data", "baking", "low_traffic"],
)
def test_a_wait_is_shorter_without_its_rule(
    monkeypatch: pytest.MonkeyPatch, rule: str, what: Trouble, shown: Callable[[World], bool], broken: str
) -> None:
    world = World(policy("normal"), what)
    play(world)
    assert not shown(world)
    without(monkeypatch, Phase.PROGRESSING, rule)
    if rule == "no_data":  # a second wall stands behind it
        without(monkeypatch, Phase.PROGRESSING, "no_pass")
    if rule == "low_traffic":
        without(monkeypatch, Phase.PROGRESSING, "no_pass")
    world = World(policy("normal"), what)
    if broken:
        with pytest.raises(Broken, match=broken):
            play(world)
    else:
        play(world)
        assert shown(world)


def first_step_up(world: World) -> float:
    return next(((r.at - BEGIN).total_seconds() for r in world.state.history if r.step == 2), 1e9)


def low_evidence_waited(world: World) -> bool:
    return first_step_up(world) >= 2 * 600


@pytest.mark.parametrize("rule", ["environment_lacking", "another_active", "awaiting_approval", "metrics_unreachable"])
def test_nothing_starts_but_for_the_absence_of_a_gate(monkeypatch: pytest.MonkeyPatch, rule: str) -> None:
    def world() -> World:
        made = World(policy("normal"), Trouble(silent_from=0) if rule == "metrics_unreachable" else Trouble())
        if rule == "environment_lacking":
            made.environment = ("AdmissionMissing: serin-guard not found",)
        if rule == "another_active":
            made.others = (Other("demo", "chg-x", "CHG-20261122-001", Phase.PROGRESSING, {"shop": "older"}, False),)
        if rule == "awaiting_approval":
            made.policy = replace(made.policy, approval=Approval(1))
        return made

    waiting = play(world(), timedelta(minutes=5))
    assert (waiting.phase, waiting.started_at) == (Phase.WAITING, None)
    without(monkeypatch, Phase.WAITING, rule)
    if rule == "metrics_unreachable":
        for other in ("stable_out_of_budget", "unseen"):  # in silence nothing is known of stable either
            without(monkeypatch, Phase.WAITING, other)
    assert play(world(), timedelta(minutes=5)).started_at is not None


def test_a_rejected_revision_starts_but_for_its_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    def world() -> World:
        made = World(policy("normal"))
        made.others = (Other("demo", "chg-x", "CHG-20261122-001", Phase.ROLLED_BACK, {"shop": "new"}, True),)
        return made

    assert play(world(), timedelta(minutes=5)).reason == "RejectedRevision"
    without(monkeypatch, Phase.WAITING, "rejected_revision")
    assert play(world(), timedelta(minutes=5)).started_at is not None


def test_a_failing_promotion_goes_back_but_for_its_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    def crashing_in_promotion() -> State:
        world = World(policy("normal"))
        while world.state.phase is not Phase.PROMOTING:
            play(world, world.now - BEGIN + timedelta(seconds=1))
        world.trouble = Trouble(crash_at=0)
        return play(world)

    assert crashing_in_promotion().cause == "CrashLoop"
    without(monkeypatch, Phase.PROMOTING, "pods_failing")
    assert crashing_in_promotion().phase is Phase.COMPLETED


def test_a_step_up_on_its_own_verdict_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the commit in between, the PASS that a step follows is not in status yet."""
    monkeypatch.setattr(decide, "_verdicts", lambda state: ())
    with pytest.raises(Broken, match="I7"):
        play(World(policy("normal"), Trouble(rps=0)))
