"""Jobs before the start, over the real loop in virtual time: what waits for them, what their ends mean, what is run."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.cluster import manifest
from controller.core import gates, jobs
from controller.core.change import JOBS, JOBS_MAX, Problem, job_names
from controller.core.codec import FieldError
from controller.core.decide import RULES
from controller.core.intake import Ask, Record, intake
from controller.core.model import (
    Action,
    CronJob,
    Deployment,
    Job,
    JobOutcome,
    JobRun,
    Measurements,
    Observation,
    Phase,
    State,
)
from controller.core.plan import Intent, RunJob
from controller.core.policy import JOB_NAME, Before, ChangeType, JobRule, Policy, parse_policy
from controller.core.template import job_name
from tests.core.test_decisions import EARLIER, MINUTE, Desk, shipped
from tests.simulation.world import BEGIN

BACKUP = "chg-20261123-001-new-backup"
TESTS = "chg-20261123-001-new-tests"


def policy(*rules: JobRule, kind: ChangeType = ChangeType.NORMAL) -> Policy:
    return replace(shipped(kind), before=Before(rules or (JobRule("backup"),)))


class Yard(Desk):
    """A namespace with CronJobs; Jobs that are made of them end when `end` says so."""

    def __init__(self, policy_: Policy | None = None, kind: ChangeType = ChangeType.NORMAL, **offered: bool) -> None:
        self.offered: dict[str, bool] = offered or {"backup": True}
        self.ran: dict[str, Job] = {}
        self.jobs_made: list[str] = []
        super().__init__(kind, policy_ or policy(kind=kind))

    async def observe(self, change: Any, state: State, measurements: Measurements | None) -> Observation:
        seen = await super().observe(change, state, measurements)
        return replace(seen, cron_jobs=self.seen(state))

    def seen(self, state: State) -> Mapping[str, CronJob]:
        rules = jobs.wanted(self.change, self.policy)
        names = {rule.cron_job: job_name(self.change.name, state.revision, rule.cron_job) for rule in rules}
        return {
            name: CronJob(name in self.offered, self.offered.get(name, False), self.ran.get(job))
            for name, job in names.items()
        }

    async def apply(self, intent: Intent, observation: Observation) -> None:
        if isinstance(intent, RunJob):
            self.tell(f"  -> RunJob {intent.run.job}")
            assert intent.run.job not in self.ran, "a Job that is there is not made again"
            self.jobs_made.append(intent.run.job)
            self.ran[intent.run.job] = Job(intent.run.job, started_at=self.now)
            return
        await super().apply(intent, observation)

    def end(self, job: str = BACKUP, *, exit_code: int = 0, detail: str = "") -> None:
        failed = bool(exit_code or detail)
        found = replace(self.ran[job], ended_at=self.now, failed=failed, detail=detail)
        self.ran[job] = replace(found, exit_code=None if detail else exit_code)

    def approved(self) -> State:
        self.decide(Action.APPROVE, tests="yes")
        return self.pass_by(MINUTE)


def test_jobs_run_after_all_other_gates_and_before_the_start() -> None:
    yard = Yard()
    assert (yard.state.reason, yard.jobs_made) == ("AwaitingApproval", [])
    state = yard.approved()
    assert (state.phase, state.reason, yard.jobs_made) == (Phase.WAITING, "AwaitingJobs", [BACKUP])
    assert f"running before the start: {BACKUP} (kubectl get job -n demo)" in state.message
    yard.end()
    state = yard.pass_by(MINUTE)
    assert state.phase is Phase.PROGRESSING
    (run,) = state.jobs
    assert (run.outcome, run.exit_code, run.cron_job, run.job) == (JobOutcome.SUCCEEDED, 0, "backup", BACKUP)
    assert BEGIN < (run.started_at or BEGIN) < (run.ended_at or BEGIN) <= (state.started_at or BEGIN)
    assert yard.pass_by(timedelta(hours=2)).phase is Phase.COMPLETED
    assert (yard.state.jobs, yard.jobs_made) == ((run,), [BACKUP])


def test_without_the_gate_a_change_starts_over_a_job_that_has_not_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = RULES[Phase.WAITING]
    kept = tuple(rule for rule in rules.hold if rule is not gates.jobs_pending)
    monkeypatch.setitem(RULES, Phase.WAITING, replace(rules, hold=kept))
    assert Yard().approved().phase is Phase.PROGRESSING


def test_it_is_the_last_thing_that_is_asked() -> None:
    assert RULES[Phase.WAITING].hold[-1] is gates.jobs_pending


def test_a_required_job_that_fails_holds_the_change_and_says_how_to_go_on() -> None:
    yard = Yard()
    yard.approved()
    yard.end(exit_code=3)
    state = yard.pass_by(timedelta(hours=1))
    assert (state.phase, state.reason, state.jobs[0].exit_code) == (Phase.WAITING, "JobFailed", 3)
    assert f"Job {BACKUP} failed with exit code 3; its log: kubectl logs job/{BACKUP} -n demo" in state.message
    assert f"have it run again: kubectl delete job/{BACKUP} -n demo" in state.message
    assert [reason for reason, _ in yard.told].count("JobFailed") == 2, "of the change and of its Deployment, once"
    assert yard.jobs_made == [BACKUP], "nothing is run again by itself"
    del yard.ran[BACKUP]
    assert yard.pass_by(2 * MINUTE).reason == "AwaitingJobs"
    yard.end()
    assert (yard.pass_by(MINUTE).phase, yard.jobs_made) == (Phase.PROGRESSING, [BACKUP, BACKUP])


def test_a_job_that_took_too_long_says_so() -> None:
    yard = Yard(policy(JobRule("backup", deadline=5 * MINUTE)))
    yard.approved()
    yard.end(detail="DeadlineExceeded: Job was active longer than specified deadline")
    assert "failed, not having ended within 5m (DeadlineExceeded: Job was active" in yard.pass_by(2 * MINUTE).message


def test_jobs_run_side_by_side_and_what_is_not_required_only_warns() -> None:
    yard = Yard(policy(JobRule("backup"), JobRule("tests", required=False)), backup=True, tests=True)
    yard.approved()
    assert yard.jobs_made == [BACKUP, TESTS]
    yard.end(TESTS, exit_code=1)
    state = yard.pass_by(MINUTE)
    assert (state.reason, state.warnings) == ("AwaitingJobs", (state.warnings[0],))
    assert state.warnings[0].startswith(f"JobFailed: CronJob tests's Job {TESTS} failed with exit code 1")
    yard.end()
    state = yard.pass_by(MINUTE)
    assert (state.phase, [run.outcome for run in state.jobs]) == (
        Phase.PROGRESSING,
        [JobOutcome.SUCCEEDED, JobOutcome.FAILED],
    )
    assert state.warnings[0].startswith("JobFailed"), "and stays one"
    assert [reason for reason, _ in yard.told].count("JobFailed") == 1


def test_one_that_is_not_there_or_not_offered_is_not_run() -> None:
    yard = Yard(other=True)
    state = yard.approved()
    assert (state.reason, yard.jobs_made) == ("NoSuchJob", [])
    assert "there is no CronJob backup in namespace demo: create it" in state.message
    yard.offered["backup"] = False
    state = yard.pass_by(2 * MINUTE)
    assert (state.reason, yard.jobs_made) == ("NoSuchJob", [])
    assert "kubectl label cronjob/backup -n demo serin.dev/job=true" in state.message
    yard.offered["backup"] = True
    assert (yard.pass_by(2 * MINUTE).reason, yard.jobs_made) == ("AwaitingJobs", [BACKUP])


def test_a_missing_one_that_is_not_required_is_a_warning() -> None:
    yard = Yard(policy(JobRule("backup", required=False)), other=True)
    state = yard.approved()
    assert (state.phase, yard.jobs_made) == (Phase.PROGRESSING, [])
    assert state.warnings[0].startswith("NoSuchJob: there is no CronJob backup")


def test_the_change_may_name_more_and_not_fewer() -> None:
    yard = Yard(policy(JobRule("backup", required=False)), backup=True, tests=True)
    yard.change = replace(yard.change, jobs=("tests", "backup", "tests"))
    state = yard.approved()
    assert [(run.cron_job, run.required) for run in state.jobs] == [("backup", False), ("tests", True)]
    assert yard.jobs_made == [BACKUP, TESTS]


def test_an_amended_template_has_them_run_anew() -> None:
    yard = Yard()
    yard.approved()
    yard.end(exit_code=3)
    yard.pass_by(2 * MINUTE)
    yard.revision = "newer"
    yard.change = replace(yard.change, revision="newer")
    yard.pass_by(2 * MINUTE)
    assert yard.state.reason == "AwaitingApproval"
    assert yard.approved().reason == "AwaitingJobs"
    assert yard.jobs_made == [BACKUP, "chg-20261123-001-newer-backup"]


def test_a_bypass_and_a_revert_do_without() -> None:
    yard = Yard()
    yard.decide(Action.BYPASS, expires_at=yard.now + timedelta(hours=1))
    assert (yard.pass_by(MINUTE).phase, yard.jobs_made) == (Phase.PROGRESSING, [])
    yard = Yard()
    yard.others = (replace(EARLIER, stable_revisions={"shop": "new"}),)
    state = yard.pass_by(6 * MINUTE)
    assert (state.revert, state.started_at is not None, yard.jobs_made) == (True, True, [])


def test_an_emergency_runs_what_its_policy_says() -> None:
    yard = Yard(policy(kind=ChangeType.EMERGENCY), ChangeType.EMERGENCY)
    assert (yard.state.reason, yard.jobs_made) == ("AwaitingJobs", [BACKUP])
    assert Yard(shipped(ChangeType.EMERGENCY), ChangeType.EMERGENCY).state.phase is Phase.PROGRESSING


def test_what_another_gate_holds_anew_runs_nothing_more() -> None:
    yard = Yard(policy(JobRule("backup"), JobRule("tests")), backup=True, tests=True)
    yard.decide(Action.PAUSE)
    yard.approved()
    assert (yard.state.reason, yard.jobs_made) == ("Paused", [])


# --- What is written ---


CRON_JOB: dict[str, Any] = {
    "metadata": {"name": "backup", "namespace": "demo", "labels": {"serin.dev/job": "true"}},
    "spec": {
        "suspend": True,
        "jobTemplate": {
            "metadata": {"labels": {"team": "data"}, "annotations": {"note": "nightly"}},
            "spec": {
                "ttlSecondsAfterFinished": 60,
                "suspend": True,
                "backoffLimit": 0,
                "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "b", "image": "b:1"}]}},
            },
        },
    },
}


def test_a_job_is_what_kubectl_would_make_but_owned_and_bounded() -> None:
    yard = Yard()
    made = manifest.job_from(CRON_JOB, JobRun("backup", BACKUP, deadline=5 * MINUTE), yard.change)
    assert made["metadata"]["name"] == BACKUP
    assert made["metadata"]["labels"] == {"team": "data", "serin.dev/run": "chg-20261123-001"}
    assert made["metadata"]["annotations"] == {"note": "nightly", "cronjob.kubernetes.io/instantiate": "manual"}
    assert manifest.owned_by(made, yard.change)
    assert made["spec"] == {
        "backoffLimit": 0,
        "activeDeadlineSeconds": 300,
        "template": CRON_JOB["spec"]["jobTemplate"]["spec"]["template"],
    }
    assert CRON_JOB["spec"]["jobTemplate"]["spec"]["suspend"], "and nothing of the CronJob is changed"


def test_only_the_label_offers_a_cron_job() -> None:
    assert manifest.offered(CRON_JOB)
    for labels in ({}, {"serin.dev/job": "yes"}, {"serin.dev/run": "true"}):
        assert not manifest.offered({**CRON_JOB, "metadata": {"name": "backup", "labels": labels}})


def pod(*ends: tuple[int, str], kind: str = "state") -> dict[str, Any]:
    statuses = [{kind: {"terminated": {"exitCode": code, "finishedAt": at}}} for code, at in ends]
    return {"status": {"containerStatuses": statuses}}


def test_a_job_as_the_api_server_has_it() -> None:
    raw: dict[str, Any] = {"metadata": {"name": BACKUP, "creationTimestamp": "2026-11-23T08:00:00Z"}}
    assert manifest.job(raw, []) == Job(BACKUP, BEGIN)
    done = [{"type": "Complete", "status": "True", "lastTransitionTime": "2026-11-23T08:01:00Z"}]
    assert manifest.job({**raw, "status": {"conditions": done}}, []) == Job(BACKUP, BEGIN, BEGIN + MINUTE, exit_code=0)
    why = {"reason": "BackoffLimitExceeded", "message": "no more"}
    failed = [{**done[0], "type": "Failed", **why}]
    pods = [pod((3, "2026-11-23T08:00:50Z")), pod((1, "2026-11-23T08:00:10Z"), kind="lastState"), pod((0, ""))]
    assert manifest.job({**raw, "status": {"conditions": failed}}, pods) == Job(
        BACKUP, BEGIN, BEGIN + MINUTE, failed=True, exit_code=3, detail="BackoffLimitExceeded: no more"
    )
    unmet = [{**done[0], "status": "False"}, {**failed[0], "status": "False"}]
    assert manifest.job({**raw, "status": {"conditions": unmet}}, []).ended_at is None


# --- Names ---


@given(st.from_regex(JOB_NAME, fullmatch=True), st.from_regex(r"[0-9a-f]{10}", fullmatch=True))
def test_the_name_of_a_job_can_be_one_and_is_that_of_its_cron_job_and_revision(name: str, revision: str) -> None:
    made = job_name("chg-20261123-001", revision, name)
    assert len(made) <= 63
    assert made.startswith(f"chg-20261123-001-{revision}-")
    assert made[-1].isalnum()
    assert made != job_name("chg-20261123-001", revision, "a" + name)


@pytest.mark.parametrize(
    ("text", "names"),
    [("", []), ("backup", ["backup"]), (" a, b ,a,,", ["a", "b"]), ("db.backup-2", ["db.backup-2"])],
)
def test_the_annotation_names_cron_jobs(text: str, names: list[str]) -> None:
    assert job_names({JOBS: text}) == names


@given(st.text(max_size=80))
def test_whatever_is_written_becomes_names_or_a_problem(text: str) -> None:
    found = job_names({JOBS: text})
    if isinstance(found, Problem):
        assert found.reason == "InvalidAnnotation"
        assert JOBS in found.message
    else:
        assert all(JOB_NAME.fullmatch(name) for name in found)


def test_a_path_is_no_name_and_too_many_are_refused() -> None:
    for text in ("../../api/v1/secrets", "a b", "Backup", ",".join(f"j{i}" for i in range(JOBS_MAX + 1))):
        assert isinstance(job_names({JOBS: text}), Problem)


def test_a_deployment_asks_for_jobs_by_annotation() -> None:
    def asked(text: str) -> Record:
        held = Desk().deployment()
        assert isinstance(held, Deployment)
        deployment = replace(held, annotations={JOBS: text}, change="CHG-20261123-009")
        record = intake(Ask(deployment, (), (), ()), date(2026, 11, 23))
        assert isinstance(record, Record)
        return record

    assert asked("backup, tests").spec["jobs"] == ["backup", "tests"]
    assert "jobs" not in asked("").spec
    wrong = asked("no such!").spec
    assert wrong["problem"].startswith("InvalidAnnotation: annotation serin.dev/jobs names 'no such!'")
    assert "jobs" not in wrong


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"cronJob": "../x"}, "spec.before.jobs[0].cronJob"),
        ({"cronJob": "x", "deadline": "0s"}, "spec.before.jobs[0].deadline"),
        ({"cronJob": "x", "deadline": "5h"}, "spec.before.jobs[0].deadline"),
    ],
)
def test_a_policy_that_names_what_cannot_be_is_refused(spec: dict[str, str], path: str) -> None:
    with pytest.raises(FieldError) as error:
        parse_policy({"steps": [{"weight": 100, "bake": "1m"}], "before": {"jobs": [spec]}}, frozenset({"envoy"}))
    assert error.value.path == path


def test_a_policy_names_each_once() -> None:
    twice = {"steps": [{"weight": 100, "bake": "1m"}], "before": {"jobs": [{"cronJob": "a"}, {"cronJob": "a"}]}}
    with pytest.raises(FieldError):
        parse_policy(twice, frozenset({"envoy"}))


def test_a_window_has_to_have_room_for_what_has_not_run_yet() -> None:
    runs = (JobRun("a", "a", deadline=5 * MINUTE), JobRun("b", "b", deadline=20 * MINUTE))
    assert jobs.to_come(State(jobs=runs)) == 20 * MINUTE
    ended = replace(runs[1], outcome=JobOutcome.SUCCEEDED)
    assert jobs.to_come(State(jobs=(runs[0], ended))) == 5 * MINUTE
    assert jobs.to_come(State()) == timedelta()
