"""What a long run has shown: its figures as tables, and what does not hold."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from statistics import median
from typing import Any

from benchmarks.meter import header, heading, row, say
from benchmarks.soak.figures import Census, Failed, Sample, inexcusable, means_of, slope, tally
from benchmarks.soak.life import Life
from benchmarks.soak.plan import WAYS
from benchmarks.soak.play import Ground, Team
from controller.core.proof import Anchor, verify
from testbed import stage
from testbed.laws import broken

GROWTH_MAX = 2.0**20
"""Bytes an hour."""
TOLD = timedelta(minutes=2)
BLOCKS_MIN = 10
"""Half minutes; a slope of fewer says nothing."""
KEPT_MAX = 50
"""Allocated blocks that a turn may leave behind on average; a record of a change that is kept has hundreds."""
PROMETHEUS_KEPT = 8
"""Connections to Prometheus that stay open once there was something to measure: one for each of its threads."""
LEFT_KINDS = (
    "/apis/apps/v1/deployments",
    "/api/v1/services",
    "/apis/networking.k8s.io/v1/networkpolicies",
    "/apis/policy/v1/poddisruptionbudgets",
    "/apis/autoscaling/v2/horizontalpodautoscalers",
    "/apis/batch/v1/jobs",
)


@dataclass
class Seen:
    """What is judged when it is over."""

    began: list[Sample] = field(default_factory=list)
    middle: list[Sample] = field(default_factory=list)
    end: list[Sample] = field(default_factory=list)
    first: Census = field(default_factory=Census)
    last: Census = field(default_factory=Census)
    by_then: int = 0
    """Turns that were played before the memory was measured."""
    happened: Counter[str] = field(default_factory=Counter)
    left: list[str] = field(default_factory=list)


def left_behind(ground: Ground, teams: Sequence[Team]) -> list[str]:
    """Of Serin's, when nothing is under way and every stable manifest was applied again."""
    found = []
    for path in LEFT_KINDS:
        code, answer = ground.people["admin"].ask("GET", f"{path}?labelSelector=serin.dev/run")
        assert code == 200, answer
        found += [f"{path} {item['metadata']['namespace']}/{item['metadata']['name']}" for item in answer["items"]]
    latest = ground.recorder.latest
    for team in teams:
        for app in team.apps:
            deployment = latest("Deployment", app.namespace, app.name) or {}
            notes = deployment["metadata"].get("annotations") or {}
            if deployment["spec"].get("paused") or "serin.dev/held" in notes:
                found.append(f"{app.name} is held ({notes.get('serin.dev/held')})")
            if deployment["spec"]["replicas"] != app.replicas:
                found.append(f"{app.name} has {deployment['spec']['replicas']} replicas, not {app.replicas}")
            if not app.routed:
                continue
            route = latest("HTTPRoute", app.namespace, app.name) or {}
            backends = [
                [(ref["name"], ref.get("weight", 1)) for ref in r["backendRefs"]] for r in route["spec"]["rules"]
            ]
            if backends != [[(app.name, 1)]]:
                found.append(f"the route of {app.name} has {backends}")
            found += [f"{note} on the route of {app.name}" for note in _ours(route)]
        scaler = latest("HorizontalPodAutoscaler", team.namespace, team.apps[0].name)
        if scaler and (scaler["spec"]["minReplicas"] != 1 or _ours(scaler)):
            found.append(f"the autoscaler of {team.apps[0].name}: {scaler['spec']['minReplicas']}, {_ours(scaler)}")
    code, answer = ground.people["admin"].ask("GET", "/apis/serin.dev/v1alpha1/changerequests")
    assert code == 200, answer
    found += [
        f"{item['metadata']['name']} has finalizers" for item in answer["items"] if item["metadata"].get("finalizers")
    ]
    return found


def _ours(found: dict[str, Any]) -> list[str]:
    return [note for note in found["metadata"].get("annotations") or {} if "serin.dev/" in note]


