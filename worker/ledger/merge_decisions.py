"""What a person decides about a merge of student numbers: to approve it, or to end it."""

from dataclasses import dataclass

import sqlalchemy as sa

from worker.domain.errors import DecisionRefused
from worker.domain.instants import Instant
from worker.domain.rules import Mapper
from worker.domain.states import Action, MergeState
from worker.ledger.database import Ledger, select_in
from worker.ledger.memberships import enrolments_under
from worker.ledger.merges import Family
from worker.ledger.persons import persons_of
from worker.ledger.schema import cohort, membership

_IN_FORCE = {MergeState.APPLIED, MergeState.SET_ASIDE}


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class MergeEffect:
    """A membership that would begin or end."""

    platform: str
    cohort: str
    student_id: str
    joins: bool


def decided(
    connection: sa.Connection, number: str, into: str | None, action: Action, *, by: str, now: Instant
) -> Family:
    """Return the family of a number after a decision about its merges, which isn't written yet.

    To approve is about the newest merge that isn't in force, or that into the other number; to reject about all of
    them. Raises DecisionRefused when there is none.
    """
    family = Family(connection, [number])
    about = [pair for pair in sorted(family.rows) if pair[0] == number and into in {None, pair[1]}]
    if action is Action.APPROVE:
        waiting = [pair for pair in about if family.rows[pair]["state"] not in _IN_FORCE]
        about = sorted(waiting, key=lambda pair: float(family.rows[pair]["merged_at"]))[-1:]
    else:
        about = [pair for pair in about if family.rows[pair]["verdict"] != Action.REJECT]
    if not about:
        raise DecisionRefused("no merge of this number can be decided on so; see `cohorts merges`")
    persons = persons_of(connection, {each for pair in about for each in pair})
    for former, present in about:
        bearers = persons.get(former, set()) | persons.get(present, set())
        verdict = {"verdict": action.value, "decided_by": by, "decided_at": now, "persons": len(bearers)}
        family.change((former, present), **verdict)
    return family


def preview(
    ledger: Ledger, mapper: Mapper, number: str, into: str | None, action: Action, *, now: Instant
) -> list[MergeEffect]:
    """Return the memberships that a decision would change. Nothing is written. Raises DecisionRefused as it would."""
    with ledger.read() as connection:
        family = decided(connection, number, into, action, by="", now=now)
        leads = family.judged().survivors
        numbers = {each for pair in family.rows for each in pair}
        enrolments, components = enrolments_under(connection, {each: leads.get(each, each) for each in numbers})
        wanted = {
            (each.platform, each.idnumber, student)
            for student, rows in enrolments.items()
            for each in mapper.desired(rows, components)
        }
        columns = sa.select(cohort.c.platform, cohort.c.idnumber, membership.c.student_id, membership.c.kept)
        rows = select_in(
            connection,
            columns.join_from(membership, cohort).where(membership.c.desired),
            membership.c.student_id,
            numbers,
        )
    present = {(row.platform, row.idnumber, row.student_id) for row in rows}
    by_rule = {(row.platform, row.idnumber, row.student_id) for row in rows if row.kept is None}
    return sorted(
        MergeEffect(platform=platform, cohort=idnumber, student_id=student, joins=joins)
        for keys, joins in ((wanted - present, True), (by_rule - wanted, False))
        for platform, idnumber, student in keys
    )
