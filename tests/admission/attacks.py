"""Every way around the hold that is closed, as data: where it starts, what the attacker does, which rule answers.

`test_refusals` runs each as a user and as a cluster admin and sees it refused; `test_controls` takes the rule away and
sees the same attack succeed.
"""

from collections.abc import Callable
from dataclasses import dataclass

from tests.admission.cluster import (
    BY,
    CHG,
    DEPLOYMENT_CONTROLLER,
    HELD,
    ID,
    LABEL,
    RECREATE,
    ROBOT,
    RUN,
    Answer,
    Object,
    Scene,
    annotate,
    change_request,
    decision,
    deployment,
    in_hours,
    label,
    new_image,
    template,
)

Act = Callable[[Scene], Answer]
PEOPLE = ("alice", "admin")


@dataclass(frozen=True)
class Attack:
    name: str
    says: str
    """Words of the message of the rule that refuses it; they name the rule."""
    start: Callable[[Scene], Scene]
    act: Act
    by: tuple[str, ...] = PEOPLE
    behind: tuple[str, ...] = ()
    """Rules that would refuse it too if the first one were not there."""
    names: str = ID
    """The change that the message names."""


def patch(
    body: Object, resource: str = "deployments", name: str = "shop", how: str = "merge-patch", sub: str = ""
) -> Act:
    return lambda scene: scene.attacker.patch(resource, name, body, how, sub)


def strategic(body: Object, resource: str = "deployments", name: str = "shop") -> Act:
    return patch(body, resource, name, "strategic-merge-patch")


def replica_set(body: Object, sub: str = "") -> Act:
    return lambda scene: scene.attacker.patch(
        "replicasets", scene.replica_set(), body, "merge-patch" if sub else "strategic-merge-patch", sub
    )


def replace_without_marks(scene: Scene) -> Answer:
    """`kubectl replace` of the manifest that is held: no annotations, not paused."""
    return scene.attacker.put("deployments", "shop", deployment(image="shop:2", labels={LABEL: ID}))


def pod_image(scene: Scene) -> Answer:
    return strategic(new_image()["spec"]["template"], "pods", scene.pod())(scene)


def pod_init_image(scene: Scene) -> Answer:
    spec = {"spec": {"initContainers": [{"name": "setup", "image": "setup:2"}]}}
    return strategic(spec, "pods", scene.pod())(scene)


def owned_replica_set(scene: Scene) -> Object:
    uid = scene.live()["metadata"]["uid"]
    owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "shop", "uid": uid, "controller": True}
    return {
        "metadata": {"generateName": "mine-", "labels": {"app": "shop"}, "ownerReferences": [owner]},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "shop"}}, "template": template("shop:9")},
    }


def give_to_deployment(scene: Scene) -> Answer:
    """A ReplicaSet of one's own, which selects nothing of the Deployment's, is handed to it afterwards."""
    mine = owned_replica_set(scene)
    owners = mine["metadata"].pop("ownerReferences")
    mine["metadata"]["labels"] = {"app": "mine"}
    mine["spec"] |= {"selector": {"matchLabels": {"app": "mine"}}, "template": template("mine:1", {"app": "mine"})}
    made = scene.attacker.create("replicasets", mine)
    assert made.ok, made
    return scene.attacker.patch("replicasets", made.body["metadata"]["name"], {"metadata": {"ownerReferences": owners}})


def idle_replica_set_of_held_template(scene: Scene) -> Scene:
    """shop:1 ran, shop:2 ran after it, all is scaled to 0, shop:1 is asked for again: held, its ReplicaSet there."""
    scene.unlabelled()
    scene.replica_set()
    for body in (new_image(), {"spec": {"replicas": 0}}, label(ID), new_image("shop:1")):
        assert scene.bob.patch("deployments", "shop", body, "strategic-merge-patch").ok
    assert scene.annotations()[HELD] == "true"
    scene.settle()
    return scene


def forbidden_delete(resource: str) -> Act:
    return lambda scene: scene.attacker.delete(resource, "shop-canary")


def service(labels: dict[str, str]) -> Object:
    return {
        "metadata": {"name": "mine", "labels": labels},
        "spec": {"selector": {"app": "mine"}, "ports": [{"port": 80}]},
    }


