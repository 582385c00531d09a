"""The settings: one TOML file, the environment for what is secret, mounted files for what is secret.

Every field says what it is, its unit and its default; `cohorts config` prints what is in force.
"""

import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    NestedSecretsSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from worker.domain.errors import SettingsError
from worker.domain.guard import Guard
from worker.domain.rules import CohortTemplate, PlatformPolicy, Policy, Route
from worker.settings.kafka import KafkaSettings
from worker.settings.platforms import PlatformSettings
from worker.settings.section import Section, Uai
from worker.settings.sections import (
    ConvergeSettings,
    EligibilitySettings,
    LedgerSettings,
    ReconcileSettings,
    RetentionSettings,
    SnapshotSettings,
    WebSettings,
)
from worker.settings.sources import LdapSourceSettings, SourceSettings, SqlSourceSettings

DEFAULT_FILE = Path("cohorts.toml")
SECRETS_VARIABLE = "CREDENTIALS_DIRECTORY"
"""Directory of mounted secrets; the name is the one that systemd gives to `LoadCredential`."""


def _known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (OSError, ValueError, ZoneInfoNotFoundError):  # the first for a folder of zones, as in "Europe"
        raise ValueError("no such time zone; write it as Europe/Paris, or Indian/Reunion") from None
    return name


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
