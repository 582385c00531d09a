"""What a reading of one cohort says, case by case, and what holds of any."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.domain.drift import CohortDiff, KnownMembership, MembershipDiff, People, compare
from worker.domain.instants import Instant
from worker.domain.states import Drift

AT: Instant = 1000.0
"""When the reading began."""
NOBODY = CohortDiff(seen=(), extras=(), unmatched=())
MEMBER = KnownMembership(student_id="eve", desired=True, observed=True, observed_at=AT - 60, user_id=31)
WANTED = MEMBER._replace(observed=False, user_id=None)
LEAVING = MEMBER._replace(desired=False)
LEFT = WANTED._replace(desired=False)


def people(accounts: Mapping[str, int], *, gone: AbstractSet[int] = frozenset(), **former: int) -> People:
    """Tell accounts by student; `former` ones are theirs too, as those of merged numbers are."""
    students = {user_id: student for student, user_id in former.items()}
    return People(
        accounts=accounts, students=students | {user_id: student for student, user_id in accounts.items()}, gone=gone
    )


EVE = people({"eve": 31})


def sight(
    *known: KnownMembership, members: AbstractSet[int] = frozenset(), who: People = EVE, in_flight: bool = False
) -> CohortDiff:
    return compare(known, members, who, at=AT, in_flight=in_flight)


def one(*known: KnownMembership, members: AbstractSet[int] = frozenset(), who: People = EVE) -> MembershipDiff:
    """Give the only thing that is seen."""
    found = sight(*known, members=members, who=who)
    (seen,) = found.seen
    assert (found.extras, found.unmatched) == ((), ())
    return seen


# As it was left


@pytest.mark.parametrize(
    ("known", "members"),
    [
        (MEMBER, {31}),
        (LEAVING, {31}),
        (LEFT, set[int]()),
        (WANTED, set[int]()),
        (LEFT._replace(user_id=31), set[int]()),
    ],
)
def test_a_member_who_is_as_we_left_them_is_nothing_new(known: KnownMembership, members: set[int]) -> None:
    assert sight(known, members=members) == NOBODY


# What somebody else did


def test_a_member_who_is_there_no_more_is_missing_and_keeps_their_account() -> None:
    assert one(MEMBER) == MembershipDiff(student_id="eve", present=False, user_id=31, drift=Drift.MISSING)


def test_a_member_whose_account_was_deleted_is_to_get_another() -> None:
    seen = one(MEMBER, who=people({}, gone={31}))
    assert seen == MembershipDiff(student_id="eve", present=False, user_id=None, drift=Drift.GONE_ACCOUNT)


def test_somebody_who_had_left_and_is_there_again_is_extra() -> None:
    assert one(LEFT, members={31}) == MembershipDiff(student_id="eve", present=True, user_id=31, drift=Drift.EXTRA)


def test_a_student_who_never_was_to_be_there_is_extra() -> None:
    assert sight(members={31}) == CohortDiff(seen=(), extras=(("eve", 31),), unmatched=())


def test_an_account_of_no_student_is_unmatched() -> None:
    assert sight(MEMBER, members={31, 99, 98}) == CohortDiff(seen=(), extras=(), unmatched=(98, 99))


# What comes nearer to what is desired


def test_somebody_who_is_there_before_we_put_them_there_is_no_drift() -> None:
    assert one(WANTED, members={31}) == MembershipDiff(student_id="eve", present=True, user_id=31, drift=None)


@pytest.mark.parametrize("gone", [set[int](), {31}])
def test_somebody_whom_others_removed_before_we_did_is_no_drift(gone: set[int]) -> None:
    seen = one(LEAVING, who=people({"eve": 31}, gone=gone))
    assert seen == MembershipDiff(student_id="eve", present=False, user_id=None, drift=None)


# What was unknown


@pytest.mark.parametrize("desired", [True, False])
@pytest.mark.parametrize("present", [True, False])
def test_a_call_of_unknown_outcome_is_cleared_up_and_is_no_drift(*, desired: bool, present: bool) -> None:
    unsure = MEMBER._replace(desired=desired, observed=None)
    seen = one(unsure, members={31} if present else set())
    assert (seen.present, seen.drift) == (present, None)
    assert seen.user_id == (31 if present or desired else None)


def test_while_a_call_may_be_going_on_its_outcome_stays_unknown() -> None:
    unsure = MEMBER._replace(observed=None)
    assert sight(unsure, members={31}, in_flight=True) == NOBODY
    assert sight(MEMBER, in_flight=True).seen[0].drift is Drift.MISSING, "this one is in no call"


@pytest.mark.parametrize("members", [set[int](), {31}])
@pytest.mark.parametrize("desired", [True, False])
@pytest.mark.parametrize("observed", [True, False, None])
def test_what_was_learnt_since_the_reading_began_is_newer(
    *, members: set[int], desired: bool, observed: bool | None
) -> None:
    newer = KnownMembership(student_id="eve", desired=desired, observed=observed, observed_at=AT + 0.5, user_id=31)
    assert sight(newer, members=members) == NOBODY


# One person, two numbers, two accounts


def test_the_account_of_merged_numbers_stays_for_the_one_that_lives_on() -> None:
    former = LEFT._replace(student_id="old", user_id=31)
    assert sight(former, MEMBER, members={31}) == NOBODY


def test_an_account_that_was_made_anew_takes_the_place_of_the_deleted_one() -> None:
    anew = people({"eve": 32}, gone={31})
    assert one(MEMBER, members={32}, who=anew) == MembershipDiff(student_id="eve", present=True, user_id=32, drift=None)
    assert one(LEAVING, members={32}, who=anew) == MembershipDiff(
        student_id="eve", present=True, user_id=32, drift=None
    )
    assert one(MEMBER, who=anew).drift is Drift.GONE_ACCOUNT, "it must be put there first"


def test_a_second_account_of_a_member_does_not_end_their_membership() -> None:
    assert sight(MEMBER, members={31, 32}, who=people({"eve": 31}, eve=32)) == NOBODY
    both = People(accounts={}, students={31: "eve", 32: "eve"}, gone=set())
    assert sight(MEMBER, members={31, 32}, who=both) == NOBODY, "nobody knows which of the two is theirs"


# Accounts that change hands


def test_a_member_whose_account_is_another_students_is_to_get_their_own_and_the_other_is_to_leave() -> None:
    swapped = people({"eve": 32, "bob": 31})
    found = sight(MEMBER, members={31}, who=swapped)
    assert found.seen == (MembershipDiff(student_id="eve", present=False, user_id=32, drift=Drift.CHANGED_HANDS),)
    assert (found.misplaced, found.extras, found.unmatched) == ((("bob", 31),), (), ())


def test_a_member_who_has_another_account_leaves_with_the_old_one_although_it_is_nobodys() -> None:
    found = sight(MEMBER, members={31}, who=people({"eve": 32}))
    assert [seen.drift for seen in found.seen] == [Drift.CHANGED_HANDS]
    assert (found.misplaced, found.extras, found.unmatched) == ((("#31", 31),), (), ())


def test_a_member_whose_two_accounts_are_there_keeps_the_one_that_is_theirs() -> None:
    found = sight(MEMBER, members={31, 32}, who=people({"eve": 32}))
    assert found.seen == (MembershipDiff(student_id="eve", present=True, user_id=32, drift=Drift.CHANGED_HANDS),)
    assert found.misplaced == (("#31", 31),)


def test_two_members_whose_accounts_were_swapped_stay_in_their_cohort() -> None:
    bob = MEMBER._replace(student_id="bob", user_id=32)
    found = sight(MEMBER, bob, members={31, 32}, who=people({"eve": 32, "bob": 31}))
    assert {(seen.student_id, seen.user_id, seen.present) for seen in found.seen} == {
        ("eve", 32, True),
        ("bob", 31, True),
    }
    assert (found.misplaced, found.extras) == ((), ())


@pytest.mark.parametrize(
    "who",
    [
        pytest.param(people({}), id="its name is nobody's, and nobody has theirs"),
        pytest.param(People(accounts={}, students={}, gone=set(), unclean={31}), id="Moodle doesn't show it"),
    ],
)
def test_a_member_of_whose_account_nothing_is_known_stays(who: People) -> None:
    found = sight(MEMBER, members={31}, who=who)
    assert (found.seen, found.misplaced, found.extras) == ((), (), ())
    assert found.unconfirmed == (31 not in who.unclean)


def test_an_account_that_two_students_are_called_by_is_not_another_s() -> None:
    shared = People(accounts={"bob": 31, "eve": 31}, students={31: "bob"}, gone=set(), shared={31: {"bob", "eve"}})
    assert sight(MEMBER, members={31}, who=shared) == NOBODY


def test_a_membership_that_a_person_keeps_under_a_former_number_is_the_same_persons() -> None:
    who = People(accounts={"new": 31}, students={31: "new"}, gone=set(), survivors={"eve": "new"})
    assert sight(MEMBER, members={31}, who=who) == NOBODY


def test_an_account_that_changed_hands_after_the_reading_began_is_not_judged_by_it() -> None:
    found = sight(MEMBER._replace(observed_at=AT + 1), members={31}, who=people({"eve": 32, "bob": 31}))
    assert (found.seen, found.misplaced, found.extras) == ((), (), ())


def test_the_account_of_a_former_number_is_its_bearer_s() -> None:
    found = compare(
        [LEFT], {32}, People(accounts={"eve": 31}, students={31: "eve", 32: "eve"}, gone=set()), at=AT, in_flight=False
    )
    assert found == CohortDiff(
        seen=(MembershipDiff(student_id="eve", present=True, user_id=32, drift=Drift.EXTRA),), extras=(), unmatched=()
    )


def test_a_student_whose_numbers_were_merged_is_to_be_there_by_the_account_of_the_one_that_lives_on() -> None:
    who = people({"eve": 31}, eve=32)
    former = LEAVING._replace(student_id="old", user_id=32)
    assert sight(former, WANTED, members={32}, who=who) == NOBODY, "one is to be added, the other to be removed"
    assert one(MEMBER, members={32}, who=who).drift is Drift.MISSING
    assert one(WANTED, members={32}, who=people({}, eve=32)).user_id == 32, "they have no other account"


# Laws

USERS = st.integers(1, 6)
STUDENTS = st.sampled_from(["ada", "bob", "cyd", "dan"])
FLAGS = st.sampled_from([True, False, None])
KNOWN = st.lists(
    st.builds(
        KnownMembership,
        student_id=STUDENTS,
        desired=st.booleans(),
        observed=FLAGS,
        observed_at=st.sampled_from([AT - 60, AT, AT + 60]),
        user_id=st.none() | USERS,
    ),
    unique_by=lambda row: row.student_id,
)
MEMBERS = st.frozensets(USERS)


@st.composite
def crowds(draw: st.DrawFn) -> People:
    """Draw who is who: accounts have an owner at most, some students two, and some accounts are gone."""
    students = draw(st.dictionaries(USERS, STUDENTS))
    accounts = {student: user_id for user_id, student in students.items()}
    return People(accounts=accounts, students=students, gone=draw(st.frozensets(USERS)) - students.keys())


def apply(known: Sequence[KnownMembership], found: CohortDiff, at: Instant) -> list[KnownMembership]:
    """Write what was seen, as the ledger does."""
    rows = {row.student_id: row for row in known}
    for seen in found.seen:
        rows[seen.student_id] = rows[seen.student_id]._replace(
            observed=seen.present, user_id=seen.user_id, observed_at=at
        )
    for student, user_id in found.extras + found.misplaced:
        assert student not in rows or rows[student].observed_at == at, "nobody's membership is overwritten"
        rows[student] = KnownMembership(
            student_id=student, desired=False, observed=True, observed_at=at, user_id=user_id
        )
    return list(rows.values())


@given(known=KNOWN, members=MEMBERS, who=crowds(), in_flight=st.booleans())
def test_every_member_is_tied_or_extra_or_unmatched(
    *, known: list[KnownMembership], members: frozenset[int], who: People, in_flight: bool
) -> None:
    found = sight(*known, members=members, who=who, in_flight=in_flight)
    extra = [user_id for _, user_id in found.extras + found.misplaced]
    named = [*extra, *found.unmatched]
    assert len(named) == len(set(named))
    assert set(named) <= members
    rows = {row.student_id: row.user_id for row in known}
    assert all(who.students[user_id] == student and student not in rows for student, user_id in found.extras)
    assert not who.students.keys() & set(found.unmatched)
    for user_id in members - set(named):
        assert user_id in rows.values() or who.students.get(user_id) in rows


@given(known=KNOWN, members=MEMBERS, who=crowds(), in_flight=st.booleans())
def test_what_is_newer_than_the_reading_is_untouched(
    *, known: list[KnownMembership], members: frozenset[int], who: People, in_flight: bool
) -> None:
    found = sight(*known, members=members, who=who, in_flight=in_flight)
    newer = {row.student_id for row in known if row.observed_at > AT}
    assert not newer & ({seen.student_id for seen in found.seen} | {student for student, _ in found.extras})


@given(known=KNOWN, members=MEMBERS, who=crowds(), in_flight=st.booleans())
def test_reading_the_same_again_finds_nothing_new(
    *, known: list[KnownMembership], members: frozenset[int], who: People, in_flight: bool
) -> None:
    found = sight(*known, members=members, who=who, in_flight=in_flight)
    rows = apply(known, found, AT + 10)
    again = compare(rows, members, who, at=AT + 20, in_flight=in_flight)
    assert again.misplaced == ()
    old = {row.student_id for row in known if row.observed_at <= AT}
    assert [seen for seen in again.seen if seen.student_id in old] == []
    assert again.extras == ()
    assert again.unmatched == found.unmatched


@given(KNOWN, crowds())
def test_members_as_they_were_left_are_nothing_new(known: list[KnownMembership], who: People) -> None:
    settled = [
        row._replace(observed=row.user_id is not None)
        for row in known
        if (
            row.student_id not in who.accounts
            if row.user_id is None
            else not who.is_anothers(row.user_id, row.student_id)
        )
    ]
    members = {row.user_id for row in settled if row.user_id is not None}
    found = compare(settled, members, who, at=AT, in_flight=False)
    assert replace(found, unconfirmed=0) == NOBODY


@given(KNOWN, MEMBERS, crowds())
def test_drift_is_told_of_gaps_alone_that_nobody_knew_of(
    known: list[KnownMembership], members: frozenset[int], who: People
) -> None:
    rows = {row.student_id: row for row in known}
    for seen in sight(*known, members=members, who=who).seen:
        row = rows[seen.student_id]
        unannounced = row.observed is row.desired and seen.present is not row.desired
        if seen.drift is Drift.CHANGED_HANDS:
            assert row.desired
            assert row.user_id in members
            continue
        assert (seen.drift is not None) == unannounced
        assert (seen.drift is Drift.EXTRA) == (unannounced and seen.present)
