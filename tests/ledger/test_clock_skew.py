"""A worker's clock was wrong for a while."""

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from tests.support.builders import STUDENT, received, recorder, told, workbook
from tests.support.scenes import DAY, HOUR, Scene, a_member, a_year_that_was_closed
from worker.domain.guard import Guard
from worker.domain.states import PlatformState, Reason, Status
from worker.ledger import Ledger
from worker.ledger.schema import membership
from worker.ledger.work_queue import Parked

LEASE, DELAY = 60.0, 120.0  # seconds; the first is that of `workbook`
AHEAD = 1000 * HOUR
UNGUARDED = Guard(enabled=False)


@pytest.fixture
def scene(ledger: Ledger) -> Scene:
    """A student is a member, as a worker has seen whose clock is right."""
    scene = Scene(ledger)
    a_member(scene)
    return scene


def resign(scene: Scene, *, at: float) -> None:
    """Record, at an instant of the worker's clock, a resignation that was published now."""
    gone = received(told(version=9, status=Status.RESIGNED), at=scene.now)
    recorder(scene.ledger, removal_delay=DELAY).record(gone, now=at)


def due(scene: Scene, at: float) -> list[str]:
    """Give the students whose gaps would be closed then."""
    queue = workbook(scene.ledger, guard=UNGUARDED)
    found = [gap.student_id for gap in queue.claim(at, limit=10).gaps]
    queue.release()
    return found


def test_a_removal_recorded_by_a_clock_that_was_ahead_waits_no_longer_than_it_was_to(scene: Scene) -> None:
    due(scene, scene.now + AHEAD)
    resign(scene, at=scene.now + AHEAD)
    with capture_logs() as logs:
        assert due(scene, scene.now) == []
        assert due(scene, scene.now + DELAY) == [STUDENT]
    assert [(line["event"], line["seconds"]) for line in logs] == [("clock was set back", AHEAD)]


def test_a_clock_that_was_behind_holds_nothing_up(scene: Scene) -> None:
    due(scene, scene.now - AHEAD)
    resign(scene, at=scene.now - AHEAD)
    assert due(scene, scene.now) == [STUDENT]


def test_a_platform_that_was_paused_by_a_clock_that_was_ahead_is_asked_again(scene: Scene) -> None:
    resign(scene, at=scene.now - DELAY)
    ahead = scene.now + AHEAD
    due(scene, ahead)
    workbook(scene.ledger).availability.failed(
        PlatformState.UNAVAILABLE, ahead, began=ahead, code="timeout", sentence="It was late.", pause=lambda _: 300.0
    )
    assert due(scene, scene.now) == []
    assert due(scene, scene.now + 300) == [STUDENT]


def test_what_was_parked_by_a_clock_that_was_ahead_is_tried_again(scene: Scene) -> None:
    resign(scene, at=scene.now - DELAY)
    ahead = scene.now + AHEAD
    queue = workbook(scene.ledger, guard=UNGUARDED)
    [gap] = queue.claim(ahead, limit=10).gaps
    queue.settle(parked=[Parked(gap=gap, reason=Reason.TIMEOUT, retry_at=ahead + 300, observed=None)], now=ahead)
    queue.release()
    assert due(scene, scene.now) == []
    assert due(scene, scene.now + 300) == [STUDENT]


def test_a_cohort_leased_by_a_clock_that_was_ahead_is_left_alone_for_one_lease_of_now(scene: Scene) -> None:
    resign(scene, at=scene.now - DELAY)
    ahead = scene.now + AHEAD
    dead = workbook(scene.ledger, "a lane that was killed", guard=UNGUARDED)
    assert dead.claim(ahead, limit=10).gaps
    assert due(scene, scene.now) == []
    assert due(scene, scene.now + LEASE - 1) == []
    assert due(scene, scene.now + LEASE) == [STUDENT]


def test_what_was_observed_by_a_clock_that_was_ahead_may_be_observed_anew(scene: Scene) -> None:
    with scene.ledger.write() as connection:
        connection.execute(sa.update(membership).values(observed_at=scene.now + AHEAD))
    due(scene, scene.now + AHEAD)
    due(scene, scene.now)
    with scene.ledger.read() as connection:
        assert connection.scalar(sa.select(membership.c.observed_at)) == scene.now


def test_a_years_time_of_grace_is_not_cut_short(ledger: Ledger) -> None:
    scene = Scene(ledger)
    a_year_that_was_closed(scene)
    due(scene, scene.now + 10 * DAY)
    assert due(scene, scene.now) == []
    assert due(scene, scene.now + 29 * DAY) == []
    assert due(scene, scene.now + 30 * DAY) == [STUDENT]


def test_clocks_of_workers_that_differ_by_seconds_change_nothing(scene: Scene) -> None:
    due(scene, scene.now)
    resign(scene, at=scene.now)
    assert due(scene, scene.now - 59) == []
    assert due(scene, scene.now + DELAY - 1) == []
    assert due(scene, scene.now + DELAY) == [STUDENT]
