"""Converging: a real ledger, a real client and a sandbox Moodle over HTTP; time is a number that tests advance."""

import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tests.support.world import (
    ADD,
    COALESCE,
    CREATE,
    HOUR,
    LEASE,
    PARK,
    REAL_TIMEOUT,
    REMOVAL_DELAY,
    START,
    TIMEOUT,
    TOKEN,
    UAI,
    UPDATE,
    WRITES,
    Build,
    World,
    platform,
    queue_around,
)
from worker.domain.changes import EtapeChange
from worker.domain.errors import MoodleRejected, MoodleUnavailable
from worker.domain.guard import Guard, GuardLimits
from worker.domain.rules import AccountField, Mode
from worker.domain.states import CohortState, PlatformState
from worker.ledger import status
from worker.sandbox.moodle.server import Cost, Fault, SandboxMoodle
from worker.sync.converge.lane import Lane
from worker.sync.outage import DENIED_RETRY_SECONDS

# --- Members ---


def test_a_student_who_enrols_becomes_a_member(world: World) -> None:
    world.enrol("s1", "L1DROI")
    world.turns()
    assert world.members() == {}  # additions wait a moment, so that a burst makes one call
    world.wait(COALESCE)
    assert world.members() == {"L1DROI": {"s1"}}
    assert status.observed(world.ledger, "ecampus") == {"L1DROI": {"s1"}}
    assert world.applied("add") == [("L1DROI", "s1")]
    assert world.gaps() == {}


def test_a_student_who_resigns_is_removed_after_the_delay(world: World) -> None:
    world.enrol("s1", "L1DROI")
    world.enrol("s2", "L1DROI")
    world.a_minute_later()
    world.resign("s1", "L1DROI")
    world.wait(REMOVAL_DELAY - 1)
    assert world.members() == {"L1DROI": {"s1", "s2"}}
    world.wait(1)
    assert world.members() == {"L1DROI": {"s2"}}
    assert world.applied("remove") == [("L1DROI", "s1")]
    assert world.gaps() == {}


def test_a_student_who_changes_etape_is_added_first_and_then_removed(world: World) -> None:
    world.enrol("s1", "L1DROI")
    world.a_minute_later()
    world.resign("s1", "L1DROI")
    world.enrol("s1", "L1ADPU")
    world.a_minute_later()
    assert world.members() == {"L1DROI": {"s1"}, "L1ADPU": {"s1"}}
    world.wait(REMOVAL_DELAY)
    assert world.members() == {"L1DROI": set(), "L1ADPU": {"s1"}}


def test_a_student_who_comes_back_in_time_is_never_removed(world: World) -> None:
    world.enrol("s1", "L1DROI")
    world.a_minute_later()
    world.resign("s1", "L1DROI")
    world.wait(REMOVAL_DELAY - 1)
    world.enrol("s1", "L1DROI")
    world.days_later()
    assert world.members() == {"L1DROI": {"s1"}}
    assert world.applied("remove") == []


def test_a_member_that_somebody_added_by_hand_is_a_success(world: World) -> None:
    world.enrol("s1", "L1DROI")
    world.a_minute_later()
    world.moodle.add_member(world.cohort_id("L1DROI"), world.moodle.user_ids["s2"])
    world.enrol("s2", "L1DROI")
    world.a_minute_later()
    assert world.gaps() == {}
    world.resign("s2", "L1DROI")
    world.moodle.remove_member(world.cohort_id("L1DROI"), world.moodle.user_ids["s2"])
    world.wait(REMOVAL_DELAY)
    assert world.members() == {"L1DROI": {"s1"}}
    assert world.gaps() == {}


def test_many_members_of_many_cohorts_take_few_calls(world: World) -> None:
    students = [f"m{number}" for number in range(100)]
    world.accounts(*students)
    for number, student in enumerate(students):
        world.enrol(student, f"E{number % 25}")
    world.a_minute_later()
    assert world.members() == world.truth()
    assert len(world.moodle.calls) < 12


# --- Accounts ---


def test_a_student_without_account_is_parked_with_a_growing_delay_until_the_account_appears(world: World) -> None:
    world.enrol("new", "L1DROI")
    world.enrol("s1", "L1DROI")
    world.a_minute_later()
    assert world.members() == {"L1DROI": {"s1"}}
    assert (world.gaps(), world.status().reasons) == ({"parked": 1}, {"no_account": 1})

    def look_ups() -> int:
        return sum(call.function == "core_user_get_users_by_field" for call in world.moodle.calls)

    before = look_ups()
    for _ in range(288):  # a day, every five minutes
        world.wait(PARK)
    assert 8 <= look_ups() - before <= 20  # each time, whether the token sees people is asked too
    (account,) = world.accounts("new")
    world.days_later()
    assert world.members() == {"L1DROI": {"s1", "new"}}
    assert world.moodle.members(world.cohort_id("L1DROI")) >= {account}
    assert world.gaps() == {}