def told(samples: Sequence[Sample]) -> str:
    rss, tasks, fds, sockets = (_middle(samples, name) for name in ("rss", "tasks", "fds", "sockets"))
    return f"{rss / 2**20:.1f} MiB, {tasks:.0f} tasks, {sockets:.0f} sockets, {fds:.0f} open files"


def _middle(samples: Sequence[Sample], name: str) -> float:
    return float(median(getattr(sample, name) for sample in samples))


def judge(ground: Ground, teams: Sequence[Team], life: Life, seen: Seen, failed: Sequence[Failed]) -> list[str]:
    """Print the figures; what does not hold."""
    wrong = list(ground.wrong)
    _ways(ground)
    heading("The platform")
    header("what was done", "times")
    for what, count in sorted(seen.happened.items()):
        row(what, count)
    say(f"\nkilled {life.killed} times; ended by itself {len(life.deaths)} times")
    wrong += [f"the controller ended by itself: {tail}" for tail in life.deaths]
    wrong += _laws(ground, teams)
    wrong += _trail(ground, teams)
    wrong += [f"left behind: {each}" for each in seen.left]
    wrong += _users(failed)
    wrong += _leaks(ground, life, seen)
    return wrong


def _ways(ground: Ground) -> None:
    heading("Changes")
    header("way", "turns", "ended")
    for way, ends in tally(ground.played).items():
        row(way, ends.total(), ", ".join(f"{end} ({count})" for end, count in ends.most_common()))
    took = [(p.ended_at - p.began_at).total_seconds() for p in ground.played if p.phases]
    changes = sum(len(p.changes) for p in ground.played)
    say(f"\n{len(ground.played)} turns, {changes} changes; from the start to the end of a turn {median(took):.0f} s")
    say(f"(median), {max(took):.0f} s at most")


def _laws(ground: Ground, teams: Sequence[Team]) -> list[str]:
    versions, breaches, bad = 0, [], []
    for name in sorted({team.namespace for team in teams}):
        history = ground.recorder.history([name])
        versions += len(history)
        found = broken(history)
        breaches += found
        bad += inexcusable(found, {v.revision: v.seen_at for v in history if v.seen_at}, ground.played)
    heading("Laws")
    by_law = Counter(breach.split()[2].rstrip(":") for breach in breaches)
    say(
        f"{versions} versions of objects; {len(breaches)} breaches, {len(breaches) - len(bad)} of them by versions that"
    )
    say(f"crash, or by somebody who deleted a pod or a canary: {dict(by_law)}")
    return [f"law: {each}" for each in bad]


def _trail(ground: Ground, teams: Sequence[Team]) -> list[str]:
    last = {
        (v.namespace, v.name): v.object
        for v in ground.recorder.history({team.namespace for team in teams})
        if v.kind == "ChangeRequest" and v.object.get("status", {}).get("endedAt")
    }
    anchors = []
    for (where, _), found in last.items():
        audit = found["status"]["audit"]
        anchors.append(Anchor(found["spec"]["changeId"], where, found["metadata"]["uid"], audit["seq"], audit["hash"]))
    lines = stage.audit_file(ground.bed).read_text().splitlines()
    findings = verify({"audit": lines}, anchors)
    heading("Audit trail")
    say(f"{len(lines)} lines, {len(anchors)} changes with an end: {len(findings)} findings")
    return [f"audit: {f.fault} {f.where}: {f.message}" for f in findings]


def _users(failed: Sequence[Failed]) -> list[str]:
    counts: Counter[tuple[str, str]] = Counter()
    for each in failed:
        counts[each.because or "none", "no answer" if each.version == "none" else "a bad one"] += each.count
    heading("Requests that failed")
    header("a part of", "answered by the version", "without an answer of any version")
    for way in [*WAYS, "none"]:
        if counts[way, "a bad one"] or counts[way, "no answer"]:
            row(way, counts[way, "a bad one"], counts[way, "no answer"])
    return [
        f"{f.count} requests to {f.deployment} failed at {f.ended_at:%H:%M:%S} ({f.version})"
        for f in failed
        if not f.because
    ]


