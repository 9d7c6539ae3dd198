"""The CRDs are the dataclasses: derived from them and compared, and tried on a real API server."""

import dataclasses
import enum
import json
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.core import codec
from controller.core.blocks import Counts, Dispersion
from controller.core.codec import Ratio, camel, format_duration, format_ratio
from controller.core.diff import Difference, Image
from controller.core.form import FIELDS, NAMES
from controller.core.model import (
    Action,
    Audit,
    Comparison,
    Drift,
    Evidence,
    Floor,
    JobOutcome,
    JobRun,
    Outcome,
    Phase,
    Receipt,
    Revert,
    Review,
    RouteOriginal,
    Ruling,
    ServicePair,
    Stage,
    State,
    Strategy,
    Target,
    Told,
    Transition,
    Verdict,
)
from controller.core.policy import (
    Analysis,
    Bounds,
    Form,
    ImageStep,
    LogErrors,
    Policy,
    Scope,
    Slo,
    Statistical,
    Step,
    parse_policy,
)
from controller.core.sequential import Monitor
from controller.core.slo import Breach
from controller.core.windows import Opening
from testbed.bed import Bed
from testbed.waiting import eventually

ROOT = Path(__file__).parents[2]
PLURALS = ("changerequests", "changedecisions", "changepolicies")
Schema = dict[str, Any]


def load(plural: str) -> Schema:
    crd: Schema = yaml.safe_load((ROOT / f"manifests/crds/{plural}.yaml").read_text())
    return crd


def properties(plural: str, part: str) -> Schema:
    schema: Schema = load(plural)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"][part]
    return schema


# --- The property tree that the dataclasses ask for ---


def expected(kind: Any) -> Any:
    """The shape of what codec.encode makes of `kind`: dicts of properties, lists of one, names of scalars."""
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return expected(next(a for a in arguments if a is not types.NoneType))
    if kind is Any:
        return "opaque"
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return {camel(f.name): expected(hints[f.name]) for f in dataclasses.fields(kind)}
    if typing.get_origin(kind) is tuple:
        return [expected(arguments[0])]
    if typing.get_origin(kind) is Mapping:
        return f"map of {expected(arguments[1])}"
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return tuple(member.value for member in kind)
    scalars = {str: "string", bool: "boolean", int: "integer", float: "number", Ratio: "string", timedelta: "string"}
    return "date-time" if kind is datetime else scalars[kind]


def found(schema: Schema) -> Any:
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return "opaque"
    if "properties" in schema:
        return {name: found(inner) for name, inner in schema["properties"].items()}
    if "items" in schema:
        return [found(schema["items"])]
    if "additionalProperties" in schema:
        return f"map of {found(schema['additionalProperties'])}"
    return tuple(schema["enum"]) if "enum" in schema else schema.get("format", schema["type"])


def test_the_status_of_a_change_request_is_a_state() -> None:
    assert found(properties("changerequests", "status")) == expected(State)


def test_the_spec_of_a_change_policy_is_a_policy() -> None:
    assert found(properties("changepolicies", "spec")) == expected(Policy)


