"""Derives the desired memberships from what the sources say, by the rules."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import sqlalchemy as sa

from worker.domain.instants import Instant
from worker.domain.rules import EnrolmentLike, Mapper, Mode, account_key, canonical, is_called_by_login
from worker.domain.states import Cause, Kept, Reason, Status
from worker.ledger import accounts, gaps
from worker.ledger.database import select_in, upsert
from worker.ledger.enrolments import EnrolmentFacts, EnrolmentKey, Trigger, Triggers
from worker.ledger.identities import merged_into, survivors_of
from worker.ledger.schema import cohort, enrolment, etape, gap, in_cohort, membership
from worker.ledger.students import Relogins
from worker.ledger.wanted_cohorts import CohortName, WantedCohorts

Key = tuple[int, str]
"""A membership: cohort id, student id."""


class _Latest(NamedTuple):
    """What the latest source says of an enrolment, by the names of the columns. Attributes of a row are slower."""

    student_id: str
    uai: str
    enrolment_id: str
    status: str
    payment: str
    academic_year: int | None
    etape: str | None
    etape_version: str | None
    component: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reasons:
    """Why the memberships of one student are projected again, told apart once for all of their cohorts."""

    by_etape: Mapping[str, Trigger]
    """By the present code of the étape."""
    counting: Mapping[bool, Trigger]
    """The last message about an enrolment that counts by its status, and about one that doesn't."""
    newest: Instant
    """When the newest message about an enrolment was published."""
    otherwise: Trigger


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded:
    """What the memberships of some students follow from."""

    reasons: Mapping[str, _Reasons]
    enrolments: Mapping[str, Sequence[EnrolmentLike]]
    components: Mapping[str, str | None]
    desired: Mapping[Key, str | None]
    """The étape of the cohort (None: of several), by membership."""
    known: Mapping[Key, sa.Row[Any]]
    """Memberships that are desired in the ledger."""


