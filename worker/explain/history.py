"""Since when a membership is as it must be, what was done on Moodle, and what was seen there. Pure."""

from collections.abc import Iterator, Mapping, Sequence

from worker.domain.rules import canonical
from worker.domain.states import Action, Cause, Kept
from worker.explain.findings import CohortKey, Finding, Why, found
from worker.ledger.student_view import CohortFact, DecisionFact, JournalEntry, MembershipFact, StudentView

ENTRIES = 10
"""Lines of the journal that are shown for one cohort: the newest."""
_DONE = {
    Action.CREATE_COHORT.value: Why.COHORT_CREATED,
    Action.ADOPT_COHORT.value: Why.COHORT_ADOPTED,
    Action.COHORT_DELETED.value: Why.DELETION_FOUND,
    Action.ACKNOWLEDGE.value: Why.COURSES_SEEN_TO,
    Action.ADD.value: Why.ADDED,
    Action.REMOVE.value: Why.REMOVED,
}
_BY_A_PERSON = {Action.ADOPT_COHORT.value, Action.ACKNOWLEDGE.value}
"""Actions of which the journal's detail says who took them."""


class History:
    """What happened to the student in the cohorts of a view."""

    def __init__(self, view: StudentView, cohorts: Mapping[CohortKey, CohortFact], aliases: Mapping[str, str]) -> None:
        self._view, self._cohorts, self._aliases = view, cohorts, aliases

    def since(self, key: CohortKey, row: MembershipFact) -> Finding:
        """Return since when, and because of what, it must be so."""
        if row.kept is not None:
            rejected = row.kept == Kept.REJECTED
            code, action = (Why.KEPT_REJECTED, Action.REJECT) if rejected else (Why.KEPT_UNDONE, Action.UNDO)
            decided = (entry for entry in self._journal(key) if entry.action == action and entry.at == row.kept_at)
            return found(code, at=row.kept_at, by=next((person(entry.detail) for entry in decided), None))
        if row.cause == Cause.DRIFT:
            return found(Why.DRIFTED, since=row.since, run=row.run)
        if row.cause == Cause.ADOPTED:
            return found(Why.INHERITED, since=row.since, run=row.run)
        code = Why.DESIRED_SINCE if row.desired else Why.ENDED_SINCE
        return found(code, since=row.since, cause=row.cause, origin=row.origin, run=row.run)

    def events(self, key: CohortKey, row: MembershipFact) -> Iterator[Finding]:
        """Yield what was done, decided and seen; an approval, or a decision in force, comes with what it led to."""
        decisions = [decision for decision in self._view.decisions if row.cohort_id in decision.cohort_ids]
        yield from self._done(key, decisions)
        for decision in decisions:
            if decision.verdict != Action.APPROVE and decision.decided_at != row.kept_at:
                yield _decided(decision)
        if row.observed is not None and row.observed_at > 0:
            yield found(Why.SEEN if row.observed else Why.SEEN_ABSENT, at=row.observed_at)

    def _done(self, key: CohortKey, decisions: Sequence[DecisionFact]) -> Iterator[Finding]:
        approvers = {decision.hash: decision.decided_by for decision in decisions if decision.verdict == Action.APPROVE}
        done = [entry for entry in self._journal(key) if entry.action in _DONE]
        for entry in done[-ENTRIES:]:
            by_person = entry.student_id is None and entry.action in _BY_A_PERSON
            yield found(
                _DONE[entry.action],
                at=entry.at,
                number=None if entry.student_id == self._view.survivor else entry.student_id,
                user_id=entry.user_id,
                by=person(entry.detail) if by_person else approvers.get(entry.approved or ""),
                hash=entry.approved,
                run=entry.run,
            )

    def _journal(self, key: CohortKey) -> list[JournalEntry]:
        """Return the journal of this cohort about the student or itself, also under the codes that it had before."""
        cohort = self._cohorts[key]
        idnumbers = {key.idnumber, cohort.moodle_idnumber}
        if cohort.etape is not None:
            former = [code for code in self._aliases if canonical(code, self._aliases) == cohort.etape]
            idnumbers |= {key.idnumber.replace(cohort.etape, code, 1) for code in former}
        return [entry for entry in self._view.journal if entry.platform == key.platform and entry.cohort in idnumbers]


def _decided(decision: DecisionFact) -> Finding:
    return found(
        Why.DECIDED,
        at=decision.decided_at,
        by=decision.decided_by,
        action=decision.verdict,
        hash=decision.hash,
    )


def person(detail: str | None) -> str | None:
    """Return the name in a journal's `by NAME`, or `3 members, by NAME`."""
    return detail.rpartition("by ")[2] if detail else None
