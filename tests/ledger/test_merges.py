"""Student numbers that became others: what puts a merge in force, holds and ends it, and what a person decides."""

import pytest

from tests.support.builders import (
    ETAPE,
    FOREIGN_UAI,
    NOW,
    POLICY,
    STUDENT,
    UAI,
    merged,
    numbered,
    recorder,
    told,
)
from tests.support.scenes import DAY, HOUR, OTHER, Scene
from worker.domain.changes import EnrolmentChange
from worker.domain.errors import DecisionRefused
from worker.domain.rules import Mapper
from worker.domain.snapshots import Snapshot, SnapshotScope
from worker.domain.states import Action, MergeState
from worker.ledger import Ledger, merge_decisions, merges, status
from worker.ledger.merge_decisions import MergeEffect
from worker.ledger.status import read_status

THIRD = "29900003"
MINE, THEIRS = told(), told(student_id=OTHER, enrolment_id="theirs", etape="L1DROI")


@pytest.fixture
def scene(ledger: Ledger) -> Scene:
    return Scene(ledger)


def members(scene: Scene) -> dict[str, set[str]]:
    return {etape: set(numbers) for etape, numbers in status.desired(scene.ledger, "ecampus").items()}


def states(scene: Scene) -> dict[tuple[str, str], MergeState]:
    return {each.pair: each.state for each in merges.read(scene.ledger)}


def held(scene: Scene) -> int:
    return read_status(scene.ledger, [], NOW).held_merges


def decide(scene: Scene, action: Action, number: str = STUDENT, into: str | None = None) -> None:
    recorder(scene.ledger).decide_merge(number, into, action, by="scol", now=scene.now)


def night(scene: Scene, *rows: EnrolmentChange, scope: SnapshotScope | None = None) -> None:
    """Accept a snapshot an hour later."""
    scene.now += HOUR
    here = scope or SnapshotScope(uais=frozenset({UAI}), academic_years=frozenset({2026}))
    given = [row._replace(changed_at=scene.now, version=0) for row in rows]
    taken = Snapshot(id=f"S{scene.now:.0f}", taken_at=scene.now, system="apogee", scope=here, rows=given)
    recorder(scene.ledger).record_snapshot(taken, run=1, now=scene.now)


# A hostile or broken producer


def test_hostile_merge_of_two_students_ends_with_the_next_snapshot(scene: Scene) -> None:
    scene.tell(MINE, THEIRS, merged(STUDENT, OTHER, at=NOW + 5))
    scene.now += 10
    assert members(scene) == {ETAPE: {OTHER}, "L1DROI": {OTHER}}
    night(scene, MINE, THEIRS)
    assert members(scene) == {ETAPE: {STUDENT}, "L1DROI": {OTHER}}
    assert states(scene) == {(STUDENT, OTHER): MergeState.CONTRADICTED}


def test_hostile_merge_that_is_said_again_after_a_snapshot_is_held_even_into_another_number(scene: Scene) -> None:
    scene.tell(MINE, THEIRS, merged(STUDENT, OTHER))
    night(scene, MINE, THEIRS)
    scene.now += HOUR
    scene.tell(merged(STUDENT, OTHER, at=scene.now), merged(STUDENT, THIRD, at=scene.now))
    assert members(scene) == {ETAPE: {STUDENT}, "L1DROI": {OTHER}}
    assert set(states(scene).values()) == {MergeState.TOLD_AGAIN}
    assert held(scene) == 2
    night(scene, MINE, THEIRS)
    assert held(scene) == 0


def test_hostile_merge_dated_before_a_snapshot_comes_too_late(scene: Scene) -> None:
    scene.tell(MINE)
    night(scene, MINE)
    scene.tell(merged(STUDENT, OTHER, at=scene.now - 60))
    assert members(scene) == {ETAPE: {STUDENT}}
    assert states(scene) == {(STUDENT, OTHER): MergeState.CONTRADICTED}


def test_hostile_merge_of_another_university_touches_nobody(scene: Scene) -> None:
    scene.tell(MINE, merged(STUDENT, OTHER, uai=FOREIGN_UAI))
    assert members(scene) == {ETAPE: {STUDENT}}
    assert states(scene) == {}


def test_hostile_merge_of_a_victim_into_a_chain_leaves_the_chain_when_it_ends(scene: Scene) -> None:
    scene.tell(MINE, THEIRS, merged(OTHER, THIRD), merged(STUDENT, OTHER))
    assert members(scene) == {ETAPE: {THIRD}, "L1DROI": {THIRD}}
    decide(scene, Action.REJECT)
    assert members(scene) == {ETAPE: {STUDENT}, "L1DROI": {THIRD}}


def test_a_snapshot_that_holds_the_number_out_of_its_scope_or_under_the_new_one_ends_nothing(scene: Scene) -> None:
    scene.tell(MINE, merged(STUDENT, OTHER))
    night(scene, MINE._replace(student_id=OTHER))
    assert states(scene) == {(STUDENT, OTHER): MergeState.APPLIED}
    assert members(scene) == {ETAPE: {OTHER}}


def test_a_merge_that_is_newer_than_the_snapshot_stays(scene: Scene) -> None:
    scene.tell(MINE)
    night(scene, MINE)
    scene.tell(merged(STUDENT, OTHER, at=scene.now + 1))
    assert members(scene) == {ETAPE: {OTHER}}


# Persons


