"""What the process looks at first."""

import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any, cast

import pytest

from controller.app import _Process
from controller.cluster.client import Client, Resource
from controller.cluster.clock import Clock
from controller.cluster.read import Key, Known
from controller.core.model import Change, Phase, State
from controller.core.policy import ChangeType
from controller.errors import PermanentError, TransientError
from controller.settings import load_settings
from testbed.stage import IN_THE_IMAGE
from tests.core.test_schema import STATUS

ACTIVE = Key("ChangeRequest", "shop", "chg-20261123-001")


@pytest.mark.parametrize("phase", [Phase.PROGRESSING, Phase.PROMOTING, Phase.ROLLING_BACK])
async def test_a_change_that_users_meet_is_looked_at_before_all_that_wait(
    phase: Phase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERIN_PROMETHEUS_URL", "http://prometheus.test")
    process = _Process(load_settings(), cast(Client, SimpleNamespace(clock=Clock())))
    known = Known(Change(ACTIVE.namespace, ACTIVE.name, "CHG-20261123-001", ChangeType.NORMAL), State(phase=phase))
    monkeypatch.setattr(process.cluster, "known", lambda namespace, name: known if name == ACTIVE.name else None)
    for number in range(100):
        process.cluster._tell(Key("Deployment", "shop", f"held-{number}"))
        process.cluster._tell(Key("ChangeRequest", "shop", f"waiting-{number}"))
    process._wake(ACTIVE.namespace, ACTIVE.name)
    looked: list[Key] = []

    class Enough(BaseException):
        pass

    async def look(key: Key) -> None:
        looked.append(key)
        raise Enough

    with pytest.raises(BaseExceptionGroup):
        await process.queue.run(look, workers=1)
    await process.prometheus.close()
    assert looked == [ACTIVE]


@pytest.mark.looptime
async def test_an_api_server_that_fails_at_the_first_look_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERIN_PROMETHEUS_URL", "http://prometheus.test")
    process = _Process(load_settings(), cast(Client, SimpleNamespace(clock=Clock())))
    failures = [TransientError("InternalError", "list validatingadmissionpolicies: injected")] * 2

    async def nothing() -> None:
        pass

    async def check() -> None:
        if failures:
            raise failures.pop()

    monkeypatch.setattr(process, "synced", nothing)
    monkeypatch.setattr(process.cluster, "check_admission", check)
    await process.first_look()
    await process.prometheus.close()
    assert (failures, process.looked) == ([], True)


@pytest.mark.looptime
async def test_a_crd_that_is_replaced_by_an_older_one_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it would write from then on would be lost in part; who is not there does less harm."""
    monkeypatch.setenv("SERIN_PROMETHEUS_URL", "http://prometheus.test")
    older = {name: schema for name, schema in STATUS["properties"].items() if name != "settledAt"}
    answers: list[Any] = [STATUS, TransientError("InternalError", "injected"), STATUS, {"properties": older}]

    async def schema(resource: Resource) -> dict[str, Any]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return {"properties": {"status": answer}}

    async def nothing() -> None:
        pass

    process = _Process(load_settings(), cast(Client, SimpleNamespace(clock=Clock(), schema=schema)))
    monkeypatch.setattr(process, "look_at_admission", nothing)
    with pytest.raises(PermanentError, match=r"OldCRDs: .* would not keep status\.settledAt"):
        await process.watch_surroundings()
    await process.prometheus.close()
    assert answers == []


HOLES = """
import sys
from pathlib import Path
from controller.app import give_back_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1])

began = resident()
kept = [str(n) * 20 for n in range(400_000)]
full = resident() - began
kept = kept[::1000]
before = resident() - began
give_back_memory()
print(before / full, (resident() - began) / full)
"""


@pytest.mark.parametrize(("settings", "given_back"), [(IN_THE_IMAGE, True), ({}, False)], ids=["image", "control"])
def test_memory_that_is_free_between_what_is_used_is_given_back(settings: dict[str, str], given_back: bool) -> None:
    """As the image has it; without its settings, or without asking for it, most of it is kept."""
    environment = {**os.environ, **settings}
    done = subprocess.run([sys.executable, "-c", HOLES], env=environment, capture_output=True, text=True, check=True)
    before, after = map(float, done.stdout.split())
    assert before > 0.6
    assert after < 0.3 if given_back else after > 0.6
