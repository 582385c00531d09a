"""Leases on cohorts: only the holder works on the cohort, until the lease is released or runs out."""

from collections.abc import Collection

import sqlalchemy as sa

from worker.domain.errors import LeaseLost
from worker.domain.instants import Instant
from worker.ledger.schema import cohort

LEASE_LOST = "lease expired; another worker took over these cohorts"


class Leases:
    """The leases of one holder, on cohorts of one platform."""

    def __init__(self, platform: str, holder: str, *, seconds: float) -> None:
        self._holder = holder
        self._seconds = seconds
        self._held = sa.and_(cohort.c.platform == platform, cohort.c.lease_holder == holder)

    def take(self, connection: sa.Connection, cohort_ids: Collection[int], now: Instant) -> None:
        """Lease these cohorts, which must be free."""
        leased = sa.update(cohort).where(cohort.c.id.in_(cohort_ids))
        connection.execute(leased.values(lease_holder=self._holder, lease_until=now + self._seconds))

    def lost(self, connection: sa.Connection, cohort_ids: Collection[int]) -> set[int]:
        """Return those of the cohorts that others have taken over.

        A lease that ran out while nobody else wanted the cohort isn't lost.
        """
        return {*cohort_ids} - set(connection.scalars(sa.select(cohort.c.id).where(self._held)))

    def require(self, connection: sa.Connection, cohort_ids: Collection[int]) -> None:
        """Raise LeaseLost when others have taken over one of the cohorts."""
        if self.lost(connection, cohort_ids):
            raise LeaseLost(LEASE_LOST)

    def renew(self, connection: sa.Connection, now: Instant) -> None:
        """Renew all leases of this holder."""
        connection.execute(sa.update(cohort).where(self._held).values(lease_until=now + self._seconds))

    def hold_off(self, connection: sa.Connection, cohort_ids: Collection[int], until: Instant) -> None:
        """Release these cohorts, but free them only at that instant."""
        released = sa.update(cohort).where(self._held, cohort.c.id.in_(cohort_ids))
        connection.execute(released.values(lease_holder=None, lease_until=until))

    def release(self, connection: sa.Connection) -> None:
        """Release all cohorts."""
        connection.execute(sa.update(cohort).where(self._held).values(lease_holder=None, lease_until=0.0))
