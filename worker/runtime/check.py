"""Is everything in place? One result per line, with the remedy."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

from worker import kafka
from worker.domain.cohorts import blocked_sentences
from worker.domain.errors import BrokerError, LedgerError, MoodleError
from worker.domain.rules import Mode
from worker.domain.words import counted
from worker.ledger import Ledger
from worker.ledger.database import exposed_files
from worker.ledger.status import read_status
from worker.moodle import MoodleReader
from worker.runtime import topics
from worker.runtime.accounts import account_sentences
from worker.runtime.collisions import collisions
from worker.runtime.ledger import open_ledger
from worker.runtime.platforms import missing_token, transport
from worker.settings.platforms import GUARD_OFF, PlatformSettings
from worker.settings.root import Settings

READING = (
    "core_webservice_get_site_info",
    "core_cohort_get_cohorts",
    "core_cohort_search_cohorts",
    "core_cohort_get_cohort_members",
    "core_user_get_users_by_field",
)
WRITING = (
    "core_cohort_create_cohorts",
    "core_cohort_update_cohorts",
    "core_cohort_add_cohort_members",
    "core_cohort_delete_cohort_members",
)
IN_THE_CLEAR = "http:// sends the token and the students' accounts unencrypted; use https://"


class Level(StrEnum):
    """How bad a result is."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """One line: what was checked, what was found, and what to do about it."""

    level: Level
    subject: str
    sentence: str


def check(settings: Settings) -> Iterator[CheckResult]:
    """Check the broker, the ledger and every platform; one that fails doesn't keep the others from being checked."""
    yield from _kafka(settings)
    try:
        ledger = open_ledger(settings)
    except LedgerError as error:
        yield CheckResult(level=Level.FAILURE, subject="ledger", sentence=str(error))
    else:
        yield from _ledger(settings, ledger)
        for file, mode in exposed_files(settings.ledger.url.get_secret_value()).items():
            sentence = f"{file} has mode {mode:04o}: others on this machine may read who is enrolled; chmod 600 it"
            yield CheckResult(level=Level.WARNING, subject="ledger file", sentence=sentence)
        ledger.close()
    for name, platform in sorted(settings.platforms.items()):
        yield from _platform(name, platform)


def _kafka(settings: Settings) -> Iterator[CheckResult]:
    needed = [*settings.kafka.topics, settings.kafka.dead_letters]
    snapshots = settings.kafka.snapshots
    try:
        cluster = kafka.describe(settings.kafka.properties(), [*needed, snapshots])
    except BrokerError as error:
        yield CheckResult(
            level=Level.FAILURE,
            subject="kafka",
            sentence=f"{error}; see kafka.bootstrap and kafka.client",
        )
        return
    yield CheckResult(
        level=Level.OK, subject="kafka", sentence=f"{counted(cluster.brokers, 'broker')}, cluster {cluster.id}"
    )
    for name in [*needed, snapshots]:
        topic = cluster.topics.get(name)
        if topic is not None:
            yield CheckResult(level=Level.OK, subject=f"kafka {name}", sentence=counted(topic.partitions, "partition"))
        elif name == snapshots:
            sentence = f"no such topic; the first reconciliation needs a snapshot; create it ({kafka.ABSENCE})"
            yield CheckResult(level=Level.WARNING, subject=f"kafka {name}", sentence=sentence)
        else:
            sentence = f"no such topic; create it ({kafka.ABSENCE})"
            yield CheckResult(level=Level.FAILURE, subject=f"kafka {name}", sentence=sentence)
    yield from _topics(settings, cluster.topics)


def _topics(settings: Settings, existing: Mapping[str, kafka.Topic]) -> Iterator[CheckResult]:
    """Check the settings of topics, where the broker is a real one: the embedded one gives its topics no ids."""
    names = [name for name, topic in existing.items() if topic.id is not None]
    try:
        in_force = kafka.topic_settings(settings.kafka.properties(), names)
    except BrokerError as error:
        yield CheckResult(level=Level.WARNING, subject="kafka topics", sentence=str(error))
        return
    uses, several = topics.uses(settings.kafka), settings.ledger.serves_several
    for name in names:
        for sentence in topics.shortcomings(uses[name], existing[name], in_force[name], several=several):
            yield CheckResult(level=Level.WARNING, subject=f"kafka {name} settings", sentence=sentence)


def _ledger(settings: Settings, ledger: Ledger) -> Iterator[CheckResult]:
    status = read_status(ledger, sorted(settings.platforms), time.time())
    sentence = f"{ledger.name}, instance {status.instance}, {counted(status.enrolments, 'enrolment')}"
    yield CheckResult(level=Level.OK, subject="ledger", sentence=sentence)
    if status.halt is not None:
        yield CheckResult(level=Level.FAILURE, subject="consumption", sentence=f"stopped: {status.halt.sentence}")
    policy = settings.policy()
    by_name = {platform.name: platform for platform in policy.platforms}
    for platform in status.platforms:
        sentences = [*blocked_sentences(platform.blocked), *collisions(policy, by_name[platform.name], ledger)]
        for sentence in sentences:
            yield CheckResult(level=Level.WARNING, subject=f"{platform.name} cohorts", sentence=sentence)
        for sentence in account_sentences(ledger, platform.name):
            yield CheckResult(level=Level.WARNING, subject=f"{platform.name} accounts", sentence=sentence)


