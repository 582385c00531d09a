"""Who is who, again and again: accounts change hands, on Moodle and at the source, and the right persons are in."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.world import ADD, COALESCE, HOUR, TOKEN, Build, World, platform
from tests.wire.sync.test_reconcile import drift, image, night, of
from worker.domain import accounts as confirmation
from worker.domain.guard import Guard, GuardLimits
from worker.domain.idnumbers import fold
from worker.domain.rules import AccountField, Policy
from worker.domain.states import Drift, Language, PlatformState, RunState
from worker.explain import explain, render
from worker.ledger import student_view
from worker.runtime.accounts import account_sentences
from worker.sandbox.moodle.server import SandboxMoodle
from worker.settings.platforms import Strangers

DAY = 24 * HOUR
LOOK_UP = "core_user_get_users_by_field"
ENOUGH = 3
"""Nights after which everything is right on a small platform: one confirms, one finds what that one's writing left."""
BY_NUMBER = platform(account_field=AccountField.IDNUMBER)
BY_LOGIN = platform(account_template="{login}")
DROIT, HISTOIRE = "L1DROI", "L1HIST"


def numbered(build: Build, **more: object) -> tuple[World, dict[str, int]]:
    """Build a world whose accounts are called by number: s1 and s2 in law, s3 in history, and s4 nowhere."""
    world = build(BY_NUMBER, **more)
    students = ("s1", "s2", "s3", "s4")
    users = dict(zip(students, world.moodle.add_users((f"u{each}", each) for each in students), strict=True))
    for student, etape in (("s1", DROIT), ("s2", DROIT), ("s3", HISTOIRE), ("s4", DROIT)):
        world.enrol(student, etape)
    world.wait(COALESCE)
    world.resign("s4", DROIT)
    world.wait(HOUR)
    assert members(world) == {DROIT: {users["s1"], users["s2"]}, HISTOIRE: {users["s3"]}}
    world.now += HOUR
    return world, users


def members(world: World) -> dict[str, set[int]]:
    """Return the accounts in each cohort."""
    return {cohort.idnumber: world.moodle.members(cohort.id) for cohort in world.moodle.cohorts()}


def settled(world: World) -> None:
    """Let another night and day pass: nothing is found, and nothing written, any more."""
    before, writes = members(world), len([call for call in world.moodle.calls if call.writes])
    report = night(world, image(world))
    world.days_later(1)
    assert (drift(report), members(world)) == ({}, before)
    assert len([call for call in world.moodle.calls if call.writes]) == writes


def explained(world: World, student: str) -> str:
    policy = Policy(uais=frozenset({"0141408E"}), active_years=frozenset({2026}), platforms=tuple(world.platforms))
    view = student_view.read(world.ledger, policy, student)
    return render(explain(view, policy, now=world.now), Language.FR, ZoneInfo("Europe/Paris"))


# --- On Moodle ---


def test_students_whose_numbers_were_swapped_are_each_where_they_belong_after_a_night(build: Build) -> None:
    world, users = numbered(build)
    world.moodle.change_user(users["s1"], idnumber="s3")
    world.moodle.change_user(users["s3"], idnumber="s1")
    report = night(world, image(world))
    assert drift(report) == {Drift.CHANGED_HANDS: 2}
    world.wait(HOUR)
    assert members(world) == {DROIT: {users["s3"], users["s2"]}, HISTOIRE: {users["s1"]}}
    assert f"(compte n° {users['s3']})" in explained(world, "s1")
    settled(world)


def test_two_students_of_one_cohort_whose_numbers_were_swapped_stay_and_leave_by_the_account_that_is_theirs(
    build: Build,
) -> None:
    world, users = numbered(build)
    world.moodle.change_user(users["s1"], idnumber="s2")
    world.moodle.change_user(users["s2"], idnumber="s1")
    world.moodle.calls.clear()
    assert drift(night(world, image(world))) == {Drift.CHANGED_HANDS: 2}
    assert not any(call.writes for call in world.moodle.calls)
    world.now += HOUR
    world.resign("s1", DROIT)
    world.wait(HOUR)
    assert members(world)[DROIT] == {users["s1"]}
    settled(world)


@pytest.mark.parametrize("number", ["", "s4", "nobody's"])
def test_a_number_that_was_given_to_another_account_takes_its_place_along(build: Build, number: str) -> None:
    world, users = numbered(build)
    world.moodle.change_user(users["s4"], idnumber="")
    world.moodle.change_user(users["s1"], idnumber=number)
    (new,) = world.moodle.add_users([("new", "s1")])
    assert drift(night(world, image(world)))[Drift.CHANGED_HANDS] == 1
    world.wait(HOUR)
    assert members(world)[DROIT] == {new, users["s2"]}
    settled(world)