def written(value: Any, kind: Any) -> str:
    if isinstance(value, timedelta):
        return format_duration(value)
    if kind == Ratio:
        return format_ratio(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def test_policy_fields_are_required_or_name_their_default() -> None:
    def check(kind: Any, schema: Schema, path: str) -> None:
        fields = {camel(f.name): f for f in dataclasses.fields(kind)}
        hints = typing.get_type_hints(kind)
        required = {n for n, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING}
        assert set(schema.get("required", ())) == required, path
        for name, f in fields.items():
            hint, inner = hints[f.name], schema["properties"][name]
            item = typing.get_args(hint)[0] if typing.get_origin(hint) is tuple else hint
            if dataclasses.is_dataclass(item):
                check(item, inner.get("items", inner), f"{path}.{name}")
            elif f.default not in (None, "", (), dataclasses.MISSING):
                assert inner["description"].endswith(f"Default {written(f.default, hint)}."), f"{path}.{name}"

    check(Policy, properties("changepolicies", "spec"), "spec")


def test_the_form_takes_what_the_annotations_may_carry() -> None:
    spec = properties("changerequests", "spec")["properties"]
    groups = {name: schema["properties"] for name, schema in spec.items() if "properties" in schema}
    leaves = {f"{name}.{inner}": leaf for name, schemas in groups.items() for inner, leaf in schemas.items()}
    fields = {name: schema for name, schema in (spec | leaves).items() if schema["type"] == "string"}
    ours = {"changeId", "type", "requestedBy", "revision", "problem"}
    assert {name: schema["maxLength"] for name, schema in fields.items() if name not in ours} == {
        f.name: f.most for f in FIELDS
    }


# --- On a real API server ---


@pytest.fixture(scope="module")
def cluster(control_plane: Bed) -> Bed:
    for plural in PLURALS:
        control_plane.kubectl("apply", "--server-side", "-f", str(ROOT / f"manifests/crds/{plural}.yaml"))
        control_plane.await_crds()
    return control_plane


MOMENT = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)
FULL = State(
    phase=Phase.PROGRESSING,
    stage=Stage.ROLL,
    outcome=Phase.ROLLED_BACK,
    step=1,
    weight=50,
    reason="Baking",
    message="50 % until 08:10:00 UTC",
    cause="ErrorRate",
    rejected=True,
    started_at=MOMENT,
    weighted_at=MOMENT,
    entered_at=MOMENT,
    settled_at=MOMENT,
    ended_at=MOMENT,
    progress=3,
    progressed_at=MOMENT,
    no_data_since=MOMENT,
    low_evidence=True,
    promoted=True,
    revision="0123456789",
    terms="9876543210",
    requesters=("alice",),
    revert=True,
    forward_only=True,
    approval="1 of 1: bob",
    window=Opening(MOMENT, MOMENT, "sundays", "Europe/Berlin"),
    decisions=(
        Ruling(
            "uid-2",
            Action.REVIEW,
            "bob",
            MOMENT,
            "0123456789",
            terms="9876543210",
            refusal="SelfApproval: no",
            reason="because",
            tests="https://ci/1",
            over_budget=True,
            forward_only=True,
            expires_at=MOMENT,
            review=Review(Outcome.FAILED, "not met", "learned", ("follow up",)),
        ),
    ),
    jobs=(
        JobRun(
            "backup",
            "chg-20261101-001-0123456789-backup",
            False,
            timedelta(minutes=5),
            JobOutcome.FAILED,
            3,
            "BackoffLimitExceeded: Job has reached the specified backoff limit",
            MOMENT,
            MOMENT,
        ),
    ),
    review_due_at=MOMENT,
    closed_at=MOMENT,
    measured_at=MOMENT,
    policy=Policy(
        (Step(10, timedelta(minutes=5)), Step(100, timedelta(minutes=10))),
        form=Form(("description",)),
        scope=Scope(ImageStep.PATCH, ("LOG_LEVEL",), Bounds(2.5, {"cpu": "2"}), ("a/b",), ("c",)),
        slos=(Slo("latency", Ratio(0.5), burn_max=1.44, slower_than=timedelta(seconds=1)),),
        log_errors=LogErrors("app_log_lines_total", "severity", ("error",), Ratio(0.05)),
        analysis=Analysis(Statistical.OBSERVE, Ratio(0.02), 1.5, Ratio(0.001)),
    ),
    targets=(
        Target(
            name="shop",
            uid="uid-1",
            revision="0123456789",
            strategy=Strategy.CANARY,
            strategy_reason="routes: HTTPRoute/shop/shop",
            stable_revision="9876543210",
            stable_replica_set="shop-abc",
            stable_template={"spec": {"containers": [{"name": "app"}]}, "metadata": {"labels": {"app": "shop"}}},
            diff=(Difference("containers[shop].image", "shop:1.4.2", "shop:1.4.3"),),
            images=(Image("shop", "shop:1.4.3", "sha256:abc"),),
            replica_set="shop-def",
            replicas=10,
            selector_key="app",
            services=(ServicePair("shop", "shop-canary", (80,)),),
            routes=(RouteOriginal("HTTPRoute", "shop", "shop", ([{"name": "shop", "weight": 1}], None)),),
            floor=Floor("shop", 2),
            judged=2,
            grew_at=MOMENT,
            reverts=(
                Revert(
                    "/spec/rules of HTTPRoute/shop/shop", "Argo CD's Application argocd/shop", "spec:\n", known=False
                ),
            ),
            drifts=1,
            drift=Drift("spec.rules of HTTPRoute/shop/shop", "argocd-controller", MOMENT, MOMENT),
            gives_way=True,
            not_ready_since=MOMENT,
        ),
    ),
    breaches=(Breach("error-rate", "shop", timedelta(minutes=4, milliseconds=250), MOMENT, True),),
    comparisons=(
        Comparison(
            "latency-vs-stable",
            "shop",
            (
                Monitor(
                    at=MOMENT,
                    capital=(0.25, 1e-3, 140.5),
                    rest=0.5,
                    step_at=MOMENT,
                    step_blocks=3,
                    canary=Counts(12.0, 120.0),
                    stable=Counts(1.5, 1080.0),
                    known=Counts(4.5, 9000.0),
                    dispersion=Dispersion(12.5, 31),
                    spacing=timedelta(seconds=10),
                    calm=True,
                    shocked=True,
                    alone=True,
                    compared=False,
                ),
            ),
            edges=(timedelta(milliseconds=250),),
            failed_at=MOMENT,
            burnt=Counts(30.0, 300.0),
        ),
    ),
    evidence=(
        Evidence(
            rule="error-rate",
            target="shop",
            verdict=Verdict.FAIL,
            value="20%",
            threshold="1%",
            message="too many",
            requests=100,
            bad=20,
            data_at=MOMENT,
            stable=Ratio(0.01),
            stable_requests=900,
            stable_bad=9,
            window=timedelta(minutes=1),
            interval=(Ratio(0.13), Ratio(0.29)),
            times=(12.0, 44.0),
            began_at=MOMENT,
        ),
    ),
    history=(Transition(MOMENT, Phase.PROGRESSING, 1, 50, "Advanced", "step 2 of 3: 50 %", Stage.ROLL),),
    warnings=("PolicyNotFound: there is no ChangePolicy normal",),
    told=(
        Told(
            "transition/Progressing.1/2026-11-23T08:00:00.000Z",
            "dev.serin.change.started",
            MOMENT,
            ("requester",),
            "shop/CHG-20261101-001 (normal): started",
            "kubectl serin status CHG-20261101-001 -n shop",
            ("chat",),
            (Receipt("pager", MOMENT),),
        ),
    ),
    notified_at=MOMENT,
    audit=Audit(2, "f" * 64, ('{"seq":1}', '{"seq":2}'), "a" * 16, "b" * 16, "c" * 16),
)