def job() -> Object:
    """The backup that was never made, as the Job of a change."""
    pod = {"restartPolicy": "Never", "containers": [{"name": "backup", "image": "backup:1"}]}
    meta = {"name": "chg-20261123-001-backup", "labels": {RUN: ID}}
    return {"metadata": meta, "spec": {"template": {"spec": pod}}}


def with_job(scene: Scene) -> Scene:
    assert scene.serin.create("jobs", job()).ok
    return scene


JOB_DONE = {"status": {"startTime": "2026-11-23T08:00:00Z", "succeeded": 1}}


def label_own_service(scene: Scene) -> Answer:
    assert scene.attacker.create("services", service({})).ok
    return scene.attacker.patch("services", "mine", {"metadata": {"labels": {RUN: ID}}})


def enforced_with_old(scene: Scene) -> Scene:
    return scene.unlabelled().enforce()


PAUSE = {"spec": {"paused": True}}
UN_PAUSE = {"spec": {"paused": False}}
FORGED_AND_LABELLED = {"metadata": {"labels": {LABEL: ID}, "annotations": {HELD: "promoting"}}}
FORGED_NAME_AND_LABELLED = {"metadata": {"labels": {LABEL: ID}, "annotations": {BY: "bob"}}}
EMERGENCY_NEW = {**new_image(), **annotate(type="emergency")}
UNLABEL_WITH_TEMPLATE = {**new_image("shop:3"), **label(None)}
NOT_HELD = "it was not held"
AMENDMENT = "does not name who asks"
LOCKED = "an edit of spec.paused, spec.strategy"
RUNNING = "a new pod template, change ID, type, author or strategy was refused"