def test_when_both_accounts_are_there_the_one_that_is_not_theirs_leaves(build: Build) -> None:
    world, users = numbered(build)
    world.moodle.change_user(users["s1"], idnumber="")
    (new,) = world.moodle.add_users([("new", "s1")])
    world.moodle.add_member(world.cohort_id(DROIT), new)
    assert drift(night(world, image(world))) == {Drift.CHANGED_HANDS: 1}
    world.wait(HOUR)
    assert members(world)[DROIT] == {new, users["s2"]}
    settled(world)


def test_of_a_student_with_two_accounts_the_member_stays(build: Build) -> None:
    world, users = numbered(build)
    (second,) = world.moodle.add_users([("second", "s1")])
    settled(world)
    world.moodle.add_member(world.cohort_id(DROIT), second)
    assert of(night(world, image(world))).strangers == 0
    assert members(world)[DROIT] == {users["s1"], users["s2"], second}


def test_an_account_that_was_deleted_and_made_anew_is_a_member_again(build: Build) -> None:
    world, users = numbered(build)
    world.moodle.delete_user(users["s1"])
    (new,) = world.moodle.add_users([("new", "s1")])
    assert drift(night(world, image(world))) == {Drift.GONE_ACCOUNT: 1}
    world.wait(HOUR)
    assert members(world)[DROIT] == {new, users["s2"]}
    settled(world)


@pytest.mark.parametrize("strangers", Strangers)
def test_an_account_that_lost_its_number_stays_until_it_is_known_who_has_it(build: Build, strangers: Strangers) -> None:
    world, users = numbered(build)
    world.moodle.change_user(users["s1"], idnumber="S-1")
    report = night(world, image(world), strangers=strangers)
    world.wait(HOUR)
    assert (drift(report), of(report).unconfirmed, of(report).strangers) == ({}, 1, 0)
    assert members(world)[DROIT] == {users["s1"], users["s2"]}
    assert "plus rien ne confirme que ce compte est le sien" in explained(world, "s1")
    (new,) = world.moodle.add_users([("new", "s1")])
    assert drift(night(world, image(world), strangers=strangers)) == {Drift.CHANGED_HANDS: 1}
    world.wait(HOUR)
    assert members(world)[DROIT] == {new, users["s2"]}
    settled(world)


def test_an_account_that_lost_its_number_leaves_with_its_student(build: Build) -> None:
    world, users = numbered(build)
    world.moodle.change_user(users["s1"], idnumber="")
    night(world, image(world))
    world.now += HOUR
    world.resign("s1", DROIT)
    world.wait(HOUR)
    assert members(world)[DROIT] == {users["s2"]}


def test_an_unclean_account_stays_whatever_became_of_its_number(build: Build) -> None:
    world, users = numbered(build)
    world.moodle.change_user(users["s1"], idnumber="", auth="gone")
    report = night(world, image(world))
    world.wait(HOUR)
    assert (report.state, drift(report)) == (RunState.DONE, {})
    assert [f"(Moodle's ids {users['s1']})" in sentence for sentence in account_sentences(world.ledger, "ecampus")] == [
        True
    ]
    assert "mais Moodle refuse de le montrer" in explained(world, "s1")
    assert users["s1"] in members(world)[DROIT]
    world.moodle.change_user(users["s1"], idnumber="s3", auth="manual")
    world.moodle.change_user(users["s3"], idnumber="s1")
    night(world, image(world))
    world.wait(HOUR)
    assert members(world) == {DROIT: {users["s3"], users["s2"]}, HISTOIRE: {users["s1"]}}


def test_wrong_persons_are_removed_through_the_guard_and_right_ones_do_not_wait(build: Build) -> None:
    guard = Guard(limits=GuardLimits(cohort_percent=20, platform_percent=100, floor=0))
    world = build(BY_NUMBER, guard=guard)
    old = world.moodle.add_users((f"old{each}", f"s{each}") for each in range(10))
    for each in range(10):
        world.enrol(f"s{each}", DROIT)
    world.wait(COALESCE)
    world.now += HOUR
    for user_id in old:
        world.moodle.change_user(user_id, idnumber="")
    new = world.moodle.add_users((f"new{each}", f"s{each}") for each in range(10))
    report = night(world, image(world))
    world.wait(HOUR)
    assert (drift(report), of(report).held) == ({Drift.CHANGED_HANDS: 10}, 10)
    assert members(world)[DROIT] == {*old, *new}


def test_a_token_that_lost_its_sight_at_night_changes_nothing(build: Build) -> None:
    world, users = numbered(build)
    world.moodle.capabilities.remove("moodle/user:viewalldetails")
    report = night(world, image(world))
    assert report.state is RunState.PARTIAL
    assert "viewalldetails" in (of(report).error or "")
    world.moodle.capabilities.add("moodle/user:viewalldetails")
    world.now += HOUR
    settled(world)
    assert members(world)[DROIT] == {users["s1"], users["s2"]}


