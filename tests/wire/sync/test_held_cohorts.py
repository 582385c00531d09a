"""New cohorts and renames beyond the guard's limits: held, shown, decided on, while everything else goes on."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.world import ADD, CREATE, HOUR, START, UAI, UPDATE, Build, World, platform
from tests.wire.sync.test_reconcile import image, night
from tests.wire.sync.test_refused_batches import refusing
from worker.domain.changes import EtapeChange
from worker.domain.errors import DecisionRefused
from worker.domain.guard import Guard, GuardLimits, Season
from worker.domain.idnumbers import fold
from worker.domain.rules import Mode
from worker.domain.states import CohortChange, Limit, PlatformState, RunState
from worker.ledger.cohort_proposals import CohortCause
from worker.sandbox.moodle.server import Fault
from worker.sync.review import ChangeGroup, Review, groups, is_match

DAY = 24 * HOUR
FLOOR = 3
LIMITS = GuardLimits(
    cohort_percent=100, platform_percent=100,
    new_cohorts_percent=0, new_cohorts_floor=FLOOR, renames_percent=0, renames_floor=FLOOR,
)  # fmt: skip
GUARD = Guard(limits=LIMITS)
FIRST = ["L1DROI", "L2DROI", "L3DROI", "M1DROI", "M2DROI"]
"""More étapes than may get a cohort in a day."""
HELD = {CohortChange.CREATION: 0, CohortChange.RENAME: 0}


@pytest.fixture
def university(build: Build) -> World:
    """A platform whose first load was two days ago."""
    return loaded(build)


def loaded(build: Build, guard: Guard = GUARD) -> World:
    world = build(guard=guard)
    world.accounts("s1", "s2", "s3")
    for etape in FIRST:
        world.describe(etape, f"Droit {etape}")
        world.enrol("s1", etape)
    world.a_minute_later()
    assert world.members().keys() == {*FIRST}
    world.now += 2 * DAY
    return world


def review(world: World) -> Review:
    return Review(world.ledger, {"ecampus": world.guard}, clock=lambda: world.now)


def held(world: World) -> ChangeGroup:
    """Look at the only group that is held."""
    (group,) = review(world).held().groups
    return group


def enrol_in(world: World, etapes: Iterable[str], student: str = "s2") -> None:
    for etape in etapes:
        world.enrol(student, etape)


def relabel(world: World, component_label: str) -> None:
    """Give the component of all étapes another label."""
    world.say(
        EtapeChange(
            uai=UAI, etape="L1DROI", changed_at=world.now, origin="etapes[0]@9", component="DRT",
            component_label=component_label,
        )
    )  # fmt: skip


def names(world: World) -> set[str]:
    """Return what comes before the étape's label in the names of all cohorts."""
    return {cohort.name.partition(":")[0] for cohort in world.moodle.cohorts()}


NEW = [f"X{number}" for number in range(FLOOR + 1)]


# --- Creations ---


def test_as_many_new_cohorts_as_the_limit_are_created_and_one_more_holds_all_that_are_not(university: World) -> None:
    enrol_in(university, NEW[:FLOOR])
    university.a_minute_later()
    assert {*NEW[:FLOOR]} < university.members().keys()
    enrol_in(university, NEW[FLOOR:])
    university.a_minute_later()
    assert university.members().keys() == {*FIRST, *NEW[:FLOOR]}
    assert university.status().held_cohorts == HELD | {CohortChange.CREATION: 1}
    assert university.gaps() == {"cohort_held": 1}


def test_a_flood_creates_nothing_and_additions_to_cohorts_that_are_there_go_on(university: World) -> None:
    enrol_in(university, [f"X{number}" for number in range(40)])
    enrol_in(university, FIRST, "s3")
    university.a_minute_later()
    assert university.members() == {etape: {"s1", "s3"} for etape in FIRST}
    assert university.gaps() == {"cohort_held": 40}
    university.days_later()
    assert university.members().keys() == {*FIRST}, "tomorrow's allowance releases nothing"
    enrol_in(university, ["LATER"])
    university.a_minute_later()
    assert university.members().keys() == {*FIRST, "LATER"}, "what is held doesn't use the limit up"


