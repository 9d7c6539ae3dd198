"""The journey of a change as something to print: a pure function of what is remembered and the time."""

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from controller.cli.decision import differing
from controller.cli.waits import Wait, waiting
from controller.core.change import printable
from controller.core.codec import format_duration, format_ratio
from controller.core.model import (
    Change,
    Evidence,
    Phase,
    Pod,
    Revert,
    Review,
    Ruling,
    Stage,
    State,
    Strategy,
    Target,
    Transition,
    Verdict,
)
from controller.core.policy import ChangeType, Policy, Step
from controller.core.windows import FOREVER, Opening, moment_text, span_text

if TYPE_CHECKING:
    from controller.cli.surroundings import Live

BAR = 20
LABEL = 12
COMMAND = 76
STYLES = {
    Phase.WAITING: "yellow",
    Phase.PROGRESSING: "cyan",
    Phase.PROMOTING: "cyan",
    Phase.COMPLETED: "green",
    Phase.ROLLING_BACK: "red",
    Phase.ROLLED_BACK: "red",
    Phase.SUPERSEDED: "yellow",
    Phase.DENIED: "red",
}
VERDICT_STYLES = {Verdict.PASS: "green", Verdict.FAIL: "red", Verdict.INCONCLUSIVE: "yellow"}
DONE, NOW, NEXT, FAILED = ("✔", "green"), ("▶", "cyan"), ("·", "dim"), ("✘", "red")


def journey(
    change: Change, state: State, policy: Policy | None, now: datetime, live: Sequence["Live"] = ()
) -> RenderableType:
    """`policy`: the one of the change's type, shown until the change has started and has a copy of its own.

    `live`: its Deployments as they are in the cluster, when they were looked at.
    """
    parts: list[RenderableType] = [_title(change, state), _header(change, state, now, live), ""]
    if policy := state.policy or policy:
        parts += [_steps(state, policy, now), ""]
    wait = waiting(change, state, policy)
    if state.phase.terminal:
        parts.append(_outcome(state, now))
    if wait:
        parts.append(_wait(wait, now))
    for revert in _to_add(state):
        parts += [
            "",
            Text(f"Add to {revert.by}", "bold"),
            Text(revert.snippet.rstrip(), no_wrap=True, overflow="ignore"),
        ]
    if state.warnings:
        parts += ["", pairs(("warning" if i == 0 else "", text) for i, text in enumerate(state.warnings))]
    if policy and under_watch(state):
        parts += ["", _limits(change, state, policy, now)]
    if any(one.pods or one.unseen for one in live):
        parts += ["", Text("Pods", "bold"), *(_pods(one) for one in live)]
    if state.decisions:
        parts += ["", Text("Decisions (UTC)", "bold"), _decisions(state.decisions, now)]
    if state.evidence:
        parts += ["", Text("Evidence", "bold"), _evidence(state.evidence, now)]
    if state.history:
        parts += ["", Text("History (UTC)", "bold"), history(state.history, now)]
    return Group(*parts)


def _to_add(state: State) -> Iterator[Revert]:
    """What has GitOps leave alone what the change is to write."""
    if state.phase is Phase.WAITING:
        yield from (revert for target in state.targets for revert in target.reverts if revert.snippet)


def explanation(
    change: Change, state: State, wait: Wait | None, me: str, now: datetime, *, may: bool, who: Sequence[str] = ()
) -> RenderableType:
    """Why a change waits, for whom, until when, and what ends it.

    `may`: whether it is the turn of `me`. `who`: all whose turn it may be, by their rights; empty when it is not known.
    """
    parts: list[RenderableType] = [_title(change, state)]
    if state.phase.terminal:
        parts.append(_outcome(state, now))
    if wait:
        parts.append(_wait(wait, now, [("you", _you(change, wait, me, may=may)), ("who may", _who(state, wait, who))]))
    return Group(*parts)


def _who(state: State, wait: Wait, who: Sequence[str]) -> str:
    """Without those who asked for the change, where it is not theirs to decide."""
    if not wait.verb:
        return ""
    others = [name for name in who if name not in state.requesters or wait.verb in ("rollback", "pause")]
    if not others:
        return "not to be seen with your rights; kubectl get rolebindings,clusterrolebindings -A shows who has the role"
    rest = f" and {len(others) - WHO_MOST} more" if len(others) > WHO_MOST else ""
    return ", ".join(others[:WHO_MOST]) + rest


WHO_MOST = 10


