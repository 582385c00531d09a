"""Cohorts that somebody deletes on Moodle, as a lane or a night meets them."""

import pytest

from tests.support.world import COALESCE, World
from tests.wire.sync.test_reconcile import enrolled, night, of
from worker.domain.cohorts import DeletedCohort
from worker.domain.states import CohortState, Drift
from worker.ledger import deletions
from worker.sandbox.moodle.server import Fault


def deleted(world: World) -> tuple[DeletedCohort, ...]:
    return world.status().deleted


@pytest.fixture
def emptied(world: World) -> World:
    """Delete a cohort of five members that ten courses are synchronised with."""
    enrolled(world)
    world.describe("L1DROI", "Licence 1 Droit")
    world.wait(COALESCE)
    world.moodle.synchronise(world.cohort_id("L1DROI"))
    world.moodle.delete_cohort(world.cohort_id("L1DROI"))
    return world


def test_the_night_that_finds_it_reports_it_with_what_was_lost_and_what_was_made_again(emptied: World) -> None:
    report = of(night(emptied))
    (found,) = report.deleted
    assert (found.idnumber, found.etape, found.name) == ("L1DROI", "L1DROI", "UFR Droit: Licence 1 Droit")
    assert (found.lost, found.state, found.moodle_id) == (5, CohortState.OWNED, emptied.cohort_id("L1DROI"))
    assert report.drift[Drift.VANISHED] == 1
    assert emptied.members() == emptied.truth()


@pytest.mark.parametrize("how", ["an addition", "a new label"])
def test_a_night_after_a_lane_has_made_it_again_reports_it_all_the_same(emptied: World, how: str) -> None:
    if how == "an addition":
        emptied.accounts("s6")
        emptied.enrol("s6", "L1DROI")
    else:
        emptied.describe("L1DROI", "Licence 1 (Caen)")
    emptied.wait(COALESCE)
    assert emptied.members() == emptied.truth()
    report = of(night(emptied))
    assert not report.drift
    (found,) = report.deleted
    assert (found.lost, found.moodle_id) == (5, emptied.cohort_id("L1DROI"))


def test_every_night_reports_it_until_a_person_acknowledges_it(emptied: World) -> None:
    for _ in range(3):
        emptied.days_later(1)
        assert len(of(night(emptied)).deleted) == 1
    assert deletions.acknowledge(emptied.ledger, "ecampus", ["L1DROI"], by="cemu", now=emptied.now) == ["L1DROI"]
    assert of(night(emptied)).deleted == ()


def test_a_night_that_cannot_read_the_platform_reports_what_is_known_of_it(emptied: World) -> None:
    night(emptied)
    emptied.moodle.fault = Fault.PHP_DOWN
    report = of(night(emptied, wait=0))
    assert report.error is not None
    assert len(report.deleted) == 1


def test_many_that_are_deleted_at_once_are_all_reported(world: World) -> None:
    for number in range(30):
        world.enrol("s1", f"E{number}")
    world.wait(COALESCE)
    for cohort in world.moodle.cohorts():
        world.moodle.delete_cohort(cohort.id)
    assert len(of(night(world)).deleted) == 30
    assert world.members() == world.truth()


def test_one_that_nobody_belongs_to_is_reported_and_not_made_again(world: World) -> None:
    world.enrol("s1", "L1DROI")
    world.wait(COALESCE)
    world.resign("s1", "L1DROI")
    world.days_later(1)
    world.moodle.delete_cohort(world.cohort_id("L1DROI"))
    (found,) = of(night(world)).deleted
    assert (found.lost, found.state, found.moodle_id) == (0, CohortState.WANTED, None)
    assert world.moodle.cohorts() == []


def test_one_that_a_person_has_made_again_by_hand_waits_to_be_adopted_and_stays_reported(emptied: World) -> None:
    emptied.moodle.create_cohort(name="Droit, à nouveau", idnumber="L1DROI")
    (found,) = of(night(emptied)).deleted
    assert (found.state, found.moodle_id) == (CohortState.FOREIGN, None)
    assert emptied.adopt() == []
    (found,) = deleted(emptied)
    assert found.moodle_id == emptied.cohort_id("L1DROI")


def test_an_outage_is_not_a_deletion(world: World) -> None:
    enrolled(world)
    with world.faults("core_cohort_get_cohorts", Fault.DATABASE_DOWN):
        night(world, wait=0)
    assert deleted(world) == ()