def test_the_limit_slides_with_the_day(university: World) -> None:
    enrol_in(university, NEW[:FLOOR])
    university.a_minute_later()
    university.wait(DAY - 1)
    enrol_in(university, ["EARLY"])
    university.wait(0.5)
    university.wait(2)
    assert "EARLY" in university.members(), "a day after the calls"


def test_the_share_is_of_the_cohorts_that_were_ours_a_day_ago(build: Build) -> None:
    world = loaded(build, Guard(limits=replace(LIMITS, new_cohorts_percent=80)))  # of five
    enrol_in(world, NEW)
    world.a_minute_later()
    assert {*NEW} < world.members().keys(), "four in five"
    enrol_in(world, ["X9"])
    world.a_minute_later()
    assert "X9" not in world.members(), "those created today don't raise the limit"


def test_a_season_has_limits_of_its_own(build: Build) -> None:
    today = datetime.fromtimestamp(START + 2 * DAY, UTC).date()
    first, last = today - timedelta(days=1), today + timedelta(days=1)
    season = Season(
        first=(first.month, first.day), last=(last.month, last.day), limits=replace(LIMITS, new_cohorts_floor=40)
    )
    world = loaded(build, Guard(limits=LIMITS, seasons=(season,)))
    enrol_in(world, NEW)
    world.a_minute_later()
    assert {*NEW} < world.members().keys()


def test_a_guard_that_is_off_lets_everything_pass(build: Build) -> None:
    world = loaded(build, Guard(enabled=False, limits=LIMITS))
    enrol_in(world, NEW)
    relabel(world, "UFR")
    world.a_minute_later()
    assert {*NEW} < world.members().keys()
    assert names(world) >= {"UFR"}
    assert world.status().held_cohorts == HELD


# --- The first load ---


def test_the_first_load_takes_as_many_claims_as_it_needs_and_what_comes_after_it_is_held(build: Build) -> None:
    world = build(guard=GUARD)
    world.accounts("s1", "s2")
    enrol_in(world, FIRST, "s1")
    world.now += 60
    with world.faults(CREATE, Fault.PHP_DOWN):
        world.turns()
    enrol_in(world, NEW)  # while the first ones still wait
    world.wait(HOUR)
    world.wait(HOUR)
    assert world.members().keys() == {*FIRST, *NEW}
    enrol_in(world, [f"Y{number}" for number in range(FLOOR + 1)])
    world.a_minute_later()
    assert world.members().keys() == {*FIRST, *NEW}
    assert world.gaps() == {"cohort_held": FLOOR + 1}


def test_a_first_load_that_never_ends_ends_after_a_day(build: Build) -> None:
    world = build(guard=GUARD)
    world.accounts("s1")
    world.enrol("s1", "E0")
    for hour in range(1, 30):
        world.now += 60
        world.enrol("s1", f"E{hour}")  # which waits for a moment, so that one is always still to be created
        world.turns()
        world.now += HOUR - 60
    assert 24 <= len(world.members()) <= 24 + FLOOR
    assert world.status().held_cohorts[CohortChange.CREATION] > 0


def test_what_was_looked_at_in_observe_mode_is_created_when_the_platform_becomes_automatic(build: Build) -> None:
    world = build(platform(mode=Mode.OBSERVE), guard=GUARD)
    world.accounts("s1")
    enrol_in(world, FIRST, "s1")
    world.days_later()
    assert world.members() == {}
    assert {change.held for group in review(world).plan() for change in group.whole.changes} == {None}
    world.restart(platform())
    world.a_minute_later()
    assert world.members().keys() == {*FIRST}


def test_that_all_cohorts_were_deleted_is_no_first_load(university: World) -> None:
    for cohort in university.moodle.cohorts():
        university.moodle.delete_cohort(cohort.id)
    night(university, image(university))
    university.a_minute_later()
    assert university.members() == {}
    group = held(university)
    assert {change.idnumber for change in group.changes} == {*FIRST}
    assert {change.cause for change in group.changes} == {CohortCause.DELETED}


def test_a_cohort_that_a_person_rejects_does_not_keep_the_first_load_from_ending(build: Build) -> None:
    world = build(guard=GUARD)
    world.accounts("s1", "s2")
    enrol_in(world, FIRST, "s1")
    (platform_,) = review(world).plan()
    review(world).reject(platform_.whole.changes[0].hash, by="eve")
    world.a_minute_later()
    there = world.members().keys()
    assert len(there) == len(FIRST) - 1
    enrol_in(world, NEW)
    world.a_minute_later()
    assert world.members().keys() == there
    assert world.status().held_cohorts == HELD | {CohortChange.CREATION: len(NEW)}