GUARD = [
    Attack(
        "new template while promoting",
        "a new pod template was refused",
        Scene.locked,
        strategic(new_image("shop:3")),
        behind=(NOT_HELD,),
    ),
    Attack(
        "new template while restoring",
        "a new pod template was refused",
        lambda s: s.locked("restoring"),
        strategic(new_image("shop:3")),
        behind=(NOT_HELD,),
    ),
    Attack(
        "new template while running",
        RUNNING,
        lambda s: s.marked("running"),
        strategic(new_image("shop:3")),
    ),
    Attack(
        "new template while the promotion is taken back",
        RUNNING,
        lambda s: s.marked("returning"),
        strategic(new_image("shop:3")),
    ),
    Attack("change ID while running", RUNNING, lambda s: s.marked("running"), patch(label("CHG-20261123-002"))),
    Attack("type while running", RUNNING, lambda s: s.marked("running"), patch(annotate(type="standard"))),
    Attack("un-pause while running", "un-pausing was refused", lambda s: s.marked("running"), patch(UN_PAUSE)),
    Attack(
        "un-pause of a rejected template", "un-pausing was refused", lambda s: s.marked("rejected"), patch(UN_PAUSE)
    ),
    Attack(
        "rejected mark removed",
        "an edit of the annotation serin.dev/held",
        lambda s: s.marked("rejected"),
        patch(annotate(held=None)),
    ),
    Attack("pause while promoting", LOCKED, Scene.locked, patch(PAUSE)),
    Attack("pause while restoring", LOCKED, lambda s: s.locked("restoring"), patch(PAUSE)),
    Attack("strategy while promoting", LOCKED, Scene.locked, patch(RECREATE)),
    Attack("change ID while promoting", LOCKED, Scene.locked, patch(label("CHG-20261123-002"))),
    Attack("type while promoting", LOCKED, Scene.locked, patch(annotate(type="standard"))),
    Attack("label removal without the verb", "removing the label", Scene.running, patch(label(None)), by=("alice",)),
    Attack(
        "label removal while held",
        "removing the label",
        Scene.held,
        patch(label(None)),
        behind=(AMENDMENT, "an edit of the annotation serin.dev/held"),
    ),
    Attack(
        "label removal with a template",
        "removing the label",
        Scene.running,
        strategic(UNLABEL_WITH_TEMPLATE),
        behind=(NOT_HELD,),
    ),
    Attack("un-pause", "un-pausing was refused", Scene.held, patch(UN_PAUSE)),
    Attack(
        "un-pause by JSON patch",
        "un-pausing was refused",
        Scene.held,
        lambda s: s.attacker.patch("deployments", "shop", [{"op": "remove", "path": "/spec/paused"}], "json-patch"),
    ),
    Attack("un-pause by its requester", "un-pausing was refused", Scene.held, patch(UN_PAUSE), by=("bob",)),
    Attack(
        "un-pause and un-hold",
        "un-pausing was refused",
        Scene.held,
        patch({**UN_PAUSE, **annotate(held=None)}),
        behind=("an edit of the annotation serin.dev/held",),
    ),
    Attack(
        "replace without the marks",
        "un-pausing was refused",
        Scene.held,
        replace_without_marks,
        behind=("an edit of the annotation serin.dev/held", "an edit of the annotation serin.dev/requested-by"),
    ),
    Attack("held removed", "an edit of the annotation serin.dev/held", Scene.held, patch(annotate(held=None))),
    Attack(
        "held removed through the status",
        "an edit of the annotation serin.dev/held",
        Scene.held,
        patch(annotate(held=None), sub="status"),
    ),
    Attack(
        "held forged as promoting",
        "an edit of the annotation serin.dev/held",
        Scene.held,
        patch(annotate(held="promoting")),
    ),
    Attack(
        "held forged between changes",
        "an edit of the annotation serin.dev/held",
        Scene.running,
        patch(annotate(held="true")),
    ),
    Attack(
        "held forged with the label",
        "an edit of the annotation serin.dev/held",
        Scene.unlabelled,
        patch(FORGED_AND_LABELLED),
    ),
    Attack(
        "held forged before the label",
        "an edit of the annotation serin.dev/held",
        lambda s: s.unlabelled(annotations={HELD: "promoting"}),
        patch(label(ID)),
    ),
    Attack(
        "requested-by edited",
        "an edit of the annotation serin.dev/requested-by",
        Scene.held,
        patch(annotate(by="alice")),
    ),
    Attack(
        "requested-by removed", "an edit of the annotation serin.dev/requested-by", Scene.held, patch(annotate(by=None))
    ),
    Attack(
        "requested-by removed through the status",
        "an edit of the annotation serin.dev/requested-by",
        Scene.held,
        patch(annotate(by=None), sub="status"),
    ),
    Attack(
        "requested-by forged with the label",
        "an edit of the annotation serin.dev/requested-by",
        Scene.unlabelled,
        patch(FORGED_NAME_AND_LABELLED),
    ),
    Attack(
        "rollback by the deployment controller", "rollback.to was refused", Scene.running, patch(annotate(rollback="1"))
    ),
    Attack(
        "emergency declared with a template",
        "takes the verb declare",
        Scene.running,
        strategic(EMERGENCY_NEW),
        by=("alice",),
    ),
    Attack(
        "emergency declared while held",
        "takes the verb declare",
        Scene.held,
        patch(annotate(type="Emergency")),
        by=("alice",),
    ),
    Attack(
        "emergency declared at creation",
        "takes the verb declare",
        lambda s: s,
        lambda s: s.attacker.create(
            "deployments", deployment(labels={LABEL: ID}, annotations={"serin.dev/type": "emergency"})
        ),
        by=("alice",),
    ),
]
CHILDREN = [
    Attack(
        "template of a ReplicaSet",
        "a template edit of ReplicaSet",
        Scene.held,
        replica_set(new_image()),
        behind=("scaling or re-owning",),
    ),
    Attack("scale of a ReplicaSet", "scaling or re-owning", Scene.held, replica_set({"spec": {"replicas": 3}})),
    Attack(
        "scale of a ReplicaSet by its subresource",
        "scaling or re-owning",
        Scene.held,
        replica_set({"spec": {"replicas": 3}}, "scale"),
    ),
    Attack(
        "ReplicaSet taken from its Deployment",
        "scaling or re-owning",
        Scene.held,
        replica_set({"metadata": {"ownerReferences": [{"$patch": "replace"}]}}),
    ),
    Attack("ReplicaSet given to a Deployment", "scaling or re-owning", Scene.held, give_to_deployment),
    Attack(
        "ReplicaSet made for a Deployment",
        "only the deployment controller makes",
        Scene.held,
        lambda s: s.attacker.create("replicasets", owned_replica_set(s)),
    ),
    Attack("image of a pod", "an image edit of pod", Scene.held, pod_image, behind=("scaling or re-owning",)),
    Attack("init image of a pod", "an image edit of pod", Scene.held, pod_init_image, behind=("scaling or re-owning",)),
    Attack(
        "held template started from zero",
        "starting ReplicaSet",
        idle_replica_set_of_held_template,
        replica_set({"spec": {"replicas": 1}}),
        by=(DEPLOYMENT_CONTROLLER,),
    ),
]


