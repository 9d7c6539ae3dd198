"""Roll-outs that a real Prometheus has scraped, judged afterwards as they would have been then."""

import http.server
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from controller.core.model import Phase
from controller.core.policy import Policy, Statistical
from controller.lab import LabError
from controller.lab.backtest import Rollout, Tried, backtest, rollouts, told
from controller.lab.commands import app
from controller.lab.plan import seen
from controller.lab.policies import load
from controller.lab.recorded import Recorder, Workload
from tests.metrics.conftest import Server, running_prometheus

SHORT = """
apiVersion: serin.dev/v1alpha1
kind: ChangePolicy
metadata: {name: standard}
spec:
  steps: [{weight: 10, bake: 5s}, {weight: 50, bake: 5s}, {weight: 100, bake: 60s}]
  metrics: {preset: pods, staleAfter: 10s}
  errorRate: {max: 1%, window: 10s, sustained: 15s}
  minRequests: 20
  analysis: {statistical: "on"}
"""
OLD_AT, NEW_AT, ALERT_AT, ENDS = 0.0, 10.0, 16.0, 34.0
"""Seconds after which the pods begin to answer, an alert about `pay` begins to fire, and the record ends."""
ALERT = {
    "alert": "PayDown",
    "expr": 'max by (namespace) (incident{pod=~"pay-.+"}) > 0',
    "labels": {"severity": "P0", "deployment": "pay"},
}


@dataclass(frozen=True)
class Life:
    """A pod: from when it answers, requests a second, and the share of them that fails."""

    begins: float
    rate: float
    bad: float

    def exposition(self, age: float) -> str:
        total = self.rate * (age - self.begins)
        bad = int(total * self.bad)
        counts = f'http_requests_total{{code="200"}} {int(total) - bad}\nhttp_requests_total{{code="500"}} {bad}\n'
        return f"{counts}incident {int(age >= ALERT_AT)}\n"


PODS = {
    "shop-6d4c9-aaaaa": Life(OLD_AT, 100, 0.001),
    "shop-6d4c9-bbbbb": Life(OLD_AT, 100, 0.001),
    "shop-7f8b2-ccccc": Life(NEW_AT, 60, 0.2),
    "cart-5c5c5-aaaaa": Life(OLD_AT, 200, 0.002),
    "cart-9e9e9-ccccc": Life(NEW_AT, 60, 0.002),
    "pay-5c5c5-aaaaa": Life(OLD_AT, 200, 0.002),
    "pay-9e9e9-ccccc": Life(NEW_AT, 60, 0.002),
    "shop-admin-7f8b2-ccccc": Life(OLD_AT, 5, 1.0),
}


class Handler(http.server.BaseHTTPRequestHandler):
    """/POD: what it has counted; 503 before it is there."""

    began = 0.0

    def do_GET(self) -> None:
        pod, age = PODS[self.path.strip("/")], time.monotonic() - Handler.began
        body = pod.exposition(age).encode() if age >= pod.begins else b""
        self.send_response(200 if body else 503)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, datetime, datetime]]:
    """A Prometheus with half a minute of scrapes, and the moments between which they are."""
    exporter = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=exporter.serve_forever, args=(0.05,), daemon=True).start()
    address = f"127.0.0.1:{exporter.server_port}"
    labels = [{"namespace": "default", "pod": pod, "__metrics_path__": f"/{pod}"} for pod in PODS]
    targets = [{"targets": [address], "labels": each} for each in labels]
    Handler.began = time.monotonic()
    began_at = datetime.now(UTC)
    scrapes: list[Mapping[str, Any]] = [{"job_name": "pods", "static_configs": targets}]
    rules = {"groups": [{"name": "p0", "rules": [ALERT]}]}
    with running_prometheus(tmp_path_factory.mktemp("past"), scrapes, rules) as server:
        time.sleep(max(0.0, ENDS - (time.monotonic() - Handler.began)))
        yield server, began_at - timedelta(seconds=1), datetime.now(UTC)
    exporter.shutdown()
    exporter.server_close()


@pytest.fixture(scope="module")
def policy_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("policy") / "short.yaml"
    path.write_text(SHORT)
    return path


@pytest.fixture(scope="module")
def policy(policy_file: Path) -> Policy:
    return load(str(policy_file))[1]


def tried(recorded: tuple[Server, datetime, datetime], policy: Policy, name: str) -> Tried:
    server, begin, end = recorded
    workload = Workload.of(f"default/{name}", "")
    kind, _ = load("standard")
    with Recorder(server.url) as recorder:
        [rollout] = rollouts(recorder, workload, policy, begin, end)
        return backtest(recorder, workload, policy, kind, rollout, end)


def began(tried: Tried) -> tuple[str, str]:
    rollout: Rollout = tried.rollout
    return rollout.stable.pods, rollout.new.pods


def test_a_bad_rollout_would_have_gone_back(recorded: tuple[Server, datetime, datetime], policy: Policy) -> None:
    found = tried(recorded, policy, "shop")
    assert began(found) == ("shop-6d4c9-", "shop-7f8b2-")
    state = found.looks[-1].state
    assert (state.phase, state.cause) == (Phase.ROLLING_BACK, "WorseThanStable")
    assert found.verdict_at
    after = found.verdict_at - found.rollout.new.first_at
    assert timedelta() < after <= timedelta(seconds=12)
    _, every = found.rollout.new.answered[-1]
    assert every.ratio == pytest.approx(0.2, abs=0.02)
    assert every.total == pytest.approx(60 * (ENDS - NEW_AT), rel=0.15)
    *_, verdict, last = told(found)
    assert "  WorseThanStable   errors-vs-stable: shop fails " in verdict
    assert "after its first requests: WorseThanStable; " in last
    assert last.endswith(" of them later.")