# --- Renames ---


def test_a_component_that_is_called_otherwise_renames_no_cohort_before_a_person_has_seen_it(university: World) -> None:
    relabel(university, "Faculté")
    enrol_in(university, FIRST, "s3")
    university.a_minute_later()
    assert names(university) == {"UFR Droit"}
    assert university.members() == {etape: {"s1", "s3"} for etape in FIRST}, "under the former names"
    assert university.gaps() == {}
    group = held(university)
    assert {(change.change, change.held) for change in group.changes} == {(CohortChange.RENAME, Limit.RENAMES)}
    first = group.changes[0]
    assert (first.etape, first.name_before, first.name) == (
        "L1DROI", "UFR Droit: Droit L1DROI", "Faculté: Droit L1DROI",
    )  # fmt: skip
    assert (first.cause, first.origin) == (CohortCause.COMPONENT_LABEL, "etapes[0]@9")
    decision = review(university).approve(group.hash, by="eve")
    assert (decision.created, decision.renamed, len(decision.cohorts)) == (0, 5, 5)
    university.a_minute_later()
    assert names(university) == {"Faculté"}
    assert university.status().held_cohorts == HELD


def test_a_few_renames_pass_and_a_name_that_goes_back_is_no_longer_held(university: World) -> None:
    for etape in FIRST[:FLOOR]:
        university.describe(etape, "Licence")
    university.a_minute_later()
    assert university.cohort_name("L3DROI") == "UFR Droit: Licence"
    university.describe("M1DROI", "Master")
    university.a_minute_later()
    assert university.cohort_name("M1DROI") == "UFR Droit: Droit M1DROI"
    university.now += 60
    university.describe("M1DROI", "Droit M1DROI")
    university.a_minute_later()
    assert university.status().held_cohorts == HELD
    assert review(university).held().groups == ()


def test_a_new_code_is_a_rename(build: Build) -> None:
    world = loaded(build, Guard(limits=replace(LIMITS, renames_floor=0)))
    world.restart(aliases={"L1DROI": "L1JURI"})
    world.a_minute_later()
    assert "L1JURI" not in world.members()
    (change,) = held(world).changes
    assert (change.cause, change.idnumber_before, change.idnumber) == (CohortCause.CODE, "L1DROI", "L1JURI")
    review(world).approve(change.hash, by="eve")
    world.a_minute_later()
    assert world.members()["L1JURI"] == {"s1"}


def test_the_first_name_of_a_new_cohort_within_a_day_is_not_counted(build: Build) -> None:
    world = build(guard=Guard(limits=replace(LIMITS, renames_floor=0)))
    world.accounts("s1")
    enrol_in(world, FIRST, "s1")
    world.a_minute_later()
    assert {cohort.name for cohort in world.moodle.cohorts()} == {*FIRST}
    world.wait(HOUR)
    for etape in FIRST:
        world.describe(etape, "Licence")
    world.a_minute_later()
    assert names(world) == {"UFR Droit"}
    relabel(world, "Faculté")
    world.wait(HOUR)
    assert names(world) == {"UFR Droit"}, "a second name is a rename"


# --- Decisions ---


def test_after_an_approval_exactly_those_that_were_shown_are_created(university: World) -> None:
    enrol_in(university, NEW)
    university.a_minute_later()
    group = held(university)
    assert group.change is CohortChange.CREATION
    assert [(change.etape, change.name_before, change.name, change.students) for change in group.changes] == [
        (etape, None, etape, 1) for etape in NEW
    ]
    assert {(change.cause, change.origin) for change in group.changes} == {(CohortCause.ENROLLED, "test")}
    decision = review(university).approve(group.hash, by="eve")
    assert (decision.created, decision.renamed) == (len(NEW), 0)
    others = [f"Y{number}" for number in range(FLOOR + 1)]
    enrol_in(university, others)
    university.a_minute_later()
    assert university.members().keys() == {*FIRST, *NEW}
    assert {change.idnumber for change in held(university).changes} == {*others}
    with pytest.raises(DecisionRefused, match="no longer to be made"):
        review(university).approve(group.hash, by="eve")


