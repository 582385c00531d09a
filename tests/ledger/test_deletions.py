"""Cohorts that somebody deleted on Moodle: noted however that was noticed, until a person acknowledges it."""

from collections.abc import Callable

import pytest
import sqlalchemy as sa

from tests.ledger.test_gaps import a_lane_misses_the_cohort, the_night_misses_the_cohort
from tests.support.builders import ETAPE, STUDENT, told, workbook
from tests.support.scenes import HOUR, OTHER, Scene, a_member
from worker.domain.cohorts import DeletedCohort
from worker.domain.states import Action, CohortState
from worker.ledger import Ledger, deletions, status
from worker.ledger.schema import inherited, journal


def deleted(scene: Scene) -> tuple[DeletedCohort, ...]:
    return status.read_status(scene.ledger, ["ecampus"], scene.now).platforms[0].deleted


def entries(ledger: Ledger) -> list[tuple[str, str | None]]:
    of_cohorts = sa.select(journal).where(journal.c.action.in_([Action.COHORT_DELETED, Action.ACKNOWLEDGE]))
    with ledger.read() as connection:
        return [(row.action, row.detail) for row in connection.execute(of_cohorts.order_by(journal.c.id))]


@pytest.fixture
def scene(ledger: Ledger) -> Scene:
    """Make a cohort with two members, and something to do in it, so that a lane looks at it."""
    made = Scene(ledger)
    a_member(made)
    made.tell(told(student_id=OTHER, enrolment_id="9"))
    made.settle()
    made.change_cohort(wanted_name="Another name")
    made.now += HOUR
    return made


MISSED = pytest.mark.parametrize("missing", [a_lane_misses_the_cohort, the_night_misses_the_cohort])


@MISSED
def test_whoever_misses_it_a_deleted_cohort_is_noted_with_whom_it_had(
    scene: Scene, missing: Callable[[Scene], None]
) -> None:
    missing(scene)
    (found,) = deleted(scene)
    assert (found.idnumber, found.etape, found.name) == (ETAPE, ETAPE, "Another name")
    assert (found.deleted_at, found.lost) == (scene.now, 2)
    assert (found.state, found.moodle_id) == (CohortState.WANTED, None)
    assert entries(scene.ledger) == [("cohort_deleted", "id 1, 2 members")]


@MISSED
def test_it_stays_noted_when_it_is_made_again_and_for_as_long_as_nobody_acknowledges_it(
    scene: Scene, missing: Callable[[Scene], None]
) -> None:
    missing(scene)
    scene.settle()
    scene.now += 400 * 24 * HOUR
    (found,) = deleted(scene)
    assert (found.state, found.lost) == (CohortState.OWNED, 2)
    assert found.moodle_id is not None
    assert deletions.acknowledge(scene.ledger, "ecampus", ["X*"], by="cemu", now=scene.now) == [ETAPE]
    assert deleted(scene) == ()
    assert entries(scene.ledger)[1:] == [("acknowledge", "by cemu")]


def test_only_what_matches_on_that_platform_is_acknowledged(scene: Scene) -> None:
    the_night_misses_the_cohort(scene)
    for platform, glob in (("ecampus", "Y*"), ("sante", "*")):
        assert deletions.acknowledge(scene.ledger, platform, [glob], by="cemu", now=scene.now) == []
    assert len(deleted(scene)) == 1
    assert len(entries(scene.ledger)) == 1


def test_deleted_again_before_it_is_full_it_is_still_told_what_was_lost_at_first(scene: Scene) -> None:
    the_night_misses_the_cohort(scene)
    first = scene.now
    queue = workbook(scene.ledger)
    work = queue.claim(scene.now, limit=10)
    made = [(each, {"state": CohortState.OWNED, "moodle_id": 8}) for each in work.cohorts.values()]
    queue.write_cohorts(made, scene.now, Action.CREATE_COHORT)
    queue.release()
    scene.now += HOUR
    the_night_misses_the_cohort(scene)
    (found,) = deleted(scene)
    assert (found.deleted_at, found.lost) == (first + HOUR, 2)
    assert entries(scene.ledger) == [("cohort_deleted", "id 1, 2 members"), ("cohort_deleted", "id 8, 0 members")]


def test_what_a_deleted_cohort_had_when_it_was_adopted_is_forgotten_with_it(scene: Scene) -> None:
    scene.change_cohort(unread=True)
    scene.look({ETAPE: [int(STUDENT), int(OTHER), 77]}, [STUDENT, OTHER])
    the_night_misses_the_cohort(scene)
    with scene.ledger.read() as connection:
        assert connection.execute(sa.select(inherited)).all() == []
