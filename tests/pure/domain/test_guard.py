"""Which removals pass without a person, and which are held: the guard's own arithmetic, without a ledger."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from random import Random
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from worker.domain.guard import (
    WINDOW_SECONDS,
    CohortJudgement,
    Guard,
    GuardLimits,
    MonthDay,
    Season,
    judge_cohorts,
)
from worker.domain.removals import Judgement, Leaving, Removals, Window, judge, source_of
from worker.domain.states import CohortChange, Limit

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC).timestamp()
WIDE = GuardLimits(cohort_percent=20, platform_percent=100, floor=0)
"""Only the limit of the cohort matters."""
NARROW = GuardLimits(cohort_percent=100, platform_percent=5, floor=0)
"""Only that of the platform."""
MONTHLY = GuardLimits(cohort_percent=100, platform_percent=20, month_platform_percent=20, floor=0, month_floor=0)
"""Only that of the platform, the same in a day and in a month."""


def cohort(
    number: int = 1, *, members: int = 100, pending: int = 0, removed: int = 0, held: int = 0, in_month: int = 0
) -> Removals:
    """Return the removals of one source from a cohort; `in_month` were before the last day."""
    return of_sources(number, members=members, messages=leaving(pending, removed=removed, held=held, in_month=in_month))


def leaving(pending: int = 0, *, removed: int = 0, held: int = 0, in_month: int = 0) -> Leaving:
    return Leaving(removed={Window.DAY: removed, Window.MONTH: removed + in_month}, pending=pending, held=held)


def of_sources(number: int = 1, *, members: int = 100, **by_source: Leaving) -> Removals:
    return Removals(cohort_id=number, idnumber=f"E{number}", members=members, by_source=by_source)


def judged(
    *cohorts: Removals, limits: GuardLimits = WIDE, guard: Guard | None = None, now: float = NOW, unconcerned: int = 0
) -> Judgement:
    """Judge these cohorts, beside others of so many members whom nobody leaves."""
    members = unconcerned + sum(each.members for each in cohorts)
    return judge(guard or Guard(limits=limits), cohorts, now, members=members)


def held_cohorts(*cohorts: Removals, limits: GuardLimits = WIDE, unconcerned: int = 0) -> dict[int, Limit]:
    """Judge removals of one source, and say by which limit those of each cohort are to be held."""
    return by_cohort(judged(*cohorts, limits=limits, unconcerned=unconcerned))


def by_cohort(found: Judgement) -> dict[int, Limit]:
    return {cohort_id: limit for (cohort_id, _), limit in found.held.items()}


# The limit of a cohort


def test_a_fifth_of_a_cohort_may_leave_and_one_more_holds_them_all() -> None:
    assert held_cohorts(cohort(members=100, pending=20)) == {}
    assert held_cohorts(cohort(members=100, pending=21)) == {1: Limit.COHORT}


def test_what_left_in_the_last_day_counts_and_the_share_is_of_the_members_before_that() -> None:
    assert held_cohorts(cohort(members=85, removed=15, pending=5)) == {}
    assert held_cohorts(cohort(members=85, removed=15, pending=6)) == {1: Limit.COHORT}
    assert held_cohorts(cohort(members=80, removed=20)) == {}, "nobody else leaves"


def test_a_few_may_always_leave_a_small_cohort() -> None:
    limits = replace(WIDE, floor=10)
    assert held_cohorts(cohort(members=10, pending=10), limits=limits) == {}
    assert held_cohorts(cohort(members=11, pending=11), limits=limits) == {1: Limit.COHORT}
    assert held_cohorts(cohort(members=60, pending=12), limits=limits) == {}, "the larger of both counts"


def test_of_a_share_that_is_no_whole_number_the_whole_part_may_leave() -> None:
    assert WIDE.day.cohort(14) == 2
    assert WIDE.day.cohort(4) == 0
    assert replace(WIDE, floor=1).day.cohort(4) == 1


@given(st.integers(0, 200_000), st.integers(0, 10_000))
def test_the_share_is_what_one_computes_by_hand(members: int, hundredths: int) -> None:
    limits = GuardLimits(cohort_percent=hundredths / 100, platform_percent=hundredths / 100, floor=0).day
    share = members * Fraction(hundredths, 10_000)
    assert limits.cohort(members) == limits.platform(members) == int(share)


def test_whoever_came_with_an_adopted_cohort_is_held_under_every_limit() -> None:
    adopted = replace(cohort(1, members=100, pending=1), inherited=1)
    assert held_cohorts(adopted, limits=GuardLimits(floor=50)) == {1: Limit.ADOPTED}
    assert held_cohorts(replace(cohort(1, members=100, pending=50), inherited=1)) == {1: Limit.ADOPTED}
    assert judged(adopted, guard=Guard(enabled=False)).held == {}


def test_what_an_adopted_cohort_holds_leaves_the_limit_of_the_platform_to_the_others() -> None:
    adopted = replace(cohort(1, members=100, pending=50), inherited=1)
    assert held_cohorts(adopted, cohort(2, members=100, pending=8), limits=NARROW) == {1: Limit.ADOPTED}


def test_one_cohort_that_is_held_holds_no_other() -> None:
    assert held_cohorts(cohort(1, pending=50), cohort(2, pending=20), cohort(3)) == {1: Limit.COHORT}


def test_without_removals_to_come_nothing_is_held_whatever_left_before() -> None:
    assert held_cohorts(cohort(members=0, removed=100), limits=GuardLimits(floor=0)) == {}
    assert held_cohorts() == {}


# The limit of the platform


def test_a_mistake_that_touches_every_cohort_a_little_is_seen_whole() -> None:
    cohorts = [cohort(number, pending=4) for number in range(20)]
    assert held_cohorts(*cohorts, limits=NARROW) == {}, "80 of 2000 from one source, of a limit of 100"
    cohorts[7] = cohort(7, pending=5)
    assert held_cohorts(*cohorts, limits=NARROW) == dict.fromkeys(range(20), Limit.PLATFORM)


def test_members_whom_nobody_leaves_count_towards_the_size_of_the_platform() -> None:
    assert held_cohorts(cohort(pending=40), limits=NARROW, unconcerned=880) == {1: Limit.PLATFORM}
    assert held_cohorts(cohort(pending=40), limits=NARROW, unconcerned=900) == {}


def test_what_left_any_cohort_in_the_last_day_counts_for_the_platform() -> None:
    gone, going = cohort(1, members=68, removed=32), cohort(2, pending=8)
    assert held_cohorts(gone, going, limits=NARROW, unconcerned=800) == {}
    assert held_cohorts(gone, cohort(2, pending=9), limits=NARROW, unconcerned=800) == {2: Limit.PLATFORM}


def test_what_a_cohort_s_own_limit_holds_does_not_hold_the_others() -> None:
    found = judged(cohort(1, pending=90), cohort(2, pending=2), limits=GuardLimits(floor=0))
    assert by_cohort(found) == {1: Limit.COHORT}
    assert (found.pending, found.allowed) == (2, 10)


def test_what_is_held_already_counts_no_more_for_the_platform() -> None:
    waiting = cohort(1, pending=20, held=20)
    assert held_cohorts(waiting, cohort(2, pending=8), limits=NARROW) == {}
    assert held_cohorts(waiting, cohort(2, pending=9), limits=NARROW) == {2: Limit.PLATFORM}


def test_a_newcomer_to_a_cohort_that_is_held_is_judged_with_those_who_are() -> None:
    assert held_cohorts(cohort(pending=22, held=21)) == {1: Limit.COHORT}
    wider = judged(cohort(pending=22, held=21), limits=replace(WIDE, cohort_percent=30))
    assert (wider.held, wider.pending) == ({}, 1), "only the newcomer passes a wider limit"


def test_the_floor_counts_for_the_platform_as_for_a_cohort() -> None:
    limits = GuardLimits(cohort_percent=100, platform_percent=5, floor=10)
    assert held_cohorts(cohort(members=40, pending=10), limits=limits) == {}
    assert held_cohorts(cohort(members=40, pending=11), limits=limits) == {1: Limit.PLATFORM}


# Many small cohorts, and many days


def test_the_floor_is_one_for_all_cohorts_that_empty() -> None:
    one, two = cohort(1, members=6, pending=6), cohort(2, members=5, pending=5)
    assert held_cohorts(one, unconcerned=9_000, limits=GuardLimits()) == {}
    both = {1: Limit.SMALL_COHORTS, 2: Limit.SMALL_COHORTS}
    assert held_cohorts(one, two, unconcerned=9_000, limits=GuardLimits()) == both
    assert held_cohorts(one, cohort(2, members=5, pending=4), unconcerned=9_000, limits=GuardLimits()) == {}


def test_small_cohorts_that_lose_no_more_than_half_are_not_held_with_those_that_empty() -> None:
    small = [cohort(number, members=10, pending=5) for number in range(3, 50)]
    emptied = [cohort(number, members=10, pending=10) for number in (1, 2)]
    held = held_cohorts(*emptied, *small, unconcerned=9_000, limits=GuardLimits())
    assert held == {1: Limit.SMALL_COHORTS, 2: Limit.SMALL_COHORTS}


def test_small_cohorts_emptied_one_a_day_are_one_event() -> None:
    gone = [cohort(number, members=0, in_month=12) for number in (2, 3)]
    assert held_cohorts(cohort(1, members=6, pending=6), *gone, unconcerned=9_000, limits=GuardLimits()) == {}
    held = held_cohorts(cohort(1, members=7, pending=7), *gone, unconcerned=9_000, limits=GuardLimits())
    assert held == {1: Limit.SMALL_COHORTS}


def test_a_cohort_that_loses_a_little_every_day_is_held_in_the_end() -> None:
    assert held_cohorts(cohort(members=250, in_month=150, pending=10), limits=WIDE) == {}
    assert held_cohorts(cohort(members=250, in_month=150, pending=11), limits=WIDE) == {1: Limit.COHORT_MONTH}


def test_a_platform_that_loses_a_little_every_day_is_held_in_the_end() -> None:
    lost = cohort(1, members=850, in_month=150)
    assert held_cohorts(lost, cohort(2, members=1000, pending=170), limits=MONTHLY) == {}
    assert held_cohorts(lost, cohort(2, members=1000, pending=171), limits=MONTHLY) == {2: Limit.PLATFORM_MONTH}


def test_in_a_month_as_many_may_leave_as_in_a_day() -> None:
    limits = GuardLimits(cohort_percent=60, platform_percent=50, floor=100)
    assert (limits.month.cohort_percent, limits.month.platform_percent, limits.month.floor) == (60, 50, 100)


# Several sources


def test_hostile_flood_of_one_source_does_not_hold_what_another_removes() -> None:
    cohorts = [of_sources(number, flood=leaving(6), nights=leaving(1)) for number in range(10)]
    found = judged(*cohorts, limits=NARROW)
    assert found.held == dict.fromkeys(((number, "flood") for number in range(10)), Limit.PLATFORM)


def test_hostile_source_that_keeps_below_the_limit_leaves_room_for_another() -> None:
    used = of_sources(1, members=60, flood=leaving(removed=40))
    assert judged(used, of_sources(2, nights=leaving(10)), limits=NARROW, unconcerned=800).held == {}
    more = judged(used, of_sources(2, flood=leaving(1), nights=leaving(10)), limits=NARROW, unconcerned=800)
    assert more.held == {(2, "flood"): Limit.PLATFORM}


def test_hostile_flood_into_one_cohort_does_not_hold_what_another_source_removes_from_it() -> None:
    assert judged(of_sources(flood=leaving(21), nights=leaving(3))).held == {(1, "flood"): Limit.COHORT}
    later = of_sources(flood=leaving(25, held=21), nights=leaving(3))
    assert judged(later).held == {(1, "flood"): Limit.COHORT}, "nor when it goes on"


def test_of_two_sources_that_are_too_much_together_the_larger_one_is_held() -> None:
    both = of_sources(flood=leaving(12), nights=leaving(9))
    assert judged(both).held == {(1, "flood"): Limit.COHORT}


def test_small_cohorts_emptied_by_one_source_do_not_hold_what_another_removes_from_small_ones() -> None:
    emptied = [of_sources(number, members=10, flood=leaving(10)) for number in (1, 2, 3)]
    closed = of_sources(4, members=4, nights=leaving(4))
    found = judged(*emptied, closed, limits=GuardLimits(), unconcerned=9_000)
    assert found.held == dict.fromkeys([(1, "flood"), (2, "flood"), (3, "flood")], Limit.SMALL_COHORTS)


@pytest.mark.parametrize(
    ("origin", "source"),
    [
        ("enrolments[3]@1042", "enrolments"),
        ("apogee.INS_ADM_ETP[0]@7", "apogee.INS_ADM_ETP"),
        ("snapshot enrolments[0]@1[2]#5", "snapshot"),
        ("run 12", "run"),
        ("settings 0a1b", "settings"),
    ],
)
def test_the_source_is_what_no_message_says_of_itself(origin: str, source: str) -> None:
    assert source_of(origin) == source


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


def test_the_share_of_an_empty_cohort_that_nobody_leaves_is_nothing() -> None:
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
    assert judged(cohort(pending=60), guard=SEASONAL, now=november, unconcerned=9900).held == {
        (1, "messages"): Limit.COHORT
    }
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
FLOORS = st.sampled_from([0, 2, 10])
LIMITS = st.builds(
    GuardLimits,
    cohort_percent=PERCENTS, platform_percent=PERCENTS, floor=FLOORS,
    month_cohort_percent=PERCENTS, month_platform_percent=PERCENTS, month_floor=FLOORS,
)  # fmt: skip
SOURCES = ("enrolments", "snapshot", "settings")


@st.composite
def concerned(draw: st.DrawFn) -> list[Removals]:
    """Draw cohorts: those who are to leave one are its members."""
    found = []
    for number in range(draw(st.integers(1, 6))):
        members = draw(st.integers(0, 60))
        by_source = {}
        left = members
        for source in draw(st.sets(st.sampled_from(SOURCES), min_size=1)):
            pending = draw(st.integers(0, left))
            held = draw(st.one_of(st.just(0), st.integers(0, pending)))
            done = st.integers(0, 10)
            by_source[source] = leaving(pending, held=held, removed=draw(done), in_month=draw(done))
            left -= pending
        found.append(of_sources(number, members=members, **by_source))
    return found


def passing(cohorts: Sequence[Removals], found: Judgement) -> dict[tuple[int, str], int]:
    """Say how many removals of each cohort and source are let pass."""
    return {
        (each.cohort_id, source): part.pending - part.held
        for each in cohorts
        for source, part in each.by_source.items()
        if (each.cohort_id, source) not in found.held
    }


def check_what_passes(cohorts: Sequence[Removals], found: Judgement, members: int) -> None:
    """Assert that it is within every limit, in both windows."""
    let = passing(cohorts, found)
    for window, limits in ((Window.DAY, found.limits.day), (Window.MONTH, found.limits.month)):
        together: Counter[str] = Counter()
        done, emptied, empties_more = 0, 0, False
        for each in cohorts:
            gone = each.removed(window)
            passes = sum(let.get((each.cohort_id, source), 0) for source in each.by_source)
            assert not passes or gone + passes <= limits.cohort(each.members + gone)
            if gone + passes > limits.share(each.members + gone) and 2 * (gone + passes) > each.members + gone:
                emptied += gone + passes
                empties_more = empties_more or passes > 0
            done += gone
            together.update({source: part.removed[window] for source, part in each.by_source.items()})
        passing_of: Counter[str] = Counter()
        for (_, source), number in let.items():
            passing_of[source] += number
        if passing_of.total():
            assert done + passing_of.total() <= limits.platform(members + done)
        for source, number in passing_of.items():
            assert not number or together[source] + number <= limits.source(members + done)
        assert not empties_more or emptied <= limits.floor


@given(concerned(), LIMITS, st.integers(0, 500))
def test_what_passes_is_within_every_limit(cohorts: list[Removals], limits: GuardLimits, others: int) -> None:
    found = judged(*cohorts, limits=limits, unconcerned=others)
    check_what_passes(cohorts, found, others + sum(each.members for each in cohorts))


@given(concerned(), LIMITS, st.integers(0, 500))
def test_nothing_is_held_without_a_limit_that_it_is_beyond(
    cohorts: list[Removals], limits: GuardLimits, others: int
) -> None:
    members = others + sum(each.members for each in cohorts)
    found = judged(*cohorts, limits=limits, unconcerned=others)
    for each in cohorts:
        for source, part in each.by_source.items():
            assert (each.cohort_id, source) not in found.held or part.pending > part.held
    all_pass = replace(found, held={})
    try:
        check_what_passes([with_all_counted(each) for each in cohorts], all_pass, members)
    except AssertionError:
        return
    assert found.held == {}


def with_all_counted(each: Removals) -> Removals:
    """Count those that are held, too."""
    return replace(each, by_source={source: replace(part, held=0) for source, part in each.by_source.items()})


@given(st.integers(0, 40), st.integers(0, 500), st.integers(0, 5), st.integers(0, 5), st.integers(500, 1000))
def test_whatever_one_source_does_another_has_a_fifth_of_the_platform_s_limit(
    used: int, flood: int, done: int, trickle: int, members: int
) -> None:
    before = members + used + done
    day = NARROW.day
    room = day.platform(before) - day.source(before)
    assume(done + trickle <= room and used <= day.source(before))
    both = of_sources(members=members, flood=leaving(flood, removed=used), nights=leaving(trickle, removed=done))
    assert (1, "nights") not in judged(both, limits=NARROW).held


@given(concerned(), LIMITS, st.randoms(use_true_random=False))
def test_the_order_of_the_cohorts_decides_nothing(cohorts: list[Removals], limits: GuardLimits, random: Random) -> None:
    shuffled = random.sample(cohorts, len(cohorts))
    assert judged(*shuffled, limits=limits) == judged(*cohorts, limits=limits)


@given(concerned(), LIMITS)
def test_a_guard_that_is_off_never_holds(cohorts: list[Removals], limits: GuardLimits) -> None:
    assert judged(*cohorts, guard=Guard(enabled=False, limits=limits)).held == {}


Step = tuple[float, int, str, int]
"""Seconds later, so many of a cohort are to leave: (seconds, cohort, source, leaving)."""
STEPS = st.lists(
    st.tuples(
        st.sampled_from([60.0, 3600.0, WINDOW_SECONDS - 1, WINDOW_SECONDS, 5 * WINDOW_SECONDS]),
        st.integers(0, 2),
        st.sampled_from(SOURCES),
        st.integers(0, 40),
    ),
    max_size=25,
)


@given(STEPS, LIMITS, st.lists(st.integers(0, 80), min_size=3, max_size=3))
@settings(max_examples=300)
def test_in_no_day_and_no_month_do_more_leave_than_the_limits_let(
    steps: list[Step], limits: GuardLimits, sizes: list[int]
) -> None:
    now, members = NOW, dict(enumerate(sizes))
    held: Counter[tuple[int, str]] = Counter()
    left: list[tuple[float, tuple[int, str]]] = []  # when, and which cohort by which source
    for seconds, number, source, going in steps:
        now += seconds
        staying = members[number] - sum(held[number, each] for each in SOURCES)
        pending = held + Counter({(number, source): min(going, staying)})
        cohorts = [
            of_sources(
                its,
                members=members[its],
                **{
                    each: Leaving(
                        removed={w: sum(at > now - w.value for at, of in left if of == (its, each)) for w in Window},
                        pending=pending[its, each],
                        held=held[its, each],
                    )
                    for each in SOURCES
                },
            )
            for its in range(3)
        ]
        found = judged(*cohorts, limits=limits)
        check_what_passes(cohorts, found, sum(members.values()))
        for part, let in passing(cohorts, found).items():
            left += [(now, part)] * let
            members[part[0]] -= let
        held = Counter({part: pending[part] if part in found.held else held[part] for part in pending})


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
