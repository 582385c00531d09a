"""The sources of the settings: read for a snapshot, or watched."""

import hashlib
import json
from dataclasses import fields

from worker.domain.errors import SettingsError
from worker.kafka import RecordProducer
from worker.ledger import Ledger
from worker.ledger.directory_state import DirectoryState
from worker.settings.root import Settings
from worker.settings.sources import FileSourceSettings, LdapSourceSettings, SqlSourceSettings
from worker.sources import SnapshotSource
from worker.sources.directory import DirectoryOptions
from worker.sources.files import FileSource
from worker.sources.ldap import LdapSource
from worker.sources.sql import SqlSource
from worker.sources.supann import Supann, SupannForm
from worker.sources.tables import CsvForm
from worker.sources.watch import Watch


def source(settings: Settings, name: str, expected: int | None = None) -> SnapshotSource:
    """Build a source of the settings; `expected` is how many rows a file must have.

    Raises SettingsError when there is no such source.
    """
    chosen = settings.sources.get(name)
    match chosen:
        case FileSourceSettings():
            form = CsvForm(**chosen.model_dump(exclude={"kind", "path"}))
            return FileSource(chosen.path, form, expected=expected)
        case SqlSourceSettings():
            return SqlSource(name, chosen.url.get_secret_value(), uai=settings.uai_of(chosen), query=chosen.query)
        case LdapSourceSettings():
            return LdapSource(directory_options(chosen), _supann(settings, chosen))
        case _:
            known = ", ".join(sorted(settings.sources)) or "none"
            raise SettingsError(f"no source {name} in the settings; there are: {known}")


def directory_options(chosen: LdapSourceSettings) -> DirectoryOptions:
    """Return the plain values that a connection to a directory needs."""
    names = {field.name for field in fields(DirectoryOptions)} - {"password"}
    password = None if chosen.password is None else chosen.password.get_secret_value()
    return DirectoryOptions(**chosen.model_dump(include=names), password=password)


def supann_form(chosen: LdapSourceSettings, *, uai: str, uais: frozenset[str]) -> SupannForm:
    """Return how a directory writes enrolments, as plain values."""
    names = {field.name for field in fields(SupannForm)} - {"uai", "uais"}
    return SupannForm(**chosen.model_dump(include=names), uai=uai, uais=uais)


def _supann(settings: Settings, chosen: LdapSourceSettings) -> Supann:
    return Supann(supann_form(chosen, uai=settings.uai_of(chosen), uais=settings.uais))


def uais_of(settings: Settings, name: str | None) -> frozenset[str]:
    """Return the establishments that a source covers: APOGÉE is of one, files and directories may be of several."""
    chosen = settings.sources.get(name or "")
    return frozenset({settings.uai_of(chosen)}) if isinstance(chosen, SqlSourceSettings) else settings.uais


def watch(settings: Settings, ledger: Ledger, name: str) -> Watch:
    """Build what watches a directory.

    Raises SettingsError when the source is not a directory, or when there is no topic to publish changes to.
    """
    directories = {key: chosen for key, chosen in settings.sources.items() if isinstance(chosen, LdapSourceSettings)}
    if name not in directories:
        known = ", ".join(sorted(directories)) or "none"
        raise SettingsError(f"no directory {name} among the sources of the settings; there are: {known}")
    if not settings.kafka.native:
        raise SettingsError('kafka.topics has no topic with format "native" to publish changes to')
    return Watch(
        name,
        directory_options(directories[name]),
        _supann(settings, directories[name]),
        DirectoryState(ledger, name),
        RecordProducer(settings.kafka.properties()),
        topic=settings.kafka.native[0],
        years=settings.active_years,
        terms=_terms(settings, directories[name]),
        max_missing_percent=settings.snapshot.max_shrink_percent,
        every=directories[name].watch_seconds,
    )


def _terms(settings: Settings, directory: LdapSourceSettings) -> str:
    """Return a hash of the settings by which entries are read: when they change, every entry is read anew."""
    names = ("base", "filter", "student_id", "login", "composite", "etape_prefix", "etape_separator", "component")
    form = directory.model_dump(mode="json", include={*names, "component_prefix", "uai"})
    terms = [form, sorted(settings.uais), sorted(settings.active_years)]
    return hashlib.sha256(json.dumps(terms, sort_keys=True).encode()).hexdigest()[:16]
