"""What happens in a run, by seed: the policy, the cluster, the people, and what goes wrong at which moment.

A plan is data: happenings can be left out, which is how a failing plan is made small.
"""

import random
from dataclasses import dataclass, replace
from datetime import timedelta

from controller.core.codec import Ratio
from controller.core.model import Phase, Stage
from controller.core.policy import (
    After,
    Analysis,
    Approval,
    Before,
    ErrorRate,
    FirstDeployment,
    Form,
    Health,
    JobRule,
    LogErrors,
    LowTraffic,
    OnRollback,
    Policy,
    ReviewRules,
    Scope,
    Slo,
    Source,
    Statistical,
    Step,
    When,
)
from controller.core.recurrence import Recurrence
from controller.core.windows import Freeze, OnClose, Window
from tests.simulation.storm.cluster import BEGIN


def seconds(count: float) -> timedelta:
    return timedelta(seconds=count)


BAKE = seconds(20)
UNANSWERED_HOLD, UNANSWERED_MAX = seconds(12), seconds(35)
SUSTAINED, WINDOW = seconds(30), seconds(10)
POLICY = Policy(
    steps=tuple(Step(weight, BAKE) for weight in (10, 50, 100)),
    approval=Approval(0),
    review=ReviewRules(),
    after=After(watch=seconds(20)),
    metrics=Source(stale_after=seconds(20)),
    error_rate=ErrorRate(window=WINDOW, sustained=SUSTAINED),
    slos=(
        Slo("availability", Ratio(0.999), 14.4, None, WINDOW, SUSTAINED),
        Slo("latency", Ratio(0.99), 14.4, seconds(1), WINDOW, SUSTAINED),
    ),
    analysis=Analysis(Statistical.OFF),
    health=Health(not_ready_max=seconds(12), progress_deadline=seconds(40)),
    min_requests=20,
    no_data_deadline=seconds(60),
    drain_max=seconds(6),
    capacity_wait_max=seconds(20),
)
"""The process's, an order of magnitude faster."""


@dataclass(frozen=True)
class Moment:
    """`after` seconds after the first change got there; `step` where the phase is Progressing."""

    phase: Phase
    stage: Stage | None = None
    step: int = 0
    after: float = 0.0

    def __str__(self) -> str:
        where = self.stage or (f"step {self.step}" if self.step else "")
        return f"{self.after:.0f} s into {self.phase}{f' {where}' if where else ''}"


WAITING = (Moment(Phase.WAITING), 6)
ROLLING = (Moment(Phase.PROMOTING, Stage.ROLL), 3)
EXPOSED = (
    *((Moment(Phase.PROGRESSING, step=step), 28) for step in (1, 2, 3)),
    (Moment(Phase.PROMOTING, Stage.ROLL), 8),
    (Moment(Phase.PROMOTING, Stage.WATCH), 18),
)
BACK = (
    (Moment(Phase.ROLLING_BACK, Stage.RECOVER), 6),
    (Moment(Phase.ROLLING_BACK, Stage.RETURN), 2),
    (Moment(Phase.ROLLING_BACK, Stage.DRAIN), 5),
    (Moment(Phase.ROLLING_BACK, Stage.CLEAN), 1),
)
PASSING = (
    (Moment(Phase.PROMOTING, Stage.RETURN), 2),
    (Moment(Phase.PROMOTING, Stage.DRAIN), 5),
    (Moment(Phase.PROMOTING, Stage.CLEAN), 1),
)
ENDED = ((Moment(Phase.COMPLETED), 5), (Moment(Phase.ROLLED_BACK), 5), (Moment(Phase.SUPERSEDED), 5))
MOMENTS: tuple[tuple[Moment, float], ...] = (WAITING, *EXPOSED, *PASSING, *BACK, *ENDED)
"""And the longest wait after each."""


@dataclass(frozen=True)
class Happening:
    what: str
    when: Moment
    value: float = 0.0
    lasts: float = 0.0

    def __str__(self) -> str:
        more = f" {self.value:.3g}" if self.value else ""
        return f"{self.what}{more}{f' for {self.lasts:.0f} s' if self.lasts else ''}, {self.when}"