class MembershipProjector:
    """Derives memberships under one policy; those of manual platforms are never touched."""

    def __init__(self, mapper: Mapper, *, coalesce: float, removal_delay: float, grace: float) -> None:
        self.mapper = mapper
        self._coalesce = coalesce
        self._removal_delay = removal_delay
        self._grace = grace
        self._platforms = [p.name for p in mapper.policy.platforms if p.mode is not Mode.MANUAL]
        self.cohorts = WantedCohorts(mapper, self._platforms)

    def memberships(
        self,
        connection: sa.Connection,
        students: Mapping[str, Triggers],
        now: Instant,
        latest: Mapping[EnrolmentKey, EnrolmentFacts] = MappingProxyType({}),
    ) -> int:
        """Derive the memberships of these students, and of those merged with them; return how many changed.

        `latest` is what the latest source says of enrolments, where the ledger may not say so yet.
        """
        loaded = self._load(connection, students, latest, now)
        ended = [key for key in loaded.known if key not in loaded.desired]
        cohorts = self.cohorts.by_id(connection, {cohort_id for cohort_id, _ in ended})
        rows = self._begun(loaded, now)
        rows += self._ended(loaded, {key: cohorts[key[0]] for key in sorted(ended) if key[0] in cohorts}, now)
        # `observed` is what Moodle showed and isn't for us to say: it is set for new rows alone.
        upsert(connection, membership, rows, update=_DESIRED)
        return len(rows)

    def _load(
        self,
        connection: sa.Connection,
        students: Mapping[str, Triggers],
        latest: Mapping[EnrolmentKey, EnrolmentFacts],
        now: Instant,
    ) -> _Loaded:
        """Read what these students are enrolled in, what that leads to, and the memberships that they have."""
        persons, triggers = _persons(connection, students)
        enrolments = _enrolments(connection, persons, latest)
        components = _components(connection, enrolments.values())
        wanted = {number: self.mapper.desired(rows, components) for number, rows in enrolments.items()}
        ids = self.cohorts.ids(connection, set().union(*wanted.values()), now)
        desired: dict[Key, str | None] = {}
        for number, cohorts in wanted.items():
            for each in cohorts:
                desired[ids[each.platform, each.idnumber], number] = each.etape
        known = select_in(connection, _KNOWN, membership.c.student_id, persons.keys() | {*persons.values()})
        return _Loaded(
            reasons={number: self._reasons(triggers[number]) for number in triggers},
            enrolments=enrolments,
            components=components,
            desired=desired,
            known={(row.cohort_id, row.student_id): row for row in known},
        )

    def _begun(self, loaded: _Loaded, now: Instant) -> list[dict[str, Any]]:
        """Return the rows of memberships that the rules desire and that weren't, or only by a person's decision."""
        by_rule = {key for key, row in loaded.known.items() if row.kept is None}
        new = sorted(loaded.desired.keys() - by_rule)
        rows = []
        for key in new:
            trigger = _trigger(loaded.reasons[key[1]], loaded.desired[key], begins=True)
            rows.append(self._row(key, trigger, now))
        return rows

    def _ended(self, loaded: _Loaded, ended: Mapping[Key, sa.Row[Any]], now: Instant) -> list[dict[str, Any]]:
        """Return the rows of memberships that ended, given with their cohorts, except those that a person keeps."""
        rows = []
        in_any_year: dict[str, set[CohortName]] = {}
        for key, of_cohort in ended.items():
            number = key[1]
            reasons, known = loaded.reasons[number], loaded.known[key]
            if known.kept is not None and not _overrules(reasons, known, of_cohort.etape):
                continue
            trigger = _trigger(reasons, of_cohort.etape, begins=False)
            if trigger.cause is Cause.SETTINGS and number not in in_any_year:
                wanted = self.mapper.desired_in_any_year(loaded.enrolments.get(number, ()), loaded.components)
                in_any_year[number] = {(each.platform, each.idnumber) for each in wanted}
            wanted_once = in_any_year[number] if trigger.cause is Cause.SETTINGS else ()
            year_closed = (of_cohort.platform, of_cohort.idnumber) in wanted_once
            rows.append(self._ended_row(key, trigger, now, year_closed=year_closed))
        return rows

    def relogin(self, connection: sa.Connection, relogins: Relogins, now: Instant) -> None:
        """Retry what is parked of these students, and look up anew by which account those are there who are members.

        It waits like any addition, so that a burst of messages makes few calls.
        """
        at = now + self._coalesce
        gaps.retry(connection, [*relogins], self._platforms, at)
        written = [p.name for p in self.mapper.policy.platforms if p.mode is Mode.AUTOMATIC and is_called_by_login(p)]
        for number, (former, _, trigger) in relogins.items():
            if written and former is not None:
                gaps.unconfirm(
                    connection, number, written, at,
                    origin=trigger.origin, since=trigger.published_at, run=trigger.run,
                )  # fmt: skip

    def forget_accounts(self, connection: sa.Connection, relogins: Relogins, merged: Iterable[str] = ()) -> None:
        """Forget what was found under the former and present logins of these students, and under merged numbers."""
        called: list[tuple[str, str | None]] = [(number, None) for number in merged]
        for number, (former, login, _) in relogins.items():
            if former is not None:
                called += [(number, former), (number, login)]
        for platform in self.mapper.policy.platforms:
            keys = {account_key(platform, number, login) for number, login in called}
            accounts.forget_keys(connection, platform.name, {key for key in keys if key is not None})

    def begin_writing(self, connection: sa.Connection, now: Instant) -> None:
        """Apply at once what was only observed, on platforms that may be written from now on."""
        written = [p.name for p in self.mapper.policy.platforms if p.mode is Mode.AUTOMATIC]
        on_platforms = in_cohort(cohort.c.platform.in_(written))
        observed = sa.update(membership).where(gap, membership.c.reason == Reason.OBSERVE, on_platforms)
        connection.execute(observed.values(next_attempt_at=now, reason=None, attempts=0))
        unnamed = sa.update(cohort).where(cohort.c.platform.in_(written), cohort.c.attempts == 0)
        connection.execute(unnamed.values(next_attempt_at=0.0))

    def _reasons(self, triggers: Triggers) -> _Reasons:
        """Tell apart why one student's memberships are projected again."""
        by_etape: dict[str, Trigger] = {}
        counting: dict[bool, Trigger] = {}
        newest = 0.0
        for code, trigger in triggers.items():
            if code is not None:
                by_etape[canonical(code, self.mapper.policy.aliases)] = trigger
            if trigger.cause in _OF_ENROLMENTS:
                counting[Status(trigger.cause) in self.mapper.policy.statuses] = trigger
                newest = max(newest, trigger.published_at)
        return _Reasons(by_etape=by_etape, counting=counting, newest=newest, otherwise=triggers[None])

    def _row(self, key: Key, trigger: Trigger, now: Instant) -> dict[str, Any]:
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

    def _ended_row(self, key: Key, trigger: Trigger, now: Instant, *, year_closed: bool) -> dict[str, Any]:
        """Return the row of a membership that ended; that of a closed year stays for the grace period."""
        grace = self._grace if year_closed else 0.0
        return self._row(key, trigger, now) | {
            "desired": False,
            "cause": (Cause.YEAR_CLOSED if year_closed else trigger.cause).value,
            "due_by": trigger.published_at + grace + gaps.PROMISE_SECONDS,
            "next_attempt_at": now + max(grace, self._removal_delay),
        }


