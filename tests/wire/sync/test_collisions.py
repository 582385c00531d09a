"""Idnumbers that MariaDB takes for one: cohorts that can't be created or renamed, and whose turn comes later."""

import pytest

from tests.support.world import ADD, CREATE, UPDATE, Build, World, platform
from tests.wire.sync.test_reconcile import drift, image, night, of
from worker.domain.cohorts import BlockedCohort
from worker.domain.idnumbers import fold
from worker.domain.rules import Mode
from worker.domain.states import Blockage, CohortState, RunState
from worker.ledger.blocked import try_again
from worker.sandbox.moodle.server import Fault


@pytest.fixture
def mariadb(world: World) -> World:
    """A world whose Moodle compares idnumbers as MariaDB does."""
    world.moodle.collation = fold
    return world


def blocked(world: World) -> dict[str, tuple[Blockage, str | None]]:
    """Return why cohorts wait for a person, and the idnumber of what is in their way."""
    return {each.idnumber: (each.why, each.blocker) for each in world.status().blocked}


# --- Creating ---


@pytest.mark.parametrize(
    ("first", "second"),
    [("C2ABC", "C2abc"), ("C2ETE", "C2ÉTÉ"), ("C2SS", "C2ß"), ("C2", "C2 "), ("C2\U0001f600", "C2\U0001f680")],
)
def test_of_two_etapes_that_the_database_takes_for_one_the_second_waits_for_a_person(
    mariadb: World, first: str, second: str
) -> None:
    mariadb.enrol("s1", first)
    mariadb.a_minute_later()
    mariadb.enrol("s2", second)
    mariadb.enrol("s3", "L1DROI")
    mariadb.a_minute_later()
    assert mariadb.members() == {first: {"s1"}, "L1DROI": {"s3"}}
    assert mariadb.gaps() == {"colliding": 1}
    assert mariadb.status().blocked == (
        BlockedCohort(
            idnumber=second,
            why=Blockage.COLLIDING,
            students=1,
            blocker=first,
            blocker_id=mariadb.cohort_id(first),
            code=None,
        ),
    )


def test_etapes_that_are_created_together_and_collide_are_told_apart_by_who_came_first(mariadb: World) -> None:
    mariadb.enrol("s1", "C2ABC")
    mariadb.enrol("s2", "C2abc")
    mariadb.enrol("s3", "L1DROI")
    mariadb.a_minute_later()
    ((loser, (why, winner)),) = blocked(mariadb).items()
    assert {loser, winner} == {"C2ABC", "C2abc"}
    assert why is Blockage.COLLIDING
    assert mariadb.members().keys() == {winner, "L1DROI"}


def test_a_cohort_that_waits_for_a_person_is_not_tried_again_and_again(mariadb: World) -> None:
    mariadb.enrol("s1", "C2ABC")
    mariadb.a_minute_later()
    mariadb.enrol("s2", "C2abc")
    mariadb.a_minute_later()
    calls = len(mariadb.moodle.calls)
    mariadb.days_later()
    mariadb.enrol("s3", "C2abc")
    mariadb.days_later()
    assert len(mariadb.moodle.calls) == calls
    assert mariadb.gaps() == {"colliding": 2}


def test_on_postgresql_both_cohorts_are_created(world: World) -> None:
    world.enrol("s1", "C2ABC")
    world.enrol("s2", "C2abc")
    world.enrol("s3", "C2ÀBC")
    world.a_minute_later()
    assert world.members() == {"C2ABC": {"s1"}, "C2abc": {"s2"}, "C2ÀBC": {"s3"}}
    assert world.status().blocked == ()


def test_somebody_elses_cohort_that_the_database_takes_for_ours_is_named_and_left_alone(mariadb: World) -> None:
    theirs = mariadb.moodle.create_cohort(name="Chorale", idnumber="C2abc")
    mariadb.enrol("s1", "C2ABC")
    mariadb.a_minute_later()
    assert mariadb.members() == {"C2abc": set()}
    assert blocked(mariadb) == {"C2ABC": (Blockage.FOREIGN, "C2abc")}
    assert mariadb.gaps() == {"foreign": 1}
    assert theirs not in mariadb.written()


