"""Adopting cohorts: what a person is told before, and that nobody leaves unasked after."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.world import COALESCE, REMOVAL_DELAY, WRITES, YEAR, Build, World, platform
from tests.wire.sync.test_reconcile import held, image, night, of, row
from worker.domain.departure import Departure
from worker.domain.errors import MoodleDenied
from worker.domain.guard import Guard
from worker.domain.rules import Mode
from worker.domain.states import CohortState, Drift, Limit, Status
from worker.ledger import decisions
from worker.ledger.accounts import Accounts
from worker.ledger.proposals import ChangeReason
from worker.moodle import MoodleReader
from worker.settings.platforms import Strangers
from worker.sync import adoption
from worker.sync.adoption import Obstacle

FORMER = [f"former{number}" for number in range(1, 10)]
"""Known students who have no place in the cohort: nine, under the guard's floor."""


@pytest.fixture
def guarded(build: Build) -> World:
    """Make a cohort by hand with two students who belong there, nine known ones who don't, and a guest."""
    world = build(guard=Guard())
    world.accounts("s1", "s2", "s3", "guest", *FORMER)
    by_hand(world, "L1DROI", "s1", "s2", "guest", *FORMER)
    for student in ("s1", "s2", "s3"):
        world.enrol(student, "L1DROI")
    for student in FORMER:
        world.resign(student, "L1DROI")
    world.wait(COALESCE)
    return world


def by_hand(world: World, idnumber: str, *members: str, name: str = "Droit") -> int:
    cohort = world.moodle.create_cohort(name=name, idnumber=idnumber)
    for username in members:
        world.moodle.add_member(cohort, world.moodle.user_ids[username])
    return cohort


def others(world: World, *globs: str) -> dict[str, Obstacle]:
    return {each.what: each.why for each in world.survey(*globs).others}


def approve_held(world: World) -> str:
    name = held(world).hash
    assert name is not None
    decisions.approve(world.ledger, name, by="eve", now=world.now)
    return name


# --- What a person is told ---


def test_who_stays_who_leaves_and_who_is_unknown_is_told_apart(guarded: World) -> None:
    (candidate,) = guarded.survey().candidates
    assert (candidate.members, candidate.staying, candidate.unmatched, candidate.joining) == (12, 2, 1, 1)
    assert candidate.leaving == {Departure.ENDED: 9}


def test_what_is_told_is_what_the_first_night_finds(guarded: World) -> None:
    (told,) = guarded.survey().candidates
    guarded.adopt()
    report = of(night(guarded))
    assert report.drift == {Drift.EXTRA: sum(told.leaving.values())}
    assert report.strangers == told.unmatched
    assert report.members - report.held - report.strangers == told.staying


def test_why_each_of_them_leaves_is_told(build: Build) -> None:
    world = build()
    world.accounts("s1", "resigned", "elsewhere", "last_year", "pending", "gone", "number1")
    by_hand(world, "L1DROI", "s1", "resigned", "elsewhere", "last_year", "pending", "gone", "number1")
    world.enrol("s1", "L1DROI")
    world.resign("resigned", "L1DROI")
    world.enrol("elsewhere", "M1PHY")
    world.say(row("last_year", "L1DROI", at=world.now, academic_year=YEAR - 1))
    world.enrol("pending", "L1DROI", Status.PENDING)
    world.resign("gone", "M1PHY")
    world.enrol("number2", "M1PHY")
    world.merge("number1", "number2")
    (candidate,) = world.survey("L1DROI").candidates
    assert candidate.leaving == {
        Departure.ENDED: 1,
        Departure.ELSEWHERE: 2,
        Departure.YEAR_CLOSED: 1,
        Departure.NOT_COUNTED: 1,
        Departure.NOT_ENROLLED: 1,
    }
    assert candidate.staying == 1


def test_looking_writes_nothing(guarded: World) -> None:
    accounts = Accounts(guarded.ledger, "ecampus")
    before, asked = (guarded.status(), accounts.all()), len(guarded.moodle.calls)
    guarded.survey()
    assert (guarded.status(), accounts.all()) == before
    assert {call.function for call in guarded.moodle.calls[asked:]}.isdisjoint(WRITES)