# --- At the source ---


def logged_in(build: Build, *logins: str) -> tuple[World, dict[str, int]]:
    """Build a world whose accounts are called by login, with the student s1, whose login is `old`, in law."""
    world = build(BY_LOGIN)
    users = dict(zip(logins, world.accounts(*logins), strict=True))
    world.enrol("s1", DROIT, login="old")
    world.wait(COALESCE)
    world.now += HOUR
    assert members(world) == {DROIT: {users["old"]}}
    world.moodle.calls.clear()
    return world, users


def test_a_login_that_changes_takes_the_place_along_at_once(build: Build) -> None:
    world, users = logged_in(build, "old", "new")
    world.enrol("s1", DROIT, login="new")
    world.wait(COALESCE)
    world.a_minute_later()
    assert members(world) == {DROIT: {users["new"]}}
    assert world.gaps() == {}


def test_a_login_that_changes_with_its_account_writes_nothing(build: Build) -> None:
    world, users = logged_in(build, "old")
    world.moodle.change_user(users["old"], username="new")
    world.enrol("s1", DROIT, login="new")
    world.wait(COALESCE)
    world.a_minute_later()
    assert members(world) == {DROIT: {users["old"]}}
    assert world.gaps() == {}
    assert not any(call.writes for call in world.moodle.calls)
    assert "Doit être membre, et l'est." in explained(world, "s1")


def test_a_login_whose_account_does_not_exist_yet_leaves_the_member_there_until_it_does(build: Build) -> None:
    world, users = logged_in(build, "old")
    world.enrol("s1", DROIT, login="new")
    world.wait(COALESCE)
    night(world)
    world.wait(HOUR)
    assert members(world) == {DROIT: {users["old"]}}
    assert "plus rien ne confirme" in explained(world, "s1")
    (new,) = world.accounts("new")
    assert drift(night(world)) == {Drift.CHANGED_HANDS: 1}
    world.wait(HOUR)
    assert members(world) == {DROIT: {new}}


def test_a_login_that_becomes_another_students_takes_nobody_along(build: Build) -> None:
    world, users = logged_in(build, "old", "new")
    world.enrol("s1", DROIT, login="new")
    world.enrol("s2", HISTOIRE, login="old")
    world.wait(COALESCE)
    world.wait(HOUR)
    assert members(world) == {DROIT: {users["new"]}, HISTOIRE: {users["old"]}}


def test_a_worker_that_dies_between_the_new_account_and_the_old_one_leaves_neither_out(build: Build) -> None:
    world, users = logged_in(build, "old", "new")
    world.enrol("s1", DROIT, login="new")

    @contextmanager
    def dying(function: str) -> Iterator[None]:
        if function == ADD:
            raise SystemExit
        yield

    with world.around(dying), pytest.raises(SystemExit):
        world.wait(COALESCE)
    world.wait(HOUR)
    world.wait(HOUR)
    assert members(world) == {DROIT: {users["new"]}}


# --- Slices ---


def test_every_account_is_confirmed_within_the_nights_that_the_settings_say(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confirmation, "SMALL", 1)
    world = build(BY_NUMBER)
    users = world.moodle.add_users((f"u{each}", f"s{each}") for each in range(20))
    for each in range(20):
        world.enrol(f"s{each}", DROIT if each % 2 else HISTOIRE)
    world.wait(COALESCE)
    right = members(world)
    for each in range(0, 20, 2):
        world.moodle.change_user(users[each], idnumber=f"s{each + 1}")
        world.moodle.change_user(users[each + 1], idnumber=f"s{each}")
    asked = []
    for _ in range(7):
        world.moodle.calls.clear()
        night(world, image(world))
        asked.append(max(call.items for call in world.moodle.calls if call.function == LOOK_UP))
        world.wait(DAY)
    assert max(asked[:2]) <= 6  # a seventh, and those whose number another one has turned out to have
    assert members(world) == {DROIT: right[HISTOIRE], HISTOIRE: right[DROIT]}


# --- Near matches ---


@pytest.mark.parametrize(
    ("number", "stored"),
    [("23000123", "23000123 "), ("22A0001", "22a0001"), ("e00003001", "E00003001"), ("dupre", "dupré")],
)
def test_an_account_of_almost_that_number_is_named_and_not_used(build: Build, number: str, stored: str) -> None:
    moodle = SandboxMoodle(token=TOKEN, name="ecampus", collation=fold)
    with moodle.serving():
        world = build(BY_NUMBER, moodles={"ecampus": moodle})
        near, other = moodle.add_users([("near", stored), ("other", "s2")])
        world.enrol(number, DROIT)
        world.enrol("s2", DROIT)
        world.wait(COALESCE)
        assert world.status().reasons == {"near_match": 1}
        assert members(world) == {DROIT: {other}}
        assert f"(n° {near})" in explained(world, number)
        (sentence,) = account_sentences(world.ledger, "ecampus")
        assert "with one of almost the same (case, accents, spaces): 1" in sentence
        assert f"(Moodle's ids {near})" in sentence
        moodle.change_user(near, idnumber=number)
        world.days_later(1)
        assert members(world) == {DROIT: {near, other}}


