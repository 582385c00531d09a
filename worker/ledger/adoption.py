"""The ledger's side of adoption: the cohorts that rules lead to, what is known of their members, and taking one."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from worker.domain.drift import KnownMembership
from worker.domain.instants import Instant
from worker.domain.rules import EnrolmentLike
from worker.domain.states import Action, CohortState
from worker.ledger.cohorts import owned
from worker.ledger.database import Ledger, select_in
from worker.ledger.journal import NewEntry, write_entries
from worker.ledger.memberships import enrolments_of
from worker.ledger.observations import known_memberships
from worker.ledger.schema import at_membership, cohort, in_cohort, membership


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedCohort:
    """A cohort that rules lead to, ours or not."""

    id: int
    idnumber: str
    wanted_name: str | None
    name_is_ours: bool
    state: CohortState
    moodle_id: int | None
    """Moodle's id, where it is ours."""
    blocker_id: int | None
    """Moodle's id of the cohort that keeps it from being created."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownStudents:
    """What the sources say of some students."""

    enrolments: Mapping[str, Sequence[EnrolmentLike]]
    components: Mapping[str, str | None]
    """By étape."""
    places: Mapping[str, frozenset[int]]
    """The cohorts of the platform in which they are desired, by student."""


def wanted(ledger: Ledger, platform: str) -> list[WantedCohort]:
    """Return the cohorts of a platform that rules lead to, by idnumber."""
    rows = sa.select(cohort).where(cohort.c.platform == platform).order_by(cohort.c.idnumber)
    with ledger.read() as connection:
        return [
            WantedCohort(
                id=row.id,
                idnumber=row.idnumber,
                wanted_name=row.wanted_name,
                name_is_ours=row.name_is_ours,
                state=CohortState(row.state),
                moodle_id=row.moodle_id,
                blocker_id=row.blocker_id,
            )
            for row in connection.execute(rows)
        ]


def members(ledger: Ledger, cohort_ids: Sequence[int], at: Instant) -> Mapping[int, Mapping[str, KnownMembership]]:
    """Return what is known of the members of these cohorts, by student; a cohort without any may be missing."""
    with ledger.read() as connection:
        return known_memberships(connection, cohort_ids, at)


def students(ledger: Ledger, platform: str, numbers: Collection[str]) -> KnownStudents:
    """Return what the sources say of these students, given by their surviving numbers."""
    places = sa.select(membership.c.student_id, membership.c.cohort_id).where(
        membership.c.desired, in_cohort(cohort.c.platform == platform)
    )
    found: dict[str, set[int]] = {}
    with ledger.read() as connection:
        enrolments, components = enrolments_of(connection, numbers)
        for row in select_in(connection, places, membership.c.student_id, numbers):
            found.setdefault(row.student_id, set()).add(row.cohort_id)
    return KnownStudents(
        enrolments=enrolments,
        components=components,
        places={number: frozenset(cohort_ids) for number, cohort_ids in found.items()},
    )


def take(
    ledger: Ledger,
    cohort_id: int,
    *,
    platform: str,
    values: Mapping[str, Any],
    present: Mapping[str, int],
    now: Instant,
    by: str,
) -> bool:
    """Make a cohort ours: write its columns, the desired members it has (student to account) and who adopted it.

    Returns False, and writes nothing, when it is ours by now, or its cohort on Moodle is another one of ours.
    """
    this = cohort.c.id == cohort_id
    its_cohort = sa.and_(cohort.c.platform == platform, cohort.c.moodle_id == values["moodle_id"])
    with ledger.write() as connection:
        ours = sa.and_(cohort.c.state == CohortState.OWNED, sa.or_(this, its_cohort))
        if connection.scalar(sa.select(cohort.c.id).where(ours).limit(1)) is not None:
            return False
        # Whoever works on it saw it as it was before: what they would write is out of date.
        columns = owned(values["moodle_id"], values["moodle_name"], values["moodle_idnumber"], now)
        connection.execute(sa.update(cohort).where(this).values(**columns, unread=True, lease_holder=None))
        if present:
            connection.execute(
                at_membership.where(membership.c.desired).values(
                    observed=True, observed_at=now, user_id=sa.bindparam("b_user"), attempts=0, reason=None
                ),
                [
                    {"b_cohort": cohort_id, "b_student": number, "b_user": user_id}
                    for number, user_id in present.items()
                ],
            )
        adopted = NewEntry(
            at=now,
            platform=platform,
            cohort=values["moodle_idnumber"],
            cohort_id=cohort_id,
            action=Action.ADOPT_COHORT,
            detail=f"by {by}",
        )
        write_entries(connection, [adopted])
    return True
