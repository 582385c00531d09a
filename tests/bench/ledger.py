"""Messages a second into the ledger, against bare inserts into the same tables and against parsing alone."""

import gc
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import orjson
import sqlalchemy as sa

from tests.bench import Figure
from tests.bench.parts import TOPIC, settings
from tests.servers import MissingServerError
from tests.servers.postgres import real_postgres
from worker import messages
from worker.ledger import Ledger
from worker.model import Received
from worker.parts import recorder
from worker.sandbox.university import University
from worker.sql import tables

ROUNDS = 3
BATCH = 2_000
Rates = dict[str, list[float]]
Row = tuple[Any, ...]


def run() -> Iterator[Figure]:
    """Give the figures of SQLite, then of PostgreSQL where there is one."""
    values = [message.value for message in University().initial()]
    scenarios = {
        "initial load": _payloads(values),
        "replay, all stale": _payloads(values),
        "newer versions, nothing else new": _payloads(values, version=1),
        "newer versions that end memberships": _payloads(values, version=2, status="cancelled"),
    }
    gc.collect()
    gc.freeze()  # the worker holds no university in its memory, that the collector would go through
    with tempfile.TemporaryDirectory() as directory:
        numbers = count()
        rates = _rounds(scenarios, lambda _: f"sqlite:///{Path(directory) / f'{next(numbers)}.db'}")
        yield from _figures("SQLite", scenarios, rates)
    try:
        with real_postgres() as server:
            rates = _rounds(scenarios, lambda stack: stack.enter_context(server.database()))
            yield from _figures("PostgreSQL", scenarios, rates)
    except MissingServerError as missing:
        yield Figure(what="PostgreSQL", value=str(missing))


def _payloads(values: Sequence[dict[str, Any]], version: int = 0, **state: str) -> list[bytes]:
    """Write the messages; with a version or a state, those of enrolments alone, later."""
    if not version:
        return [orjson.dumps(value) for value in values]
    return [
        orjson.dumps(
            value | {"data": value["data"] | {"version": value["data"]["version"] + version} | state},
        )
        for value in values
        if "version" in value["data"]
    ]


def _rounds(scenarios: dict[str, list[bytes]], database: Callable[[ExitStack], str]) -> Rates:
    """Measure everything in turn, several times, each time in new databases."""
    rates: Rates = defaultdict(list)
    for _ in range(ROUNDS):
        with ExitStack() as stack:
            ledger, other = Ledger(database(stack)), Ledger(database(stack))
            stack.callback(ledger.close)
            stack.callback(other.close)
            for name, payloads in scenarios.items():
                rates[name].append(_record(ledger, payloads))
                rates["parse"].append(_parse(payloads))
                if name == "initial load":
                    rows = _rows(ledger)
            rates["bare"].append(_bare(other, {"enrolment": rows["enrolment"]}))
            with other.write() as connection:
                connection.execute(sa.delete(tables.enrolment))
            rates["bare, all tables"].append(_bare(other, rows) * len(scenarios["initial load"]) / _total(rows))
    return rates


def _figures(database: str, scenarios: dict[str, list[bytes]], rates: Rates) -> Iterator[Figure]:
    middle = {name: statistics.median(some) for name, some in rates.items()}
    for name, payloads in scenarios.items():
        ratio = middle["bare"] / middle[name]
        yield Figure(
            what=f"{database}: {name} ({len(payloads):,})",
            value=f"{middle[name]:,.0f} messages/s",
            against=f"{middle['bare']:,.0f} bare inserts/s",
            ratio=f"{ratio:.1f} times slower",
            aim="2 times slower",
        )
    first = middle["initial load"]
    yield Figure(
        what=f"{database}: initial load",
        value=f"{first:,.0f} messages/s",
        against=f"{middle['bare, all tables']:,.0f} messages/s, bare inserts into all the tables",
        ratio=f"{middle['bare, all tables'] / first:.1f} times slower",
    )
    yield Figure(
        what=f"{database}: initial load",
        value=f"{first:,.0f} messages/s",
        against=f"{middle['parse']:,.0f} messages/s only parsed",
        ratio=f"{middle['parse'] / first:.1f} times slower",
    )


def _rate(number: int, work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return number / (time.perf_counter() - started)


def _starts(items: Sequence[object]) -> range:
    return range(0, len(items), BATCH)


def _parsed(payloads: Sequence[bytes], start: int) -> list[Received]:
    now = time.time()
    return [
        Received(change=messages.parse(value=payload, origin=f"{TOPIC}[0]@{start + i}"), published_at=now)
        for i, payload in enumerate(payloads[start : start + BATCH])
    ]


def _parse(payloads: Sequence[bytes]) -> float:
    return _rate(len(payloads), lambda: [_parsed(payloads, start) and None for start in _starts(payloads)])


def _record(ledger: Ledger, payloads: Sequence[bytes]) -> float:
    """Record as the worker does, from bytes to positions."""
    into = recorder(settings(ledger="sqlite://"), ledger)

    def work() -> None:
        for start in _starts(payloads):
            positions = {(TOPIC, 0): start + BATCH}
            into.record(_parsed(payloads, start), now=time.time(), positions=positions, topic_ids={TOPIC: None})

    return _rate(len(payloads), work)


def _rows(ledger: Ledger) -> dict[str, list[Row]]:
    """Read what a load has left, as the driver gives it, by table in the order of foreign keys."""
    wanted = [table.name for table in tables.metadata.sorted_tables if table.name not in {"meta", "position"}]
    with ledger.read() as connection:
        found = {name: connection.exec_driver_sql(f"SELECT * FROM {name}") for name in wanted}  # noqa: S608 - ours
        return {name: [tuple(row) for row in rows] for name, rows in found.items()}


def _total(rows: dict[str, list[Row]]) -> int:
    return sum(map(len, rows.values()))


def _bare(ledger: Ledger, rows: dict[str, list[Row]]) -> float:
    """Insert these rows with the plain driver, in transactions of as many rows as a batch has messages."""
    mark = "?" if ledger.name == "sqlite" else "%s"
    pooled = ledger.engine.raw_connection()
    cursor = pooled.cursor()

    def work() -> None:
        for table, some in rows.items():
            for start in _starts(some):
                marks = ", ".join([mark] * len(some[0]))
                cursor.execute("BEGIN")
                cursor.executemany(f"INSERT INTO {table} VALUES ({marks})", some[start : start + BATCH])  # noqa: S608 - ours
                cursor.execute("COMMIT")

    try:
        return _rate(_total(rows), work)
    finally:
        pooled.close()
