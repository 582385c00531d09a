"""An APOGÉE whose tables are captured by Debezium: every write gives the messages that a connector would produce.

    capture = Capture(university)
    capture.initial()                             # the records of `university.initial()`, as a snapshot: op `r`
    capture.day(university.september_day(300))    # what these messages state, as c, u and d with tombstones
    capture.snapshot()                            # all rows once more, as they are now: a snapshot that is re-emitted

`Apogee` alone writes any rows. Student numbers are NUMBER(8) in APOGÉE, so without leading zeros: see `as_numbers`.
"""

from base64 import b64encode
from collections.abc import Iterable, Mapping
from datetime import datetime
from random import Random
from typing import Any, NamedTuple

import orjson

from worker.sandbox.university.catalogue import etapes
from worker.sandbox.university.generator import University
from worker.sandbox.university.records import Message

KEYS = {
    "INDIVIDU": ("COD_IND",),
    "COMPOSANTE": ("COD_CMP",),
    "ETAPE": ("COD_ETP",),
    "VERSION_ETAPE": ("COD_ETP", "COD_VRS_VET"),
    "INS_ADM_ETP": ("COD_ANU", "COD_IND", "COD_ETP", "COD_VRS_VET", "NUM_OCC_IAE"),
}
"""Primary keys."""
NUMBERS = {"COD_IND", "COD_ETU", "COD_VRS_VET", "NUM_OCC_IAE"}
STATES = {"active": "E", "pending": "C", "cancelled": "A", "resigned": "R"}
PAYMENTS = {"paid": "P", "due": "A", "unknown": "V"}
SECRET = "299029914099942"
"""Every row holds it, in columns that nobody may read."""
Row = Mapping[str, Any]


class Event(NamedTuple):
    """A message of the connector; without a value, a tombstone."""

    table: str
    key: bytes
    value: bytes | None