def _platform(name: str, platform: PlatformSettings) -> Iterator[CheckResult]:
    if platform.mode is Mode.MANUAL:
        yield CheckResult(level=Level.OK, subject=name, sentence="manual: never written")
    elif not platform.guard.enabled:
        yield CheckResult(level=Level.WARNING, subject=f"{name} guard", sentence=GUARD_OFF)
    if platform.url is not None and is_in_the_clear(platform.url):
        yield CheckResult(level=Level.WARNING, subject=f"{name} url", sentence=IN_THE_CLEAR)
    if sentence := missing_token(name, platform):
        yield CheckResult(level=Level.FAILURE, subject=f"{name} token", sentence=sentence)
    if platform.url is None or platform.token is None:
        return
    connection = transport(name, platform)
    try:
        yield from _moodle(name, platform, MoodleReader(connection))
    except MoodleError as error:
        yield CheckResult(level=Level.FAILURE, subject=name, sentence=str(error).removeprefix(f"{name}: "))
    finally:
        connection.close()


def is_in_the_clear(url: str) -> bool:
    """Whether what is sent to this address can be read on the network."""
    parts = urlsplit(url)
    return parts.scheme == "http" and parts.hostname not in {"localhost", "127.0.0.1", "::1"}


def _moodle(name: str, platform: PlatformSettings, reader: MoodleReader) -> Iterator[CheckResult]:
    site = reader.site_info()
    yield CheckResult(level=Level.OK, subject=name, sentence=f"{site.name}, Moodle {site.release}")
    needed = READING + (WRITING if platform.mode is Mode.AUTOMATIC else ())
    missing = [function for function in needed if function not in site.functions]
    if missing:
        sentence = f"the token may not call {', '.join(missing)}; add them to its external service"
        yield CheckResult(level=Level.FAILURE, subject=f"{name} functions", sentence=sentence)
        if set(missing) & set(READING):
            return
    else:
        sentence = f"all {len(needed)} that are needed are granted"
        yield CheckResult(level=Level.OK, subject=f"{name} functions", sentence=sentence)
    yield _fields(name, reader)
    yield _accounts(name, reader)
    yield from _idnumbers(name, reader)


def _fields(name: str, reader: MoodleReader) -> CheckResult:
    subject, limit = f"{name} fields", reader.transport.limits.fields
    fitting = reader.fitting_fields()
    if fitting == limit:
        return CheckResult(level=Level.OK, subject=subject, sentence=f"a form of {limit} fields arrives whole")
    sentence = (
        f"PHP cuts a form of {limit} fields, {fitting} fit: set platforms.{name}.limits.fields to {fitting} or less, "
        "or raise max_input_vars on Moodle"
    )
    return CheckResult(level=Level.FAILURE, subject=subject, sentence=sentence)


def _accounts(name: str, reader: MoodleReader) -> CheckResult:
    subject = f"{name} accounts"
    match reader.sees_people():
        case True:
            return CheckResult(level=Level.OK, subject=subject, sentence="a cohort's member is visible to the token")
        case False:
            sentence = (
                "the token finds no accounts, not even those of cohorts' members: it lacks the right to see them; "
                "give its role moodle/user:viewdetails and moodle/user:viewalldetails at system level"
            )
            return CheckResult(level=Level.FAILURE, subject=subject, sentence=sentence)
        case None:
            sentence = (
                "no cohort has a member yet, so the right to see accounts could not be checked; check again later"
            )
            return CheckResult(level=Level.WARNING, subject=subject, sentence=sentence)


def _idnumbers(name: str, reader: MoodleReader) -> Iterator[CheckResult]:
    cohorts = reader.cohorts()
    uses = Counter(cohort.idnumber for cohort in cohorts if cohort.idnumber)
    twice = sorted(idnumber for idnumber, times in uses.items() if times > 1)
    if twice:
        shown = ", ".join(twice[:10]) + (f" and {len(twice) - 10} more" if len(twice) > 10 else "")  # noqa: PLR2004 - a line's worth
        sentence = f"idnumbers used by several cohorts, which stay untouched: {shown}; make them unique on Moodle"
        yield CheckResult(level=Level.WARNING, subject=f"{name} cohorts", sentence=sentence)
    else:
        sentence = f"{counted(len(cohorts), 'cohort')}, no duplicate idnumber"
        yield CheckResult(level=Level.OK, subject=f"{name} cohorts", sentence=sentence)
