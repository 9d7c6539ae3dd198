"""Each way around the hold is refused, to users and cluster admins; the message names the change and the way on."""

import pytest

from testbed.bed import Bed
from tests.admission.attacks import ATTACKS, Attack
from tests.admission.cluster import Scene

CASES = [(attack, person) for attacks in ATTACKS.values() for attack in attacks for person in attack.by]


@pytest.mark.parametrize(("attack", "person"), CASES, ids=[f"{attack.name} ({person})" for attack, person in CASES])
def test_refused(cluster: Bed, attack: Attack, person: str) -> None:
    scene = attack.start(Scene(cluster, person))
    answer = attack.act(scene)
    assert not answer.ok, answer
    said = answer.message.split("denied request: ", 1)[-1]
    assert said.startswith("serin: "), answer
    assert attack.says in said
    assert attack.names in said
    assert "kubectl" in said or "Leave it out" in said or "CHG-YYYYMMDD-NNN" in said
