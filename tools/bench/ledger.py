"""Messages per second into the ledger, against parsing alone and against bare inserts; and the snapshot of a night.

Parsing is measured separately: "recorded" means from parsed messages to committed positions. Where parsing is
included, it is on both sides. Bare inserts use the same connections, hence the same durability, and the driver's
`executemany`. There are two kinds:

- all rows that an initial load leaves in the tables, in as many transactions of as many rows as the ledger made: the
  fair comparison for an initial load. It still favours the bare side, whose rows come table by table, which reads
  nothing, and which writes once what the ledger writes twice, such as the name of a cohort.
- the enrolments alone, one row per message, in batches of the same size: the fair comparison for messages that change
  nothing else. An initial load writes more than twice as many rows; a message that ends a membership writes two.

PostgreSQL runs without durability on both sides.
"""

import gc
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import datetime, timedelta
from itertools import count, groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import orjson
import sqlalchemy as sa

import schemas
from tests.support.servers import MissingServerError
from tests.support.servers.postgres import real_postgres
from tools.bench import Figure, Quantity, scaled
from tools.bench.parts import BATCH, TOPIC, settings
from worker.domain.changes import Received
from worker.domain.snapshots import Snapshot, SnapshotScope
from worker.formats import cloudevents
from worker.ledger import Ledger, schema
from worker.runtime.ledger import recorder
from worker.sandbox.university.generator import University

TITLE = "Messages into the ledger"
ROUNDS = scaled(3, least=1)
LATER = timedelta(days=3 * 365)
"""Later than all first messages, which span two years."""
AIM = 2.0
"""Times slower than bare inserts, at most."""
NIGHT_AIM = 1.0
"""Seconds."""
Rates = dict[str, list[float]]
Row = tuple[Any, ...]


def run() -> Iterator[Figure]:
    """Yield the figures of SQLite, then of PostgreSQL if there is one."""
    university = University(students=scaled(35_000))
    values = [message.value for message in university.initial()]
    scenarios = {
        "initial load": _payloads(values),
        "replay, all stale": _payloads(values),
        "newer versions, no other change": _payloads(values, version=1),
        "newer versions that end memberships": _payloads(values, version=2, status="cancelled"),
    }
    night_rows = [schemas.EnrolmentRow.model_validate_json(row) for row in university.snapshot_rows()]
    del values
    gc.collect()
    gc.freeze()  # a worker holds no university in memory that the garbage collector would scan
    with tempfile.TemporaryDirectory() as directory:
        numbers = count()
        rates = _rounds(scenarios, night_rows, lambda _: f"sqlite:///{Path(directory) / f'{next(numbers)}.db'}")
        yield from _figures("SQLite", scenarios, night_rows, rates)
    try:
        with real_postgres() as server:
            rates = _rounds(scenarios, night_rows, lambda stack: stack.enter_context(server.database()))
            yield from _figures("PostgreSQL", scenarios, night_rows, rates)
    except MissingServerError as missing:
        yield Figure(what="PostgreSQL", figure=str(missing))


def _payloads(values: Sequence[dict[str, Any]], version: int = 0, **state: str) -> list[bytes]:
    """Return the messages; with a version, only those of enrolments, with that state and later than the snapshot."""
    if not version:
        return [orjson.dumps(value) for value in values]
    return [
        orjson.dumps(
            value
            | {"time": (datetime.fromisoformat(value["time"]) + LATER).isoformat()}
            | {"data": value["data"] | {"version": value["data"]["version"] + version} | state},
        )
        for value in values
        if "version" in value["data"]
    ]


def _rounds(
    scenarios: dict[str, list[bytes]],
    night_rows: Sequence[schemas.EnrolmentRow],
    database: Callable[[ExitStack], str],
) -> Rates:
    """Measure everything in turns, several times, each time in new databases."""
    rates: Rates = defaultdict(list)
    for _ in range(ROUNDS):
        with ExitStack() as stack:
            ledger, *others = (Ledger(database(stack)) for _ in range(3))
            for opened in (ledger, *others):
                stack.callback(opened.close)
            for name, payloads in scenarios.items():
                parsed, recorded, both = _record(ledger, payloads)
                rates["parse"].append(parsed)
                rates[name].append(recorded)
                if name == "initial load":
                    rates["with parsing"].append(both)
                    rows = _rows(ledger)
                    transactions = len(_starts(payloads))
                    rates["bare"].append(_bare(others[0], rows, transactions) * len(payloads) / _total(rows))
                    alone = {"enrolment": rows["enrolment"]}
                    rates["bare enrolments"].append(_bare(others[1], alone, transactions))
                if name == "replay, all stale":
                    rates["night"].append(_night(ledger, night_rows))
    return rates


