"""Closing gaps: the only part that changes Moodle.

A `Lane` works on one platform, with at most one call at a time. Its `run_once` is the whole flow; all that it does
is read afresh from the ledger, and no other lane of any worker holds the same cohorts.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any

import structlog

from worker import telemetry
from worker.domain.cohorts import Cohort, Gap
from worker.domain.errors import LeaseLost, MoodleDenied, MoodleError, MoodleRejected, MoodleUnavailable
from worker.domain.instants import Instant
from worker.domain.plan import plan
from worker.domain.rules import PlatformPolicy, account_key, can_be_asked
from worker.domain.states import Action, Channel, CohortState, PlatformState, Reason
from worker.ledger import WorkQueue
from worker.ledger.work_queue import Applied, Parked, Work
from worker.moodle import MoodleReader, MoodleWriter, Outcome, RemoteCohort
from worker.moodle.client import UNKNOWN_COHORT, UNKNOWN_USER

DENIED_RETRY_SECONDS = 300.0
"""A platform that denies is tried again this often, in case somebody has put it right."""
RETRY_AFTER_MOST_SECONDS = 3600.0
"""What a platform may ask for: within a day there is more than one attempt, whatever it says."""
OBSERVE_RETRY_SECONDS = 3600.0
SIGHT_SECONDS = 600.0
"""For how long a token that sees people is trusted to, when it then finds nobody."""
RENAMES = 50
"""Cohorts renamed in one turn, each by a call: well within a lease."""
RENEW_SECONDS = 10.0
"""How old a lease may be when a call is sent, so that it outlasts the call by far."""
CLAIM_BATCHES = 4
"""Batches' worth of gaps that are claimed at once."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Delays of retries, in seconds: doubling from `first` to `most`."""

    first: float
    most: float

    def after(self, attempts: int) -> float:
        """Delay after this many failures, spread by a quarter so that failures don't march in step."""
        return float(min(self.first * 2 ** min(attempts, 30), self.most) * random.uniform(0.75, 1.0))  # noqa: S311 - spread, not secrecy


UNAVAILABLE = Backoff(first=2.0, most=300.0)
"""A platform that doesn't answer."""


