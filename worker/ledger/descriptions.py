"""What messages say of étapes and components, kept when it is newer or of a higher version than what is known.

Nothing here depends on the order of the messages, as in `facts`.
"""

from collections.abc import Collection, Iterable
from datetime import MINYEAR, UTC, datetime
from operator import attrgetter
from typing import Any

import sqlalchemy as sa

from worker.domain.changes import ComponentChange, EnrolmentChange, EtapeChange, PersonEnrolled, Received
from worker.domain.instants import Instant
from worker.domain.states import Cause
from worker.ledger.database import select_in, upsert
from worker.ledger.enrolments import Counts, Effects, Trigger
from worker.ledger.schema import component, enrolment, etape, relies_on_etape

AS_A_WHOLE = "*"
"""The `label_version` of a label that was said of an étape as a whole."""
_Label = tuple[bool, int, str, Instant, str]
"""Labels in rising order: whether of the étape as a whole; version by length and text; instant; the label."""


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
    triggers: dict[str, Trigger] = {}
    told = _descriptions(batch, uais)
    for code, change, published_at in told:
        if change.etape_label is not None:
            whole = isinstance(change, EtapeChange) and change.etape_version is None
            version = AS_A_WHOLE if whole else change.etape_version or ""
            label = _label(version, change.changed_at, change.etape_label)
            labels[code] = max(label, labels.get(code, label))
        if change.component is not None:
            new = (change.changed_at, change.component)
            if new >= components.get(code, new):
                components[code] = new
                triggers[code] = Trigger(Cause.DESCRIBED, change.origin, published_at)
    changed = _keep_etapes(connection, labels, components, triggers, effects)
    described = [item.change for item in batch if isinstance(item.change, EtapeChange | ComponentChange)]
    of_components = (each for each in described if isinstance(each, ComponentChange) and each.uai in uais)
    labelled = _component_labels([*(change for _, change, _ in told), *of_components])
    changed_components = _keep_components(connection, labelled, effects)
    for each in described:
        of_etape = isinstance(each, EtapeChange) and each.etape in changed
        news = each.uai in uais and (of_etape or each.component in changed_components)
        counts.applied += news
        counts.stale += not news


def _of_its_year(captured: EnrolmentChange) -> EnrolmentChange:
    """Have the component of a captured enrolment count for its étape as of the enrolment's year.

    A batch job or another snapshot of the capture tells each row anew: were the last one to decide, an étape whose
    rows name several components would go back and forth between them.
    """
    return captured._replace(changed_at=datetime(captured.academic_year or MINYEAR, 1, 1, tzinfo=UTC).timestamp())


def _component_labels(
    told: Iterable[EnrolmentChange | EtapeChange | ComponentChange],
) -> dict[str, tuple[Instant, str]]:
    labels: dict[str, tuple[Instant, str]] = {}
    for said in told:
        if said.component is not None and said.component_label is not None:
            new = (said.changed_at, said.component_label)
            labels[said.component] = max(new, labels.get(said.component, new))
    return labels


def _descriptions(
    batch: Iterable[Received], uais: frozenset[str]
) -> Collection[tuple[str, EnrolmentChange | EtapeChange, Instant]]:
    """Give the étapes that are described, by what and when published; of changes that say the same, the newest.

    Most messages of a batch repeat what a few say.
    """
    newest: dict[tuple[object, object], tuple[str, EnrolmentChange | EtapeChange, Instant]] = {}
    for item in batch:
        change = _of_its_year(item.change.enrolment) if isinstance(item.change, PersonEnrolled) else item.change
        if isinstance(change, _DESCRIBING) and change.etape is not None and change.uai in uais:
            said = type(change), _description(change)
            known = newest.get(said)
            if known is None or known[1].changed_at < change.changed_at:
                newest[said] = (change.etape, change, item.published_at)
    return newest.values()


def _keep_etapes(
    connection: sa.Connection,
    labels: dict[str, _Label],
    components: dict[str, tuple[Instant, str]],
    triggers: dict[str, Trigger],
    effects: Effects,
) -> set[str]:
    """Write what is newer; returns the étapes concerned."""
    codes = labels.keys() | components.keys()
    columns = (etape.c[name] for name in ("code", "label_version", "label_at", "label", "component_at", "component"))
    rows_before = select_in(connection, sa.select(*columns), etape.c.code, codes)
    known = {
        code: (_label(version or "", at or 0.0, label or ""), (component_at or 0.0, of or ""))
        for code, version, at, label, component_at, of in map(tuple, rows_before)
    }
    rows: list[dict[str, Any]] = []
    moved = set()
    for code in sorted(codes):
        old_label, old_component = known.get(code, _UNDESCRIBED)
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
    relying = sa.select(enrolment.c.student_id, enrolment.c.etape).where(relies_on_etape)
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


_UNDESCRIBED = (_label("", 0.0, ""), (0.0, ""))
_DESCRIBING = (EnrolmentChange, EtapeChange)
_description = attrgetter("etape", "etape_version", "etape_label", "component", "component_label")
