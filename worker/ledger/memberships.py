"""Facts to desired memberships and wanted names: what must be, whatever the way it was learnt."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from types import MappingProxyType
from typing import Any, NamedTuple

import sqlalchemy as sa

from worker.domain.instants import Instant
from worker.domain.rules import EnrolmentLike, Mapper, Mode, WantedCohort, canonical
from worker.domain.states import Cause, CohortState, Kept, Reason, Status
from worker.ledger import gaps
from worker.ledger.database import select_in, upsert
from worker.ledger.enrolments import EnrolmentFacts, EnrolmentKey, Trigger, Triggers
from worker.ledger.schema import cohort, component, enrolment, etape, gap, in_cohort, membership, student


class _Latest(NamedTuple):
    """What the latest source says of an enrolment; the names are those of the columns. A row is slower to ask."""

    student_id: str
    uai: str
    enrolment_id: str
    status: str
    payment: str
    academic_year: int | None
    etape: str | None
    etape_version: str | None
    component: str | None


class MembershipProjector:
    """Derives under one policy. Memberships and cohorts of manual platforms are never looked at."""

    def __init__(self, mapper: Mapper, *, coalesce: float, removal_delay: float, grace: float) -> None:
        self.mapper = mapper
        self._coalesce = coalesce
        self._removal_delay = removal_delay
        self._grace = grace
        self._platforms = [p.name for p in mapper.policy.platforms if p.mode is not Mode.MANUAL]
        self._mine = sa.select(*_COHORT).where(cohort.c.platform.in_(self._platforms))

    def memberships(
        self,
        connection: sa.Connection,
        students: Mapping[str, Triggers],
        now: Instant,
        told: Mapping[EnrolmentKey, EnrolmentFacts] = MappingProxyType({}),
    ) -> int:
        """Derive the memberships of these students, and of those merged with them; returns how many changed.

        `told` is what the latest source says of enrolments, where the ledger may not say so yet.
        """
        family, triggers = _families(connection, students)
        enrolments = _enrolments(connection, family, told)
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
        ids = self._cohort_ids(connection, set().union(*wanted.values()))
        desired = {(ids[c.platform, c.idnumber], who): c.etape for who, cohorts in wanted.items() for c in cohorts}
        has = {
            (row.cohort_id, row.student_id): row
            for row in select_in(connection, _HAS, membership.c.student_id, family.keys() | set(family.values()))
        }
        rows = [
            self._row(key, self._trigger(triggers[key[1]], desired[key]), now)
            for key in sorted(desired.keys() - {key for key, row in has.items() if row.kept is None})
        ]
        ended = has.keys() - desired.keys()
        cohorts = {row.id: row for row in select_in(connection, self._mine, cohort.c.id, {of for of, _ in ended})}
        for key in sorted(key for key in ended if key[0] in cohorts):
            of = cohorts[key[0]]
            trigger = self._trigger(triggers[key[1]], of.etape)
            if has[key].kept is None or self._knowing(triggers[key[1]], has[key], of.etape):
                closed = trigger.cause is Cause.SETTINGS and self._is_of_closed_year(enrolments[key[1]], components, of)
                rows.append(self._ending(key, trigger, now, year_closed=closed))
        # `observed` is what Moodle showed and isn't for us to say: it is set for new rows alone.
        upsert(connection, membership, rows, update=_DESIRED)
        return len(rows)

    def retry(self, connection: sa.Connection, students: Iterable[str], now: Instant) -> None:
        """Try anew what is parked of these students, who have become known by another login."""
        gaps.retry(connection, [*students], self._platforms, now + self._coalesce)

    def begin_writing(self, connection: sa.Connection, now: Instant) -> None:
        """Have done at once what was only observed, on platforms that may be written from now on."""
        written = [p.name for p in self.mapper.policy.platforms if p.mode is Mode.AUTOMATIC]
        here = in_cohort(cohort.c.platform.in_(written))
        observed = sa.update(membership).where(gap, membership.c.reason == Reason.OBSERVE, here)
        connection.execute(observed.values(next_attempt_at=now, reason=None, attempts=0))
        unnamed = sa.update(cohort).where(cohort.c.platform.in_(written), cohort.c.attempts == 0)
        connection.execute(unnamed.values(next_attempt_at=0.0))

    def names(self, connection: sa.Connection, etapes: Iterable[str], components: Iterable[str]) -> None:
        """Write anew the wanted names of the cohorts of these étapes and components."""
        components = set(components)
        codes = set(etapes) | {
            row.code for row in select_in(connection, sa.select(etape.c.code), etape.c.component, components)
        }
        if not codes and not components:
            return
        found = {row.id: row for row in select_in(connection, self._mine, cohort.c.etape, codes)}
        found |= {row.id: row for row in select_in(connection, self._mine, cohort.c.component, components)}
        self._name(connection, list(found.values()))

    def every_name(self, connection: sa.Connection) -> None:
        """Write anew the wanted names of all cohorts."""
        self._name(connection, connection.execute(self._mine).all())

    def _name(self, connection: sa.Connection, rows: Sequence[sa.Row[Any]]) -> None:
        codes = {row.etape for row in rows if row.etape is not None}
        described = {row.code: row for row in select_in(connection, sa.select(etape), etape.c.code, codes)}
        labels = {row.code: row.label for row in connection.execute(sa.select(component))}
        names = []
        for row in rows:
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
            if name != row.wanted_name:
                names.append({"b_id": row.id, "b_name": name})
        if names:
            statement = sa.update(cohort).where(cohort.c.id == sa.bindparam("b_id"))
            connection.execute(statement.values(wanted_name=sa.bindparam("b_name")), names)

    def follow_aliases(self, connection: sa.Connection) -> None:
        """Let the cohort of an old code live on under the new one, unless that one has a cohort already."""
        mine = self._mine.where(cohort.c.etape.is_not(None))
        for row in connection.execute(mine.order_by(cohort.c.id)).all():
            etape_code, idnumber = self.mapper.successor(row.etape, row.idnumber)
            same = sa.and_(cohort.c.platform == row.platform, cohort.c.idnumber == idnumber)
            if connection.scalar(sa.select(cohort.c.id).where(same)) is None:
                renamed = sa.update(cohort).where(cohort.c.id == row.id)
                connection.execute(renamed.values(idnumber=idnumber, etape=etape_code, wanted_name=None))

    def _trigger(self, triggers: Triggers, of: str | None) -> Trigger:
        """Why the membership of a cohort of this étape changes: a message about that étape, if there was one."""
        about = self._about(triggers, of)
        return about[-1] if about else triggers[None]

    def _about(self, triggers: Triggers, of: str | None) -> list[Trigger]:
        aliases = self.mapper.policy.aliases
        return [t for code, t in triggers.items() if code is not None and canonical(code, aliases) == of]

    def _knowing(self, triggers: Triggers, kept: sa.Row[Any], of: str | None) -> bool:
        """Say whether there is news of the étape whose membership a person had put back, newer than that.

        A cohort of several étapes has news by any enrolment of the student.
        """
        said = [trigger for trigger in triggers.values() if trigger.cause in _OF_ENROLMENTS]
        about = self._about(triggers, of) if of is not None else said
        return kept.kept == Kept.UNDONE and any(trigger.published_at > kept.kept_at for trigger in about)

    def _is_of_closed_year(
        self, enrolments: Sequence[EnrolmentLike], components: Mapping[str, str | None], had: sa.Row[Any]
    ) -> bool:
        wanted = self.mapper.desired_in_any_year(enrolments, components)
        return (had.platform, had.idnumber) in {(cohort.platform, cohort.idnumber) for cohort in wanted}

    def _row(self, key: tuple[int, str], trigger: Trigger, now: Instant) -> dict[str, Any]:
        return {
            "cohort_id": key[0],
            "student_id": key[1],
            "desired": True,
            "observed": False,
            **gaps.opened(
                cause=trigger.cause,
                origin=trigger.origin,
                since=trigger.published_at,
                next_attempt_at=now + self._coalesce,
                run=trigger.run,
            ),
            "kept": None,
            "kept_at": None,
        }

    def _ending(self, key: tuple[int, str], trigger: Trigger, now: Instant, *, year_closed: bool) -> dict[str, Any]:
        """Give the row of a membership that is over; that of a closed year stays for the time of grace."""
        grace = self._grace if year_closed else 0.0
        return self._row(key, trigger, now) | {
            "desired": False,
            "cause": (Cause.YEAR_CLOSED if year_closed else trigger.cause).value,
            "due_by": trigger.published_at + grace + gaps.PROMISE_SECONDS,
            "next_attempt_at": now + max(grace, self._removal_delay),
        }

    def _cohort_ids(self, connection: sa.Connection, wanted: Iterable[WantedCohort]) -> dict[tuple[str, str], int]:
        """Ids by (platform, idnumber); cohorts never heard of before are noted as wanted."""
        by_key = {(c.platform, c.idnumber): c for c in sorted(wanted, key=attrgetter("template"))}

        def read(keys: Iterable[tuple[str, str]]) -> dict[tuple[str, str], sa.Row[Any]]:
            rows = select_in(connection, self._mine, cohort.c.idnumber, {idnumber for _, idnumber in keys})
            return {(row.platform, row.idnumber): row for row in rows}

        known = read(by_key)
        new = [by_key[key] for key in sorted(by_key.keys() - known.keys())]
        if new:
            state = {"state": CohortState.WANTED.value}
            connection.execute(sa.insert(cohort), [_columns(c) | state for c in new])
        # Templates may have changed since the cohort was first wanted.
        moved = [key for key, row in known.items() if key in by_key and _said(by_key[key]) != tuple(row)[1:-1]]
        for key in moved:
            mine = sa.update(cohort).where(cohort.c.id == known[key].id)
            connection.execute(mine.values(_columns(by_key[key])))
        if new or moved:
            anew = read([*((c.platform, c.idnumber) for c in new), *moved])
            self._name(connection, list(anew.values()))
            known |= anew
        return {key: row.id for key, row in known.items()}


def _families(
    connection: sa.Connection, students: Mapping[str, Triggers]
) -> tuple[dict[str, str], dict[str, Triggers]]:
    """Numbers to survivors, for these students and everybody merged with them; and triggers for all of them."""
    columns = sa.select(student.c.student_id, student.c.survivor).where(student.c.survivor.is_not(None))
    found = select_in(connection, columns, student.c.student_id, students)
    merged = {row.student_id: row.survivor for row in found}
    triggers = dict(students)
    for number, survivor in merged.items():
        triggers[survivor] = students[number] | triggers.get(survivor, {})
    for row in select_in(connection, columns, student.c.survivor, set(triggers)):
        merged[row.student_id] = row.survivor
        triggers.setdefault(row.student_id, triggers[row.survivor])
    return {number: merged.get(number, number) for number in triggers}, triggers


def _enrolments(
    connection: sa.Connection, family: Mapping[str, str], told: Mapping[EnrolmentKey, EnrolmentFacts]
) -> dict[str, list[EnrolmentLike]]:
    """Enrolments by surviving student. When several sources speak of one, the latest to have changed is taken."""
    by_student: dict[str, list[EnrolmentLike]] = defaultdict(list)
    for said in told.values():
        if said.student_id in family:
            by_student[family[said.student_id]].append(said)
    for row in map(_Latest._make, select_in(connection, _LATEST, enrolment.c.student_id, family)):
        if (row.uai, row.enrolment_id) not in told:
            by_student[family[row.student_id]].append(row)
    return by_student


def _columns(of: WantedCohort) -> dict[str, Any]:
    return dict(zip(_WANTED, _said(of), strict=True))


_WANTED = ("platform", "idnumber", "template", "etape", "component")
"""What a cohort's row and the rules both say of it."""
_said = attrgetter(*_WANTED)
_COHORT = [cohort.c[name] for name in ("id", *_WANTED, "wanted_name")]
"""What is read of a cohort: what the rules say, but for the first and the last."""
_DESIRED = [c.name for c in membership.c if not c.primary_key and c.name not in {"observed", "observed_at", "user_id"}]
_OF_ENROLMENTS = frozenset(map(Cause, Status))
_HAS = sa.select(membership.c.cohort_id, membership.c.student_id, membership.c.kept, membership.c.kept_at).where(
    membership.c.desired
)
"""Desired memberships. Cohorts aren't joined: SQLite would go through them, and look up every student in each."""
_other = enrolment.alias("other")
is_latest = ~sa.exists().where(
    _other.c.uai == enrolment.c.uai,
    _other.c.enrolment_id == enrolment.c.enrolment_id,
    sa.or_(
        _other.c.changed_at > enrolment.c.changed_at,
        sa.and_(_other.c.changed_at == enrolment.c.changed_at, _other.c.system > enrolment.c.system),
    ),
)
"""What no source has overruled."""
_LATEST = sa.select(*(enrolment.c[name] for name in _Latest._fields)).where(is_latest)
"""What the latest source says of each enrolment, perhaps that it is another student's."""
