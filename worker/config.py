"""The settings: one TOML file, the environment for what is secret, mounted files for what is secret.

Every field says what it is, its unit and its default; `cohorts config` prints what is in force.
"""

import difflib
import json
import os
import string
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import date, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NestedSecretsSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from worker.errors import SettingsError
from worker.model import Payment, Status
from worker.plan import Guard, GuardLimits, MonthDay, Season
from worker.rules import AccountField, CohortTemplate, Mode, PlatformPolicy, Policy, Route

DEFAULT_FILE = Path("cohorts.toml")
SECRETS_VARIABLE = "CREDENTIALS_DIRECTORY"
"""Directory of mounted secrets; the name is the one that systemd gives to `LoadCredential`."""

Seconds = Annotated[float, Field(ge=0)]


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


def _known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (OSError, ValueError, ZoneInfoNotFoundError):  # the first for a folder of zones, as in "Europe"
        raise ValueError("no such time zone; write it as Europe/Paris, or Indian/Reunion") from None
    return name


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class EligibilitySettings(_Section):
    """Which enrolments count."""

    statuses: frozenset[Status] = frozenset({Status.ACTIVE})
    """Statuses that count, among active, pending, cancelled, resigned."""
    payments: frozenset[Payment] = frozenset({Payment.PAID, Payment.UNKNOWN})
    """Payment states that count, among paid, due, unknown. A directory doesn't know payments: it says unknown."""
    exclude_etapes: tuple[str, ...] = ()
    """Étape codes (globs) that never lead to a cohort, on any platform."""
    exclude_components: tuple[str, ...] = ()
    """Component codes (globs) that never lead to a cohort, on any platform."""
    grace_days: float = Field(0.0, ge=0, le=366)
    """Days that the memberships of a year stay after it was taken out of `active_years`."""


class AccountSettings(_Section):
    """How a student's account is found on a platform."""

    field: AccountField = AccountField.USERNAME
    """Field of the Moodle account: username or idnumber."""
    template: Annotated[str, _template("student_id", "login")] = "{student_id}"
    """Value of that field, from {student_id} or {login}, e.g. `e{student_id}`. Usernames are put in lower case."""


class RouteSettings(_Section):
    """Étapes that lead to a platform. An étape takes part when it passes any of the routes."""

    etapes: tuple[str, ...] = ("*",)
    """Étape codes (globs) that take this route."""
    components: tuple[str, ...] = ("*",)
    """Component codes (globs) that take this route; an unknown component passes only `*`."""
    exclude_etapes: tuple[str, ...] = ()
    """Étape codes (globs) that don't."""
    exclude_components: tuple[str, ...] = ()
    """Component codes (globs) that don't."""


class CohortSettings(_Section):
    """A cohort that an étape leads to. Several templates give several cohorts."""

    idnumber: Annotated[str, _template("etape", "version", "component", "year")] = "{etape}"
    """Idnumber, from {etape}, {version}, {component}, {year}. An étape without one of them has no such cohort."""
    name: Annotated[str, _template("idnumber", "etape", "etape_label", "component", "component_label")] = (
        "{component_label}: {etape_label}"
    )
    """Name, from {idnumber}, {etape}, {etape_label}, {component}, {component_label}; until then the idnumber."""

    @model_validator(mode="after")
    def _name_follows_from_idnumber(self) -> Self:
        if "{etape" in self.name and "{etape}" not in self.idnumber:
            raise ValueError("name speaks of the étape, but idnumber gathers several: name it by its component")
        if "{component" in self.name and not any(p in self.idnumber for p in ("{etape}", "{component}")):
            raise ValueError("name speaks of the component, but idnumber gathers several of them")
        return self


class LimitSettings(_Section):
    """How hard a platform may be used, by each worker process."""

    connections: int = Field(2, ge=2, le=16)
    """Calls in flight at once. Two saturate a Moodle of two cores; more give nothing there."""
    calls_per_second: float = Field(10.0, gt=0)
    """Calls a second, at most, over all connections."""
    fields: int = Field(900, ge=20, le=100_000)
    """Form fields a call. PHP drops those above `max_input_vars` (1000 unless raised); keep well under it."""
    timeout_seconds: float = Field(60.0, gt=0, le=600)
    """Seconds to wait for an answer. Keep under the limits of PHP and of the proxies in front of it."""
    batch_seconds: float = Field(5.0, gt=0)
    """Seconds that a batch aims to take; its size follows the time that calls take."""


