"""Every ReplicaSet of a managed Deployment is in a record, or is found."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from controller.core.model import Other, Phase, ReplicaSet
from controller.core.unmanaged import unmanaged
from tests.core.test_intake import deployment

DAY = datetime(2026, 11, 23, 8, tzinfo=UTC)
DONE = Other(
    "demo", "chg-20261123-001", "CHG-20261123-001", Phase.COMPLETED, {"shop": "v2"}, rejected=False,
    created_at=DAY, stable_revisions={"shop": "v1"}, started=True,
)  # fmt: skip


def replica_set(revision: str, hours: int, number: int = 1) -> ReplicaSet:
    return ReplicaSet(
        f"shop-{revision}", revision, "1", revision, 0, 0, number, created_at=DAY + timedelta(hours=hours)
    )


def found(*sets: ReplicaSet, records: tuple[Other, ...] = (DONE,)) -> list[str]:
    return [rs.revision for rs in unmanaged(deployment(held=""), sets, records)]


def test_what_a_change_rolled_out_or_found_is_accounted_for() -> None:
    assert found(replica_set("v1", -9), replica_set("v2", 1)) == []


def test_edits_past_admission_are_found_each() -> None:
    sets = [replica_set(f"sneaked-{n}", n, n) for n in (3, 1, 2)]
    assert found(*sets, replica_set("v2", 1)) == ["sneaked-1", "sneaked-2", "sneaked-3"]


def test_what_was_there_before_it_was_managed_is_nobodys_exception() -> None:
    assert found(replica_set("v0", -100)) == []
    assert found(replica_set("v0", 1), records=()) == []


def test_a_change_that_never_started_accounts_for_nothing() -> None:
    denied = replace(DONE, name="chg-20261123-002", phase=Phase.DENIED, revisions={"shop": "v3"}, started=False)
    assert found(replica_set("v3", 2), records=(DONE, denied)) == ["v3"]


def test_the_record_of_another_deployment_or_namespace_is_no_record() -> None:
    elsewhere = replace(DONE, namespace="other", revisions={"shop": "v3"})
    beside = replace(DONE, revisions={"cart": "v3"})
    assert found(replica_set("v3", 2), records=(DONE, elsewhere, beside)) == ["v3"]