def test_an_account_that_appears_for_one_cohort_serves_all_at_once(world: World) -> None:
    world.enrol("new", "L1DROI")
    world.days_later(1)
    world.accounts("new")
    world.enrol("new", "L1ADPU")
    world.a_minute_later()
    assert world.members() == {"L1DROI": {"new"}, "L1ADPU": {"new"}}


def test_nobody_is_added_by_an_ambiguous_student_number(build: Build) -> None:
    world = build(platform(account_field=AccountField.IDNUMBER))
    world.moodle.add_users([("a", "22000001"), ("b", "22000001"), ("c", "22000002")])
    world.enrol("22000001", "L1DROI")
    world.enrol("22000002", "L1DROI")
    world.a_minute_later()
    assert world.members() == {"L1DROI": {"c"}}
    assert world.status().reasons == {"ambiguous_account": 1}
    world.moodle.delete_user(world.moodle.user_ids["b"])
    world.days_later()
    assert world.members() == {"L1DROI": {"a", "c"}}


def test_a_student_without_login_waits_for_it(build: Build) -> None:
    world = build(platform(account_template="{login}"))
    world.accounts("jdupont")
    world.enrol("22000001", "L1DROI")
    world.a_minute_later()
    assert (world.gaps(), world.status().reasons) == ({"parked": 1}, {"no_login": 1})
    world.now += 1
    world.enrol("22000001", "L1DROI", login="JDupont")
    world.days_later()
    assert world.members() == {"L1DROI": {"jdupont"}}


def test_an_unclean_username_parks_only_its_student(build: Build) -> None:
    world = build(platform(account_template="{login}"))
    world.accounts("jdupont")
    world.enrol("22000001", "L1DROI", login="jdupont")
    world.enrol("22000002", "L1DROI", login="été 2026")
    world.a_minute_later()
    assert world.members() == {"L1DROI": {"jdupont"}}
    assert (world.gaps(), world.status().reasons) == ({"parked": 1}, {"bad_account_name": 1})
    assert not any(call.error for call in world.moodle.calls)


def test_a_deleted_account_is_looked_up_again_and_its_membership_parked(world: World) -> None:
    world.enrol("s1", "L1DROI")
    world.a_minute_later()
    world.moodle.delete_user(world.moodle.user_ids["s1"])
    world.enrol("s1", "L1ADPU")
    world.enrol("s2", "L1ADPU")
    world.a_minute_later()
    assert world.members()["L1ADPU"] == {"s2"}
    assert world.status().reasons == {"no_account": 1}
    world.accounts("s1")  # made anew
    world.days_later()
    assert world.members()["L1ADPU"] == {"s1", "s2"}


def test_the_membership_of_a_deleted_account_ends_by_itself(world: World) -> None:
    for student in ("s1", "s2", "s3"):
        world.enrol(student, "L1DROI")
    world.a_minute_later()
    world.moodle.delete_user(world.moodle.user_ids["s1"])
    world.resign("s1", "L1DROI")
    world.resign("s2", "L1DROI")
    world.wait(REMOVAL_DELAY)
    assert world.members() == {"L1DROI": {"s3"}}
    assert world.gaps() == {}
    assert world.applied("remove") == [("L1DROI", "s2")]


def test_what_an_earlier_account_may_have_been_given_is_taken_back(build: Build) -> None:
    world = build(platform(account_template="{login}"))
    world.accounts("before")
    world.enrol("s1", "L1DROI", login="before")
    with world.faults(ADD, Fault.APPLIED_THEN_EMPTY):
        world.wait(COALESCE)
    world.now += TIMEOUT
    world.enrol("s1", "L1DROI", login="after")
    world.wait(COALESCE)
    assert world.status().reasons == {"no_account": 1}
    world.resign("s1", "L1DROI")
    world.days_later(1)
    assert world.members() == {"L1DROI": set()}
    assert world.gaps() == {}


# --- Merged students ---


def test_merged_students_who_share_an_account_never_lose_it(build: Build) -> None:
    world = build(platform(account_template="{login}"))
    world.accounts("jdupont")
    world.enrol("old", "L1DROI", login="jdupont")
    world.a_minute_later()
    world.enrol("new", "L1DROI", login="jdupont")
    world.merge("old", "new")
    for _ in range(10):
        world.wait(REMOVAL_DELAY / 4)
        assert world.members() == {"L1DROI": {"jdupont"}}
    assert world.applied("remove") == []
    assert world.gaps() == {}
    world.resign("new", "L1DROI")
    world.enrolled["old", "L1DROI"] = False
    world.resign("old", "L1DROI")
    world.days_later()
    assert world.members() == {"L1DROI": set()}


def test_merged_students_with_two_accounts_move_to_the_surviving_one(world: World) -> None:
    world.enrol("s1", "L1DROI")
    world.a_minute_later()
    world.now += 1
    world.merge("s1", "s2")
    world.days_later()
    assert world.members() == {"L1DROI": {"s2"}}
    assert world.gaps() == {}


# --- Cohorts ---