def left_out(value: Any, path: str) -> Iterator[str]:
    """The fields that have their default value, here and below; the policy has a test of its own."""
    if isinstance(value, tuple):
        for item in value:
            yield from left_out(item, path)
    elif dataclasses.is_dataclass(value) and not isinstance(value, Policy):
        for f in dataclasses.fields(value):
            inner = getattr(value, f.name)
            if inner == f.default:
                yield f"{path}.{f.name}"
            yield from left_out(inner, f"{path}.{f.name}")


def request(name: str, **spec: Any) -> Schema:
    return {
        "apiVersion": "serin.dev/v1alpha1",
        "kind": "ChangeRequest",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"changeId": name.upper(), "type": "normal"} | spec,
    }


def put_status(cluster: Bed, name: str, state: State) -> None:
    patch = json.dumps([{"op": "add", "path": "/status", "value": codec.encode(state)}])
    cluster.kubectl("patch", "chg", name, "--subresource=status", "--type=json", "-p", patch)


def test_structural_schemas_are_accepted_without_complaint(cluster: Bed) -> None:
    for plural in PLURALS:
        conditions = {c["type"]: c for c in cluster.get("crd", f"{plural}.serin.dev")["status"]["conditions"]}
        assert conditions["Established"]["status"] == "True"
        assert "NonStructuralSchema" not in conditions


def test_a_full_state_survives_the_api_server(cluster: Bed) -> None:
    assert list(left_out(FULL, "status")) == ["status.schema"], (
        "FULL must fill every field: a pruned one is noticed then"
    )
    cluster.apply(request("chg-20261101-001"))
    put_status(cluster, "chg-20261101-001", FULL)
    stored = cluster.get("chg", "chg-20261101-001")["status"]
    assert stored == codec.encode(FULL)
    assert codec.decode(State, stored) == FULL


