"""The commands against a real API server: what they print, and their exit codes."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
import yaml

from controller.cli.cluster import kubeconfigs, namespace_of_context
from controller.cluster.kinds import CHANGES
from controller.core.model import Phase, State
from controller.core.template import revision
from controller.errors import PermanentError
from testbed.bed import Bed
from testbed.waiting import eventually
from tests.cli.conftest import ROOT, Run, Watching, put
from tests.cli.journeys import BAKING, JOURNEYS, TARGET

SHOP = "cli-shop"
ROLLED_BACK, COMPLETED = JOURNEYS["rolled-back"][1], JOURNEYS["completed"][1]


@pytest.fixture(scope="module")
def cluster(control_plane: Bed) -> Bed:
    for plural in ("changerequests", "changedecisions", "changepolicies"):
        control_plane.kubectl("apply", "--server-side", "-f", str(ROOT / f"manifests/crds/{plural}.yaml"))
        control_plane.await_crds()
    control_plane.kubectl("apply", "--server-side", "-f", str(ROOT / "policies/normal.yaml"))
    for namespace in (SHOP, "cli-empty"):
        control_plane.kubectl("create", "namespace", namespace)
    put_here(control_plane, "CHG-20261123-001", BAKING)
    put_here(control_plane, "CHG-20261123-002", COMPLETED)
    put_here(control_plane, "CHG-20261123-003", ROLLED_BACK)
    put_here(
        control_plane, "CHG-20261123-004", State(reason="AwaitingApproval", message="normal changes need 1 approval(s)")
    )
    return control_plane


@pytest.fixture
def reached(cluster: Bed, monkeypatch: pytest.MonkeyPatch) -> Bed:
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig()))
    return cluster


def put_here(cluster: Bed, change_id: str, state: State) -> None:
    put(cluster, change_id, state, SHOP)


@pytest.fixture
def watch(cluster: Bed, start: Callable[..., Watching]) -> Callable[..., Watching]:
    return partial(start, cluster)


# --- status ---


def test_status_shows_the_journey(reached: Bed, run: Run) -> None:
    code, out, err = run("status", "CHG-20261123-001", "-n", SHOP)
    assert (code, err) == (5, "")
    assert f"CHG-20261123-001  normal change in namespace {SHOP}  Progressing" in out
    assert "▶  step 2      50 %" in out
    assert "08:11:30  Progressing  50 %  Advanced: step 2 of 3: 50 %" in out
    assert "\x1b" not in out


def test_status_shows_what_is_in_the_cluster_now(reached: Bed, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    reached.kubectl("create", "deployment", "cart", "--image=cart:v2", "--replicas=2", "-n", SHOP)
    eventually(lambda: len(reached.get("pods", "-n", SHOP, "-l", "app=cart")["items"]) == 2)
    template = reached.get("deployment", "cart", "-n", SHOP)["spec"]["template"]
    target = replace(TARGET, name="cart", revision=revision(template))
    put_here(reached, "CHG-20261123-015", replace(BAKING, targets=(target,)))
    out = run("status", "CHG-20261123-015", "-n", SHOP).out
    assert "  new  cart: 0 of 2 ready" in out
    assert len(re.findall(r"    cart-\S+  not ready  0 restarts", out)) == 2
    found = json.loads(run("status", "CHG-20261123-015", "-n", SHOP, "-o", "json").out)
    assert found["status"]["phase"] == "Progressing"
    assert len(found["live"][0]["pods"]["new"]) == 2
    reached.kubectl("create", "clusterrole", "cli-only-changes", "--verb=get,list,watch", "--resource=chg")
    reached.kubectl("create", "clusterrolebinding", "cli-mallory", "--clusterrole=cli-only-changes", "--user=mallory")
    monkeypatch.setenv("KUBECONFIG", str(reached.kubeconfig("mallory")))
    out = run("status", "CHG-20261123-015", "-n", SHOP).out
    assert "deployment      cart, 10 replicas" in out
    reached.kubectl("delete", "clusterrolebinding", "cli-mallory")
    reached.kubectl("delete", "chg", "chg-20261123-015", "-n", SHOP)


def test_status_of_a_change_that_has_not_started_shows_the_steps_of_its_type(reached: Bed, run: Run) -> None:
    out = run("status", "chg-20261123-004", "-n", SHOP).out
    assert "an engineering manager's" in out
    assert "·  step 3     100 %  ████████████████████  bake 15m" in out


def test_a_change_that_is_not_there_is_answered_with_those_that_are(reached: Bed, run: Run) -> None:
    code, out, err = run("status", "CHG-20261123-009", "-n", SHOP)
    assert (code, out) == (1, "")
    assert f"error: no change CHG-20261123-009 in namespace {SHOP}; there are CHG-20261123-001 (Progressing), " in err


def test_a_change_of_another_namespace_is_found_there(reached: Bed, run: Run) -> None:
    err = run("status", "CHG-20261123-001", "-n", "cli-empty").err
    assert f"it is in namespace {SHOP}: add -n {SHOP}" in err
    err = run("status", "CHG-20261123-009", "-n", "cli-empty").err
    assert "there are none; look everywhere with: kubectl serin list -A" in err


def test_a_status_of_a_newer_version_is_said_to_be_one(reached: Bed, run: Run) -> None:
    put_here(reached, "CHG-20261123-005", State())
    patch = '[{"op": "add", "path": "/status/breaches", "value": [{"rule": "x", "target": "y", "badFor": "soon"}]}]'
    reached.kubectl("patch", "chg", "chg-20261123-005", "-n", SHOP, "--subresource=status", "--type=json", "-p", patch)
    code, _, err = run("status", "CHG-20261123-005", "-n", SHOP)
    assert "UnknownStatus" in run("list", "-n", SHOP).out
    reached.kubectl("delete", "chg", "chg-20261123-005", "-n", SHOP)
    assert code == 1
    assert "status.breaches[0].badFor is 'soon'" in err
    assert "is this plugin too old?" in err


def test_status_follows_a_change_to_its_end_line_by_line(cluster: Bed, watch: Callable[..., Watching]) -> None:
    put_here(cluster, "CHG-20261123-010", replace(BAKING, history=BAKING.history[:1], step=1, weight=10))
    seen = watch("status", "-w", "CHG-20261123-010", "-n", SHOP, terminal=False)
    seen.until("History (UTC)")
    assert "step 2 of 3" not in seen.text
    put_here(cluster, "CHG-20261123-010", BAKING)
    seen.until("Advanced: step 2 of 3: 50 %")
    put_here(cluster, "CHG-20261123-010", replace(BAKING, reason="NoData", message="Prometheus is gone"))
    seen.until("NoData: Prometheus is gone")
    put_here(cluster, "CHG-20261123-010", ROLLED_BACK)
    seen.until(
        "ErrorRate: error-rate: shop"
    )  # what follows may stand in the next line: on another day, there is a date
    assert seen.end() == 3
    assert seen.text.count("step 1 of 3") == 1
    assert "\x1b" not in seen.text


def test_on_a_terminal_the_countdown_moves_by_itself(cluster: Bed, watch: Callable[..., Watching]) -> None:
    settled_at = datetime.now(UTC) - timedelta(minutes=5)
    put_here(cluster, "CHG-20261123-011", replace(BAKING, settled_at=settled_at, entered_at=settled_at))
    seen = watch("status", "-w", "CHG-20261123-011", "-n", SHOP, terminal=True)
    eventually(lambda: len(set(re.findall(r"bake 10m, (\S+) left", seen.read()))) >= 3)
    put_here(cluster, "CHG-20261123-011", COMPLETED)
    seen.until("the new revision is the stable one")
    assert seen.end() == 0
    before, after = seen.text.split("\x1b[?1049l")
    assert "\x1b[36m" in before
    assert "the new revision is the stable one" in after, "what is left when the alternate screen is closed"


def test_no_color_means_no_colour(
    cluster: Bed, watch: Callable[..., Watching], monkeypatch: pytest.MonkeyPatch
) -> None:
    coloured = watch("status", "CHG-20261123-003", "-n", SHOP, terminal=True)
    assert coloured.end() == 3
    assert "\x1b[1;31mRolledBack" in coloured.text
    monkeypatch.setenv("NO_COLOR", "1")
    plain = watch("status", "CHG-20261123-003", "-n", SHOP, terminal=True)
    assert plain.end() == 3
    assert "RolledBack" in plain.text
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", plain.text)


# --- wait ---


def test_wait_tells_by_its_exit_code_how_it_ended(reached: Bed, run: Run) -> None:
    done = run("wait", "CHG-20261123-002", "-n", SHOP)
    assert done == (0, "CHG-20261123-002 is Completed: the new revision is the stable one\n", "")
    failed = run("wait", "CHG-20261123-003", "-n", SHOP)
    assert failed == (3, "CHG-20261123-003 is RolledBack: back at stable: ErrorRate\n", "")
    late = run("wait", "CHG-20261123-001", "-n", SHOP, "--timeout", "300ms")
    assert (late.code, late.out) == (124, "")
    assert "time is up; CHG-20261123-001 is Progressing: 50 % until" in late.err
    assert run("wait", "CHG-20261123-009", "-n", SHOP).code == 1


def test_wait_ends_when_the_change_does_or_is_deleted(cluster: Bed, watch: Callable[..., Watching]) -> None:
    for change_id in ("CHG-20261123-012", "CHG-20261123-013"):
        put_here(cluster, change_id, BAKING)
    ended = watch("wait", "CHG-20261123-012", "-n", SHOP, "--timeout", "1m", terminal=False)
    deleted = watch("wait", "CHG-20261123-013", "-n", SHOP, terminal=False)
    time.sleep(2.5)  # both are watching by now; were they not, they would see the same by their first read
    put_here(cluster, "CHG-20261123-012", replace(BAKING, phase=Phase.COMPLETED, message="done"))
    cluster.kubectl("delete", "chg", "chg-20261123-013", "-n", SHOP)
    ended.until("CHG-20261123-012 is Completed: done")
    assert ended.end() == 0
    deleted.until("CHG-20261123-013")
    assert deleted.end() == 1


def test_a_malformed_timeout_is_wrong_usage(run: Run) -> None:
    code, _, err = run("wait", "CHG-20261123-001", "--timeout", "5min")
    assert code == 2
    assert "'5min': write a duration, like 90s, 5m or 1h30m" in err


# --- list, new-id, the rest ---


def test_list(reached: Bed, run: Run) -> None:
    code, out, _ = run("list", "-n", SHOP)
    assert code == 0
    rows = [re.split(r"\s{2,}", line.strip())[:6] for line in out.splitlines()]
    assert rows[:3] == [
        ["CHANGE", "TYPE", "PHASE", "STEP", "WEIGHT", "REASON"],
        ["CHG-20261123-001", "normal", "Progressing", "2/3", "50 %", "Baking"],
        ["CHG-20261123-002", "normal", "Completed", "3/3", "0 %", "Completed"],
    ]
    assert any(line.startswith(f"{SHOP} ") for line in run("list", "-A").out.splitlines())
    assert run("list", "-n", "cli-empty").out == "No changes in namespace cli-empty; of all: kubectl serin list -A\n"


def test_list_for_programs(reached: Bed, run: Run) -> None:
    found = json.loads(run("list", "-n", SHOP, "-o", "json").out)["changes"]
    assert [change["exit"] for change in found[:4]] == [5, 0, 3, 5]
    assert found[3]["waiting"]["command"] == f"kubectl serin approve CHG-20261123-004 -n {SHOP}"
    assert yaml.safe_load(run("list", "-n", SHOP, "-o", "yaml").out)["changes"] == found
    wide = run("list", "-n", SHOP, "-o", "wide").out
    assert "REQUESTED-BY" in wide
    assert "an engineering manager's" in wide


def test_list_of_what_waits_for_me(reached: Bed, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    out = run("list", "-n", SHOP, "--mine").out
    assert f"kubectl serin approve CHG-20261123-004 -n {SHOP}" in out
    assert "CHG-20261123-001" not in out
    ids = re.compile(r"^CHG-\d+-\d+", re.M)
    assert ids.findall(run("list", "-n", SHOP, "--waiting").out) == ids.findall(out)  # ages move
    reached.kubectl(
        "create", "clusterrole", "cli-reader", "--verb=get,list,watch", "--resource=changerequests.serin.dev"
    )
    reached.kubectl("create", "clusterrolebinding", "cli-carol", "--clusterrole=cli-reader", "--user=carol")
    monkeypatch.setenv("KUBECONFIG", str(reached.kubeconfig("carol")))
    assert "Nothing waits for you" in run("list", "-n", SHOP, "--mine").out


def test_several_clusters_at_once_and_one_that_is_away(reached: Bed, run: Run, tmp_path: Path) -> None:
    config = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())
    here = config["contexts"][0]["context"]
    config["clusters"].append({"name": "away", "cluster": {"server": "http://127.0.0.1:9"}})
    config["contexts"] = [{"name": name, "context": {**here, "namespace": SHOP}} for name in ("eu", "us")]
    config["contexts"].append({"name": "asia", "context": {**here, "cluster": "away"}})
    (tmp_path / "config").write_text(json.dumps(config))
    code, out, err = run("list", "--kubeconfig", str(tmp_path / "config"), "--contexts", "eu,asia,us")
    assert code == 1
    assert [out.count(f"\n{context}  ") > 3 for context in ("eu", "us", "asia")] == [True, True, False]
    assert err.startswith("error: context asia: list change")


def test_explain(reached: Bed, run: Run) -> None:
    code, out, _ = run("explain", "CHG-20261123-004", "-n", SHOP)
    assert code == 5
    assert "you             may do it, admin" in out
    assert f"  kubectl serin approve CHG-20261123-004 -n {SHOP}" in out
    found = json.loads(run("explain", "CHG-20261123-003", "-n", SHOP, "-o", "json").out)
    assert (found["phase"], found["exit"], found["you"]) == ("RolledBack", 3, {"name": "admin", "may": False})


def test_new_id_is_above_those_of_requests_and_of_deployments(reached: Bed, run: Run) -> None:
    today = f"CHG-{datetime.now(UTC):%Y%m%d}-"
    put_here(reached, f"{today}030", COMPLETED)
    assert run("new-id").out == f"{today}031\n"
    reached.kubectl("create", "deployment", "labelled", "--image=x", "-n", "cli-empty")
    reached.kubectl("label", "deployment", "labelled", "-n", "cli-empty", f"serin.dev/change={today}041")
    assert run("new-id").out == f"{today}042\n"


def test_people_see_what_their_rights_let_them_see(cluster: Bed, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig("mallory")))
    code, _, err = run("list", "-n", SHOP)
    assert code == 1
    assert 'User "mallory" cannot list resource "changerequests"' in err


def test_a_change_is_found_in_any_namespace(reached: Bed, run: Run) -> None:
    assert f"in namespace {SHOP}" in run("status", "CHG-20261123-002", "-A").out
    code, _, err = run("status", "CHG-20261123-009", "-A")
    assert code == 1
    assert "no change CHG-20261123-009 in any namespace" in err


def test_the_context_is_the_one_that_is_asked_for(reached: Bed, run: Run, tmp_path: Path) -> None:
    config = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())
    here = config["contexts"][0]["context"]
    away = {"cluster": "away", "user": here["user"], "namespace": "nowhere"}
    config["clusters"].append({"name": "away", "cluster": {"server": "http://127.0.0.1:9"}})
    config["contexts"] = [{"name": "away", "context": away}, {"name": "here", "context": {**here, "namespace": SHOP}}]
    config["current-context"] = "away"
    (tmp_path / "config").write_text(json.dumps(config))
    assert run("list", "--kubeconfig", str(tmp_path / "config")).code == 1
    there = run("list", "--kubeconfig", str(tmp_path / "config"), "--context", "here")
    assert (there.code, "CHG-20261123-001" in there.out) == (0, True)
    code, _, err = run("list", "--kubeconfig", str(tmp_path / "config"), "--context", "none")
    assert (code, "none" in err) == (1, True)


def test_the_cluster_may_be_away(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:9"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {}}],
        "current-context": "x",
    }
    (tmp_path / "config").write_text(json.dumps(config))
    code, _, err = run("list", "--kubeconfig", str(tmp_path / "config"))
    assert code == 1
    assert err.startswith("error: list changerequests.serin.dev")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    err = run("list").err
    assert f"{tmp_path}/none does not exist: set KUBECONFIG or give --kubeconfig" in err


def test_the_namespace_is_that_of_the_context(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("current-context: b\ncontexts: [{name: a, context: {namespace: wrong}}]\n")
    two.write_text("current-context: a\ncontexts: [{name: b, context: {namespace: shop}}]\n")
    assert namespace_of_context([str(one), str(two)]) == "shop"
    two.write_text("contexts: [{name: b, context: {cluster: c}}]\n")
    assert namespace_of_context([str(one), str(two)]) == "default"
    two.write_text("contexts: [{name: c, context: {namespace: cart}}]\n")
    assert namespace_of_context([str(one), str(two)], "c") == "cart"
    assert kubeconfigs(f"{one}{os.pathsep}{tmp_path}/none") == [str(one)]
    with pytest.raises(PermanentError):
        kubeconfigs(f"{tmp_path}/none")


def test_a_cluster_without_serin_is_told_how_to_install_it(
    control_plane: Bed, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(control_plane.kubeconfig()))
    monkeypatch.setattr("controller.cli.cluster.CHANGES", CHANGES._replace(version="v1never"))
    code, _, err = run("list")
    assert code == 1
    assert "Install Serin: kubectl apply --server-side -k manifests/" in err


def test_kubectl_finds_the_plugin(cluster: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    plain = subprocess.run(["kubectl-serin", "version"], capture_output=True, text=True, check=True).stdout
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", plain)
    assert "/kubectl-serin" in cluster.kubectl("plugin", "list")


def test_kubectl_asks_for_completions(reached: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    def offers(*words: str) -> list[str]:
        command = [sys.executable, "-m", "controller.cli.complete", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
        assert done.stderr == ""
        *offered, end = done.stdout.splitlines()
        assert end == ":4"
        return [offer for offer in offered if offer]

    assert 'kubectl_complete-serin = "controller.cli.complete:main"' in (ROOT / "pyproject.toml").read_text()
    assert offers("ap") == ["approve"]
    assert "--over-budget" in offers("approve", "--")
    assert set(offers("status", "-n", SHOP, "CHG-20261123-00")) >= {"CHG-20261123-001", "CHG-20261123-004"}
    assert offers("list", "-n", "cli-") == ["cli-empty", SHOP]
    [context] = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())["contexts"]
    assert offers("list", "--context", "") == [context["name"]]
    monkeypatch.setenv("KUBECONFIG", "/nowhere")
    assert offers("status", "CHG") == []


def test_what_needs_no_cluster_does_not_load_its_client() -> None:
    heavy = "{'kubernetes', 'aiohttp', 'prometheus_api_client'}"
    script = f"import sys, controller.cli.__main__; print([m for m in sys.modules if m in {heavy}])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"


COMMANDS = [
    "doctor",
    "status",
    "explain",
    "review",
    "emergency",
    "revert",
    "retry",
    "list",
    "wait",
    "new-id",
    "approve",
    "deny",
    "promote",
    "pause",
    "resume",
    "rollback",
    "bypass",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_each_command_tells_its_exit_codes(run: Run, command: str) -> None:
    code, out, _ = run(command, "--help")
    assert code == 0
    assert "Exit codes: 0" in out
    for option in ("-n, --namespace", "-A, --all-namespaces", "--context", "--kubeconfig"):
        assert option in out


def test_policy_check(run: Run, tmp_path: Path) -> None:
    shipped = [str(ROOT / f"policies/{name}.yaml") for name in ("standard", "normal", "emergency")]
    good = run("policy", "check", *shipped)
    assert good.code == 0
    assert good.out.count("ok ") == 3
    bad = tmp_path / "bad.yaml"
    bad.write_text((ROOT / "policies/normal.yaml").read_text().replace("bake: 15m", "bake: soon"))
    code, out, _ = run("policy", "check", shipped[0], str(bad))
    assert code == 1
    assert "wrong" in out
    assert "ChangePolicy normal: spec.steps[2].bake is 'soon': write a duration, like 90s, 5m or 1h30m" in out
