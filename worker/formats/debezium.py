"""Debezium's envelopes of APOGÉE's tables -> changes, or `InvalidMessage`. Pure: no I/O, no clock.

| table | columns that are read | what it becomes |
| --- | --- | --- |
| `INS_ADM_ETP` | the key, `ETA_IAE`, `ETA_PMT_IAE`, `COD_CMP` | an enrolment of a person, perhaps deleted |
| `INDIVIDU` | `COD_IND`, `COD_ETU` | the person's student number, or that there is none |
| `VERSION_ETAPE` | `COD_ETP`, `COD_VRS_VET`, `LIB_WEB_VET` | the label of a version of an étape, unless it is null |
| `ETAPE` | `COD_ETP`, `LIB_ETP` | the label of an étape of which no version has one |
| `COMPOSANTE` | `COD_CMP`, `LIB_CMP` | the label of a component |

No other column is read or kept: INDIVIDU holds the social-security number. Other tables are ignored, and so is a
deleted row of any table but the first two: a person without a row is still enrolled.

`source.scn`, the number of the change in Oracle, is the version, and `source.ts_ms` the instant. A transaction may
change a row twice under one SCN: then the place in the redo log decides (`rs_id` and `ssn`, or `lcr_position`).
A truncated table is an invalid message: it unenrols nobody, and a person must look.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError

import schemas
from worker.domain import apogee
from worker.domain.changes import (
    BELOW_ALL_VERSIONS,
    Change,
    ComponentChange,
    EnrolmentChange,
    EtapeChange,
    PersonEnrolled,
    PersonNumbered,
    Tombstone,
)
from worker.domain.errors import InvalidMessage, Problem
from worker.domain.states import Status
from worker.formats import debezium_rows
from worker.formats.cloudevents import Headers, unframed

SYSTEM = "apogee"
M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")


class Debezium:
    """Change capture from the APOGÉE of one establishment."""

    def __init__(self, uai: str) -> None:
        self._uai = uai

    def read(self, *, value: bytes | None, headers: Headers, origin: str) -> Sequence[Change]:  # noqa: ARG002 - Debezium's hold nothing
        """Read one message; raises InvalidMessage, which names fields and types of error, never a value."""
        if value is None:
            return (Tombstone(origin=origin),)
        document = unframed(value)
        event = _validated(debezium_rows.Event, document)
        read = _TABLES.get(event.source.table.upper())
        if read is None:
            return ()
        if event.op == "t":
            raise InvalidMessage(Problem("op", "truncate"))
        return read(_Message(document=document, event=event, uai=self._uai, origin=origin))

    def letter(self, value: bytes | None) -> bytes | None:
        """Return the fields that are read of a message, if it is JSON, and nothing if it isn't.

        A row may hold what no dead letter must: the connector should leave it out, but nothing forces it to.
        """
        if value is None:
            return None
        try:
            document = orjson.loads(unframed(value))
        except orjson.JSONDecodeError:
            return b""
        return orjson.dumps(_pruned(document.get("payload", document))) if isinstance(document, dict) else b""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Message:
    """A message about a table that is read, each table by its method."""

    document: bytes
    event: debezium_rows.Event
    uai: str
    origin: str

    def enrolments(self) -> Sequence[Change]:
        """Read a change of INS_ADM_ETP. An update that changes the key changes two enrolments."""
        change = _validated(debezium_rows.Enrolments, self.document)
        if self.event.op == "d":
            return (self._deleted(_required(change.before, "before")),)
        state = self._state(_required(change.after, "after"))
        if self.event.op == "u" and change.before is not None and _id(change.before) != state.enrolment.enrolment_id:
            return (self._deleted(change.before), state)
        return (state,)

    def _deleted(self, row: debezium_rows.EnrolmentKey) -> PersonEnrolled:
        return self._enrolled(row, status=Status.DELETED)

    def _state(self, row: debezium_rows.EnrolmentTableRow) -> PersonEnrolled:
        payment = apogee.payment(row.eta_pmt_iae)
        return self._enrolled(row, status=apogee.STATUSES[row.eta_iae], payment=payment, component=row.cod_cmp)

    def _enrolled(self, row: debezium_rows.EnrolmentKey, **state: Any) -> PersonEnrolled:  # noqa: ANN401 - fields of a change
        enrolment = EnrolmentChange(
            uai=self.uai,
            enrolment_id=_id(row),
            system=SYSTEM,
            version=self.event.source.scn,
            sequence=self.event.source.place,
            changed_at=self.event.source.changed_at,
            student_id="",
            origin=self.origin,
            academic_year=row.cod_anu,
            etape=row.cod_etp,
            etape_version=str(row.cod_vrs_vet),
            **state,
        )
        return PersonEnrolled(person=row.cod_ind, enrolment=enrolment)

    def individu(self) -> Sequence[Change]:
        """Read a change of INDIVIDU: the person's number, none when it is null, or the row deleted."""
        change = _validated(debezium_rows.Persons, self.document)
        if self.event.op == "d":
            row, cod_etu = _required(change.before, "before"), None
        else:
            present = _required(change.after, "after")
            row, cod_etu = present, present.cod_etu
        number = PersonNumbered(
            uai=self.uai,
            person=row.cod_ind,
            student_id="" if cod_etu is None else str(cod_etu),
            version=self.event.source.scn,
            sequence=self.event.source.place,
            changed_at=self.event.source.changed_at,
            origin=self.origin,
        )
        return (number,)

    def etape(self) -> Sequence[Change]:
        """Read a change of ETAPE."""
        if self.event.op == "d":
            return ()
        row = _validated(debezium_rows.After[debezium_rows.EtapeTableRow], self.document).after
        return self._label(row.cod_etp, BELOW_ALL_VERSIONS, row.lib_etp)

    def version_etape(self) -> Sequence[Change]:
        """Read a change of VERSION_ETAPE."""
        if self.event.op == "d":
            return ()
        row = _validated(debezium_rows.After[debezium_rows.VersionEtape], self.document).after
        return self._label(row.cod_etp, str(row.cod_vrs_vet), row.lib_web_vet)

    def _label(self, etape: str, version: str, label: str | None) -> Sequence[Change]:
        if label is None:
            return ()
        change = EtapeChange(
            uai=self.uai,
            etape=etape,
            etape_version=version,
            etape_label=label,
            changed_at=self.event.source.changed_at,
            origin=self.origin,
        )
        return (change,)

    def composante(self) -> Sequence[Change]:
        """Read a change of COMPOSANTE."""
        if self.event.op == "d":
            return ()
        row = _validated(debezium_rows.After[debezium_rows.Composante], self.document).after
        if row.lib_cmp is None:
            return ()
        change = ComponentChange(
            uai=self.uai,
            component=row.cod_cmp,
            component_label=row.lib_cmp,
            changed_at=self.event.source.changed_at,
            origin=self.origin,
        )
        return (change,)