def test_what_people_wrote_wrongly_is_recorded(cluster: Bed) -> None:
    name = "chg-2026-1"
    cluster.apply(
        request(
            name,
            changeId="CHG-2026-1",
            type="urgent",
            priority="high",
            description="d" * NAMES["description"].most,
            testing={"unit": "green", "manual": "not yet"},
            notBefore="tomorrow",
            rollback="never",
            impact={"systemsAffected": "checkout", "usersAffected": "all", "downtime": "no", "risk": "who knows"},
            deployments=["shop", "cart"],
            problem="UnknownType: write standard, normal or emergency",
        )
    )
    stored = cluster.get("chg", name)["spec"]
    assert (stored["type"], stored["priority"], stored["impact"]["risk"]) == ("urgent", "high", "who knows")


def table(cluster: Bed, name: str) -> list[str]:
    lines = cluster.kubectl("get", "chg", name, "-o", "wide").splitlines()
    return lines if "TYPE" in lines[0] else []


def test_kubectl_get_chg_shows_the_journey(cluster: Bed) -> None:
    name = "chg-20261101-002"
    cluster.apply(request(name, requestedBy="alice"))
    put_status(cluster, name, FULL)
    # A new version of a CRD is served a moment after it is established: the columns come with it.
    heading, row = eventually(lambda: table(cluster, name))
    assert heading.split() == [
        "NAME",
        "TYPE",
        "PHASE",
        "STEP",
        "WEIGHT",
        "APPROVAL",
        "WINDOW",
        "REASON",
        "AGE",
        "REQUESTED-BY",
        "MESSAGE",
    ]
    assert row.split()[:5] == [name, "normal", "Progressing", "1", "50"]
    assert "1 of 1: bob   2026-11-23T08:00:00.000Z   Baking" in row
    assert "50 % until 08:10:00 UTC" in row
    assert "MESSAGE" not in cluster.kubectl("get", "chg", name)


def policy(**fields: Any) -> Schema:
    spec = {"steps": [{"weight": 10, "bake": "5m"}, {"weight": 100, "bake": "10m"}]} | fields
    meta = {"name": "standard"}
    return {"apiVersion": "serin.dev/v1alpha1", "kind": "ChangePolicy", "metadata": meta, "spec": spec}


RECURRENCE = {"name": "night", "rrule": "FREQ=DAILY", "start": "02:00", "duration": "2h", "zone": "Europe/Berlin"}


CUSTOM = {
    "requests": "edge_responses",
    "codes": [{"label": "class", "bad": ["5*", "timeout"]}],
    "selectedBy": [{"label": "backend", "value": "{namespace}.{service}", "canary": "{namespace}.{service}.{port}"}],
    "where": [{"label": "direction", "value": "in"}],
    "latency": "edge_latency",
    "latencyUnit": "ms",
    "heartbeat": "edge_up",
    "heartbeatWhere": [{"label": "zone", "value": "a"}],
}


def custom(**fields: Any) -> Schema:
    return {"metrics": {"preset": "custom", "custom": CUSTOM | fields}}


def selected(*rows: Mapping[str, str]) -> Schema:
    return custom(selectedBy=[{"label": f"l{i}", **row} for i, row in enumerate(rows)])


