"""The settings of a platform: how it is reached, which étapes it is for, its cohorts, its limits."""

import posixpath
import string
from dataclasses import fields, replace
from datetime import date, timedelta
from enum import StrEnum
from typing import Annotated, Self
from urllib.parse import unquote, urlsplit
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, SecretStr, model_validator

from worker.domain.guard import Guard, GuardLimits, MonthDay, Season
from worker.domain.rules import AccountField, Mode
from worker.settings.section import Section

_DEFAULT_PORTS = frozenset({80, 443})


def _template(*allowed: str) -> AfterValidator:
    def check(value: str) -> str:
        try:
            names = {name for _, name, _, _ in string.Formatter().parse(value) if name is not None}
        except ValueError as error:
            raise ValueError(f"not a template: {error}") from None
        if unknown := names - set(allowed):
            raise ValueError(f"unknown placeholder {', '.join(sorted(unknown))}; there are {', '.join(allowed)}")
        if not names:
            raise ValueError(f"needs a placeholder, one of {', '.join(allowed)}")
        return value

    return AfterValidator(check)


def site_key(url: str) -> str:
    """Return a text that is equal for addresses of one site, however they are written.

    Schemes aren't compared: a site that answers to both has one database.
    """
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    try:
        host, port = host.encode("idna").decode(), parts.port
    except ValueError as error:  # a label that is too long, a port that is no number
        raise ValueError(f"not an address: {error}") from None
    path = posixpath.normpath("/" + unquote(parts.path).lstrip("/")).rstrip("/")
    return f"{host}{'' if port in {None, *_DEFAULT_PORTS} else f':{port}'}{path}"


class AccountSettings(Section):
    """How a student's account is found on a platform."""

    field: AccountField = AccountField.USERNAME
    """Field of the Moodle account: username or idnumber."""
    template: Annotated[str, _template("student_id", "login")] = "{student_id}"
    """Value of that field, from {student_id} or {login}, e.g. `e{student_id}`. Usernames become lower case."""


class RouteSettings(Section):
    """Étapes that lead to a platform. An étape does when any of the routes admits it."""

    etapes: tuple[str, ...] = ("*",)
    """Étape codes (globs) that take this route."""
    components: tuple[str, ...] = ("*",)
    """Component codes (globs) that take this route; an unknown component matches only `*`."""
    exclude_etapes: tuple[str, ...] = ()
    """Étape codes (globs) that don't take it."""
    exclude_components: tuple[str, ...] = ()
    """Component codes (globs) that don't take it."""


class CohortSettings(Section):
    """A cohort that an étape leads to. Several templates create several cohorts."""

    idnumber: Annotated[str, _template("etape", "version", "component", "year")] = "{etape}"
    """Idnumber, from {etape}, {version}, {component}, {year}. An étape that lacks a value has no such cohort."""
    name: Annotated[str, _template("idnumber", "etape", "etape_label", "component", "component_label")] = (
        "{component_label}: {etape_label}"
    )
    """Name, from {idnumber}, {etape}, {etape_label}, {component}, {component_label}; until known, the idnumber."""

    @model_validator(mode="after")
    def _name_follows_from_idnumber(self) -> Self:
        if "{etape" in self.name and "{etape}" not in self.idnumber:
            raise ValueError("name uses the étape, but idnumber groups several: name it by its component")
        if "{component" in self.name and not any(p in self.idnumber for p in ("{etape}", "{component}")):
            raise ValueError("name uses the component, but idnumber groups several of them")
        return self


class LimitSettings(Section):
    """How much load each worker process may put on a platform."""

    connections: int = Field(2, ge=2, le=16)
    """Calls in flight at once. Two saturate a Moodle of two cores; more gain nothing there."""
    calls_per_second: float = Field(10.0, gt=0)
    """Maximum calls per second, over all connections."""
    fields: int = Field(900, ge=20, le=100_000)
    """Form fields per call. PHP drops those above `max_input_vars` (1000 by default); keep well below it."""
    timeout_seconds: float = Field(60.0, gt=0, le=600)
    """Seconds to wait for a response. Keep it below the limits of PHP and of the proxies in front of it."""
    batch_seconds: float = Field(5.0, gt=0)
    """Seconds that a batch aims to take; its size follows the time that calls take."""


Percent = Annotated[float, Field(ge=0, le=100)]


def _day_of_the_year(text: str) -> str:
    new_year = date(2024, 1, 1)  # of a leap year
    if text not in {f"{new_year + timedelta(days):%m-%d}" for days in range(366)}:
        raise ValueError("no such day of the year; write it as month-day, e.g. 07-01")
    return text


MonthDayText = Annotated[str, AfterValidator(_day_of_the_year)]


