"""docs/attacks.md is true: numbered, and each attack in it has a test that is there."""

import ast
import re

from tests.admission.attacks import ATTACKS
from tests.admission.cluster import REPOSITORY
from tests.admission.test_controls import SHIPPED

ROW = re.compile(r"\| (\d+) \| (.+?) \| (.+?) \| (.+?) \|")
ROWS = [
    match.groups() for match in map(ROW.fullmatch, (REPOSITORY / "docs/attacks.md").read_text().splitlines()) if match
]
TESTED = {attack.name for attacks in ATTACKS.values() for attack in attacks}
POLICIES = {each["metadata"]["name"] for each in SHIPPED}


def functions(path: str) -> set[str]:
    tree = ast.parse((REPOSITORY / path).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_they_are_numbered_and_many() -> None:
    assert [int(number) for number, *_ in ROWS] == list(range(1, len(ROWS) + 1))
    assert len({attack for _, attack, *_ in ROWS}) >= 25


def test_each_has_a_test_that_is_there() -> None:
    for _, attack, _, test in ROWS:
        path, _, name = test.partition("::")
        assert test.strip('"') in TESTED or name in functions(path), attack


def test_what_is_said_to_stop_them_is_shipped() -> None:
    for _, attack, stops, _ in ROWS:
        assert set(re.findall(r"`(serin-[a-z-]+)`", stops)) <= POLICIES, attack
