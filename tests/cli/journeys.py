"""Changes at every point of their journey, with the text that is shown of each in tests/cli/golden."""

import io
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console

from controller.cli.journey import journey
from controller.cli.surroundings import Live
from controller.core.codec import Ratio
from controller.core.diff import Difference
from controller.core.model import (
    Action,
    Change,
    Evidence,
    JobOutcome,
    JobRun,
    Phase,
    Pod,
    Ruling,
    Stage,
    State,
    Strategy,
    Target,
    Transition,
    Verdict,
)
from controller.core.policy import After, Approval, ChangeType, Policy, Slo, Step
from controller.core.slo import Breach
from controller.core.windows import Opening

START = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)
SUNDAY = datetime(2026, 12, 6, 1, tzinfo=UTC)
NOW = START + timedelta(minutes=15)
POLICY = Policy(
    (Step(10, timedelta(minutes=10)), Step(50, timedelta(minutes=10)), Step(100, timedelta(minutes=15))),
    approval=Approval(respond_within=timedelta(hours=4), escalate_to="engineering-managers"),
    slos=(Slo("latency", Ratio(0.99), burn_max=14.4, slower_than=timedelta(seconds=1)),),
)
CHANGE = Change(
    "shop",
    "chg-20261123-001",
    "CHG-20261123-001",
    ChangeType.NORMAL,
    requested_by="alice@example.com",
    deployments=("shop",),
    created_at=START,
    spec={"description": "Checkout v2: one page instead of three, and the new payment provider"},
)
TARGET = Target(
    "shop",
    "uid",
    "5d41402abc",
    Strategy.CANARY,
    "routes: HTTPRoute/shop/shop",
    stable_revision="7d793037a0",
    diff=(
        Difference("containers[shop].image", "shop:v1", "shop:v2"),
        Difference("containers[shop].env[DEBUG]", "", "1"),
    ),
    replicas=10,
)


