"""`emergency`, `revert` and `retry` on a real API server with the policies as they ship."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from controller.cli.edits import way_back, with_images
from controller.core.model import Phase, ReplicaSet, State
from controller.core.template import revision
from controller.errors import PermanentError
from testbed.bed import Bed
from testbed.waiting import eventually
from tests.cli.conftest import AS_CONTROLLER, SHOP, Run, Watching, put
from tests.cli.journeys import BAKING, CHANGE, TARGET, WAITING, after

TODAY = f"CHG-{datetime.now(UTC):%Y%m%d}-"


def template(shop: str, *, proxy: bool = False) -> dict[str, Any]:
    containers = [{"name": "shop", "image": shop}, *([{"name": "proxy", "image": "proxy:1"}] if proxy else [])]
    return {"metadata": {"labels": {"app": "shop"}}, "spec": {"containers": containers}}


# --- Which template ---


@pytest.mark.parametrize(
    ("wanted", "images"),
    [
        (["shop:v2"], ["shop:v2"]),
        (["shop=shop:v2"], ["shop:v2"]),
        (["shop=r.io/shop@sha256:12"], ["r.io/shop@sha256:12"]),
    ],
)
def test_an_image_goes_to_its_container(wanted: list[str], images: list[str]) -> None:
    before = template("shop:v1")
    assert [c["image"] for c in with_images(before, wanted)["spec"]["containers"]] == images
    assert before == template("shop:v1")


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        (["shop:v2"], "write CONTAINER=IMAGE, of shop, proxy"),
        (["cart=cart:1"], "its containers are shop, proxy"),
        (["proxy=proxy:1"], "it runs proxy=proxy:1 already"),
    ],
)
def test_an_image_that_fits_nowhere_is_refused(wanted: list[str], why: str) -> None:
    with pytest.raises(PermanentError, match=why):
        with_images(template("shop:v1", proxy=True), wanted)


def replica_set(image: str, replicas: int) -> ReplicaSet:
    return ReplicaSet(image, image, "1", revision(template(image)), replicas, replicas, 1, template(image))


def completed(old: str, new: str, minutes: float) -> State:
    target = replace(TARGET, revision=revision(template(new)), stable_template=template(old))
    ended = after(minutes)
    return replace(BAKING, phase=Phase.COMPLETED, targets=(target,), revision=target.revision, ended_at=ended)


def test_a_revert_leads_to_what_the_last_completed_change_replaced() -> None:
    known = [(CHANGE, completed("shop:v1", "shop:v2", 20)), (CHANGE, completed("shop:v2", "shop:v3", 40))]
    back = way_back("shop", template("shop:v3"), [replica_set("shop:v3", 3)], known)
    assert (back.source, back.template, back.runs) == (CHANGE.change_id, template("shop:v2"), False)


def test_a_template_that_does_not_run_gives_way_to_the_one_that_does() -> None:
    known = [(CHANGE, completed("shop:v1", "shop:v2", 20))]
    back = way_back("shop", template("shop:v3"), [replica_set("shop:v1", 0), replica_set("shop:v2", 3)], known)
    assert (back.template, back.runs) == (template("shop:v2"), True)


def test_what_is_under_way_is_rolled_back_and_not_reverted() -> None:
    with pytest.raises(PermanentError, match="kubectl serin rollback CHG-20261123-001 -n shop"):
        way_back("shop", template("shop:v2"), [], [(CHANGE, BAKING)])


def test_without_a_record_there_is_no_way_back() -> None:
    with pytest.raises(PermanentError, match="kubectl rollout history deployment/shop"):
        way_back("shop", template("shop:v1"), [replica_set("shop:v1", 3)], [])


# --- On the API server ---


@pytest.fixture
def as_bob(guarded: Bed, monkeypatch: pytest.MonkeyPatch) -> Bed:
    monkeypatch.setenv("KUBECONFIG", str(guarded.kubeconfig("bob")))
    monkeypatch.setattr("controller.cli.ask.ANSWER", timedelta(milliseconds=300))
    return guarded


def deploy(bed: Bed, name: str, image: str, annotations: dict[str, str] | None = None) -> dict[str, Any]:
    """A Deployment that runs `image`, as it was before it had the label."""
    labels = {"app": name}
    pod = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "shop", "image": image}]}}
    bed.apply(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name, "namespace": SHOP, "annotations": annotations or {}},
            "spec": {"replicas": 2, "selector": {"matchLabels": labels}, "template": pod},
        }
    )

    def runs() -> bool:
        found = bed.get("replicasets", "-n", SHOP, "-l", f"app={name}")["items"]
        return any(rs["spec"]["replicas"] == 2 for rs in found)

    eventually(runs)
    return live(bed, name)


def live(bed: Bed, name: str) -> dict[str, Any]:
    return dict(bed.get("deployment", name, "-n", SHOP))


def image_of(deployment: dict[str, Any]) -> str:
    return str(deployment["spec"]["template"]["spec"]["containers"][0]["image"])


def test_an_emergency_is_one_write_that_is_held_until_serin_starts_it(as_bob: Bed, run: Run) -> None:
    deploy(as_bob, "urgent", "shop:v1", {"serin.dev/rollback-plan": "of the change before", "team": "shop"})
    code, out, err = run("emergency", "deployment/urgent", "-n", SHOP, "--image", "shop:v2", "--reason", "CVE-2026-1")
    assert (code, err) == (0, "")
    now = live(as_bob, "urgent")
    change_id = now["metadata"]["labels"]["serin.dev/change"]
    assert change_id.startswith(TODAY)
    assert now["metadata"]["generation"] == 2
    annotations = {k: v for k, v in now["metadata"]["annotations"].items() if k.startswith("serin.dev/")}
    assert annotations == {
        "serin.dev/type": "emergency",
        "serin.dev/description": "CVE-2026-1",
        "serin.dev/held": "true",
        "serin.dev/requested-by": "bob",
    }
    assert now["metadata"]["annotations"]["team"] == "shop"
    assert (image_of(now), now["spec"]["paused"]) == ("shop:v2", True)
    assert f"{change_id}  emergency change" in out
    assert "differs         containers[shop].image: shop:v1 → shop:v2" in out
    assert f"{change_id} is asked for" in out
    assert f"kubectl serin status -w {change_id} -n {SHOP}" in out


def test_an_id_that_is_none_is_refused_before_anything_is_written(as_bob: Bed, run: Run) -> None:
    deploy(as_bob, "numbered", "shop:v1")
    arguments = ("emergency", "numbered", "-n", SHOP, "--image", "shop:v2", "-m", "x", "--id")
    code, _, err = run(*arguments, "CHG-7")
    assert (code, live(as_bob, "numbered")["metadata"]["generation"]) == (1, 1)
    assert "write CHG-YYYYMMDD-NNN" in err
    assert run(*arguments, "CHG-20261125-007").code == 0
    assert live(as_bob, "numbered")["metadata"]["labels"]["serin.dev/change"] == "CHG-20261125-007"


def test_a_deployment_that_is_not_there_is_an_error(as_bob: Bed, run: Run) -> None:
    code, _, err = run("emergency", "none", "-n", SHOP, "--image", "x", "-m", "x")
    assert (code, 'deployments.apps "none" not found' in err) == (1, True)
    code, _, err = run("revert", "none", "-A")
    assert (code, "there is none in any namespace" in err) == (1, True)


def test_a_revert_goes_back_and_forth(as_bob: Bed, run: Run) -> None:
    before = deploy(as_bob, "wrong", "shop:v2", {"serin.dev/type": "emergency"})
    old = {**before["spec"]["template"], "spec": {**before["spec"]["template"]["spec"]}}
    old["spec"] = {**old["spec"], "containers": [{**old["spec"]["containers"][0], "image": "shop:v1"}]}
    here = revision(before["spec"]["template"])
    target = replace(TARGET, name="wrong", revision=here, stable_template=old)
    state = replace(BAKING, phase=Phase.COMPLETED, revision=here, targets=(target,), ended_at=after(20))
    put(as_bob, "CHG-20261124-050", state, SHOP, AS_CONTROLLER, deployments=["wrong"])
    code, out, err = run("revert", "wrong", "-n", SHOP, "--reason", "carts are empty")
    assert (code, err) == (0, "")
    now = live(as_bob, "wrong")
    assert (image_of(now), now["spec"]["template"]) == ("shop:v1", old)
    annotations = now["metadata"]["annotations"]
    assert annotations["serin.dev/type"] == "normal"
    assert annotations["serin.dev/description"] == "Revert of CHG-20261124-050: carts are empty"
    assert annotations["serin.dev/held"] == "true"
    assert "differs         containers[shop].image: shop:v2 → shop:v1" in out
    code, out, _ = run("revert", "wrong", "-n", SHOP)  # it does not run yet: this takes it back
    assert (code, image_of(live(as_bob, "wrong"))) == (0, "shop:v2")
    assert "it is released at once" in out


def test_a_retry_asks_anew_for_what_was_rolled_back(as_bob: Bed, run: Run) -> None:
    here = revision(deploy(as_bob, "again", "shop:v2", {"serin.dev/risk": "low"})["spec"]["template"])
    target = replace(TARGET, name="again", revision=here)
    state = replace(BAKING, phase=Phase.ROLLED_BACK, cause="ErrorRate", revision=here, targets=(target,))
    put(as_bob, "CHG-20261124-051", state, SHOP, AS_CONTROLLER, deployments=["again"])
    code, out, err = run("retry", "CHG-20261124-051", "-n", SHOP)
    assert (code, err) == (0, "")
    meta = live(as_bob, "again")["metadata"]
    assert meta["labels"]["serin.dev/change"].startswith(TODAY)
    assert meta["annotations"]["serin.dev/retry"] == "CHG-20261124-051"
    assert meta["annotations"]["serin.dev/risk"] == "low"
    assert "retry of CHG-20261124-051, rolled back by ErrorRate" in out
    deploy(as_bob, "again", "shop:v3")
    code, _, err = run("retry", "CHG-20261124-051", "-n", SHOP)
    assert (code, "has not the template of CHG-20261124-051 any more" in err) == (1, True)


def test_a_retry_takes_along_what_people_wrote_into_the_request(as_bob: Bed, run: Run) -> None:
    here = revision(deploy(as_bob, "formal", "shop:v2", {"serin.dev/risk": "low"})["spec"]["template"])
    target = replace(TARGET, name="formal", revision=here)
    state = replace(BAKING, phase=Phase.ROLLED_BACK, cause="ErrorRate", revision=here, targets=(target,))
    form = {"description": "as bob wrote it", "impact": {"usersAffected": "all"}, "jobs": ["backup"]}
    put(as_bob, "CHG-20261124-053", state, SHOP, AS_CONTROLLER, deployments=["formal"], **form)
    code, _, err = run("retry", "CHG-20261124-053", "-n", SHOP, "--id", "CHG-20261125-053")
    assert (code, err) == (0, "")
    made = as_bob.get("chg", "chg-20261125-053", "-n", SHOP)["spec"]
    assert made == {"changeId": "CHG-20261125-053", "type": "normal", "requestedBy": "bob", **form}


def test_what_was_not_rolled_back_is_not_retried(as_bob: Bed, run: Run) -> None:
    put(as_bob, "CHG-20261124-052", WAITING, SHOP, AS_CONTROLLER)
    code, _, err = run("retry", "CHG-20261124-052", "-n", SHOP)
    assert (code, "is Waiting: what was rolled back is retried" in err) == (1, True)


def test_with_wait_it_is_followed_to_its_end(guarded: Bed, start: Callable[..., Watching]) -> None:
    deploy(guarded, "followed", "shop:v1")
    arguments = ("emergency", "followed", "-n", SHOP, "--image", "shop:v2", "-m", "x", "--id", "CHG-20261125-008")
    seen = start(guarded, *arguments, "--wait", terminal=True, user="bob")
    seen.until("Declare CHG-20261125-008? [y/N]")
    seen.type("y\n")
    seen.until("is asked for")
    state = replace(BAKING, phase=Phase.COMPLETED, reason="Completed", message="the new revision is the stable one")
    put(guarded, "CHG-20261125-008", state, SHOP, AS_CONTROLLER, type="emergency")
    assert seen.end() == 0
    assert "CHG-20261125-008 is Completed" in seen.text