def delete_all_deployments(scene: Scene) -> Answer:
    return scene.attacker.request("DELETE", f"apis/apps/v1/namespaces/{scene.namespace}/deployments")


ENFORCE = [
    Attack(
        "unlabelled creation",
        "every pod template needs the label",
        Scene.enforce,
        lambda s: s.attacker.create("deployments", deployment()),
        names="serin.dev/change",
    ),
    Attack(
        "template of what was there before",
        "every pod template needs the label",
        enforced_with_old,
        strategic(new_image()),
        names="serin.dev/change",
    ),
    Attack(
        "delete while held",
        "deleting Deployment",
        lambda s: s.held().enforce(),
        lambda s: s.attacker.delete("deployments", "shop"),
        by=("alice",),
    ),
    Attack(
        "delete of all while held",
        "deleting Deployment",
        lambda s: s.held().enforce(),
        delete_all_deployments,
        by=("alice",),
    ),
    Attack(
        "delete while promoting",
        "deleting Deployment",
        lambda s: s.locked().enforce(),
        lambda s: s.attacker.delete("deployments", "shop"),
        by=("alice",),
    ),
]
CLAIMED = "the label serin.dev/run belongs to the controller"
WRITTEN = "is written by the controller only"
CANARIES = ("deployments", "services", "networkpolicies", "poddisruptionbudgets")
OWN = [
    Attack(
        "a Deployment called a canary",
        CLAIMED,
        lambda s: s,
        lambda s: s.attacker.create("deployments", deployment(labels={RUN: ID})),
        behind=(WRITTEN,),
    ),
    Attack(
        "a Service called a canary's",
        CLAIMED,
        lambda s: s,
        lambda s: s.attacker.create("services", service({RUN: ID})),
        behind=(WRITTEN,),
    ),
    Attack(
        "a Job that is made for a change",
        CLAIMED,
        lambda s: s,
        lambda s: s.attacker.create("jobs", job()),
        behind=(WRITTEN,),
    ),
    Attack(
        "the outcome of a change's Job",
        WRITTEN,
        with_job,
        patch(JOB_DONE, "jobs", "chg-20261123-001-backup", sub="status"),
        by=("admin",),
    ),
    Attack("a Service that becomes a canary's", CLAIMED, lambda s: s, label_own_service, behind=(WRITTEN,)),
    *(Attack(f"delete of the canary's {each}", WRITTEN, Scene.canary, forbidden_delete(each)) for each in CANARIES),
    *(
        Attack(
            f"label of the canary's {each} removed",
            WRITTEN,
            Scene.canary,
            patch({"metadata": {"labels": {RUN: None}}}, each, "shop-canary"),
        )
        for each in CANARIES
    ),
    Attack("template of the canary", WRITTEN, Scene.canary, strategic(new_image("shop:3"), name="shop-canary")),
    Attack("replicas of the canary", WRITTEN, Scene.canary, patch({"spec": {"replicas": 0}}, name="shop-canary")),
    Attack(
        "annotations of the canary through the status",
        WRITTEN,
        Scene.canary,
        patch(annotate(note="x"), name="shop-canary", sub="status"),
    ),
    Attack(
        "owner of the canary",
        WRITTEN,
        Scene.canary,
        patch(
            {"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"}]}},
            name="shop-canary",
        ),
    ),
    Attack(
        "selector of the canary's Service",
        WRITTEN,
        Scene.canary,
        patch({"spec": {"selector": {"app": "mine"}}}, "services", "shop-canary"),
    ),
    Attack(
        "label of the Service removed through the status",
        WRITTEN,
        Scene.canary,
        patch({"metadata": {"labels": {RUN: None}}}, "services", "shop-canary", sub="status"),
    ),
]
OWN_SCALE = [
    Attack(
        "scale of the canary",
        "the controller sizes it",
        Scene.canary,
        patch({"spec": {"replicas": 0}}, name="shop-canary", sub="scale"),
    ),
]


