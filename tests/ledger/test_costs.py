import shutil
from collections.abc import Callable
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from tests.builders import NOW, recorder, told, workbook
from worker.ledger import Ledger, planning, runs
from worker.model import Action, Received
from worker.plan import Guard
from worker.sql.tables import journal, membership

DAY = 86_400.0


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


def steps_of(ledger: Ledger, work: Callable[[], Any]) -> int:
    """Count what SQLite's virtual machine does meanwhile, in hundreds of instructions."""
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 1
        return 0

    @sa.event.listens_for(ledger.engine, "checkout")
    def count(connection: Any, *_: object) -> None:  # noqa: ANN401 - the driver's connection
        connection.set_progress_handler(step, 100)

    work()
    return steps


def claim(ledger: Ledger) -> None:
    assert len(workbook(ledger).claim(NOW, limit=20).gaps) == 20


def test_a_claim_costs_no_more_when_many_more_gaps_wait(sqlite_of_the_session: Path, tmp_path: Path) -> None:
    steps = []
    for students in (200, 4_000):
        path = tmp_path / f"{students}.db"
        shutil.copy(sqlite_of_the_session, path)
        ledger = Ledger(f"sqlite:///{path}")
        enrol(ledger, students, etapes=50)
        steps.append(steps_of(ledger, partial(claim, ledger)))
        ledger.close()
    few, many = steps
    assert many < 1.5 * few


def test_removals_are_judged_at_no_more_cost_after_a_year_of_other_changes(
    sqlite_of_the_session: Path, tmp_path: Path
) -> None:
    steps = []
    for changes in (1, 20_000):
        path = tmp_path / f"{changes}.db"
        shutil.copy(sqlite_of_the_session, path)
        ledger = Ledger(f"sqlite:///{path}")
        enrol(ledger, students=20, etapes=20)
        change = {"at": NOW - 30 * DAY, "platform": "ecampus", "cohort": "X0001", "cohort_id": 1, "action": Action.ADD}
        with ledger.write() as connection:
            connection.execute(sa.update(membership).values(desired=False, observed=True, next_attempt_at=NOW))
            connection.execute(sa.insert(journal), [change] * changes)
        steps.append(steps_of(ledger, partial(claim, ledger)))
        ledger.close()
    few, many = steps
    assert many < 1.5 * few


def test_students_whose_accounts_are_found_are_woken_at_no_more_cost_where_there_are_many_cohorts(
    sqlite_of_the_session: Path, tmp_path: Path
) -> None:
    steps = []
    for etapes in (100, 2_000):
        path = tmp_path / f"{etapes}.db"
        shutil.copy(sqlite_of_the_session, path)
        ledger = Ledger(f"sqlite:///{path}")
        enrol(ledger, students=2_000, etapes=etapes)
        students = [f"2{rank:07}" for rank in range(100)]
        steps.append(steps_of(ledger, partial(workbook(ledger).wake, students, NOW)))
        ledger.close()
    few, many = steps
    assert many < 1.5 * few


def test_a_plan_costs_no_more_where_there_are_many_cohorts(sqlite_of_the_session: Path, tmp_path: Path) -> None:
    def plan(ledger: Ledger) -> None:
        with ledger.read() as connection:
            shown = planning.planned(connection, "ecampus", Guard(), NOW)
        assert sum(len(of.pairs) for of in shown.cohorts) == 2_000

    steps = []
    for etapes in (100, 2_000):
        path = tmp_path / f"{etapes}.db"
        shutil.copy(sqlite_of_the_session, path)
        ledger = Ledger(f"sqlite:///{path}")
        enrol(ledger, students=2_000, etapes=etapes)
        with ledger.write() as connection:
            connection.execute(sa.update(membership).values(desired=False, observed=True))
        steps.append(steps_of(ledger, partial(plan, ledger)))
        ledger.close()
    few, many = steps
    assert many < 3 * few  # of which each is shown


def test_what_is_left_of_a_night_is_counted_at_no_more_cost_where_many_are_members(
    sqlite_of_the_session: Path, tmp_path: Path
) -> None:
    steps = []
    for students in (200, 4_000):
        path = tmp_path / f"{students}.db"
        shutil.copy(sqlite_of_the_session, path)
        ledger = Ledger(f"sqlite:///{path}")
        enrol(ledger, students, etapes=20)
        with ledger.write() as connection:
            connection.execute(sa.update(membership).values(observed=True))
        steps.append(steps_of(ledger, partial(runs.open_gaps, ledger, 1, ["ecampus"])))
        ledger.close()
    few, many = steps
    assert many < 1.5 * few + 1
