"""What is known of accounts: one that was found is a guess with an age, and is confirmed again and again. Pure."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from worker.domain.instants import Instant
from worker.domain.states import Reason

NIGHT_SECONDS = 24 * 3600.0
CONFIRM_NIGHTS = 7
"""Nights within which every account is confirmed, unless the settings say otherwise."""
SMALL = 2_000
"""Accounts that are confirmed in one night, however many nights there are for all: some nine seconds of Moodle's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundAccount:
    """What a look-up has found under one key."""

    user_id: int | None = None
    """The account, if it is the only one."""
    reason: Reason | None = None
    """Why it can't be used, if it can't."""
    near_id: int | None = None
    """An account that Moodle returned although its key is another."""


class RememberedAccount(NamedTuple):
    """An account as a look-up has left it in the ledger."""

    key: str
    user_id: int
    looked_up_at: Instant
    reason: str | None
    """Why the last look-up could not confirm it."""


def trusted_since(now: Instant, nights: int) -> Instant:
    """Return when an account must have been confirmed to be believed: nights may be late, or one may fail."""
    return now - (nights + 1) * NIGHT_SECONDS


def to_confirm(remembered: Iterable[RememberedAccount], now: Instant, *, nights: int) -> set[int]:
    """Return the accounts that are to be looked up tonight, so that every one is within so many nights.

    They are the oldest ones, in equal slices; of few accounts, all.
    """
    oldest_first = sorted(remembered, key=lambda account: account.looked_up_at)
    slice_size = max(SMALL, math.ceil(len(oldest_first) / nights))
    overdue = now - (nights - 0.5) * NIGHT_SECONDS  # nights aren't exactly a day apart
    return {
        account.user_id
        for rank, account in enumerate(oldest_first)
        if rank < slice_size or account.looked_up_at <= overdue
    }