def test_numbers_that_two_persons_have_had_are_not_merged_by_a_message(scene: Scene) -> None:
    scene.tell(MINE, numbered(1, STUDENT, version=1), numbered(2, OTHER, version=1), merged(STUDENT, OTHER))
    assert members(scene) == {ETAPE: {STUDENT}}
    assert states(scene) == {(STUDENT, OTHER): MergeState.CLAIMED}
    assert held(scene) == 1


def test_two_persons_are_not_made_one_by_a_chain_of_merges_either(scene: Scene) -> None:
    scene.tell(MINE, numbered(1, STUDENT, version=1), numbered(2, OTHER, version=1))
    scene.tell(merged(STUDENT, THIRD), merged(OTHER, THIRD))
    assert members(scene) == {ETAPE: {STUDENT}}
    assert set(states(scene).values()) == {MergeState.CLAIMED}


def test_a_merge_ends_when_another_person_gets_one_of_the_numbers(scene: Scene) -> None:
    scene.tell(MINE, numbered(1, STUDENT, version=1), numbered(1, OTHER, version=2))
    assert members(scene) == {ETAPE: {OTHER}}
    scene.tell(numbered(2, STUDENT, version=3))
    assert states(scene) == {(STUDENT, OTHER): MergeState.CLAIMED}
    assert members(scene) == {ETAPE: {STUDENT}}  # it names a number, not a person


# What a person decides


def test_a_person_ends_a_merge_for_good(scene: Scene) -> None:
    scene.tell(MINE, merged(STUDENT, OTHER))
    scene.now += HOUR
    decide(scene, Action.REJECT)
    assert members(scene) == {ETAPE: {STUDENT}}
    scene.now += DAY
    scene.tell(merged(STUDENT, OTHER, at=scene.now), merged(STUDENT, THIRD, at=scene.now))
    assert members(scene) == {ETAPE: {STUDENT}}
    assert states(scene) == {(STUDENT, OTHER): MergeState.REJECTED, (STUDENT, THIRD): MergeState.TOLD_AGAIN}


def test_a_person_approves_a_held_merge_and_no_snapshot_ends_it(scene: Scene) -> None:
    scene.tell(MINE, numbered(1, STUDENT, version=1), numbered(2, OTHER, version=1), merged(STUDENT, OTHER))
    decide(scene, Action.APPROVE)
    assert members(scene) == {ETAPE: {OTHER}}
    night(scene, MINE)
    assert members(scene) == {ETAPE: {OTHER}}
    assert held(scene) == 0


def test_an_approval_is_for_the_persons_who_had_the_numbers_then(scene: Scene) -> None:
    scene.tell(MINE, numbered(1, STUDENT, version=1), numbered(2, OTHER, version=1), merged(STUDENT, OTHER))
    decide(scene, Action.APPROVE)
    scene.tell(numbered(3, OTHER, version=5))
    assert states(scene) == {(STUDENT, OTHER): MergeState.CLAIMED}
    assert members(scene) == {ETAPE: {STUDENT}}


def test_what_a_person_ended_another_may_approve(scene: Scene) -> None:
    scene.tell(MINE, merged(STUDENT, OTHER))
    decide(scene, Action.REJECT)
    decide(scene, Action.APPROVE)
    assert members(scene) == {ETAPE: {OTHER}}
    [merge] = merges.read(scene.ledger)
    assert (merge.verdict, merge.decided_by, merge.decided_at) == (Action.APPROVE, "scol", scene.now)


@pytest.mark.parametrize(
    ("action", "number"), [(Action.APPROVE, STUDENT), (Action.REJECT, OTHER), (Action.REJECT, THIRD)]
)
def test_there_is_nothing_to_decide_about_a_number_without_such_a_merge(
    scene: Scene, action: Action, number: str
) -> None:
    scene.tell(MINE, merged(STUDENT, OTHER))
    with pytest.raises(DecisionRefused, match="no merge of this number") as refused:
        decide(scene, action, number)
    assert number not in str(refused.value)


@pytest.mark.parametrize("action", [Action.REJECT, Action.APPROVE])
def test_a_preview_says_what_the_decision_then_does_and_writes_nothing(scene: Scene, action: Action) -> None:
    scene.tell(MINE, THEIRS, merged(STUDENT, OTHER))
    if action is Action.APPROVE:
        decide(scene, Action.REJECT)
    before = members(scene)
    effects = merge_decisions.preview(scene.ledger, Mapper(POLICY), STUDENT, None, action, now=scene.now)
    joining = OTHER if action is Action.APPROVE else STUDENT
    assert effects == [
        MergeEffect(platform="ecampus", cohort=ETAPE, student_id=number, joins=number == joining)
        for number in (STUDENT, OTHER)
    ]
    assert members(scene) == before
    decide(scene, action)
    shown = {(each.cohort, each.student_id) for each in effects if each.joins}
    assert {(etape, number) for etape, numbers in members(scene).items() for number in numbers} >= shown


def test_only_the_merge_into_the_number_that_is_named_is_decided_about(scene: Scene) -> None:
    scene.tell(MINE, merged(STUDENT, OTHER), merged(STUDENT, THIRD, at=NOW + 1))
    decide(scene, Action.REJECT, into=THIRD)
    assert states(scene)[STUDENT, THIRD] is MergeState.REJECTED
    assert members(scene) == {ETAPE: {STUDENT}}  # a person has said that the number is in use
