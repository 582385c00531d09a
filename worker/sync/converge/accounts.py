"""The accounts of the members to be added or removed: remembered, or looked up once; without one a gap is parked."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from worker.domain.accounts import trusted_since
from worker.domain.cohorts import Gap
from worker.domain.rules import can_be_asked
from worker.domain.states import Reason
from worker.ledger.work_queue import Parked
from worker.sync.accounts import NONE, LookUp, by_student, check_sight, keys_of, look_up
from worker.sync.converge.context import LaneContext

SIGHT_SECONDS = 600.0
"""For how long a token that sees accounts is trusted to see them when it then finds none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """Gaps, and the accounts of those that can be closed."""

    gaps: Sequence[Gap]
    accounts: Mapping[str, int]
    """By student id."""


def _stays(gap: Gap, accounts: Mapping[str, int]) -> bool:
    """Whether a member whose login changed keeps the account that they are there by: no other is known as theirs."""
    return gap.reason == Reason.UNCONFIRMED and accounts.get(gap.student_id, gap.user_id) == gap.user_id


class AccountResolver:
    """Finds accounts for one lane."""

    def __init__(self, context: LaneContext) -> None:
        self._context = context
        self._trusted_until = 0.0

    def resolve(self, gaps: Sequence[Gap]) -> Resolved:
        """Find the accounts that gaps need, and settle the gaps whose student has none or still has theirs."""
        students: list[Gap] = []
        unmatched: dict[str, int] = {}
        for gap in gaps:
            if not gap.desired and gap.user_id is not None:
                continue  # the gap has its account
            if not gap.is_unmatched:
                students.append(gap)
            elif gap.user_id is not None:
                unmatched[gap.student_id] = gap.user_id
        keys = keys_of(self._context.platform, ((gap.student_id, gap.login) for gap in students))
        askable = {key for key in keys.values() if key is not None and self._can_be_asked(key)}
        now = self._context.clock()
        accounts = self._context.queue.accounts.of(askable, since=trusted_since(now, self._context.confirm_nights))
        looked_up = self._look_up(askable - accounts.keys(), keys)
        found = by_student(keys, accounts | looked_up.accounts)
        self._context.queue.settle(confirmed=[gap for gap in students if _stays(gap, found)], now=now)
        without = [gap for gap in students if gap.student_id not in found and not _stays(gap, found)]
        self._park(without, keys, looked_up)
        return Resolved(gaps=[gap for gap in gaps if not _stays(gap, found)], accounts=found | unmatched)

    def staying(self, gaps: Iterable[Gap]) -> Iterator[tuple[int, int]]:
        """Find the accounts that must stay, as (cohort id, user id), in the cohorts that these gaps take somebody from.

        They are those of the desired members, as far as they are remembered.
        """
        leaving = {gap.cohort_id for gap in gaps if not gap.desired}
        if not leaving:
            return
        members = self._context.queue.stays(leaving)
        keys = keys_of(self._context.platform, ((row.student_id, row.login) for row in members))
        remembered = self._context.queue.accounts.of({key for key in keys.values() if key is not None})
        accounts = by_student(keys, remembered)
        for row in members:
            user_id = row.user_id if row.user_id is not None else accounts.get(row.student_id)
            if user_id is not None:
                yield row.cohort_id, user_id

    def _look_up(self, unknown: Collection[str], keys: Mapping[str, str | None]) -> LookUp:
        """Look up the keys that aren't remembered; memberships that waited for an account that is found are retried."""
        context = self._context
        if not unknown:
            return LookUp()
        found = look_up(context.reader, context.platform.account_field, unknown)
        self._check_sight(found)
        now = context.clock()
        context.queue.accounts.remember(found.found, now)
        context.queue.retry_now([student for student, key in keys.items() if key in found.accounts], now)
        return found

    def _check_sight(self, found: LookUp) -> None:
        """Tell a missing right from missing accounts, before anybody is parked for want of one."""
        now = self._context.clock()
        if found.is_empty and now >= self._trusted_until:
            check_sight(self._context.reader)
        self._trusted_until = now + SIGHT_SECONDS

    def _park(self, gaps: Sequence[Gap], keys: Mapping[str, str | None], looked_up: LookUp) -> None:
        if not gaps:
            return
        now = self._context.clock()
        parked = [
            Parked(
                gap=gap,
                reason=self._reason(keys[gap.student_id], looked_up),
                retry_at=now + self._context.backoff.after(gap.attempts),
                observed=None if gap.user_id is not None else False,  # it may have been given to an earlier account
            )
            for gap in gaps
        ]
        self._context.queue.settle(parked=parked, now=now)
        for reason, members in sorted(Counter(item.reason for item in parked).items()):
            self._context.log.info("members parked", reason=reason, members=members)

    def _reason(self, key: str | None, looked_up: LookUp) -> Reason:
        if key is None:
            return Reason.NO_LOGIN
        if not self._can_be_asked(key):
            return Reason.BAD_ACCOUNT_NAME
        return looked_up.found.get(key, NONE).reason or Reason.NO_ACCOUNT

    def _can_be_asked(self, key: str) -> bool:
        return can_be_asked(self._context.platform.account_field, key)