def _you(change: Change, wait: Wait, me: str, *, may: bool) -> str:
    if may:
        return f"may do it, {me}"
    if not wait.verb:
        return f"need do nothing, {me}" if not wait.command else ""
    right = f"{wait.verb} changetypes.serin.dev/{change.type} in namespace {change.namespace}"
    own = " and did not ask for it" if me == change.requested_by else ""
    return f"may not, {me}: it takes someone who may {right}{own}"


def history(records: Iterable[Transition], now: datetime) -> Table:
    """One row for each step of the journey."""
    table = _grid(4)
    for record in records:
        where = f"{record.phase}{f', {record.stage}' if record.stage else ''}"
        table.add_row(
            f"  {clock(record.at, now)}",
            Text(where, STYLES[record.phase]),
            f"{record.weight} %",
            _text(f"{record.reason}: {record.message}"),
        )
    return table


def clock(moment: datetime, now: datetime) -> str:
    return f"{moment:%H:%M:%S}" if moment.date() == now.date() else f"{moment:%Y-%m-%d %H:%M:%S}"


def length(duration: timedelta) -> str:
    """Two units at the most: 45s, 12m30s, 3h5m, 2d4h."""
    grain = next((g for g, most in ((1, 3600), (60, 86_400)) if duration.total_seconds() < most), 3600)
    return format_duration(timedelta(seconds=max(0, int(duration.total_seconds())) // grain * grain))


# --- The parts ---


def _title(change: Change, state: State) -> Text:
    kind = f"{change.type} change" if change.type else "change of no known type"
    place = f"  {kind} in namespace {change.namespace}  "
    return Text.assemble((printable(change.change_id, 70), "bold"), place, (state.phase, f"bold {STYLES[state.phase]}"))


DIFFERING_MOST = 6


def under_watch(state: State) -> bool:
    """A breach would roll it back."""
    return state.phase is Phase.PROGRESSING or (
        state.phase is Phase.PROMOTING and state.stage in (Stage.ROLL, Stage.WATCH)
    )


def _header(change: Change, state: State, now: datetime, live: Sequence["Live"]) -> Table:
    table = _pairs()
    form = change.spec or {}
    if description := form.get("description"):
        table.add_row("what", _text(description))
    asked = f", {length(now - change.created_at)} ago" if change.created_at else ""
    table.add_row("requested by", _text((change.requested_by or "unknown") + asked))
    if change.author:
        table.add_row("author", _text(f"{change.author} (claimed, not verified)"))
    if state.approval:
        table.add_row("approval", _text(state.approval))
    if state.forward_only:
        table.add_row("rollback", _text("cannot go back by itself (forwardOnly): a person decides"))
    if change.type is ChangeType.EMERGENCY and state.notified_at:
        table.add_row("CTO told", f"{clock(state.notified_at, now)} UTC")
    if state.window:
        table.add_row("window", _text(_window(state.window)))
    for job in state.jobs:
        code = f", exit code {job.exit_code}" if job.exit_code is not None else ""
        table.add_row("job", _text(f"{job.cron_job}: {job.outcome}{code}{f', {job.detail}' if job.detail else ''}"))
    for target in state.targets:
        table.add_row("deployment", _text(_target(target)))
        table.add_row("strategy", _text(f"{target.strategy}, {target.strategy_reason}"))
        for label, text in differing(target.diff, DIFFERING_MOST):
            table.add_row(label, _text(text))
        for one in live:
            if one.name == target.name and one.weights:
                table.add_row("traffic", _text(f"{state.weight} % set; {_traffic(one.weights)}"))
    if not state.targets and change.deployments:
        table.add_row("deployment", _text(", ".join(change.deployments)))
    return table


def _window(opening: Opening) -> str:
    if opening.end == FOREVER:
        return f"from {moment_text(opening.start, opening.zone)}"
    return span_text(opening.start, opening.end, opening.zone)


def _traffic(weights: Mapping[str, int | None]) -> str:
    return ", ".join(f"{'mixed' if weight is None else f'{weight} %'} on {key}" for key, weight in weights.items())


def _target(target: Target) -> str:
    way_back = f"in place of {target.stable_revision}" if target.stable_revision else "the first, nothing to go back to"
    return f"{target.name}, {target.replicas} replicas: revision {target.revision}, {way_back}"


def _steps(state: State, policy: Policy, now: datetime) -> Table:
    table = _grid(5)
    native = bool(state.targets) and all(t.strategy is Strategy.NATIVE for t in state.targets)
    if not native:
        for i, step in enumerate(policy.steps):
            mark = _mark_of_step(state, i)
            filled = BAR * step.weight // 100
            bar = Text("█" * filled + "░" * (BAR - filled), mark[1])
            table.add_row(
                Text(f"  {mark[0]}", mark[1]),
                f"step {i + 1}",
                f"{step.weight:>3} %",
                bar,
                _bake(state, step, mark, now),
            )
    mark = _mark_of_promotion(state)
    table.add_row(
        Text(f"  {mark[0]}", mark[1]),
        "rolling update" if native else "promotion",
        "",
        "",
        _promotion(state, policy, now),
    )
    return table


def _mark_of_step(state: State, i: int) -> tuple[str, str]:
    if not state.started_at or i + 1 > state.step:
        return NEXT
    if i + 1 < state.step or state.promoted:
        return DONE
    return NOW if state.phase is Phase.PROGRESSING else FAILED


def _mark_of_promotion(state: State) -> tuple[str, str]:
    if not state.promoted:
        return NEXT
    return {Phase.PROMOTING: NOW, Phase.COMPLETED: DONE}.get(state.phase, FAILED)


def _bake(state: State, step: Step, mark: tuple[str, str], now: datetime) -> str:
    if mark is not NOW:
        return f"bake {format_duration(step.bake)}"
    if state.settled_at is None:
        return f"bake {format_duration(step.bake)}, being set up"
    left = state.settled_at + step.bake - now
    return f"bake {format_duration(step.bake)}, {f'{length(left)} left' if left > timedelta() else 'over'}"


def _promotion(state: State, policy: Policy, now: datetime) -> str:
    if state.phase is not Phase.PROMOTING or not state.stage:
        return ""
    if state.stage is Stage.ROLL and state.settled_at:
        return f"watched, {length(state.settled_at + policy.steps[-1].bake - now)} left"
    if state.stage is Stage.WATCH and state.entered_at:
        left = state.entered_at + policy.after.watch - now
        return f"done, and watched{f', {length(left)} left' if left > timedelta() else ''}"
    return STAGES[state.stage]


STAGES = {
    Stage.ROLL: "pods are being replaced",
    Stage.RETURN: "traffic returns",
    Stage.DRAIN: "canary drains",
    Stage.CLEAN: "canary is removed",
}


def _wait(wait: Wait, now: datetime, people: Sequence[tuple[str, str]] = ()) -> Group:
    table = _pairs()
    table.add_row(Text("waiting for", "bold"), _text(wait.what))
    table.add_row("turn", wait.turn)
    for label, text in people:
        if text:
            table.add_row(label, _text(text))
    if wait.until:
        left = wait.until - now
        when = f"in {length(left)}" if left > timedelta() else f"{length(-left)} ago"
        table.add_row("until", f"{clock(wait.until, now)} UTC, {when}{f': {wait.then}' if wait.then else ''}")
    parts: list[RenderableType] = [table]
    if wait.command:
        parts += _command("ends with", wait.command)
    else:
        table.add_row("ends with", "nothing to do")
    if wait.way_back:
        parts += _command("or go back", wait.way_back)
    return Group(*parts)


def _command(label: str, command: str) -> list[Text]:
    """To be copied: a shell takes it as it stands, broken over lines or not. No table: its cells would be padded."""
    command, _, comment = printable(command, 1000).partition("  # ")
    lines = textwrap.wrap(command, COMMAND, break_long_words=False, break_on_hyphens=False)
    head = Text.assemble((label, "dim"), " " * (LABEL + 4 - len(label)) + comment if comment else "")
    return [head, Text("  " + " \\\n    ".join(lines), "bold", no_wrap=True)]


def _outcome(state: State, now: datetime) -> Table:
    table = _pairs()
    table.add_row(Text("outcome", "bold"), _text(state.message, STYLES[state.phase]))
    if began := next((r for r in state.history if state.cause and r.reason == state.cause), None):
        table.add_row("because", _text(f"{began.reason}: {began.message}"))
    if state.low_evidence:
        table.add_row("note", "LowEvidence: a step went on with too few requests to judge it")
    if state.phase is Phase.ROLLED_BACK and state.rejected:
        table.add_row("way on", "apply a mended template under a new change ID; this one stays rejected")
    elif state.phase is Phase.ROLLED_BACK:
        table.add_row("way on", "nothing speaks against this revision; apply it again under a new change ID")
    if state.closed_at:
        table.add_row("closed", f"{clock(state.closed_at, now)} UTC")
    return table


def _limits(change: Change, state: State, policy: Policy, now: datetime) -> Table:
    """What would roll it back, or hold it where it cannot go back, and how near it is to that."""
    table = _pairs()
    comes, goes_back = ("held", "held") if state.forward_only else ("back to stable", "back")
    for i, text in enumerate(limits(change, policy, promoted=state.stage is Stage.WATCH)):
        table.add_row(comes if i == 0 else "", _text(f"{'if' if i == 0 else 'or'} {text}"))
    sustained = {rule.name: rule.sustained for rule in policy.rules}
    for breach in state.breaches:
        if breach.last_bad and breach.last_at and breach.rule in sustained:
            left = breach.last_at + sustained[breach.rule] - breach.bad_for
            lasted = f"{length(breach.bad_for)} of {length(sustained[breach.rule])}"
            then = f"{goes_back} at {clock(left, now)} unless a good sample comes"
            text = f"{breach.rule} of {breach.target} for {lasted}: {then}"
            table.add_row(Text("breach", "red"), _text(text, "red"))
    return table


def limits(change: Change, policy: Policy, *, promoted: bool = False) -> Iterator[str]:
    """Each of which alone sends the traffic back to stable; once all pods are replaced, the Deployment."""
    for rule in policy.rules:
        most, window = format_ratio(rule.bad_ratio_max), format_duration(rule.window)
        yield f"{rule.bad_events} above {most} over {window}, for {format_duration(rule.sustained)} ({rule.name})"
    if change.type is not ChangeType.EMERGENCY:
        labels = ", ".join(f"{name}={value}" for name, value in policy.incidents.labels.items())
        yield f"an alert with {labels} begins"
    health = policy.health
    yield f"a pod crashes, over {health.restarts_max} restarts, or too few ready for {length(health.not_ready_max)}"
    if promoted:
        return
    yield f"new pods not ready in {length(health.progress_deadline)}, or no data for {length(policy.no_data_deadline)}"


PODS_MOST = 12


def _pods(live: "Live") -> Table:
    table = _grid(5)
    for kind, pods in live.pods.items():
        ready = sum(pod.ready and not pod.leaving for pod in pods)
        table.add_row(f"  {kind}", f"{live.name}: {ready} of {len(pods)} ready", "", "", "")
        ailing = [pod for pod in pods if not pod.ready or pod.restarts or pod.trouble or pod.leaving]
        for pod in (pods if len(pods) <= PODS_MOST else ailing)[:PODS_MOST]:
            table.add_row(
                "", f"  {printable(pod.name, 63)}", _condition(pod), f"{pod.restarts} restarts", _trouble(pod)
            )
    if live.unseen:
        table.add_row("", f"you may not read {', '.join(live.unseen)} here", "", "", "")
    return table


def _condition(pod: Pod) -> Text:
    if pod.leaving:
        return Text("leaving", "dim")
    return Text("ready", "green") if pod.ready else Text("not ready", "red")


def _trouble(pod: Pod) -> Text:
    return _text(f"{pod.trouble}{f': {pod.detail}' if pod.detail else ''}", "red")


def _decisions(rulings: Iterable[Ruling], now: datetime) -> Table:
    table = _grid(3)
    for ruling in rulings:
        said = [ruling.reason, f"tests: {ruling.tests}" if ruling.tests else "", *_review(ruling.review)]
        if ruling.expires_at:
            said.append(f"until {clock(ruling.expires_at, now)}")
        text = f"by {ruling.by}" + "".join(f"; {words}" for words in said if words)
        if ruling.refusal:
            text = f"does not count: {ruling.refusal}; it was {text}"
        style = "red" if ruling.refusal else "green"
        table.add_row(f"  {clock(ruling.at, now)}", Text(ruling.action, style), _text(text))
    return table


def _review(review: Review | None) -> Iterable[str]:
    if review is None:
        return []
    follow_ups = [f"to do: {text}" for text in review.follow_ups]
    return [review.outcome, review.success_criteria, f"learned: {review.lessons_learned}", *follow_ups]


def _evidence(all_evidence: Iterable[Evidence], now: datetime) -> Table:
    table = _grid(2)
    for evidence in all_evidence:
        of = f" (data of {clock(evidence.data_at, now)})" if evidence.data_at else ""
        table.add_row(Text(f"  {evidence.verdict}", VERDICT_STYLES[evidence.verdict]), _text(evidence.message + of))
    return table


# --- How it is set ---


def _text(text: str, style: str = "") -> Text:
    """Text from outside: harmless, and taken word for word."""
    return Text(printable(" ".join(text.split()), 1000), style, overflow="fold")


def pairs(rows: Iterable[tuple[str, str]]) -> Table:
    """Labels and texts from outside."""
    table = _pairs()
    for label, text in rows:
        table.add_row(label, _text(text))
    return table


def _pairs() -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True, min_width=LABEL + 2)
    table.add_column(overflow="fold")
    return table


def _grid(columns: int) -> Table:
    table = Table.grid(padding=(0, 2))
    for _ in range(columns - 1):
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    return table
