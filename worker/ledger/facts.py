"""What messages say, kept when it is newer than what is known.

Each function takes a batch, writes what is newer, and notes in `Effects` whom and what that touched. Nothing here
depends on the order of the messages: versions and instants decide, and equal instants are told apart by the text.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, NamedTuple

import sqlalchemy as sa
from pydantic import TypeAdapter

from worker.ledger.engine import select_in, upsert
from worker.model import Cause, EnrolmentChange, EtapeDescribed, Instant, Kept, Received, SnapshotScope, StudentRekeyed
from worker.rules import survivors
from worker.sql.tables import component, enrolment, etape, membership, snapshot, student

AS_A_WHOLE = "*"
"""The `label_version` of a label that was said of an étape as a whole."""
_Label = tuple[bool, int, str, Instant, str]
"""Labels in rising order: whether of the étape as a whole; version by length and text; instant; the label."""


class _Known(NamedTuple):
    """What a source has said of an enrolment; the names are those of the columns."""

    version: int
    changed_at: Instant
    student_id: str
    status: str
    payment: str
    academic_year: int | None
    etape: str | None
    etape_version: str | None
    component: str | None

    def follows(self) -> tuple[Any, ...]:
        """Give all that memberships follow from."""
        return self[2:]


@dataclass(slots=True)
class Counts:
    """What became of a batch of messages."""

    applied: int = 0
    """Newer than what was known."""
    stale: int = 0
    """Already known, or overtaken: without effect."""
    tombstone: int = 0
    """Without a value: without effect."""
    memberships: int = 0
    """Memberships whose desired state changed."""


class Trigger(NamedTuple):
    """Why students are derived anew."""

    cause: Cause
    origin: str
    published_at: Instant
    run: int | None = None
    """The reconciliation that found it, if no message did."""


Triggers = dict[str | None, Trigger]
"""Why one student is derived anew, by étape; under None for all others."""


@dataclass(slots=True)
class Effects:
    """What the facts of a batch touch."""

    students: dict[str, Triggers] = field(default_factory=dict)
    renamed: set[str] = field(default_factory=set)
    """Students who have another login: what was parked for want of it is worth a try."""
    etapes: set[str] = field(default_factory=set)
    components: set[str] = field(default_factory=set)

    def touch(self, student_id: str, trigger: Trigger, *etapes: str | None) -> None:
        """Have a student derived anew; a wider reason than one étape's, if there was one before, stays."""
        triggers = self.students.setdefault(student_id, {None: trigger})
        for code in etapes:
            if code is not None:
                triggers[code] = trigger


def enrolments(
    connection: sa.Connection, batch: Sequence[Received], effects: Effects, counts: Counts, now: Instant
) -> None:
    """Keep the newest version of each enrolment of each source.

    What was so when an accepted snapshot was taken, or before, is known from it: such a change comes too late.
    """
    changes = [(item.change, item) for item in batch if isinstance(item.change, EnrolmentChange)]
    images = known_snapshots(connection)
    known: dict[tuple[str, str], dict[str, _Known]] = defaultdict(dict)
    columns = [*enrolment.primary_key, *(enrolment.c[name] for name in _Known._fields)]
    theirs = sa.select(*columns).where(enrolment.c.uai.in_({change.uai for change, _ in changes}))
    for row in select_in(connection, theirs, enrolment.c.enrolment_id, {change.enrolment_id for change, _ in changes}):
        uai, enrolment_id, system, *rest = tuple(row)
        known[uai, enrolment_id][system] = _Known._make(rest)
    undone = _undone(connection)
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    again: dict[tuple[str, str, str], dict[str, Any]] = {}
    for change, item in changes:
        sources = known[change.uai, change.enrolment_id]
        old = sources.get(change.system)
        overtaken = old is not None and (change.version, change.changed_at) <= (old.version, old.changed_at)
        if overtaken or (images and _in_a_snapshot(change, old or _latest(sources), images)):
            counts.stale += 1
            continue
        counts.applied += 1
        new = _Known._make(_known(change))
        same = old is not None and len(sources) == 1 and new.follows() == old.follows()
        if not same or change.student_id in undone:
            trigger = Trigger(Cause(change.status), change.origin, item.published_at)
            effects.touch(change.student_id, trigger, change.etape)
            for said in sources.values():  # perhaps of another student, or another étape
                effects.touch(said.student_id, trigger, change.etape, said.etape)
        sources[change.system] = new
        key = (change.uai, change.enrolment_id, change.system)
        (again if same and key not in rows else rows)[key] = fact(change, now)
    upsert(connection, enrolment, list(again.values()), update=_SAME)
    upsert(connection, enrolment, list(rows.values()), update=FACT)


