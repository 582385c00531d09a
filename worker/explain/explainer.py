"""A student's view, the rules and the clock -> an explanation. Pure.

Why a membership must be so comes from the same rules as the ledger's, applied anew to the same facts; how it stands
comes from the ledger.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from difflib import get_close_matches

from worker.domain.instants import Instant
from worker.domain.rules import Mapper, Mode, PlatformPolicy, Policy, canonical, is_called_by_login
from worker.domain.states import Action, MergeState
from worker.explain.blockers import BlockedMembership, about_account, blockers, what_next
from worker.explain.enrolments import EnrolmentVerdict, admits, confirmation, judge, routes
from worker.explain.findings import Answer, CohortKey, Explanation, Finding, JudgedEnrolment, Why, found
from worker.explain.history import History
from worker.ledger.student_view import AccountFact, CohortFact, JournalEntry, MembershipFact, StudentView

NEAR = 10
"""Cohorts that are named when the one asked for is nowhere."""
_OF_OTHER_TIMES = {Why.YEAR_NOT_ACTIVE, Why.FOREIGN_UAI, Why.OVERRULED}
"""Enrolments of which nobody expects a cohort now, unless they ask for it."""
_STATES = {
    (True, True): Why.MEMBER,
    (True, False): Why.TO_ADD,
    (True, None): Why.ADDING_UNCERTAIN,
    (False, True): Why.TO_REMOVE,
    (False, False): Why.NOT_MEMBER,
    (False, None): Why.REMOVING_UNCERTAIN,
}
"""By desired and observed."""


_MERGES = {
    MergeState.APPLIED: Why.NUMBER_MERGED,
    MergeState.SET_ASIDE: Why.MERGE_SET_ASIDE,
    MergeState.CLAIMED: Why.MERGE_CLAIMED,
    MergeState.TOLD_AGAIN: Why.MERGE_TOLD_AGAIN,
    MergeState.CONTRADICTED: Why.MERGE_CONTRADICTED,
    MergeState.REJECTED: Why.MERGE_REJECTED,
}


def explain(
    view: StudentView, policy: Policy, *, now: Instant, platform: str | None = None, cohort: str | None = None
) -> Explanation:
    """Answer for all platforms and all cohorts that concern the student, or for those that are asked for.

    `cohort` is an idnumber or a name, and the one that the view was read for.
    """
    platforms = [known for known in policy.platforms if platform in {None, known.name}]
    if not platforms:
        names = tuple(known.name for known in policy.platforms)
        about = (found(Why.PLATFORM_UNKNOWN, platform=platform, platforms=names),)
        return Explanation(student=view.asked, numbers=view.numbers, at=now, about=about)
    explainer = _Explainer(view, policy, platforms, cohort, now)
    return Explanation(
        student=view.asked,
        numbers=view.numbers,
        at=now,
        about=tuple(explainer.about()),
        enrolments=tuple(explainer.enrolments()),
        answers=tuple(explainer.answers()),
    )


class _Explainer:
    def __init__(
        self, view: StudentView, policy: Policy, platforms: Sequence[PlatformPolicy], asked: str | None, now: Instant
    ) -> None:
        self._view, self._policy, self._platforms, self._asked, self._now = view, policy, platforms, asked, now
        self._names = {platform.name for platform in platforms}
        self._verdicts = judge(view, Mapper(policy))
        self._labels = {etape.code: etape.label for etape in view.etapes}
        self._components = {etape.code: etape.component for etape in view.etapes}
        keys = {cohort.id: CohortKey(cohort.platform, cohort.idnumber) for cohort in view.cohorts}
        self._cohorts = {keys[cohort.id]: cohort for cohort in view.cohorts}
        self._history = History(view, self._cohorts, policy.aliases)
        self._memberships: dict[CohortKey, list[MembershipFact]] = defaultdict(list)
        """Those under the surviving number first."""
        for row in sorted(view.memberships, key=lambda row: row.student_id != view.survivor):
            self._memberships[keys[row.cohort_id]].append(row)
        self._leading: dict[CohortKey, list[EnrolmentVerdict]] = defaultdict(list)
        for verdict in self._verdicts:
            for key in verdict.cohorts:
                self._leading[key].append(verdict)

    # The student, and what sources say.

    def about(self) -> Iterator[Finding]:
        """Yield what is known of the number itself."""
        view = self._view
        if not (self._verdicts or view.known_numbers or view.memberships or view.merges):
            taken_at = view.snapshots[0].taken_at if view.snapshots else None
            yield found(Why.STUDENT_UNKNOWN, number=view.asked, taken_at=taken_at)
            return
        for merge in view.merges:
            code, at = _MERGES[merge.state], merge.decided_at if merge.state is MergeState.REJECTED else merge.merged_at
            yield found(code, number=merge.student_id, into=merge.merged_into, at=at)
        yield from self._login()
        if not self._verdicts:
            yield found(Why.NO_ENROLMENT, number=view.survivor)

    def _login(self) -> Iterator[Finding]:
        with_login = {number.student_id: number for number in self._view.known_numbers if number.login is not None}
        number = with_login.get(self._view.survivor)
        if number is not None:
            yield found(Why.LOGIN, login=number.login, at=number.login_at)
        elif any(map(is_called_by_login, self._platforms)):
            former = min(with_login, default=None)
            yield found(Why.LOGIN_UNKNOWN, number=self._view.survivor, former=former)

    def enrolments(self) -> Iterator[JudgedEnrolment]:
        """Yield what each source says, what the rules make of it, and where it leads."""
        for verdict in self._verdicts:
            findings = (
                *confirmation(verdict, self._view),
                verdict.finding,
                *routes(verdict, self._policy, self._platforms),
            )
            fact = verdict.fact
            yield JudgedEnrolment(fact=fact, label=self._labels.get(fact.etape or ""), findings=findings)

    # Cohorts.

    def answers(self) -> Iterator[Answer]:
        """Yield how things stand, cohort by cohort."""
        keys = self._cohorts_to_explain()
        for platform in self._platforms:
            on_platform = sorted(key for key in keys if key.platform == platform.name)
            for key in on_platform:
                yield self._answer(platform, key)
            if not on_platform:
                yield from self._no_cohort(platform)
        if self._asked is not None and not keys and len(self._platforms) > 1:
            yield Answer(platform=None, cohort=self._asked, name=None, state=self._unknown_cohort(self._asked))

    def _cohorts_to_explain(self) -> set[CohortKey]:
        keys = self._expected_cohorts() if self._asked is None else self._cohorts_named(self._asked)
        return {key for key in keys if key.platform in self._names}

    def _expected_cohorts(self) -> set[CohortKey]:
        """Return those that the student is or was in, and those that an enrolment of now leads to."""
        current = [verdict for verdict in self._verdicts if verdict.finding.code not in _OF_OTHER_TIMES]
        return {*self._memberships, *(key for verdict in current for key in verdict.cohorts)}

    def _cohorts_named(self, asked: str) -> set[CohortKey]:
        idnumbers = {asked, canonical(asked, self._policy.aliases)}
        named = {key for key, cohort in self._cohorts.items() if cohort.id in self._view.named}
        return named | {key for key in self._leading if key.idnumber in idnumbers}

    def _no_cohort(self, platform: PlatformPolicy) -> Iterator[Answer]:
        if platform.mode is Mode.MANUAL:
            state = found(Why.PLATFORM_MANUAL, platform=platform.name)
        elif self._asked is None:
            state = found(Why.NOTHING_LEADS)
        elif len(self._platforms) == 1:
            state = self._unknown_cohort(self._asked)
        else:
            return
        yield Answer(platform=platform.name, cohort=self._asked, name=None, state=state)

    def _unknown_cohort(self, asked: str) -> Finding:
        idnumbers = sorted({idnumber for platform, idnumber in self._view.idnumbers if platform in self._names})
        near = idnumbers if len(idnumbers) <= NEAR else get_close_matches(asked, idnumbers, n=NEAR)
        platforms = {cohort.platform for cohort in self._view.cohorts if cohort.id in self._view.named}
        elsewhere = tuple(sorted(platforms - self._names))
        return found(Why.COHORT_UNKNOWN, cohort=asked, near=tuple(near), elsewhere=elsewhere)

    def _answer(self, platform: PlatformPolicy, key: CohortKey) -> Answer:
        cohort, rows = self._cohorts.get(key), self._memberships.get(key, [])
        row = rows[0] if rows else None
        name = (cohort.moodle_name or cohort.wanted_name) if cohort is not None else None
        history = () if row is None else tuple(self._history.events(key, row))
        if platform.mode is Mode.MANUAL:
            state, findings = found(Why.PLATFORM_MANUAL, platform=platform.name), history
        else:
            state = self._state(platform, row)
            findings = (*self._reasons(platform, key, rows), *history, *self._next(platform, cohort, row))
        return Answer(
            platform=key.platform,
            cohort=key.idnumber,
            name=name,
            state=state,
            findings=findings,
            alarm=None if cohort is None else _alarm(cohort),
        )

    def _state(self, platform: PlatformPolicy, row: MembershipFact | None) -> Finding:
        if row is None:
            return found(Why.NEVER_MEMBER)
        code = _STATES[row.desired, row.observed]
        if code is Why.MEMBER and not self._account(platform).confirms(row.user_id):
            return found(Why.MEMBER_UNCONFIRMED, user_id=row.user_id, field=platform.account_field.value)
        return found(code)

    # Why it must be so.

    def _reasons(self, platform: PlatformPolicy, key: CohortKey, rows: Sequence[MembershipFact]) -> Iterator[Finding]:
        leading = self._leading.get(key, [])
        counting = [verdict for verdict in leading if verdict.counts]
        for verdict in counting:
            yield found(Why.BECAUSE, **verdict.identity)
        if not counting:
            yield from self._why_not(platform, self._cohorts.get(key), leading)
        if rows:
            yield self._history.since(key, rows[0])
        if _rules_differ(rows[0] if rows else None, desired=bool(counting)):
            yield found(Why.RULES_DIFFER)
        for former in rows[1:]:
            if former.desired or former.observed is not False:
                yield found(Why.FORMER_NUMBER, number=former.student_id)

    def _why_not(
        self, platform: PlatformPolicy, cohort: CohortFact | None, leading: Sequence[EnrolmentVerdict]
    ) -> Iterator[Finding]:
        valid_otherwise = [verdict for verdict in leading if verdict.finding.code is not Why.OVERRULED]
        for verdict in valid_otherwise:
            finding = verdict.finding
            yield found(Why.WOULD_LEAD, **{**verdict.identity, "verdict": finding.code.value, **finding.values})
        if not valid_otherwise and cohort is not None:
            yield self._nothing_leads(platform, cohort)

    def _nothing_leads(self, platform: PlatformPolicy, cohort: CohortFact) -> Finding:
        """Return why no enrolment of the student's leads to a cohort: theirs are others, or no rule does any more."""
        etape, aliases = cohort.etape, self._policy.aliases
        if etape is None:
            return found(Why.NO_LEADING_ENROLMENT, etapes=None, component=cohort.component)
        admitted = etape not in aliases and admits(platform, etape, self._components.get(etape))
        if not admitted or cohort.template >= len(platform.templates):
            return found(Why.NO_RULE, etape=etape, into=aliases.get(etape))
        former = sorted(code for code in aliases if canonical(code, aliases) == etape)
        return found(Why.NO_LEADING_ENROLMENT, etapes=(etape, *former), component=None)

    # What holds it, and what comes next.

    def _next(
        self, platform: PlatformPolicy, cohort: CohortFact | None, row: MembershipFact | None
    ) -> Iterator[Finding]:
        if cohort is None or row is None:
            yield found(Why.NOTHING_TO_DO)
        elif row.desired is row.observed:
            account = self._account(platform)
            if row.desired and account.reason is not None:
                yield about_account(Why(account.reason), platform, account)
            yield found(Why.LOOK_IN_COURSE if row.desired else Why.NOTHING_TO_DO)
        else:
            gap = self._blocked(platform, cohort, row)
            blocked_by = blockers(gap, self._now)
            yield from blocked_by
            yield from what_next(gap, blocked_by, self._now)

    def _blocked(self, platform: PlatformPolicy, cohort: CohortFact, row: MembershipFact) -> BlockedMembership:
        view = self._view
        platforms = {fact.name: fact for fact in view.platforms}
        decisions = {decision.hash: decision for decision in view.decisions}
        return BlockedMembership(
            policy=platform,
            cohort=cohort,
            row=row,
            platform=platforms.get(platform.name),
            account=self._account(platform),
            decision=decisions.get(row.approved or ""),
            rejection=next((entry for entry in view.journal if _is_rejection(entry, cohort)), None),
        )

    def _account(self, platform: PlatformPolicy) -> AccountFact:
        accounts = {fact.platform: fact for fact in self._view.accounts}
        return accounts.get(platform.name, AccountFact(platform=platform.name, key=None))


def _alarm(cohort: CohortFact) -> Finding | None:
    """Return that a cohort was deleted on Moodle, until a person has acknowledged it."""
    if cohort.deleted_at is None:
        return None
    return found(
        Why.COHORT_DELETED,
        platform=cohort.platform,
        cohort=cohort.idnumber,
        at=cohort.deleted_at,
        lost=cohort.lost,
        id=cohort.moodle_id,
    )


def _is_rejection(entry: JournalEntry, cohort: CohortFact) -> bool:
    """Whether a line of the journal is a person's decision, in force, that a cohort isn't created."""
    about = entry.student_id is None and (entry.platform, entry.cohort) == (cohort.platform, cohort.idnumber)
    return about and entry.action == Action.REJECT and entry.origin == cohort.rejected


def _rules_differ(row: MembershipFact | None, *, desired: bool) -> bool:
    """Whether the rules in force desire otherwise than the ledger; what a person had kept isn't theirs to decide."""
    if row is None:
        return desired
    return row.kept is None and row.desired is not desired
