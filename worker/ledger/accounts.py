"""What look-ups of accounts on a platform found: no account is looked up twice without need."""

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from worker.domain.accounts import FoundAccount, RememberedAccount
from worker.domain.instants import Instant
from worker.domain.states import Reason
from worker.ledger.database import Ledger, among, select_in, stream, upsert
from worker.ledger.schema import account


class Accounts:
    """The accounts of one platform, by key: a username or an idnumber."""

    def __init__(self, ledger: Ledger, platform: str) -> None:
        self._ledger = ledger
        self._platform = platform

    def all(self) -> list[RememberedAccount]:
        """Return every account that is remembered, also those that the last look-up could not confirm."""
        columns = sa.select(*(account.c[name] for name in RememberedAccount._fields))
        with self._ledger.read() as connection:
            rows = stream(connection, columns.where(self._of_platform, account.c.user_id.is_not(None)))
            return [RememberedAccount._make(row) for row in rows]

    def of(self, keys: Collection[str], *, since: Instant = 0.0) -> dict[str, int]:
        """Return those of these keys whose account is known, and was confirmed since then."""
        known = sa.select(account.c.key, account.c.user_id).where(
            self._of_platform,
            account.c.user_id.is_not(None),
            account.c.reason.is_(None),
            account.c.looked_up_at >= since,
        )
        with self._ledger.read() as connection:
            return {row.key: row.user_id for row in select_in(connection, known, account.c.key, set(keys))}

    def remember(self, found: Mapping[str, FoundAccount], now: Instant) -> None:
        """Store the outcome of a look-up, by key."""
        rows = [
            {
                "platform": self._platform,
                "key": key,
                "user_id": each.user_id,
                "looked_up_at": now,
                "reason": each.reason,
                "near_id": each.near_id,
            }
            for key, each in sorted(found.items())
        ]
        with self._ledger.write() as connection:
            upsert(connection, account, rows, update=["user_id", "looked_up_at", "reason", "near_id"])

    def forget(self, user_ids: Collection[int]) -> None:
        """Forget accounts that no longer exist: their keys are looked up again when needed."""
        if user_ids:
            with self._ledger.write() as connection:
                deleted = among(connection, account.c.user_id, list(user_ids))
                connection.execute(sa.delete(account).where(self._of_platform, deleted))

    def forget_keys(self, keys: Collection[str]) -> None:
        """Forget what was found under these keys."""
        if keys:
            with self._ledger.write() as connection:
                forget_keys(connection, self._platform, keys)

    @property
    def _of_platform(self) -> sa.ColumnElement[bool]:
        return account.c.platform == self._platform


def forget_keys(connection: sa.Connection, platform: str, keys: Collection[str]) -> None:
    """Forget what was found under these keys: who is called so has changed."""
    if keys:
        named = among(connection, account.c.key, sorted(keys))
        connection.execute(sa.delete(account).where(account.c.platform == platform, named))


@dataclass(frozen=True, slots=True, kw_only=True)
class UnusableAccounts:
    """Keys whose last look-up found no account that can be used, all for one reason."""

    reason: str
    keys: int
    user_ids: tuple[int, ...]
    """The accounts that a person should look at, as far as their ids are known."""


def unusable(ledger: Ledger, platform: str) -> list[UnusableAccounts]:
    """Return why keys of the platform have no account that can be used, without those that have none at all."""
    about = sa.and_(account.c.platform == platform, account.c.reason != Reason.NO_ACCOUNT)
    known = sa.select(account.c.reason, account.c.user_id, account.c.near_id).where(about)
    found: defaultdict[str, list[int | None]] = defaultdict(list)
    with ledger.read() as connection:
        for reason, user_id, near_id in map(tuple, connection.execute(known)):
            found[reason].append(near_id if user_id is None else user_id)
    unusable_accounts = []
    for reason, ids in sorted(found.items()):
        user_ids = sorted({each for each in ids if each is not None})
        unusable_accounts.append(UnusableAccounts(reason=reason, keys=len(ids), user_ids=tuple(user_ids)))
    return unusable_accounts