def test_control_the_limits_alone_would_have_taken_longer(
    recorded: tuple[Server, datetime, datetime], policy: Policy
) -> None:
    limits = replace(policy, analysis=replace(policy.analysis, statistical=Statistical.OFF))
    early, late = (tried(recorded, p, "shop") for p in (policy, limits))
    assert late.looks[-1].state.cause == "ErrorRate"
    assert early.verdict_at
    assert late.verdict_at
    assert late.verdict_at - early.verdict_at >= timedelta(seconds=5)


def test_a_good_rollout_would_have_stayed(recorded: tuple[Server, datetime, datetime], policy: Policy) -> None:
    found = tried(recorded, policy, "cart")
    assert began(found) == ("cart-5c5c5-", "cart-9e9e9-")
    state = found.looks[-1].state
    assert (state.phase, state.weight, found.verdict_at) == (Phase.PROGRESSING, 100, None)
    assert [e.verdict for e in state.evidence if e.rule == "errors-vs-stable"] == ["PASS"]
    *_, last = told(found)
    assert "Nothing takes it back until its record ends, at 100 % (Baking)" in last


def test_an_incident_would_have_taken_a_good_one_back(
    recorded: tuple[Server, datetime, datetime], policy: Policy
) -> None:
    found = tried(recorded, policy, "pay")
    assert found.looks[-1].state.cause == "P0Incident"
    assert found.verdict_at
    assert found.verdict_at - found.rollout.new.first_at < timedelta(seconds=ALERT_AT - NEW_AT + 10)


def test_nothing_is_known_before_it_was(recorded: tuple[Server, datetime, datetime], policy: Policy) -> None:
    """A moment of the past is asked about as it was then, or a verdict would rest on what came later."""
    server, begin, end = recorded
    workload, early = Workload.of("default/cart", ""), begin + timedelta(seconds=20)
    with Recorder(server.url) as recorder:
        then, now = (recorder.measure([workload.whole(policy, begin)], at) for at in (early, end))
    known, later = (found.arms["cart", "error-rate", "stable"] for found in (then, now))
    assert known.fresh_at
    *whole, last = known.samples
    assert len(whole) > 5
    assert max(last.at, known.fresh_at) <= early
    assert whole == [sample for sample in later.samples if sample.at < last.at]
    assert later.samples[-1].at > early + timedelta(seconds=10)


def test_as_people_type_it(recorded: tuple[Server, datetime, datetime], policy_file: Path) -> None:
    server, begin, end = recorded
    asked = ["backtest", "--policy", str(policy_file), "--prometheus", server.url, "--deployment", "default/shop"]
    result = CliRunner().invoke(app, [*asked, "--from", begin.isoformat(), "--to", end.isoformat()])
    assert result.exit_code == 0, result.output
    first, _, heading, *_ = result.output.splitlines()
    assert first.startswith("default/shop from 20")
    assert first.endswith(": 1 roll-out; the standard policy")
    assert "UTC: shop-7f8b2-* beside shop-6d4c9-*" in heading
    planned = CliRunner().invoke(app, ["plan", *asked[1:]])
    assert planned.exit_code == 0, planned.output
    assert planned.output.startswith("default/shop, the standard policy: 2")
    assert "limit 1%: no change starts (StableOutOfBudget)" in planned.output, "its new pods are in it"
    for arguments, says in (
        (["--from", "1h", "--preset", "envoy"], "counts by Service, which all revisions share"),
        (["--from", "1h", "--preset", "none"], "--preset is 'none': write one of "),
    ):
        refused = CliRunner().invoke(app, [*asked, *arguments])
        assert isinstance(refused.exception, LabError)
        assert says in str(refused.exception)
    assert "write a moment before --to" in CliRunner().invoke(app, [*asked, "--from", "1h", "--to", "2h"]).output
    assert "'noon': write a moment like 2026-11" in CliRunner().invoke(app, [*asked, "--from", "noon"]).output


def test_a_deployment_that_is_not_there_is_named(recorded: tuple[Server, datetime, datetime], policy: Policy) -> None:
    server, begin, end = recorded
    with Recorder(server.url) as recorder, pytest.raises(LabError, match="no requests of default/nix in that time"):
        rollouts(recorder, Workload.of("default/nix", ""), policy, begin, end)
    with Recorder("http://127.0.0.1:9") as recorder, pytest.raises(LabError, match="check --prometheus"):
        rollouts(recorder, Workload.of("default/shop", ""), policy, begin, end)


def test_the_plan_rests_on_what_was_scraped(recorded: tuple[Server, datetime, datetime], policy: Policy) -> None:
    server, begin, end = recorded
    workload = Workload.of("default/cart", "")
    with Recorder(server.url) as recorder:
        today = seen(policy, "cart", recorder.measure([workload.whole(policy, begin)], end))
    assert today.scraped_every == pytest.approx(timedelta(seconds=1), abs=timedelta(milliseconds=200))
    assert 200 < today.rps < 262, "200 a second, and 60 more for two thirds of the time"
    assert today.history.stable.ratio == pytest.approx(0.002, abs=0.0005)
    assert today.bad["error-rate"] == pytest.approx(0.002, abs=0.0005)
