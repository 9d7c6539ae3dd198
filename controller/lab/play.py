"""A whole change, played with the controller's own core: it decides, a cluster in virtual time does, requests follow.

Who approves, the windows and the form are left out: they say when a change starts, not how it is judged.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

from controller.core.blocks import Counts
from controller.core.decide import decide
from controller.core.model import Measurements, Phase, Stage, State
from controller.core.plan import plan
from controller.core.policy import Before, Form, Policy
from controller.core.windows import Window
from controller.lab.cluster import Cluster, Server
from controller.measure import subjects_of
from controller.metrics.arms import Subject

SOON, STEADY = timedelta(seconds=1), timedelta(seconds=5)
"""How often the controller looks: while it waits for the cluster, and while a step bakes."""
_AT_ONCE = 20
_PATIENCE = timedelta(minutes=2)
"""What has not started by then does not start by itself."""


class Traffic(Protocol):
    """Requests, and the Prometheus that knows of them."""

    new: Counts
    stable: Counts
    """All that each version has answered so far."""

    def serve(self, until: datetime, servers: Iterable[Server]) -> None: ...
    def measure(self, subjects: Iterable[Subject], now: datetime) -> Measurements: ...


@dataclass(frozen=True)
class Look:
    """What the controller made of one look. `weight`: what the route really gives; the counts are of all so far."""

    at: datetime
    state: State
    weight: int
    new: Counts
    stable: Counts


def judged_alone(policy: Policy) -> Policy:
    """The policy without what holds a change before its start."""
    approval = replace(policy.approval, required=0, tests=False)
    return replace(policy, approval=approval, before=Before(), window=Window(), form=Form(), scope=None)


def play(policy: Policy, cluster: Cluster, traffic: Traffic, begin: datetime, until: datetime) -> Iterator[Look]:
    """Looks, to the end of the change or of the time."""
    policy = judged_alone(policy)
    state, now = State(), begin
    while now <= until:
        state = _look(state, policy, cluster, traffic, now)
        yield Look(now, state, cluster.weight, traffic.new, traffic.stable)
        if state.phase.terminal or (state.phase is Phase.WAITING and now - begin >= _PATIENCE):
            return
        steady = state.settled_at is not None and state.stage in (None, Stage.WATCH)
        now += STEADY if steady or state.phase is Phase.WAITING else SOON
        cluster.pass_time(now)
        traffic.serve(now, cluster.servers(now))


def _look(state: State, policy: Policy, cluster: Cluster, traffic: Traffic, now: datetime) -> State:
    """Decide and do, until nothing is left to be done at once."""
    asked = replace(state, policy=state.policy or policy)
    measured = traffic.measure(subjects_of(cluster.change, asked, now), now)
    for _ in range(_AT_ONCE):
        before, observation = state, cluster.observe(measured, now)
        state = decide(before, observation, before.policy or policy, now)
        intents = plan(state, observation)
        if intents:
            cluster.apply(intents[0], now)
        elif state == before:
            break
    return state