def test_accounts_that_moodle_does_not_return_are_counted_by_themselves(guarded: World) -> None:
    guarded.moodle.change_user(guarded.moodle.user_ids["guest"], auth="nowhere")
    (candidate,) = guarded.survey().candidates
    assert (candidate.staying, candidate.unmatched, candidate.unclean) == (2, 0, 1)


def test_a_token_that_sees_nobody_is_not_told_as_unknown_members(guarded: World) -> None:
    guarded.moodle.capabilities -= {"moodle/user:viewalldetails"}
    with pytest.raises(MoodleDenied, match="the token finds nobody"):
        guarded.survey()


def test_what_will_be_renamed_is_told(world: World) -> None:
    by_hand(world, "L1DROI", name="Première année")
    kept = world.moodle.create_cohort(name="UFR Droit: Maths", idnumber="L1MATH")
    category = world.moodle.create_cohort(name="Physique", idnumber="L1PHYS", category="Santé")
    for etape, label in (("L1DROI", "Licence 1"), ("L1MATH", "Maths"), ("L1PHYS", "Physique 1")):
        world.enrol("s1", etape)
        world.describe(etape, label)
    told = {each.moodle_id: each.new_name for each in world.survey().candidates}
    assert told == {world.cohort_id("L1DROI"): "UFR Droit: Licence 1", kept: None, category: None}
    world.adopt()
    world.wait(COALESCE)
    names = {cohort.idnumber: cohort.name for cohort in world.moodle.cohorts()}
    assert names == {"L1DROI": "UFR Droit: Licence 1", "L1MATH": "UFR Droit: Maths", "L1PHYS": "Physique"}


# --- Which are not adopted ---


def test_what_was_chosen_and_cannot_be_adopted_is_told_with_why(world: World) -> None:
    world.enrol("s1", "OURS")
    world.wait(COALESCE)
    by_hand(world, "TWICE")
    by_hand(world, "TWICE")
    by_hand(world, "CHORALE")
    for etape in ("TWICE", "NOWHERE"):
        world.enrol("s1", etape)
    world.now += 1
    assert others(world) == {"OURS": Obstacle.OWNED, "TWICE": Obstacle.SEVERAL, "NOWHERE": Obstacle.ABSENT}
    assert others(world, "CHOR*", "X*", "TWICE") == {
        "TWICE": Obstacle.SEVERAL,
        "CHORALE": Obstacle.NO_RULE,
        "X*": Obstacle.NO_MATCH,
    }
    assert world.survey().candidates == ()


def test_a_cohort_of_ours_under_another_etapes_idnumber_is_not_offered(world: World) -> None:
    world.enrol("s1", "L1DROI")
    world.wait(COALESCE)
    world.moodle.edit_cohort(world.cohort_id("L1DROI"), idnumber="L1MATH")
    world.enrol("s2", "L1MATH")
    assert others(world, "L1MATH") == {"L1MATH": Obstacle.ANOTHERS}
    assert world.adopt("L1MATH") == []
    assert world.status().cohorts[CohortState.OWNED] == 1


@pytest.mark.parametrize("change", ["deleted", "renamed", "doubled", "adopted"])
def test_what_changes_between_the_look_and_the_adoption_is_not_adopted(world: World, change: str) -> None:
    cohort = by_hand(world, "L1DROI", "s1")
    world.enrol("s1", "L1DROI")
    chosen = world.survey()
    if change == "deleted":
        world.moodle.delete_cohort(cohort)
    elif change == "renamed":
        world.moodle.edit_cohort(cohort, idnumber="CHORALE")
    elif change == "doubled":
        by_hand(world, "L1DROI")
    else:
        world.adopt()
    reader = MoodleReader(world.transports["ecampus"])
    (missed,) = adoption.adopt(world.ledger, world.platforms[0], reader, chosen, by="cemu")
    why = {"doubled": Obstacle.SEVERAL, "adopted": Obstacle.OWNED}.get(change, Obstacle.VANISHED)
    assert (missed.what, missed.why, missed.moodle_ids) == ("L1DROI", why, (cohort,))
    assert world.status().cohorts[CohortState.OWNED] == (1 if change == "adopted" else 0)


