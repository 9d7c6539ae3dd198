"""controller.metrics.incidents: which P0 is about which workload."""

from datetime import UTC, datetime

import promql_parser
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.model import Incident
from controller.metrics.counters import parse
from controller.metrics.incidents import Alert, concerns, incidents_of, incidents_query, read_alerts
from tests.metrics.subjects import START, at, subject


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"namespace": "default", "deployment": "shop"}, True),
        ({"namespace": "default", "workload": "shop"}, True),
        ({"namespace": "default", "service": "shop-canary"}, True),
        ({"deployment": "shop-canary"}, True),
        ({"app": "shop"}, True),
        ({"namespace": "default"}, True),
        ({"namespace": "default", "pod": "shop-canary-6d4c-x7k2p"}, True),
        ({"namespace": "default", "deployment": "shop", "service": "kube-state-metrics"}, True),
        ({"namespace": "default", "deployment": "shop", "pod": "kube-state-metrics-0"}, True),
        ({"namespace": "default", "deployment": "cart"}, False),
        ({"namespace": "default", "pod": "cart-6d4c-x7k2p"}, False),
        ({"namespace": "other", "deployment": "shop"}, False),
        ({"namespace": "other"}, False),
        ({"cluster": "eu-1"}, False),
        ({"service": ""}, False),
        ({}, False),
    ],
)
def test_an_alert_concerns_the_workload_or_its_namespace(labels: dict[str, str], expected: bool) -> None:
    assert concerns({"alertname": "Down", "severity": "P0", **labels}, subject()) is expected


def test_an_arm_without_pods_names_nobody() -> None:
    one = subject(canary_pods="", stable_pods="")
    assert not concerns({"namespace": "default", "pod": "x"}, one)
    assert not concerns({"deployment": ""}, one)


def test_the_value_is_the_moment_at_which_the_alert_became_active() -> None:
    answer = parse(
        [
            {
                "metric": {"__name__": "ALERTS_FOR_STATE", "alertname": "Down", "app": "shop"},
                "value": [at(9), str(at(1))],
            },
            {"metric": {"alertname": "Odd", "app": "shop", "alertstate": "firing"}, "value": [at(9), "1"]},
            {"metric": {"alertname": "Nan", "app": "shop"}, "value": [at(9), "NaN"]},
        ]
    )
    alerts = read_alerts(answer)
    known, unknown = incidents_of(subject(), alerts)
    began_at = datetime.fromtimestamp(at(1), UTC)
    assert known == (Incident("Down", {"alertname": "Down", "app": "shop"}, began_at),)
    assert [problem.reason for problem in unknown] == ["IncidentWithoutStart"] * 2
    assert incidents_of(subject("cart"), alerts) == ((), ())


def test_an_incident_of_another_is_not_ours() -> None:
    alert = Alert({"alertname": "Down", "namespace": "default", "deployment": "cart"}, START)
    assert incidents_of(subject(), [alert]) == ((), ())
    assert incidents_of(subject("cart"), [alert])[0][0].name == "Down"


@given(values=st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), st.text(), min_size=1))
def test_whatever_the_values_the_query_is_promql(values: dict[str, str]) -> None:
    assert isinstance(promql_parser.parse(incidents_query(values)), promql_parser.BinaryExpr)


@pytest.mark.parametrize("name", ["", "a b", 'a="x"} or up{b', "ä", "1a"])
def test_what_is_no_label_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not the name of a label"):
        incidents_query({name: "P0"})
