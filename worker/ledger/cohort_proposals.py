"""The cohorts that would be created or renamed now, for a person to read. Nothing is written."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from worker.domain.guard import LIMIT_OF, CohortJudgement, Guard
from worker.domain.hashes import hash_of
from worker.domain.instants import Instant
from worker.domain.states import OF_DECISIONS, Cause, CohortChange, Limit
from worker.ledger.cohort_guard import TO_CHANGE, judged
from worker.ledger.database import among
from worker.ledger.schema import cohort, component, etape, gap, membership


class CohortCause(StrEnum):
    """Why a cohort is to be created or renamed, as a plan shows it."""

    ENROLLED = "enrolled"
    """Students enrolled in an étape that has no cohort yet."""
    RULE_CHANGED = "rule_changed"
    """Settings, or the étape's component, lead them to a cohort that isn't there yet."""
    DELETED = "deleted"
    """Somebody deleted it on Moodle."""
    ETAPE_LABEL = "etape_label"
    COMPONENT_LABEL = "component_label"
    NAME_RULE = "name_rule"
    """A setting writes its name otherwise."""
    CODE = "code"
    """Its étape has another code, or somebody changed its idnumber on Moodle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedChange:
    """A cohort that would be created or renamed."""

    change: CohortChange
    cohort_id: int
    platform: str
    idnumber: str
    etape: str | None
    name: str
    """What it would be called."""
    idnumber_before: str | None
    """What Moodle shows; None for one that is to be created, as of its name."""
    name_before: str | None
    students: int
    """Who would join it."""
    cause: CohortCause
    origin: str | None
    """The message, or whatever else it follows from; None when that isn't known."""
    held: Limit | None
    """The limit that it exceeds: it waits for a person, or will as soon as its turn comes."""
    approved: str | None
    """Hash of the approval in force."""
    rejected: str | None
    """Hash of the rejection in force."""

    @property
    def is_open(self) -> bool:
        """Whether nobody has decided about it."""
        return self.approved is None and self.rejected is None

    @property
    def key(self) -> tuple[int, str, str | None, str | None, str, str]:
        """Return what a decision about it is bound to."""
        return self.cohort_id, self.change.value, self.idnumber_before, self.name_before, self.idnumber, self.name

    @property
    def hash(self) -> str:
        """The hash of this change alone."""
        return changes_hash([self])


def changes_hash(changes: Collection[PlannedChange]) -> str:
    """Return the hash of a set of changes: equal for equal sets, different for others, and from any of removals."""
    return hash_of("cohorts", sorted(change.key for change in changes))


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedCohorts:
    """What would be done to the cohorts of a platform as a whole, and the guard's judgements of it."""

    changes: tuple[PlannedChange, ...]
    judgements: tuple[CohortJudgement, ...]

    @property
    def uncreated(self) -> frozenset[int]:
        """Ids of the cohorts that aren't created before a person decides so: nobody joins them."""
        return frozenset(
            each.cohort_id
            for each in self.changes
            if each.change is CohortChange.CREATION and (each.rejected or (each.held and each.is_open))
        )

    def held(self, change: CohortChange) -> int:
        """Count those that wait for a person."""
        return sum(each.change is change and each.is_open and each.held is not None for each in self.changes)


def planned(connection: sa.Connection, platform: str, guard: Guard, now: Instant) -> PlannedCohorts:
    """Return the cohorts of a platform that would be created or renamed now, by idnumber."""
    changes: list[PlannedChange] = []
    judgements = []
    for change in CohortChange:
        judgement = judged(connection, platform, guard, change, now)
        judgements.append(judgement)
        changes += read(connection, cohort.c.platform == platform, change, now, beyond=judgement.held)
    return PlannedCohorts(changes=tuple(changes), judgements=tuple(judgements))