class SeasonSettings(Section):
    """Days of the year with limits of their own, such as the rentrée. Other limits are the usual ones."""

    first: MonthDayText
    """First day, month-day, e.g. `07-01`."""
    last: MonthDayText
    """Last day, included; before the first one, the season lasts over New Year."""
    cohort_percent: Percent | None = None
    """As `guard.cohort_percent`."""
    platform_percent: Percent | None = None
    """As `guard.platform_percent`."""
    floor: int | None = Field(None, ge=0)
    """As `guard.floor`."""
    month_cohort_percent: Percent | None = None
    """As `guard.month_cohort_percent`."""
    month_platform_percent: Percent | None = None
    """As `guard.month_platform_percent`."""
    month_floor: int | None = Field(None, ge=0)
    """As `guard.month_floor`."""
    new_cohorts_percent: Percent | None = None
    """As `guard.new_cohorts_percent`."""
    new_cohorts_floor: int | None = Field(None, ge=0)
    """As `guard.new_cohorts_floor`."""
    renames_percent: Percent | None = None
    """As `guard.renames_percent`."""
    renames_floor: int | None = Field(None, ge=0)
    """As `guard.renames_floor`."""


GUARD_OFF = "THE GUARD IS OFF: nothing limits removals, new cohorts and renames; see guard.enabled"


class GuardSettings(Section):
    """How much passes in a sliding 24 hours, or 30 days, that can't be taken back; a person approves more."""

    enabled: bool = True
    """Whether anything is guarded at all. Every command and a metric show when it isn't."""
    cohort_percent: Percent = 20.0
    """Percent of a cohort's members of a day ago that may leave it."""
    platform_percent: Percent = 5.0
    """Percent of the members, a day ago, of all our cohorts of the platform that may leave them."""
    floor: int = Field(10, ge=0)
    """Removals that always pass, of a cohort and of the platform: small cohorts have large percentages. Those
    that lose more than half of their members have it together."""
    month_cohort_percent: Percent = 40.0
    """As `cohort_percent`, in a sliding 30 days; never less than in 24 hours."""
    month_platform_percent: Percent = 20.0
    """As `platform_percent`, in 30 days."""
    month_floor: int = Field(30, ge=0)
    """As `floor`, in 30 days."""
    new_cohorts_percent: Percent = 10.0
    """New cohorts, in percent of the cohorts of the platform that have been ours for a day."""
    new_cohorts_floor: int = Field(20, ge=0)
    """New cohorts that always pass. So does the first load of a platform of which no cohort is ours yet."""
    renames_percent: Percent = 5.0
    """Cohorts that get another name or idnumber, in percent of those of the platform that have been ours for a day."""
    renames_floor: int = Field(20, ge=0)
    """Renames that always pass. The first name that a new cohort gets for its code isn't counted."""
    seasons: tuple[SeasonSettings, ...] = ()
    """Seasons with limits of their own; the first one that contains the day counts."""

    def guard(self, zone: ZoneInfo) -> Guard:
        """Return the guard with these values."""
        usual = GuardLimits(**self.model_dump(include={field.name for field in fields(GuardLimits)}))
        return Guard(
            enabled=self.enabled,
            limits=usual,
            seasons=tuple(
                Season(
                    first=_month_day(season.first),
                    last=_month_day(season.last),
                    limits=replace(usual, **season.model_dump(exclude={"first", "last"}, exclude_none=True)),
                )
                for season in self.seasons
            ),
            zone=zone,
        )


def _month_day(text: str) -> MonthDay:
    month, day = text.split("-")
    return int(month), int(day)


class Strangers(StrEnum):
    """What happens to members of our cohorts who match no student."""

    KEEP = "keep"
    REMOVE = "remove"


class PlatformSettings(Section):
    """One Moodle."""

    mode: Mode
    """automatic (read and write), observe (everything but writing), manual (never written, nothing desired)."""
    url: str | None = Field(None, pattern=r"^https?://[^\s/]+(/[^\s]*)?$")
    """Address of the site, as its `wwwroot`. Required unless the mode is manual. No two platforms have the same one."""
    token: SecretStr | None = None
    """Token of the service user: COHORTS_PLATFORMS__<NAME>__TOKEN, or a file of that name among the secrets."""
    account: AccountSettings = AccountSettings()
    routes: Annotated[tuple[RouteSettings, ...], Field(min_length=1)] = (RouteSettings(),)
    cohorts: Annotated[tuple[CohortSettings, ...], Field(min_length=1)] = (CohortSettings(),)
    limits: LimitSettings = LimitSettings()
    guard: GuardSettings = GuardSettings()
    strangers: Strangers = Strangers.KEEP
    """Members of our cohorts who match no student: keep (and report), or remove (through the guard)."""

    @model_validator(mode="after")
    def _has_an_address(self) -> Self:
        if self.mode is not Mode.MANUAL and self.url is None:
            raise ValueError(f"mode {self.mode} needs a url; only a manual platform works without")
        return self
