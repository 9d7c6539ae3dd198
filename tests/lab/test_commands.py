"""`serin` as people type it."""

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner, Result

from controller.lab import LabError
from controller.lab.commands import app
from controller.settings import Settings

ROOT = Path(__file__).parents[2]
BAD = ("simulate", "--policy", "standard", "--canary-errors", "20%")


def ran(*arguments: str, given: str | None = None) -> Result:
    return CliRunner().invoke(app, arguments, input=given)


def refused(*arguments: str) -> str:
    result = ran(*arguments)
    assert result.exit_code == 2
    return " ".join(result.output.split())


def test_simulate_tells_a_change(tmp_path: Path) -> None:
    svg, png = tmp_path / "a.svg", tmp_path / "a.png"
    result = ran(*BAD, "--svg", str(svg), "--png", str(png))
    assert result.exit_code == 0
    first, _, _, heading, *rows, _, last = result.output.splitlines()
    assert first == "A standard change: stable fails 0.1% of its requests, the new version 20%"
    assert heading.split() == ["after", "weight", "failed", "verdict"]
    assert rows[0].split()[:5] == ["5s", "10", "%", "0", "Started"]
    assert last.startswith("It goes back after 1m")
    assert ElementTree.parse(svg).getroot().tag.endswith("svg")
    assert png.read_bytes().startswith(b"\x89PNG")


def test_simulate_counts_many() -> None:
    result = ran(*BAD, "--runs", "3")
    assert "3 (100%)  RolledBack WorseThanStable" in result.output


def test_a_policy_may_come_from_standard_input() -> None:
    text = (ROOT / "policies/standard.yaml").read_text()
    assert ran("simulate", "--policy", "-", "--canary-errors", "20%", given=text).output == ran(*BAD).output


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("max: 1%", "max: 1"), "ChangePolicy standard: spec.errorRate.max is 1: write a percentage between 0 and 100"),
        (("name: standard", "name: urgent"), "metadata.name is 'urgent': write standard, normal, emergency"),
        (("kind: ChangePolicy", "kind: Policy"), "has 0 ChangePolicies in it"),
        (("kind:", "kind"), "is no YAML"),
        (("weight: 50", "weight: 5"), "spec.steps"),
    ],
)
def test_a_policy_is_checked_before_it_is_played(tmp_path: Path, change: tuple[str, str], says: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text((ROOT / "policies/standard.yaml").read_text().replace(*change))
    result = ran("simulate", "--policy", str(path), "--canary-errors", "20%")
    assert isinstance(result.exception, LabError)
    assert str(path) in str(result.exception)
    assert says in str(result.exception)


def test_wrong_usage_is_named_with_its_mend() -> None:
    assert "'5': write a percentage between 0 and 100, like \"1%\"" in refused(*BAD[:3], "--canary-errors", "5")
    assert "'10': write a duration, like 90s, 5m or 1h30m" in refused(*BAD, "--scrape", "10")
    assert "write at least 1s" in refused(*BAD, "--scrape", "500ms")
    assert "one change is drawn: leave out --runs" in refused(*BAD, "--runs", "2", "--svg", "x.svg")
    assert "'loud' is not one of 'clean', 'bursty'" in refused(*BAD, "--noise", "loud")


def test_a_picture_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    result = ran(*BAD, "--svg", str(tmp_path / "no" / "a.svg"))
    assert isinstance(result.exception, LabError)
    assert str(result.exception).endswith("a.svg: No such file or directory")


# --- The process: `serin run` is as it was ---

Done = subprocess.CompletedProcess[str]
MAIN = "from controller.__main__ import main; main()"


def serin(*arguments: str, code: str = "from controller.__main__ import main; main()") -> Done:
    return subprocess.run(
        [sys.executable, "-c", f"import sys; sys.argv = ['serin', *{arguments}]; {code}"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        timeout=60,
        check=False,
    )


def test_run_says_what_it_lacks_and_ends_with_1() -> None:
    done = serin("run")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("serin: InvalidSettings: SERIN_PROMETHEUS_URL is not set: ")


def test_run_imports_nothing_of_the_commands() -> None:
    """It starts no later and grows no larger by them."""
    code = "import controller.__main__ as m, controller.app\ntry: m.main()\nexcept SystemExit: print(*sys.modules)"
    loaded = set(serin("run", code=code).stdout.split())
    assert "controller.app" in loaded
    assert not {"typer", "click", "resvg_py"} & loaded
    assert not {module for module in loaded if module.startswith("controller.lab")}


def test_run_help_lists_every_setting() -> None:
    done = serin("run", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    names = [field.validation_alias or f"SERIN_{name.upper()}" for name, field in Settings.model_fields.items()]
    assert all(f"\n{name}" in done.stdout for name in names)


@pytest.mark.parametrize(("arguments", "code"), [((), 2), (("--help",), 0), (("run", "x"), 2), (("nonsense",), 2)])
def test_usage(arguments: tuple[str, ...], code: int) -> None:
    done = serin(*arguments)
    assert done.returncode == code
    assert "Usage: serin" in done.stdout + done.stderr


def test_errors_of_commands_are_one_line_on_stderr() -> None:
    done = serin("simulate", "--policy", "nowhere.yaml", "--canary-errors", "5%")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "serin: nowhere.yaml: cannot be read: No such file or directory\n"


def test_replay_needs_a_log(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("nothing\n")
    assert ran("judge", "replay", str(tmp_path / "log")).exit_code == 1
    assert "no line of it is a judgement" in serin("judge", "replay", str(tmp_path / "log")).stderr


def test_version() -> None:
    assert ran("version").output.strip() == serin("version").stdout.strip() == "0.1.0"
