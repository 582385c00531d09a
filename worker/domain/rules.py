"""Which enrolments count, and which cohorts they lead to. Pure: no I/O, no clock.

`eligibility` alone decides, for messages, snapshots and change capture alike.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Protocol

from worker.domain.states import Payment, Status

NAME_LIMIT = 254
"""Longest cohort name that Moodle stores; a longer one makes the whole call fail with `dmlwriteexception`."""
IDNUMBER_LIMIT = 100
"""Longest cohort idnumber that Moodle stores; a longer one fails likewise."""


class Mode(StrEnum):
    """What the worker may do on a platform."""

    AUTOMATIC = "automatic"
    """Read and write: the worker keeps its cohorts in step."""
    OBSERVE = "observe"
    """Everything but writing: the worker reports what it would do."""
    MANUAL = "manual"
    """People keep the cohorts by hand: nothing is desired here and nothing is written."""


class AccountField(StrEnum):
    """The field of a Moodle account that identifies the student."""

    USERNAME = "username"
    IDNUMBER = "idnumber"


class Verdict(StrEnum):
    """Why an enrolment counts or doesn't."""

    ELIGIBLE = "eligible"
    FOREIGN_UAI = "foreign_uai"
    NO_ETAPE = "no_etape"
    YEAR_NOT_ACTIVE = "year_not_active"
    STATUS = "status"
    PAYMENT = "payment"
    EXCLUDED = "excluded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Étapes that lead to a platform, by shell-style globs on étape code and component code.

    An étape whose component isn't known yet matches only the glob `*`.
    """

    etapes: tuple[str, ...] = ("*",)
    components: tuple[str, ...] = ("*",)
    exclude_etapes: tuple[str, ...] = ()
    exclude_components: tuple[str, ...] = ()

    def admits(self, etape: str, component: str | None) -> bool:
        """Return whether this étape, of this component, takes the route."""
        return (
            _matches(etape, self.etapes)
            and _matches(component or "", self.components)
            and not _matches(etape, self.exclude_etapes)
            and not (component is not None and _matches(component, self.exclude_components))
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CohortTemplate:
    """Idnumber and name of an étape's cohort on a platform: see `worker.settings.platforms` for the placeholders."""

    idnumber: str = "{etape}"
    name: str = "{component_label}: {etape_label}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformPolicy:
    """What is desired on one platform, and how its accounts are named."""

    name: str
    mode: Mode
    routes: tuple[Route, ...] = (Route(),)
    templates: tuple[CohortTemplate, ...] = (CohortTemplate(),)
    account_field: AccountField = AccountField.USERNAME
    account_template: str = "{student_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Everything that decides what is desired. Equal policies desire the same from the same facts."""

    uais: frozenset[str]
    active_years: frozenset[int]
    statuses: frozenset[Status] = frozenset({Status.ACTIVE})
    payments: frozenset[Payment] = frozenset({Payment.PAID, Payment.UNKNOWN})
    exclude_etapes: tuple[str, ...] = ()
    exclude_components: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    platforms: tuple[PlatformPolicy, ...] = ()

    def fingerprint(self) -> str:
        """Return a text that is equal for equal policies, so that a change of settings is noticed at the next start."""
        parts = (
            sorted(self.uais), sorted(self.active_years), sorted(self.statuses), sorted(self.payments),
            self.exclude_etapes, self.exclude_components, sorted(self.aliases.items()), self.platforms,
        )  # fmt: skip
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


class EnrolmentLike(Protocol):
    """What the rules read of an enrolment: a change, or a row of the ledger."""

    @property
    def uai(self) -> str: ...  # noqa: D102 - the fields are those of EnrolmentChange
    @property
    def academic_year(self) -> int | None: ...  # noqa: D102 - idem
    @property
    def status(self) -> str: ...  # noqa: D102 - idem
    @property
    def payment(self) -> str: ...  # noqa: D102 - idem
    @property
    def etape(self) -> str | None: ...  # noqa: D102 - idem
    @property
    def etape_version(self) -> str | None: ...  # noqa: D102 - idem
    @property
    def component(self) -> str | None: ...  # noqa: D102 - idem


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedCohort:
    """A cohort that an enrolment leads to, with what its name is made of."""

    platform: str
    idnumber: str
    template: int
    """Index of the template among those of the platform."""
    etape: str | None
    component: str | None


def canonical(etape: str, aliases: Mapping[str, str]) -> str:
    """Follow the aliases from an old code to the one in use; a circle stops where it closes."""
    seen = {etape}
    while (successor := aliases.get(etape)) is not None and successor not in seen:
        seen.add(successor)
        etape = successor
    return etape


def eligibility(  # noqa: PLR0911 - a verdict each
    enrolment: EnrolmentLike, component: str | None, policy: Policy
) -> Verdict:
    """Return whether an enrolment counts, or why not. `component` is the enrolment's own or else its étape's."""
    if enrolment.uai not in policy.uais:
        return Verdict.FOREIGN_UAI
    if enrolment.etape is None:
        return Verdict.NO_ETAPE
    if enrolment.status not in policy.statuses:
        return Verdict.STATUS
    if enrolment.academic_year not in policy.active_years:
        return Verdict.YEAR_NOT_ACTIVE
    if enrolment.payment not in policy.payments:
        return Verdict.PAYMENT
    if _matches(enrolment.etape, policy.exclude_etapes):
        return Verdict.EXCLUDED
    if component is not None and _matches(component, policy.exclude_components):
        return Verdict.EXCLUDED
    return Verdict.ELIGIBLE