def test_a_cohort_is_named_by_its_labels_and_renamed_when_one_changes(world: World) -> None:
    world.describe("L1DROI", "Licence 1 Droit")
    world.enrol("s1", "L1DROI")
    world.a_minute_later()
    assert world.cohort_name("L1DROI") == "UFR Droit: Licence 1 Droit"
    world.describe("L1DROI", "Licence 1 Droit (Caen)")
    world.a_minute_later()
    assert world.cohort_name("L1DROI") == "UFR Droit: Licence 1 Droit (Caen)"
    assert [cohort for cohort, _ in world.applied("rename_cohort")] == ["L1DROI"]


def test_a_cohort_without_labels_is_named_by_its_code_until_they_come(world: World) -> None:
    world.enrol("s1", "L1DROI")
    world.a_minute_later()
    assert world.cohort_name("L1DROI") == "L1DROI"
    world.describe("L1DROI", "Licence 1 Droit")
    world.a_minute_later()
    assert world.cohort_name("L1DROI") == "UFR Droit: Licence 1 Droit"


def test_when_a_component_is_renamed_all_its_cohorts_are(world: World) -> None:
    codes = [f"E{number}" for number in range(120)]
    for code in codes:
        world.describe(code, f"Étape {code}")
        world.enrol("s1", code)
    world.a_minute_later()
    world.say(
        EtapeChange(
            uai=UAI, etape="E0", changed_at=world.now, origin="test", component="DRT", component_label="Faculté"
        )
    )
    world.a_minute_later()
    assert {cohort.name for cohort in world.moodle.cohorts()} == {f"Faculté: Étape {code}" for code in codes}
    assert world.members() == world.truth()


def test_a_name_that_a_person_has_changed_is_left_alone(world: World) -> None:
    world.describe("L1DROI", "Licence 1 Droit")
    world.enrol("s1", "L1DROI")
    world.a_minute_later()
    world.moodle.rename_cohort(world.cohort_id("L1DROI"), "Les juristes")
    for label in ("Licence 1 Droit (Caen)", "Licence 1 Droit (Vire)"):
        world.describe("L1DROI", label)
        world.a_minute_later()
        assert world.cohort_name("L1DROI") == "Les juristes"
    world.enrol("s2", "L1DROI")
    world.a_minute_later()
    assert world.members() == {"L1DROI": {"s1", "s2"}}


def test_a_renaming_whose_answer_was_lost_stays_ours(world: World) -> None:
    world.describe("L1DROI", "Licence 1 Droit")
    world.enrol("s1", "L1DROI")
    world.a_minute_later()
    world.describe("L1DROI", "Licence 1 Droit (Caen)")
    with world.faults(UPDATE, Fault.APPLIED_THEN_EMPTY):
        world.a_minute_later()
    world.days_later(1)
    assert world.cohort_name("L1DROI") == "UFR Droit: Licence 1 Droit (Caen)"
    world.describe("L1DROI", "Licence 1 Droit (Vire)")
    world.days_later(1)
    assert world.cohort_name("L1DROI") == "UFR Droit: Licence 1 Droit (Vire)"


def test_a_cohort_that_a_person_moved_to_a_category_stays_there_and_is_kept(world: World) -> None:
    world.describe("L1DROI", "Licence 1 Droit")
    world.enrol("s1", "L1DROI")
    world.a_minute_later()
    moodle, cohort = world.moodle, world.moodle.cohorts()[0]
    moodle.categories["DROIT"] = 1
    moodle.put_cohort(replace(cohort, category="DROIT"))
    world.describe("L1DROI", "Licence 1 Droit (Caen)")
    world.enrol("s2", "L1DROI")
    world.a_minute_later()
    assert moodle.cohorts() == [replace(cohort, category="DROIT")]
    assert world.members() == {"L1DROI": {"s1", "s2"}}


def test_an_etape_renamed_by_alias_keeps_its_cohort_and_its_members(world: World) -> None:
    world.describe("L1DROI", "Licence 1 Droit")
    world.enrol("s1", "L1DROI")
    world.a_minute_later()
    cohort = world.cohort_id("L1DROI")
    world.restart(aliases={"L1DROI": "L1DRO2"})
    world.enrol("s2", "L1DRO2")
    world.days_later()
    assert world.cohort_id("L1DRO2") == cohort
    assert world.members() == {"L1DRO2": {"s1", "s2"}}
    assert world.applied("remove") == []
    assert world.gaps() == {}


def test_an_alias_whose_new_idnumber_is_taken_on_moodle_keeps_the_old_one(world: World) -> None:
    world.enrol("s1", "L1DROI")
    world.a_minute_later()
    world.moodle.create_cohort(name="À la main", idnumber="L1DRO2")
    world.restart(aliases={"L1DROI": "L1DRO2"})
    world.enrol("s2", "L1DRO2")
    world.days_later()
    assert world.members() == {"L1DROI": {"s1", "s2"}, "L1DRO2": set()}


