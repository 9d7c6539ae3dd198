"""`kubectl serin new` on a real API server with the policies as they ship."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from testbed.bed import Bed
from tests.cli.conftest import SHOP, Run, Watching

TODAY = f"CHG-{datetime.now(UTC):%Y%m%d}-"
FORM = (
    *("--description", "Checkout v2", "--systems-affected", "checkout", "--users-affected", "all", "--downtime", "no"),
    *("--risk", "Medium", "--rollback-plan", "automatic", "--testing-plan", "BDD", "--success-criteria", "SLOs hold"),
)


@pytest.fixture
def as_alice(guarded: Bed, monkeypatch: pytest.MonkeyPatch) -> Bed:
    monkeypatch.setenv("KUBECONFIG", str(guarded.kubeconfig("alice")))
    return guarded


def test_a_form_is_written_under_the_next_free_number(as_alice: Bed, run: Run) -> None:
    code, out, err = run("new", "-n", SHOP, *FORM, "--testing-bdd", "https://ci.test/1")
    assert (code, err) == (0, "")
    change_id = out.split()[0]
    assert change_id.startswith(TODAY)
    assert f"labels: {{serin.dev/change: {change_id}}}\n    annotations: {{serin.dev/type: normal}}" in out
    spec = as_alice.get("chg", change_id.lower(), "-n", SHOP)["spec"]
    assert spec == {
        "changeId": change_id,
        "type": "normal",
        "requestedBy": "alice",
        "description": "Checkout v2",
        "impact": {"systemsAffected": "checkout", "usersAffected": "all", "downtime": "no", "risk": "medium"},
        "rollbackPlan": "automatic",
        "testingPlan": "BDD",
        "testing": {"bdd": "https://ci.test/1"},
        "successCriteria": "SLOs hold",
    }
    again = run("new", "-n", SHOP, "--type", "standard").out.split()[0]
    assert int(again[-3:]) == int(change_id[-3:]) + 1


def test_what_the_type_requires_is_named_by_its_options(as_alice: Bed, run: Run) -> None:
    code, out, err = run("new", "-n", SHOP, "--description", "x", "--risk", "low")
    text = " ".join(err.replace("│", " ").split())
    assert (code, out) == (2, "")
    assert (
        "--systems-affected, --users-affected, --downtime, --rollback-plan, --testing-plan, --success-criteria" in text
    )
    assert "normal changes have to say it" in text


def test_what_cannot_be_used_is_refused_and_nothing_is_written(as_alice: Bed, run: Run) -> None:
    before = len(as_alice.get("chg", "-n", SHOP)["items"])
    code, _, err = run("new", "-n", SHOP, *FORM, "--priority", "urgent")
    assert (code, "spec.priority is 'urgent': write P0, P1, P2 or P3" in " ".join(err.split())) == (2, True)
    code, _, err = run("new", "-n", SHOP, *FORM, "--id", "CHG-7")
    assert (code, "write CHG-YYYYMMDD-NNN" in err) == (1, True)
    assert len(as_alice.get("chg", "-n", SHOP)["items"]) == before


def test_an_id_is_taken_once(as_alice: Bed, run: Run) -> None:
    arguments = ("new", "-n", SHOP, "--type", "standard", "--id", "CHG-20260105-001")
    assert run(*arguments).code == 0
    code, _, err = run(*arguments)
    assert (code, "CHG-20260105-001 is recorded already" in err) == (1, True)


def test_a_dry_run_prints_a_file_that_can_be_applied(as_alice: Bed, run: Run, tmp_path: Path) -> None:
    code, out, err = run("new", "-n", SHOP, "--type", "emergency", "--description", "CVE\nfix", "--dry-run")
    assert (code, err) == (0, "")
    made = yaml.safe_load(out)
    assert made["spec"]["description"] == "CVE\nfix"
    name = made["metadata"]["name"]
    assert as_alice.kubectl("get", "chg", name, "-n", SHOP, "--ignore-not-found") == ""
    as_alice.kubectl("apply", "--dry-run=server", "-f", "-", stdin=out)


def test_on_a_terminal_it_asks_for_what_is_missing(guarded: Bed, start: Callable[..., Watching]) -> None:
    page = start(guarded, "new", "-n", SHOP, *FORM[2:-2], terminal=True, user="alice")
    page.until("Which type?")
    page.type("\n")
    page.until("Say what is changing and why")
    page.type("Checkout v3\n")
    page.until("Say by what the change is judged afterwards")
    page.type("\n")
    page.type("no errors\n")
    page.until("is recorded as changerequest/")
    assert page.end() == 0
    found = guarded.get("chg", "-n", SHOP)["items"]
    assert any(
        (c["spec"].get("description"), c["spec"].get("successCriteria")) == ("Checkout v3", "no errors") for c in found
    )


def test_a_name_that_is_not_the_id_is_refused(guarded: Bed) -> None:
    made = {
        "apiVersion": "serin.dev/v1alpha1",
        "kind": "ChangeRequest",
        "metadata": {"name": "another", "namespace": SHOP},
        "spec": {"changeId": "CHG-20260105-002", "type": "normal"},
    }
    done = guarded.kubectl_result("apply", "-f", "-", stdin=yaml.safe_dump(made))
    assert done.returncode != 0
    assert "metadata.name must be spec.changeId in lower case" in done.stderr