class Lane:
    """One thread's worth of converging on one platform: its lanes share the connections.

    `writer` is None on a platform in observe mode: then everything but the writing happens.
    """

    def __init__(
        self,
        platform: PlatformPolicy,
        book: WorkQueue,
        reader: MoodleReader,
        writer: MoodleWriter | None,
        *,
        patience: Backoff,
        stop: threading.Event | None = None,
        clock: Callable[[], Instant] = time.time,
    ) -> None:
        self._platform = platform
        self._book = book
        self._reader = reader
        self._writer = writer and writer.checking(self._keep_leases)
        self._patience = patience
        self._stop = stop or threading.Event()
        self._clock = clock
        self._sighted_until = 0.0
        self._leased: frozenset[int] = frozenset()
        self._renew_at = 0.0
        self._log = log.bind(platform=platform.name)
        for action, way in product((Action.ADD, Action.REMOVE), Channel):  # a series that begins at 1 shows no increase
            telemetry.APPLIED_SECONDS.labels(platform.name, action, way)

    def run_once(self) -> bool:
        """Claim the cohorts that wait longest and close their gaps; False when nothing is due.

        A platform that doesn't answer, or denies, is noted in the ledger and left alone for a while.
        """
        most = self._writer.additions.size if self._writer else 200
        began = self._clock()
        work = self._book.claim(began, limit=CLAIM_BATCHES * most)
        for limit, removals in work.held.items():
            self._log.warning("removals are held until a person decides", limit=limit.value, removals=removals)
        if not work:
            return False
        self._leased, self._renew_at = frozenset(work.cohorts), began + RENEW_SECONDS
        try:
            cohorts = self._cohorts(work)
            accounts = self._accounts(gap for gap in work.gaps if gap.cohort_id in cohorts)
            self._apply(work, cohorts, accounts)
            self._book.availability.answered(self._clock())
            telemetry.LAST_SUCCESS.labels(self._platform.name).set(self._clock())
        except MoodleError as error:
            self._pause(error, began)
        except LeaseLost as error:
            self._log.warning("others went on meanwhile", error=str(error))
        finally:
            self._book.release()
        return True

    def _keep_leases(self) -> None:
        """Let no call out but under fresh leases: called right before each is sent. Raises LeaseLost.

        A process can be stopped anywhere, for as long as you like, and goes on as if nothing had happened.
        """
        while (now := self._clock()) >= self._renew_at:
            self._book.renew(self._leased, now)
            self._renew_at = now + RENEW_SECONDS

    def _pause(self, error: MoodleError, began: Instant) -> None:
        state = PlatformState.DENIED if isinstance(error, MoodleDenied) else PlatformState.UNAVAILABLE

        def pause(failures: int) -> float:
            if state is PlatformState.DENIED:
                return DENIED_RETRY_SECONDS
            asked = error.retry_after if isinstance(error, MoodleUnavailable) else None
            return max(UNAVAILABLE.after(failures - 1), min(asked or 0.0, RETRY_AFTER_MOST_SECONDS))

        seconds = self._book.availability.failed(
            state, self._clock(), began=began, code=error.code, sentence=str(error), pause=pause
        )  # fmt: skip
        if seconds is None:
            self._log.info("platform failed again, paused already", state=state.value, code=error.code)
        else:
            self._log.warning("platform paused", state=state.value, code=error.code, seconds=round(seconds))

    # Cohorts: found, created, renamed.

    def _cohorts(self, work: Work) -> dict[int, int]:
        """Moodle's ids of the claimed cohorts that may be written, by our ids."""
        ready = {cohort.id: cohort.moodle_id for cohort in work.cohorts.values() if cohort.moodle_id is not None}
        wanted = [cohort for cohort in work.cohorts.values() if cohort.state is CohortState.WANTED]
        joined = {gap.cohort_id for gap in work.gaps if gap.desired}
        if wanted:
            ready |= self._find_or_create([cohort for cohort in wanted if cohort.id in joined])
        misnamed = [cohort for cohort in work.cohorts.values() if _misnamed(cohort)]
        if misnamed and self._writer is not None:
            self._rename(self._writer, misnamed[:RENAMES])
        elif misnamed:
            later = self._clock() + OBSERVE_RETRY_SECONDS
            self._book.write_cohorts([(cohort, {"next_attempt_at": later}) for cohort in misnamed], self._clock())
        return ready

    def _find_or_create(self, wanted: Sequence[Cohort]) -> dict[int, int]:
        now = self._clock()
        there: dict[str, list[RemoteCohort]] = {}
        for remote in self._reader.cohorts():
            there.setdefault(remote.idnumber, []).append(remote)
        foreign = [cohort for cohort in wanted if not self._ours(there.get(cohort.idnumber, []))]
        if foreign:
            self._log.warning("cohorts exist that we did not create: adopt them", cohorts=len(foreign))
            self._book.write_cohorts([(cohort, {"state": CohortState.FOREIGN}) for cohort in foreign], now)
        known = [
            (cohort, there[cohort.idnumber][0])
            for cohort in wanted
            if cohort not in foreign and cohort.idnumber in there
        ]
        self._book.write_cohorts(
            [(cohort, _owned(remote.id, remote.name, remote.idnumber)) for cohort, remote in known], now
        )
        ready = {cohort.id: remote.id for cohort, remote in known}
        new = [cohort for cohort in wanted if cohort not in foreign and cohort.idnumber not in there]
        if self._writer is None:
            return ready | {cohort.id: 0 for cohort in new}  # so that what would be done in them is planned
        if not new:
            return ready
        with self._writing(c.id for c in new):
            created, refused = self._writer.create([(c.idnumber, c.wanted_name or c.idnumber) for c in new])
        made = [
            (c, _owned(created[c.idnumber], c.wanted_name or c.idnumber, c.idnumber))
            for c in new
            if c.idnumber in created
        ]
        self._book.write_cohorts(made, now, Action.CREATE_COHORT)
        self._log.info("cohorts created", cohorts=len(made))
        self._book.write_cohorts(
            [
                (c, {"attempts": c.attempts + 1, "next_attempt_at": now + self._patience.after(c.attempts)})
                for c in new
                if c.idnumber in refused
            ],
            now,
        )
        for idnumber, code in refused.items():
            self._log.error("cohort cannot be created", cohort=idnumber, code=code)
        return ready | {c.id: created[c.idnumber] for c in new if c.idnumber in created}

    def _ours(self, found: Sequence[RemoteCohort]) -> bool:
        """Whether an idnumber is free, or held by one cohort, that this ledger created."""
        if not found:
            return True
        return len(found) == 1 and self._writer is not None and self._writer.is_ours(found[0])

    def _rename(self, writer: MoodleWriter, misnamed: Sequence[Cohort]) -> None:
        now = self._clock()
        there = {remote.id: remote for remote in writer.cohorts()}
        idnumbers = {remote.idnumber: remote.id for remote in there.values()}
        movable = writer.system_cohort_ids()
        for cohort in misnamed:
            remote = there.get(cohort.moodle_id or 0)
            if remote is None:
                self._vanish(cohort)
                continue
            # Already as wanted: an earlier call did it, and its answer was lost.
            unchanged = remote.name in {cohort.moodle_name, cohort.wanted_name}
            ours = cohort.name_is_ours and unchanged and remote.id in movable
            name = (cohort.wanted_name or remote.name) if ours else remote.name
            free = idnumbers.get(cohort.idnumber, remote.id) == remote.id and remote.id in movable
            idnumber = cohort.idnumber if free else remote.idnumber
            values: dict[str, Any] = {
                "name_is_ours": ours, "moodle_name": name, "moodle_idnumber": idnumber, "attempts": 0
            }  # fmt: skip
            action = None
            if (name, idnumber) != (remote.name, remote.idnumber):
                action = Action.RENAME_COHORT
                try:
                    with self._writing([cohort.id]):
                        writer.update(remote, name=name, idnumber=idnumber)
                    self._log.info("cohort renamed", cohort=cohort.idnumber)
                except MoodleRejected as error:
                    self._log.error("cohort cannot be renamed", cohort=cohort.idnumber, code=error.code)
                    values, action = {"attempts": cohort.attempts + 1}, None
            if values.get("moodle_idnumber") != cohort.idnumber:  # taken, or not ours to move: not at every turn
                values["next_attempt_at"] = now + self._patience.after(cohort.attempts)
            self._book.write_cohorts([(cohort, values)], now, action)

    def _vanish(self, cohort: Cohort) -> None:
        self._log.warning("cohort was deleted on Moodle", cohort=cohort.idnumber)
        self._book.vanished(cohort, self._clock())

    # Accounts: remembered, or looked up once; without one a membership is parked.

    def _accounts(self, gaps: Iterable[Gap]) -> dict[str, int]:
        """Moodle accounts by student id, for the gaps that need one."""
        asking = [gap for gap in gaps if gap.desired or gap.user_id is None]
        needing = [gap for gap in asking if not gap.is_unmatched]
        unmatched = {gap.student_id: gap.user_id for gap in asking if gap.is_unmatched and gap.user_id is not None}
        keys = {gap.student_id: account_key(self._platform, gap.student_id, gap.login) for gap in needing}
        askable = {key for key in keys.values() if key is not None and self._askable(key)}
        accounts = self._book.accounts.of(askable)
        unknown = sorted(askable - accounts.keys())
        found = self._reader.users(self._platform.account_field, unknown) if unknown else {}
        if unknown:
            self._check_sight(found)
        single = {key: ids[0] for key, ids in found.items() if len(ids) == 1}
        if unknown:
            now = self._clock()
            self._book.accounts.remember({key: single.get(key) for key in unknown}, now)
            self._book.retry_now([student for student, key in keys.items() if key in single], now)
        accounts |= single
        self._park(needing, keys, accounts, ambiguous={key for key, ids in found.items() if len(ids) > 1})
        known = {student: accounts[key] for student, key in keys.items() if key is not None and key in accounts}
        return known | unmatched

    def _askable(self, key: str) -> bool:
        return can_be_asked(self._platform.account_field, key)

    def _check_sight(self, found: dict[str, list[int]]) -> None:
        """Tell a missing right from missing people before anybody is parked for want of an account."""
        now = self._clock()
        if not found and now >= self._sighted_until and self._reader.sees_people() is False:
            raise MoodleDenied(
                "accounts_hidden",
                f"{self._platform.name}: the token finds nobody, not even the members of cohorts; "
                "give its role moodle/user:viewdetails and moodle/user:viewalldetails at system level",
            )
        self._sighted_until = now + SIGHT_SECONDS

    def _park(
        self, gaps: Iterable[Gap], keys: dict[str, str | None], accounts: dict[str, int], ambiguous: set[str]
    ) -> None:
        def reason(key: str | None) -> Reason:
            if key is None:
                return Reason.NO_LOGIN
            if not self._askable(key):
                return Reason.BAD_ACCOUNT_NAME
            return Reason.AMBIGUOUS_ACCOUNT if key in ambiguous else Reason.NO_ACCOUNT

        now = self._clock()
        parked = [
            Parked(
                gap=gap,
                reason=reason(keys[gap.student_id]),
                retry_at=now + self._patience.after(gap.attempts),
                observed=None if gap.user_id is not None else False,  # it may have been given to an earlier account
            )
            for gap in gaps
            if keys[gap.student_id] not in accounts
        ]
        if parked:
            self._book.settle(parked=parked, now=now)
        for why, members in sorted(Counter(item.reason for item in parked).items()):
            self._log.info("members parked", reason=why, members=members)

    # Members: added, then removed, batch by batch.

    def _apply(self, work: Work, cohorts: dict[int, int], accounts: dict[str, int]) -> None:
        gaps = [gap for gap in work.gaps if gap.cohort_id in cohorts]
        planned = plan(gaps, accounts, self._staying(gaps))
        if self._writer is None:
            later = self._clock() + OBSERVE_RETRY_SECONDS
            self._book.settle(
                parked=[
                    Parked(gap=gap, reason=Reason.OBSERVE, retry_at=later, observed=not gap.desired)
                    for gap, _ in planned.additions + planned.removals + planned.kept
                ],
                now=self._clock(),
            )
            return
        self._book.settle(closed=[gap for gap, _ in planned.kept], now=self._clock())
        writer = self._writer
        self._batches(work, cohorts, planned.additions, writer.add, lambda: writer.additions.size)
        self._batches(work, cohorts, planned.removals, writer.remove, lambda: writer.removals.size)

    def _staying(self, gaps: Sequence[Gap]) -> Iterator[tuple[int, int]]:
        """Accounts that desired memberships stand for, in the cohorts that somebody is to leave."""
        leaving = {gap.cohort_id for gap in gaps if not gap.desired}
        if not leaving:
            return
        members = self._book.stays(leaving)
        keys = {row.student_id: account_key(self._platform, row.student_id, row.login) for row in members}
        remembered = self._book.accounts.of({key for key in keys.values() if key is not None})
        for row in members:
            user_id = row.user_id if row.user_id is not None else remembered.get(keys[row.student_id] or "")
            if user_id is not None:
                yield row.cohort_id, user_id

    def _batches(
        self,
        work: Work,
        cohorts: dict[int, int],
        items: Sequence[tuple[Gap, int]],
        call: Callable[[list[tuple[int, int]]], Outcome],
        size: Callable[[], int],
    ) -> None:
        rest = list(items)
        while rest and not self._stop.is_set():
            most = size()  # learns from call to call
            batch, rest = self._book.mark_in_flight(rest[:most], self._clock()), rest[most:]
            if not batch:
                continue
            pairs = {(cohorts[gap.cohort_id], user_id): gap for gap, user_id in batch}
            gaps = [gap for gap, _ in batch]
            with self._writing((gap.cohort_id for gap in gaps), gaps):
                outcome = call(list(pairs))
            self._settle(work, pairs, outcome)

    @contextmanager
    def _writing(self, cohort_ids: Iterable[int], gaps: Sequence[Gap] = ()) -> Iterator[None]:
        """Make a call that changes these cohorts: when its outcome is unknown it may still run, and keeps them."""
        try:
            yield
        except MoodleUnavailable as error:
            if error.unknown:
                now = self._clock()
                until = now + self._reader.wire.limits.timeout_seconds
                late = [Parked(gap=gap, reason=Reason.TIMEOUT, retry_at=until, observed=None) for gap in gaps]
                self._book.settle(parked=late, now=now)
                self._book.hold_off(set(cohort_ids), until)
            raise

    def _settle(self, work: Work, pairs: dict[tuple[int, int], Gap], outcome: Outcome) -> None:
        now = self._clock()
        applied = [Applied(gap=pairs[pair], user_id=pair[1]) for pair in pairs if pair in outcome.done]
        gone = {pair for pair, code in outcome.refused.items() if code == UNKNOWN_USER}
        closed = [pairs[pair] for pair in gone if not pairs[pair].desired]  # a deleted account is in no cohort
        self._book.accounts.forget({user_id for _, user_id in gone})
        self._book.settle(
            applied=applied,
            closed=closed,
            parked=[
                Parked(
                    gap=gap,
                    reason=code,
                    retry_at=now + (self._patience.after(gap.attempts) if gap.attempts else 0.0),
                    observed=not gap.desired,
                )
                for pair, code in outcome.refused.items()
                for gap in (pairs[pair],)
                if gap not in closed
            ],
            now=now,
        )
        for cohort_id in {pairs[pair].cohort_id for pair, code in outcome.refused.items() if code == UNKNOWN_COHORT}:
            self._vanish(work.cohorts[cohort_id])
        for done in applied:
            action = Action.ADD if done.gap.desired else Action.REMOVE
            applied_seconds = telemetry.APPLIED_SECONDS.labels(self._platform.name, action, done.gap.channel)
            applied_seconds.observe(max(0.0, now - done.gap.since))
        self._log.info(
            "batch applied",
            members=len(applied),
            refused=len(outcome.refused),
            cohorts=len({gap.cohort_id for gap in pairs.values()}),
        )


def _misnamed(cohort: Cohort) -> bool:
    return cohort.state is CohortState.OWNED and (
        cohort.moodle_idnumber != cohort.idnumber
        or (cohort.name_is_ours and cohort.wanted_name not in {None, cohort.moodle_name})
    )


def _owned(moodle_id: int, name: str, idnumber: str) -> dict[str, Any]:
    return {
        "state": CohortState.OWNED,
        "moodle_id": moodle_id,
        "moodle_name": name,
        "moodle_idnumber": idnumber,
        "attempts": 0,
    }
