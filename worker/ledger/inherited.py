"""Members whom a cohort had when it became ours and whom nothing wants there: nobody of them leaves unasked.

They are noted by account, when the cohort is first read: many match no student then, and may later. Each is forgotten
once they are desired there, or gone.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet

import sqlalchemy as sa

from worker.ledger.database import among, chunks
from worker.ledger.schema import cohort, inherited, membership

is_inherited = sa.exists().where(
    inherited.c.cohort_id == membership.c.cohort_id, inherited.c.user_id == membership.c.user_id
)
"""A membership of an inherited member."""
_FORGOTTEN = 500
"""Members of a cohort that are forgotten by one statement."""


def by_cohort(connection: sa.Connection, cohort_ids: Collection[int]) -> dict[int, set[int]]:
    """Return the inherited members of these cohorts; a cohort that hasn't any is missing."""
    found: defaultdict[int, set[int]] = defaultdict(set)
    rows = sa.select(inherited).where(among(connection, inherited.c.cohort_id, list(cohort_ids)))
    for row in connection.execute(rows):
        found[row.cohort_id].add(row.user_id)
    return dict(found)


def note(connection: sa.Connection, undesired: Mapping[int, AbstractSet[int]]) -> None:
    """Write what the first reading of these cohorts showed: the members, by cohort, that aren't desired there."""
    rows = [
        {"cohort_id": cohort_id, "user_id": user_id}
        for cohort_id, user_ids in undesired.items()
        for user_id in sorted(user_ids)
    ]
    if rows:
        connection.execute(sa.insert(inherited), rows)
    connection.execute(sa.update(cohort).where(among(connection, cohort.c.id, list(undesired))).values(unread=False))


def forget(connection: sa.Connection, user_ids: Mapping[int, Collection[int]]) -> None:
    """Forget these inherited members, by cohort."""
    for cohort_id, accounts in user_ids.items():
        for some in chunks(sorted(accounts), _FORGOTTEN):
            of_cohort = sa.delete(inherited).where(inherited.c.cohort_id == cohort_id)
            connection.execute(of_cohort.where(inherited.c.user_id.in_(some)))
