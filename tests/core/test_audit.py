"""The audit trail: what of a commit becomes a record, and that nothing can be done to a log that is not found."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core import proof
from controller.core.audit import FOLLOWED, LINES_MAX, PASSED_OVER, Head, Kind, Record, chain, follow
from controller.core.codec import canonical, decode, digest, encode
from controller.core.model import (
    Action,
    Audit,
    Change,
    Decision,
    Evidence,
    Observation,
    Phase,
    Ruling,
    State,
    Target,
    Transition,
    Verdict,
)
from controller.core.plan import Intent, Shift
from controller.core.policy import ChangeType, Policy, Step
from controller.core.proof import Anchor, Fault, Finding, anchors_of, verify

NOW = datetime(2026, 11, 23, 8, tzinfo=UTC)

# --- Logs ---


def log_of(lengths: Sequence[int], order: Sequence[int] = (), salt: str = "") -> list[str]:
    """Chains of these lengths, their lines mixed as `order` says."""
    queues = []
    for number, length in enumerate(lengths):
        about = {
            "at": "2026-11-23T08:00:00Z",
            "change": f"CHG-20261123-{number:03d}",
            "uid": f"uid-{number}",
            "namespace": "demo",
            "policy": "p",
            "revision": "r",
        }
        records = [Record(Kind.VERDICT, {"text": f"{salt}é\u2028 {i}", "n": i}) for i in range(length)]
        queues.append(list(chain(Head(), about, records)[1]))
    lines = []
    for pick in [*order, *([0] * sum(lengths))]:
        left = [queue for queue in queues if queue]
        if left:
            lines.append(left[pick % len(left)].pop(0))
    return lines


def heads(lines: Sequence[str]) -> list[Anchor]:
    newest: dict[str, Anchor] = {}
    for line in lines:
        r = json.loads(line)
        newest[r["uid"]] = Anchor(r["change"], r["namespace"], r["uid"], r["seq"], r["hash"])
    return list(newest.values())


def faults(findings: Sequence[Finding]) -> set[Fault]:
    return {finding.fault for finding in findings}


lengths = st.lists(st.integers(1, 6), min_size=1, max_size=3)
mixes = st.lists(st.integers(0, 2), max_size=12)


@given(lengths, mixes, st.integers(0, 18))
def test_an_honest_log_is_whole_in_one_file_and_in_several(sizes: list[int], mix: list[int], cut: int) -> None:
    lines = log_of(sizes, mix)
    assert verify({"log": lines}, heads(lines)) == []
    assert verify({"a": lines[cut:], "b": lines[: cut + 2]}, heads(lines)) == [], "what two leaders both wrote"
    assert verify({"log": lines}, heads(lines[: cut + 1])) == [], "an anchor that was taken long ago"


@given(lengths, mixes, st.data())
def test_whatever_is_changed_in_a_line_is_found(sizes: list[int], mix: list[int], data: st.DataObject) -> None:
    lines = log_of(sizes, mix)
    at = data.draw(st.integers(0, len(lines) - 1))
    line = lines[at]
    place = data.draw(st.integers(0, len(line)))
    new = data.draw(st.characters(exclude_characters="\n"))
    edited = data.draw(
        st.sampled_from([line[:place] + new + line[place + 1 :], line[:place] + new + line[place:], line[:place]])
    )
    if edited != line:
        assert verify({"log": [*lines[:at], edited, *lines[at + 1 :]]}) != []


@given(lengths, mixes, st.data())
def test_a_line_that_is_not_there_any_more_is_found(sizes: list[int], mix: list[int], data: st.DataObject) -> None:
    lines = log_of(sizes, mix)
    gone = data.draw(st.integers(0, len(lines) - 1))
    rest = [*lines[:gone], *lines[gone + 1 :]]
    found = faults(verify({"log": rest}, heads(lines)))
    assert found == ({Fault.MISSING} if set(heads(lines)) == set(heads(rest)) else {Fault.CUT})


@given(lengths, mixes, st.data())
def test_lines_of_a_chain_that_changed_places_are_found(sizes: list[int], mix: list[int], data: st.DataObject) -> None:
    lines = log_of(sizes, mix)
    one, other = (data.draw(st.integers(0, len(lines) - 1)) for _ in range(2))
    swapped = list(lines)
    swapped[one], swapped[other] = lines[other], lines[one]
    own = [[json.loads(line)["seq"] for line in swapped if json.loads(line)["uid"] == f"uid-{n}"] for n in range(3)]
    assert faults(verify({"log": swapped})) == (set() if own == [sorted(o) for o in own] else {Fault.REORDERED})


@given(lengths, mixes, st.data())
def test_a_line_that_stands_there_twice_is_found(sizes: list[int], mix: list[int], data: st.DataObject) -> None:
    lines = log_of(sizes, mix)
    which, to = data.draw(st.integers(0, len(lines) - 1)), data.draw(st.integers(0, len(lines)))
    twice = [*lines[:to], lines[which], *lines[to:]]
    assert Fault.DUPLICATED in faults(verify({"log": twice}))


@given(st.integers(1, 6), st.data())
def test_a_chain_that_was_written_anew_is_found_by_an_anchor(length: int, data: st.DataObject) -> None:
    lines = log_of([length])
    kept = data.draw(st.integers(0, length - 1))
    forged, head = lines[:kept], Head(kept, json.loads(lines[kept - 1])["hash"] if kept else "")
    about = {k: v for k, v in json.loads(lines[0]).items() if k not in ("hash", "prev", "seq", "kind", "what")}
    forged += chain(head, about, [Record(Kind.VERDICT, {"text": "forged"})] * (length - kept))[1]
    assert verify({"log": forged}) == [], "by itself it is a chain like any other"
    assert faults(verify({"log": forged}, heads(lines))) == {Fault.REWRITTEN}
    mixed = verify({"log": forged, "another replica's": lines})
    assert Fault.FORKED in faults(mixed)


def test_an_anchor_of_a_chain_that_is_gone_altogether_is_found() -> None:
    lines = log_of([2, 3])
    rest = [line for line in lines if json.loads(line)["uid"] != "uid-1"]
    (finding,) = verify({"log": rest}, heads(lines))
    assert (finding.fault, finding.where) == (Fault.CUT, "CHG-20261123-001")
    assert "records 1 to 3 are not there" in finding.message


@pytest.mark.parametrize("line", ["", "null", "[]", "{}", "x", '{"seq":1}', "[" * 100_000])
def test_what_is_no_record_is_named_with_its_line(line: str) -> None:
    lines = log_of([2])
    (finding,) = verify({"log": [lines[0], line, lines[1]]})
    assert (finding.fault, finding.where) == (Fault.UNREADABLE, "log:2")


def test_a_record_whose_fields_are_of_another_kind_is_no_record() -> None:
    record = json.loads(log_of([1])[0])
    changes: list[dict[str, Any]] = [{"seq": "1"}, {"seq": True}, {"seq": 0}, {"uid": 1}, {"what": []}, {"more": ""}]
    for change in changes:
        body = {key: value for key, value in {**record, **change}.items() if key != "hash"}
        line = canonical({**body, "hash": digest(body)})
        assert faults(verify({"log": [line]})) == {Fault.UNREADABLE}, change


# --- Controls: without the check its tests would fail ---


def test_without_the_look_at_the_chain_a_missing_record_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = log_of([4])
    assert faults(verify({"log": [lines[0], *lines[2:]]})) == {Fault.MISSING}
    monkeypatch.setattr(proof, "_check_chain", lambda known: ())
    assert verify({"log": [lines[0], *lines[2:]]}) == []


def test_without_the_hash_an_edited_record_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = log_of([3])
    edited = [lines[0], lines[1].replace('"n":1', '"n":7'), lines[2]]
    assert faults(verify({"log": edited})) >= {Fault.EDITED}
    monkeypatch.setattr(proof, "intact", lambda record, line: True)
    assert verify({"log": edited}) == []


def test_without_prev_a_record_with_a_hash_of_its_own_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = log_of([3])
    body = {key: value for key, value in json.loads(lines[1]).items() if key != "hash"} | {"at": "2020"}
    edited = [lines[0], canonical({**body, "hash": digest(body)}), lines[2]]
    assert faults(verify({"log": edited})) == {Fault.FORKED}
    monkeypatch.setattr(proof, "_check_chain", lambda known: ())
    assert verify({"log": edited}) == []


# --- Anchors ---


def test_anchors_are_read_from_what_we_export_and_from_the_log_of_the_api_server() -> None:
    anchor = Anchor("CHG-20261123-001", "demo", "u", 3, "abc")
    own = json.dumps(encode(anchor))
    event = json.dumps({"auditID": "1", "annotations": {proof.ANNOTATION: own}, "responseStatus": {"code": 200}})
    refused = json.dumps({"auditID": "1", "annotations": {proof.ANNOTATION: own}, "responseStatus": {"code": 409}})
    forged = '{"change": "x", "uid": "victim", "seq": 1, "hash": "f", "namespace": "n", "uid": "u", "seq": 3, "'
    odd = json.dumps({"auditID": "3", "annotations": {proof.ANNOTATION: forged}})
    other = json.dumps({"auditID": "2", "verb": "get"})
    assert anchors_of([own, "", event, refused, other, odd]) == [anchor, anchor]
    for bad in ("x", "[]", '{"seq":1}', json.dumps({**encode(anchor), "seq": "3"})):
        with pytest.raises(ValueError, match="line 2 is neither"):
            anchors_of([own, bad])


# --- What becomes a record ---

CHANGE = Change(
    "demo",
    "chg-20261123-001",
    "CHG-20261123-001",
    ChangeType.NORMAL,
    "uid",
    requested_by="alice",
    author="ann",
    deployments=("shop",),
    spec={"changeId": "CHG-20261123-001", "description": "v2\x1b[31m"},
)
POLICY = Policy(steps=(Step(100, timedelta(minutes=5)),))
ASKED = State(revision="r1", requesters=("alice", "ann"))


def step(
    before: State, after: State, policy: Policy | None = POLICY, **more: Any
) -> tuple[State, list[dict[str, Any]]]:
    observation = Observation(more.pop("change", CHANGE), {}, policy, decisions=more.pop("decisions", ()))
    after = follow(before, replace(after, audit=before.audit), observation, policy, NOW, **more)
    return after, [json.loads(line) for line in after.audit.last if json.loads(line)["seq"] > before.audit.seq]


def begun() -> State:
    return step(State(), ASKED)[0]


def kinds(records: Sequence[dict[str, Any]]) -> list[str]:
    return [record["kind"] for record in records]


def test_every_field_of_the_state_is_followed_or_passed_over() -> None:
    names = {field.name for field in dataclasses.fields(State)}
    assert names == FOLLOWED.keys() | PASSED_OVER
    assert not FOLLOWED.keys() & PASSED_OVER


def test_a_chain_begins_with_the_request_and_the_policy_word_for_word() -> None:
    state, (recorded, policy) = step(State(), ASKED)
    assert (recorded["kind"], recorded["seq"], recorded["prev"]) == ("recorded", 1, "")
    assert recorded["what"]["requestedBy"] == "alice"
    assert recorded["what"]["requesters"] == ["alice", "ann"]
    assert recorded["what"]["description"] == "v2\\x1b[31m", "text of people is harmless in a terminal"
    assert recorded["at"] == "2026-11-23T08:00:00.000Z"
    assert (recorded["change"], recorded["uid"], recorded["namespace"]) == ("CHG-20261123-001", "uid", "demo")
    assert decode(Policy, policy["what"]["spec"]) == POLICY
    assert policy["policy"] == digest(encode(POLICY))[:16] == state.audit.policy
    assert verify({"log": state.audit.last}, [Anchor("", "", "uid", state.audit.seq, state.audit.hash)]) == []


def test_nothing_new_is_no_record() -> None:
    state = begun()
    again, _ = step(state, replace(state, measured_at=NOW, message="other words", reason="Baking"))
    assert again.audit == state.audit


def test_what_is_asked_for_anew_and_a_policy_that_is_edited_are_records() -> None:
    state, records = step(begun(), replace(ASKED, revision="r2"))
    assert kinds(records) == ["amended"]
    other = replace(CHANGE, spec={**CHANGE.spec, "rollbackPlan": "none"})
    state, records = step(state, state, change=other)
    assert kinds(records) == ["amended"]
    state, records = step(state, state, replace(POLICY, min_requests=1), change=other)
    assert kinds(records) == ["policy"]
    state, records = step(state, state, None, change=other)
    assert records == [], "a policy that is not read is no other policy"


def decision(by: str, **fields: Any) -> Decision:
    made = Decision("d1", "x", "demo", CHANGE.change_id, "uid", "r1", "normal", Action.APPROVE, by, ("sre", "eng"))
    return replace(made, authorized=True, **fields)


def test_a_decision_is_a_record_of_who_decided_what_by_which_groups_and_whether_it_counts() -> None:
    ruling = Ruling("d1", Action.APPROVE, "bob", NOW, "r1", tests="https://ci/1")
    refused = Ruling("d2", Action.APPROVE, "alice", NOW, "r1", refusal="SelfApproval: alice asked for it")
    state, records = step(begun(), replace(ASKED, decisions=(ruling, refused)), decisions=(decision("bob"),))
    assert kinds(records) == ["decision", "decision"]
    assert records[0]["what"]["by"] == "bob"
    assert records[0]["what"]["groups"] == ["sre", "eng"]
    assert records[1]["what"]["refusal"].startswith("SelfApproval")
    assert step(state, state)[1] == []


def test_a_commit_with_many_records_hands_on_all_of_them() -> None:
    """Whoever leads again after an outage takes in every decision that was made meanwhile, at one look."""
    rulings = tuple(Ruling(f"d{i}", Action.PAUSE, "bob", NOW, "r1") for i in range(2 * LINES_MAX))
    before = begun()
    state, records = step(before, replace(ASKED, decisions=rulings))
    assert len(records) == len(rulings)
    assert [json.loads(line)["seq"] for line in state.audit.last] == [r["seq"] for r in records]


def test_the_start_names_who_approved_it_and_was_authorised_at_that_moment() -> None:
    ruling = Ruling("d1", Action.APPROVE, "bob", NOW, "r1")
    moved = Transition(NOW, Phase.PROGRESSING, 1, 10, "Started", "step 1 of 3: 10 %")
    started = replace(ASKED, decisions=(ruling,), started_at=NOW, history=(moved,), approval="1 of 1: bob", step=1)
    for decisions, approvers in (((decision("bob"),), ["bob"]), ((), [])):
        _, records = step(begun(), started, decisions=decisions)
        assert kinds(records) == ["decision", "transition"]
        what = records[1]["what"]
        assert [each["by"] for each in what.get("approvers", [])] == approvers
        assert (what["reason"], what["weight"], what["approval"]) == ("Started", 10, "1 of 1: bob")
        assert what["requesters"] == ["alice", "ann"]


def test_verdicts_are_records_when_they_change_and_stand_before_what_they_lead_to() -> None:
    good = Evidence("error-rate", "shop", Verdict.PASS, "0 %", "1 %", "fine", 100)
    state, records = step(begun(), replace(ASKED, evidence=(good,)))
    assert kinds(records) == ["verdict"]
    again, _ = step(state, replace(state, evidence=(replace(good, value="0.1 %", requests=200),)))
    assert again.audit.seq == state.audit.seq
    back = Transition(NOW, Phase.ROLLING_BACK, 1, 0, "ErrorRate", "5 % for 5m")
    bad = replace(state, evidence=(replace(good, verdict=Verdict.FAIL, value="5 %"),), history=(back,))
    _, records = step(state, bad)
    assert kinds(records) == ["verdict", "transition"]
    assert records[1]["what"]["evidence"][0]["value"] == "5 %"


def test_a_history_that_is_cut_to_its_newest_gives_one_record_for_each_transition() -> None:
    moves = [Transition(NOW + timedelta(seconds=i), Phase.PROGRESSING, 1, i, "Advanced", "") for i in range(70)]
    state, seen = begun(), 0
    for i in range(70):
        after = replace(state, history=tuple(moves[max(0, i - 63) : i + 1]))
        state, records = step(state, after)
        seen += len(records)
    assert seen == 70


def test_the_end_of_the_record_is_one() -> None:
    _, records = step(begun(), replace(ASKED, phase=Phase.COMPLETED, closed_at=NOW))
    assert kinds(records) == ["closed"]


# --- Writes ---

TARGET = Target("shop", "d", "r1")


def shift(weight: int) -> Intent:
    return Shift(TARGET, "HTTPRoute/demo/shop", weight)


def test_a_write_is_recorded_once_however_often_it_is_tried_and_again_when_it_is_wanted_again() -> None:
    state, records = step(begun(), ASKED, planned=shift(10))
    assert kinds(records) == ["write"]
    assert records[0]["what"] == {"write": "Shift", "target": "shop", "route": "HTTPRoute/demo/shop", "weight": 10}
    again, _ = step(state, state, planned=shift(10))
    assert again.audit.seq == state.audit.seq
    done, _ = step(again, again)
    assert done.audit.seq == state.audit.seq
    _, records = step(done, done, planned=shift(10))
    assert kinds(records) == ["write"]


def test_writes_that_were_made_before_they_could_be_recorded_are() -> None:
    _, records = step(begun(), ASKED, made=(shift(0), shift(0)), planned=shift(0))
    assert [record["what"]["write"] for record in records] == ["Shift"] * 3


@pytest.mark.parametrize("kind", Intent.__subclasses__(), ids=lambda kind: kind.__name__)
def test_every_write_can_be_told(kind: type[Intent]) -> None:
    class Named:
        name = "shop-abc"

    def value(field: "dataclasses.Field[Any]") -> Any:
        plain = {"target": TARGET, "weight": 1, "replicas": 2, "min_replicas": 3}
        named = field.name in ("deployment", "pair", "replica_set")
        return plain.get(field.name, Named() if named else "text")

    planned = kind(**{field.name: value(field) for field in dataclasses.fields(kind)})
    _, records = step(begun(), ASKED, planned=planned)
    assert records[0]["what"]["write"] == kind.__name__
    assert None not in records[0]["what"].values()


# --- What stands in the status until it is written ---


def test_lines_stay_in_the_status_until_the_sinks_have_them() -> None:
    state = begun()
    for i in range(3):
        state, _ = step(state, state, made=(shift(i),), kept=1)
    assert [json.loads(line)["seq"] for line in state.audit.last] == [2, 3, 4, 5]
    state, _ = step(state, state, made=(shift(9),), kept=5)
    assert [json.loads(line)["seq"] for line in state.audit.last] == [6]
    for i in range(2 * LINES_MAX):
        state, _ = step(state, state, made=(shift(i),), kept=0)
    assert len(state.audit.last) == LINES_MAX


def test_the_status_keeps_the_chain_over_a_restart() -> None:
    state = begun()
    read = decode(State, json.loads(json.dumps(encode(state))), "status")
    assert read.audit == state.audit != Audit()
    _, records = step(read, replace(read, revision="r9"))
    assert (records[-1]["seq"], records[-1]["prev"]) == (state.audit.seq + 1, state.audit.hash)
