"""What the rules make of each enrolment, and where it leads. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from worker.domain.rules import Mapper, Mode, PlatformPolicy, Policy, Verdict, canonical, eligibility
from worker.domain.states import Status
from worker.explain.findings import CohortKey, Finding, Value, Why, found
from worker.ledger.student_view import Fact, StudentView

_ENDED = {Status.DELETED, Status.ABSENT}


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolmentVerdict:
    """One enrolment as one source tells it: whether it counts, and the cohorts that it leads to if it does."""

    fact: Fact
    component: str | None
    """The enrolment's own or, failing that, its étape's."""
    finding: Finding
    cohorts: tuple[CohortKey, ...]

    @property
    def counts(self) -> bool:
        """Whether it makes memberships."""
        return self.finding.code is Why.COUNTS

    @property
    def identity(self) -> Mapping[str, Value]:
        """The values by which a sentence names the enrolment."""
        fact = self.fact
        return {
            "enrolment": fact.enrolment_id,
            "etape": fact.etape,
            "year": fact.academic_year,
            "system": fact.system,
        }


def judge(view: StudentView, mapper: Mapper) -> list[EnrolmentVerdict]:
    """Judge every enrolment of the student, by the rules that the ledger derives memberships with."""
    latest: dict[tuple[str, str], Fact] = {}
    for fact in sorted(view.facts, key=lambda fact: (fact.changed_at, fact.system)):
        latest[fact.uai, fact.enrolment_id] = fact
    components = {etape.code: etape.component for etape in view.etapes}
    verdicts = []
    for fact in view.facts:
        if fact.student_id not in view.numbers:
            continue
        component = fact.component or components.get(fact.etape or "")
        deciding = latest[fact.uai, fact.enrolment_id]
        finding = _eligibility(fact, component, mapper.policy) if deciding is fact else _overruled(deciding, view)
        cohorts = tuple(CohortKey(wanted.platform, wanted.idnumber) for wanted in mapper.cohorts(fact, component))
        verdicts.append(EnrolmentVerdict(fact=fact, component=component, finding=finding, cohorts=cohorts))
    return verdicts


def _overruled(deciding: Fact, view: StudentView) -> Finding:
    if deciding.student_id in view.numbers:
        return found(Why.OVERRULED, system=deciding.system, at=deciding.changed_at)
    return found(Why.ANOTHERS, system=deciding.system, at=deciding.changed_at, number=deciding.student_id)


def _eligibility(  # noqa: PLR0911 - one for each
    fact: Fact, component: str | None, policy: Policy
) -> Finding:
    status = found(Why.STATUS, status=fact.status, statuses=tuple(sorted(policy.statuses)))
    match eligibility(fact, component, policy):
        case Verdict.ELIGIBLE:
            return found(Why.COUNTS)
        case Verdict.FOREIGN_UAI:
            return found(Why.FOREIGN_UAI, uai=fact.uai, uais=tuple(sorted(policy.uais)))
        case Verdict.NO_ETAPE:  # a deletion needn't say of which étape
            return status if fact.status in _ENDED else found(Why.NO_ETAPE)
        case Verdict.STATUS:
            return status
        case Verdict.YEAR_NOT_ACTIVE:
            return found(Why.YEAR_NOT_ACTIVE, year=fact.academic_year, years=tuple(sorted(policy.active_years)))
        case Verdict.PAYMENT:
            return found(Why.PAYMENT, payment=fact.payment, payments=tuple(sorted(policy.payments)))
        case Verdict.EXCLUDED:
            return found(Why.EXCLUDED, etape=fact.etape, component=component)


def confirmation(verdict: EnrolmentVerdict, view: StudentView) -> Iterator[Finding]:
    """Yield which accepted snapshot still holds the enrolment, if one was taken after the fact."""
    fact = verdict.fact
    if fact.status in _ENDED or verdict.finding.code in {Why.OVERRULED, Why.ANOTHERS}:
        return
    for snapshot in view.snapshots:
        if snapshot.taken_at < fact.changed_at or fact.origin.startswith(f"snapshot {snapshot.id}"):
            return
        if snapshot.speaks_of(
            uai=fact.uai,
            academic_year=fact.academic_year,
            etape=fact.etape,
            student_id=fact.student_id,
            enrolment_id=fact.enrolment_id,
        ):
            yield found(Why.CONFIRMED, snapshot=snapshot.id, at=snapshot.taken_at)
            return


def routes(verdict: EnrolmentVerdict, policy: Policy, platforms: Iterable[PlatformPolicy]) -> Iterator[Finding]:
    """Yield where an enrolment that counts leads, platform by platform, or why not there."""
    if not verdict.counts or verdict.fact.etape is None:
        return
    etape = canonical(verdict.fact.etape, policy.aliases)
    if etape != verdict.fact.etape:
        yield found(Why.ALIAS, etape=verdict.fact.etape, into=etape)
    for platform in platforms:
        yield _route(verdict, etape, platform)


def _route(verdict: EnrolmentVerdict, etape: str, platform: PlatformPolicy) -> Finding:
    idnumbers = tuple(key.idnumber for key in verdict.cohorts if key.platform == platform.name)
    if platform.mode is Mode.MANUAL:
        return found(Why.PLATFORM_MANUAL, platform=platform.name)
    if idnumbers:
        return found(Why.LEADS, platform=platform.name, cohorts=idnumbers)
    if admits(platform, etape, verdict.component):
        templates = tuple(template.idnumber for template in platform.templates)
        return found(Why.NO_IDNUMBER, platform=platform.name, templates=templates)
    if verdict.component is None and _asks_for_component(platform, etape):
        return found(Why.COMPONENT_UNKNOWN, platform=platform.name, etape=etape)
    return found(Why.NO_ROUTE, platform=platform.name, etape=etape, component=verdict.component)


def admits(platform: PlatformPolicy, etape: str, component: str | None) -> bool:
    """Whether a route of the platform takes the étape."""
    return any(route.admits(etape, component) for route in platform.routes)


def _asks_for_component(platform: PlatformPolicy, etape: str) -> bool:
    return any(replace(route, components=("*",)).admits(etape, None) for route in platform.routes)
