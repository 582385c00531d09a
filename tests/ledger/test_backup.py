"""A ledger that is moved to another database goes on as if nothing had happened."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.support import scenes
from tests.support.builders import NOW, content, told
from tests.support.scenes import HOUR, Scene
from worker.domain.errors import LedgerError
from worker.domain.states import Status
from worker.ledger import Ledger, backup, status
from worker.ledger.runs import Runs
from worker.ledger.schema import meta


@pytest.fixture
def other(ledger: Ledger, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Ledger]:
    """An empty ledger in a database of the other kind."""
    sqlite = f"sqlite:///{tmp_path / 'other.db'}"
    opened = Ledger(request.getfixturevalue("postgres_url") if ledger.name == "sqlite" else sqlite)
    yield opened
    opened.close()


def copy(source: Ledger, target: Ledger) -> dict[str, int]:
    return backup.copy(source, target, lambda _table, _done, _total: None)


@pytest.mark.parametrize(
    "setup", [scenes.rejected, scenes.a_class_leaves, scenes.merged_after_having_joined, scenes.drifted(desired=True)]
)
def test_a_copy_is_the_same_ledger(ledger: Ledger, other: Ledger, setup: scenes.Setup) -> None:
    scene = Scene(ledger)
    setup(scene)
    counts = copy(ledger, other)
    assert content(other) == content(ledger)
    assert counts == {table: len(rows) for table, rows in content(ledger).items()}
    assert status.desired(other, "ecampus") == status.desired(ledger, "ecampus")
    assert status.observed(other, "ecampus") == status.observed(ledger, "ecampus")


def test_work_goes_on_with_the_copy_and_new_rows_get_new_numbers(ledger: Ledger, other: Ledger) -> None:
    scene = Scene(ledger)
    scenes.undone(scene)
    Runs(ledger, "host:1:a", lease=60, is_dead=lambda _: False).begin(NOW)
    copy(ledger, other)
    for one in (ledger, other):
        here = Scene(one)
        here.now = scene.now + HOUR
        here.tell(told(enrolment_id="new", etape="XNEW1", changed_at=here.now))
        here.tell(told(enrolment_id="29900105", student_id="29900105", version=5, changed_at=here.now))
        here.settle()
        here.now += HOUR
        here.tell(told(enrolment_id="new", etape="XNEW1", version=2, status=Status.RESIGNED, changed_at=here.now))
        here.settle()
        assert Runs(one, "host:2:b", lease=60, is_dead=lambda _: True).begin(here.now) == 2
    left, right = content(ledger), content(other)
    for found in (left, right):  # entries of one instant may be numbered either way
        entries = found["journal"]
        assert sorted(entry[0] for entry in entries) == list(range(1, len(entries) + 1))
        found["journal"] = sorted((entry[1:] for entry in entries), key=repr)
    assert right == left
    assert "XNEW1" in status.observed(other, "ecampus") or "XNEW1" in repr(right["cohort"])


def test_an_empty_ledger_is_copied_and_numbers_from_one(ledger: Ledger, other: Ledger) -> None:
    copy(ledger, other)
    Scene(other).tell(told())
    [row] = content(other)["cohort"]
    assert row[0] == 1


def test_a_target_that_is_in_use_is_refused_and_stays_as_it_is(ledger: Ledger, other: Ledger) -> None:
    scenes.a_member(Scene(ledger))
    scenes.a_member(Scene(other))
    before = content(other)
    with pytest.raises(LedgerError, match="the target is a ledger in use, with 1 rows in cohort"):
        copy(ledger, other)
    assert content(other) == before


def test_a_copy_that_fails_leaves_an_empty_target(ledger: Ledger, other: Ledger) -> None:
    scenes.a_member(Scene(ledger))
    before = content(other)

    def interrupted(table: str, _done: int, _total: int) -> None:
        if table == "membership":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backup.copy(ledger, other, interrupted)
    assert content(other) == before


def test_a_copy_can_be_made_beside_a_writer_and_holds_what_was_there_before(ledger: Ledger, other: Ledger) -> None:
    scene = Scene(ledger)
    scenes.a_member(scene)
    before = content(ledger)
    with ledger.write():
        copy(ledger, other)
    assert content(other) == before


def test_a_temporary_copy_leaves_no_file_however_the_process_ends(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    for name in ("TMPDIR", "SQLITE_TMPDIR"):
        monkeypatch.setenv(name, str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    scenes.rejected(Scene(ledger))
    with backup.temporary_copy(ledger) as trial:
        assert content(trial) == content(ledger)
        many = [{"key": f"{number:06}", "value": "x" * 1_000} for number in range(10_000)]  # more than SQLite's cache
        with trial.write() as connection:
            connection.execute(sa.insert(meta), many)
        assert list(folder.iterdir()) == []
        with trial.read() as connection:
            assert connection.scalar(sa.select(sa.func.count()).where(meta.c.value == many[0]["value"])) == len(many)