Percent = Annotated[float, Field(ge=0, le=100)]


def _day_of_the_year(text: str) -> str:
    new_year = date(2024, 1, 1)  # of a leap year
    if text not in {f"{new_year + timedelta(days):%m-%d}" for days in range(366)}:
        raise ValueError("no such day of the year; write it as month-day, e.g. 07-01")
    return text


MonthDayText = Annotated[str, AfterValidator(_day_of_the_year)]


class SeasonSettings(_Section):
    """Days of the year with limits of their own, such as the rentrée. What isn't said is as at other times."""

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


class GuardSettings(_Section):
    """How many removals pass in a sliding 24 hours; more are held until a person approves them."""

    enabled: bool = True
    """Whether removals are guarded at all. Every command and a metric say so when they aren't."""
    cohort_percent: Percent = 20.0
    """Percent of a cohort's members that may leave it."""
    platform_percent: Percent = 5.0
    """Percent of the members of all our cohorts of the platform that may leave them."""
    floor: int = Field(10, ge=0)
    """Removals that always pass, of a cohort and of the platform: small cohorts have large percentages."""
    seasons: tuple[SeasonSettings, ...] = ()
    """Seasons with limits of their own; the first that a day belongs to counts."""

    def guard(self, zone: ZoneInfo) -> Guard:
        """Give the guard its values."""
        usual = GuardLimits(
            cohort_percent=self.cohort_percent, platform_percent=self.platform_percent, floor=self.floor
        )
        return Guard(
            enabled=self.enabled,
            limits=usual,
            seasons=tuple(
                Season(
                    first=_month_day(season.first),
                    last=_month_day(season.last),
                    limits=replace(usual, **season.model_dump(include={*asdict(usual)}, exclude_none=True)),
                )
                for season in self.seasons
            ),
            zone=zone,
        )


def _month_day(text: str) -> MonthDay:
    month, day = text.split("-")
    return int(month), int(day)


class Strangers(StrEnum):
    """What becomes of members of our cohorts whom we can't tie to a student."""

    KEEP = "keep"
    REMOVE = "remove"


class PlatformSettings(_Section):
    """One Moodle."""

    mode: Mode
    """automatic (read and write), observe (everything but writing), manual (never written, nothing desired)."""
    url: str | None = Field(None, pattern=r"^https?://[^\s/]+(/[^\s]*)?$")
    """Address of the site, as its `wwwroot`. Required unless the mode is manual."""
    token: SecretStr | None = None
    """Token of the service user: COHORTS_PLATFORMS__<NAME>__TOKEN, or a file of that name among the secrets."""
    account: AccountSettings = AccountSettings()
    routes: Annotated[tuple[RouteSettings, ...], Field(min_length=1)] = (RouteSettings(),)
    cohorts: Annotated[tuple[CohortSettings, ...], Field(min_length=1)] = (CohortSettings(),)
    limits: LimitSettings = LimitSettings()
    guard: GuardSettings = GuardSettings()
    strangers: Strangers = Strangers.KEEP
    """Members of our cohorts whom we can't tie to a student: keep (and report), or remove (through the guard)."""

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.mode is not Mode.MANUAL and (self.url is None or self.token is None):
            missing = " and ".join(name for name in ("url", "token") if getattr(self, name) is None)
            raise ValueError(f"mode {self.mode} needs {missing}; only a manual platform does without")
        return self