BAD_SOURCES: list[tuple[Schema, str, str]] = [
    ({"metrics": {"preset": "custom"}}, "spec.metrics", "write custom with the preset custom"),
    ({"metrics": {"preset": "istio", "custom": CUSTOM}}, "spec.metrics", "write custom with the preset custom"),
    ({"metrics": {"custom": CUSTOM}}, "spec.metrics", "write custom with the preset custom"),
    (custom(requests='up{job="x"}'), "spec.metrics.custom.requests", "a metric's name"),
    (custom(requests=""), "spec.metrics.custom.requests", "a metric's name"),
    (custom(heartbeat="a b"), "spec.metrics.custom.heartbeat", "a metric's name"),
    (custom(latency="edge_latency_bucket"), "spec.metrics.custom.latency", "name of a histogram alone"),
    (custom(latency="rate(x)"), "spec.metrics.custom.latency", "name of a histogram alone"),
    (custom(latencyUnit="us"), "spec.metrics.custom.latencyUnit", '"s", "ms"'),
    (custom(codes=[]), "spec.metrics.custom.codes", "at least 1 items"),
    (custom(codes=[{"label": "class", "bad": []}]), "spec.metrics.custom.codes[0].bad", "at least 1 items"),
    (custom(codes=[{"label": "class", "bad": ["5.+("]}]), "spec.metrics.custom.codes[0].bad[0]", 'like "5*"'),
    (custom(codes=[{"label": "a-b", "bad": ["5*"]}]), "spec.metrics.custom.codes[0].label", "a Prometheus label name"),
    (custom(codes=[{"label": "le", "bad": ["5*"]}]), "spec.metrics.custom.codes[0].label", "a Prometheus label name"),
    (custom(where=[{"label": "__name__", "value": "up"}]), "spec.metrics.custom.where[0].label", "label name"),
    (custom(heartbeatWhere=[{"label": "1", "value": ""}]), "spec.metrics.custom.heartbeatWhere[0].label", "label name"),
    (selected(), "spec.metrics.custom.selectedBy", "at least 1 items"),
    (selected({"value": "{namespace}_{svc}"}), "spec.metrics.custom.selectedBy[0].value", "in braces only"),
    (selected({"value": "{namespace}_{"}), "spec.metrics.custom.selectedBy[0].value", "in braces only"),
    (
        selected({"value": "{namespace}"}, {"value": "{pod}.*"}),
        "spec.metrics.custom.selectedBy[1].value",
        "{pod} alone",
    ),
    (selected({"value": "{service}"}), "spec.metrics.custom", "write {namespace} into a value"),
    (
        selected({"value": "{namespace}", "canary": "{service}"}),
        "spec.metrics.custom",
        "write {namespace} into a value",
    ),
    (selected({"value": "{namespace}_{port}"}), "spec.metrics.custom", "to tell canary from stable"),
]
"""Fields of a policy, where the CRD finds them wrong, and how they are to be mended."""


def apply_dry(cluster: Bed, manifest: Schema) -> str:
    done = cluster.kubectl_result("apply", "--server-side", "--dry-run=server", "-f", "-", stdin=json.dumps(manifest))
    return "" if done.returncode == 0 else done.stderr


@pytest.mark.parametrize(
    ("fields", "path", "mend"),
    [
        ({"steps": []}, "spec.steps", "should have at least 1 items"),
        ({"steps": [{"weight": 50, "bake": "5m"}]}, "spec.steps", "write weights that rise from above 0 to 100"),
        (
            {"steps": [{"weight": w, "bake": "5m"} for w in (50, 10, 100)]},
            "spec.steps",
            "write weights that rise from above 0 to 100",
        ),
        (
            {"steps": [{"weight": w, "bake": "5m"} for w in (10, 10, 100)]},
            "spec.steps",
            "write weights that rise from above 0 to 100",
        ),
        ({"steps": [{"weight": 100, "bake": "5 min"}]}, "spec.steps[0].bake", "write a duration, like 90s, 5m"),
        ({"steps": [{"weight": 100, "bake": ""}]}, "spec.steps[0].bake", "write a duration, like 90s, 5m"),
        ({"steps": [{"weight": 100}]}, "spec.steps[0].bake", "Required value"),
        ({"errorRate": {"max": "0.01"}}, "spec.errorRate.max", "write a percentage"),
        ({"errorRate": {"max": "101%"}}, "spec.errorRate.max", "write a percentage"),
        ({"lowTraffic": "ignore"}, "spec.lowTraffic", '"continue", "hold"'),
        ({"slos": [{"name": "error-rate", "objective": "99%"}]}, "spec.slos[0].name", "not error-rate"),
        ({"analysis": {"statistical": True}}, "spec.analysis.statistical", "expected string"),
        ({"analysis": {"statistical": "no"}}, "spec.analysis.statistical", "observe"),
        ({"analysis": {"tolerated": 0.9}}, "spec.analysis.tolerated", "greater than or equal to 1"),
        ({"slos": [{"name": "log-errors", "objective": "99%"}]}, "spec.slos[0].name", "or log-errors"),
        ({"logErrors": {"counter": 'up{job="x"}'}}, "spec.logErrors.counter", "a metric's name"),
        ({"logErrors": {"levelLabel": "a-b"}}, "spec.logErrors.levelLabel", "a Prometheus label name"),
        ({"logErrors": {"levels": ["ERROR"]}}, "spec.logErrors.levels[0]", "in lower case"),
        ({"slos": [{"name": "a", "objective": "99%"}] * 2}, "spec.slos", "duplicate entries for key"),
        ({"slos": [{"name": "a", "objective": "99%", "burnMax": 0}]}, "spec.slos[0].burnMax", "greater than 0"),
        ({"incidents": {"labels": {}}}, "spec.incidents.labels", "at least 1 properties"),
        (
            {"window": {"opens": [RECURRENCE | {"start": "2 am"}]}},
            "spec.window.opens[0].start",
            "write the time on the",
        ),
        ({"window": {"opens": [{"name": "night"}]}}, "spec.window.opens[0].zone", "Required value"),
        ({"window": {"freezes": [{"reason": "why"}]}}, "spec.window.freezes[0].owner", "Required value"),
        (
            {
                "window": {
                    "freezes": [{"reason": "why", "owner": "SRE", "every": RECURRENCE, "until": "2026-12-28T00:00:00Z"}]
                }
            },
            "spec.window.freezes[0]",
            "write either from and until, or every",
        ),
        ({"window": {"onClose": "stop"}}, "spec.window.onClose", '"finish", "hold", "rollBack"'),
        ({"scope": {"images": "minor"}}, "spec.scope.images", '"none", "patch"'),
        ({"scope": {"env": ["*"]}}, "spec.scope.env[0]", "write a name, or a part of it with *"),
        ({"scope": {"labels": ["a b"]}}, "spec.scope.labels[0]", "write a name, or a part of it with *"),
        ({"scope": {"resources": {"factor": 0.5}}}, "spec.scope.resources.factor", "greater than or equal to 1"),
        ({"scope": {"resources": {"max": {"gpu": "1"}}}}, "spec.scope.resources.max", "write quantities of cpu"),
        ({"scope": {"resources": {"max": {"cpu": "lots"}}}}, "spec.scope.resources.max", "write quantities of cpu"),
        ({"scope": {"replicas": 3}}, ".spec.scope.replicas", "field not declared in schema"),
        ({"stepz": []}, ".spec.stepz", "field not declared in schema"),
    ],
)
def test_a_malformed_policy_is_refused_with_the_field_and_the_mend(
    cluster: Bed, fields: Schema, path: str, mend: str
) -> None:
    refusal = apply_dry(cluster, policy(**fields))
    assert path in refusal
    assert mend in refusal


