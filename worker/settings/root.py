"""The settings: one TOML file, and for secrets the environment or mounted files.

Every field states what it is, its unit and its default; `cohorts config` prints the settings in force.
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
from worker.settings.platforms import PlatformSettings, site_key
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
"""Directory of mounted secrets; the name is that of systemd for `LoadCredential`."""
PREFIX = "COHORTS_"
OF_COMMANDS = {"COHORTS_CONFIG"}
"""Variables with our prefix that are options of commands, not settings."""


def _known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (OSError, ValueError, ZoneInfoNotFoundError):  # OSError for a folder of zones, such as "Europe"
        raise ValueError("no such time zone; write it as Europe/Paris, or Indian/Reunion") from None
    return name


class Settings(BaseSettings):
    """All settings of one university."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        env_prefix=PREFIX,
        env_nested_delimiter="__",
    )
    _file: ClassVar[Mapping[str, Any]] = {}

    uais: Annotated[frozenset[Uai], Field(min_length=1)]
    """Codes UAI of the university, e.g. ["0141408E"]. Enrolments at others don't count."""
    active_years: Annotated[frozenset[Annotated[int, Field(ge=2000, le=2100)]], Field(min_length=1)]
    """Academic years that count, by the year in which they start: [2026], or two of them during the rentrée."""
    timezone: Annotated[str, AfterValidator(_known_zone)] = "Europe/Paris"
    """Time zone of the university: for the nightly hour, the seasons of the guard, and the times shown to people."""
    aliases: dict[str, str] = Field(default_factory=dict)
    """Old étape code = new étape code: the cohort of the old one continues under the new one."""
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
        """Give mounted secrets precedence over the environment, and the environment over the file."""
        secrets = NestedSecretsSettingsSource(
            file_secret_settings,
            secrets_dir=os.environ.get(SECRETS_VARIABLE),
            secrets_prefix=PREFIX,
            secrets_nested_delimiter="__",
        )
        return secrets, env_settings, init_settings

    @model_validator(mode="after")
    def _capture_of_one_university(self) -> Self:
        uai = self.kafka.capture_uai
        if uai is None and self.kafka.captured and len(self.uais) > 1:
            raise ValueError(
                "kafka.capture_uai must name the establishment of the captured APOGÉE, since uais has several"
            )
        if uai is not None and uai not in self.uais:
            raise ValueError(f"kafka.capture_uai is {uai}, which is not in uais")
        return self

    @model_validator(mode="after")
    def _one_platform_per_site(self) -> Self:
        """Refuse two platforms that are one Moodle: each would take the other's members for strangers."""
        names: dict[str, str] = {}
        for name, platform in sorted(self.platforms.items()):
            if platform.url is None:
                continue
            other = names.setdefault(site_key(platform.url), name)
            if other != name:
                raise ValueError(
                    f"platforms {other} and {name} have one url: a cohort is owned by one platform; "
                    "make them one, whose routes and cohorts are those of both"
                )
        return self

    @property
    def capture_uai(self) -> str:
        """Return the establishment of change capture."""
        return self.kafka.capture_uai or min(self.uais)

    @property
    def zone(self) -> ZoneInfo:
        """Return the time zone."""
        return ZoneInfo(self.timezone)

    def uai_of(self, source: SqlSourceSettings | LdapSourceSettings) -> str:
        """Return the establishment of rows that don't name one; raises SettingsError when there are several."""
        if source.uai is not None:
            return source.uai
        if len(self.uais) > 1:
            raise SettingsError("the source needs its uai, since uais has several")
        return next(iter(self.uais))

    def platform(self, name: str) -> PlatformSettings:
        """Return the settings of a platform. Raises SettingsError when there is none of that name."""
        if name not in self.platforms:
            raise SettingsError(f"no platform is called {name}; there are: {', '.join(sorted(self.platforms))}")
        return self.platforms[name]

    def guard(self, platform: str) -> Guard:
        """Return the guard of a platform."""
        return self.platforms[platform].guard.guard(self.zone)

    def policy(self) -> Policy:
        """Return the values of the rules."""
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
    if misspelt := list(_unknown_variables()):
        raise SettingsError("\n".join(misspelt))
    try:
        return Settings(**content)
    except ValidationError as error:
        raise SettingsError("\n".join(_explain(error, path, content))) from None


def _unknown_variables() -> Iterator[str]:
    """Yield each variable that begins like ours and names no section: pydantic-settings would pass it over."""
    for variable, where in _variables().items():
        section, *rest = variable.removeprefix(PREFIX).split("__")
        if section.lower() not in Settings.model_fields and variable not in OF_COMMANDS:
            near = difflib.get_close_matches(section.lower(), Settings.model_fields, n=1)
            meant = "".join(f"; did you mean {'__'.join([f'{PREFIX}{name.upper()}', *rest])}?" for name in near)
            yield f"{variable} {where}: no such setting{meant}"


def _variables() -> dict[str, str]:
    """Return the names of settings in the environment and among the mounted secrets, and which of the two."""
    names = dict.fromkeys(os.environ, "in the environment")
    folder = os.environ.get(SECRETS_VARIABLE)
    if folder and Path(folder).is_dir():
        names |= {file.name: "among the secrets" for file in Path(folder).iterdir() if file.is_file()}
    return {name: where for name, where in names.items() if name.startswith(PREFIX)}


def _explain(error: ValidationError, path: Path, content: Mapping[str, Any]) -> Iterator[str]:
    """Yield where each error is and what would be right; the value of a secret is never shown."""
    for item in error.errors(include_url=False, include_context=False, include_input=False):
        where = ".".join(map(str, item["loc"])) or "(top level)"
        given = _given_by(item["loc"], content) or path
        if item["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(item["loc"][-1]), _keys(item["loc"]), n=1)
            yield f"{given}: {where}: no such setting" + (f"; did you mean {near[0]}?" if near else "")
        else:
            yield f"{given}: {where}: {item['msg'].removeprefix('Value error, ')}"


def _given_by(location: tuple[int | str, ...], content: Mapping[str, Any]) -> str | None:
    """Return the variable that gave a setting, or its table; None if the file did."""
    for keys in (location, location[:-1]):
        if keys and not _holds(content, keys):
            start = PREFIX + "__".join(map(str, keys)).upper()
            for variable, where in _variables().items():
                if f"{variable.upper()}__".startswith(f"{start}__"):
                    return f"{variable} {where}"
    return None


def _holds(content: object, keys: Sequence[int | str]) -> bool:
    for key in keys:
        if not isinstance(content, Mapping) or key not in content:
            return False
        content = content[key]
    return True


def _keys(where: tuple[int | str, ...]) -> set[str]:
    sections: Sequence[type[BaseModel]] = [Settings] if len(where) == 1 else Section.__subclasses__()
    return {key for section in sections for key in section.model_fields}