def test_somebody_elses_cohort_with_the_same_text_is_the_one_that_is_named(mariadb: World) -> None:
    mariadb.moodle.create_cohort(name="Accents", idnumber="Ç2ABC")
    mariadb.moodle.create_cohort(name="Ours to adopt", idnumber="C2ABC")
    mariadb.enrol("s1", "C2ABC")
    mariadb.a_minute_later()
    assert blocked(mariadb) == {"C2ABC": (Blockage.FOREIGN, "C2ABC")}


def test_a_cohort_of_ours_that_somebody_gave_another_etapes_idnumber_does_not_become_that_etapes(world: World) -> None:
    world.enrol("s1", "L1DROI")
    world.a_minute_later()
    ours = world.cohort_id("L1DROI")
    world.moodle.edit_cohort(ours, idnumber="L1ADPU")
    world.enrol("s2", "L1ADPU")
    world.a_minute_later()
    assert world.moodle.members(ours) == {world.moodle.user_ids["s1"]}
    assert blocked(world) == {"L1ADPU": (Blockage.COLLIDING, "L1ADPU")}
    night(world, image(world))  # its idnumber is put back
    world.turns()
    assert world.members() == {"L1DROI": {"s1"}}
    night(world, image(world))
    assert world.members() == {"L1DROI": {"s1"}, "L1ADPU": {"s2"}}


def test_what_the_database_refuses_for_a_reason_that_cannot_be_seen_is_refused_and_tried_again(world: World) -> None:
    world.moodle.collation = lambda text: text[:2]
    world.enrol("s1", "L1DROI")
    world.a_minute_later()
    world.enrol("s2", "L1ADPU")
    world.a_minute_later()
    (waiting,) = world.status().blocked
    assert (waiting.why, waiting.blocker, waiting.code) == (Blockage.REFUSED, None, "invalidparameter")
    world.moodle.collation = str
    world.days_later(1)
    assert world.members() == {"L1DROI": {"s1"}, "L1ADPU": {"s2"}}
    assert world.status().blocked == ()


def test_a_cohort_that_nobody_belongs_to_any_more_waits_for_nobody(mariadb: World) -> None:
    mariadb.enrol("s1", "C2ABC")
    mariadb.a_minute_later()
    mariadb.enrol("s2", "C2abc")
    mariadb.a_minute_later()
    mariadb.resign("s2", "C2abc")
    mariadb.days_later(1)
    assert mariadb.status().blocked == ()
    assert mariadb.gaps() == {}


def test_a_platform_in_observe_mode_shows_what_is_foreign_and_asks_the_database_nothing(build: Build) -> None:
    world = build(platform(mode=Mode.OBSERVE))
    world.accounts("s1", "s2")
    world.moodle.collation = fold
    world.moodle.create_cohort(name="À la main", idnumber="L1DROI")
    world.moodle.create_cohort(name="Chorale", idnumber="C2abc")
    world.enrol("s1", "L1DROI")
    world.enrol("s2", "C2ABC")
    world.a_minute_later()
    assert blocked(world) == {"L1DROI": (Blockage.FOREIGN, "L1DROI")}
    assert world.written() == set()


# --- The night ---


def test_the_night_names_who_waits_for_a_person_and_does_not_wait_itself(mariadb: World) -> None:
    mariadb.enrol("s1", "C2ABC")
    mariadb.a_minute_later()
    mariadb.enrol("s2", "C2abc")
    mariadb.a_minute_later()
    report = night(mariadb, image(mariadb))
    assert report.state is RunState.DONE
    assert [(each.idnumber, each.why) for each in of(report).blocked] == [("C2abc", Blockage.COLLIDING)]
    assert drift(report) == {}


@pytest.mark.parametrize("change", ["renamed", "deleted"])
def test_once_the_blocker_is_gone_the_next_night_creates_the_cohort(mariadb: World, change: str) -> None:
    theirs = mariadb.moodle.create_cohort(name="Chorale", idnumber="C2abc")
    mariadb.enrol("s1", "C2ABC")
    mariadb.a_minute_later()
    assert [each.idnumber for each in of(night(mariadb, image(mariadb))).blocked] == ["C2ABC"]
    if change == "renamed":
        mariadb.moodle.edit_cohort(theirs, idnumber="CHORALE")
    else:
        mariadb.moodle.delete_cohort(theirs)
    report = night(mariadb, image(mariadb))
    assert of(report).blocked == ()
    assert of(report).added == 1
    assert mariadb.members()["C2ABC"] == {"s1"}