class KafkaSettings(_Section):
    """Where messages come from."""

    bootstrap: str = "localhost:9092"
    """Brokers, host:port, comma-separated."""
    topics: Annotated[tuple[str, ...], Field(min_length=1)] = ("enrolments",)
    """Topics of enrolment messages."""
    snapshots: str = "enrolments.snapshots"
    """Topic of the snapshots: complete images of all enrolments."""
    dead_letters: str = "enrolments.dead-letters"
    """Topic for messages that can never be read."""
    group: str = "etape-cohorts"
    """Consumer group, shared by all the workers of one university."""
    batch: int = Field(2000, ge=1, le=100_000)
    """Messages recorded in one transaction, at most."""
    invalid_limit: int = Field(100, ge=1)
    """Invalid messages in a row after which consumption stops: the contract broke, and a person must look."""
    client: dict[str, SecretStr] = Field(default_factory=dict)
    """More librdkafka properties, e.g. `security.protocol`, `sasl.username`, `ssl.ca.location`."""
    password: SecretStr | None = None
    """`sasl.password`: COHORTS_KAFKA__PASSWORD, or a file of that name among the secrets."""

    def properties(self) -> dict[str, str]:
        """Give librdkafka's properties, secrets included: never to be printed."""
        more = {name: value.get_secret_value() for name, value in self.client.items()}
        if self.password is not None:
            more["sasl.password"] = self.password.get_secret_value()
        return {"bootstrap.servers": self.bootstrap, **more}


class SnapshotSettings(_Section):
    """Which snapshots are accepted."""

    max_age_hours: float = Field(20.0, gt=0, le=24 * 31)
    """Hours since the source was read, at most. Above 24 the promise of a day can't be kept."""
    max_shrink_percent: float = Field(10.0, ge=0, le=100)
    """Percent of a year's rows that may be gone since the last accepted snapshot; 100 switches the limit off."""


class LedgerSettings(_Section):
    """Where the state is kept."""

    url: SecretStr = SecretStr("sqlite:///ledger.db")
    """`sqlite:///FILE` for one worker, `postgresql+psycopg://…` for several. With a password: COHORTS_LEDGER__URL."""


class ConvergeSettings(_Section):
    """When gaps are closed."""

    coalesce_seconds: Seconds = 2.0
    """Seconds that an addition waits for others, so that a burst makes few calls."""
    removal_delay_seconds: Seconds = 120.0
    """Seconds that a removal waits, so that a delete followed by a create cancels out."""
    park_seconds: Annotated[float, Field(gt=0)] = 300.0
    """Seconds to the first retry of a membership that can't be applied (no account); doubles each time."""
    park_most_seconds: Annotated[float, Field(gt=0)] = 86_400.0
    """Seconds between retries, at most."""
    poll_seconds: Annotated[float, Field(gt=0)] = 1.0
    """Seconds between looks at the ledger when there is nothing to do."""


class ReconcileSettings(_Section):
    """The night."""

    wait_minutes: float = Field(60.0, ge=0)
    """Minutes that a reconciliation waits for the gaps to be closed, before it reports what is left."""


class WebSettings(_Section):
    """Where metrics and health are served."""

    host: str = "127.0.0.1"
    """Address to listen on; loopback unless said otherwise."""
    port: int = Field(9464, ge=0, le=65535)
    """Port of /metrics, /livez and /readyz; 0 takes a free one."""


class _Toml(InitSettingsSource):
    """The file's content, as a source of its own, after the environment."""


