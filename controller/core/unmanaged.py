"""Which ReplicaSets of a managed Deployment no change accounts for: what got past admission is found here. Pure."""

from collections.abc import Iterable, Sequence

from controller.core.model import Deployment, Other, ReplicaSet


def unmanaged(d: Deployment, replica_sets: Sequence[ReplicaSet], records: Iterable[Other]) -> tuple[ReplicaSet, ...]:
    """Those that are in no record, neither as what a change that started is about nor as what it found, oldest first.

    What is older than the first record of the Deployment was there before it was managed.
    """
    mine = [r for r in records if r.namespace == d.namespace and d.name in r.revisions]
    since = min((r.created_at for r in mine if r.created_at), default=None)
    if since is None:
        return ()
    known = {r.revisions[d.name] for r in mine if r.started} | {r.stable_revisions.get(d.name, "") for r in mine}
    found = [rs for rs in replica_sets if rs.revision not in known and rs.created_at and rs.created_at > since]
    return tuple(sorted(found, key=lambda rs: rs.number))