@dataclass(frozen=True)
class Plan:
    seed: int
    policy: Policy
    kind: str = "normal"
    workloads: tuple[str, ...] = ("shop",)
    rps: float = 40.0
    usual: float = 0.0
    scaled: bool = False
    first: bool = False
    """Its first deployment: there is no stable version."""
    routed: bool = True
    auto: bool = False
    """Serin numbers the change."""
    spec: tuple[tuple[str, str], ...] = ()
    """Annotations of the form, as fields of the spec."""
    closes: float = 0.0
    """Seconds until the window closes; 0: it does not."""
    past: str = ""
    """A change of the Deployment that is over: its revision was rejected, or its review is overdue."""
    late: bool = False
    """The ChangeRequest is written before the template is applied."""
    approvals: int = 0
    """How many people approve by themselves, in time."""
    tests: bool = True
    knowing: bool = True
    happenings: tuple[Happening, ...] = ()

    def __str__(self) -> str:
        p = self.policy
        said = [
            f"{self.kind}, {'/'.join(self.workloads)}, {self.rps:g} requests/s",
            f"statistical {p.analysis.statistical}",
            f"{p.approval.required} approvals {p.approval.when}" if p.approval.required else "",
            "first deployment" if self.first else "",
            "" if self.routed else "without a route",
            "autoscaled" if self.scaled else "",
            f"usual errors {self.usual:g}" if self.usual else "",
            str(dict(self.spec)) if self.spec else "",
        ]
        return "; ".join(filter(None, said)) + "".join(f"\n    - {h}" for h in self.happenings)


# What may happen, with the values and the durations to choose from. `value` and `lasts` mean what `run` makes of them.
VERSION_FAULTS = ("errors", "errors", "errors", "slow", "log errors", "crash", "unready", "deaf")
PLATFORM_FAULTS = (
    *(
        "prometheus down",
        "prometheus partial",
        "prometheus labels",
        "prometheus invalid",
        "prometheus slow",
        "prometheus nan",
    ),
    *("prometheus empty", "prometheus gaps", "prometheus lag"),
    *("api conflict", "api down", "api throttled", "api forbidden", "api lost"),
    *("watch stalls", "route not accepted", "admission away", "audit away"),
    *("kill before", "kill after", "kill before", "kill after", "dead for long"),
    *("stopped leader", "stopped leader", "two leaders", "clock ahead", "clock behind"),
)
PEOPLE = (
    *(
        "new template",
        "new template",
        "back to stable",
        "emergency template",
        "new id",
        "label removed",
        "template past admission",
    ),
    *("approve", "deny", "deny", "forge", "self-approve", "revoke", "pause", "pause", "rollback", "promote", "bypass"),
    *(
        "delete change",
        "delete deployment",
        "delete orphaning",
        "recreate",
        "delete canary",
        "delete service",
        "scale canary",
        "un-pause",
        "service edited",
    ),
    *(
        "scale up",
        "scale down",
        "scale to zero",
        "autoscaler down",
        "rewrite route",
        "rewrite route often",
        "rewrite route now and then",
        "route deleted",
    ),
    *(
        "policy broken",
        "policy gone",
        "freeze",
        "freeze",
        "incident",
        "incident",
        "stable errors",
        "quota",
        "retry",
        "pause set again",
    ),
)
GATES = (
    *(
        "policy broken",
        "policy gone",
        "freeze",
        "pause",
        "deny",
        "delete deployment",
        "delete change",
        "new id",
        "back to stable",
        "stable errors",
        "admission away",
        "audit away",
        "prometheus down",
        "prometheus empty",
    ),
    *(
        "prometheus partial",
        "stable errors",
        "name taken",
        "other controller",
        "same id elsewhere",
        "gitops",
        "type differs",
        "form broken",
    ),
)
"""What keeps a change from starting until somebody mends it."""
WAYS_BACK = (
    *("errors", "errors", "errors", "slow", "log errors", "log errors", "crash", "unready", "unready", "deaf", "deaf"),
    *(
        "incident",
        "delete canary",
        "rollback",
        "delete change",
        "delete deployment",
        "emergency template",
        "route not accepted",
    ),
    *(
        "rewrite route often",
        "rewrite route now and then",
        "prometheus down",
        "pause",
        "api forbidden",
        "scale to zero",
        "un-pause",
        "service edited",
        "scale canary",
    ),
)
WHAT = VERSION_FAULTS + PLATFORM_FAULTS + PEOPLE + GATES


MEETINGS = tuple(
    (what, moment)
    for what in sorted({*VERSION_FAULTS, *PLATFORM_FAULTS, *PEOPLE})
    for moment in (
        Moment(Phase.WAITING),
        Moment(Phase.PROGRESSING, step=1, after=2),
        Moment(Phase.PROMOTING, Stage.ROLL, after=1),
        Moment(Phase.ROLLING_BACK, Stage.DRAIN, after=1),
    )
)
"""Each of them at each phase."""