@pytest.mark.parametrize(("fields", "path", "mend"), BAD_SOURCES)
def test_a_malformed_source_is_refused_by_the_crd(cluster: Bed, fields: Schema, path: str, mend: str) -> None:
    refusal = apply_dry(cluster, policy(**fields))
    assert path in refusal
    assert mend in refusal


@pytest.mark.parametrize(("fields", "path"), [(fields, path) for fields, path, _ in BAD_SOURCES])
def test_what_the_crd_refuses_of_a_source_the_controller_refuses_too(fields: Schema, path: str) -> None:
    with pytest.raises(codec.FieldError) as caught:
        parse_policy(policy(**fields)["spec"], frozenset(["istio", "pods"]))
    assert caught.value.path.startswith(path.removesuffix("[0]") if ".bad" in path else path)
    assert caught.value.mend


def test_a_custom_source_survives_the_api_server(cluster: Bed) -> None:
    manifest = policy(**custom())
    assert apply_dry(cluster, manifest) == ""
    name = "chg-20261101-004"
    cluster.apply(request(name))
    put_status(cluster, name, replace(FULL, policy=parse_policy(manifest["spec"], frozenset())))
    stored = cluster.get("chg", name)["status"]["policy"]
    assert stored["metrics"]["custom"] == CUSTOM
    assert codec.decode(Policy, stored) == codec.decode(Policy, manifest["spec"])


def test_a_policy_is_named_for_its_type(cluster: Bed) -> None:
    assert "name the policy for the change type" in apply_dry(cluster, policy() | {"metadata": {"name": "fast"}})


def test_an_emergency_has_no_window(cluster: Bed) -> None:
    window = policy(window={"opens": [RECURRENCE]})
    assert apply_dry(cluster, window) == ""
    assert "an emergency starts at once" in apply_dry(cluster, window | {"metadata": {"name": "emergency"}})