def fact(change: EnrolmentChange, now: Instant) -> dict[str, Any]:
    """Give the row of an enrolment."""
    return {
        "uai": change.uai,
        "enrolment_id": change.enrolment_id,
        "system": change.system,
        "version": change.version,
        "changed_at": change.changed_at,
        "student_id": change.student_id,
        "status": change.status.value,
        "payment": change.payment.value,
        "academic_year": change.academic_year,
        "etape": change.etape,
        "etape_version": change.etape_version,
        "component": change.component,
        "origin": change.origin,
        "recorded_at": now,
    }


def _undone(connection: sa.Connection) -> set[str]:
    """Students, by all their numbers, whose removal was undone until newer word comes, were it the same as before."""
    kept = set(connection.scalars(sa.select(membership.c.student_id).where(membership.c.kept == Kept.UNDONE)))
    return kept | {
        row.student_id for row in select_in(connection, sa.select(student.c.student_id), student.c.survivor, kept)
    }


def known_snapshots(connection: sa.Connection) -> list[tuple[Instant, SnapshotScope]]:
    """Give what accepted snapshots are complete for, and when they were taken; newest first."""
    rows = connection.execute(sa.select(snapshot.c.taken_at, snapshot.c.scope).order_by(snapshot.c.taken_at.desc()))
    return [(row.taken_at, SCOPES.validate_json(row.scope)) for row in rows]


def _latest(sources: dict[str, _Known]) -> _Known | None:
    return max(sources.values(), key=attrgetter("changed_at"), default=None)


def _in_a_snapshot(
    change: EnrolmentChange, old: _Known | None, images: Iterable[tuple[Instant, SnapshotScope]]
) -> bool:
    """Say whether a snapshot was taken when the change was made, or later. A deletion may not know its étape."""
    year = change.academic_year or (old.academic_year if old else None)
    etape = change.etape or (old.etape if old else None)
    return any(
        change.changed_at <= taken_at and scope.covers(uai=change.uai, academic_year=year, etape=etape)
        for taken_at, scope in images
    )


def logins(connection: sa.Connection, batch: Iterable[Received], effects: Effects, uais: frozenset[str]) -> None:
    """Keep the latest login of each student; a message without one says nothing about it."""
    said: dict[str, tuple[Instant, str]] = {}
    for item in batch:
        change = item.change
        if isinstance(change, EnrolmentChange) and change.login is not None and change.uai in uais:
            new = (change.changed_at, change.login)
            said[change.student_id] = max(new, said.get(change.student_id, new))
    columns = sa.select(student.c.student_id, student.c.login_at, student.c.login)
    known = {
        number: (at or 0.0, login or "")
        for number, at, login in map(tuple, select_in(connection, columns, student.c.student_id, said))
    }
    rows = []
    for number, (at, login) in said.items():
        old_at, old_login = known.get(number, (0.0, ""))
        if (at, login) > (old_at, old_login):
            rows.append({"student_id": number, "login": login, "login_at": at})
            if login != old_login:
                effects.renamed.add(number)
    upsert(connection, student, rows, update=["login", "login_at"])


def merges(
    connection: sa.Connection,
    batch: Iterable[Received],
    effects: Effects,
    counts: Counts,
    uais: frozenset[str],
) -> None:
    """Keep the latest merge of each number, and to whom each number leads in the end.

    Merges are rare (some a day), so the whole graph is read: chains and circles resolve alike whatever came first.
    """
    said = [
        (item.change, item.published_at)
        for item in batch
        if isinstance(item.change, StudentRekeyed) and item.change.uai in uais
    ]
    if not said:
        return
    columns = student.c.student_id, student.c.merged_into, student.c.merged_at, student.c.survivor
    rows = connection.execute(sa.select(*columns).where(student.c.merged_into.is_not(None))).all()
    graph = {row.student_id: (row.merged_into, row.merged_at) for row in rows}
    before = {row.student_id: row.survivor or row.student_id for row in rows}
    newer = []
    for change, published_at in said:
        old_into, old_at = graph.get(change.previous_student_id, ("", 0.0))
        if (change.changed_at, change.student_id) <= (old_at, old_into):
            counts.stale += 1
            continue
        counts.applied += 1
        graph[change.previous_student_id] = (change.student_id, change.changed_at)
        newer.append(Trigger(Cause.REKEYED, change.origin, published_at))
    after = survivors(graph)
    for number, survivor in after.items():  # a new merge may lead whole chains elsewhere
        if before.get(number, number) != survivor:
            for concerned in (number, before.get(number, number), survivor):
                effects.touch(concerned, newer[-1])
    upsert(
        connection,
        student,
        [
            {
                "student_id": number,
                "merged_into": into,
                "merged_at": at,
                "survivor": after[number] if after[number] != number else None,
            }
            for number, (into, at) in graph.items()
        ],
        update=["merged_into", "merged_at", "survivor"],
    )


