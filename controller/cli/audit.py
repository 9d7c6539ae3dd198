"""`audit`: the log of all changes, for auditors: what to sample, whether the log is whole, and ready answers."""

import csv
import dataclasses
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from controller.cli.exits import Exit
from controller.cli.options import Where, command, console, now
from controller.core.change import printable
from controller.core.codec import camel, encode, parse_moment
from controller.core.model import Change, State
from controller.core.policy import ChangeType
from controller.core.population import Row, answers, records_of, rows
from controller.core.proof import Anchor, anchors_of, read, verify
from controller.errors import PermanentError

app = typer.Typer(help="The audit trail: what to sample, and whether it is whole.", no_args_is_help=True)

Files = Annotated[
    list[Path] | None,
    typer.Option("--file", "-f", help="A file of the audit trail; repeat it for all replicas and rotated files."),
]
SHOWN = tuple(f.name for f in dataclasses.fields(Row) if f.name not in ("decisions", "rules"))


class Table(StrEnum):
    JSON = "json"
    CSV = "csv"


def register(parent: typer.Typer) -> None:
    command(app)(export)
    command(app, "verify")(check)
    command(app)(anchors)
    command(app)(report)
    parent.add_typer(app, name="audit")


async def export(
    where: Where,
    files: Files = None,
    begin: Annotated[str, typer.Option("--from", help="First day or moment, like 2026-11-01.")] = "",
    end: Annotated[str, typer.Option("--to", help="The day or moment before which it ends, like 2026-12-01.")] = "",
    output: Annotated[Table, typer.Option("--output", "-o", help="How to print it.")] = Table.JSON,
    records: Annotated[bool, typer.Option("--records", help="Print the records themselves, word for word.")] = False,
) -> Exit:
    """Print the population to sample: one row for each change that was under way in the period.

    From the files given, and of the cluster (-n, -A) what they do not have; with files alone no cluster is asked but
    for -n or -A.

    Exit codes: 0 printed; 1 a file or the cluster cannot be read.
    """
    start, stop = _moment(begin, "--from"), _moment(end, "--to")
    logs = _read(files or ())
    if records:
        wanted = {row.uid for row in rows(_records(logs)) if row.within(start, stop)}
        for line in dict.fromkeys(line for lines in logs.values() for line in lines):
            if (record := read(line)) and record["uid"] in wanted:
                typer.echo(line)
        return Exit.DONE
    found = [row for row in await _population(where, logs) if row.within(start, stop)]
    shown = [{camel(name): getattr(row, name) for name in SHOWN} for row in found]
    if output is Table.JSON:
        typer.echo(json.dumps(shown, indent=2))
    else:
        typer.echo(_csv(shown), nl=False)
    return Exit.DONE


async def check(
    where: Where,
    files: Files = None,
    anchor_files: Annotated[
        list[Path] | None,
        typer.Option("--anchors", help="Heads kept elsewhere: of `audit anchors`, or the API server's audit log."),
    ] = None,
    cluster: Annotated[
        bool, typer.Option("--cluster", help="Compare with the heads in the cluster (-n, -A) too.")
    ] = False,
) -> Exit:
    """Recompute every chain of the files: records edited, missing, reordered or doubled are found.

    A cut tail, and a chain that was written anew, are found by heads that were kept elsewhere: --anchors, --cluster.

    Exit codes: 0 the log is whole; 1 it is not, or cannot be read.
    """
    if not files:
        raise typer.BadParameter("give at least one file of the audit trail", param_hint="'--file'")
    heads = [anchor for path in anchor_files or () for anchor in _anchors(path)]
    if cluster:  # before the files: what is in a status is in the file a moment later
        heads += [_head(change, state) for change, state in await _changes(where) if state.audit.seq]
    logs = _read(files)
    findings = verify(logs, heads)
    out = console(wide=True)
    for finding in findings:
        out.print(f"{finding.fault.value:<11}", style="red", end=" ")
        out.print(printable(f"{finding.where}: {finding.message}", 1000), markup=False)
    lines = sum(len(lines) for lines in logs.values())
    chains = len({record["uid"] for record in _records(logs)})
    verdict = f"{len(findings)} findings" if findings else "the log is whole"
    without = "" if heads else "; without anchors a cut tail cannot be seen"
    out.print(f"{verdict}: {lines} records of {chains} changes, {len(heads)} anchors{without}", markup=False)
    return Exit.ERROR if findings else Exit.DONE


