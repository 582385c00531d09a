"""The accounts of the members to be added or removed: remembered, or looked up once; without one a gap is parked."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from worker.domain.cohorts import Gap
from worker.domain.rules import can_be_asked
from worker.domain.states import Reason
from worker.ledger.work_queue import Parked
from worker.sync.accounts import LookUp, accounts_hidden, by_student, keys_of, look_up
from worker.sync.converge.context import LaneContext

SIGHT_SECONDS = 600.0
"""For how long a token that sees accounts is trusted to see them when it then finds none."""


class AccountResolver:
    """Finds accounts for one lane."""

    def __init__(self, context: LaneContext) -> None:
        self._context = context
        self._trusted_until = 0.0

    def resolve(self, gaps: Iterable[Gap]) -> dict[str, int]:
        """Return accounts by student id, for the gaps that need one, and park the gaps whose student has none."""
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
        accounts = self._context.queue.accounts.of(askable)
        looked_up = self._look_up(askable - accounts.keys(), keys)
        accounts |= looked_up.accounts
        self._park([gap for gap in students if keys[gap.student_id] not in accounts], keys, looked_up)
        return by_student(keys, accounts) | unmatched

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
            return LookUp(accounts={}, ambiguous=frozenset(), unclean=frozenset())
        found = look_up(context.reader, context.platform.account_field, unknown)
        self._check_sight(found)
        now = context.clock()
        context.queue.accounts.remember({key: found.accounts.get(key) for key in sorted(unknown)}, now)
        context.queue.retry_now([student for student, key in keys.items() if key in found.accounts], now)
        return found

    def _check_sight(self, found: LookUp) -> None:
        """Tell a missing right from missing accounts, before anybody is parked for want of one."""
        context = self._context
        now = context.clock()
        if found.is_empty and now >= self._trusted_until and context.reader.sees_people() is False:
            raise accounts_hidden(context.platform.name)
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
        if key in looked_up.unclean:
            return Reason.UNCLEAN_ACCOUNT
        return Reason.AMBIGUOUS_ACCOUNT if key in looked_up.ambiguous else Reason.NO_ACCOUNT

    def _can_be_asked(self, key: str) -> bool:
        return can_be_asked(self._context.platform.account_field, key)