_TABLES: Mapping[str, Callable[[_Message], Sequence[Change]]] = {
    "INS_ADM_ETP": _Message.enrolments,
    "INDIVIDU": _Message.individu,
    "ETAPE": _Message.etape,
    "VERSION_ETAPE": _Message.version_etape,
    "COMPOSANTE": _Message.composante,
}


def _id(row: debezium_rows.EnrolmentKey) -> str:
    return apogee.enrolment_id(
        year=row.cod_anu,
        person=row.cod_ind,
        etape=row.cod_etp,
        version=row.cod_vrs_vet,
        occurrence=row.num_occ_iae,
    )


def _required(row: T | None, part: str) -> T:
    if row is None:
        raise InvalidMessage(Problem(part, "missing"))
    return row


def _validated(model: type[M], document: bytes) -> M:
    """Validate. The error is raised outside the handler, or it would bring values into a traceback."""
    try:
        return model.model_validate_json(document)
    except ValidationError as error:
        problems = schemas.problems(error, depth=0)
    raise InvalidMessage(*(Problem(field, kind) for field, kind in problems))


# What a dead letter keeps of a message

_KEPT = {"source": frozenset(debezium_rows.ChangeSource.model_fields)} | dict.fromkeys(
    ("before", "after"), debezium_rows.COLUMNS
)


def _pruned(payload: Any) -> dict[str, Any]:  # noqa: ANN401 - whatever the JSON says
    """Return the parts of an envelope that are read."""
    if not isinstance(payload, dict):
        return {}
    kept = {"op": _plain(payload.get("op"))}
    for part, names in _KEPT.items():
        row = payload.get(part)
        kept[part] = (
            {name: _plain(value) for name, value in row.items() if name.lower() in names}
            if isinstance(row, dict)
            else None
        )
    return kept


def _plain(value: Any) -> Any:  # noqa: ANN401 - idem
    """Return a number in any of its encodings, or text; nothing that is nested deeper."""
    if isinstance(value, dict):
        return {name: _scalar(value.get(name)) for name in ("scale", "value")}
    return _scalar(value)


def _scalar(value: Any) -> Any:  # noqa: ANN401 - idem
    return None if isinstance(value, dict | list) else value