def test_a_site_that_keeps_spellings_apart_has_no_near_match(build: Build) -> None:
    world = build(BY_NUMBER)
    world.moodle.add_users([("near", "S1"), ("other", "s2")])
    world.enrol("s1", DROIT)
    world.wait(COALESCE)
    assert world.status().reasons == {"no_account": 1}


# --- Unclean accounts among others ---


@pytest.mark.parametrize("number", [1, 2, 20])
def test_new_students_who_all_have_unclean_accounts_stop_nobody(build: Build, number: int) -> None:
    world, _ = numbered(build)
    unclean = world.moodle.add_users((f"x{each}", f"x{each}") for each in range(number))
    for user_id in unclean:
        world.moodle.change_user(user_id, auth="gone")
    for each in range(number):
        world.enrol(f"x{each}", DROIT)
    world.wait(COALESCE)
    assert world.status().state is PlatformState.UP
    assert world.status().reasons == {"unclean_account": number}
    for user_id in unclean:
        world.moodle.change_user(user_id, auth="manual")
    world.days_later(1)
    assert members(world)[DROIT] >= {*unclean}


# --- A law ---

PEOPLE = [f"s{number}" for number in range(6)]
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("swap"), st.integers(0, 8), st.integers(0, 8)),
        st.tuples(st.just("rename"), st.integers(0, 8), st.sampled_from(["", "nobody", *PEOPLE])),
        st.tuples(st.just("create"), st.sampled_from(PEOPLE), st.none()),
        st.tuples(st.just("delete"), st.integers(0, 8), st.none()),
        st.tuples(st.just("join"), st.integers(0, 8), st.sampled_from([DROIT, HISTOIRE])),
        st.tuples(st.just("unclean"), st.integers(0, 8), st.none()),
        st.tuples(st.just("night"), st.none(), st.none()),
    ),
    max_size=12,
)


def change(world: World, what: str, one: object, two: object) -> None:
    """Do to the site what a person does who changes, makes or deletes accounts."""
    moodle = world.moodle
    living = [user.id for user in moodle.users.values() if not user.deleted and user.id > 3]
    if what == "night":
        night(world, image(world))
        world.wait(DAY)
    elif what == "create":
        moodle.add_users([(f"new{len(moodle.users)}", str(one))])
    elif isinstance(one, int) and one < len(living):
        user = living[one]
        if what == "swap" and isinstance(two, int) and two < len(living):
            former = moodle.users[living[two]].idnumber
            moodle.change_user(living[two], idnumber=moodle.users[user].idnumber)
            moodle.change_user(user, idnumber=former)
        elif what == "rename":
            moodle.change_user(user, idnumber=str(two))
        elif what == "delete":
            moodle.delete_user(user)
        elif what == "join":
            moodle.add_member(world.cohort_id(str(two)), user)
        elif what == "unclean":
            moodle.change_user(user, auth="manual" if moodle.users[user].auth == "gone" else "gone")


@settings(max_examples=40, deadline=None)
@given(changes=CHANGES)
def test_whatever_becomes_of_accounts_after_enough_nights_the_right_persons_are_in_and_nobody_who_is_known_is_wrong(
    *, changes: list[tuple[str, object, object]]
) -> None:
    with TemporaryDirectory() as folder, ExitStack() as stack:
        world = World(f"sqlite:///{Path(folder) / 'ledger.db'}", [BY_NUMBER], stack)
        world.moodle.add_users((f"u{number}", number) for number in PEOPLE)
        for rank, number in enumerate(PEOPLE):
            world.enrol(number, DROIT if rank % 2 else HISTOIRE)
        world.wait(COALESCE)
        world.now += HOUR
        for each in changes:
            change(world, *each)
        for _ in range(ENOUGH):
            night(world, image(world))
            world.wait(DAY)
        check(world)


def check(world: World) -> None:
    clean = [user for user in world.moodle.users.values() if not user.deleted and user.auth != "gone"]
    named = [user.idnumber for user in world.moodle.users.values() if not user.deleted]
    for etape, students in world.truth().items():
        there = members(world)[etape]
        for user in clean:
            if user.idnumber in students and named.count(user.idnumber) == 1:
                assert user.id in there, "the account that alone has the number of a student is in"
            if user.idnumber in PEOPLE and user.idnumber not in students:
                assert user.id not in there, "nobody's account is in who is known not to belong there"