def test_a_window_survives_the_api_server(cluster: Bed) -> None:
    christmas = {"reason": "Christmas", "owner": "SRE", "from": "2026-12-18T00:00:00.000Z"}
    freezes = [
        christmas | {"until": "2026-12-28T00:00:00.000Z"},
        {"reason": "why", "owner": "SRE", "every": RECURRENCE},
    ]
    window = {"opens": [RECURRENCE | {"since": "2026-11-23"}], "freezes": freezes, "onClose": "hold"}
    spec = policy(window=window)["spec"]
    name = "chg-20261101-003"
    cluster.apply(request(name))
    put_status(cluster, name, replace(FULL, policy=codec.decode(Policy, spec)))
    stored = cluster.get("chg", name)["status"]["policy"]
    assert stored["window"] == window
    assert codec.decode(Policy, stored) == codec.decode(Policy, spec)


def test_the_shipped_policies_are_accepted(cluster: Bed) -> None:
    for name in ("standard", "normal", "emergency"):
        assert apply_dry(cluster, yaml.safe_load((ROOT / f"policies/{name}.yaml").read_text())) == ""


@pytest.mark.parametrize(
    "text", ["1d", "1h30m", "90s", "500ms", "1m1ms", "0s", "5 min", "", "m", "-5m", "1.5h", "1s1m"]
)
def test_the_crd_and_the_codec_agree_about_durations(cluster: Bed, text: str) -> None:
    try:
        codec.parse_duration(text)
        accepted = True
    except ValueError:
        accepted = False
    assert (apply_dry(cluster, policy(drainMax=text)) == "") == accepted


@pytest.mark.parametrize("text", ["1", "500m", "1.5Gi", "2G", "-1", "1e3", "lots", "", "1 Gi", "1g"])
def test_the_crd_and_the_codec_agree_about_quantities(cluster: Bed, text: str) -> None:
    try:
        codec.parse_quantity(text)
        accepted = True
    except ValueError:
        accepted = False
    assert (apply_dry(cluster, policy(scope={"resources": {"max": {"memory": text}}})) == "") == accepted


@pytest.mark.parametrize("name", ["another", "chg-20261101-003-2", "CHG-20261101-003"])
def test_a_change_id_has_one_record(cluster: Bed, name: str) -> None:
    made = request(name.lower(), changeId="CHG-20261101-003")
    refused = apply_dry(cluster, made)
    assert ("metadata.name must be spec.changeId in lower case" in refused) == (name.lower() != "chg-20261101-003")


@pytest.mark.parametrize("text", ["0%", "1%", "99.95%", "100%", "100.1%", "1", "%", "one%", "-1%"])
def test_the_crd_and_the_codec_agree_about_ratios(cluster: Bed, text: str) -> None:
    try:
        codec.decode(Policy, policy(errorRate={"max": text})["spec"])
        accepted = True
    except codec.FieldError:
        accepted = False
    assert (apply_dry(cluster, policy(errorRate={"max": text})) == "") == accepted


# --- What people decide ---

REVIEW = {"outcome": "Successful", "successCriteria": "all met", "lessonsLearned": "none"}
DECISION = {"change": "CHG-20261101-009", "changeUid": "u", "revision": "5d8f", "type": "normal", "by": "alice"}
COMPLETE: dict[str, Schema] = {
    "Approve": {
        "tests": "https://ci.example.com/1",
        "overBudget": True,
        "forwardOnly": True,
        "expiresAt": "2026-11-23T12:00:00Z",
    },
    "Deny": {"reason": "not today"},
    "Rollback": {"reason": "users complain"},
    "Promote": {},
    "Pause": {"reason": "let me look"},
    "Resume": {},
    "Review": {"review": REVIEW},
    "Bypass": {"reason": "Prometheus is down", "expiresAt": "2026-11-23T12:00:00Z"},
}


def decision(action: str, **fields: Any) -> Schema:
    spec = DECISION | {"action": action} | COMPLETE.get(action, {}) | fields
    return {
        "apiVersion": "serin.dev/v1alpha1",
        "kind": "ChangeDecision",
        "metadata": {"name": f"chg-20261101-009-{action.lower()}", "namespace": "default"},
        "spec": {name: value for name, value in spec.items() if value is not None},
    }


@pytest.mark.parametrize("action", COMPLETE)
def test_a_complete_decision_is_kept_whole(cluster: Bed, action: str) -> None:
    cluster.apply(decision(action))
    stored = cluster.get("chgd", f"chg-20261101-009-{action.lower()}")
    assert stored["spec"] == decision(action)["spec"]
    assert "status" not in stored