def emergency_held(scene: Scene) -> Scene:
    """olaf, who is on call, has declared an emergency; it waits for its route."""
    body = {**new_image(), **annotate(type="emergency")}
    answer = scene.running().user("olaf").patch("deployments", "shop", body, "strategic-merge-patch")
    assert answer.ok, answer
    return scene


GUARD += [
    Attack(
        "emergency under another ID",
        "takes the verb declare",
        emergency_held,
        patch(label("CHG-20261123-002")),
        by=("alice",),
    ),
    Attack(
        "emergency over a running change",
        "takes the verb declare",
        lambda s: s.marked("running"),
        strategic({**new_image("shop:3"), **annotate(type="emergency")}),
        by=("alice",),
    ),
    Attack("author while running", RUNNING, lambda s: s.marked("running"), patch(annotate(author="carol"))),
]


def request_of(status: Object | None = None, **spec: str) -> Callable[[Scene], Scene]:
    return lambda scene: scene.asked(status=status, **spec)


def create_request(**spec: object) -> Act:
    return lambda scene: scene.attacker.create("changerequests", change_request(**spec))


REFUSED = "refused-shop"


def second_record(scene: Scene) -> Answer:
    """Under the one name that need not be that of the ID."""
    return scene.attacker.create("changerequests", {**change_request(), "metadata": {"name": REFUSED}})


def refused_record(scene: Scene) -> Scene:
    """bob's template had an ID that could not be used; the controller has made a record of that."""
    spec = {"changeId": "CHG-1", "requestedBy": "bob", "problem": "InvalidChangeID: CHG-1"}
    made = scene.serin.create("changerequests", {**change_request(**spec), "metadata": {"name": REFUSED}})
    assert made.ok, made
    return scene


def amend(**spec: object) -> Act:
    return patch({"spec": spec}, "changerequests", CHG)


RULING = {"uid": "d", "action": "Approve", "by": "alice", "at": "2026-11-23T08:00:00Z", "revision": "5d8f"}
ENDED = {"phase": "Completed", "endedAt": "2026-11-23T09:00:00Z"}
CLOSED = {**ENDED, "closedAt": "2026-11-23T10:00:00Z"}
AS_DECIDED = ", and stays what was decided on"
REQUESTS = [
    Attack(
        "status",
        "a write to the status",
        Scene.request,
        patch({"status": {"phase": "Completed"}}, "changerequests", CHG, sub="status"),
        names=CHG,
    ),
    Attack(
        "requester renamed",
        "spec.requestedBy",
        Scene.request,
        patch({"spec": {"requestedBy": "alice"}}, "changerequests", CHG),
        names=CHG,
        behind=("only its requester may amend it",),
    ),
    Attack(
        "requester renamed by the requester",
        "spec.requestedBy",
        Scene.request,
        patch({"spec": {"requestedBy": "alice"}}, "changerequests", CHG),
        by=("bob",),
        names=CHG,
    ),
    Attack(
        "request amended by another",
        "only its requester may amend it",
        Scene.request,
        patch({"spec": {"type": "standard"}}, "changerequests", CHG),
        names=CHG,
    ),
    Attack(
        "finalizer removed",
        "an edit of the finalizers",
        Scene.request,
        patch({"metadata": {"finalizers": None}}, "changerequests", CHG),
        by=("alice", "bob", "admin"),
        names=CHG,
    ),
    Attack(
        "finalizer planted",
        "an edit of the finalizers",
        lambda s: s,
        lambda s: s.attacker.create(
            "changerequests", {**change_request(), "metadata": {"name": CHG, "finalizers": ["serin.dev/route"]}}
        ),
        names=CHG,
    ),
    Attack(
        "one ID in two records",
        "the controller alone makes records of that name",
        lambda s: s,
        second_record,
        names=REFUSED,
    ),
    Attack(
        "another ID for a record",
        "another change ID for ",
        refused_record,
        patch({"spec": {"changeId": ID}}, "changerequests", REFUSED),
        by=("bob",),
        names=REFUSED,
    ),
    Attack(
        "revision claimed in a request",
        "spec.revision and spec.problem of ",
        lambda s: s,
        create_request(revision="5d8f"),
        names=CHG,
    ),
    Attack(
        "problem taken from a request",
        "spec.revision and spec.problem of ",
        request_of(problem="NotStandard: the image"),
        amend(problem=None),
        by=("bob",),
        names=CHG,
    ),
    Attack(
        "emergency requested without the verb",
        "takes the verb declare",
        lambda s: s,
        create_request(type="emergency"),
        by=("alice",),
        names=CHG,
    ),
    Attack(
        "request made an emergency",
        "takes the verb declare",
        Scene.asked,
        amend(type="emergency"),
        by=("bob",),
        names=CHG,
    ),
    Attack(
        "request made standard after its approval",
        AS_DECIDED,
        request_of({"decisions": [RULING]}),
        amend(type="standard"),
        by=("bob",),
        names=CHG,
    ),
    Attack(
        "rollback plan rewritten after the approval",
        AS_DECIDED,
        request_of({"decisions": [RULING]}),
        amend(rollbackPlan="none"),
        by=("bob",),
        names=CHG,
    ),
    Attack(
        "Deployments of a request while it runs",
        AS_DECIDED,
        request_of({"phase": "Progressing"}),
        amend(deployments=["cart"]),
        by=("bob",),
        names=CHG,
    ),
    Attack(
        "description rewritten after the end",
        AS_DECIDED,
        request_of(CLOSED),
        amend(description="a typo"),
        by=("bob",),
        names=CHG,
    ),
]


