"""`lint`: Deployments and ChangeRequests in files, judged as Serin would judge them, without a cluster."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer

from controller.cli.exits import Exit
from controller.cli.options import console
from controller.core.change import (
    AUTO,
    CHANGE_LABEL,
    HELD,
    KNOWN,
    PREFIX,
    REQUESTED_BY,
    TYPE,
    Problem,
    change_type,
    check_form,
    check_id,
    check_spec,
    form_of,
    job_names,
    object_name,
    printable,
)
from controller.core.codec import FieldError
from controller.core.diff import Difference, differences
from controller.core.form import NAMES, merge, text_of
from controller.core.policy import ChangeType, Policy, Scope, parse_policy
from controller.core.scope import refusal
from controller.lab.policies import Finding, read
from controller.metrics.presets import PRESETS

Json = dict[str, Any]

Files = Annotated[list[Path], typer.Argument(help="YAML files with Deployments and ChangeRequests.")]
Policies = Annotated[
    list[Path] | None,
    typer.Option("--policy", help="File or folder with ChangePolicies: form and scope are checked against them."),
]
Stable = Annotated[
    Path | None, typer.Option(help="File with the Deployments that run now: what is new is checked against the scope.")
]


def register(app: typer.Typer) -> None:
    app.command()(lint)


def lint(files: Files, policy: Policies = None, stable: Stable = None) -> None:
    """Judge Deployments and ChangeRequests in files, without a cluster: the ID, the type, the form, the scope.

    Exit codes: 0 all are good; 1 one is not: the field, its value and the mend are named.
    """
    out = console(wide=True)
    findings = list(judge(files, policy or [], stable))
    for finding in findings:
        mark, style = ("ok", "green") if finding.good else ("wrong", "red")
        out.print(f"{mark:<5}", style=style, end=" ")
        out.print(printable(f"{finding.where}: {finding.text}", 1000), markup=False)
    sys.exit(Exit.DONE if all(finding.good for finding in findings) else Exit.ERROR)


@dataclass
class Given:
    """What the files hold: ChangePolicies by type, ChangeRequests by ID, the Deployments that run, by name; and the IDs
    that Deployments name."""

    policies: dict[ChangeType, Policy] = field(default_factory=dict)
    requests: dict[str, Json] = field(default_factory=dict)
    running: dict[str, Json] = field(default_factory=dict)
    named: set[str] = field(default_factory=set)


def judge(files: Sequence[Path], policies: Sequence[Path], stable: Path | None) -> Iterator[Finding]:
    """At least one finding for each object that Serin looks at; other kinds are passed over."""
    given = Given()
    folders = [path for path in policies if path.is_dir()]
    for path in (*(p for p in policies if p not in folders), *(p for f in folders for p in sorted(f.glob("*.yaml")))):
        yield from _take_policies(path, given)
    for path in (stable,) if stable else ():
        found = read(path)
        if isinstance(found, Finding):
            yield found
        else:
            given.running = {_meta(d, "name"): d for d in found if d.get("kind") == "Deployment"}
    objects = []
    for path in files:
        found = read(path)
        if isinstance(found, Finding):
            yield found
            continue
        ours = [(path, d) for d in found if d.get("kind") in ("Deployment", "ChangeRequest")]
        if not ours:
            yield Finding(False, str(path), "has no Deployment and no ChangeRequest in it")
        objects += ours
    for _, d in objects:
        if d["kind"] == "ChangeRequest" and isinstance(d.get("spec"), dict):
            given.requests[str(d["spec"].get("changeId"))] = d["spec"]
        elif d["kind"] == "Deployment":
            given.named.add(_texts(d, "labels").get(CHANGE_LABEL, ""))
    for path, d in objects:
        where = f"{path}: {d['kind']} {_meta(d, 'name') or 'without a name'}"
        about = _of_request(d, given) if d["kind"] == "ChangeRequest" else _of_deployment(d, given)
        said = [Finding(good, where, text) for good, text in about]
        yield from [finding for finding in said if not finding.good] or said


def _take_policies(path: Path, given: Given) -> Iterator[Finding]:
    found = read(path)
    if isinstance(found, Finding):
        yield found
        return
    for d in found:
        if d.get("kind") != "ChangePolicy":
            continue
        try:
            given.policies[ChangeType(_meta(d, "name"))] = parse_policy(d.get("spec"), frozenset(PRESETS))
        except (FieldError, ValueError) as error:
            yield Finding(False, f"{path}: ChangePolicy {_meta(d, 'name')}", str(error))


# --- One object: whether it is good, and what is said of it ---

Said = tuple[bool, str]


def _of_request(d: Json, given: Given) -> Iterator[Said]:
    spec: Json = d["spec"] if isinstance(d.get("spec"), dict) else {}
    change_id, name = str(spec.get("changeId", "")), _meta(d, "name")
    problem = check_id(change_id, "spec.changeId") or check_spec(spec)
    if problem:
        yield False, str(problem)
    elif name != object_name(change_id):
        yield False, f"metadata.name is {name!r}: write {object_name(change_id)}, the change ID in lower case"
    kind = change_type({TYPE: str(spec.get("type", ""))})
    if isinstance(kind, Problem):
        yield False, f"spec.type is {spec.get('type')!r}: write {', '.join(ChangeType)}"
        return
    if change_id not in given.named:  # else its Deployment's annotations fill what is not written here
        yield from _of_form(spec, kind, given, "spec.{0.name}")
    yield True, f"{kind} change {change_id}{_unchecked(given)}"


def _of_deployment(d: Json, given: Given) -> Iterator[Said]:
    labels, annotations = _texts(d, "labels"), _texts(d, "annotations")
    yield from _of_names(labels, annotations)
    change_id = labels.get(CHANGE_LABEL, "")
    if not change_id:
        yield True, f"has no label {CHANGE_LABEL}: Serin leaves it alone"
        return
    if change_id != AUTO and (problem := check_id(change_id)):
        yield False, str(problem)
    jobs = job_names(annotations)
    if problem := check_form(annotations) or (jobs if isinstance(jobs, Problem) else None):
        yield False, str(problem)
    kind = change_type(annotations)
    if isinstance(kind, Problem):
        yield False, str(kind)
        return
    written = given.requests.get(change_id, {})
    if written and written.get("type") != kind and (TYPE in annotations or written.get("type") == ChangeType.EMERGENCY):
        yield False, f"asks for a change of type {kind}, and the ChangeRequest is of type {written.get('type')}"
    kind = ChangeType(written["type"]) if written.get("type") in list(ChangeType) else kind
    spec = merge(written, {"deployments": [_meta(d, "name") or "?"], "type": kind.value, **form_of(annotations)})
    yield from _of_form(spec, kind, given, f"annotation {PREFIX}{{0.annotation}}")
    compared = ""
    if running := given.running.get(_meta(d, "name")):
        found = differences(_template(running), _template(d))
        policy = given.policies.get(kind)
        if policy and policy.scope:
            yield from _of_scope(found, policy.scope)
        compared = f", {len(found)} difference{'' if len(found) == 1 else 's'} to what runs"
    yield True, f"{kind} change {change_id}{compared}{_unchecked(given)}"


def _of_names(labels: Mapping[str, str], annotations: Mapping[str, str]) -> Iterator[Said]:
    """Names of ours that are none, or that are not for people to write."""
    for what, found, known in (("label", labels, (CHANGE_LABEL,)), ("annotation", annotations, KNOWN)):
        for name in found:
            if not name.startswith(PREFIX):
                continue
            if name in (HELD, REQUESTED_BY):
                yield False, f"annotation {name} is written by admission: leave it out"
            elif name not in known:
                near = get_close_matches(name.removeprefix(PREFIX), [k.removeprefix(PREFIX) for k in known], 1)
                hint = f"did you mean {PREFIX}{near[0]}?" if near else f"known are {', '.join(known)}"
                yield False, f"{what} {printable(name, 80)} is none of Serin's: {hint}"


def _of_form(spec: Json, kind: ChangeType, given: Given, called: str) -> Iterator[Said]:
    policy = given.policies.get(kind)
    lacking = [NAMES[name] for name in policy.form.required if not text_of(spec, name).strip()] if policy else []
    for f in lacking:
        yield False, f"FormIncomplete: {called.format(f)} is missing: {kind} changes have to say {f.what}"


def _of_scope(found: Sequence[Difference], scope: Scope) -> Iterator[Said]:
    for difference in found:
        if why := refusal(difference, scope):
            yield False, f"NotStandard: {difference.path} {why}"


def _unchecked(given: Given) -> str:
    return "" if given.policies else "; form and scope are not checked without --policy"


def _template(d: Json) -> Json:
    spec = d.get("spec")
    template = spec.get("template") if isinstance(spec, dict) else None
    return template if isinstance(template, dict) else {}


def _meta(d: Json, name: str) -> str:
    metadata = d.get("metadata")
    return str(metadata.get(name) or "") if isinstance(metadata, dict) else ""


def _texts(d: Json, name: str) -> dict[str, str]:
    metadata = d.get("metadata")
    found = metadata.get(name) if isinstance(metadata, dict) else None
    return {str(key): str(text) for key, text in found.items()} if isinstance(found, dict) else {}