@pytest.mark.parametrize(
    ("action", "fields", "path", "mend"),
    [
        ("Deny", {"reason": None}, "spec.reason", "Deny takes a reason: write why in spec.reason"),
        ("Rollback", {"reason": " \n"}, "spec.reason", "Rollback takes a reason"),
        ("Pause", {"reason": ""}, "spec.reason", "Pause takes a reason"),
        ("Bypass", {"reason": None}, "spec.reason", "Bypass takes a reason"),
        ("Bypass", {"expiresAt": None}, "spec.expiresAt", "at most 4 hours ahead"),
        ("Bypass", {"expiresAt": "tonight"}, "spec.expiresAt", "date-time"),
        ("Pause", {"expiresAt": "2026-11-23T12:00:00Z"}, "spec.expiresAt", "not with Pause: leave it out"),
        ("Deny", {"tests": "all green"}, "spec.tests", "not with Deny: leave it out"),
        ("Promote", {"overBudget": True}, "spec.overBudget", "not with Promote: leave it out"),
        ("Bypass", {"forwardOnly": True}, "spec.forwardOnly", "not with Bypass: leave it out"),
        ("Review", {"review": None}, "spec.review", "write spec.review (outcome"),
        ("Approve", {"review": REVIEW}, "spec.review", "and with no other"),
        ("Review", {"review": {"outcome": "Fine"}}, "spec.review.outcome", '"PartlySuccessful"'),
        ("Review", {"review": REVIEW | {"lessonsLearned": ""}}, "spec.review.lessonsLearned", "at least 1 chars"),
        ("Approve", {"change": "CHG-1"}, "spec.change", "should match"),
        ("Approve", {"changeUid": None}, "spec.changeUid", "Required value"),
        ("Approve", {"revision": ""}, "spec.revision", "at least 1 chars"),
        ("Approve", {"type": "urgent"}, "spec.type", '"emergency"'),
        ("Approve", {"by": None}, "spec.by", "Required value"),
        ("Applaud", {}, "spec.action", '"Approve"'),
        ("Approve", {"reason": "r" * 4097}, "spec.reason", "may not be more than 4096"),
    ],
)
def test_an_incomplete_decision_is_refused_with_the_field_and_the_mend(
    cluster: Bed, action: str, fields: Schema, path: str, mend: str
) -> None:
    refusal = apply_dry(cluster, decision(action, **fields))
    assert path in refusal
    assert mend in refusal


def test_a_decision_is_not_edited(cluster: Bed) -> None:
    cluster.apply(decision("Deny") | {"metadata": {"name": "kept", "namespace": "default"}})
    done = cluster.kubectl_result("patch", "chgd", "kept", "--type=merge", "-p", '{"spec": {"action": "Approve"}}')
    assert "a decision is not edited; make another one" in done.stderr


def test_kubectl_get_chgd_shows_who_decided_what(cluster: Bed) -> None:
    cluster.apply(decision("Pause") | {"metadata": {"name": "shown", "namespace": "default"}})
    heading, row = eventually(lambda: decisions(cluster))
    assert heading.split() == ["NAME", "CHANGE", "ACTION", "BY", "TYPE", "AGE"]
    assert row.split()[:5] == ["shown", "CHG-20261101-009", "Pause", "alice", "normal"]
    assert cluster.kubectl("get", "chgd", "-o", "name", "--field-selector=spec.change=CHG-20261101-001") == ""


def decisions(cluster: Bed) -> list[str]:
    lines = cluster.kubectl("get", "chgd", "shown").splitlines()
    return lines if "ACTION" in lines[0] else []


def test_the_demos_policy_takes_the_place_of_the_shipped_one(cluster: Bed) -> None:
    """Applied, it would keep the shipped one's scope and watch: no change of the demo would start, or end."""
    demo = str(ROOT / "examples/demo/policy.yaml")
    assert "kubectl replace -f {FILES}/policy.yaml" in (ROOT / "testbed/demo.py").read_text()
    cluster.kubectl("apply", "--server-side", "-f", str(ROOT / "policies/standard.yaml"))
    cluster.kubectl("apply", "-f", demo)
    assert "scope" in cluster.get("chgp", "standard")["spec"], "the control"
    cluster.kubectl("replace", "-f", demo)
    assert not {"scope", "form", "window", "after"} & cluster.get("chgp", "standard")["spec"].keys()
    cluster.kubectl("delete", "chgp", "standard")
