"""What the rules make of each enrolment, and where it leads. Pure."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from worker.domain.rules import Mapper, Mode, PlatformPolicy, Policy, Verdict, WantedCohort, canonical, eligibility
from worker.domain.states import Status
from worker.explain.findings import Finding, Why, found
from worker.ledger.student_view import Fact, StudentView

_OVER = {Status.DELETED, Status.ABSENT}


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One enrolment as one source tells it: whether it counts, and the cohorts that it leads to if it does."""

    fact: Fact
    component: str | None
    """The enrolment's own or, failing that, its étape's."""
    verdict: Finding
    cohorts: tuple[WantedCohort, ...]

    @property
    def counts(self) -> bool:
        """Whether it makes memberships."""
        return self.verdict.code is Why.COUNTS


def judged(story: StudentView, mapper: Mapper) -> list[Judged]:
    """Judge every enrolment of the student, by the rules that the ledger derives with."""
    latest: dict[tuple[str, str], Fact] = {}
    for fact in sorted(story.facts, key=lambda fact: (fact.changed_at, fact.system)):
        latest[fact.uai, fact.enrolment_id] = fact
    components = {etape.code: etape.component for etape in story.etapes}
    results = []
    for fact in story.facts:
        if fact.student_id in story.numbers:
            component = fact.component or components.get(fact.etape or "")
            rules_by = latest[fact.uai, fact.enrolment_id]
            verdict = _verdict(fact, component, mapper.policy) if rules_by is fact else _overruled(rules_by, story)
            cohorts = mapper.cohorts(fact, component)
            results.append(Judged(fact=fact, component=component, verdict=verdict, cohorts=cohorts))
    return results


def _overruled(by: Fact, story: StudentView) -> Finding:
    if by.student_id in story.numbers:
        return found(Why.OVERRULED, system=by.system, at=by.changed_at)
    return found(Why.ANOTHERS, system=by.system, at=by.changed_at, number=by.student_id)


def _verdict(  # noqa: PLR0911 - one for each
    fact: Fact, component: str | None, policy: Policy
) -> Finding:
    status = found(Why.STATUS, status=fact.status, statuses=tuple(sorted(policy.statuses)))
    match eligibility(fact, component, policy):
        case Verdict.ELIGIBLE:
            return found(Why.COUNTS)
        case Verdict.FOREIGN_UAI:
            return found(Why.FOREIGN_UAI, uai=fact.uai, uais=tuple(sorted(policy.uais)))
        case Verdict.NO_ETAPE:  # a deletion needn't say of which étape
            return status if fact.status in _OVER else found(Why.NO_ETAPE)
        case Verdict.STATUS:
            return status
        case Verdict.YEAR_NOT_ACTIVE:
            return found(Why.YEAR_NOT_ACTIVE, year=fact.academic_year, years=tuple(sorted(policy.active_years)))
        case Verdict.PAYMENT:
            return found(Why.PAYMENT, payment=fact.payment, payments=tuple(sorted(policy.payments)))
        case Verdict.EXCLUDED:
            return found(Why.EXCLUDED, etape=fact.etape, component=component)


def confirmed(item: Judged, story: StudentView) -> Iterator[Finding]:
    """Say which accepted snapshot holds the enrolment still, if one was taken after the fact."""
    fact = item.fact
    if fact.status in _OVER or item.verdict.code in {Why.OVERRULED, Why.ANOTHERS}:
        return
    for image in story.images:
        if image.taken_at < fact.changed_at or fact.origin.startswith(f"snapshot {image.id}"):
            return
        if image.speaks_of(
            uai=fact.uai,
            academic_year=fact.academic_year,
            etape=fact.etape,
            student_id=fact.student_id,
            enrolment_id=fact.enrolment_id,
        ):
            yield found(Why.CONFIRMED, snapshot=image.id, at=image.taken_at)
            return


def routes(item: Judged, policy: Policy, platforms: Iterable[PlatformPolicy]) -> Iterator[Finding]:
    """Say where an enrolment that counts leads, platform by platform, or why not there."""
    if not item.counts or item.fact.etape is None:
        return
    code = canonical(item.fact.etape, policy.aliases)
    if code != item.fact.etape:
        yield found(Why.ALIAS, etape=item.fact.etape, into=code)
    for platform in platforms:
        there = tuple(cohort.idnumber for cohort in item.cohorts if cohort.platform == platform.name)
        if platform.mode is Mode.MANUAL:
            yield found(Why.PLATFORM_MANUAL, platform=platform.name)
        elif there:
            yield found(Why.LEADS, platform=platform.name, cohorts=there)
        elif admits(platform, code, item.component):
            templates = tuple(template.idnumber for template in platform.templates)
            yield found(Why.NO_IDNUMBER, platform=platform.name, templates=templates)
        elif item.component is None and _asks_for_component(platform, code):
            yield found(Why.COMPONENT_UNKNOWN, platform=platform.name, etape=code)
        else:
            yield found(Why.NO_ROUTE, platform=platform.name, etape=code, component=item.component)


def admits(platform: PlatformPolicy, etape: str, component: str | None) -> bool:
    """Say whether a route of the platform takes the étape."""
    return any(route.admits(etape, component) for route in platform.routes)


def _asks_for_component(platform: PlatformPolicy, etape: str) -> bool:
    return any(replace(route, components=("*",)).admits(etape, None) for route in platform.routes)
