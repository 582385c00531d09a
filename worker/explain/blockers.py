"""What keeps a membership from being as it must be, and what happens next. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from worker.domain.instants import Instant
from worker.domain.rules import Mode, PlatformPolicy
from worker.domain.states import BLOCKED, OF_ACCOUNTS, Cause, CohortState, Limit, PlatformState, Reason
from worker.explain.findings import Finding, Why, found
from worker.explain.history import person
from worker.ledger.student_view import AccountFact, CohortFact, DecisionFact, JournalEntry, MembershipFact, PlatformFact

_A_PERSON_MUST = {
    Why.FOREIGN_COHORT, Why.FOREIGN_ALIKE, Why.COLLIDING_COHORT, Why.OBSERVE, Why.HELD_COHORT, Why.HELD_PLATFORM,
    Why.HELD_COHORT_MONTH, Why.HELD_SMALL_COHORTS, Why.HELD_PLATFORM_MONTH, Why.HELD_ADOPTED,
    Why.COHORT_HELD, Why.COHORT_REJECTED,
}  # fmt: skip
"""While one of these holds, nothing happens by itself."""
_NO_OBSTACLES = {Why.APPROVED, Why.COHORT_TO_CREATE}
_OF_ACCOUNTS = {Why(reason) for reason in OF_ACCOUNTS}
_DOWN = {
    PlatformState.UNAVAILABLE.value: Why.PLATFORM_UNAVAILABLE,
    PlatformState.DENIED.value: Why.PLATFORM_DENIED,
}
_HELD = {
    Limit.COHORT.value: Why.HELD_COHORT,
    Limit.PLATFORM.value: Why.HELD_PLATFORM,
    Limit.COHORT_MONTH.value: Why.HELD_COHORT_MONTH,
    Limit.SMALL_COHORTS.value: Why.HELD_SMALL_COHORTS,
    Limit.PLATFORM_MONTH.value: Why.HELD_PLATFORM_MONTH,
    Limit.ADOPTED.value: Why.HELD_ADOPTED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockedMembership:
    """A membership that isn't as it must be, with all that it depends on."""

    policy: PlatformPolicy
    cohort: CohortFact
    row: MembershipFact
    platform: PlatformFact | None
    account: AccountFact
    decision: DecisionFact | None
    """What a person decided about its removal."""
    rejection: JournalEntry | None
    """A person's decision that its cohort isn't created."""


def blockers(gap: BlockedMembership, now: Instant) -> list[Finding]:
    """Return everything that it waits for; when that is nothing, that it is to be done now."""
    findings = [
        *_ownership(gap),
        *_guard(gap, now),
        *_platform(gap),
        *_last_attempt(gap),
        *_cohort(gap, now),
        *_delay(gap, now),
    ]
    if {finding.code for finding in findings} <= _NO_OBSTACLES:
        findings.append(found(Why.READY))
    return findings


def what_next(gap: BlockedMembership, blocked_by: Sequence[Finding], now: Instant) -> Iterator[Finding]:
    """Yield when it is tried next and when it is due, unless it is for a person to decide."""
    codes = {finding.code for finding in blocked_by}
    if codes & _A_PERSON_MUST:
        return
    at = max(gap.row.next_attempt_at, gap.cohort.next_attempt_at, gap.cohort.lease_until)
    if gap.platform is not None:
        at = max(at, gap.platform.next_attempt_at)
    if at > now:
        yield found(Why.NEXT_ATTEMPT, at=at)
    if gap.row.due_by > now:
        yield found(Why.DUE_BY, at=gap.row.due_by)
    elif not codes & _OF_ACCOUNTS:  # without an account there is nothing that could have been done
        yield found(Why.OVERDUE, at=gap.row.due_by)


def about_account(code: Why, policy: PlatformPolicy, account: AccountFact) -> Finding:
    """Return what a look-up of an account has found."""
    return found(
        code,
        platform=policy.name,
        field=policy.account_field.value,
        key=account.key,
        looked_up_at=account.looked_up_at,
        near=account.near_id,
    )


def _ownership(gap: BlockedMembership) -> Iterator[Finding]:
    cohort = gap.cohort
    if cohort.state in BLOCKED:
        code = Why.COLLIDING_COHORT if cohort.state == CohortState.COLLIDING else Why.FOREIGN_ALIKE
        if code is Why.FOREIGN_ALIKE and cohort.blocker in {None, cohort.idnumber}:
            code = Why.FOREIGN_COHORT
        yield found(
            code, platform=cohort.platform, cohort=cohort.idnumber, blocker=cohort.blocker, id=cohort.blocker_id
        )
    if gap.policy.mode is Mode.OBSERVE:
        yield found(Why.OBSERVE, platform=gap.cohort.platform)


def _guard(gap: BlockedMembership, now: Instant) -> Iterator[Finding]:
    row = gap.row
    if row.desired:
        return
    if row.approved is not None:
        by = gap.decision.decided_by if gap.decision is not None else None
        expired = (row.approved_until or 0.0) <= now
        code = Why.APPROVAL_EXPIRED if expired else Why.APPROVED
        yield found(code, hash=row.approved, by=by, until=row.approved_until)
        if not expired:
            return
    if row.held is not None:
        yield found(_HELD[row.held])


def _platform(gap: BlockedMembership) -> Iterator[Finding]:
    state = gap.platform
    if state is not None and state.state in _DOWN:
        yield found(
            _DOWN[state.state],
            platform=state.name,
            since=state.since,
            error=state.code,
            sentence=state.sentence,
        )


def _last_attempt(gap: BlockedMembership) -> Iterator[Finding]:
    row = gap.row
    if row.reason in OF_ACCOUNTS:
        yield about_account(Why(row.reason), gap.policy, gap.account)
    elif row.reason == Reason.UNCONFIRMED:
        yield found(Why.UNCONFIRMED, user_id=row.user_id)
    elif row.reason == Reason.TIMEOUT:
        yield found(Why.TIMEOUT)
    elif row.reason is not None and row.reason != Reason.OBSERVE:
        yield found(Why.REFUSED, error=row.reason, attempts=row.attempts)


def _cohort(gap: BlockedMembership, now: Instant) -> Iterator[Finding]:
    cohort = gap.cohort
    if cohort.state == CohortState.WANTED and gap.row.desired:
        if cohort.rejected is not None:
            by, at = (None, None) if gap.rejection is None else (person(gap.rejection.detail), gap.rejection.at)
            yield found(Why.COHORT_REJECTED, hash=cohort.rejected, by=by, at=at)
        elif cohort.held is not None and (cohort.approved_until or 0.0) <= now:
            yield found(Why.COHORT_HELD)
        elif cohort.attempts > 0:
            yield found(Why.COHORT_REFUSED, attempts=cohort.attempts, error=cohort.refusal)
        else:
            yield found(Why.COHORT_TO_CREATE)
    if cohort.lease_until > now:
        code = Why.COHORT_RESTING if cohort.lease_holder is None else Why.COHORT_BUSY
        yield found(code, until=cohort.lease_until)


def _delay(gap: BlockedMembership, now: Instant) -> Iterator[Finding]:
    row = gap.row
    if row.reason is not None or row.next_attempt_at <= now:
        return
    if row.desired:
        yield found(Why.WAITING_ADDITION)
    elif row.cause == Cause.YEAR_CLOSED:
        yield found(Why.WAITING_GRACE)
    else:
        yield found(Why.WAITING_REMOVAL)
