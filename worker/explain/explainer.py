"""A story, the rules and the clock -> an explanation. Pure.

Why a membership must be so comes from the same rules as the ledger's, applied anew to the same facts; how it stands
comes from the ledger.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from difflib import get_close_matches

from worker.domain.instants import Instant
from worker.domain.rules import Mapper, Mode, PlatformPolicy, Policy, canonical
from worker.explain.blockers import BlockedMembership, holds, what_next
from worker.explain.enrolments import Judged, admits, confirmed, judged, routes
from worker.explain.findings import Answer, Explanation, Finding, JudgedEnrolment, Why, found
from worker.explain.history import Past, Place
from worker.ledger.student_view import AccountFact, CohortFact, MembershipFact, Number, StudentView

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


def explain(
    story: StudentView, policy: Policy, *, now: Instant, platform: str | None = None, cohort: str | None = None
) -> Explanation:
    """Answer for all platforms and all cohorts that concern the student, or for those that are asked for.

    `cohort` is an idnumber or a name, and the one that the story was read for.
    """
    platforms = [place for place in policy.platforms if platform in {None, place.name}]
    if not platforms:
        names = tuple(place.name for place in policy.platforms)
        about = (found(Why.PLATFORM_UNKNOWN, platform=platform, platforms=names),)
        return Explanation(student=story.asked, numbers=story.numbers, at=now, about=about)
    judge = _Judge(story, policy, platforms, cohort, now)
    return Explanation(
        student=story.asked,
        numbers=story.numbers,
        at=now,
        about=tuple(judge.about()),
        enrolments=tuple(judge.enrolments()),
        answers=tuple(judge.answers()),
    )


class _Judge:
    def __init__(
        self, story: StudentView, policy: Policy, platforms: Sequence[PlatformPolicy], asked: str | None, now: Instant
    ) -> None:
        self._story, self._policy, self._platforms, self._asked, self._now = story, policy, platforms, asked, now
        self._judged = judged(story, Mapper(policy))
        self._labels = {etape.code: etape.label for etape in story.etapes}
        self._components = {etape.code: etape.component for etape in story.etapes}
        self._cohorts: dict[Place, CohortFact] = {(c.platform, c.idnumber): c for c in story.cohorts}
        self._past = Past(story, self._cohorts, policy.aliases)
        by_id = {c.id: (c.platform, c.idnumber) for c in story.cohorts}
        self._rows: dict[Place, list[MembershipFact]] = defaultdict(list)
        for row in sorted(story.memberships, key=lambda row: row.student_id != story.survivor):
            self._rows[by_id[row.cohort_id]].append(row)
        self._leading: dict[Place, list[Judged]] = defaultdict(list)
        for item in self._judged:
            for wanted in item.cohorts:
                self._leading[wanted.platform, wanted.idnumber].append(item)

    # The student, and what sources say.

    def about(self) -> Iterator[Finding]:
        """Say what is known of the number itself."""
        story = self._story
        if not (self._judged or story.known_numbers or story.memberships):
            taken_at = story.images[0].taken_at if story.images else None
            yield found(Why.STUDENT_UNKNOWN, number=story.asked, taken_at=taken_at)
            return
        for number in story.known_numbers:
            if number.merged_into is not None:
                code = Why.MERGE_SET_ASIDE if number.survivor is None else Why.NUMBER_MERGED
                yield found(code, number=number.student_id, into=number.merged_into, at=number.merged_at)
        yield from self._login()
        if not self._judged:
            yield found(Why.NO_ENROLMENT, number=story.survivor)

    def _login(self) -> Iterator[Finding]:
        numbers = {number.student_id: number for number in self._story.known_numbers if number.login is not None}
        number: Number | None = numbers.get(self._story.survivor)
        if number is not None:
            yield found(Why.LOGIN, login=number.login, at=number.login_at)
        elif any("{login}" in platform.account_template for platform in self._platforms):
            yield found(Why.LOGIN_UNKNOWN, number=self._story.survivor, former=next(iter(sorted(numbers)), None))

    def enrolments(self) -> Iterator[JudgedEnrolment]:
        """Say what each source says, what the rules make of it, and where it leads."""
        for item in self._judged:
            findings = (
                *confirmed(item, self._story),
                item.verdict,
                *routes(item, self._policy, self._platforms),
            )
            yield JudgedEnrolment(fact=item.fact, label=self._labels.get(item.fact.etape or ""), findings=findings)

    # Cohorts.

    def answers(self) -> Iterator[Answer]:
        """Say how things stand, cohort by cohort."""
        places = self._places()
        for platform in self._platforms:
            here = sorted(place for place in places if place[0] == platform.name)
            for place in here:
                yield self._answer(platform, place)
            if here:
                continue
            if platform.mode is Mode.MANUAL:
                yield self._nowhere(platform.name, found(Why.PLATFORM_MANUAL, platform=platform.name))
            elif self._asked is None:
                yield self._nowhere(platform.name, found(Why.NOTHING_LEADS))
            elif len(self._platforms) == 1:
                yield self._nowhere(platform.name, self._unknown())
        if self._asked is not None and not places and len(self._platforms) > 1:
            yield self._nowhere(None, self._unknown())

    def _places(self) -> set[Place]:
        names = {platform.name for platform in self._platforms}
        if self._asked is None:
            expected = {
                place
                for place, items in self._leading.items()
                if any(item.verdict.code not in _OF_OTHER_TIMES for item in items)
            }
            places = self._rows.keys() | expected
        else:
            asked = {self._asked, canonical(self._asked, self._policy.aliases)}
            places = {place for place, cohort in self._cohorts.items() if cohort.id in self._story.named}
            places |= {place for place in self._leading if place[1] in asked}
        return {place for place in places if place[0] in names}

    def _nowhere(self, platform: str | None, state: Finding) -> Answer:
        return Answer(platform=platform, cohort=self._asked, name=None, state=state)

    def _unknown(self) -> Finding:
        names = {platform.name for platform in self._platforms}
        asked = self._asked or ""
        idnumbers = sorted({idnumber for name, idnumber in self._story.idnumbers if name in names})
        near = idnumbers if len(idnumbers) <= NEAR else get_close_matches(asked, idnumbers, n=NEAR)
        elsewhere = sorted({c.platform for c in self._story.cohorts if c.id in self._story.named} - names)
        return found(Why.COHORT_UNKNOWN, cohort=asked, near=tuple(near), elsewhere=tuple(elsewhere))

    def _answer(self, platform: PlatformPolicy, place: Place) -> Answer:
        cohort, rows = self._cohorts.get(place), self._rows[place]
        row = rows[0] if rows else None
        name = (cohort.moodle_name or cohort.wanted_name) if cohort is not None else None
        history = tuple(self._past.history(place, row)) if row is not None else ()
        if platform.mode is Mode.MANUAL:
            state = found(Why.PLATFORM_MANUAL, platform=platform.name)
            return Answer(platform=place[0], cohort=place[1], name=name, state=state, findings=history)
        state = found(_STATES[row.desired, row.observed] if row is not None else Why.NEVER_MEMBER)
        reasons = self._reasons(platform, place, cohort, rows)
        findings = (*reasons, *history, *self._next(platform, cohort, row))
        return Answer(platform=place[0], cohort=place[1], name=name, state=state, findings=findings)

    # Why it must be so.

    def _reasons(
        self, platform: PlatformPolicy, place: Place, cohort: CohortFact | None, rows: Sequence[MembershipFact]
    ) -> Iterator[Finding]:
        leading = self._leading.get(place, [])
        because = [item for item in leading if item.counts]
        row = rows[0] if rows else None
        for item in because:
            yield _about(Why.BECAUSE, item)
        if not because:
            yield from self._why_not(platform, cohort, leading)
        if row is not None:
            yield self._past.since(place, row)
        if bool(because) != (row is not None and row.desired) and (row is None or row.kept is None):
            yield found(Why.RULES_DIFFER)
        for former in rows[1:]:
            if former.desired or former.observed is not False:
                yield found(Why.FORMER_NUMBER, number=former.student_id)

    def _why_not(
        self, platform: PlatformPolicy, cohort: CohortFact | None, leading: Sequence[Judged]
    ) -> Iterator[Finding]:
        spoken = [item for item in leading if item.verdict.code is not Why.OVERRULED]
        for item in spoken:
            yield _about(Why.WOULD_LEAD, item)
        if spoken or cohort is None:
            return
        code, aliases = cohort.etape, self._policy.aliases
        if code is None:
            yield found(Why.NO_LEADING_ENROLMENT, etapes=None, component=cohort.component)
            return
        former = sorted(old for old in aliases if canonical(old, aliases) == code)
        excluded = code in aliases or not admits(platform, code, self._components.get(code))
        if excluded or cohort.template >= len(platform.templates):
            yield found(Why.NO_RULE, etape=code, into=aliases.get(code))
        else:
            yield found(Why.NO_LEADING_ENROLMENT, etapes=(code, *former), component=None)

    # What holds it, and what comes next.

    def _next(
        self, platform: PlatformPolicy, cohort: CohortFact | None, row: MembershipFact | None
    ) -> Iterator[Finding]:
        if cohort is None or row is None or row.desired is row.observed:
            yield found(Why.LOOK_IN_COURSE if row is not None and row.desired else Why.NOTHING_TO_DO)
            return
        nobody = AccountFact(platform=platform.name, key=None)
        gap = BlockedMembership(
            policy=platform,
            cohort=cohort,
            row=row,
            platform=next((p for p in self._story.platforms if p.name == platform.name), None),
            account=next((a for a in self._story.accounts if a.platform == platform.name), nobody),
            decision=next((d for d in self._story.decisions if d.hash == row.approved), None),
        )
        held_by = tuple(holds(gap, self._now))
        yield from held_by
        yield from what_next(gap, held_by, self._now)


def _about(code: Why, item: Judged) -> Finding:
    fact = item.fact
    verdict = {} if code is Why.BECAUSE else {"verdict": item.verdict.code.value, **item.verdict.values}
    return found(
        code,
        **{"enrolment": fact.enrolment_id, "etape": fact.etape, "year": fact.academic_year, "system": fact.system}
        | verdict,
    )
