import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.support.builders import (
    NOW,
    POLICY,
    STUDENT,
    UAI,
    described,
    memberships,
    merged,
    received,
    recorder,
    told,
    workbook,
)
from tests.support.scenes import DAY
from tests.support.servers.postgres import Postgres
from worker.domain.changes import ComponentChange, Received
from worker.domain.guard import Guard
from worker.domain.states import Action, Status
from worker.ledger import Ledger, proposals, runs
from worker.ledger.schema import journal, membership

Enrolled = Callable[..., AbstractContextManager[Ledger]]


def enrol(ledger: Ledger, students: int, etapes: int) -> None:
    """Enrol students one after the other, each in the next étape."""
    enrolments = [
        told(student_id=f"2{rank:07}", enrolment_id=str(rank), etape=f"X{rank % etapes:04}") for rank in range(students)
    ]
    told_at = [Received(change=each, published_at=NOW - students + rank) for rank, each in enumerate(enrolments)]
    recorder(ledger).record(told_at, now=NOW)


def test_the_oldest_gaps_are_claimed_first_and_others_find_cohorts_left(ledger: Ledger) -> None:
    enrol(ledger, students=96, etapes=24)
    claimed = [workbook(ledger, holder).claim(NOW, limit=8) for holder in ("first", "second", "third")]
    assert [gap.student_id for gap in claimed[0].gaps] == [f"2{rank:07}" for rank in (0, 1, 2, 3, 24, 25, 26, 27)]
    assert [len(work.gaps) for work in claimed] == [8, 8, 8]
    for one, another in combinations(claimed, 2):
        assert not one.cohorts.keys() & another.cohorts.keys()


@pytest.fixture
def enrolled(sqlite_of_the_session: Path, tmp_path: Path) -> Enrolled:
    """Gives ledgers of SQLite with so many students in so many étapes."""

    @contextmanager
    def opened(*, students: int, etapes: int) -> Iterator[Ledger]:
        path = tmp_path / f"{students}-{etapes}.db"
        shutil.copy(sqlite_of_the_session, path)
        with closing(Ledger(f"sqlite:///{path}")) as ledger:
            enrol(ledger, students, etapes)
            yield ledger

    return opened


@contextmanager
def counted(ledger: Ledger, steps: list[int]) -> Iterator[None]:
    """Append what SQLite's virtual machine does within the block, in hundreds of instructions."""
    done = 0

    def step() -> int:
        nonlocal done
        done += 1
        return 0

    @sa.event.listens_for(ledger.engine, "checkout")
    def count(connection: Any, *_: object) -> None:  # noqa: ANN401 - the driver's connection
        connection.set_progress_handler(step, 100)

    yield
    steps.append(done)


@contextmanager
def looked_up(ledger: Ledger, lookups: list[int]) -> Iterator[None]:
    """Append how often PostgreSQL looks something up in an index, or reads a row without, in the block's writing."""
    done = sa.text("SELECT sum(coalesce(idx_scan, 0) + seq_tup_read) FROM pg_stat_xact_user_tables")
    total = 0

    @sa.event.listens_for(ledger.engine, "begin")
    def begin(connection: sa.Connection) -> None:
        nonlocal total
        total -= int(connection.scalar(done) or 0)  # what it hasn't reported yet of transactions before

    @sa.event.listens_for(ledger.engine, "commit")
    def commit(connection: sa.Connection) -> None:
        nonlocal total
        total += int(connection.scalar(done) or 0)

    yield
    lookups.append(total)


def set_all(ledger: Ledger, **values: object) -> None:
    """Set columns of all memberships."""
    with ledger.write() as connection:
        connection.execute(sa.update(membership).values(**values))


def test_a_claim_costs_no_more_when_many_more_gaps_wait(enrolled: Enrolled) -> None:
    steps: list[int] = []
    for students in (200, 4_000):
        with enrolled(students=students, etapes=50) as ledger:
            with counted(ledger, steps):
                work = workbook(ledger).claim(NOW, limit=20)
            assert len(work.gaps) == 20
    few, many = steps
    assert many < 1.5 * few


def test_removals_are_judged_at_no_more_cost_after_a_year_of_other_changes(enrolled: Enrolled) -> None:
    change = {"at": NOW - 30 * DAY, "platform": "ecampus", "cohort": "X0001", "cohort_id": 1, "action": Action.ADD}
    steps: list[int] = []
    for changes in (1, 20_000):
        with enrolled(students=20, etapes=20) as ledger:
            set_all(ledger, desired=False, observed=True, next_attempt_at=NOW)
            with ledger.write() as connection:
                connection.execute(sa.insert(journal), [change] * changes)
            with counted(ledger, steps):
                work = workbook(ledger).claim(NOW, limit=20)
            assert len(work.gaps) == 20
    few, many = steps
    assert many < 1.5 * few