def test_a_foreign_cohort_is_touched_in_no_way_and_its_gaps_are_shown_as_such(world: World) -> None:
    foreign = world.moodle.create_cohort(name="À la main", idnumber="L1DROI")
    world.moodle.add_member(foreign, world.moodle.user_ids["s5"])
    world.describe("L1DROI", "Licence 1 Droit")
    world.enrol("s1", "L1DROI")
    world.enrol("s5", "L1DROI")
    world.a_minute_later()
    world.resign("s5", "L1DROI")
    world.enrol("s2", "L1ADPU")
    world.days_later()
    assert world.members() == {"L1DROI": {"s5"}, "L1ADPU": {"s2"}}
    assert world.cohort_name("L1DROI") == "À la main"
    assert world.gaps() == {"foreign": 1}
    assert world.status().cohorts[CohortState.FOREIGN] == 1
    assert foreign not in world.written()


def test_duplicate_idnumbers_on_moodle_are_foreign(world: World) -> None:
    world.enrol("s1", "L1DROI")
    world.a_minute_later()
    ours = world.moodle.cohorts()[0]
    twins = [
        world.moodle.create_cohort(name=f"Twin {number}", idnumber="L1ADPU", description=ours.description)
        for number in range(2)
    ]
    world.enrol("s2", "L1ADPU")
    world.days_later(1)
    assert world.members() == {"L1DROI": {"s1"}, "L1ADPU": set()}
    assert world.gaps() == {"foreign": 1}
    assert world.written().isdisjoint(twins)


@pytest.mark.parametrize("change", ["enrol", "resign"])
def test_a_cohort_deleted_on_moodle_is_made_again_with_its_members(world: World, change: str) -> None:
    for student in ("s1", "s2"):
        world.enrol(student, "L1DROI")
    world.enrol("s1", "L1ADPU")
    world.a_minute_later()
    world.moodle.delete_cohort(world.cohort_id("L1DROI"))
    if change == "enrol":
        world.enrol("s3", "L1DROI")
    else:
        world.resign("s1", "L1DROI")
    world.wait(REMOVAL_DELAY)
    assert world.members() == world.truth()
    assert world.gaps() == {}


def test_a_cohort_deleted_on_moodle_whose_label_changes_is_made_again(world: World) -> None:
    world.describe("L1DROI", "Licence 1 Droit")
    world.enrol("s1", "L1DROI")
    world.a_minute_later()
    world.moodle.delete_cohort(world.cohort_id("L1DROI"))
    world.describe("L1DROI", "Licence 1 Droit (Caen)")
    world.enrol("s2", "L1DROI")
    world.a_minute_later()
    assert world.members() == world.truth()
    assert world.cohort_name("L1DROI") == "UFR Droit: Licence 1 Droit (Caen)"


def test_a_cohort_that_moodle_refuses_holds_up_no_other(world: World) -> None:
    world.enrol("s1", "L1DROI")
    world.a_minute_later()
    world.describe("L1ADPU", "n")
    world.enrol("s1", "L1ADPU")
    world.enrol("s2", "L1DROI")

    @contextmanager
    def refusing(called: str) -> Iterator[None]:
        if called == CREATE:
            raise MoodleRejected("invalidparameter", "refused")
        yield

    with world.around(refusing):
        world.a_minute_later()
        assert world.members() == {"L1DROI": {"s1", "s2"}}
    world.days_later(1)
    assert world.members() == world.truth()


# --- Lost answers and faults ---


@pytest.mark.parametrize("fault", [f for f in Fault if f.startswith("applied")])
@pytest.mark.parametrize("function", WRITES)
def test_a_lost_answer_does_no_harm(world: World, function: str, fault: Fault) -> None:
    world.shorten_the_timeout()
    world.describe("L1DROI", "Licence 1 Droit")
    for student in ("s1", "s2"):
        world.enrol(student, "L1DROI")
    world.a_minute_later()
    world.describe("L1DROI", "Licence 1 Droit (Caen)")
    world.enrol("s1", "L1ADPU")
    world.enrol("s3", "L1DROI")
    world.resign("s2", "L1DROI")
    with world.faults(function, fault):
        world.a_minute_later()
        world.wait(REMOVAL_DELAY)
    world.days_later(1)
    assert world.members() == world.truth()
    assert world.gaps() == {}
    assert world.cohort_name("L1DROI") == "UFR Droit: Licence 1 Droit (Caen)"
    assert world.status().cohorts[CohortState.OWNED] == 2
    assert world.applied("remove") == [("L1DROI", "s2")]
    assert sorted(world.applied("add")) == sorted([("L1ADPU", "s1"), *(("L1DROI", f"s{n}") for n in (1, 2, 3))])