def test_a_person_who_does_not_wait_for_the_night_has_it_tried_at_once(mariadb: World) -> None:
    theirs = mariadb.moodle.create_cohort(name="Chorale", idnumber="C2abc")
    mariadb.enrol("s1", "C2ABC")
    mariadb.a_minute_later()
    try_again(mariadb.ledger, "ecampus", mariadb.now)
    mariadb.turns()
    assert blocked(mariadb) == {"C2ABC": (Blockage.FOREIGN, "C2abc")}
    mariadb.moodle.delete_cohort(theirs)
    try_again(mariadb.ledger, "ecampus", mariadb.now)
    mariadb.turns()
    assert mariadb.members() == {"C2ABC": {"s1"}}
    assert blocked(mariadb) == {}


def test_once_one_blocker_is_gone_the_next_one_is_named(mariadb: World) -> None:
    first = mariadb.moodle.create_cohort(name="Chorale", idnumber="C2abc")
    mariadb.moodle.create_cohort(name="Accents", idnumber="Ç2ABC")
    mariadb.enrol("s1", "C2ABC")
    mariadb.a_minute_later()
    mariadb.moodle.delete_cohort(first)
    report = night(mariadb, image(mariadb))
    assert [each.blocker for each in of(report).blocked] == ["Ç2ABC"]


def test_a_foreign_cohort_that_meanwhile_has_become_ours_collides(mariadb: World) -> None:
    theirs = mariadb.moodle.create_cohort(name="À la main", idnumber="C2abc")
    mariadb.enrol("s1", "C2ABC")
    mariadb.a_minute_later()
    mariadb.enrol("s2", "C2abc")  # an étape of which nobody had heard
    mariadb.a_minute_later()
    assert mariadb.status().cohorts[CohortState.FOREIGN] == 2
    report = night(mariadb, image(mariadb))
    assert {each.idnumber: (each.why, each.blocker_id) for each in of(report).blocked} == {
        "C2ABC": (Blockage.COLLIDING, theirs),
        "C2abc": (Blockage.FOREIGN, theirs),
    }


# --- Adopting ---


def adopted(world: World, *, apply: bool = True) -> list[tuple[str, str]]:
    """Adopt all that can be; returns what was offered, by our idnumber and Moodle's."""
    offered = world.survey()
    if apply:
        world.adopt()
    return [(each.idnumber, each.moodle_idnumber) for each in offered.candidates]


def test_the_cohort_that_the_database_takes_for_ours_can_be_adopted_and_gets_our_idnumber(mariadb: World) -> None:
    theirs = mariadb.moodle.create_cohort(name="Deuxième année", idnumber="C2abc")
    mariadb.moodle.add_member(theirs, mariadb.moodle.user_ids["s2"])
    mariadb.enrol("s1", "C2ABC")
    mariadb.enrol("s2", "C2ABC")
    mariadb.a_minute_later()
    assert adopted(mariadb) == [("C2ABC", "C2abc")]
    mariadb.a_minute_later()
    assert mariadb.members() == {"C2ABC": {"s1", "s2"}}
    assert mariadb.cohort_id("C2ABC") == theirs
    assert mariadb.status().blocked == ()
    assert mariadb.gaps() == {}


def test_a_cohort_whose_own_text_an_etape_has_is_offered_to_that_etape_alone(mariadb: World) -> None:
    mariadb.moodle.create_cohort(name="Deuxième année", idnumber="C2abc")
    mariadb.enrol("s1", "C2ABC")
    mariadb.enrol("s2", "C2abc")
    mariadb.a_minute_later()
    night(mariadb, image(mariadb))
    assert adopted(mariadb) == [("C2abc", "C2abc")]
    mariadb.a_minute_later()
    assert mariadb.members() == {"C2abc": {"s2"}}
    assert blocked(mariadb) == {"C2ABC": (Blockage.COLLIDING, "C2abc")}


def test_a_cohort_that_was_renamed_meanwhile_is_no_longer_offered(mariadb: World) -> None:
    theirs = mariadb.moodle.create_cohort(name="Chorale", idnumber="C2abc")
    mariadb.enrol("s1", "C2ABC")
    mariadb.a_minute_later()
    assert adopted(mariadb, apply=False) == [("C2ABC", "C2abc")]
    mariadb.moodle.edit_cohort(theirs, idnumber="CHORALE")
    assert adopted(mariadb, apply=False) == []


