"""Which removals pass without a person, and which are held: the guard's own arithmetic, without a ledger."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from random import Random
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.domain.guard import (
    WINDOW_SECONDS,
    CohortJudgement,
    Guard,
    GuardLimits,
    Judgement,
    MonthDay,
    Removals,
    Season,
    judge,
    judge_cohorts,
)
from worker.domain.states import CohortChange, Limit

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC).timestamp()
WIDE = GuardLimits(cohort_percent=20, platform_percent=100, floor=0)
"""Only the limit of the cohort matters."""
NARROW = GuardLimits(cohort_percent=100, platform_percent=5, floor=0)
"""Only that of the platform."""


def cohort(number: int = 1, *, members: int = 100, pending: int = 0, removed: int = 0, held: int = 0) -> Removals:
    return Removals(
        cohort_id=number, idnumber=f"E{number}", members=members, pending=pending, removed=removed, held=held
    )


def judged(
    *cohorts: Removals, limits: GuardLimits = WIDE, guard: Guard | None = None, now: float = NOW, unconcerned: int = 0
) -> Judgement:
    """Judge these cohorts, beside others of so many members whom nobody leaves."""
    members = unconcerned + sum(each.members for each in cohorts)
    return judge(guard or Guard(limits=limits), cohorts, now, members=members)


# The limit of a cohort


def test_a_fifth_of_a_cohort_may_leave_and_one_more_holds_them_all() -> None:
    assert judged(cohort(members=100, pending=20)).held == {}
    assert judged(cohort(members=100, pending=21)).held == {1: Limit.COHORT}


def test_what_left_in_the_last_day_counts_and_the_share_is_of_the_members_before_that() -> None:
    assert judged(cohort(members=85, removed=15, pending=5)).held == {}
    assert judged(cohort(members=85, removed=15, pending=6)).held == {1: Limit.COHORT}
    assert judged(cohort(members=80, removed=20)).held == {}, "nobody else leaves"


def test_a_few_may_always_leave_a_small_cohort() -> None:
    limits = replace(WIDE, floor=10)
    assert judged(cohort(members=10, pending=10), limits=limits).held == {}
    assert judged(cohort(members=11, pending=11), limits=limits).held == {1: Limit.COHORT}
    assert judged(cohort(members=60, pending=12), limits=limits).held == {}, "the larger of both counts"


def test_of_a_share_that_is_no_whole_number_the_whole_part_may_leave() -> None:
    assert WIDE.cohort(14) == 2
    assert WIDE.cohort(4) == 0
    assert replace(WIDE, floor=1).cohort(4) == 1


@given(st.integers(0, 200_000), st.integers(0, 10_000))
def test_the_share_is_what_one_computes_by_hand(members: int, hundredths: int) -> None:
    limits = GuardLimits(cohort_percent=hundredths / 100, platform_percent=hundredths / 100, floor=0)
    share = members * Fraction(hundredths, 10_000)
    assert limits.cohort(members) == limits.platform(members) == int(share)


def test_whoever_came_with_an_adopted_cohort_is_held_under_every_limit() -> None:
    adopted = replace(cohort(1, members=100, pending=1), inherited=1)
    assert judged(adopted, limits=GuardLimits(floor=50)).held == {1: Limit.ADOPTED}
    assert judged(replace(adopted, pending=50)).held == {1: Limit.ADOPTED}
    assert judged(adopted, guard=Guard(enabled=False)).held == {}


def test_what_an_adopted_cohort_holds_leaves_the_limit_of_the_platform_to_the_others() -> None:
    adopted = replace(cohort(1, members=100, pending=50), inherited=1)
    assert judged(adopted, cohort(2, members=100, pending=10), limits=NARROW).held == {1: Limit.ADOPTED}


def test_one_cohort_that_is_held_holds_no_other() -> None:
    assert judged(cohort(1, pending=50), cohort(2, pending=20), cohort(3)).held == {1: Limit.COHORT}


def test_without_removals_to_come_nothing_is_held_whatever_left_before() -> None:
    assert judged(cohort(members=0, removed=100), limits=GuardLimits(floor=0)).held == {}
    assert judged().held == {}


# The limit of the platform


def test_a_mistake_that_touches_every_cohort_a_little_is_seen_whole() -> None:
    cohorts = [cohort(number, pending=5) for number in range(20)]
    assert judged(*cohorts, limits=NARROW).held == {}
    cohorts[7] = cohort(7, pending=6)
    assert judged(*cohorts, limits=NARROW).held == dict.fromkeys(range(20), Limit.PLATFORM)


def test_members_whom_nobody_leaves_count_towards_the_size_of_the_platform() -> None:
    assert judged(cohort(pending=50), limits=NARROW, unconcerned=899).held == {1: Limit.PLATFORM}
    assert judged(cohort(pending=50), limits=NARROW, unconcerned=900).held == {}


def test_what_left_any_cohort_in_the_last_day_counts_for_the_platform() -> None:
    gone, going = cohort(1, members=60, removed=40), cohort(2, pending=10)
    assert judged(gone, going, limits=NARROW, unconcerned=800).held == {}
    assert judged(gone, replace(going, pending=11), limits=NARROW, unconcerned=800).held == {2: Limit.PLATFORM}


def test_what_a_cohort_s_own_limit_holds_does_not_hold_the_others() -> None:
    found = judged(cohort(1, pending=90), cohort(2, pending=2), limits=GuardLimits(floor=0))
    assert found.held == {1: Limit.COHORT}
    assert (found.pending, found.allowed) == (2, 10)


def test_what_is_held_already_counts_no_more_for_the_platform() -> None:
    waiting = cohort(1, pending=20, held=20)
    assert judged(waiting, cohort(2, pending=10), limits=NARROW).held == {}
    assert judged(waiting, cohort(2, pending=11), limits=NARROW).held == {2: Limit.PLATFORM}


def test_a_newcomer_to_a_cohort_that_is_held_is_judged_with_those_who_are() -> None:
    assert judged(cohort(pending=22, held=21)).held == {1: Limit.COHORT}
    wider = judged(cohort(pending=22, held=21), limits=replace(WIDE, cohort_percent=30))
    assert (wider.held, wider.pending) == ({}, 1), "only the newcomer passes a wider limit"


def test_the_floor_counts_for_the_platform_as_for_a_cohort() -> None:
    limits = GuardLimits(cohort_percent=100, platform_percent=5, floor=10)
    assert judged(cohort(members=40, pending=10), limits=limits).held == {}
    assert judged(cohort(members=40, pending=11), limits=limits).held == {1: Limit.PLATFORM}


# What it says


def test_the_guard_reports_its_figures_when_everything_passes() -> None:
    found = judged(cohort(1, pending=4), cohort(2, members=95, removed=5, pending=1), limits=GuardLimits(floor=0))
    assert (found.members, found.removed, found.pending, found.allowed) == (200, 5, 5, 10)
    assert found.worst is not None
    assert (found.worst.idnumber, found.worst.percent) == ("E2", 6.0)
    assert found.enabled


def test_the_worst_cohort_is_reported_even_when_it_is_held_and_none_when_nobody_leaves() -> None:
    worst = judged(cohort(1, pending=100), cohort(2, pending=1)).worst
    assert worst is not None
    assert (worst.idnumber, worst.percent) == ("E1", 100.0)
    assert judged(cohort()).worst is None


def test_the_share_of_an_empty_cohort_is_nothing() -> None:
    assert cohort(members=0).percent == 0.0


# Off


def test_a_guard_that_is_off_lets_everything_pass_and_says_the_same_figures() -> None:
    cohorts = [cohort(1, pending=100), cohort(2, members=10, removed=90, pending=10)]
    off = judged(*cohorts, guard=Guard(enabled=False, limits=GuardLimits(floor=0)))
    assert off.held == {}
    assert not off.enabled
    assert (off.members, off.removed, off.pending, off.allowed) == (200, 90, 110, 10)


# Seasons

RENTREE = Season(first=(7, 1), last=(10, 31), limits=GuardLimits(cohort_percent=60, platform_percent=30, floor=50))
CLOSED = Season(first=(12, 20), last=(1, 5), limits=GuardLimits(cohort_percent=0, platform_percent=0, floor=0))
PARIS = ZoneInfo("Europe/Paris")
SEASONAL = Guard(seasons=(RENTREE, CLOSED), zone=PARIS)


def noon(year: int, month: int, day: int) -> float:
    return datetime(year, month, day, 12, tzinfo=PARIS).timestamp()


@pytest.mark.parametrize(
    ("day", "limits"),
    [
        ((2026, 6, 30), SEASONAL.limits),
        ((2026, 7, 1), RENTREE.limits),
        ((2026, 9, 15), RENTREE.limits),
        ((2026, 10, 31), RENTREE.limits),
        ((2026, 11, 1), SEASONAL.limits),
        ((2026, 12, 19), SEASONAL.limits),
        ((2026, 12, 20), CLOSED.limits),
        ((2026, 12, 31), CLOSED.limits),
        ((2027, 1, 1), CLOSED.limits),
        ((2027, 1, 5), CLOSED.limits),
        ((2027, 1, 6), SEASONAL.limits),
    ],
)
def test_a_season_lasts_from_its_first_day_to_its_last_over_new_year_too(
    day: tuple[int, int, int], limits: GuardLimits
) -> None:
    assert SEASONAL.at(noon(*day)) == limits


def test_the_first_season_that_holds_the_day_counts() -> None:
    summer = Season(first=(8, 1), last=(8, 31), limits=GuardLimits(floor=1))
    assert replace(SEASONAL, seasons=(summer, RENTREE)).at(noon(2026, 8, 15)) == summer.limits
    assert replace(SEASONAL, seasons=(RENTREE, summer)).at(noon(2026, 8, 15)) == RENTREE.limits
    assert replace(SEASONAL, seasons=(summer, RENTREE)).at(noon(2026, 9, 1)) == RENTREE.limits


def test_the_days_of_a_season_are_those_of_the_university_s_clock() -> None:
    late = datetime(2026, 6, 30, 23, 30, tzinfo=UTC).timestamp()
    assert SEASONAL.at(late) == RENTREE.limits, "1 July in Paris"
    assert replace(SEASONAL, zone=UTC).at(late) == SEASONAL.limits
    assert replace(SEASONAL, zone=ZoneInfo("America/Martinique")).at(late + 4 * 3600) == SEASONAL.limits
    last = datetime(2026, 10, 31, 22, 59, 59, tzinfo=UTC).timestamp()
    assert SEASONAL.at(last) == RENTREE.limits
    assert SEASONAL.at(last + 1) == SEASONAL.limits


def test_the_limits_of_the_season_are_those_that_judge() -> None:
    september, november = noon(2026, 9, 15), noon(2026, 11, 15)
    assert judged(cohort(pending=60), guard=SEASONAL, now=november, unconcerned=9900).held == {1: Limit.COHORT}
    found = judged(cohort(pending=60), guard=SEASONAL, now=september, unconcerned=9900)
    assert (found.held, found.limits, found.allowed) == ({}, RENTREE.limits, 3000)


LEAP_YEAR: list[MonthDay] = [
    (day.month, day.day) for day in (date(2024, 1, 1) + timedelta(days=days) for days in range(366))
]


@given(st.sampled_from(LEAP_YEAR), st.sampled_from(LEAP_YEAR))
def test_a_season_is_what_one_strikes_out_on_a_calendar(first: MonthDay, last: MonthDay) -> None:
    start = LEAP_YEAR.index(first)
    days = set()
    for month_day in LEAP_YEAR[start:] + LEAP_YEAR[:start]:
        days.add(month_day)
        if month_day == last:
            break
    season = Season(first=first, last=last, limits=GuardLimits())
    assert {(month, day) for month, day in LEAP_YEAR if date(2024, month, day) in season} == days


# Laws

PERCENTS = st.sampled_from([0.0, 5.0, 20.0, 50.0, 100.0])
LIMITS = st.builds(GuardLimits, cohort_percent=PERCENTS, platform_percent=PERCENTS, floor=st.sampled_from([0, 2, 10]))


@st.composite
def concerned(draw: st.DrawFn) -> list[Removals]:
    """Draw cohorts: those who are to leave one are its members."""
    found = []
    for number in range(draw(st.integers(1, 6))):
        members = draw(st.integers(0, 60))
        pending = draw(st.integers(0, members))
        held = draw(st.one_of(st.just(0), st.integers(0, pending)))
        found.append(cohort(number, members=members, pending=pending, held=held, removed=draw(st.integers(0, 20))))
    return found


def passing(cohorts: Sequence[Removals], found: Judgement) -> dict[int, int]:
    """Say how many removals of each cohort are let pass."""
    return {each.cohort_id: each.pending - each.held for each in cohorts if each.cohort_id not in found.held}


@given(concerned(), LIMITS, st.integers(0, 500))
def test_what_passes_is_within_both_limits(cohorts: list[Removals], limits: GuardLimits, others: int) -> None:
    found = judged(*cohorts, limits=limits, unconcerned=others)
    let = passing(cohorts, found)
    for each in cohorts:
        if let.get(each.cohort_id):
            assert let[each.cohort_id] + each.removed <= limits.cohort(each.members + each.removed)
    if any(let.values()):
        assert sum(let.values()) + found.removed <= limits.platform(found.members)


@given(concerned(), LIMITS, st.integers(0, 500))
def test_nothing_is_held_without_a_limit_that_it_is_beyond(
    cohorts: list[Removals], limits: GuardLimits, others: int
) -> None:
    found = judged(*cohorts, limits=limits, unconcerned=others)
    for each in cohorts:
        beyond = each.pending + each.removed > limits.cohort(each.members + each.removed)
        assert (found.held.get(each.cohort_id) is Limit.COHORT) == (beyond and each.pending > 0)
    by_platform = [each for each in cohorts if found.held.get(each.cohort_id) is Limit.PLATFORM]
    assert bool(by_platform) == (found.pending > 0 and found.pending + found.removed > found.allowed)
    assert all(each.pending > each.held for each in by_platform)


@given(concerned(), LIMITS, st.integers(0, 500), st.data())
def test_whoever_is_held_would_be_with_more_removals_too(
    cohorts: list[Removals], limits: GuardLimits, others: int, data: st.DataObject
) -> None:
    held = judged(*cohorts, limits=limits, unconcerned=others).held
    for index, each in enumerate(cohorts):
        if each.cohort_id in held:
            more = data.draw(st.integers(each.pending, each.members))
            worse = [*cohorts[:index], replace(each, pending=more), *cohorts[index + 1 :]]
            assert each.cohort_id in judged(*worse, limits=limits, unconcerned=others).held


@given(concerned(), LIMITS, st.randoms(use_true_random=False))
def test_the_order_of_the_cohorts_decides_nothing(cohorts: list[Removals], limits: GuardLimits, random: Random) -> None:
    shuffled = random.sample(cohorts, len(cohorts))
    assert judged(*shuffled, limits=limits) == judged(*cohorts, limits=limits)


@given(concerned(), LIMITS)
def test_a_guard_that_is_off_never_holds(cohorts: list[Removals], limits: GuardLimits) -> None:
    assert judged(*cohorts, guard=Guard(enabled=False, limits=limits)).held == {}


Step = tuple[float, int, int, int]
"""Seconds later, so many join a cohort, then so many of it are to leave: (seconds, cohort, joining, leaving)."""
STEPS = st.lists(
    st.tuples(
        st.sampled_from([60.0, 3600.0, 6 * 3600.0, WINDOW_SECONDS - 1, WINDOW_SECONDS]),
        st.integers(0, 2),
        st.integers(0, 10),
        st.integers(0, 40),
    ),
    max_size=25,
)


@given(STEPS, LIMITS, st.lists(st.integers(0, 80), min_size=3, max_size=3))
@settings(max_examples=300)
def test_in_no_day_do_more_leave_than_the_limits_let(steps: list[Step], limits: GuardLimits, sizes: list[int]) -> None:
    now, members, held = NOW, dict(enumerate(sizes)), dict.fromkeys(range(3), 0)
    left: list[tuple[float, int]] = []  # when, and which cohort
    for seconds, number, joining, leaving in steps:
        now += seconds
        members[number] += joining
        recent = [its for at, its in left if at > now - WINDOW_SECONDS]
        pending = held | {number: min(held[number] + leaving, members[number])}
        cohorts = [
            cohort(its, members=members[its], removed=recent.count(its), pending=pending[its], held=held[its])
            for its in range(3)
        ]
        found = judged(*cohorts, limits=limits)
        for its, let in passing(cohorts, found).items():
            left += [(now, its)] * let
            members[its] -= let
        held = {its: pending[its] if its in found.held else held[its] for its in range(3)}
        recent = [its for at, its in left if at > now - WINDOW_SECONDS]
        if any(passing(cohorts, found).values()):
            assert len(recent) <= limits.platform(sum(members.values()) + len(recent))
        for its, let in passing(cohorts, found).items():
            assert not let or recent.count(its) <= limits.cohort(members[its] + recent.count(its))


# New cohorts and renames

CREATION, RENAME = CohortChange.CREATION, CohortChange.RENAME


def judged_cohorts(
    change: CohortChange,
    *,
    ours: int = 0,
    made: int = 0,
    pending: int = 0,
    guard: Guard = Guard(),  # noqa: B008
) -> CohortJudgement:
    return judge_cohorts(guard, change, NOW, ours=ours, made=made, pending=range(pending))


def test_twenty_new_cohorts_and_twenty_renames_always_pass_and_one_more_holds_all_that_are_to_come() -> None:
    for change in CohortChange:
        assert judged_cohorts(change, made=8, pending=12).held == frozenset()
        assert judged_cohorts(change, made=8, pending=13).held == frozenset(range(13))


def test_of_a_thousand_cohorts_a_hundred_more_and_fifty_renames_pass() -> None:
    assert judged_cohorts(CREATION, ours=1000, pending=100).held == frozenset()
    assert len(judged_cohorts(CREATION, ours=1000, pending=101).held) == 101
    assert judged_cohorts(RENAME, ours=1000, pending=50).held == frozenset()
    assert len(judged_cohorts(RENAME, ours=1000, pending=51).held) == 51


def test_seasons_and_a_guard_that_is_off_are_for_cohorts_too() -> None:
    all_year = Season(first=(1, 1), last=(12, 31), limits=GuardLimits(new_cohorts_floor=300))
    assert judged_cohorts(CREATION, pending=300, guard=Guard(seasons=(all_year,))).held == frozenset()
    assert judged_cohorts(CREATION, pending=9999, guard=Guard(enabled=False)).held == frozenset()