@pytest.mark.parametrize("fault", Fault)
def test_whatever_the_fault_everything_is_put_right_when_it_ends(world: World, fault: Fault) -> None:
    world.shorten_the_timeout()
    world.enrol("s1", "L1DROI")
    world.enrol("s2", "L1DROI")
    world.a_minute_later()
    world.moodle.fault = fault
    world.enrol("s3", "L1DROI")
    world.enrol("s3", "L1ADPU")
    world.resign("s1", "L1DROI")
    for _ in range(4):
        world.wait(REMOVAL_DELAY)
    world.moodle.fault = None
    world.wait(HOUR)
    assert world.members() == world.truth()
    assert world.gaps() == {}
    assert world.status().state is PlatformState.UP
    assert world.moodle.collisions == []


@pytest.mark.parametrize("function", WRITES)
def test_a_call_that_may_still_run_keeps_its_cohorts_for_itself(world: World, function: str) -> None:
    moodle = world.moodle
    world.enrol("s1", "L1DROI")
    world.enrol("s2", "L1DROI")
    world.a_minute_later()
    match function:
        case "core_cohort_create_cohorts":
            world.enrol("s1", "L1ADPU")
        case "core_cohort_update_cohorts":
            world.describe("L1DROI", "Licence 1 Droit")
        case "core_cohort_add_cohort_members":
            world.enrol("s3", "L1DROI")
        case "core_cohort_delete_cohort_members":
            world.resign("s1", "L1DROI")
            world.now += REMOVAL_DELAY

    begun: list[str] = []

    @contextmanager
    def slow_once(called: str) -> Iterator[None]:
        if called == function and not begun:
            begun.append(called)
            moodle.cost = Cost(call=3 * REAL_TIMEOUT)
        try:
            yield
        finally:
            moodle.cost = Cost()

    world.shorten_the_timeout()
    with world.around(slow_once):
        world.wait(COALESCE)
    assert begun
    assert world.status().code == "timeout"
    world.wait(10.0)  # the platform is tried again, and the call runs on
    moodle.wait_in_flight(0)
    world.days_later(1)
    assert moodle.collisions == []
    assert world.members() == world.truth()
    assert len(moodle.cohorts()) == len(world.truth())
    assert world.gaps() == {}


def test_a_platform_that_is_down_is_asked_less_and_less_and_the_other_goes_on(build: Build) -> None:
    world = build(platform("ecampus"), platform("sante"))
    for moodle in world.moodles.values():
        moodle.add_user(username="s1")
    down = world.moodles["ecampus"]
    down.fault = Fault.PHP_DOWN
    world.enrol("s1", "L1DROI")
    for _ in range(1800):  # an hour
        world.wait(2.0)
    assert world.members("sante") == {"L1DROI": {"s1"}}
    assert world.status("sante").state is PlatformState.UP
    status = world.status("ecampus")
    assert (status.state, status.code) == (PlatformState.UNAVAILABLE, "http-502")
    assert (status.since, status.oldest) == (START + COALESCE, START)
    assert 15 <= len(down.calls) <= 60
    assert status.next_attempt_at <= world.now + 300
    down.fault = None
    world.wait(300.0)
    assert world.members("ecampus") == {"L1DROI": {"s1"}}
    assert world.status("ecampus").state is PlatformState.UP


def an_outage(world: World, connections: int, *, late: float = 0.0) -> None:
    """Let calls of so many connections be under way when the first of them fails; each other one fails `late` after."""
    lanes = iter([world.lane(world.platforms[0], f"connection-{number}") for number in range(connections)])

    def work() -> bool:
        lane = next(lanes, None)
        if lane is None:
            return False
        world.enrol("s1", f"E{len(world.enrolled)}")
        world.now += COALESCE
        return lane.run_once()

    @contextmanager
    def failing(_called: str) -> Iterator[None]:
        if work():
            world.now += late
        raise MoodleUnavailable("http-502", "bad gateway")
        yield

    with world.around(failing):
        work()


@pytest.mark.parametrize("connections", [2, 8])
def test_an_outage_counts_once_however_many_connections_meet_it(world: World, connections: int) -> None:
    an_outage(world, connections)
    assert 1.5 <= world.status().next_attempt_at - world.now <= 2.0
    world.wait(2.0)
    assert len(world.truth()) == connections
    assert world.members() == world.truth()


def test_a_call_that_outlasts_the_pause_does_not_count_as_another_outage(world: World) -> None:
    an_outage(world, 8, late=1.0)
    paused_until = world.status().next_attempt_at
    assert paused_until <= world.now
    world.moodle.fault = Fault.PHP_DOWN
    world.turns()
    assert 3.0 <= world.status().next_attempt_at - world.now <= 4.0  # the second failure in a row


def test_a_platform_in_maintenance_is_left_alone_for_as_long_as_it_says(world: World) -> None:
    world.enrol("s1", "L1DROI")
    world.moodle.fault = Fault.MAINTENANCE_CLI
    world.wait(COALESCE)
    world.moodle.fault = None
    asked = len(world.moodle.calls)
    world.wait(299.0)
    assert len(world.moodle.calls) == asked
    world.wait(1.0)
    assert world.members() == {"L1DROI": {"s1"}}


