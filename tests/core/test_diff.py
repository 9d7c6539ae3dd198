"""Nothing that makes a new revision goes unnamed."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.change import printable
from controller.core.diff import VALUE_MAX, Difference, Image, differences, for_record, images
from controller.core.template import revision
from tests.core.templates import edited, template, templates

TEMPLATE = template()


def changed(**container: Any) -> dict[str, Any]:
    new = copy.deepcopy(TEMPLATE)
    new["spec"]["containers"][0].update(container)
    return new


def test_an_image_is_named_with_its_digest() -> None:
    new = changed(image="registry.test/shop:1.4.3@sha256:" + "b" * 64)
    (found,) = differences(TEMPLATE, new)
    expected = Difference(
        "containers[shop].image", "registry.test/shop:1.4.2", f"registry.test/shop:1.4.3@sha256:{'b' * 64}"
    )
    assert found == expected
    assert images(new) == (
        Image("init", "init:1"),
        Image("shop", "registry.test/shop:1.4.3", f"sha256:{'b' * 64}"),
        Image("proxy", "envoy:v1.31.0"),
    )


@pytest.mark.parametrize(
    ("container", "found"),
    [
        (
            {"env": [{"name": "LOG_LEVEL", "value": "debug"}, {"name": "URL", "value": "http://cart"}]},
            [("containers[shop].env[LOG_LEVEL]", "info", "debug")],
        ),
        (
            {"env": [{"name": "URL", "value": "http://cart"}]},
            [("containers[shop].env[LOG_LEVEL]", "info", "")],
        ),
        (
            {"env": [{"name": "LOG_LEVEL"}, {"name": "URL", "value": "http://cart"}]},
            [("containers[shop].env[LOG_LEVEL]", "info", '""')],
        ),
        (
            {
                "env": [
                    {"name": "LOG_LEVEL", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
                    {"name": "URL", "value": "http://cart"},
                ]
            },
            [
                ("containers[shop].env[LOG_LEVEL]", "info", ""),
                ("containers[shop].env[LOG_LEVEL].valueFrom", "", '{"secretKeyRef": {"key": "k", "name": "s"}}'),
            ],
        ),
        (
            {"env": [{"name": "URL", "value": "http://cart"}, {"name": "LOG_LEVEL", "value": "info"}]},
            [("containers[shop].env", 'in the order ["LOG_LEVEL", "URL"]', 'in the order ["URL", "LOG_LEVEL"]')],
        ),
        (
            {"env": [{"name": "LOG_LEVEL", "value": "info"}] * 2},
            [
                (
                    "containers[shop].env",
                    '[{"name": "LOG_LEVEL", "value": "info"}, {"name": "URL", "value": "http://cart"}]',
                    '[{"name": "LOG_LEVEL", "value": "info"}, {"name": "LOG_LEVEL", "value": "info"}]',
                )
            ],
        ),
        (
            {"resources": {"requests": {"cpu": "200m", "ephemeral-storage": "1Gi"}, "limits": {"memory": "1Gi"}}},
            [
                ("containers[shop].resources.requests.cpu", "100m", "200m"),
                ("containers[shop].resources.requests[ephemeral-storage]", "", "1Gi"),
            ],
        ),
        (
            {"ports": [{"name": "http", "containerPort": 81}]},
            [("containers[shop].ports[http].containerPort", "80", "81")],
        ),
        ({"args": ["--a", "--c"]}, [("containers[shop].args[1]", "--b", "--c")]),
        ({"args": ["--a"]}, [("containers[shop].args", '["--a", "--b"]', '["--a"]')]),
        ({"tty": True}, [("containers[shop].tty", "", "true")]),
    ],
)  # fmt: skip
def test_fields_have_the_names_that_people_give_them(container: dict[str, Any], found: list[Any]) -> None:
    assert differences(TEMPLATE, changed(**container)) == tuple(Difference(*each) for each in found)


def test_annotations_volumes_and_whole_containers() -> None:
    new = copy.deepcopy(TEMPLATE)
    new["metadata"]["annotations"] = {"kubectl.kubernetes.io/restartedAt": "now"}
    new["metadata"]["labels"]["app.kubernetes.io/version"] = "2"
    new["spec"]["volumes"] = [{"name": "cache", "emptyDir": {}}]
    new["spec"]["containers"].append({"name": "spy", "image": "spy:1"})
    assert {d.path for d in differences(TEMPLATE, new)} == {
        "containers[spy]",
        "volumes[cache]",
        "metadata.annotations[kubectl.kubernetes.io/restartedAt]",
        "metadata.labels[app.kubernetes.io/version]",
    }


def test_no_name_passes_for_another_path() -> None:
    new = changed(env=[*TEMPLATE["spec"]["containers"][0]["env"], {"name": "A].env[LOG_LEVEL", "value": "x"}])
    (found,) = differences(TEMPLATE, new)
    assert found.path == 'containers[shop].env["A].env[LOG_LEVEL"]'


def test_the_hash_label_and_the_time_of_creation_are_no_difference() -> None:
    new = copy.deepcopy(TEMPLATE)
    new["metadata"]["labels"]["pod-template-hash"] = "abc"
    new["metadata"]["creationTimestamp"] = None
    assert differences(TEMPLATE, new) == ()


def test_what_is_cut_says_so_and_still_differs() -> None:
    long = [f"{'v' * 300}{end}" for end in "ab"]
    (found,) = for_record(differences(changed(command=[long[0]]), changed(command=[long[1]])))
    assert len(found.before) == len(found.after) == VALUE_MAX
    assert found.before != found.after
    assert "301 characters, sha256 " in found.before
    many = for_record([Difference(f"f{i}", "1", "2") for i in range(80)])
    assert (len(many), many[-1]) == (50, Difference("…", "", "31 more differences are not kept here"))


@given(templates(), templates())
def test_two_templates_differ_if_their_revisions_do(one: Any, other: Any) -> None:
    found = differences(one, other)
    assert bool(found) == (revision(one) != revision(other))
    assert all(d.before != d.after for d in (*found, *for_record(found)))


@given(templates(), st.data())
def test_any_edit_of_a_template_is_named_in_printable_text(one: Any, data: st.DataObject) -> None:
    other = data.draw(edited(one))
    found = for_record(differences(one, other))
    assert bool(found) == (revision(one) != revision(other))
    assert len(found) <= 50
    for d in found:
        assert all(len(text) <= VALUE_MAX and printable(text) == text for text in (d.before, d.after))
        assert len(d.path) <= 320
    assert len(json.dumps([d.path for d in found])) < 50_000