MOST_KNOWN = 100_000
"""Results that a mapper remembers."""


class Mapper:
    """Étapes to cohorts, for one policy. Results are cached: a university has some thousand of them."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._platforms = {platform.name: platform for platform in policy.platforms}
        self._known: dict[tuple[str, str | None, str | None, int], tuple[WantedCohort, ...]] = {}

    def desired(self, enrolments: Iterable[EnrolmentLike], components: Mapping[str, str | None]) -> set[WantedCohort]:
        """Return the cohorts of a student: the union over their valid enrolments. `components` is by étape code."""
        wanted: set[WantedCohort] = set()
        for enrolment in enrolments:
            component = enrolment.component or components.get(enrolment.etape or "")
            if eligibility(enrolment, component, self.policy) is Verdict.ELIGIBLE:
                wanted.update(self.cohorts(enrolment, component))
        return wanted

    def desired_in_any_year(
        self, enrolments: Iterable[EnrolmentLike], components: Mapping[str, str | None]
    ) -> set[WantedCohort]:
        """Return the cohorts that would be desired if every year were active."""
        rows = list(enrolments)
        years = frozenset(row.academic_year for row in rows if row.academic_year is not None)
        return Mapper(replace(self.policy, active_years=years)).desired(rows, components)

    def cohorts(self, enrolment: EnrolmentLike, component: str | None) -> tuple[WantedCohort, ...]:
        """Return the cohorts that a valid enrolment leads to, on every platform that isn't manual."""
        if enrolment.etape is None or enrolment.academic_year is None:
            return ()
        key = (enrolment.etape, enrolment.etape_version, component, enrolment.academic_year)
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= MOST_KNOWN:  # whoever invents étapes must not fill the memory
                self._known.clear()
            known = self._known[key] = self._cohorts(*key)
        return known

    def successor(self, etape: str, idnumber: str) -> tuple[str, str]:
        """Return a cohort's étape code and idnumber under the aliases; unchanged without an alias."""
        code = canonical(etape, self.policy.aliases)
        return code, idnumber.replace(etape, code, 1)

    def name(
        self,
        cohort: WantedCohort,
        *,
        etape_label: str | None,
        component: str | None,
        component_label: str | None,
    ) -> str | None:
        """Return the name of a cohort on Moodle; None while a label that it needs is unknown."""
        templates = self._platforms[cohort.platform].templates
        if cohort.template >= len(templates):
            return None  # a cohort of earlier settings: it keeps its name
        values = {
            "idnumber": cohort.idnumber, "etape": cohort.etape, "etape_label": etape_label,
            "component": component, "component_label": component_label,
        }  # fmt: skip
        name = _render(templates[cohort.template].name, values)
        return name[:NAME_LIMIT] if name else None

    def _cohorts(self, etape: str, version: str | None, component: str | None, year: int) -> tuple[WantedCohort, ...]:
        code = canonical(etape, self.policy.aliases)
        values = {"etape": code, "version": version, "component": component, "year": str(year)}
        return tuple(
            WantedCohort(
                platform=platform.name,
                idnumber=idnumber,
                template=index,
                etape=code if "{etape}" in template.idnumber else None,
                component=component if "{component}" in template.idnumber else None,
            )
            for platform in self.policy.platforms
            if platform.mode is not Mode.MANUAL and any(route.admits(code, component) for route in platform.routes)
            for index, template in enumerate(platform.templates)
            if (idnumber := _render(template.idnumber, values)) and len(idnumber) <= IDNUMBER_LIMIT
        )


CLEAN_USERNAME = re.compile(r"[-.@_a-z0-9]+")
"""What Moodle accepts as a username (PARAM_USERNAME); any other makes the look-up of all the others fail."""


def can_be_asked(field: AccountField, key: str) -> bool:
    """Return whether Moodle accepts this as the name of an account."""
    return field is not AccountField.USERNAME or bool(CLEAN_USERNAME.fullmatch(key))


def is_called_by_login(platform: PlatformPolicy) -> bool:
    """Return whether students' accounts are called by their login on this platform."""
    return "{login}" in platform.account_template


def account_key(platform: PlatformPolicy, student_id: str, login: str | None) -> str | None:
    """Return what a student's account is called on a platform, or None when that takes a login that is unknown.

    Moodle keeps usernames in lower case and refuses to look up any other.
    """
    key = _render(platform.account_template, {"student_id": student_id, "login": login})
    return key.lower() if key and platform.account_field is AccountField.USERNAME else key


def _matches(value: str, globs: Iterable[str]) -> bool:
    return any(fnmatchcase(value, glob) for glob in globs)


def _render(template: str, values: Mapping[str, str | None]) -> str | None:
    """Fill a template; None when one of its values is unknown."""
    try:
        return template.format_map({name: value for name, value in values.items() if value is not None})
    except KeyError:
        return None