def test_one_of_them_can_be_approved_alone_and_the_list_as_it_was_shown_no_longer(university: World) -> None:
    enrol_in(university, NEW)
    university.a_minute_later()
    group = held(university)
    review(university).approve(group.changes[0].hash, by="eve")
    with pytest.raises(DecisionRefused, match="the cohorts have changed since they were shown"):
        review(university).approve(group.hash, by="eve")
    university.a_minute_later()
    assert university.members().keys() == {*FIRST, NEW[0]}


def test_another_label_needs_another_look(university: World) -> None:
    enrol_in(university, NEW)
    university.a_minute_later()
    group = held(university)
    university.describe(NEW[0], "Droit")
    with pytest.raises(DecisionRefused, match=rf"1 would get another label \({NEW[0]}\)"):
        review(university).approve(group.hash, by="eve")
    review(university).approve(held(university).hash, by="eve")
    university.now += 1
    university.describe(NEW[0], "Histoire")  # approved, and not created yet
    university.a_minute_later()
    assert university.members().keys() == {*FIRST, *NEW[1:]}
    (change,) = held(university).changes
    assert change.name == "UFR Droit: Histoire"


def test_an_approval_that_is_not_used_for_a_day_expires(university: World) -> None:
    enrol_in(university, NEW)
    university.a_minute_later()
    review(university).approve(held(university).hash, by="eve")
    university.now += DAY
    university.turns()
    assert university.members().keys() == {*FIRST}
    assert len(held(university).changes) == len(NEW)


def test_a_rejected_cohort_is_not_created_until_that_is_undone(university: World) -> None:
    enrol_in(university, NEW)
    university.a_minute_later()
    name = held(university).hash
    review(university).reject(name, by="eve")
    assert university.status().held_cohorts == HELD
    assert review(university).held().groups == ()
    university.describe(NEW[0], "Droit")
    enrol_in(university, NEW, "s3")
    university.days_later()
    assert university.members().keys() == {*FIRST}, "whatever it is called"
    assert university.gaps() == {"cohort_held": 2 * len(NEW)}
    with pytest.raises(DecisionRefused, match="the cohorts have changed"):
        review(university).approve(name, by="eve")
    review(university).undo(name, by="eve")
    university.days_later()
    assert university.members().keys() == {*FIRST}, "undone is not approved"
    review(university).approve(held(university).hash, by="eve")
    university.a_minute_later()
    assert university.members().keys() == {*FIRST, *NEW}


def test_a_rejection_outlives_a_time_without_students(university: World) -> None:
    enrol_in(university, NEW)
    university.a_minute_later()
    name = held(university).hash
    review(university).reject(name, by="eve")
    for etape in NEW:
        university.resign("s2", etape)
    university.enrol("s2", "OTHER")
    university.days_later(1)
    enrol_in(university, NEW[:1], "s3")
    university.a_minute_later()
    assert university.members().keys() == {*FIRST, "OTHER"}
    university.resign("s3", NEW[0])
    university.days_later(1)
    decision = review(university).undo(name, by="eve")
    assert decision.created == len(NEW), "also while nobody is enrolled"


def test_an_approval_stays_in_force_while_somebody_else_has_the_idnumber(build: Build) -> None:
    world = loaded(build, Guard(limits=replace(LIMITS, renames_floor=0)))
    world.restart(aliases={"L1DROI": "L1JURI"})
    world.a_minute_later()
    theirs = world.moodle.create_cohort(name="Theirs", idnumber="L1JURI")
    review(world).approve(held(world).hash, by="eve")
    world.a_minute_later()
    assert world.cohort_name("L1DROI")
    world.moodle.delete_cohort(theirs)
    world.wait(2 * HOUR)
    assert world.members()["L1JURI"] == {"s1"}


def test_those_left_of_a_plan_are_decided_on_together_after_one_of_them_was(university: World) -> None:
    enrol_in(university, [*NEW, "Y1"])
    university.a_minute_later()
    review(university).reject(held(university).changes[0].hash, by="eve")
    (group,) = groups(review(university).plan())
    assert len(group.changes) == len(NEW) + 1
    review(university).approve(group.hash, by="eve")
    university.a_minute_later()
    assert university.members().keys() == {*FIRST, *NEW[1:], "Y1"}


