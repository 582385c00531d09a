"""Facts to desired memberships and wanted names: what must be, whatever the way it was learnt."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa

from worker.ledger.engine import select_in, upsert
from worker.ledger.facts import Trigger
from worker.model import CohortState, Instant
from worker.rules import Mapper, Mode, WantedCohort
from worker.sql.tables import cohort, component, enrolment, etape, membership, student

PROMISE_SECONDS = 24 * 3600
"""A change is on Moodle this long after its publication, at most."""


class Deriver:
    """Derives under one policy. Memberships and cohorts of manual platforms are never looked at."""

    def __init__(self, mapper: Mapper, *, coalesce: float, removal_delay: float) -> None:
        self.mapper = mapper
        self._coalesce = coalesce
        self._removal_delay = removal_delay
        self._platforms = [p.name for p in mapper.policy.platforms if p.mode is not Mode.MANUAL]

    def memberships(self, connection: sa.Connection, students: Mapping[str, Trigger], now: Instant) -> int:
        """Derive the memberships of these students, and of those merged with them; returns how many changed."""
        family, triggers = _families(connection, students)
        enrolments = _enrolments(connection, family)
        components = {
            row.code: row.component
            for row in select_in(
                connection,
                sa.select(etape.c.code, etape.c.component),
                etape.c.code,
                {row.etape for rows in enrolments.values() for row in rows if row.etape is not None},
            )
        }
        wanted = {number: self.mapper.desired(rows, components) for number, rows in enrolments.items()}
        ids = self._cohort_ids(connection, {cohort for cohorts in wanted.values() for cohort in cohorts})
        desired = {(ids[c.platform, c.idnumber], who) for who, cohorts in wanted.items() for c in cohorts}
        known = {
            (row.cohort_id, row.student_id): row.desired
            for row in select_in(
                connection,
                sa.select(membership.c.cohort_id, membership.c.student_id, membership.c.desired)
                .join(cohort)
                .where(cohort.c.platform.in_(self._platforms)),
                membership.c.student_id,
                family.keys() | set(family.values()),
            )
        }
        changes = [(key, True) for key in desired if not known.get(key, False)]
        changes += [(key, False) for key, was in known.items() if was and key not in desired]
        rows = [self._row(key, wants, triggers[key[1]], now) for key, wants in sorted(changes)]
        # `observed` is what Moodle showed and isn't for us to say: it is set for new rows alone.
        upsert(connection, membership, rows, update=_DESIRED)
        return len(rows)

    def names(self, connection: sa.Connection, etapes: Iterable[str], components: Iterable[str]) -> None:
        """Write anew the wanted names of the cohorts of these étapes and components."""
        components = set(components)
        codes = set(etapes) | {
            row.code for row in select_in(connection, sa.select(etape.c.code), etape.c.component, components)
        }
        if not codes and not components:
            return
        mine = sa.select(cohort).where(cohort.c.platform.in_(self._platforms))
        found = {row.id: row for row in select_in(connection, mine, cohort.c.etape, codes)}
        found |= {row.id: row for row in select_in(connection, mine, cohort.c.component, components)}
        described = {
            row.code: row
            for row in select_in(
                connection, sa.select(etape), etape.c.code, {row.etape for row in found.values() if row.etape}
            )
        }
        labels = dict(row.tuple() for row in connection.execute(sa.select(component.c.code, component.c.label)))
        names = []
        for row in found.values():
            of = described.get(row.etape)
            code = row.component or (of.component if of is not None else None)
            name = self.mapper.name(
                WantedCohort(
                    platform=row.platform,
                    idnumber=row.idnumber,
                    template=row.template,
                    etape=row.etape,
                    component=row.component,
                ),
                etape_label=of.label if of is not None else None,
                component=code,
                component_label=labels.get(code or ""),
            )
            if name is not None and name != row.wanted_name:
                names.append({"b_id": row.id, "b_name": name})
        if names:
            statement = sa.update(cohort).where(cohort.c.id == sa.bindparam("b_id"))
            connection.execute(statement.values(wanted_name=sa.bindparam("b_name")), names)

    def follow_aliases(self, connection: sa.Connection) -> None:
        """Let the cohort of an old code live on under the new one, unless that one has a cohort already."""
        mine = sa.select(cohort).where(cohort.c.etape.is_not(None), cohort.c.platform.in_(self._platforms))
        for row in connection.execute(mine.order_by(cohort.c.id)).all():
            etape_code, idnumber = self.mapper.successor(row.etape, row.idnumber)
            same = sa.and_(cohort.c.platform == row.platform, cohort.c.idnumber == idnumber)
            if connection.scalar(sa.select(cohort.c.id).where(same)) is None:
                renamed = sa.update(cohort).where(cohort.c.id == row.id)
                connection.execute(renamed.values(idnumber=idnumber, etape=etape_code, wanted_name=None))

    def _row(
        self,
        key: tuple[int, str],
        wants: bool,
        trigger: Trigger,
        now: Instant,  # noqa: FBT001 - a column
    ) -> dict[str, Any]:
        return {
            "cohort_id": key[0],
            "student_id": key[1],
            "desired": wants,
            "observed": False,
            "cause": trigger.cause.value,
            "origin": trigger.origin,
            "since": trigger.published_at,
            "due_by": trigger.published_at + PROMISE_SECONDS,
            "priority": 0,
            "attempts": 0,
            "next_attempt_at": now + (self._coalesce if wants else self._removal_delay),
            "reason": None,
        }

    def _cohort_ids(self, connection: sa.Connection, wanted: Iterable[WantedCohort]) -> dict[tuple[str, str], int]:
        """Ids by (platform, idnumber); cohorts never heard of before are noted as wanted."""
        by_key = {(c.platform, c.idnumber): c for c in wanted}

        def read() -> dict[tuple[str, str], int]:
            columns = sa.select(cohort.c.id, cohort.c.platform, cohort.c.idnumber)
            rows = select_in(connection, columns, cohort.c.idnumber, {idnumber for _, idnumber in by_key})
            return {(row.platform, row.idnumber): row.id for row in rows}

        ids = read()
        new = [by_key[key] for key in sorted(by_key.keys() - ids.keys())]
        if not new:
            return ids
        connection.execute(
            sa.insert(cohort),
            [
                {
                    "platform": c.platform,
                    "idnumber": c.idnumber,
                    "template": c.template,
                    "etape": c.etape,
                    "component": c.component,
                    "state": CohortState.WANTED.value,
                }
                for c in new
            ],
        )
        self.names(connection, {c.etape for c in new if c.etape}, {c.component for c in new if c.component})
        return read()


def _families(connection: sa.Connection, students: Mapping[str, Trigger]) -> tuple[dict[str, str], dict[str, Trigger]]:
    """Numbers to survivors, for these students and everybody merged with them; and triggers for all of them."""
    columns = sa.select(student.c.student_id, student.c.survivor).where(student.c.survivor.is_not(None))
    found = select_in(connection, columns, student.c.student_id, students)
    merged = {row.student_id: row.survivor for row in found}
    triggers = dict(students)
    for number, survivor in merged.items():
        triggers.setdefault(survivor, students[number])
    for row in select_in(connection, columns, student.c.survivor, set(triggers)):
        merged[row.student_id] = row.survivor
        triggers.setdefault(row.student_id, triggers[row.survivor])
    return {number: merged.get(number, number) for number in triggers}, triggers


def _enrolments(connection: sa.Connection, family: Mapping[str, str]) -> dict[str, list[sa.Row[Any]]]:
    """Enrolments by surviving student. When several sources speak of one, the latest to have changed is taken."""
    newest: dict[tuple[str, str], sa.Row[Any]] = {}
    for row in select_in(connection, sa.select(*_READ), enrolment.c.student_id, family):
        key = (row.uai, row.enrolment_id)
        old = newest.get(key)
        if old is None or (row.changed_at, row.system) > (old.changed_at, old.system):
            newest[key] = row
    by_student: dict[str, list[sa.Row[Any]]] = defaultdict(list)
    for row in newest.values():
        by_student[family[row.student_id]].append(row)
    return by_student


_DESIRED = [c.name for c in membership.c if not c.primary_key and c.name not in {"observed", "user_id"}]
_READ = (
    enrolment.c.uai,
    enrolment.c.enrolment_id,
    enrolment.c.system,
    enrolment.c.student_id,
    enrolment.c.changed_at,
    enrolment.c.status,
    enrolment.c.payment,
    enrolment.c.academic_year,
    enrolment.c.etape,
    enrolment.c.etape_version,
    enrolment.c.component,
)