# ---- decisions


def decide(action: str = "Approve", **spec: object) -> Act:
    return lambda scene: scene.attacker.create("changedecisions", scene.decision(action, **spec))


def before_the_change(scene: Scene) -> Answer:
    """For a ChangeRequest that is not there yet: its name is known beforehand, its uid is not."""
    return scene.attacker.create("changedecisions", decision())


def with_a_made_up_owner(scene: Scene) -> Answer:
    body = decision()
    owner = {"apiVersion": "serin.dev/v1alpha1", "kind": "ChangeRequest", "name": CHG, "uid": "made-up"}
    body["metadata"]["ownerReferences"] = [owner]
    return scene.attacker.create("changedecisions", body)


def copied_from(scene: Scene, place: Scene) -> Answer:
    """What alice has decided in `place`, word for word, in this namespace."""
    made = place.admin.get("changedecisions", place.decided()).body
    return scene.attacker.create("changedecisions", {**decision(), "spec": made["spec"]})


def copied_from_another_namespace(scene: Scene) -> Answer:
    return copied_from(scene, Scene(scene.bed, namespace_labels=scene.namespace_labels).asked())


def for_the_one_that_was_deleted(scene: Scene) -> Answer:
    """Approved, the request deleted and made again under the same name: the copy of the approval names the first."""
    made = scene.admin.get("changedecisions", scene.decided()).body
    assert scene.admin.delete("changerequests", CHG).ok
    scene.asked()
    return scene.attacker.create("changedecisions", {**decision(), "spec": made["spec"]})


def edit_decision(body: Object) -> Act:
    return lambda scene: scene.attacker.patch("changedecisions", scene.decided(), body)


def delete_decision(scene: Scene) -> Answer:
    return scene.attacker.delete("changedecisions", scene.decided("Pause"))


def delete_all_decisions(scene: Scene) -> Answer:
    scene.decided("Pause")
    path = f"apis/serin.dev/v1alpha1/namespaces/{scene.namespace}/changedecisions"
    return scene.attacker.request("DELETE", path)


