"""What the documents say of the code is what the code says."""

import re
from dataclasses import replace
from pathlib import Path
from unittest.mock import ANY

import promql_parser
import pytest
import yaml

from controller.cli.__main__ import app
from controller.cli.exits import Exit
from controller.cli.waits import TURNS
from controller.core.checks import ENDING_TROUBLE
from controller.core.decide import RULES
from controller.core.policy import parse_policy
from controller.metrics.presets import PRESETS, preset_of
from tests.simulation.storm.run import HAPPEN

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)")
OF_THE_CODE = {"BadEvent", "BadObject", "Deleted", "Empty", "Retry", "ChangePolicy", "Prometheus", "AdmissionFound"}
"""Words that look like a reason where reasons are made, and the one that says all is well."""
TRANSIENT = {
    "ConnectionLost", "CutShort", "DiscoveryDisagrees", "LeaseLost", "ListExpired", "NotTheApiServer", "StaleList",
    "StaleRead", "Timeout",
}  # fmt: skip
"""Seen in the log only; Serin tries again by itself."""


def rows() -> str:
    def names(row: tuple[object, ...]) -> str:
        return ", ".join(f"`{check.__name__}`" for check in row) or "–"  # type: ignore[attr-defined]

    return "\n".join(
        f"| {phase} | {names(rules.roll_back)} | {names(rules.hold)} | `{rules.advance.__name__}` |"
        for phase, rules in RULES.items()
    )


def test_the_table_of_rules_is_the_table() -> None:
    assert rows() in (ROOT / "docs/architecture.md").read_text()


def reasons() -> set[str]:
    kinds = "Finding|Problem|PermanentError|TransientError"
    made = re.compile(rf'(?:{kinds})\(\s*"([A-Z]\w+)"|f?"([A-Z][A-Za-z0-9]+): |_failed\(state, "(\w+)"')
    files = [p for p in (ROOT / "controller").rglob("*.py") if "cli" not in p.parts]
    found = {group for path in files for match in made.finditer(path.read_text()) for group in match.groups() if group}
    return (found | set(ENDING_TROUBLE.values())) - OF_THE_CODE - TRANSIENT


@pytest.mark.parametrize("reason", sorted(reasons()))
def test_every_reason_is_explained(reason: str) -> None:
    assert f"\n### {reason}\n" in (ROOT / "docs/troubleshooting.md").read_text()


COMMANDS = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_in_the_table(command: str) -> None:
    rows = [line.split("|")[1] for line in (ROOT / "docs/cli.md").read_text().splitlines() if line.startswith("| `")]
    assert any(f"`{command}" in row for row in rows)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_says_how_to_check_it_by_hand(preset: str) -> None:
    """The query names the preset's counter of requests, and PromQL takes it."""
    after = (ROOT / "docs/metrics.md").read_text().partition(f"\n### {preset}\n")[2]
    section, *_ = re.split(r"^##", after, flags=re.MULTILINE)
    (query,) = re.findall(r"^```\n(.+)\n```", section, re.MULTILINE)
    assert query.startswith(PRESETS[preset].requests + "{")
    promql_parser.parse(query)


def test_the_custom_source_that_is_shown_can_be_used() -> None:
    shown = (ROOT / "docs/metrics.md").read_text().partition("```yaml\n")[2].partition("```")[0]
    spec = {"steps": [{"weight": 100, "bake": "5m"}], **yaml.safe_load(shown)}
    source = parse_policy(spec, frozenset()).metrics
    assert preset_of(source) == replace(PRESETS["istio"], where=(("reporter", "waypoint"),), codes=ANY)


def test_every_exit_code_is_in_the_table() -> None:
    text = (ROOT / "docs/cli.md").read_text()
    assert [code for code in Exit if f"\n| {code.value} | " not in text] == []


MADE_IN = ("## It has not started", "## The request itself is wrong", "## It waits under way", "## Metrics")
TROUBLESHOOTING = (ROOT / "docs/troubleshooting.md").read_text()


@pytest.mark.parametrize(
    "reason",
    [
        reason
        for section in re.split(r"^(?=## )", TROUBLESHOOTING, flags=re.M)
        if section.startswith(MADE_IN)
        for reason in re.findall(r"^### (\w+)$", section, re.M)
    ],
)
def test_every_reason_to_hold_says_whose_turn_it_is(reason: str) -> None:
    """One that is missing: add it to TURNS in controller/cli/waits.py, with the command that ends it."""
    assert reason in TURNS


