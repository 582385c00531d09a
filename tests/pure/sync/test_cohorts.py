"""Which cohort of a platform is a wanted one, and what it is to be called: without a Moodle and without a ledger."""

from dataclasses import replace

from worker.domain.cohorts import Cohort
from worker.domain.states import CohortState
from worker.moodle import RemoteCohort
from worker.sync.converge.cohorts import CohortLabels, CohortMatch, labels, match

WANTED = Cohort(
    id=1,
    platform="ecampus",
    idnumber="L1DROI",
    etape="L1DROI",
    wanted_name="Droit: Licence 1",
    state=CohortState.WANTED,
    moodle_id=None,
    moodle_name=None,
    moodle_idnumber=None,
    name_is_ours=True,
    attempts=0,
)
REMOTE = RemoteCohort(id=7, name="L1DROI", idnumber="L1DROI", description="[ours]", description_format=1)
OWNED = replace(WANTED, state=CohortState.OWNED, moodle_id=7, moodle_name="L1DROI", moodle_idnumber="L1DROI")


def matched(*remote: RemoteCohort) -> CohortMatch:
    return match([WANTED], remote, lambda cohort: cohort.is_of("ours"))


def test_a_cohort_that_nobody_has_is_missing() -> None:
    other = replace(REMOTE, idnumber="M1DROI")
    assert matched(other) == CohortMatch(created=(), foreign=(), missing=(WANTED,))


def test_a_cohort_of_this_ledger_is_recognised() -> None:
    assert matched(REMOTE) == CohortMatch(created=((WANTED, REMOTE),), foreign=(), missing=())


def test_a_cohort_of_anybody_else_is_foreign() -> None:
    by_hand = replace(REMOTE, description="")
    assert matched(by_hand) == CohortMatch(created=(), foreign=((WANTED, by_hand),), missing=())


def test_of_two_cohorts_with_one_idnumber_neither_is_ours() -> None:
    again = replace(REMOTE, id=8)
    assert matched(REMOTE, again) == CohortMatch(created=(), foreign=((WANTED, REMOTE),), missing=())


def test_of_two_cohorts_with_one_idnumber_somebody_elses_is_in_the_way() -> None:
    by_hand = replace(REMOTE, id=8, description="")
    assert matched(REMOTE, by_hand) == CohortMatch(created=(), foreign=((WANTED, by_hand),), missing=())


def test_a_cohort_gets_its_wanted_name() -> None:
    wanted = CohortLabels(name="Droit: Licence 1", idnumber="L1DROI", name_is_ours=True)
    assert labels(OWNED, REMOTE, movable=True, free=True) == wanted


def test_a_name_that_was_changed_on_moodle_stays() -> None:
    changed = replace(REMOTE, name="Les juristes")
    kept = CohortLabels(name="Les juristes", idnumber="L1DROI", name_is_ours=False)
    assert labels(OWNED, changed, movable=True, free=True) == kept


def test_a_name_that_an_earlier_call_has_given_is_still_ours() -> None:
    renamed = replace(REMOTE, name="Droit: Licence 1")
    assert labels(OWNED, renamed, movable=True, free=True).name_is_ours


def test_a_cohort_outside_the_system_context_is_called_as_it_is() -> None:
    elsewhere = replace(REMOTE, idnumber="OLD")
    same = CohortLabels(name="L1DROI", idnumber="OLD", name_is_ours=False)
    assert labels(OWNED, elsewhere, movable=False, free=True) == same


def test_an_idnumber_that_another_cohort_has_is_not_given() -> None:
    former = replace(REMOTE, idnumber="OLD")
    assert labels(OWNED, former, movable=True, free=False).idnumber == "OLD"
    assert labels(OWNED, former, movable=True, free=True).idnumber == "L1DROI"