def test_a_cohort_that_is_deleted_while_its_members_are_read_is_left_out(world: World) -> None:
    doomed = by_hand(world, "L1DROI", "s1")
    by_hand(world, "L1MATH", "s1")
    for etape in ("L1DROI", "L1MATH"):
        world.enrol("s1", etape)

    @contextmanager
    def deleting(called: str) -> Iterator[None]:
        if called == "core_cohort_get_cohort_members" and doomed in {each.id for each in world.moodle.cohorts()}:
            world.moodle.delete_cohort(doomed)
        yield

    with world.around(deleting):
        found = world.survey()
    assert [each.idnumber for each in found.candidates] == ["L1MATH"]
    assert [(each.what, each.why) for each in found.others] == [("L1DROI", Obstacle.ABSENT)]


# --- What follows ---


def test_nobody_whom_an_adopted_cohort_had_leaves_before_a_person_decides(guarded: World) -> None:
    guarded.adopt()
    report = of(night(guarded, image(guarded)))
    guarded.days_later(3)
    assert guarded.members()["L1DROI"] == {"s1", "s2", "s3", "guest", *FORMER}
    assert (report.held, report.removed) == (9, 0)
    assert guarded.gaps() == {"held": 9}
    cohort = held(guarded)
    assert cohort.held is Limit.ADOPTED
    assert {why: len(students) for why, students in cohort.removals.items()} == {ChangeReason.ADOPTED: 9}


def test_once_approved_they_leave_and_later_removals_go_on_as_usual(guarded: World) -> None:
    guarded.adopt()
    night(guarded)
    name = approve_held(guarded)
    guarded.resign("s1", "L1DROI")
    guarded.wait(REMOVAL_DELAY)
    assert guarded.members()["L1DROI"] == {"s2", "s3", "guest"}
    guarded.enrol(FORMER[0], "L1DROI")
    guarded.wait(COALESCE)
    guarded.resign(FORMER[0], "L1DROI")
    guarded.moodle.add_member(guarded.cohort_id("L1DROI"), guarded.moodle.user_ids[FORMER[1]])
    guarded.wait(REMOVAL_DELAY)
    night(guarded)
    assert guarded.members()["L1DROI"] == {"s2", "s3", "guest"}
    decisions.undo(guarded.ledger, name, by="eve", now=guarded.now)
    guarded.wait(COALESCE)
    assert guarded.members()["L1DROI"] >= set(FORMER[2:])


def test_once_rejected_they_stay_and_the_next_departure_is_an_ordinary_one(guarded: World) -> None:
    guarded.adopt()
    night(guarded)
    name = held(guarded).hash
    assert name is not None
    decisions.reject(guarded.ledger, name, by="eve", now=guarded.now)
    guarded.days_later(1)
    night(guarded)
    guarded.resign("s1", "L1DROI")
    guarded.wait(REMOVAL_DELAY)
    assert guarded.members()["L1DROI"] == {"s2", "s3", "guest", *FORMER}
    assert guarded.gaps() == {}


def test_an_approval_that_expires_unused_leaves_them_held(guarded: World) -> None:
    guarded.adopt()
    night(guarded, wait=0)
    approve_held(guarded)
    guarded.now += 25 * 3600
    guarded.days_later(1)
    assert guarded.gaps() == {"held": 9}


def test_a_member_who_becomes_known_later_is_held_too(guarded: World) -> None:
    guarded.adopt()
    night(guarded)
    approve_held(guarded)
    guarded.days_later(1)
    guarded.resign("guest", "L1DROI")
    report = of(night(guarded))
    guarded.days_later(1)
    assert report.drift == {Drift.EXTRA: 1}
    assert "guest" in guarded.members()["L1DROI"]
    assert held(guarded).held is Limit.ADOPTED


def test_a_departure_among_those_who_belonged_there_at_the_adoption_is_an_ordinary_one(guarded: World) -> None:
    guarded.adopt()
    guarded.resign("s1", "L1DROI")
    guarded.wait(REMOVAL_DELAY)
    assert "s1" not in guarded.members()["L1DROI"]