NO_SUCH = "was refused: in namespace "
MAY_NOT = " may not "
DECISIONS = [
    Attack("decision before its change exists", NO_SUCH, lambda s: s, before_the_change),
    Attack("decision with an owner that is made up", NO_SUCH, lambda s: s, with_a_made_up_owner),
    Attack("decision copied from another namespace", NO_SUCH, lambda s: s, copied_from_another_namespace),
    Attack(
        "decision for another change's uid",
        NO_SUCH,
        Scene.asked,
        decide(change="CHG-20261123-002"),
        names="CHG-20261123-002",
    ),
    Attack("decision for a request that was made again", NO_SUCH, Scene.asked, for_the_one_that_was_deleted),
    Attack("approval without the verb", MAY_NOT, Scene.asked, decide(), by=("carol", "olaf")),
    Attack(
        "approval of an emergency with the verb for normal",
        MAY_NOT,
        request_of(type="emergency"),
        decide(type="emergency"),
        by=("alice",),
    ),
    Attack("bypass without the verb", MAY_NOT, Scene.asked, decide("Bypass"), by=("alice",)),
    Attack("rollback without the verb", MAY_NOT, Scene.asked, decide("Rollback"), by=("carol",)),
    Attack(
        "bypass for a week",
        "ends at most 4 hours",
        Scene.asked,
        decide("Bypass", expiresAt=in_hours(168)),
        by=("dora", "admin"),
    ),
    Attack("approval that is over", ") is past", Scene.asked, decide(expiresAt=in_hours(-1))),
    Attack(
        "owner of a decision taken",
        "an edit of ",
        Scene.asked,
        edit_decision({"metadata": {"ownerReferences": None}}),
        by=("alice", "bob", "admin"),
    ),
    Attack(
        "finalizer planted in a decision",
        "an edit of ",
        Scene.asked,
        edit_decision({"metadata": {"finalizers": ["example.com/keep"]}}),
    ),
    Attack("decision deleted", "deleting ", Scene.asked, delete_decision, by=("alice", "bob", "admin", ROBOT)),
    Attack("all decisions deleted", "deleting ", Scene.asked, delete_all_decisions, by=("admin",)),
]
NOT_YOURS = "asked for it or is named as its author"
AUTHOR = "Alice Doe <Alice@example.com>, carol"
HAS_ENDED = "it has ended ("
DECISIONS_CHANGE = [
    Attack("decision about a closed change", "it is closed (", request_of(CLOSED), decide("Deny"), behind=(HAS_ENDED,)),
    Attack("second review of a closed change", "it is closed (", request_of(CLOSED), decide("Review")),
    Attack(
        "decision with the verb of another type",
        "Decide about it as what it is: ",
        Scene.asked,
        decide(type="standard"),
    ),
    Attack("approval of another revision", "it is about revision ", Scene.asked, decide(revision="77c1")),
    Attack("approval before there is a revision", "it is about revision ", request_of({"revision": ""}), decide()),
    Attack("self-approval", NOT_YOURS, Scene.asked, decide(), by=("bob",)),
    Attack("self-approval by an admin", NOT_YOURS, lambda s: s.asked("admin"), decide(), by=("admin",)),
    Attack("promotion of one's own change", NOT_YOURS, Scene.asked, decide("Promote"), by=("bob",)),
    Attack("review of one's own change", NOT_YOURS, request_of(ENDED), decide("Review"), by=("bob",)),
    Attack("bypass of one's own change", NOT_YOURS, lambda s: s.asked("dora"), decide("Bypass"), by=("dora",)),
    Attack(
        "approval by the author behind a GitOps tool",
        NOT_YOURS,
        lambda s: s.asked(ROBOT, author=AUTHOR),
        decide(),
        by=("alice",),
    ),
    Attack(
        "approval by who applied what another had requested",
        NOT_YOURS,
        request_of({"requesters": ["alice", "bob"]}),
        decide(),
        by=("alice",),
    ),
    Attack("rollback of what has ended", HAS_ENDED, request_of(ENDED), decide("Rollback")),
    Attack("approval of what was rolled back", HAS_ENDED, request_of({**ENDED, "phase": "RolledBack"}), decide()),
    Attack("review before the end", "a change is reviewed when it has ended", Scene.asked, decide("Review")),
]
NO_PERSON = " is not a person"
DECISIONS_ACCOUNT = [
    Attack("approval by a ServiceAccount that may do everything", NO_PERSON, Scene.asked, decide(), by=(ROBOT,)),
    Attack(
        "rollback by a ServiceAccount that may do everything", NO_PERSON, Scene.asked, decide("Rollback"), by=(ROBOT,)
    ),
]
ATTACKS = {
    "serin-guard": GUARD,
    "serin-children": CHILDREN,
    "serin-enforce": ENFORCE,
    "serin-own": OWN,
    "serin-own-scale": OWN_SCALE,
    "serin-requests": REQUESTS,
    "serin-decisions": DECISIONS,
    "serin-decisions-change": DECISIONS_CHANGE,
    "serin-decisions-account": DECISIONS_ACCOUNT,
}
