"""What look-ups of accounts on a platform found: no account is looked up twice without need."""

from collections.abc import Collection, Mapping
from typing import Any

import sqlalchemy as sa

from worker.domain.instants import Instant
from worker.ledger.database import Ledger, among, select_in, stream, upsert
from worker.ledger.schema import account


class Accounts:
    """The accounts of one platform, by key: a username or an idnumber."""

    def __init__(self, ledger: Ledger, platform: str) -> None:
        self._ledger = ledger
        self._platform = platform

    def all(self) -> dict[str, int]:
        """Return every account that is remembered."""
        with self._ledger.read() as connection:
            return dict(stream(connection, self._known()))

    def of(self, keys: Collection[str]) -> dict[str, int]:
        """Return those of these keys that are remembered."""
        with self._ledger.read() as connection:
            return {row.key: row.user_id for row in select_in(connection, self._known(), account.c.key, set(keys))}

    def remember(self, found: Mapping[str, int | None], now: Instant) -> None:
        """Store the outcome of a look-up: the account's id by key, None for no account or several."""
        rows = [
            {"platform": self._platform, "key": key, "user_id": user_id, "looked_up_at": now}
            for key, user_id in sorted(found.items())
        ]
        with self._ledger.write() as connection:
            upsert(connection, account, rows, update=["user_id", "looked_up_at"])

    def forget(self, user_ids: Collection[int]) -> None:
        """Forget accounts that no longer exist: their keys are looked up again when needed."""
        if user_ids:
            with self._ledger.write() as connection:
                deleted = among(connection, account.c.user_id, list(user_ids))
                connection.execute(sa.delete(account).where(self._of_platform, deleted))

    def _known(self) -> sa.Select[Any]:
        return sa.select(account.c.key, account.c.user_id).where(self._of_platform, account.c.user_id.is_not(None))

    @property
    def _of_platform(self) -> sa.ColumnElement[bool]:
        return account.c.platform == self._platform
