"""Whether a platform answers: shared by all its workers."""

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from worker.domain.instants import Instant
from worker.domain.report import Stopped
from worker.domain.states import PlatformState
from worker.ledger import cohort_guard, cohorts, gaps
from worker.ledger.database import Ledger, upsert
from worker.ledger.schema import cohort, in_cohort, membership, platform

SOON_SECONDS = 600.0
"""Longer than a gap waits because its platform failed."""


class Availability:
    """The state of one platform. While it is paused, none of its work is handed out."""

    def __init__(self, ledger: Ledger, platform_name: str) -> None:
        self._ledger = ledger
        self._platform = platform_name

    def is_open(self, connection: sa.Connection, now: Instant) -> bool:
        """Return whether the platform may be called now."""
        paused = sa.select(platform.c.next_attempt_at).where(platform.c.name == self._platform)
        return bool((connection.scalar(paused) or 0.0) <= now)

    def stopped(self) -> Stopped | None:
        """Return why nothing is written to the platform, or None while it answers."""
        with self._ledger.read() as connection:
            known = connection.execute(self._row()).first()
        if known is None or known.state == PlatformState.UP:
            return None
        return Stopped(state=PlatformState(known.state), since=known.since, sentence=known.sentence or known.code or "")

    def is_in_doubt(self, now: Instant) -> bool:
        """Return whether it failed last, may be called again, and nothing that is to be written soon will show more."""
        with self._ledger.read() as connection:
            known = connection.execute(self._row()).first()
            if known is None or known.state == PlatformState.UP or known.next_attempt_at > now:
                return False
            soon = now + SOON_SECONDS
            here = sa.and_(cohort.c.platform == self._platform, cohort.c.next_attempt_at <= soon)
            gap_due = sa.select(membership.c.cohort_id).where(
                gaps.CLOSABLE, membership.c.next_attempt_at <= soon, in_cohort(here, cohort_guard.takes_members(now))
            )
            label_due = sa.select(cohort.c.id).where(here, cohorts.needs_rename, cohort_guard.let_pass(now))
            return not any(connection.scalar(due.limit(1)) for due in (gap_due, label_due))

    def was_read(self, at: Instant) -> None:
        """Write that a complete reading of the platform began at this instant."""
        row = {
            "name": self._platform,
            "state": PlatformState.UP.value,
            "since": at,
            "attempts": 0,
            "next_attempt_at": 0.0,
        }
        with self._ledger.write() as connection:
            upsert(connection, platform, [row | {"read_at": at}], update=["read_at"])

    def last_read(self) -> Instant | None:
        """Return when the last complete reading of the platform began."""
        with self._ledger.read() as connection:
            known = connection.execute(self._row()).first()
        return None if known is None else known.read_at

    def answered(self, now: Instant) -> None:
        """Write that the platform answers. What it refused before is tried again: it may have been its own fault."""
        with self._ledger.read() as connection:
            known = connection.execute(self._row()).first()
        if known is None or known.state != PlatformState.UP:  # so that a run writes nothing as long as all is well
            with self._ledger.write() as connection:
                self._write(connection, state=PlatformState.UP.value, since=now)
                gaps.retry_refused(connection, self._platform, now)

    def end_pause(self, now: Instant) -> None:
        """Hand out the platform's work again, with what it refused before; its state is what the next call shows."""
        with self._ledger.write() as connection:
            paused = sa.update(platform).where(platform.c.name == self._platform, platform.c.next_attempt_at > now)
            connection.execute(paused.values(next_attempt_at=now))
            gaps.retry_refused(connection, self._platform, now)

    def failed(
        self,
        state: PlatformState,
        now: Instant,
        *,
        began: Instant,
        code: str,
        sentence: str,
        pause: Callable[[int], float],
    ) -> float | None:
        """Write how the platform failed work that was claimed at `began`, and pause it.

        `pause` takes the number of failures in a row and returns the seconds to wait, which are returned. None is
        returned when the platform was paused since the work began: an outage counts once, however many lanes meet it.
        """
        with self._ledger.write() as connection:
            known = connection.execute(self._row()).first()
            if known is not None and known.next_attempt_at > began:
                return None
            since, attempts = now, 1
            if known is not None and known.state == state:
                since, attempts = known.since, int(known.attempts) + 1
            seconds = pause(attempts)
            self._write(
                connection, state=state.value, since=since, attempts=attempts,
                next_attempt_at=now + seconds, code=code, sentence=sentence.removeprefix(f"{self._platform}: "),
            )  # fmt: skip
        return seconds

    def _row(self) -> sa.Select[Any]:
        return sa.select(platform).where(platform.c.name == self._platform)

    def _write(self, connection: sa.Connection, **values: Any) -> None:  # noqa: ANN401 - columns
        row = {"name": self._platform, "attempts": 1, "next_attempt_at": 0.0, "code": None, "sentence": None} | values
        upsert(connection, platform, [row], update=[name for name in row if name != "name"])
