"""Write what messages say of étapes and components, when it is newer or of a higher version than what is known.

Nothing here depends on the order of the messages, as in `enrolments`.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import MINYEAR, UTC, datetime
from operator import attrgetter
from typing import NamedTuple, Self

import sqlalchemy as sa

from worker.domain.changes import ComponentChange, EnrolmentChange, EtapeChange, PersonEnrolled, Received
from worker.domain.instants import Instant
from worker.domain.states import Cause
from worker.ledger.database import select_in, upsert
from worker.ledger.enrolments import Counts, Touched, Trigger
from worker.ledger.schema import component, enrolment, etape, relies_on_etape

_Source = tuple[str, EnrolmentChange | EtapeChange, Instant]
"""An étape, a change that describes it, and when that was published."""
WHOLE_ETAPE = "*"
"""The `label_version` of a label of an étape as a whole."""


class Label(NamedTuple):
    """A label of an étape; the greatest rules.

    That of the étape as a whole is above those of its versions; of these the highest, by length and text, is above
    the others; then the newest.
    """

    of_whole_etape: bool = False
    version_length: int = 0
    version: str = ""
    at: Instant = 0.0
    text: str = ""
    origin: str = ""
    """The message that gives it."""

    @classmethod
    def of_version(cls, version: str, at: Instant, text: str, origin: str = "") -> Self:
        """Build the label of a version, which may be `WHOLE_ETAPE`, or empty: it is below all others then."""
        return cls(version == WHOLE_ETAPE, len(version), version, at, text, origin)


class _Component(NamedTuple):
    """The component of an étape; the greatest rules."""

    at: Instant = 0.0
    code: str = ""


class _ComponentLabel(NamedTuple):
    """A label of a component; the greatest rules."""

    at: Instant = 0.0
    text: str = ""
    origin: str = ""
    """The message that gives it."""


class _Description(NamedTuple):
    """What is known of an étape."""

    label: Label = Label()
    component: _Component = _Component()

    def joined(self, other: "_Description") -> "_Description":
        """Return the label and the component that rule, of both descriptions."""
        return _Description(max(self.label, other.label), max(self.component, other.component))

    def content(self) -> tuple[object, ...]:
        """Return what it says, whichever message did."""
        return self.label._replace(origin=""), self.component


class _RecordedEtapes(NamedTuple):
    written: Collection[str]
    renamed: Collection[str]
    """Those whose label or component, hence the names of whose cohorts, changed."""
    touched: Touched


class _RecordedComponents(NamedTuple):
    written: Collection[str]
    renamed: Collection[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedDescriptions:
    """What the descriptions of a batch changed."""

    etapes: Collection[str]
    """Étapes whose cohorts may need another name."""
    components: Collection[str]
    """Components whose cohorts may need another name."""
    touched: Touched
    counts: Counts


def record(connection: sa.Connection, batch: Sequence[Received], uais: frozenset[str]) -> RecordedDescriptions:
    """Write the label of the highest version of each étape, and the latest component and component label.

    Versions of one étape may carry different labels (APOGÉE's VERSION_ETAPE.LIB_WEB_VET). If the latest message
    decided, their cohort would be renamed back and forth. A description of the étape as a whole, without a version,
    is above all versions: it is how a new name is announced.
    """
    sources = _sources(batch, uais)
    described = [item.change for item in batch if isinstance(item.change, EtapeChange | ComponentChange)]
    etapes = _record_etapes(connection, sources)
    components = _record_components(
        connection,
        [
            *(change for _, change, _ in sources),
            *(change for change in described if isinstance(change, ComponentChange) and change.uai in uais),
        ],
    )
    applied = 0
    for change in described:
        of_etape = isinstance(change, EtapeChange) and change.etape in etapes.written
        applied += change.uai in uais and (of_etape or change.component in components.written)
    return RecordedDescriptions(
        etapes=etapes.renamed,
        components=components.renamed,
        touched=etapes.touched,
        counts=Counts(applied=applied, stale=len(described) - applied),
    )


def _sources(batch: Iterable[Received], uais: frozenset[str]) -> Collection[_Source]:
    """Return the changes that describe étapes; of those with equal descriptions, the newest.

    Most messages of a batch repeat what a few say.
    """
    newest: dict[tuple[object, object], _Source] = {}
    for item in batch:
        change = _of_its_year(item.change.enrolment) if isinstance(item.change, PersonEnrolled) else item.change
        if isinstance(change, _DESCRIBING) and change.etape is not None and change.uai in uais:
            described = type(change), _description(change)
            known = newest.get(described)
            if known is None or _newness(known[1]) < _newness(change):
                newest[described] = (change.etape, change, item.published_at)
    return newest.values()


def _newness(change: EnrolmentChange | EtapeChange) -> tuple[Instant, str]:
    return change.changed_at, change.origin


def _of_its_year(captured: EnrolmentChange) -> EnrolmentChange:
    """Date a captured enrolment to its academic year, for the component of its étape.

    A batch job, or another snapshot of the capture, sends each row again. If the last one decided, an étape whose
    rows name several components would go back and forth between them.
    """
    return captured._replace(changed_at=datetime(captured.academic_year or MINYEAR, 1, 1, tzinfo=UTC).timestamp())


def _record_etapes(connection: sa.Connection, sources: Collection[_Source]) -> _RecordedEtapes:
    descriptions = _joined(sources)
    before = _known_etapes(connection, descriptions)
    after = {code: before[code].joined(description) for code, description in descriptions.items()}
    newer = [code for code in sorted(after) if after[code] != before[code]]
    upsert(connection, etape, [_etape_row(code, after[code]) for code in newer], update=_ETAPE_COLUMNS)
    written = {code for code in newer if after[code].content() != before[code].content()}
    moved = {code for code in written if after[code].component.code != before[code].component.code}
    relabelled = {code for code in written if after[code].label.text != before[code].label.text}
    touched = _relying_on(connection, moved, sources)
    return _RecordedEtapes(written=written, renamed=moved | relabelled, touched=touched)


def _joined(sources: Iterable[_Source]) -> dict[str, _Description]:
    """Return what a batch says of each étape."""
    descriptions: dict[str, _Description] = {}
    for code, change, _ in sources:
        description = _described_by(change)
        if description != _UNDESCRIBED:
            known = descriptions.get(code)
            descriptions[code] = description if known is None else known.joined(description)
    return descriptions


def _described_by(change: EnrolmentChange | EtapeChange) -> _Description:
    label, etape_component = _UNDESCRIBED
    if change.etape_label is not None:
        of_whole_etape = isinstance(change, EtapeChange) and change.etape_version is None
        version = WHOLE_ETAPE if of_whole_etape else change.etape_version or ""
        label = Label.of_version(version, change.changed_at, change.etape_label, change.origin)
    if change.component is not None:
        etape_component = _Component(change.changed_at, change.component)
    return _Description(label, etape_component)


def _known_etapes(connection: sa.Connection, codes: Collection[str]) -> dict[str, _Description]:
    """Return what is known of étapes; of those that aren't known yet, an empty description."""
    columns = (
        etape.c[name]
        for name in ("code", "label_version", "label_at", "label", "label_origin", "component_at", "component")
    )
    known = dict.fromkeys(codes, _UNDESCRIBED)
    for row in select_in(connection, sa.select(*columns), etape.c.code, codes):
        code, version, label_at, text, origin, component_at, component_code = tuple(row)
        known[code] = _Description(
            Label.of_version(version or "", label_at or 0.0, text or "", origin or ""),
            _Component(component_at or 0.0, component_code or ""),
        )
    return known


def _etape_row(code: str, description: _Description) -> dict[str, object]:
    label, etape_component = description
    return {
        "code": code,
        "label": label.text or None,
        "label_version": label.version or None,
        "label_at": label.at,
        "label_origin": label.origin or None,
        "component": etape_component.code or None,
        "component_at": etape_component.at,
    }


def _relying_on(connection: sa.Connection, moved: Collection[str], sources: Iterable[_Source]) -> Touched:
    """Return the students to project again because an étape has another component: routes go by component."""
    naming = [source for source in sources if source[0] in moved and source[1].component is not None]
    triggers = {
        code: Trigger(Cause.DESCRIBED, change.origin, published_at)
        for code, change, published_at in sorted(naming, key=_component_order)  # the one that rules comes last
    }
    touched = Touched()
    relying = sa.select(enrolment.c.student_id, enrolment.c.etape).where(relies_on_etape)
    for row in select_in(connection, relying.distinct(), enrolment.c.etape, moved):
        touched.touch(row.student_id, triggers[row.etape])
    return touched


def _record_components(
    connection: sa.Connection, changes: Iterable[EnrolmentChange | EtapeChange | ComponentChange]
) -> _RecordedComponents:
    latest: dict[str, _ComponentLabel] = {}
    for change in changes:
        if change.component is not None and change.component_label is not None:
            label = _ComponentLabel(change.changed_at, change.component_label, change.origin)
            latest[change.component] = max(label, latest.get(change.component, label))
    known = dict.fromkeys(latest, _ComponentLabel()) | {
        row.code: _ComponentLabel(row.label_at, row.label, row.label_origin or "")
        for row in select_in(connection, sa.select(component), component.c.code, latest)
    }
    newer = {code: label for code, label in latest.items() if label > known[code]}
    rows = [
        {"code": code, "label": label.text, "label_at": label.at, "label_origin": label.origin}
        for code, label in sorted(newer.items())
    ]
    upsert(connection, component, rows, update=["label", "label_at", "label_origin"])
    return _RecordedComponents(
        written={code for code, label in newer.items() if label[:2] != known[code][:2]},
        renamed={code for code, label in newer.items() if label.text != known[code].text},
    )


def _component_order(source: _Source) -> tuple[Instant, str]:
    _, change, _ = source
    return change.changed_at, change.component or ""


_UNDESCRIBED = _Description()
_DESCRIBING = (EnrolmentChange, EtapeChange)
_description = attrgetter("etape", "etape_version", "etape_label", "component", "component_label")
_ETAPE_COLUMNS = [column.name for column in etape.c if not column.primary_key]
