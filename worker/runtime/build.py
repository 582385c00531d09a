"""Settings to parts: what the worker, the commands and the benchmarks are put together from."""

import hashlib
import json
import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import fields

from worker import snapshots
from worker.domain.errors import SettingsError
from worker.domain.instants import Instant
from worker.domain.rules import Mapper, Mode
from worker.domain.snapshots import AcceptedSnapshot, Snapshot
from worker.formats import Debezium
from worker.formats.cloudevents import Format, Native
from worker.kafka import RecordProducer
from worker.ledger import Ledger, Recorder, WorkQueue
from worker.ledger.directory_state import DirectoryState
from worker.ledger.runs import Runs
from worker.moodle import CallLimits, MoodleReader, MoodleWriter, Transport
from worker.settings.platforms import PlatformSettings, Strangers
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
from worker.sync.converge.lane import Backoff, Lane
from worker.sync.reconcile import Latest, Progress, ReconciledPlatform, Reconciliation

RUN_LEASE_SECONDS = 900.0
"""A reconciliation that doesn't come round within this time is taken for dead; on the same host, it is seen at once."""
PROCESS_ID = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
"""This process. In a container that is restarted, host and number are those of the dead one."""


def open_ledger(settings: Settings) -> Ledger:
    """Open the ledger that the settings name."""
    return Ledger(settings.ledger.url.get_secret_value())


def recorder(settings: Settings, ledger: Ledger, *, grace_days: float | None = None) -> Recorder:
    """Build what writes changes into the ledger; `grace_days` in place of the setting, to rehearse."""
    return Recorder(
        ledger,
        Mapper(settings.policy()),
        coalesce=settings.converge.coalesce_seconds,
        removal_delay=settings.converge.removal_delay_seconds,
        grace=86_400 * (settings.eligibility.grace_days if grace_days is None else grace_days),
    )


def source(settings: Settings, name: str, expected: int | None = None) -> SnapshotSource:
    """Build a source of the settings; `expected` is how many rows a file must have. Raises SettingsError."""
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
    """Give the establishments that a source knows of: APOGÉE is of one, files and directories may be of several."""
    chosen = settings.sources.get(name or "")
    return frozenset({settings.uai_of(chosen)}) if isinstance(chosen, SqlSourceSettings) else settings.uais


def formats(settings: Settings) -> dict[str, Format]:
    """Say how each topic of messages is read."""
    native, debezium = Native(), Debezium(settings.capture_uai)
    captured = settings.kafka.captured
    return {topic: debezium if topic in captured else native for topic in settings.kafka.topics}


def watch(settings: Settings, ledger: Ledger, name: str) -> Watch:
    """Build what watches a directory; raises SettingsError when it is none, or there is no topic to tell it on."""
    directories = {key: chosen for key, chosen in settings.sources.items() if isinstance(chosen, LdapSourceSettings)}
    if name not in directories:
        known = ", ".join(sorted(directories)) or "none"
        raise SettingsError(f"no directory {name} among the sources of the settings; there are: {known}")
    if not settings.kafka.native:
        raise SettingsError("kafka.topics has no topic of format native, on which changes could be told")
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
    """Say which settings entries are understood under."""
    how = ("base", "filter", "student_id", "login", "composite", "etape_prefix", "etape_separator", "component")
    said = directory.model_dump(mode="json", include={*how, "component_prefix", "uai"})
    terms = [said, sorted(settings.uais), sorted(settings.active_years)]
    return hashlib.sha256(json.dumps(terms, sort_keys=True).encode()).hexdigest()[:16]


def wire(name: str, platform: PlatformSettings) -> Transport:
    """Connect to a platform's web services; needs its url and token."""
    if platform.url is None or platform.token is None:
        raise ValueError(f"{name} has no url and token")
    limits = CallLimits(**platform.limits.model_dump())
    return Transport(name, platform.url, platform.token.get_secret_value(), limits)


def lanes(settings: Settings, ledger: Ledger, stop: threading.Event, stack: ExitStack) -> Iterator[tuple[str, Lane]]:
    """Build the lanes of every platform that is not manual: one more than connections, one where nothing is written.

    While calls run, the lane to spare prepares the next one: no connection waits for the ledger.
    """
    patience = Backoff(first=settings.converge.park_seconds, most=settings.converge.park_most_seconds)
    for policy in settings.policy().platforms:
        platform = settings.platforms[policy.name]
        if policy.mode is Mode.MANUAL:
            continue
        connection = wire(policy.name, platform)
        stack.callback(connection.close)
        writes = policy.mode is Mode.AUTOMATIC
        writer = MoodleWriter(connection, policy.mode, instance=ledger.instance) if writes else None
        reader = writer or MoodleReader(connection)
        for number in range(platform.limits.connections + 1 if writes else 1):
            holder = f"{PROCESS_ID}:{policy.name}-{number}"
            # Renewed before a call, it is longer than one can last: a cohort isn't taken over while one may be running.
            lease = 2 * platform.limits.timeout_seconds + 30
            book = WorkQueue(ledger, policy.name, holder, lease=lease, guard=settings.guard(policy.name))
            yield holder, Lane(policy, book, reader, writer, patience=patience, stop=stop)


def is_dead(holder: str) -> bool:
    """Whether a process of this host, as it is named in a lease, is no more; of other hosts we can't tell."""
    host, number, mark = holder.rsplit(":", 2)
    if host != socket.gethostname():
        return False
    if int(number) == os.getpid():
        return mark != PROCESS_ID.rsplit(":", 1)[1]
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def latest_snapshot(settings: Settings) -> Latest:
    """Build what reads the topic for the newest acceptable snapshot."""

    def latest(now: Instant, accepted: AcceptedSnapshot | None) -> Snapshot:
        return snapshots.latest(
            settings.kafka.properties(),
            settings.kafka.snapshots,
            now=now,
            accepted=accepted,
            uais=settings.uais,
            years=settings.active_years,
            limits=snapshots.AcceptanceLimits(
                max_age_seconds=settings.snapshot.max_age_hours * 3600,
                max_shrink_percent=settings.snapshot.max_shrink_percent,
            ),
        )

    return latest


def reconciliation(
    settings: Settings,
    ledger: Ledger,
    stack: ExitStack,
    *,
    stop: threading.Event,
    with_snapshot: bool = True,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Reconciliation:
    """Build a reconciliation of every platform that can be read."""
    sites = []
    for policy in settings.policy().platforms:
        platform = settings.platforms[policy.name]
        reader = None
        if platform.url is not None and platform.token is not None:
            connection = wire(policy.name, platform)
            stack.callback(connection.close)
            reader = MoodleReader(connection)
        sites.append(
            ReconciledPlatform(
                policy=policy,
                guard=settings.guard(policy.name),
                reader=reader,
                remove_strangers=platform.strangers is Strangers.REMOVE,
            )
        )
    return Reconciliation(
        ledger,
        recorder(settings, ledger),
        sites,
        Runs(ledger, PROCESS_ID, lease=RUN_LEASE_SECONDS, is_dead=is_dead),
        latest=latest_snapshot(settings) if with_snapshot else None,
        wait_seconds=settings.reconcile.wait_minutes * 60,
        pause=stop.wait,
        progress=progress,
    )