def after(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


def record(
    minutes: float, phase: Phase, step: int, weight: int, reason: str, message: str, stage: Stage | None = None
) -> Transition:
    return Transition(after(minutes), phase, step, weight, reason, message, stage)


STARTED = record(1, Phase.PROGRESSING, 0, 10, "Started", "step 1 of 3: 10 %")
ADVANCED = record(11.5, Phase.PROGRESSING, 1, 50, "Advanced", "step 2 of 3: 50 %")
PASSING = (
    Evidence(
        "error-rate",
        "shop",
        Verdict.PASS,
        "0.12%",
        "1%",
        "error-rate: shop fails 0.12% of 4,200 requests in 1m (limit 1%); stable 0.1% of 4,210",
        4200,
        5,
        after(14.9),
    ),
    Evidence(
        "latency",
        "shop",
        Verdict.PASS,
        "2%",
        "14.4%",
        "latency: shop answers 2% of 4,200 requests in 1m slower than 1s (limit 14.4%); stable 2.1% of 4,210",
        4200,
        84,
        after(14.9),
    ),
)
WAITING = State(
    reason="AwaitingApproval",
    message="needs an approval by who may approve changetypes/normal, but not alice@example.com",
    entered_at=START,
    revision=TARGET.revision,
    requesters=("alice@example.com",),
    approval="0 of 1",
    targets=(TARGET,),
)
RULING = Ruling("uid", Action.APPROVE, "alice@example.com", after(0.5), TARGET.revision)
BAKING = State(
    phase=Phase.PROGRESSING,
    step=2,
    weight=50,
    reason="Baking",
    message="50 % until 08:22:00 UTC",
    started_at=after(1),
    weighted_at=after(1),
    entered_at=after(11.5),
    settled_at=after(12),
    measured_at=after(14.9),
    policy=POLICY,
    targets=(TARGET,),
    evidence=PASSING,
    history=(STARTED, ADVANCED),
)
FAILING = (
    replace(
        PASSING[0],
        verdict=Verdict.FAIL,
        value="20.3%",
        message="error-rate: shop fails 20.3% of 4,200 requests in 1m, above its limit of 1% for 5m; "
        "stable 0.1% of 4,210",
    ),
    PASSING[1],
)
BACK = record(
    17,
    Phase.ROLLING_BACK,
    1,
    0,
    "ErrorRate",
    "error-rate: shop fails 20.3% of 4,200 requests in 1m, above its limit of 1% for 5m",
    Stage.RETURN,
)
ROLLING_BACK = replace(
    BAKING,
    phase=Phase.ROLLING_BACK,
    stage=Stage.DRAIN,
    weight=0,
    reason="Draining",
    cause="ErrorRate",
    rejected=True,
    outcome=Phase.ROLLED_BACK,
    message="the canary's last requests end",
    entered_at=after(14.8),
    settled_at=None,
    evidence=FAILING,
    history=(STARTED, ADVANCED, BACK),
)
NATIVE = replace(TARGET, strategy=Strategy.NATIVE, strategy_reason="no route names a Service of its pods")
FIRST = replace(NATIVE, strategy_reason="this is its first deployment", stable_revision="")
PROMOTING = replace(
    BAKING,
    phase=Phase.PROMOTING,
    stage=Stage.ROLL,
    step=3,
    weight=100,
    reason="Rolling",
    message="4 of 10 pods of shop replaced, 9 ready",
    promoted=True,
    entered_at=after(14),
    settled_at=None,
)

JOURNEYS: dict[str, tuple[Change, State, Policy | None]] = {
    "not-seen-yet": (CHANGE, State(), None),
    "awaiting-approval": (CHANGE, WAITING, POLICY),
    "unknown-type": (
        replace(CHANGE, type=None),
        State(
            reason="UnknownType",
            message="annotation serin.dev/type is 'urgent': write standard, normal or emergency",
        ),
        None,
    ),
    "rejected-revision": (
        CHANGE,
        replace(
            WAITING,
            reason="RejectedRevision",
            message="this template of shop was rolled back by CHG-20261122-004 (ErrorRate): change it, or run it "
            "knowingly with the annotation serin.dev/retry=CHG-20261122-004",
        ),
        POLICY,
    ),
    "admission-missing": (
        CHANGE,
        replace(WAITING, reason="AdmissionMissing", message="serin-hold not found; install the policies"),
        POLICY,
    ),
    "settling": (
        CHANGE,
        replace(
            BAKING,
            reason="CapacityPending",
            message="3 of 5 canary pods of shop ready",
            settled_at=None,
            evidence=(),
        ),
        None,
    ),
    "baking": (CHANGE, BAKING, None),
    "over-limit": (
        CHANGE,
        replace(
            BAKING,
            reason="OverLimit",
            message="error-rate: shop fails 20.3% of 4,200 requests in 1m, above its limit of 1% for 2m "
            "(5m take it back)",
            breaches=(Breach("error-rate", "shop", timedelta(minutes=2), after(14.9), True),),
            evidence=(replace(FAILING[0], verdict=Verdict.INCONCLUSIVE), PASSING[1]),
        ),
        None,
    ),
    "no-data": (
        CHANGE,
        replace(
            BAKING,
            reason="NoData",
            message="the canary's metrics are older than 1m; holding since 08:13:00 UTC",
            no_data_since=after(13),
            evidence=tuple(replace(e, verdict=Verdict.INCONCLUSIVE, data_at=None) for e in PASSING),
        ),
        None,
    ),
    "low-traffic": (
        CHANGE,
        replace(
            BAKING,
            reason="LowTraffic",
            message="12 of the 75 requests that a verdict needs; on at 08:32:00 UTC all the same",
        ),
        None,
    ),
    "promoting": (CHANGE, PROMOTING, None),
    "completed": (
        CHANGE,
        replace(
            PROMOTING,
            phase=Phase.COMPLETED,
            stage=None,
            weight=0,
            reason="Completed",
            message="the new revision is the stable one",
            low_evidence=True,
            ended_at=after(14.9),
        ),
        None,
    ),
    "awaiting-the-review": (
        replace(CHANGE, author="dave"),
        replace(
            PROMOTING,
            phase=Phase.COMPLETED,
            stage=None,
            weight=0,
            reason="Completed",
            message="the new revision is the stable one",
            ended_at=after(14.9),
            review_due_at=after(14.9 + 7 * 24 * 60),
            approval="1 of 1: bob",
            decisions=(
                replace(RULING, refusal="SelfApproval: alice@example.com asked for CHG-20261123-001", uid="1"),
                replace(RULING, by="bob", tests="https://ci.example.com/7"),
            ),
        ),
        None,
    ),
    "denied-afterwards": (
        replace(CHANGE, type=ChangeType.EMERGENCY),
        replace(
            PROMOTING,
            phase=Phase.COMPLETED,
            stage=None,
            weight=0,
            reason="Completed",
            message="the new revision is the stable one",
            ended_at=after(14.9),
            review_due_at=after(24 * 60),
            approval="declared; approval follows",
            decisions=(replace(RULING, action=Action.DENY, by="cto", reason="that was no emergency"),),
            warnings=(
                "ApprovalDenied: cto denied it afterwards: that was no emergency; revert it (kubectl serin revert) or "
                "accept it: kubectl serin approve CHG-20261123-001 -n shop",
            ),
        ),
        None,
    ),
    "denied": (
        CHANGE,
        replace(
            WAITING,
            phase=Phase.DENIED,
            reason="Denied",
            message="bob denied it: not before the sale",
            ended_at=after(5),
            closed_at=after(5),
            decisions=(replace(RULING, action=Action.DENY, by="bob", reason="not before the sale"),),
        ),
        POLICY,
    ),
    "awaiting-its-window": (
        replace(CHANGE, author="dave"),
        replace(
            WAITING,
            reason="OutsideWindow",
            message="it fits into the opening from Sun 2026-12-06 02:00 UTC",
            approval="1 of 1: bob",
            window=Opening(
                datetime(2026, 12, 6, 1, tzinfo=UTC),
                datetime(2026, 12, 6, 3, tzinfo=UTC),
                "maintenance",
                "Europe/Berlin",
            ),
            decisions=(replace(RULING, by="bob", tests="https://ci.example.com/7"),),
            jobs=(
                JobRun("backup", "chg-backup", outcome=JobOutcome.SUCCEEDED, exit_code=0),
                JobRun("bdd", "chg-bdd", required=False, outcome=JobOutcome.FAILED, exit_code=3, detail="BackoffLimit"),
            ),
            warnings=("JobFailed: bdd failed with exit code 3, and is not required",),
        ),
        POLICY,
    ),
    "paused": (
        CHANGE,
        replace(
            BAKING,
            reason="Paused",
            message="by bob since 08:13 UTC: users complain; kubectl serin resume CHG-20261123-001 -n shop",
            decisions=(replace(RULING, action=Action.PAUSE, by="bob", reason="users complain"),),
        ),
        None,
    ),
    "rolling-back": (CHANGE, ROLLING_BACK, None),
    "rolled-back": (
        CHANGE,
        replace(
            ROLLING_BACK,
            phase=Phase.ROLLED_BACK,
            stage=None,
            reason="ErrorRate",
            message="back at stable: ErrorRate",
            ended_at=after(14.9),
        ),
        None,
    ),
    "superseded": (
        CHANGE,
        replace(
            WAITING,
            phase=Phase.SUPERSEDED,
            reason="Superseded",
            cause="Superseded",
            message="Deployment shop was given CHG-20261123-002",
            ended_at=after(5),
        ),
        POLICY,
    ),
    "first-deployment": (
        replace(CHANGE, type=ChangeType.STANDARD, created_at=after(14)),
        replace(
            PROMOTING,
            step=1,
            weight=0,
            message="1 of 10 pods of shop replaced, 1 ready",
            targets=(FIRST,),
            evidence=(),
            history=(
                record(14, Phase.PROMOTING, 0, 0, "Started", "by its own rolling update, under watch", Stage.ROLL),
            ),
        ),
        None,
    ),
    "watched-after-the-promotion": (
        CHANGE,
        replace(
            PROMOTING,
            stage=Stage.WATCH,
            weight=0,
            reason="Watching",
            message="promoted; watched until 08:29:00 UTC",
            settled_at=after(14),
            policy=replace(POLICY, after=After(timedelta(minutes=15))),
            evidence=(
                Evidence(
                    "error-rate",
                    "shop",
                    Verdict.PASS,
                    "0.1%",
                    "1%",
                    "error-rate: shop fails 0.1% of 6,000 requests in 1m (limit 1%); stable had 0.12% before",
                    6000,
                    6,
                    after(14.9),
                ),
            ),
        ),
        None,
    ),
    "watching-a-native-rollout": (
        replace(CHANGE, namespace="batch"),
        replace(
            PROMOTING,
            step=1,
            weight=0,
            reason="Watching",
            message="rolled out; watched until 08:29:30 UTC",
            settled_at=after(14.5),
            targets=(NATIVE,),
            evidence=(),
            history=(
                record(14, Phase.PROMOTING, 0, 0, "Started", "by its own rolling update, under watch", Stage.ROLL),
            ),
        ),
        None,
    ),
    "several-deployments-and-hostile-text": (
        replace(
            CHANGE,
            requested_by="\x1b[31mmallory",
            deployments=("shop", "cart"),
            created_at=START - timedelta(days=2, hours=3),
            spec={"description": "[red]not red[/red] \u202eturned\nround"},
        ),
        replace(BAKING, targets=(TARGET, replace(NATIVE, name="cart")), message="50 % until\x1b[2J [bold]late[/bold]"),
        None,
    ),
}


LIVE: dict[str, list[Live]] = {
    "baking": [
        Live(
            "shop",
            weights={"HTTPRoute/shop/shop": 50},
            pods={
                "stable": tuple(
                    Pod(f"shop-7d79-{i}", str(i), ready=True, leaving=False, restarts=0) for i in range(14)
                ),
                "canary": (
                    Pod("shop-canary-5d41-a", "a", ready=True, leaving=False, restarts=1),
                    Pod("shop-canary-5d41-b", "b", False, False, 3, "CrashLoopBackOff", detail="exit 1"),
                    Pod("shop-canary-5d41-c", "c", ready=True, leaving=True, restarts=0),
                ),
            },
        )
    ],
    "settling": [Live("shop", weights={"HTTPRoute/shop/shop": 10, "HTTPRoute/shop/api": None}, unseen=("pods",))],
}
"""What was seen around a change, where that is shown."""

GOLDEN = Path(__file__).parent / "golden"


def render(name: str) -> str:
    """As it is shown on a terminal of 80 columns without colour; what tables pad is taken off."""
    console = Console(width=80, highlight=False, color_system=None, file=io.StringIO())
    console.print(journey(*JOURNEYS[name], NOW, LIVE.get(name, ())))
    assert isinstance(console.file, io.StringIO)
    return "".join(f"{line.rstrip()}\n" for line in console.file.getvalue().splitlines())


if (
    __name__ == "__main__"
):  # python -m tests.cli.journeys: writes the golden texts anew, to be read before they are kept
    for each in JOURNEYS:
        (GOLDEN / f"{each}.txt").write_text(render(each))