def test_on_postgresql_only_the_same_text_is_offered(world: World) -> None:
    world.moodle.create_cohort(name="Chorale", idnumber="C2abc")
    world.moodle.create_cohort(name="Deuxième année", idnumber="C2ABC")
    world.enrol("s1", "C2ABC")
    world.a_minute_later()
    assert adopted(world) == [("C2ABC", "C2ABC")]


# --- An alias ---


def test_two_colliding_etapes_are_joined_by_an_alias(mariadb: World) -> None:
    mariadb.enrol("s1", "C2abc")
    mariadb.a_minute_later()
    cohort = mariadb.cohort_id("C2abc")
    mariadb.enrol("s2", "C2ABC")
    mariadb.a_minute_later()
    assert blocked(mariadb) == {"C2ABC": (Blockage.COLLIDING, "C2abc")}
    mariadb.restart(aliases={"C2abc": "C2ABC"})
    mariadb.days_later(1)
    assert mariadb.members() == {"C2ABC": {"s1", "s2"}}
    assert mariadb.cohort_id("C2ABC") == cohort
    assert mariadb.applied("remove") == []
    assert mariadb.status().blocked == ()
    assert mariadb.gaps() == {}


def test_an_alias_to_a_code_that_the_database_takes_for_anothers_keeps_the_old_idnumber_and_says_so(
    mariadb: World,
) -> None:
    theirs = mariadb.moodle.create_cohort(name="Chorale", idnumber="c2new")
    mariadb.enrol("s1", "C2OLD")
    mariadb.a_minute_later()
    mariadb.restart(aliases={"C2OLD": "C2NEW"})
    mariadb.enrol("s2", "C2NEW")
    mariadb.days_later(1)
    assert mariadb.members() == {"C2OLD": {"s1", "s2"}, "c2new": set()}
    assert blocked(mariadb) == {"C2NEW": (Blockage.MISNAMED, "c2new")}
    mariadb.moodle.delete_cohort(theirs)
    mariadb.days_later(1)
    assert mariadb.members() == {"C2NEW": {"s1", "s2"}}
    assert mariadb.status().blocked == ()


def test_on_postgresql_an_alias_renames_beside_another_spelling(world: World) -> None:
    world.moodle.create_cohort(name="Chorale", idnumber="c2new")
    world.enrol("s1", "C2OLD")
    world.a_minute_later()
    world.restart(aliases={"C2OLD": "C2NEW"})
    world.days_later(1)
    assert world.members() == {"C2NEW": {"s1"}, "c2new": set()}
    assert world.status().blocked == ()


def test_an_alias_to_another_spelling_of_the_same_code_renames_the_cohort(mariadb: World) -> None:
    mariadb.enrol("s1", "C2abc")
    mariadb.a_minute_later()
    mariadb.restart(aliases={"C2abc": "C2ABC"})
    mariadb.days_later(1)
    assert mariadb.members() == {"C2ABC": {"s1"}}


def test_where_nobody_can_tell_whose_idnumber_the_database_finds_a_cohort_keeps_its_own(world: World) -> None:
    world.moodle.create_cohort(name="Chorale", idnumber="c2new")
    world.enrol("s1", "C2New")
    world.a_minute_later()
    world.restart(aliases={"C2New": "C2NEW"})
    world.days_later(1)
    assert world.members() == {"C2New": {"s1"}, "c2new": set()}
    assert blocked(world) == {"C2NEW": (Blockage.MISNAMED, "c2new")}


def test_asking_the_database_adds_nobody_and_an_outage_meanwhile_renames_nothing(mariadb: World) -> None:
    mariadb.moodle.create_cohort(name="Chorale", idnumber="c2new")
    mariadb.enrol("s1", "C2OLD")
    mariadb.a_minute_later()
    mariadb.restart(aliases={"C2OLD": "C2NEW"})
    with mariadb.faults(ADD, Fault.DATABASE_DOWN):
        mariadb.a_minute_later()
    assert mariadb.members() == {"C2OLD": {"s1"}, "c2new": set()}
    assert UPDATE not in [call.function for call in mariadb.moodle.calls]
    assert len([call for call in mariadb.moodle.calls if call.function == CREATE]) == 1
    mariadb.days_later(1)
    assert blocked(mariadb) == {"C2NEW": (Blockage.MISNAMED, "c2new")}