@pytest.mark.parametrize(("asked", "least", "most"), [(0.0, 1.0, 2.0), (10.0, 10.0, 10.0), (1e6, 3600.0, 3600.0)])
def test_a_platform_asks_for_neither_no_pause_nor_an_endless_one(
    world: World, asked: float, least: float, most: float
) -> None:
    @contextmanager
    def overloaded(_called: str) -> Iterator[None]:
        raise MoodleUnavailable("http-503", "overloaded", retry_after=asked)
        yield

    world.enrol("s1", "L1DROI")
    with world.around(overloaded):
        world.wait(COALESCE)
    assert least <= world.status().next_attempt_at - world.now <= most


@pytest.mark.parametrize("fault", [Fault.INVALID_TOKEN, Fault.NOT_GRANTED])
def test_a_platform_that_denies_pauses_says_so_and_recovers_by_itself(world: World, fault: Fault) -> None:
    world.enrol("s1", "L1DROI")
    world.moodle.fault = fault
    world.wait(COALESCE)
    asked = len(world.moodle.calls)
    world.wait(DENIED_RETRY_SECONDS - 1)
    assert len(world.moodle.calls) == asked
    status = world.status()
    assert status.state is PlatformState.DENIED
    assert status.code in {"invalidtoken", "accessexception"}
    assert "check the token" in (status.sentence or "")
    assert TOKEN not in (status.sentence or "")
    world.moodle.fault = None
    world.wait(1.0)
    assert world.status().state is PlatformState.UP
    assert world.members() == {"L1DROI": {"s1"}}


@pytest.mark.parametrize("right", ["moodle/user:viewdetails", "moodle/user:viewalldetails"])
@pytest.mark.parametrize("before", ["at start", "at work"])
def test_a_token_that_sees_nobody_is_denied_and_nobody_is_parked(world: World, right: str, before: str) -> None:
    world.enrol("s1", "L1DROI")
    world.a_minute_later()
    if before == "at start":
        world.restart()
    else:
        world.now += HOUR
    world.moodle.capabilities.remove(right)
    world.enrol("s2", "L1DROI")
    world.wait(COALESCE)
    status = world.status()
    assert (status.state, status.code) == (PlatformState.DENIED, "accounts_hidden")
    assert "moodle/user:viewalldetails" in (status.sentence or "")
    assert world.gaps() == {"ready": 1}
    world.moodle.capabilities.add(right)
    world.wait(DENIED_RETRY_SECONDS)
    assert world.members() == {"L1DROI": {"s1", "s2"}}


def test_a_site_without_members_is_believed_when_it_finds_nobody(world: World) -> None:
    world.enrol("new", "L1DROI")
    world.a_minute_later()
    assert world.status().reasons == {"no_account": 1}
    assert world.status().state is PlatformState.UP


# --- Modes ---


def test_observing_writes_nothing_and_says_what_would_be_done(build: Build) -> None:
    world = build(platform(mode=Mode.OBSERVE))
    world.accounts("s1")
    existing = world.moodle.create_cohort(name="À la main", idnumber="L1ADPU")
    for student, etape in (("s1", "L1DROI"), ("s1", "L1ADPU"), ("new", "L1DROI")):
        world.enrol(student, etape)
    world.describe("L1DROI", "Licence 1 Droit")
    world.days_later(1)
    asked = len(world.moodle.calls)
    world.turns()
    world.turns()
    assert len(world.moodle.calls) == asked
    assert world.gaps() == {"parked": 2, "foreign": 1}
    assert world.status().reasons == {"observe": 1, "no_account": 1}
    assert [cohort.id for cohort in world.moodle.cohorts()] == [existing]
    assert world.members() == {"L1ADPU": set()}
    assert world.written() == set()


@pytest.mark.parametrize("relabelled", [False, True])
def test_a_platform_that_is_only_observed_from_now_on_is_left_as_it_is(build: Build, *, relabelled: bool) -> None:
    world = build(platform(account_template="{login}"))
    world.accounts("a", "b")
    world.describe("L1DROI", "Licence 1 Droit")
    world.enrol("old", "L1DROI", login="a")
    world.enrol("s2", "L1DROI", login="b")
    world.a_minute_later()
    before = world.moodle.cohorts(), world.members()
    world.restart(platform(account_template="{login}", mode=Mode.OBSERVE))
    label = "Licence 1 Droit (Caen)" if relabelled else "Licence 1 Droit"
    world.describe("L1DROI", label)
    world.enrol("new", "L1DROI", login="a")
    world.merge("old", "new")
    world.resign("s2", "L1DROI")
    world.days_later(1)
    assert (world.moodle.cohorts(), world.members()) == before
    asked = len(world.moodle.calls)
    world.turns()
    assert len(world.moodle.calls) == asked
    world.restart(platform(account_template="{login}"))
    world.days_later(1)
    assert world.members() == {"L1DROI": {"a"}}
    assert world.cohort_name("L1DROI") == f"UFR Droit: {label}"
    assert world.gaps() == {}


# --- A worker that dies, and several workers ---


