"""The settings: one TOML file, the environment for what is secret, mounted files for what is secret.

Every field says what it is, its unit and its default; `cohorts config` prints what is in force.
"""

import difflib
import json
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NestedSecretsSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from worker.domain.errors import SettingsError
from worker.domain.guard import Guard
from worker.domain.rules import CohortTemplate, PlatformPolicy, Policy, Route
from worker.domain.states import Payment, Status
from worker.settings.platforms import PlatformSettings
from worker.settings.section import Section, Uai
from worker.settings.sources import LdapSourceSettings, SourceSettings, SqlSourceSettings

DEFAULT_FILE = Path("cohorts.toml")
SECRETS_VARIABLE = "CREDENTIALS_DIRECTORY"
"""Directory of mounted secrets; the name is the one that systemd gives to `LoadCredential`."""

Seconds = Annotated[float, Field(ge=0)]


def _known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (OSError, ValueError, ZoneInfoNotFoundError):  # the first for a folder of zones, as in "Europe"
        raise ValueError("no such time zone; write it as Europe/Paris, or Indian/Reunion") from None
    return name


class EligibilitySettings(Section):
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


class TopicFormat(StrEnum):
    """What the messages of a topic are."""

    NATIVE = "native"
    DEBEZIUM = "debezium"


class KafkaSettings(Section):
    """Where messages come from."""

    bootstrap: str = "localhost:9092"
    """Brokers, host:port, comma-separated."""
    topics: Annotated[tuple[str, ...], Field(min_length=1)] = ("enrolments",)
    """Topics of enrolment messages."""
    formats: dict[str, TopicFormat] = Field(default_factory=dict)
    """Topic = format: native (what `cohorts schema` says, the default) or debezium (change capture from APOGÉE)."""
    capture_uai: Uai | None = None
    """Code UAI of what comes in format `debezium`; may be left out when `uais` has one."""
    snapshots: str = "enrolments.snapshots"
    """Topic of the snapshots: complete images of all enrolments."""
    dead_letters: str = "enrolments.dead-letters"
    """Topic for messages that can never be read."""
    group: str = "etape-cohorts"
    """Consumer group, shared by all the workers of one university."""
    batch: int = Field(5000, ge=1, le=100_000)
    """Messages recorded in one transaction, at most."""
    invalid_limit: int = Field(100, ge=1)
    """Invalid messages in a row after which consumption stops: the contract broke, and a person must look."""
    client: dict[str, SecretStr] = Field(default_factory=dict)
    """More librdkafka properties, e.g. `security.protocol`, `ssl.ca.location`, `group.protocol`."""
    password: SecretStr | None = None
    """`sasl.password`: COHORTS_KAFKA__PASSWORD, or a file of that name among the secrets."""

    @model_validator(mode="after")
    def _formats_are_of_topics(self) -> Self:
        if unknown := self.formats.keys() - {*self.topics}:
            raise ValueError(f"formats names {', '.join(sorted(unknown))}, which topics doesn't")
        return self

    @property
    def captured(self) -> frozenset[str]:
        """Give the topics of change capture."""
        return frozenset(topic for topic, kind in self.formats.items() if kind is TopicFormat.DEBEZIUM)

    @property
    def native(self) -> tuple[str, ...]:
        """Give the topics of messages as `schemas` has them."""
        return tuple(topic for topic in self.topics if topic not in self.captured)

    def properties(self) -> dict[str, str]:
        """Give librdkafka's properties, secrets included: never to be printed."""
        more = {name: value.get_secret_value() for name, value in self.client.items()}
        if self.password is not None:
            more["sasl.password"] = self.password.get_secret_value()
        return {"bootstrap.servers": self.bootstrap, **more}


class SnapshotSettings(Section):
    """Which snapshots are accepted."""

    max_age_hours: float = Field(20.0, gt=0, le=24 * 31)
    """Hours since the source was read, at most. Above 24 the promise of a day can't be kept."""
    max_shrink_percent: float = Field(10.0, ge=0, le=100)
    """Percent of a year's rows that may be gone since the last accepted snapshot; 100 switches the limit off."""


class LedgerSettings(Section):
    """Where the state is kept."""

    url: SecretStr = SecretStr("sqlite:///ledger.db")
    """`sqlite:///FILE` for one worker, `postgresql+psycopg://…` for several. With a password: COHORTS_LEDGER__URL."""

    @property
    def serves_several(self) -> bool:
        """Whether several workers may share it."""
        return not self.url.get_secret_value().startswith("sqlite")


class ConvergeSettings(Section):
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


class ReconcileSettings(Section):
    """The night."""

    wait_minutes: float = Field(60.0, ge=0)
    """Minutes that a reconciliation waits for the gaps to be closed, before it reports what is left."""


class RetentionSettings(Section):
    """How long people are remembered: `cohorts purge` applies it. Topics must forget before the ledger does."""

    journal_days: float = Field(365.0, ge=7)
    """Days that the journal, the decisions of people and the reports of reconciliations are kept."""
    student_days: float = Field(365.0, ge=7)
    """Days that a student is remembered who has no enrolment any more and is in no cohort."""
    dead_letter_days: float = Field(365.0, ge=1)
    """Days that dead letters are to be kept: `cohorts purge` counts the older ones, Kafka's retention removes them."""


class WebSettings(Section):
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

    uais: Annotated[frozenset[Uai], Field(min_length=1)]
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
    sources: dict[str, SourceSettings] = Field(default_factory=dict)
    """Where snapshots come from, by a name of your choice: `cohorts snapshot publish --from NAME`."""
    ledger: LedgerSettings = LedgerSettings()
    converge: ConvergeSettings = ConvergeSettings()
    reconcile: ReconcileSettings = ReconcileSettings()
    retention: RetentionSettings = RetentionSettings()
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

    @model_validator(mode="after")
    def _captures_of_one_university(self) -> Self:
        uai = self.kafka.capture_uai
        if uai is None and self.kafka.captured and len(self.uais) > 1:
            raise ValueError("kafka.capture_uai says whose APOGÉE it is that is captured, since uais has several")
        if uai is not None and uai not in self.uais:
            raise ValueError(f"kafka.capture_uai is {uai}, which uais doesn't name")
        return self

    @property
    def capture_uai(self) -> str:
        """Give the establishment of what change capture tells."""
        return self.kafka.capture_uai or min(self.uais)

    @property
    def zone(self) -> ZoneInfo:
        """Give the time zone."""
        return ZoneInfo(self.timezone)

    def uai_of(self, source: SqlSourceSettings | LdapSourceSettings) -> str:
        """Give the establishment of rows that don't name one; raises SettingsError when there are several."""
        if source.uai is not None:
            return source.uai
        if len(self.uais) > 1:
            raise SettingsError("the source needs its uai, since uais has several")
        return next(iter(self.uais))

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
            near = difflib.get_close_matches(str(item["loc"][-1]), _keys(item["loc"]), n=1)
            yield f"{path}: {where}: no such setting" + (f"; did you mean {near[0]}?" if near else "")
        else:
            yield f"{path}: {where}: {item['msg'].removeprefix('Value error, ')}"


def _keys(where: tuple[int | str, ...]) -> set[str]:
    sections: Sequence[type[BaseModel]] = [Settings] if len(where) == 1 else Section.__subclasses__()
    return {key for section in sections for key in section.model_fields}