class Apogee:
    """The tables. Numbers come in any of their encodings, envelopes bare or beside their schema, at random.

    Several writes in a row may share an SCN, as those of a transaction do.
    """

    def __init__(self, seed: int = 0) -> None:
        self._random = Random(seed)
        self._rows: dict[tuple[str, tuple[Any, ...]], Row] = {}
        self._scn = 48_000_000
        self._writes = 0

    def put(self, table: str, row: Row, at: float) -> list[Event]:
        """Insert a row, or update that of the same key."""
        place = (table, tuple(row[column] for column in KEYS[table]))
        before = self._rows.get(place)
        self._rows[place] = row
        return [self._event(table, at, op="c" if before is None else "u", before=before, after=row)]

    def delete(self, table: str, key: tuple[Any, ...], at: float) -> list[Event]:
        """Delete the row of this key."""
        event = self._event(table, at, op="d", before=self._rows.pop((table, key)))
        return [event, Event(table, event.key, None)]

    def change_key(self, table: str, key: tuple[Any, ...], row: Row, at: float) -> list[Event]:
        """Return a row another key: for Debezium it is deleted, and another created."""
        return [*self.delete(table, key, at), *self.put(table, row, at)]

    def snapshot(self, at: float) -> list[Event]:
        """Return all rows as they are now."""
        self._scn += 1
        events = [self._event(table, at, op="r", after=row) for (table, _), row in self._rows.items()]
        self._scn += 1
        return events

    def row(self, table: str, *key: object) -> Row | None:
        """Return the row of this key."""
        return self._rows.get((table, key))

    def rows(self, table: str) -> list[Row]:
        """Return the rows of a table."""
        return [row for (name, _), row in self._rows.items() if name == table]

    def _event(self, table: str, at: float, *, op: str, before: Row | None = None, after: Row | None = None) -> Event:
        row = after or before or {}
        if op != "r":
            self._scn += self._random.choice((0, 1, 7))
            self._writes += 1
        source = {
            "version": "3.0.0.Final",
            "connector": "oracle",
            "name": "scol",
            "ts_ms": round(at * 1000),
            "snapshot": "true" if op == "r" else "false",
            "db": "APO",
            "schema": "APOGEE",
            "table": table,
            "scn": str(self._scn),
            "commit_scn": None if op == "r" else str(self._scn + 1),
            "rs_id": None if op == "r" else f" 0x00003d.{self._writes:08x}.0010 ",
            "ssn": 0,
        }
        envelope = {
            "before": self._encoded(before),
            "after": self._encoded(after),
            "source": source,
            "op": op,
            "ts_ms": round(at * 1000) + 1_500,
        }
        schema = {"type": "struct", "name": f"scol.APOGEE.{table}.Envelope", "optional": False}
        value = {"schema": schema, "payload": envelope} if self._random.random() < 0.3 else envelope
        key = {column: row[column] for column in KEYS[table]}
        return Event(table, orjson.dumps(key), orjson.dumps(value))

    def _encoded(self, row: Row | None) -> dict[str, Any] | None:
        if row is None:
            return None
        given = {name: self._number(value) if name in NUMBERS else value for name, value in row.items()}
        return given | {"COD_NNE_IND": SECRET, "LIB_NOM_PAT_IND": SECRET, "DAT_NAI_IND": 946_684_800_000}

    def _number(self, number: int | None) -> object:
        if number is None:
            return None
        binary = b64encode(number.to_bytes(number.bit_length() // 8 + 1, "big", signed=True)).decode()
        return self._random.choice((number, str(number), float(number), binary, {"scale": 0, "value": binary}))


class Capture:
    """The records of an invented university, captured. Enrolments elsewhere aren't in its APOGÉE."""

    def __init__(self, university: University, seed: int = 0) -> None:
        self.apogee = Apogee(seed)
        self._university = university
        self._versions = {etape.code: etape.versions for etape in etapes(university.etapes)}
        self.now = 0.0

    def initial(self) -> list[Event]:
        """Return a snapshot of the records before the first day: call it before that day."""
        for message in self._university.initial():
            self._write(message)
        return self.snapshot()

    def day(self, messages: Iterable[Message]) -> list[Event]:
        """Return the changes of a day's messages, in the order in which it happened."""
        once = {message.value["id"]: message for message in messages}
        happened = sorted(once.values(), key=lambda message: (_time(message), message.value["data"].get("version", 0)))
        return [event for message in happened for event in self._write(message)]

    def snapshot(self) -> list[Event]:
        """Return all rows as they are now."""
        self.now += 1
        return self.apogee.snapshot(self.now)

    def _write(self, message: Message) -> list[Event]:
        data = message.value["data"]
        if data["source"]["uai"] != self._university.uai:
            return []
        at = _time(message)
        self.now = max(self.now, at)
        kind = message.value["type"].split(".")[-2]
        if kind == "described":
            return self._describe(data["etape"], at)
        if kind == "rekeyed":
            return self._rekey(int(data["previous_student_id"]), int(data["student_id"]), at)
        year, person, etape, version, occurrence = data["enrolment_id"].split("-")
        key = (year, int(person), etape, int(version), int(occurrence))
        if kind == "deleted":
            return self.apogee.delete("INS_ADM_ETP", key, at)
        row = dict(zip(KEYS["INS_ADM_ETP"], key, strict=True)) | {
            "ETA_IAE": STATES[data["status"]],
            "ETA_PMT_IAE": PAYMENTS[data["payment"]],
            "COD_CMP": data["etape"]["component"]["code"],
            "COD_CGE": "CGE",
            "TEM_IAE_PRM": "O",
            "DAT_MOD_IAE": round(at * 1000) + 7_200_000,
        }
        return [
            *self._person(int(person), int(data["student"]["student_id"]), at),
            *self.apogee.put("INS_ADM_ETP", row, at),
        ]

    def _person(self, person: int, number: int, at: float) -> list[Event]:
        if self.apogee.row("INDIVIDU", person) is not None:
            return []
        return self.apogee.put("INDIVIDU", {"COD_IND": person, "COD_ETU": number}, at)

    def _rekey(self, former: int, number: int, at: float) -> list[Event]:
        theirs = [row for row in self.apogee.rows("INDIVIDU") if row["COD_ETU"] == former]
        return [event for row in theirs for event in self.apogee.put("INDIVIDU", {**row, "COD_ETU": number}, at)]

    def _describe(self, etape: Mapping[str, Any], at: float) -> list[Event]:
        """Every fifth étape has the label that it has as a whole, the others have one of each version."""
        code, label, component = etape["code"], etape["label"], etape["component"]
        whole = sum(map(ord, code)) % 5 == 0
        written = self.apogee.put("COMPOSANTE", {"COD_CMP": component["code"], "LIB_CMP": component["label"]}, at)
        written += self.apogee.put("ETAPE", {"COD_ETP": code, "LIB_ETP": label if whole else f"Abr. {code}"}, at)
        for version in self._versions[code]:
            row = {"COD_ETP": code, "COD_VRS_VET": int(version), "LIB_WEB_VET": None if whole else label}
            written += self.apogee.put("VERSION_ETAPE", row, at)
        return written


def as_numbers(truth: Mapping[str, frozenset[str]]) -> dict[str, frozenset[str]]:
    """Return the members of each étape by their numbers as APOGÉE has them."""
    return {code: frozenset(str(int(number)) for number in numbers) for code, numbers in truth.items()}


def _time(message: Message) -> float:
    return datetime.fromisoformat(message.value["time"]).timestamp()
