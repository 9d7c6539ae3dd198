"""Jobs before the start: which a change has to have run, how each did, and what to say of it. Pure."""

from dataclasses import replace
from datetime import timedelta

from controller.core.change import JOB_LABEL, printable
from controller.core.codec import format_duration
from controller.core.model import Change, CronJob, JobOutcome, JobRun, Observation, State
from controller.core.policy import JobRule, Policy
from controller.core.template import job_name

UNDER_WAY = (JobOutcome.PENDING, JobOutcome.RUNNING)
UNFIT = (JobOutcome.MISSING, JobOutcome.NOT_OFFERED)


def wanted(change: Change, policy: Policy) -> tuple[JobRule, ...]:
    """Those of the policy, and those that the change names beside them: it may ask for more, never for less."""
    named = {rule.cron_job for rule in policy.before.jobs}
    return (*policy.before.jobs, *(JobRule(name) for name in dict.fromkeys(change.jobs) if name not in named))


def follow(state: State, observation: Observation, policy: Policy) -> tuple[JobRun, ...]:
    """How each does for the revision that the change is about now. A Job that somebody deleted is run anew."""
    change = observation.change
    return tuple(
        _follow(
            JobRun(rule.cron_job, job_name(change.name, state.revision, rule.cron_job), rule.required, rule.deadline),
            observation.cron_jobs.get(rule.cron_job),
        )
        for rule in wanted(change, policy)
    )


def _follow(run: JobRun, seen: CronJob | None) -> JobRun:
    if seen is None:
        return run
    job = seen.job
    if job is None or job.name != run.job:
        fit = JobOutcome.PENDING if seen.offered else JobOutcome.NOT_OFFERED
        return replace(run, outcome=fit if seen.found else JobOutcome.MISSING)
    ended = JobOutcome.FAILED if job.failed else JobOutcome.SUCCEEDED
    return replace(
        run,
        outcome=ended if job.ended_at else JobOutcome.RUNNING,
        exit_code=job.exit_code,
        detail=printable(job.detail, 200),
        started_at=job.started_at,
        ended_at=job.ended_at,
    )


def to_come(state: State) -> timedelta:
    """How long those may take that have not ended."""
    return max((run.deadline for run in state.jobs if run.outcome in UNDER_WAY), default=timedelta())


def warnings(state: State, change: Change) -> tuple[str, ...]:
    """What did not succeed and need not have."""
    bad = (run for run in state.jobs if not run.required and run.outcome in (JobOutcome.FAILED, *UNFIT))
    return tuple(
        f"NoSuchJob: {unfit(run, change)}" if run.outcome in UNFIT else f"JobFailed: {failed(run, change)}"
        for run in bad
    )


def unfit(run: JobRun, change: Change) -> str:
    """Why its CronJob cannot be used, and what to do."""
    name = printable(run.cron_job, 60)
    if run.outcome is JobOutcome.MISSING:
        make = f"create it, suspended if it is for changes alone, and labelled {JOB_LABEL}=true"
        return f"there is no CronJob {name} in namespace {change.namespace}: {make}"
    label = f"kubectl label cronjob/{name} -n {change.namespace} {JOB_LABEL}=true"
    return f"CronJob {name} is not labelled to be run by changes; whoever may edit it does that: {label}"


def failed(run: JobRun, change: Change) -> str:
    """How it failed, and where its log is."""
    code = f"with exit code {run.exit_code}" if run.exit_code is not None else f"({run.detail or 'no exit code known'})"
    late = run.detail.startswith("DeadlineExceeded")
    how = f"failed, not having ended within {format_duration(run.deadline)}" if late else "failed"
    log = f"kubectl logs job/{run.job} -n {change.namespace}"
    return f"CronJob {run.cron_job}'s Job {run.job} {how} {code}; its log: {log}"


def again(run: JobRun, change: Change) -> str:
    """The command that has it run anew."""
    return f"kubectl delete job/{run.job} -n {change.namespace}"