def test_students_whose_accounts_are_found_are_woken_at_no_more_cost_where_there_are_many_cohorts(
    enrolled: Enrolled,
) -> None:
    found = [f"2{rank:07}" for rank in range(100)]
    steps: list[int] = []
    for etapes in (100, 2_000):
        with enrolled(students=2_000, etapes=etapes) as ledger, counted(ledger, steps):
            workbook(ledger).retry_now(found, NOW)
    few, many = steps
    assert many < 1.5 * few


@pytest.mark.postgres
def test_students_are_woken_at_no_more_cost_by_a_postgresql_without_statistics(postgres: Postgres) -> None:
    found = [f"2{rank:07}" for rank in range(100)]
    lookups: list[int] = []
    for etapes in (100, 2_000):
        with postgres.database() as url, closing(Ledger(url)) as ledger:
            enrol(ledger, students=2_000, etapes=etapes)
            with looked_up(ledger, lookups):
                workbook(ledger).retry_now(found, NOW)
    few, many = lookups
    assert many < 1.5 * few


def test_a_plan_costs_no_more_where_there_are_many_cohorts(enrolled: Enrolled) -> None:
    steps: list[int] = []
    for etapes in (100, 2_000):
        with enrolled(students=2_000, etapes=etapes) as ledger:
            set_all(ledger, desired=False, observed=True)
            with counted(ledger, steps), ledger.read() as connection:
                shown = proposals.planned(connection, "ecampus", Guard(), NOW)
            assert sum(len(of.pairs) for of in shown.cohorts) == 2_000
    few, many = steps
    assert many < 3 * few  # of which each is shown


def test_what_is_left_of_a_night_is_counted_at_no_more_cost_where_many_are_members(enrolled: Enrolled) -> None:
    steps: list[int] = []
    for students in (200, 4_000):
        with enrolled(students=students, etapes=20) as ledger:
            set_all(ledger, observed=True)
            with counted(ledger, steps):
                assert runs.open_gaps(ledger, 1, ["ecampus"], NOW, since=NOW) == {"ecampus": 0}
    few, many = steps
    assert many < 1.5 * few + 1


@contextmanager
def called(calls: list[int]) -> Iterator[None]:
    """Append how many functions are called within the block, Python's own included."""
    done = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal done
        done += event in {"call", "c_call"}

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(before)
    calls.append(done)


def chain(length: int) -> list[Received]:
    """Merge numbers one into the next, and enrol the first of them."""
    merges = [merged(f"{rank}", f"{rank + 1}", at=NOW + rank) for rank in range(length)]
    return received(told(student_id="0"), *merges)


def test_a_chain_of_merges_costs_so_much_a_merge_however_long_it_is(enrolled: Enrolled) -> None:
    steps: list[int] = []
    calls: list[int] = []
    for length in (100, 800):
        with enrolled(students=1, etapes=1) as ledger, counted(ledger, steps), called(calls):
            recorder(ledger).record(chain(length), now=NOW)
    for few, many in (steps, calls):
        assert many < 8 * 1.3 * few


@pytest.mark.parametrize("left", [Status.RESIGNED, Status.ACTIVE])
def test_a_student_of_many_etapes_costs_so_much_an_etape_however_many_they_are(
    enrolled: Enrolled, left: Status
) -> None:
    calls: list[int] = []
    for etapes in (100, 800):
        codes = [f"M{rank:04}" for rank in range(etapes)]
        with enrolled(students=1, etapes=1) as ledger, called(calls):
            recorder(ledger).record(received(*(told(enrolment_id=code, etape=code) for code in codes)), now=NOW)
            if left is Status.RESIGNED:
                gone = [told(enrolment_id=code, etape=code, version=2, status=left) for code in codes]
                recorder(ledger).record(received(*gone), now=NOW)
            else:
                next_year = replace(POLICY, active_years=frozenset({2027}))
                recorder(ledger, next_year).apply_policy(now=NOW)
            assert not any(row.desired for row in memberships(ledger).values() if row.student_id == STUDENT)
    few, many = calls
    assert many < 8 * 1.3 * few


def test_a_new_cohort_is_named_at_no_more_cost_where_there_are_many_components(enrolled: Enrolled) -> None:
    steps: list[int] = []
    for components in (1, 5_000):
        with enrolled(students=1, etapes=1) as ledger:
            kinds = [
                ComponentChange(uai=UAI, component=f"C{rank}", component_label="UFR", changed_at=NOW, origin="c")
                for rank in range(components)
            ]
            recorder(ledger).record([Received(change=kind, published_at=NOW) for kind in kinds], now=NOW)
            with counted(ledger, steps):
                recorder(ledger).record(received(told(etape="NEW")), now=NOW)
    few, many = steps
    assert many < 1.5 * few + 2


def test_an_etape_moves_to_another_component_at_no_more_cost_where_its_enrolments_say_their_own(
    enrolled: Enrolled,
) -> None:
    steps: list[int] = []
    for students in (20, 4_000):
        with enrolled(students=students, etapes=20) as ledger, counted(ledger, steps):
            recorder(ledger).record(received(described(etape="X0001", component="DRO", at=NOW + 60)), now=NOW + 60)
    few, many = steps
    assert many < 1.5 * few