def _trigger(reasons: _Reasons, etape_code: str | None, *, begins: bool) -> Trigger:
    """Return why a membership changes: a message about the étape of its cohort, if there was one.

    A cohort of several étapes is joined because of an enrolment that counts, and left because of one that doesn't.
    """
    about = reasons.counting.get(begins) if etape_code is None else reasons.by_etape.get(etape_code)
    return reasons.otherwise if about is None else about


def _overrules(reasons: _Reasons, kept: sa.Row[Any], etape_code: str | None) -> bool:
    """Whether the étape of a membership that a person had put back is in newer messages than that decision.

    For a cohort of several étapes, any enrolment of the student counts.
    """
    if kept.kept != Kept.UNDONE:
        return False
    if etape_code is None:
        return reasons.newest > float(kept.kept_at)
    about = reasons.by_etape.get(etape_code)
    return about is not None and about.published_at > float(kept.kept_at)


def enrolments_of(
    connection: sa.Connection, students: Iterable[str]
) -> tuple[dict[str, list[EnrolmentLike]], dict[str, str | None]]:
    """Return what the latest source says of all enrolments of these students, given by their surviving numbers.

    The first is by student; the second are the components of the étapes, by code.
    """
    survivors = {number: number for number in students}
    survivors |= merged_into(connection, survivors)
    return enrolments_under(connection, survivors)


def enrolments_under(
    connection: sa.Connection, survivors: Mapping[str, str]
) -> tuple[dict[str, list[EnrolmentLike]], dict[str, str | None]]:
    """Return the same for numbers that lead to these survivors, perhaps otherwise than in the ledger."""
    enrolments = _enrolments(connection, survivors, {})
    return enrolments, _components(connection, enrolments.values())


def _persons(connection: sa.Connection, students: Mapping[str, Triggers]) -> tuple[dict[str, str], dict[str, Triggers]]:
    """Return the survivor of these students' numbers and of all numbers merged with them, and triggers for each."""
    survivors = survivors_of(connection, students)
    triggers = dict(students)
    for number, survivor in survivors.items():
        triggers[survivor] = students[number] | triggers.get(survivor, {})
    for number, survivor in merged_into(connection, {*triggers}).items():
        survivors[number] = survivor
        triggers.setdefault(number, triggers[survivor])
    return {number: survivors.get(number, number) for number in triggers}, triggers


def _components(connection: sa.Connection, enrolments: Iterable[Iterable[EnrolmentLike]]) -> dict[str, str | None]:
    """Return the component of each étape that these enrolments name."""
    codes = {row.etape for rows in enrolments for row in rows if row.etape is not None}
    columns = sa.select(etape.c.code, etape.c.component)
    return {row.code: row.component for row in select_in(connection, columns, etape.c.code, codes)}


def _enrolments(
    connection: sa.Connection, survivors: Mapping[str, str], latest: Mapping[EnrolmentKey, EnrolmentFacts]
) -> dict[str, list[EnrolmentLike]]:
    """Return the enrolments by surviving number; of several sources, the one that changed last counts."""
    by_student: dict[str, list[EnrolmentLike]] = defaultdict(list)
    for facts in latest.values():
        if facts.student_id in survivors:
            by_student[survivors[facts.student_id]].append(facts)
    for row in map(_Latest._make, select_in(connection, _LATEST, enrolment.c.student_id, survivors)):
        if (row.uai, row.enrolment_id) not in latest:
            by_student[survivors[row.student_id]].append(row)
    return by_student


_OBSERVED = {"observed", "observed_at", "joined_at", "user_id"}
_DESIRED = [c.name for c in membership.c if not c.primary_key and c.name not in _OBSERVED]
_OF_ENROLMENTS = frozenset(map(Cause, Status))
_KNOWN = sa.select(membership.c.cohort_id, membership.c.student_id, membership.c.kept, membership.c.kept_at).where(
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