@pytest.mark.parametrize(
    "path", sorted(str(p.relative_to(ROOT)) for p in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")])
)
def test_links_lead_somewhere(path: str) -> None:
    here = ROOT / path
    assert [to for to in LINK.findall(here.read_text()) if not (here.parent / to).exists()] == []


def test_the_two_commands_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    commands = re.findall(r"^make (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert commands == ["demo", "test"]
    assert all(re.search(rf"^{command}:", makefile, re.MULTILINE) for command in commands)


@pytest.mark.parametrize("directory", ["manifests", "policies"])
def test_what_the_readme_installs_can_be_installed(directory: str) -> None:
    assert f"kubectl apply --server-side -k {directory}/" in (ROOT / "README.md").read_text()
    assert (ROOT / directory / "kustomization.yaml").exists()


# --- The process ---


def lines_of_the_process() -> list[str]:
    """Each that says something: no headings, fences and rules."""
    found, fenced = [], False
    for line in (ROOT / "docs/change-management-process.md").read_text().splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif line.strip() and (fenced or not line.startswith("#")) and not set(line) <= set("-|"):
            found.append(line.strip())
    return found


def rows_of_the_process() -> list[list[str]]:
    text = (ROOT / "docs/process.md").read_text()
    rows = [re.split(r" (?<!\\)\| ", line.strip("| ")) for line in text.splitlines() if line.startswith("| ")]
    return [row for row in rows if row[0] != "The process says"]


def test_each_line_of_the_process_has_its_row_in_order() -> None:
    said = [row[0].replace("\\|", "|") for row in rows_of_the_process()]
    assert said == [line.strip("|").strip() if line.startswith("|") else line for line in lines_of_the_process()]
    assert len(said) > 100


def test_each_row_says_what_carries_it_out_or_why_nothing_does() -> None:
    for said, by, command, shown in rows_of_the_process():
        assert by, said
        known = shown != "–" or by.startswith(("(what follows)", "does not apply", "not built yet", "`RULES["))
        assert known, f"{said}: no test shows it"
        assert command


def test_the_tests_that_show_it_exist() -> None:
    named = {name for *_, shown in rows_of_the_process() for name in re.findall(r"`([^`]+::[^`]+)`", shown)}
    assert len(named) > 30
    for name in sorted(named):
        path, _, test = name.partition("::")
        assert f"def {test}(" in (ROOT / "tests" / path).read_text(), name


# --- What is tested where ---

RELIABILITY = (ROOT / "docs/reliability.md").read_text()
FAULTS = range(1, 53)


def rows_of(heading: str) -> list[list[str]]:
    """The rows of the table under a heading, without its own."""
    section, *_ = re.split(r"^#", RELIABILITY.partition(f"\n### {heading}\n")[2], flags=re.MULTILINE)
    return [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")][1:]


def test_every_fault_has_its_row_in_order() -> None:
    assert [row[0] for row in rows_of("Which fault is tested where")] == [f"F{n}" for n in FAULTS]


def test_every_row_names_a_test_by_its_id() -> None:
    for *_, shown in [*rows_of("Which fault is tested where"), *rows_of("What went wrong for the peers")]:
        assert "::test_" in shown, shown


IDS = sorted(set(re.findall(r"`(tests/[^`]+::[^`]+)`", RELIABILITY)))


@pytest.mark.parametrize("named", IDS)
def test_each_id_is_there(named: str) -> None:
    """As it is collected: the file, the function, and what is in brackets as one of the words that it is made of."""
    path, _, test = named.partition("::")
    test, _, case = test.rstrip("]").partition("[")
    source = (ROOT / path).read_text()
    assert re.search(rf"^(async )?def {test}\(", source, re.MULTILINE)
    assert not case or f'"{case}"' in source


def test_what_happens_by_seed_is_what_the_simulator_plays() -> None:
    played = set(re.findall(r"“([^”]+)”", RELIABILITY)) - {"by seed"}
    assert len(played) > 10
    assert played <= set(HAPPEN)