class Settings(BaseSettings):
    """All settings of one university."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        env_prefix="COHORTS_",
        env_nested_delimiter="__",
    )
    _file: ClassVar[Mapping[str, Any]] = {}

    uais: Annotated[frozenset[Annotated[str, Field(pattern=r"^\d{7}[A-Z]$")]], Field(min_length=1)]
    """Codes UAI of the university, e.g. ["0141408E"]. Enrolments at others don't count."""
    active_years: Annotated[frozenset[Annotated[int, Field(ge=2000, le=2100)]], Field(min_length=1)]
    """Academic years that count, by the year they start in: [2026], and two of them during the rentrée."""
    timezone: Annotated[str, AfterValidator(_known_zone)] = "Europe/Paris"
    """Where the university is: for the nightly hour, the seasons of the guard, and what people read."""
    aliases: dict[str, str] = Field(default_factory=dict)
    """Old étape code = new étape code: the cohort of the old one lives on under the new one."""
    eligibility: EligibilitySettings = EligibilitySettings()
    platforms: Annotated[dict[str, PlatformSettings], Field(min_length=1)]
    """The Moodle platforms, by a short name of your choice."""
    kafka: KafkaSettings = KafkaSettings()
    snapshot: SnapshotSettings = SnapshotSettings()
    ledger: LedgerSettings = LedgerSettings()
    converge: ConvergeSettings = ConvergeSettings()
    reconcile: ReconcileSettings = ReconcileSettings()
    web: WebSettings = WebSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - given by pydantic-settings
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - no .env file: one place for settings
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Mounted secrets come before the environment, and that before the file."""
        secrets = NestedSecretsSettingsSource(
            file_secret_settings,
            secrets_dir=os.environ.get(SECRETS_VARIABLE),
            secrets_prefix="COHORTS_",
            secrets_nested_delimiter="__",
        )
        return secrets, env_settings, init_settings

    @property
    def zone(self) -> ZoneInfo:
        """Give the time zone."""
        return ZoneInfo(self.timezone)

    def guard(self, platform: str) -> Guard:
        """Give a platform's guard its values."""
        return self.platforms[platform].guard.guard(self.zone)

    def policy(self) -> Policy:
        """Give the rules their values."""
        return Policy(
            uais=self.uais,
            active_years=self.active_years,
            statuses=self.eligibility.statuses,
            payments=self.eligibility.payments,
            exclude_etapes=self.eligibility.exclude_etapes,
            exclude_components=self.eligibility.exclude_components,
            aliases=self.aliases,
            platforms=tuple(
                PlatformPolicy(
                    name=name,
                    mode=platform.mode,
                    routes=tuple(Route(**route.model_dump()) for route in platform.routes),
                    templates=tuple(CohortTemplate(**cohort.model_dump()) for cohort in platform.cohorts),
                    account_field=platform.account.field,
                    account_template=platform.account.template,
                )
                for name, platform in sorted(self.platforms.items())
            ),
        )


def load(path: Path = DEFAULT_FILE) -> Settings:
    """Read the settings. Raises SettingsError with one line for each thing that is wrong."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(
            f"{path}: no such file; write one (deploy/cohorts.toml is an example) or name it with --config"
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{path}: {error}") from None
    try:
        return Settings(**content)
    except ValidationError as error:
        raise SettingsError("\n".join(_explain(error, path))) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting in force: its dotted path, its value as JSON (secrets masked) and what it is."""

    path: str
    value: str
    description: str


def effective(settings: Settings) -> Iterator[Setting]:
    """Every setting in force, in the order of their declaration."""
    yield from _effective("", settings)


def _effective(prefix: str, section: BaseModel) -> Iterator[Setting]:
    for name, info in type(section).model_fields.items():
        path, value = f"{prefix}{name}", getattr(section, name)
        children = value if isinstance(value, dict) else dict(enumerate(value)) if isinstance(value, tuple) else {}
        if isinstance(value, BaseModel):
            yield from _effective(f"{path}.", value)
        elif children and all(isinstance(child, BaseModel) for child in children.values()):
            for key, child in children.items():
                yield from _effective(f"{path}.{key}.", child)
        else:
            shown = section.model_dump(mode="json", include={name})[name]
            text = json.dumps(sorted(shown) if isinstance(value, frozenset) else shown, ensure_ascii=False)
            yield Setting(path=path, value=text, description=info.description or "")


def _explain(error: ValidationError, path: Path) -> Iterator[str]:
    """Say where and what would be right; a secret's value is never shown."""
    for item in error.errors(include_url=False, include_context=False, include_input=False):
        where = ".".join(map(str, item["loc"])) or "(top level)"
        if item["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(item["loc"][-1]), _keys(), n=1)
            yield f"{path}: {where}: no such setting" + (f"; did you mean {near[0]}?" if near else "")
        else:
            yield f"{path}: {where}: {item['msg'].removeprefix('Value error, ')}"


def _keys() -> set[str]:
    sections: list[type[BaseModel]] = [Settings, *_Section.__subclasses__()]
    return {key for section in sections for key in section.model_fields}
