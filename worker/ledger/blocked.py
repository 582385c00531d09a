"""The cohorts that wait for a person."""

import sqlalchemy as sa

from worker.domain.cohorts import BlockedCohort
from worker.domain.instants import Instant
from worker.domain.states import BLOCKED, Blockage, CohortState
from worker.ledger.database import Ledger
from worker.ledger.schema import cohort, membership

_BLOCKED = sa.or_(
    cohort.c.state.in_(BLOCKED),
    sa.and_(cohort.c.state.in_([CohortState.WANTED, CohortState.OWNED]), cohort.c.refusal.is_not(None)),
)
_WHY = {
    CohortState.FOREIGN: Blockage.FOREIGN,
    CohortState.COLLIDING: Blockage.COLLIDING,
    CohortState.WANTED: Blockage.REFUSED,
    CohortState.OWNED: Blockage.MISNAMED,
}


def idnumbers(connection: sa.Connection, platform: str) -> list[tuple[str, str | None, bool]]:
    """Return the cohorts of a platform that students belong to: idnumber, étape, whether Moodle has it as ours."""
    wanted = sa.select(membership.c.cohort_id).where(membership.c.cohort_id == cohort.c.id, membership.c.desired)
    rows = sa.select(cohort).where(cohort.c.platform == platform, wanted.exists()).order_by(cohort.c.idnumber)
    return [(row.idnumber, row.etape, row.moodle_idnumber == row.idnumber) for row in connection.execute(rows)]


def try_again(ledger: Ledger, platform: str, now: Instant) -> None:
    """Let the cohorts of a platform be created that something was in the way of: Moodle says whether it still is."""
    in_the_way = sa.and_(cohort.c.platform == platform, cohort.c.state.in_(BLOCKED))
    with ledger.write() as connection:
        connection.execute(
            sa.update(cohort).where(in_the_way).values(state=CohortState.WANTED.value, next_attempt_at=now)
        )


def read(connection: sa.Connection, platform: str) -> tuple[BlockedCohort, ...]:
    """Return the cohorts of a platform that wait for a person, by idnumber; without those that nobody belongs to."""
    students = (
        sa.select(sa.func.count())
        .where(membership.c.cohort_id == cohort.c.id, membership.c.desired)
        .scalar_subquery()
        .label("students")
    )
    rows = connection.execute(
        sa.select(cohort, students).where(cohort.c.platform == platform, _BLOCKED).order_by(cohort.c.idnumber)
    )
    return tuple(
        BlockedCohort(
            idnumber=row.idnumber,
            why=_WHY[CohortState(row.state)],
            students=row.students,
            blocker=row.blocker,
            blocker_id=row.blocker_id,
            code=row.refusal,
        )
        for row in rows
        if row.students
    )