def descriptions(
    connection: sa.Connection,
    batch: Iterable[Received],
    effects: Effects,
    counts: Counts,
    uais: frozenset[str],
) -> None:
    """Keep the label of the highest version of each étape, and the latest component and component label.

    Versions of one étape may carry different labels (APOGEE's VERSION_ETAPE.LIB_WEB_VET): were the latest message to
    decide, their cohort would be renamed back and forth. A description of the étape as a whole, without a version,
    is above all versions: it is how a new name is announced.
    """
    labels: dict[str, _Label] = {}
    components: dict[str, tuple[Instant, str]] = {}
    component_labels: dict[str, tuple[Instant, str]] = {}
    triggers: dict[str, Trigger] = {}
    for item in batch:
        change = item.change
        if not isinstance(change, EnrolmentChange | EtapeDescribed) or change.uai not in uais:
            continue
        if change.etape is None:
            continue
        if change.etape_label is not None:
            whole = isinstance(change, EtapeDescribed) and change.etape_version is None
            version = AS_A_WHOLE if whole else change.etape_version or ""
            label = _label(version, change.changed_at, change.etape_label)
            labels[change.etape] = max(label, labels.get(change.etape, label))
        if change.component is not None:
            new = (change.changed_at, change.component)
            if new >= components.get(change.etape, new):
                components[change.etape] = new
                triggers[change.etape] = Trigger(Cause.DESCRIBED, change.origin, item.published_at)
            if change.component_label is not None:
                new = (change.changed_at, change.component_label)
                component_labels[change.component] = max(new, component_labels.get(change.component, new))
    changed = _keep_etapes(connection, labels, components, triggers, effects)
    changed_components = _keep_components(connection, component_labels, effects)
    for item in batch:
        change = item.change
        if isinstance(change, EtapeDescribed) and change.uai in uais:
            news = change.etape in changed or change.component in changed_components
            counts.applied += news
            counts.stale += not news


def _keep_etapes(
    connection: sa.Connection,
    labels: dict[str, _Label],
    components: dict[str, tuple[Instant, str]],
    triggers: dict[str, Trigger],
    effects: Effects,
) -> set[str]:
    """Write what is newer; returns the étapes concerned."""
    codes = labels.keys() | components.keys()
    known = {row.code: row for row in select_in(connection, sa.select(etape), etape.c.code, codes)}
    rows: list[dict[str, Any]] = []
    moved = set()
    for code in sorted(codes):
        row = known.get(code)
        old_label, old_component = _label("", 0.0, ""), (0.0, "")
        if row is not None:
            old_label = _label(row.label_version or "", row.label_at or 0.0, row.label or "")
            old_component = (row.component_at or 0.0, row.component or "")
        label = max(old_label, labels.get(code, old_label))
        new_component = max(old_component, components.get(code, old_component))
        if (label, new_component) == (old_label, old_component):
            continue
        if label[-1] != old_label[-1] or new_component[1] != old_component[1]:
            effects.etapes.add(code)
        if new_component[1] != old_component[1]:
            moved.add(code)
        rows.append(
            {
                "code": code,
                "label": label[-1] or None,
                "label_version": label[2] or None,
                "label_at": label[3],
                "component": new_component[1] or None,
                "component_at": new_component[0],
            }
        )
    upsert(connection, etape, rows, update=[c.name for c in etape.c if not c.primary_key])
    # Routes go by component: whoever relies on that of the étape is derived anew.
    relying = sa.select(enrolment.c.student_id, enrolment.c.etape).where(enrolment.c.component.is_(None))
    for found in select_in(connection, relying.distinct(), enrolment.c.etape, moved):
        effects.touch(found.student_id, triggers[found.etape])
    return {row["code"] for row in rows}


def _keep_components(connection: sa.Connection, labels: dict[str, tuple[Instant, str]], effects: Effects) -> set[str]:
    """Write what is newer; returns the components concerned."""
    known = {
        row.code: (row.label_at, row.label)
        for row in select_in(connection, sa.select(component), component.c.code, labels)
    }
    newer = {code: new for code, new in labels.items() if new > known.get(code, (0.0, ""))}
    effects.components |= {code for code, new in newer.items() if new[1] != known.get(code, (0.0, ""))[1]}
    rows = [{"code": code, "label": label, "label_at": at} for code, (at, label) in sorted(newer.items())]
    upsert(connection, component, rows, update=["label", "label_at"])
    return set(newer)


def _label(version: str, at: Instant, label: str) -> _Label:
    return version == AS_A_WHOLE, len(version), version, at, label


_known = attrgetter(*_Known._fields)
FACT = [c.name for c in enrolment.c if not c.primary_key]
"""Columns of an enrolment that a newer fact replaces."""
_SAME = ["version", "changed_at", "origin", "recorded_at"]
"""Columns that a newer fact replaces which says the same: indexed ones aren't among them, whose update costs most."""

SCOPES: TypeAdapter[SnapshotScope] = TypeAdapter(SnapshotScope)
"""A scope to JSON and back."""