def read(
    connection: sa.Connection,
    which: sa.ColumnElement[bool],
    change: CohortChange,
    now: Instant,
    *,
    beyond: Collection[int] = (),
) -> list[PlannedChange]:
    """Return those of some cohorts that are to be changed so, by idnumber; `beyond` are to be held, by their ids."""
    described = (
        sa.select(
            cohort,
            etape.c.label.label("etape_label"),
            etape.c.label_origin.label("etape_origin"),
            component.c.label.label("component_label"),
            component.c.label_origin.label("component_origin"),
        )
        .join(etape, etape.c.code == cohort.c.etape, isouter=True)
        .join(component, component.c.code == sa.func.coalesce(cohort.c.component, etape.c.component), isouter=True)
        .where(which, TO_CHANGE[change])
        .order_by(cohort.c.platform, cohort.c.idnumber)
    )
    joining = _joining(connection, which) if change is CohortChange.CREATION else {}
    return [
        _planned(row, change, joining.get(row.id), now, beyond=row.id in beyond)
        for row in connection.execute(described)
    ]


def _planned(
    row: sa.Row[Any], change: CohortChange, joining: sa.Row[Any] | None, now: Instant, *, beyond: bool
) -> PlannedChange:
    name = row.wanted_name if row.name_is_ours else row.moodle_name
    if change is CohortChange.RENAME:
        cause, origin = _of_new_label(row)
    else:
        cause, origin = _of_creation(row, joining), None if joining is None else joining.origin
    approved = row.approved if (row.approved_until or 0.0) > now else None
    limit = LIMIT_OF[change] if beyond else None
    return PlannedChange(
        change=change,
        cohort_id=row.id,
        platform=row.platform,
        idnumber=row.idnumber,
        etape=row.etape,
        name=name or row.moodle_name or row.idnumber,
        idnumber_before=row.moodle_idnumber,
        name_before=row.moodle_name,
        students=0 if joining is None else joining.students,
        cause=cause,
        origin=origin,
        held=limit if row.held is None else Limit(row.held),
        approved=approved,
        rejected=row.rejected,
    )


def _joining(connection: sa.Connection, which: sa.ColumnElement[bool]) -> dict[int, sa.Row[Any]]:
    """Return who is to join the cohorts that Moodle hasn't: how many, and since when and why the first of them."""
    earliest = sa.func.row_number().over(
        partition_by=membership.c.cohort_id, order_by=(membership.c.since, membership.c.student_id)
    )
    students = sa.func.count().over(partition_by=membership.c.cohort_id)
    rows = (
        sa.select(
            membership.c.cohort_id,
            membership.c.cause,
            membership.c.origin,
            students.label("students"),
            earliest.label("rank"),
        )
        .join(cohort)
        .where(which, TO_CHANGE[CohortChange.CREATION], membership.c.desired, gap)
        .subquery()
    )
    return {row.cohort_id: row for row in connection.execute(sa.select(rows).where(rows.c.rank == 1))}


def _of_creation(row: sa.Row[Any], joining: sa.Row[Any] | None) -> CohortCause:
    if row.owned_at is not None:
        return CohortCause.DELETED
    by_rule = joining is not None and joining.cause in OF_DECISIONS | {Cause.DESCRIBED}
    return CohortCause.RULE_CHANGED if by_rule else CohortCause.ENROLLED


def _of_new_label(row: sa.Row[Any]) -> tuple[CohortCause, str | None]:
    """Return why a cohort is to be called otherwise: which of the labels in its new name isn't in the present one."""
    if row.moodle_idnumber != row.idnumber:
        return CohortCause.CODE, None
    for cause, label, origin in (
        (CohortCause.COMPONENT_LABEL, row.component_label, row.component_origin),
        (CohortCause.ETAPE_LABEL, row.etape_label, row.etape_origin),
    ):
        if label is not None and label in row.wanted_name and label not in row.moodle_name:
            return cause, origin
    return CohortCause.NAME_RULE, None


def of_cohorts(connection: sa.Connection, cohort_ids: Iterable[int], now: Instant) -> list[PlannedChange]:
    """Return what is to be done now to these cohorts as a whole, however many they are."""
    which = among(connection, cohort.c.id, list(cohort_ids))
    return [each for change in CohortChange for each in read(connection, which, change, now)]