def test_unknown_members_whom_the_settings_remove_are_held_too(guarded: World) -> None:
    guarded.adopt()
    report = of(night(guarded, strangers=Strangers.REMOVE))
    guarded.days_later(1)
    assert report.held == 10
    assert "guest" in guarded.members()["L1DROI"]


def test_whom_a_rule_wants_after_all_is_no_longer_held(guarded: World) -> None:
    guarded.adopt()
    night(guarded)
    guarded.enrol(FORMER[0], "L1DROI")
    guarded.days_later(1)
    night(guarded)
    guarded.days_later(1)
    assert guarded.gaps() == {"held": 8}
    approve_held(guarded)
    guarded.days_later(1)
    guarded.resign(FORMER[0], "L1DROI")
    guarded.wait(REMOVAL_DELAY)
    assert guarded.members()["L1DROI"] == {"s1", "s2", "s3", "guest"}


def test_other_cohorts_are_not_held_up_by_an_adopted_one(guarded: World) -> None:
    for student in ("s1", "s2"):
        guarded.enrol(student, "M1PHY")
    guarded.wait(COALESCE)
    guarded.adopt()
    night(guarded)
    guarded.resign("s1", "M1PHY")
    guarded.wait(REMOVAL_DELAY)
    assert guarded.members()["M1PHY"] == {"s2"}


def test_a_platform_that_was_observed_when_it_was_adopted_still_asks_once_it_is_written(build: Build) -> None:
    world = build(platform(mode=Mode.OBSERVE), guard=Guard())
    world.accounts("s1", "former")
    by_hand(world, "L1DROI", "s1", "former")
    world.enrol("s1", "L1DROI")
    world.resign("former", "L1DROI")
    world.wait(COALESCE)
    world.adopt()
    night(world)
    world.restart(platform())
    world.days_later(1)
    night(world)
    world.days_later(1)
    assert world.members()["L1DROI"] == {"s1", "former"}
    assert world.gaps() == {"held": 1}


def test_a_guard_that_is_off_holds_nothing_of_an_adopted_cohort_either(guarded: World) -> None:
    guarded.guard = Guard(enabled=False)
    guarded.restart()
    guarded.adopt()
    night(guarded)
    guarded.days_later(1)
    assert guarded.members()["L1DROI"] == {"s1", "s2", "s3", "guest"}


def test_a_cohort_that_is_adopted_once_more_holds_its_members_once_more(guarded: World) -> None:
    guarded.adopt()
    night(guarded)
    approve_held(guarded)
    guarded.days_later(1)
    guarded.moodle.delete_cohort(guarded.cohort_id("L1DROI"))
    by_hand(guarded, "L1DROI", "s1", FORMER[0])
    night(guarded)
    assert guarded.adopt() == []
    night(guarded)
    guarded.days_later(1)
    assert guarded.members()["L1DROI"] == {"s1", "s2", "s3", FORMER[0]}
    assert guarded.gaps() == {"held": 1}


def test_a_reading_that_began_before_the_adoption_is_not_its_first(guarded: World) -> None:
    night(guarded, image(guarded), first=guarded.adopt)
    guarded.days_later(1)
    night(guarded)
    guarded.days_later(1)
    assert guarded.gaps() == {"held": 9}
    assert guarded.members()["L1DROI"] >= set(FORMER)


def test_a_cohort_that_a_restored_ledger_finds_again_keeps_whom_it_has(guarded: World) -> None:
    mark = f"étape cohorts {guarded.ledger.instance}"
    guarded.enrol("s1", "M1PHY")
    guarded.wait(COALESCE)
    (ours,) = [cohort for cohort in guarded.moodle.cohorts() if cohort.idnumber == "M1PHY"]
    assert guarded.ledger.instance in ours.description, mark
    found = guarded.moodle.create_cohort(name="Maths", idnumber="L1MATH", description=ours.description)
    guarded.moodle.add_member(found, guarded.moodle.user_ids[FORMER[0]])
    guarded.enrol("s2", "L1MATH")
    guarded.wait(COALESCE)
    night(guarded)
    guarded.days_later(1)
    assert guarded.members()["L1MATH"] == {"s2", FORMER[0]}
    assert guarded.gaps()["held"] == 1