def test_those_that_a_plan_was_asked_for_are_decided_on_together(university: World) -> None:
    enrol_in(university, [*NEW, "Y1"])
    university.a_minute_later()
    (group,) = groups(review(university).plan("X*"), lambda change: is_match(change.idnumber, "X*"))
    review(university).approve(group.hash, by="eve")
    university.a_minute_later()
    assert university.members().keys() == {*FIRST, *NEW}


def test_a_rejected_label_is_not_given_and_another_one_is_judged_anew(university: World) -> None:
    relabel(university, "Faculté")
    university.a_minute_later()
    name = held(university).hash
    review(university).reject(name, by="eve")
    university.days_later()
    assert names(university) == {"UFR Droit"}
    relabel(university, "Faculté de droit")
    university.a_minute_later()
    assert names(university) == {"UFR Droit"}
    assert {change.name.partition(":")[0] for change in held(university).changes} == {"Faculté de droit"}
    with pytest.raises(DecisionRefused, match="nothing to undo"):
        review(university).undo(name, by="eve")


def test_an_approval_can_be_withdrawn_and_what_was_done_stays(university: World) -> None:
    enrol_in(university, NEW)
    university.a_minute_later()
    name = held(university).hash
    review(university).approve(name, by="eve")
    review(university).undo(name, by="eve")
    university.days_later(1)
    assert university.members().keys() == {*FIRST}
    review(university).approve(name, by="eve")
    university.a_minute_later()
    with pytest.raises(DecisionRefused, match="created or renamed on Moodle stay as they are"):
        review(university).undo(name, by="eve")
    assert university.members().keys() == {*FIRST, *NEW}


def test_what_would_pass_can_be_rejected_before_it_does(university: World) -> None:
    university.enrol("s2", "X1")
    (group,) = (each for each in review(university).plan()[0].whole.changes)
    assert group.held is None
    review(university).reject(group.hash, by="eve")
    university.days_later(1)
    assert university.members().keys() == {*FIRST}


# --- What is sent, whatever comes back ---


@pytest.mark.parametrize("fault", [Fault.APPLIED_THEN_EMPTY, Fault.APPLIED_THEN_502, Fault.PHP_DOWN])
def test_cohorts_whose_creation_got_no_answer_count(university: World, fault: Fault) -> None:
    enrol_in(university, NEW[:FLOOR])
    university.now += 60
    with university.faults(CREATE, fault):
        university.turns()
    enrol_in(university, ["Y1", "Y2"])
    university.wait(HOUR)
    assert university.members().keys() == {*FIRST, *NEW[:FLOOR]}, "those that were sent are sent again, or found"
    assert {change.idnumber for change in held(university).changes} == {"Y1", "Y2"}


def test_a_rename_that_got_no_answer_is_repeated_without_counting_twice(university: World) -> None:
    for etape in FIRST[:FLOOR]:
        university.describe(etape, "Licence")
    university.now += 60
    with university.faults(UPDATE, Fault.APPLIED_THEN_EMPTY):
        university.turns()
    university.wait(HOUR)
    university.wait(HOUR)
    assert [university.cohort_name(etape) for etape in FIRST[:FLOOR]] == ["UFR Droit: Licence"] * FLOOR
    university.describe(FIRST[FLOOR], "Licence")
    university.wait(HOUR)
    assert university.cohort_name(FIRST[FLOOR]) == f"UFR Droit: Droit {FIRST[FLOOR]}"


def test_a_cohort_that_moodle_refuses_uses_up_nothing(university: World) -> None:
    university.moodle.collation = fold
    enrol_in(university, ["l1droi", "l2droi", "l3droi"])  # of which Moodle has others already
    university.a_minute_later()
    enrol_in(university, NEW[:FLOOR])
    university.a_minute_later()
    assert university.members().keys() == {*FIRST, *NEW[:FLOOR]}
    assert university.gaps() == {"colliding": 3}


# --- The night ---


