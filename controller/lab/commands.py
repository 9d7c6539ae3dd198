"""What people type after `serin`: try a policy before it is trusted, and look a judgement over afterwards."""

import sys
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Annotated

import typer

from controller.core.codec import FieldError, Ratio, decode, parse_duration, parse_moment
from controller.lab import LabError

app = typer.Typer(
    name="serin",
    help="Serin carries out changes of Kubernetes Deployments: held, approved, 10 % -> 50 % -> 100 %, and back by "
    "itself.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
judge_app = typer.Typer(help="Look judgements over.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(judge_app, name="judge")


class Noise(StrEnum):
    CLEAN = "clean"
    BURSTY = "bursty"
    CLUSTER = "cluster"
    HICCUP = "hiccup"
    BLIP = "blip"
    HOSTILE = "hostile"


def ratio(text: str | float) -> float:
    """0.001 of "0.1%"; what is a number already is a default."""
    try:
        return text if isinstance(text, float) else decode(Ratio, text)
    except FieldError as error:
        raise typer.BadParameter(f"{text!r}: {error.mend}") from None


def duration(text: str | timedelta) -> timedelta:
    try:
        return text if isinstance(text, timedelta) else parse_duration(text)
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{text!r}: write a duration, like 90s, 5m or 1h30m") from None


def moment(text: str | datetime) -> datetime:
    """A moment with a zone, or how long ago."""
    if isinstance(text, datetime):
        return text
    for read in (parse_moment, lambda ago: datetime.now(UTC) - parse_duration(ago)):
        try:
            return read(text)
        except (ValueError, OverflowError):
            continue
    raise typer.BadParameter(f"{text!r}: write a moment like 2026-11-23T08:00:00Z, or how long ago, like 6h or 7d")


PolicyOption = Annotated[
    str,
    typer.Option(
        "--policy",
        metavar="FILE|NAME",
        help="A file with one ChangePolicy, - for standard input (kubectl get chgp normal -o yaml | …), or standard, "
        "normal or emergency as they are shipped.",
    ),
]
StableErrors = Annotated[
    float,
    typer.Option(parser=ratio, metavar="PERCENT", help="Share of requests that stable fails.", show_default="0.1%"),
]
Scrape = Annotated[
    timedelta,
    typer.Option(parser=duration, metavar="DURATION", help="How often Prometheus scrapes.", show_default="15s"),
]


Deployment = Annotated[str | None, typer.Option(metavar="NAMESPACE/NAME", help="The Deployment, as Prometheus has it.")]
Url = Annotated[str | None, typer.Option("--prometheus", metavar="URL", help="Address of Prometheus.")]
Preset = Annotated[
    str, typer.Option(help="Another source of metrics than the policy names.", show_default="that of the policy")
]
Service = Annotated[
    str,
    typer.Option(
        metavar="NAME:PORT",
        help="The Service that the route names, where the source goes by Services.",
        show_default="that of the Deployment's name, port 80",
    ),
]


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(version_of("serin"))


@judge_app.command()
def replay(log: Annotated[Path, typer.Argument(help="The log of `serin run`, as JSON.")]) -> None:
    """Make the verdicts of a log again, from the samples that it holds.

    Exit codes: 0 all are the same; 1 one is not.
    """
    from controller.lab.replay import replay_log

    sys.exit(replay_log(log))


@app.command()
def simulate(
    policy: PolicyOption,
    canary_errors: Annotated[
        float, typer.Option(parser=ratio, metavar="PERCENT", help="Share of requests that the new version fails.")
    ],
    stable_errors: StableErrors = 0.001,
    canary_slow: Annotated[
        float,
        typer.Option(
            parser=ratio, metavar="PERCENT", help="… that takes longer than any SLO has it.", show_default="0%"
        ),
    ] = 0.0,
    stable_slow: Annotated[
        float, typer.Option(parser=ratio, metavar="PERCENT", help="The same of stable.", show_default="0%")
    ] = 0.0,
    rps: Annotated[float, typer.Option(min=0.01, max=1e6, help="Requests a second to both versions together.")] = 50.0,
    onset: Annotated[
        timedelta,
        typer.Option(
            parser=duration,
            metavar="DURATION",
            help="The new version is as good as stable until then.",
            show_default="at once",
        ),
    ] = timedelta(),
    noise: Annotated[Noise, typer.Option(help="What else happens to a good service.")] = Noise.CLEAN,
    replicas: Annotated[int, typer.Option(min=1, max=1000, help="Pods of stable.")] = 10,
    scrape: Scrape = timedelta(seconds=15),
    lag: Annotated[
        timedelta,
        typer.Option(
            parser=duration,
            metavar="DURATION",
            help="How long it takes until a scrape can be asked for.",
            show_default="30s",
        ),
    ] = timedelta(seconds=30),
    seed: Annotated[int, typer.Option(help="The same seed gives the same change.")] = 7,
    runs: Annotated[
        int, typer.Option(min=1, max=100_000, help="So many changes, and how often they end how.", show_default=False)
    ] = 1,
    svg: Annotated[Path | None, typer.Option(help="Draw the change into this file.", show_default=False)] = None,
    png: Annotated[
        Path | None, typer.Option(help="The same as pixels; needs the extra serin[png].", show_default=False)
    ] = None,
) -> None:
    """Play a whole change in virtual time, with the controller's own core, and say how it goes."""
    from controller.lab import picture
    from controller.lab.policies import load
    from controller.lab.service import NOISES, Scenario
    from controller.lab.simulate import describe, ending, outcome, simulate, summary, timeline

    if scrape < timedelta(seconds=1):
        raise typer.BadParameter("write at least 1s", param_hint="--scrape")
    if runs > 1 and (svg or png):
        raise typer.BadParameter("one change is drawn: leave out --runs", param_hint="--svg, --png")
    kind, judged_by = load(policy)
    noises = NOISES[noise]
    scenario = Scenario(
        rps, stable_errors, canary_errors, onset, noises, replicas, scrape, lag, stable_slow, canary_slow
    )
    about = describe(scenario, noise, judged_by, kind)
    typer.echo(f"{about}\n")
    if runs > 1:
        endings = [outcome(simulate(judged_by, kind, scenario, f"{seed}/{run}")) for run in range(runs)]
        typer.echo("\n".join(summary(endings)))
        return
    played = simulate(judged_by, kind, scenario, f"{seed}/0")
    typer.echo("\n".join(timeline(played)))
    if svg or png:
        drawn = picture.draw(played, judged_by, f"{about}\n{ending(played)}")
        _write(svg, drawn.encode())
        _write(png, picture.png(drawn) if png else b"")


@app.command()
def plan(
    policy: PolicyOption,
    rps: Annotated[float, typer.Option(min=0.0, max=1e6, help="Requests a second.")] = 50.0,
    stable_errors: StableErrors = 0.001,
    scrape: Scrape = timedelta(seconds=15),
    deployment: Deployment = None,
    prometheus: Url = None,
    service: Service = "",
    preset: Preset = "",
) -> None:
    """Say how long a change takes, the smallest regression that it catches, and what the policy cannot judge.

    With --deployment and --prometheus the requests of the last 30 minutes are looked at, else those that --rps,
    --stable-errors and --scrape suppose.
    """
    from controller.core import compare
    from controller.lab.plan import seen, supposed, told
    from controller.lab.policies import load, sourced
    from controller.lab.recorded import Recorder, Workload

    if (deployment is None) is not (prometheus is None):
        raise typer.BadParameter("give both, or none", param_hint="--deployment, --prometheus")
    kind, judged_by = load(policy)
    judged_by, now = sourced(judged_by, preset), datetime.now(UTC)
    if deployment and prometheus:
        workload = Workload.of(deployment, service)
        with Recorder(prometheus) as recorder:
            measured = recorder.measure([workload.whole(judged_by, now - compare.HISTORY)], now)
        today = seen(judged_by, workload.name, measured)
        what = f"{deployment}, the {kind} policy"
    else:
        today, what = supposed(judged_by, rps, stable_errors, scrape), f"The {kind} policy"
    typer.echo(f"{what}: {today.describe()}\n")
    typer.echo("\n".join(told(judged_by, today, now)))


@app.command()
def backtest(
    policy: PolicyOption,
    prometheus: Annotated[str, typer.Option(metavar="URL", help="Address of Prometheus.")],
    deployment: Annotated[
        str, typer.Option(metavar="NAMESPACE/NAME", help="The Deployment whose roll-outs are looked for.")
    ],
    begin: Annotated[
        datetime, typer.Option("--from", parser=moment, metavar="MOMENT", help="Roll-outs that began from here …")
    ],
    end: Annotated[
        datetime | None,
        typer.Option("--to", parser=moment, metavar="MOMENT", help="… until here.", show_default="now"),
    ] = None,
    preset: Preset = "",
) -> None:
    """Say what the policy would have decided about past roll-outs, and when, from what Prometheus has kept of them.

    A roll-out is a ReplicaSet whose pods get requests while those of another one have them. Moments are
    2026-11-23T08:00:00Z, or how long ago: 6h, 7d.
    """
    from controller.lab.backtest import backtest, rollouts, told
    from controller.lab.policies import load, sourced
    from controller.lab.recorded import Recorder, Workload

    kind, judged_by = load(policy)
    judged_by, until = sourced(judged_by, preset), end or datetime.now(UTC)
    if begin >= until:
        raise typer.BadParameter("write a moment before --to", param_hint="--from")
    workload = Workload.of(deployment, "")
    with Recorder(prometheus) as recorder:
        found = rollouts(recorder, workload, judged_by, begin, until)
        span = f"from {begin:%Y-%m-%d %H:%M} to {until:%Y-%m-%d %H:%M} UTC"
        typer.echo(f"{deployment} {span}: {len(found)} roll-out{'' if len(found) == 1 else 's'}; the {kind} policy")
        for rollout in found:
            typer.echo("\n" + "\n".join(told(backtest(recorder, workload, judged_by, kind, rollout, until))))


def _write(path: Path | None, content: bytes) -> None:
    if path:
        try:
            path.write_bytes(content)
        except OSError as error:
            raise LabError(f"{path}: {error.strerror}") from None