async def anchors(where: Where, files: Files = None) -> Exit:
    """Print the head of every chain, of the files or else of the cluster (-n, -A): keep it where no log can be changed.

    Exit codes: 0 printed; 1 a file or the cluster cannot be read.
    """
    if files:
        newest: dict[str, Mapping[str, Any]] = {}
        for record in _records(_read(files)):
            if record["seq"] > newest.get(record["uid"], {"seq": 0})["seq"]:
                newest[record["uid"]] = record
        found = [Anchor(r["change"], r["namespace"], r["uid"], r["seq"], r["hash"]) for r in newest.values()]
    else:
        found = [_head(change, state) for change, state in await _changes(where) if state.audit.seq]
    for anchor in found:
        typer.echo(json.dumps(encode(anchor), sort_keys=True))
    return Exit.DONE


async def report(
    where: Where,
    files: Files = None,
    begin: Annotated[str, typer.Option("--from", help="First day or moment, like 2026-11-01.")] = "",
    end: Annotated[str, typer.Option("--to", help="The day or moment before which it ends, like 2026-12-01.")] = "",
) -> Exit:
    """Answer what auditors ask: started without approval, approved by who asked, emergencies, rollbacks, rights.

    Exit codes: 0 answered; 1 a file or the cluster cannot be read.
    """
    start, stop = _moment(begin, "--from"), _moment(end, "--to")
    found = [row for row in await _population(where, _read(files or ())) if row.within(start, stop)]
    out = console(wide=True)
    kinds = ", ".join(f"{sum(row.type == kind for row in found)} {kind.value}" for kind in ChangeType)
    out.print(f"{len(found)} changes: {kinds}", markup=False)
    for answer in answers(found, now()):
        out.print(f"\n{answer.question}: {len(answer.found) or 'none'}", style="bold")
        for line in answer.found:
            out.print(f"  {printable(line, 1000)}", markup=False)
    if not files or where.everywhere or where.namespace:
        out.print("\nWho may approve today, by the roles of the cluster", style="bold")
        for line in await _approvers(where):
            out.print(f"  {printable(line, 1000)}", markup=False)
    return Exit.DONE


async def _approvers(where: Where) -> list[str]:
    """RBAC as it stands. Who is in a group, only the identity provider knows; other authorizers are not in it."""
    async with where.connect() as cluster:
        lines = []
        for kind in ChangeType:
            asked = Change(cluster.namespace, "", "", kind)
            names = await cluster.holders("approve", asked)
            lines.append(
                f"{kind.value} in {cluster.namespace}: {', '.join(names) or 'nobody, or you may not read roles'}"
            )
        return lines


# --- Where records come from ---


async def _population(where: Where, logs: Mapping[str, Sequence[str]]) -> list[Row]:
    """Of the files, and of the cluster those that the files do not have."""
    records = list(_records(logs))
    if not logs or where.everywhere or where.namespace:
        logged = {record["uid"] for record in records}
        for change, state in await _changes(where):
            if change.uid not in logged:
                records += records_of(change, state, now())
    return rows(records)


async def _changes(where: Where) -> list[tuple[Change, State]]:
    async with where.connect() as cluster:
        return await cluster.changes(everywhere=where.everywhere)


def _head(change: Change, state: State) -> Anchor:
    return Anchor(change.change_id, change.namespace, change.uid, state.audit.seq, state.audit.hash)


def _read(files: Iterable[Path]) -> dict[str, list[str]]:
    return {str(path): _lines(path) for path in files}


def _lines(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
            return [line.removesuffix("\n") for line in file]
    except OSError as error:
        raise PermanentError("CannotRead", f"{path}: {error.strerror}") from None


def _records(logs: Mapping[str, Sequence[str]]) -> Iterable[Mapping[str, Any]]:
    return (record for lines in logs.values() for line in lines if (record := read(line)))


def _anchors(path: Path) -> list[Anchor]:
    try:
        return anchors_of(_lines(path))
    except ValueError as error:
        raise PermanentError("CannotRead", f"{path}: {error}") from None


def _moment(text: str, option: str) -> datetime | None:
    if not text:
        return None
    try:
        return parse_moment(f"{text}T00:00:00Z" if len(text) == len("2026-11-01") else text)
    except ValueError:
        mend = f"{text!r}: write a day or a moment, like 2026-11-01 or 2026-11-23T08:00:00Z"
        raise typer.BadParameter(mend, param_hint=f"'{option}'") from None


def _csv(shown: Sequence[Mapping[str, Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([camel(name) for name in SHOWN])
    for row in shown:
        writer.writerow([_cell(value) for value in row.values()])
    return buffer.getvalue()


def _cell(value: Any) -> str:
    """What people wrote is text to a spreadsheet, never a formula."""
    text = printable(" ".join(value) if isinstance(value, tuple) else str(value), 1000)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text
