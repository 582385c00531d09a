from dataclasses import replace

from worker.domain.cohorts import Gap
from worker.domain.plan import Plan, plan

JOINS = Gap(
    cohort_id=7,
    student_id="29900001",
    login=None,
    desired=True,
    user_id=None,
    cause="active",
    origin="enrolments[0]@1",
    since=0.0,
    attempts=0,
)
LEAVES = replace(JOINS, desired=False, user_id=31)
NOTHING = Plan(additions=(), removals=(), unneeded=())


def test_without_gaps_there_is_nothing_to_do() -> None:
    assert plan([], {"29900001": 31}) == NOTHING


def test_additions_keep_the_order_of_the_gaps() -> None:
    gaps = [replace(JOINS, student_id=number) for number in "213"]
    accounts = {"1": 11, "2": 12, "3": 13}
    assert [user for _, user in plan(gaps, accounts).additions] == [12, 11, 13]


def test_a_student_without_account_is_not_planned() -> None:
    assert plan([JOINS, replace(LEAVES, student_id="2", user_id=None)], {}) == NOTHING


def test_a_removal_takes_the_account_that_was_given_the_membership() -> None:
    assert plan([LEAVES], {}).removals == ((LEAVES, 31),)
    assert plan([LEAVES], {"29900001": 99}).removals == ((LEAVES, 31),), "not the one found today"


def test_a_removal_whose_account_was_never_noted_takes_the_one_found_today() -> None:
    unsure = replace(LEAVES, user_id=None)
    assert plan([unsure], {"29900001": 99}).removals == ((unsure, 99),)


def test_the_account_that_two_merged_students_share_stays() -> None:
    survivor = replace(JOINS, student_id="29900002")
    assert plan([LEAVES, survivor], {"29900002": 31}) == Plan(
        additions=((survivor, 31),), removals=(), unneeded=((LEAVES, 31),)
    )


def test_the_account_that_stands_for_a_settled_membership_stays() -> None:
    assert plan([LEAVES], {}, staying=[(7, 31)]) == Plan(additions=(), removals=(), unneeded=((LEAVES, 31),))


def test_staying_in_one_cohort_does_not_keep_an_account_in_another() -> None:
    assert plan([LEAVES, replace(JOINS, cohort_id=8)], {"29900001": 31}, staying=[(8, 31)]).removals == ((LEAVES, 31),)