class Died(BaseException):
    """The process is no more: nothing after it runs, no clean-up either."""


@dataclass
class Death:
    """Dies instead of a call to the ledger or to Moodle, once it has made `left` of them."""

    left: int
    dead: bool = False

    def step(self) -> None:
        self.left -= 1
        if self.dead or self.left < 0:
            self.dead = True
            raise Died

    @contextmanager
    def around(self, _called: str) -> Iterator[None]:
        self.step()
        yield


def test_a_worker_that_dies_at_any_moment_leaves_nothing_wrong(tmp_path: Path, empty_ledger: Path) -> None:
    deaths = 0
    moodle = SandboxMoodle(token=TOKEN)
    moodle.add_users((name, "") for name in ("s1", "s2", "s3", "s4"))
    with moodle.serving():
        while True:
            url = f"sqlite:///{shutil.copy(empty_ledger, tmp_path / f'{deaths}.db')}"
            for cohort in moodle.cohorts():
                moodle.delete_cohort(cohort.id)
            with ExitStack() as stack:
                world = World(url, [platform()], stack, moodles={"ecampus": moodle})
                finished = a_worker_dies(world, Death(left=deaths))
            if finished:
                break
            deaths += 1
    assert deaths > 20
    assert moodle.collisions == []


def a_worker_dies(world: World, death: Death) -> bool:
    """Let a worker do a bit of everything and die, and another one carry on; says whether it got to its end."""
    world.describe("L1DROI", "Licence 1 Droit")
    world.enrol("s1", "L1DROI")
    world.enrol("s2", "L1DROI")
    world.a_minute_later()
    world.resign("s1", "L1DROI")
    world.now += REMOVAL_DELAY
    world.describe("L1DROI", "Licence 1 Droit (Caen)")
    world.enrol("s3", "L1DROI")
    world.enrol("s3", "L1ADPU")
    world.enrol("s4", "L1ADPU")
    world.enrol("new", "L1ADPU")
    world.now += COALESCE
    transport = world.connect("ecampus")
    transport.around = death.around
    doomed = world.lane(
        world.platforms[0], "doomed", transport=transport, queue=partial(queue_around, around=death.around)
    )
    finished = False
    try:
        while doomed.run_once():
            pass
        finished = True
    except Died:
        pass
    world.resign("s3", "L1ADPU")  # whom the dead worker may have added
    world.lanes["ecampus"] = [world.lane(world.platforms[0], "successor")]
    world.wait(LEASE)
    world.wait(HOUR)
    point = f"death {death}"
    assert world.members() == {"L1DROI": {"s2", "s3"}, "L1ADPU": {"s4"}}, point
    assert len(world.moodle.cohorts()) == 2, point
    assert world.cohort_name("L1DROI") == "UFR Droit: Licence 1 Droit (Caen)", point
    assert world.gaps() == {"parked": 1}, point
    maybe = ("L1ADPU", "s3")
    assert sorted({*world.applied("remove"), maybe}) == [maybe, ("L1DROI", "s1")], point
    added = [maybe, ("L1ADPU", "s4"), *(("L1DROI", student) for student in ("s1", "s2", "s3"))]
    assert sorted({*world.applied("add"), maybe}) == added, point
    return finished


def test_a_dead_workers_cohorts_wait_for_its_lease(world: World) -> None:
    world.enrol("s1", "L1DROI")
    world.now += COALESCE
    death = Death(left=5)
    doomed = world.lane(world.platforms[0], "doomed", queue=partial(queue_around, around=death.around))
    with pytest.raises(Died):
        doomed.run_once()
    asked = len(world.moodle.calls)
    world.wait(LEASE - 10)
    assert len(world.moodle.calls) == asked
    world.wait(10)
    assert world.members() == {"L1DROI": {"s1"}}


@contextmanager
def working(lanes: list[Lane]) -> Iterator[None]:
    """Let lanes work, each in a thread, until the block ends; raises what one of them raised."""
    stop = threading.Event()

    def work(lane: Lane) -> None:
        while not stop.is_set():
            if not lane.run_once():
                stop.wait(0.005)

    with ThreadPoolExecutor(len(lanes)) as pool:
        futures = [pool.submit(work, lane) for lane in lanes]
        try:
            yield
        finally:
            stop.set()
    for future in futures:
        future.result()


def settled(world: World) -> None:
    """Wait until there is no gap left."""
    deadline = time.monotonic() + 60
    while world.gaps():
        assert time.monotonic() < deadline, f"gaps remain: {world.gaps()}"
        threading.Event().wait(0.01)