def _leaks(ground: Ground, life: Life, seen: Seen) -> list[str]:
    wrong = []
    heading("The controller's process")
    header("", "memory", "tasks", "sockets", "open files")
    stretches = (
        ("idle in the beginning", seen.began),
        ("at rest in the middle", seen.middle),
        ("at rest in the end", seen.end),
    )
    for name, samples in stretches:
        rss, tasks, sockets, fds = (_middle(samples, what) for what in ("rss", "tasks", "sockets", "fds"))
        row(name, f"{rss / 2**20:.2f} MiB", f"{tasks:.0f}", f"{sockets:.0f}", f"{fds:.0f}")
    wrong += [
        f"{what}: {_middle(seen.end, what):.0f} in the end, {_middle(seen.began, what):.0f} in the beginning"
        for what, more in (("tasks", 0), ("sockets", PROMETHEUS_KEPT))
        if _middle(seen.end, what) > max(getattr(s, what) for s in seen.began) + more
    ]
    if seen.middle[0].pid != seen.end[0].pid:
        return [*wrong, "memory: the process that was to live to the end did not"]
    pid, since = seen.middle[0].pid, seen.middle[-1].at
    busy = [s for s in life.samples if s.pid == pid and s.at > since]
    say("")
    try:
        grows = slope((s.at, s.rss) for s in busy)
        say(f"From the middle to the end, one process: {grows.an_hour / 2**20:+.2f} ± {grows.error / 2**20:.2f} MiB an")
        say(f"hour of resident memory (least squares over {grows.count} half minutes, standard error).")
        verdict = "is" if grows.shown_below(GROWTH_MAX) else "is not"
        say(f"That it is below 1 MiB an hour {verdict} shown by this (two standard errors).")
        if grows.count >= BLOCKS_MIN and grows.exceeds(GROWTH_MAX):
            wrong.append("memory: resident memory grows by more than 1 MiB an hour")
    except ValueError as error:
        say(str(error))
    means = [f"{mean / 2**20:.1f}" for _, mean in means_of(((s.at, s.rss) for s in life.samples if s.pid == pid), TOLD)]
    say(f"The last process from its start to its end, MiB, a mean of each two minutes: {' '.join(means)}")
    turns = max(1, len(ground.played) - seen.by_then)
    hours = (seen.end[0].at - seen.middle[-1].at) / timedelta(hours=1)
    kept, rested = seen.last.blocks - seen.first.blocks, _middle(seen.end, "rss") - _middle(seen.middle, "rss")
    say(f"Between the two rests, after {turns} turns in {hours * 60:.0f} min: {rested / 2**10:+.0f} KiB of resident")
    say(f"memory ({rested / hours / 2**20:+.2f} MiB an hour), {kept:+d} allocated blocks ({kept / turns:+.1f} a turn).")
    used, free = seen.last.used - seen.first.used, seen.last.free - seen.first.free
    say(f"Of larger pieces {used / 2**10:+.0f} KiB are used, and {free / 2**10:+.0f} KiB free, kept by the C library.")
    arenas = [f"{each.arenas / 2**20:.0f}" for each in (seen.first, seen.last)]
    say(f"For small objects Python kept {' and then '.join(arenas)} MiB, and {seen.first.rings} and then")
    say(f"{seen.last.rings} objects waited for the garbage collector.")
    if kept > KEPT_MAX * turns:
        wrong.append(f"memory: {kept} blocks stay allocated after {turns} turns")
    for name, more in seen.last.grown(seen.first, least=max(20, turns // 4))[:12]:
        say(f"- {more:+d} {name}")
    peak: dict[str, int] = {
        what: max((getattr(s, what) for s in life.samples), default=0) for what in ("rss", "tasks", "sockets")
    }
    say(f"\nAt most, of any process: {peak['rss'] / 2**20:.1f} MiB, {peak['tasks']} tasks, {peak['sockets']} sockets.")
    return wrong
