"""Since when a membership is as it must be, what was done on Moodle, and what was seen there. Pure."""

from collections.abc import Iterator, Mapping

from worker.domain.rules import canonical
from worker.domain.states import Action, Cause, Kept
from worker.explain.findings import Finding, Why, found
from worker.ledger.student_view import CohortFact, JournalEntry, MembershipFact, StudentView

ENTRIES = 10
"""Lines of the journal that are told of one cohort: the newest."""
_TOLD = {
    Action.CREATE_COHORT.value: Why.COHORT_CREATED,
    Action.ADOPT_COHORT.value: Why.COHORT_ADOPTED,
    Action.ADD.value: Why.ADDED,
    Action.REMOVE.value: Why.REMOVED,
}
Place = tuple[str, str]
"""A platform's name and a cohort's idnumber."""


class Past:
    """What happened to the student in the cohorts of a story."""

    def __init__(self, story: StudentView, cohorts: Mapping[Place, CohortFact], aliases: Mapping[str, str]) -> None:
        self._story, self._cohorts, self._aliases = story, cohorts, aliases

    def since(self, place: Place, row: MembershipFact) -> Finding:
        """Say since when, and because of what, it must be so."""
        if row.kept is not None:
            rejected = row.kept == Kept.REJECTED
            code, action = (Why.KEPT_REJECTED, Action.REJECT) if rejected else (Why.KEPT_UNDONE, Action.UNDO)
            decided = (entry for entry in self._journal(place) if entry.action == action and entry.at == row.kept_at)
            return found(code, at=row.kept_at, by=next((_person(entry.detail) for entry in decided), None))
        if row.cause == Cause.DRIFT:
            return found(Why.DRIFTED, since=row.since, run=row.run)
        code = Why.DESIRED_SINCE if row.desired else Why.ENDED_SINCE
        return found(code, since=row.since, cause=row.cause, origin=row.origin, run=row.run)

    def history(self, place: Place, row: MembershipFact) -> Iterator[Finding]:
        """Say what was done, decided and seen; decisions in force or carried out are told with what they led to."""
        decisions = [decision for decision in self._story.decisions if row.cohort_id in decision.cohort_ids]
        approvers = {d.hash: d.decided_by for d in decisions if d.verdict == Action.APPROVE}
        told = [entry for entry in self._journal(place) if entry.action in _TOLD]
        for entry in told[-ENTRIES:]:
            yield found(
                _TOLD[entry.action],
                at=entry.at,
                number=entry.student_id if entry.student_id != self._story.survivor else None,
                user_id=entry.user_id,
                by=_person(entry.detail) if entry.student_id is None else approvers.get(entry.approved or ""),
                hash=entry.approved,
                run=entry.run,
            )
        for decision in decisions:
            if decision.verdict != Action.APPROVE and decision.decided_at != row.kept_at:
                yield found(
                    Why.DECIDED,
                    at=decision.decided_at,
                    by=decision.decided_by,
                    action=decision.verdict,
                    hash=decision.hash,
                )
        if row.observed is not None and row.observed_at > 0:
            yield found(Why.SEEN if row.observed else Why.SEEN_ABSENT, at=row.observed_at)

    def _journal(self, place: Place) -> list[JournalEntry]:
        """Give the journal of this cohort about the student or itself, also under the codes that it had before."""
        platform, idnumber = place
        cohort = self._cohorts[place]
        names = {idnumber, cohort.moodle_idnumber}
        if cohort.etape is not None:
            former = [code for code in self._aliases if canonical(code, self._aliases) == cohort.etape]
            names |= {idnumber.replace(cohort.etape, code, 1) for code in former}
        return [entry for entry in self._story.journal if entry.platform == platform and entry.cohort in names]


def _person(detail: str | None) -> str | None:
    """Give the name in a journal's `by NAME`, or `3 members, by NAME`."""
    return detail.rpartition("by ")[2] if detail else None
