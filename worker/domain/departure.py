"""Why a known student has no place in a cohort. Pure."""

from collections.abc import Iterable, Mapping
from enum import StrEnum

from worker.domain.rules import EnrolmentLike, Mapper, Verdict, eligibility
from worker.domain.states import Status

_OVER = frozenset({Status.CANCELLED, Status.RESIGNED, Status.DELETED, Status.ABSENT})


class Departure(StrEnum):
    """Why a member whom the sources know is to leave."""

    ENDED = "ended"
    """The enrolment that led there was cancelled, resigned or deleted, or is missing from a snapshot."""
    YEAR_CLOSED = "year_closed"
    """The enrolment that leads there is of a year that isn't active."""
    NOT_COUNTED = "not_counted"
    """The enrolment that leads there doesn't count: it is pending, unpaid or excluded."""
    ELSEWHERE = "elsewhere"
    """No enrolment leads there, and one leads to another cohort of the platform."""
    NOT_ENROLLED = "not_enrolled"
    """No enrolment leads there, nor to any other cohort of the platform."""


def departure(
    enrolments: Iterable[EnrolmentLike],
    components: Mapping[str, str | None],
    mapper: Mapper,
    *,
    platform: str,
    idnumber: str,
    elsewhere: bool,
) -> Departure:
    """Return why a student with these enrolments isn't desired in a cohort; the newest that leads there decides.

    `components` are by étape; `elsewhere` says whether the student is desired in another cohort of the platform.
    """
    newest, found = -1, None
    for enrolment in enrolments:
        component = enrolment.component or components.get(enrolment.etape or "")
        leads_to = {(each.platform, each.idnumber) for each in mapper.cohorts(enrolment, component)}
        year = enrolment.academic_year
        if (platform, idnumber) in leads_to and year is not None and year > newest:
            newest, found = year, _why(enrolment, eligibility(enrolment, component, mapper.policy))
    if found is not None:
        return found
    return Departure.ELSEWHERE if elsewhere else Departure.NOT_ENROLLED


def _why(enrolment: EnrolmentLike, verdict: Verdict) -> Departure:
    if verdict is Verdict.STATUS and enrolment.status in _OVER:
        return Departure.ENDED
    return Departure.YEAR_CLOSED if verdict is Verdict.YEAR_NOT_ACTIVE else Departure.NOT_COUNTED
