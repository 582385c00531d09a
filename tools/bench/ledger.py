"""Messages a second into the ledger, against parsing alone and against bare inserts; and a night's snapshot.

Parsing is measured by itself: what is called recorded is from parsed messages to committed positions; where it is
included, it is on both sides. The bare inserts go through the same connections, hence with the same durability, and
write with the driver's `executemany`. They come in two kinds:

- all that an initial load leaves in every table, in as many transactions of as many rows as the ledger made. This is
  the like for like of an initial load. It still flatters the bare side: its rows come table by table, it reads
  nothing, and whatever the ledger writes twice, such as the name of a cohort, it writes once.
- the enrolments alone, one row a message, in batches of as many: the like for like of messages that change nothing
  else. An initial load writes more than twice as many rows, a message that ends a membership two.

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
"""Than the first messages, which are of two years."""
AIM = 2.0
"""Times slower than bare inserts."""
NIGHT_AIM = 1.0
"""Seconds."""
Rates = dict[str, list[float]]
Row = tuple[Any, ...]


def run() -> Iterator[Figure]:
    """Give the figures of SQLite, then of PostgreSQL where there is one."""
    university = University(students=scaled(35_000))
    values = [message.value for message in university.initial()]
    scenarios = {
        "initial load": _payloads(values),
        "replay, all stale": _payloads(values),
        "newer versions, nothing else new": _payloads(values, version=1),
        "newer versions that end memberships": _payloads(values, version=2, status="cancelled"),
    }
    image = [schemas.EnrolmentRow.model_validate_json(row) for row in university.snapshot_rows()]
    del values
    gc.collect()
    gc.freeze()  # the worker holds no university in its memory, that the collector would go through
    with tempfile.TemporaryDirectory() as directory:
        numbers = count()
        rates = _rounds(scenarios, image, lambda _: f"sqlite:///{Path(directory) / f'{next(numbers)}.db'}")
        yield from _figures("SQLite", scenarios, image, rates)
    try:
        with real_postgres() as server:
            rates = _rounds(scenarios, image, lambda stack: stack.enter_context(server.database()))
            yield from _figures("PostgreSQL", scenarios, image, rates)
    except MissingServerError as missing:
        yield Figure(what="PostgreSQL", figure=str(missing))


def _payloads(values: Sequence[dict[str, Any]], version: int = 0, **state: str) -> list[bytes]:
    """Write the messages; with a version or a state, those of enrolments alone, and all later than the snapshot."""
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
    scenarios: dict[str, list[bytes]], image: Sequence[schemas.EnrolmentRow], database: Callable[[ExitStack], str]
) -> Rates:
    """Measure everything in turn, several times, each time in new databases."""
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
                    rates["night"].append(_night(ledger, image))
    return rates


def _figures(
    database: str, scenarios: dict[str, list[bytes]], image: Sequence[schemas.EnrolmentRow], rates: Rates
) -> Iterator[Figure]:
    middle = {name: statistics.median(some) for name, some in rates.items()}

    def against(name: str, other: str, what: str, *, aim: float | None = None) -> Figure:
        number = len(scenarios.get(name, scenarios["initial load"]))
        return Figure(
            what=f"{database}: {name} ({number:,})",
            figure=Quantity(middle[name], "messages/s recorded"),
            against=f"{middle[other]:,.0f}/s {what}",
            ratio=Quantity(middle[other] / middle[name], "times slower", most=aim),
        )

    yield against("initial load", "bare", "bare inserts of all the rows that it leaves", aim=AIM)
    for name in scenarios:
        aim = AIM if name in {"replay, all stale", "newer versions, nothing else new"} else None
        yield against(name, "bare enrolments", "bare inserts of an enrolment", aim=aim)
    yield against("initial load", "parse", "only parsed")
    both = 1 / (1 / middle["parse"] + 1 / middle["bare"])
    yield Figure(
        what=f"{database}: initial load, parsing included",
        figure=Quantity(middle["with parsing"], "messages/s"),
        against=f"{both:,.0f}/s parsed and inserted",
        ratio=Quantity(both / middle["with parsing"], "times slower", most=AIM),
    )
    yield Figure(
        what=f"{database}: a snapshot without news ({len(image):,} rows)",
        figure=Quantity(middle["night"], "s", most=NIGHT_AIM),
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
    """Record as the worker does, from bytes to positions; gives messages a second parsed, recorded, and both."""
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


def _night(ledger: Ledger, image: Sequence[schemas.EnrolmentRow]) -> float:
    """Record a snapshot, taken after the first messages, that says what they say; gives the seconds."""
    with ledger.read() as connection:
        at = 1 + connection.scalar(sa.select(sa.func.max(schema.enrolment.c.changed_at)))
    rows = [
        cloudevents.enrolment(row, version=0, changed_at=at, origin=f"snapshot S[0]#{i}") for i, row in enumerate(image)
    ]
    scope = SnapshotScope(
        uais=frozenset(row.uai for row in rows),
        academic_years=frozenset(row.academic_year for row in rows if row.academic_year is not None),
    )
    snapshot = Snapshot(id="S", taken_at=at, system=rows[0].system, scope=scope, rows=rows)
    began = time.perf_counter()
    told = recorder(settings(ledger="sqlite://"), ledger).record_snapshot(snapshot, run=1, now=time.time())
    seconds = time.perf_counter() - began
    if told.applied or told.ended:
        raise RuntimeError(f"a snapshot without news told {told.applied} enrolments and ended {told.ended}")
    return seconds


def _rows(ledger: Ledger) -> dict[str, list[Row]]:
    """Read what a load has left, as the driver gives it, by table in the order of foreign keys."""
    wanted = [table.name for table in schema.metadata.sorted_tables if table.name not in {"meta", "position"}]
    with ledger.read() as connection:
        found = {name: connection.exec_driver_sql(f'SELECT * FROM "{name}"') for name in wanted}  # noqa: S608 - the tables are those of the ledger
        return {name: [tuple(row) for row in rows] for name, rows in found.items()}


def _total(rows: dict[str, list[Row]]) -> int:
    return sum(map(len, rows.values()))


def _bare(ledger: Ledger, rows: dict[str, list[Row]], transactions: int) -> float:
    """Insert these rows with the driver, in so many transactions; gives rows a second."""
    mark = "?" if ledger.name == "sqlite" else "%s"
    every = [(table, row) for table, some in rows.items() for row in some]
    size = -(-len(every) // transactions)
    shares = [
        [(table, [row for _, row in some]) for table, some in groupby(every[start : start + size], key=itemgetter(0))]
        for start in range(0, len(every), size)
    ]
    marks = {table: ", ".join([mark] * len(some[0])) for table, some in rows.items() if some}
    began = time.perf_counter()
    for share in shares:
        with ledger.write() as connection:
            for table, some in share:
                connection.exec_driver_sql(f'INSERT INTO "{table}" VALUES ({marks[table]})', some)  # noqa: S608 - the tables are those of the ledger
    return len(every) / (time.perf_counter() - began)