def make(seed: int) -> Plan:
    """Of half of the seeds, anything; of a quarter, each happening at each phase; of a quarter, what is rare."""
    chance = random.Random(seed)
    kind = chance.choice(["standard", "normal", "normal", "emergency"])
    match seed % 4:
        case 0:
            return _meeting(seed, chance, kind)
        case 2:
            return _rare(seed, chance, kind)
    return _anything(seed, chance, kind)


def _meeting(seed: int, chance: random.Random, kind: str) -> Plan:
    what, moment = MEETINGS[seed // 4 % len(MEETINGS)]
    met = replace(_at(chance, what, (moment, 0.5)), when=moment)
    back = Happening("rollback", Moment(Phase.PROGRESSING, step=1, after=12))
    happenings = (back, met) if moment.phase is Phase.ROLLING_BACK else (met,)
    return Plan(seed, _judging(chance, POLICY), kind, scaled=chance.random() < 0.3, happenings=happenings)


def _judging(chance: random.Random, policy: Policy) -> Policy:
    statistical = chance.choice([Statistical.OFF, Statistical.OFF, Statistical.ON, Statistical.ON, Statistical.OBSERVE])
    return replace(policy, analysis=Analysis(statistical))


ON, OFF = Analysis(Statistical.ON), Analysis(Statistical.OFF)
LENIENT = replace(POLICY, analysis=OFF, error_rate=replace(POLICY.error_rate, max=Ratio(0.6)))
LOGGED = replace(POLICY, analysis=OFF, log_errors=LogErrors(window=WINDOW, sustained=SUSTAINED))


def _rare(seed: int, chance: random.Random, kind: str) -> Plan:
    """What the rules are for that seldom speak otherwise."""

    def lasting(what: str, where: tuple[Moment, float], value: float = 0.5, lasts: float = 120) -> Happening:
        return replace(_at(chance, what, where), value=value, lasts=lasts)

    step, promoted = chance.choice(EXPOSED[:3]), chance.choice(EXPOSED[3:])
    worse = chance.choice([0.02, 0.03, 0.05])
    early = Moment(Phase.PROGRESSING, step=chance.choice([1, 2]), after=chance.uniform(0, 9))
    late = Moment(Phase.PROGRESSING, step=3, after=chance.uniform(15, 24))
    draining = Moment(Phase.PROMOTING, Stage.DRAIN, after=chance.uniform(0, 4))
    cases: tuple[tuple[Policy, tuple[Happening, ...]], ...] = (
        (POLICY, (lasting("pause set again", ROLLING),)),
        (POLICY, (lasting("quota", ROLLING),)),
        (POLICY, (lasting("pause set again", ROLLING), lasting("quota", ROLLING))),
        (replace(POLICY, analysis=ON), (lasting("errors", (replace(promoted[0], after=1), 0), 1.0),)),
        (LENIENT, (lasting("errors", chance.choice(EXPOSED), 0.2),)),
        (LOGGED, (lasting("log errors", chance.choice(EXPOSED)),)),
        (POLICY, (_at(chance, "delete canary", chance.choice([ROLLING, step])),)),
        (POLICY, (_at(chance, "template past admission", ROLLING),)),
        (POLICY, (_at(chance, "incident", promoted),)),
        (POLICY, (lasting("crash", promoted),)),
        (POLICY, (_at(chance, "rollback", promoted),)),
        (POLICY, (_at(chance, "un-pause", step),)),
        (POLICY, (Happening("api forbidden", late, 1.0, 60),)),
        (POLICY, (Happening("api forbidden", draining, 1.0, 60),)),
        (POLICY, (Happening("promote", early),)),
        (replace(LENIENT, slos=(), analysis=ON), (Happening("errors", Moment(Phase.WAITING), worse, 150),)),
        (POLICY, tuple(lasting(what, ROLLING) for what in ("scale to zero", "prometheus down"))),
        (POLICY, (lasting("route not accepted", step, lasts=50),)),
        (POLICY, (lasting("deaf", chance.choice([WAITING, *EXPOSED[:2]])),)),
        (POLICY, (lasting("unready", chance.choice([WAITING, step])),)),
        (replace(POLICY, approval=Approval(1, When.AFTER)), (_at(chance, "deny", step),)),
    )  # fmt: skip
    policy, happenings = cases[seed // 4 % len(cases)]
    afterwards = policy.approval.required > 0
    return Plan(seed, policy, "emergency" if afterwards else kind, happenings=happenings)


def _anything(seed: int, chance: random.Random, kind: str) -> Plan:
    rare = chance.random
    policy = _judging(chance, POLICY)
    if rare() < 0.25:
        policy = replace(policy, slos=())
    if rare() < 0.15:
        policy = replace(policy, error_rate=replace(policy.error_rate, max=Ratio(0.6)))
    if rare() < 0.25:
        policy = replace(policy, log_errors=LOGGED.log_errors)
    if rare() < 0.15:
        policy = replace(policy, low_traffic=LowTraffic.HOLD)
    if rare() < 0.3:
        policy = replace(policy, on_rollback=OnRollback.RESTORE)
    if rare() < 0.2:
        policy = replace(policy, form=Form(("description",)))
    if rare() < 0.08:
        policy = replace(policy, scope=Scope())
    if rare() < 0.15:
        policy = replace(policy, before=Before((JobRule("backup", required=rare() < 0.8),)))
    closes = chance.uniform(170, 240) if rare() < 0.25 else 0.0
    if closes:
        daily = Recurrence("daily", "FREQ=DAILY", "07:00", timedelta(hours=1, seconds=round(closes)), "UTC")
        on_close = chance.choice([OnClose.FINISH, OnClose.HOLD, OnClose.ROLL_BACK])
        policy = replace(policy, window=Window((daily,), on_close=on_close))
    if rare() < 0.2:
        policy = replace(policy, first_deployment=FirstDeployment.WAIT)
    if rare() < 0.3:
        policy = replace(policy, review=ReviewRules(due_within=seconds(20), blocks=rare() < 0.7))
    if rare() < 0.1:
        policy = replace(policy, after=After())
    asked = rare() < 0.5
    if asked:
        when = When.AFTER if kind == "emergency" else When.BEFORE
        policy = replace(policy, approval=Approval(chance.choice([1, 1, 2]), when, tests=rare() < 0.4))
    spec = [("description", "text")] if rare() < 0.7 else []
    if rare() < 0.15:
        spec.append(("rollback", "forwardOnly"))
    gates = [_at(chance, what, WAITING) for what in chance.sample(GATES, chance.choice([0, 0, 1, 2, 3]))]
    main = [_at(chance, chance.choice(WAYS_BACK), chance.choice((WAITING, *EXPOSED)))] if rare() < 0.75 else []
    if closes and rare() < 0.7:  # else it is over before the window is
        main = [replace(_at(chance, "pause", chance.choice(EXPOSED[:3])), lasts=120, value=0.2)]
    # Where it goes back on its way, most of the others meet it there.
    places = MOMENTS if not main or rare() < 0.5 else BACK + ENDED
    sources = (VERSION_FAULTS, PLATFORM_FAULTS, PLATFORM_FAULTS, PEOPLE)
    others = [
        _at(chance, chance.choice(chance.choice(sources)), chance.choice(places))
        for _ in range(chance.choice([0, 0, 1, 1, 2, 4]))
    ]
    first = rare() < 0.06
    return Plan(
        seed,
        policy,
        kind,
        ("cart", "shop") if rare() < 0.15 else ("shop",),
        rps=chance.choice([0.1, 40, 40, 40, 40, 200]),
        usual=chance.choice([0, 0, 0, 0, 0.003]),
        scaled=rare() < 0.2,
        first=first,
        routed=rare() < 0.9,
        auto=rare() < 0.1,
        spec=tuple(spec),
        closes=closes,
        past=chance.choice(["", "", "", "", "rejected", "overdue"]),
        late=rare() < 0.08 and not first,
        approvals=chance.choice([0, 1, 2, 2, 2, 2]) if asked else 0,
        tests=rare() < 0.8,
        knowing=rare() < 0.8,
        happenings=(*gates, *main, *others),
    )


def _at(chance: random.Random, what: str, where: tuple[Moment, float]) -> Happening:
    moment, longest = where
    return Happening(
        what,
        replace(moment, after=chance.uniform(0, longest)),
        value=chance.choice([0.004, 0.03, 0.2, 0.5, 1.0]),
        lasts=chance.choice([5, 20, 50, 120])
        if where is not WAITING or what not in GATES
        else chance.choice([3, 5, 8, 20]),
    )


CLOSED = Freeze("year end", "release board", BEGIN, BEGIN)
"""A freeze; `run` says from when until when."""