def test_two_workers_share_a_platform_without_ever_meeting_in_a_cohort(ledger_url: str) -> None:
    students = [f"s{number}" for number in range(60)]
    with ExitStack() as stack:
        first = World(ledger_url, [platform()], stack)
        second = World(ledger_url, [platform()], stack, moodles=first.moodles)
        first.accounts(*students)
        moodle = first.moodle
        moodle.php_workers = 4
        moodle.cost = Cost(call=0.002)
        lanes = [world.lane(world.platforms[0], f"{id(world)}-{n}") for world in (first, second) for n in range(2)]
        for number, student in enumerate(students):
            for offset in range(3):
                first.enrol(student, f"E{(number + offset) % 12}")
        with working(lanes):
            for round_of in range(3):
                for number in range(round_of, len(students), 7):
                    first.resign(students[number], f"E{number % 12}")
                first.now = second.now = first.now + REMOVAL_DELAY
                settled(first)
        assert first.members() == first.truth()
        assert moodle.collisions == []
        assert len(moodle.cohorts()) == 12
        assert len(set(first.applied("remove"))) == len(first.applied("remove"))


# --- Anything, in any order ---

History = list[tuple[tuple[str, str, str], Fault | None, float]]

STUDENTS, ETAPES = ["s1", "s2", "s3", "late"], ["L1DROI", "L1ADPU", "FOREIGN"]
STEPS = st.one_of(
    st.tuples(st.just("enrol"), st.sampled_from(STUDENTS), st.sampled_from(ETAPES)),
    st.tuples(st.just("resign"), st.sampled_from(STUDENTS), st.sampled_from(ETAPES)),
    st.tuples(st.just("describe"), st.sampled_from(ETAPES), st.sampled_from(["Droit", "Licence", "Droit et gestion"])),
    st.tuples(st.just("account"), st.just(""), st.just("")),
    st.tuples(st.just("delete cohort"), st.sampled_from(ETAPES[:2]), st.just("")),
)
HISTORIES = st.lists(
    st.tuples(STEPS, st.none() | st.sampled_from(list(Fault)), st.sampled_from([0.0, 2.0, 60.0, 150.0])),
    min_size=1,
    max_size=12,
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(history=HISTORIES)
def test_whatever_happens_in_whatever_order_the_truth_prevails(history: History, playground: Build) -> None:
    world = playground()
    world.shorten_the_timeout()
    moodle = world.moodle
    foreign = moodle.create_cohort(name="À la main", idnumber="FOREIGN")
    moodle.add_member(foreign, moodle.user_ids["s1"])
    resigned = set()
    for (what, of, to), fault, seconds in history:
        moodle.fault = fault
        match what:
            case "enrol":
                world.enrol(of, to)
            case "resign":
                world.resign(of, to)
                resigned.add((to, of))
            case "describe":
                world.describe(of, to)
            case "account" if "late" not in moodle.user_ids:
                moodle.add_user(username="late")
            case "delete cohort":
                for cohort in moodle.cohorts():
                    if cohort.idnumber == of:
                        moodle.delete_cohort(cohort.id)
        world.wait(seconds)
    moodle.fault = None
    world.wait(HOUR)
    for etape in ETAPES[:2]:  # a deleted cohort is noticed by the next change
        world.enrol("s4", etape)
    world.days_later()
    known = moodle.user_ids.keys()
    expected = {etape: students & known for etape, students in world.truth().items() if etape != "FOREIGN"}
    assert world.members() == expected | {"FOREIGN": {"s1"}}
    assert world.gaps().keys() <= {"parked", "foreign"}
    assert world.status().reasons.keys() <= {"no_account"}
    assert foreign not in world.written()
    assert world.cohort_name("FOREIGN") == "À la main"
    assert len(moodle.cohorts()) == 3
    assert set(world.applied("remove")) <= resigned
    assert moodle.collisions == []


def test_what_was_only_observed_is_done_at_once_when_the_platform_may_be_written(build: Build) -> None:
    world = build(platform(mode=Mode.OBSERVE))
    world.accounts("1")
    world.describe("L1", "Licence 1")
    world.enrol("1", "L1")
    world.a_minute_later()
    assert world.gaps() == {"parked": 1}
    world.restart(platform())
    world.wait(COALESCE)
    assert world.members() == {"L1": {"1"}}


def test_each_decision_of_a_turn_is_one_line_of_the_log(build: Build) -> None:
    world = build(guard=Guard(limits=GuardLimits(cohort_percent=20, platform_percent=100, floor=2)))
    students = [str(number) for number in range(1, 11)]
    world.accounts(*students[1:])
    world.describe("L1", "Licence 1")
    with capture_logs() as lines:
        for student in students:
            world.enrol(student, "L1")
        world.wait(COALESCE)
        for student in students[1:]:
            world.resign(student, "L1")
        world.wait(REMOVAL_DELAY)
        world.a_minute_later()
    told = [{name: value for name, value in line.items() if name != "log_level"} for line in lines]
    assert told == [
        {"event": "cohorts created", "platform": "ecampus", "cohorts": 1},
        {"event": "members parked", "platform": "ecampus", "reason": "no_account", "members": 1},
        {"event": "batch applied", "platform": "ecampus", "members": 9, "refused": 0, "cohorts": 1},
        {
            "event": "removals are held until a person decides",
            "platform": "ecampus", "limit": "cohort", "removals": 9,
        },
    ]  # fmt: skip