def test_the_night_says_what_is_held_and_does_not_wait_for_it(university: World) -> None:
    enrol_in(university, NEW)
    relabel(university, "Faculté")
    report = night(university, image(university), wait=60.0)
    assert report.state is RunState.DONE
    (ecampus,) = report.platforms
    assert ecampus.guard is not None
    assert {figures.change: (figures.held, figures.limit) for figures in ecampus.guard.cohorts} == {
        CohortChange.CREATION: (len(NEW), FLOOR),
        CohortChange.RENAME: (len(FIRST), FLOOR),
    }
    assert ecampus.held_cohorts == len(NEW) + len(FIRST)
    assert ecampus.waiting == 0


def test_a_night_counts_those_who_are_to_join_a_cohort_that_was_approved_and_is_not_created(university: World) -> None:
    enrol_in(university, NEW)
    university.a_minute_later()
    review(university).approve(held(university).hash, by="eve")
    university.now += 60
    with refusing(university, CREATE, "invalidparameter"):
        report = night(university, image(university), wait=60.0)
    assert (report.state, report.platforms[0].left) == (RunState.PARTIAL, len(NEW))


def test_a_platform_that_answers_again_is_up_although_only_held_cohorts_are_left(university: World) -> None:
    enrol_in(university, NEW)
    enrol_in(university, FIRST[:1])
    university.a_minute_later()
    university.enrol("s3", FIRST[0])
    university.now += 60
    with university.faults(ADD, Fault.INVALID_TOKEN):
        university.turns()
    university.resign("s3", FIRST[0])
    assert university.status().state is PlatformState.DENIED
    university.wait(HOUR)
    assert university.gaps() == {"cohort_held": len(NEW)}
    assert university.status().state is PlatformState.UP


# --- Anything, in any order ---

Change = tuple[float, CohortChange, str]
History = list[tuple[tuple[str, list[str]], Fault | None, float]]
CODES = [f"E{number}" for number in range(12)]
SOME = st.lists(st.sampled_from(CODES), min_size=1, max_size=2, unique=True)
STEPS = st.one_of(
    st.tuples(st.just("enrol"), SOME),
    st.tuples(st.just("enrol"), SOME),
    st.tuples(st.just("describe"), SOME),
    st.tuples(st.just("resign"), SOME),
    st.tuples(st.just("component"), st.just(["DRT"])),
    st.tuples(st.just("back"), st.just(["DRT"])),
)
FAULTS = [Fault.APPLIED_THEN_EMPTY, Fault.APPLIED_THEN_502, Fault.PHP_DOWN, Fault.WRITE_REFUSED]
HISTORIES = st.lists(
    st.tuples(
        STEPS,
        st.sampled_from([*[None] * 8, *FAULTS]),
        st.sampled_from([60.0, HOUR, 6 * HOUR, DAY - HOUR]),
    ),
    min_size=5,
    max_size=30,
)


def changed(before: dict[int, tuple[str, str]], world: World) -> Iterator[Change]:
    """Yield what has become of the cohorts on Moodle; first names aren't among it."""
    for cohort in world.moodle.cohorts():
        earlier = before.get(cohort.id)
        if earlier is None:
            yield world.now, CohortChange.CREATION, cohort.idnumber
        elif earlier != (cohort.name, cohort.idnumber) and earlier[0] != earlier[1]:
            yield world.now, CohortChange.RENAME, cohort.idnumber


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(history=HISTORIES)
def test_whatever_comes_no_more_cohorts_than_the_limit_change_within_any_day(
    history: History, playground: Build
) -> None:
    world = playground(guard=GUARD)
    world.describe("FIRST", "Licence")
    world.enrol("s1", "FIRST")
    world.a_minute_later()
    assert world.members() == {"FIRST": {"s1"}}
    done: list[Change] = []
    for (what, codes), fault, seconds in history:
        world.moodle.fault = fault
        before = {cohort.id: (cohort.name, cohort.idnumber) for cohort in world.moodle.cohorts()}
        for code in codes:
            match what:
                case "enrol":
                    world.enrol("s2", code)
                case "resign":
                    world.resign("s2", code)
                case "describe":
                    world.describe(code, f"Licence {world.now:.0f}")
                case "component":
                    relabel(world, f"UFR {world.now:.0f}")
                case "back":
                    relabel(world, "UFR Droit")
        world.wait(seconds)
        done += changed(before, world)
    for kind in CohortChange:
        for end, _, _ in done:
            within = {idnumber for at, change, idnumber in done if change is kind and end - DAY < at <= end}
            assert len(within) <= FLOOR, (kind, within)