def _figures(
    database: str, scenarios: dict[str, list[bytes]], night_rows: Sequence[schemas.EnrolmentRow], rates: Rates
) -> Iterator[Figure]:
    medians = {name: statistics.median(values) for name, values in rates.items()}

    def against(name: str, other: str, what: str, *, aim: float | None = None) -> Figure:
        number = len(scenarios.get(name, scenarios["initial load"]))
        return Figure(
            what=f"{database}: {name} ({number:,})",
            figure=Quantity(medians[name], "messages/s recorded"),
            against=f"{medians[other]:,.0f}/s {what}",
            ratio=Quantity(medians[other] / medians[name], "times slower", most=aim),
        )

    yield against("initial load", "bare", "bare inserts of all resulting rows", aim=AIM)
    for name in scenarios:
        aim = AIM if name in {"replay, all stale", "newer versions, no other change"} else None
        yield against(name, "bare enrolments", "bare inserts of one enrolment", aim=aim)
    yield against("initial load", "parse", "only parsed")
    both = 1 / (1 / medians["parse"] + 1 / medians["bare"])
    yield Figure(
        what=f"{database}: initial load, parsing included",
        figure=Quantity(medians["with parsing"], "messages/s"),
        against=f"{both:,.0f}/s parsed and inserted",
        ratio=Quantity(both / medians["with parsing"], "times slower", most=AIM),
    )
    yield Figure(
        what=f"{database}: a snapshot without changes ({len(night_rows):,} rows)",
        figure=Quantity(medians["night"], "s", most=NIGHT_AIM),
    )


def _starts(items: Sequence[object]) -> range:
    return range(0, len(items), BATCH)


def _parsed(payloads: Sequence[bytes], start: int) -> list[Received]:
    now = time.time()
    return [
        Received(change=cloudevents.parse(value=payload, origin=f"{TOPIC}[0]@{start + i}"), published_at=now)
        for i, payload in enumerate(payloads[start : start + BATCH])
    ]


def _record(ledger: Ledger, payloads: Sequence[bytes]) -> tuple[float, float, float]:
    """Record as the worker does, from bytes to positions; returns messages per second parsed, recorded, and both."""
    into = recorder(settings(ledger="sqlite://"), ledger)
    parsing = recording = 0.0
    for start in _starts(payloads):
        began = time.perf_counter()
        batch = _parsed(payloads, start)
        parsed = time.perf_counter()
        into.record(batch, now=time.time(), positions={(TOPIC, 0): start + BATCH}, topic_ids={TOPIC: None})
        parsing += parsed - began
        recording += time.perf_counter() - parsed
    number = len(payloads)
    return number / parsing, number / recording, number / (parsing + recording)


def _night(ledger: Ledger, night_rows: Sequence[schemas.EnrolmentRow]) -> float:
    """Record a snapshot, taken after the first messages, with the same content; returns the seconds."""
    with ledger.read() as connection:
        at = 1 + connection.scalar(sa.select(sa.func.max(schema.enrolment.c.changed_at)))
    rows = [
        cloudevents.enrolment(row, version=0, changed_at=at, origin=f"snapshot S[0]#{i}")
        for i, row in enumerate(night_rows)
    ]
    scope = SnapshotScope(
        uais=frozenset(row.uai for row in rows),
        academic_years=frozenset(row.academic_year for row in rows if row.academic_year is not None),
    )
    snapshot = Snapshot(id="S", taken_at=at, system=rows[0].system, scope=scope, rows=rows)
    began = time.perf_counter()
    counts = recorder(settings(ledger="sqlite://"), ledger).record_snapshot(snapshot, run=1, now=time.time())
    seconds = time.perf_counter() - began
    if counts.applied or counts.ended:
        raise RuntimeError(f"a snapshot without changes updated {counts.applied} enrolments and ended {counts.ended}")
    return seconds


def _rows(ledger: Ledger) -> dict[str, list[Row]]:
    """Return the rows that a load has left, by table in the order of foreign keys."""
    wanted = [table.name for table in schema.metadata.sorted_tables if table.name not in {"meta", "position"}]
    with ledger.read() as connection:
        results = {name: connection.exec_driver_sql(f'SELECT * FROM "{name}"') for name in wanted}  # noqa: S608 - the tables are those of the ledger
        return {name: [tuple(row) for row in rows] for name, rows in results.items()}


def _total(rows: dict[str, list[Row]]) -> int:
    return sum(map(len, rows.values()))


def _bare(ledger: Ledger, rows: dict[str, list[Row]], transactions: int) -> float:
    """Insert these rows with the driver, in so many transactions; returns rows per second."""
    mark = "?" if ledger.name == "sqlite" else "%s"
    every = [(table, row) for table, of_table in rows.items() for row in of_table]
    size = -(-len(every) // transactions)
    shares = [
        [(table, [row for _, row in group]) for table, group in groupby(every[start : start + size], key=itemgetter(0))]
        for start in range(0, len(every), size)
    ]
    marks = {table: ", ".join([mark] * len(of_table[0])) for table, of_table in rows.items() if of_table}
    began = time.perf_counter()
    for share in shares:
        with ledger.write() as connection:
            for table, inserted in share:
                connection.exec_driver_sql(f'INSERT INTO "{table}" VALUES ({marks[table]})', inserted)  # noqa: S608 - the tables are those of the ledger
    return len(every) / (time.perf_counter() - began)
