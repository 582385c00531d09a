"""Every metric, declared once with its help sentence, and the log. No label or log field holds a person or a token."""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog
from prometheus_client import Counter, Gauge, Histogram, Info

from worker import __version__
from worker.domain.sanitize import printable

PROMISE_BUCKETS = (1, 2, 5, 10, 30, 60, 120, 300, 900, 3600, 4 * 3600, 12 * 3600, 24 * 3600)
"""Seconds from a change to Moodle, with bounds around the promises: minutes, and 24 hours."""

BUILD = Info("cohorts_build", "The version that runs.")
BUILD.info({"version": __version__})
CHANGES = Counter(
    "cohorts_changes_total",
    "Messages read, by outcome; `waiting` are enrolments whose person has no student number that is known.",
    ["outcome"],
)
RECORD_SECONDS = Histogram("cohorts_record_seconds", "Time to record one batch of messages in the ledger.")
DEAD_LETTERS = Counter("cohorts_dead_letters_total", "Messages sent to the dead-letter topic.")
CONSUMPTION_STOPPED = Gauge(
    "cohorts_consumption_stopped",
    "1 while consumption is stopped until a person acts, by reason; converging goes on.",
    ["reason"],
)
LAG = Gauge("cohorts_lag_messages", "Messages published and not yet recorded, by topic.", ["topic"])
LAST_POLL = Gauge("cohorts_last_poll_timestamp_seconds", "When the consuming loop last polled Kafka: its heartbeat.")
WAITING = Gauge(
    "cohorts_waiting_enrolments",
    "Enrolments from change capture that wait for the student number of their person.",
)
HELD_MERGES = Gauge(
    "cohorts_held_merges", "Merges of student numbers that are held until a person decides: `cohorts merges`."
)
APPLIED_SECONDS = Histogram(
    "cohorts_change_to_moodle_seconds",
    'Time from the publication of a change to its application on Moodle. The promise is about `way="message"`: other '
    "changes were found at night, waited for an account or a person, or followed from a setting.",
    ["platform", "action", "way"],
    buckets=PROMISE_BUCKETS,
)
GAPS = Gauge("cohorts_gaps", "Memberships that differ between desired and observed, by state.", ["platform", "state"])
OLDEST_GAP = Gauge(
    "cohorts_oldest_gap_timestamp_seconds",
    "Publication of the oldest change that could be on Moodle and isn't yet; absent without one.",
    ["platform"],
)
LATE = Gauge(
    "cohorts_late_changes",
    "Changes announced by a message that could be on Moodle, aren't yet, and are older than `le` seconds: "
    "those that `cohorts_change_to_moodle_seconds` doesn't count yet.",
    ["platform", "le"],
)
GAP_REASONS = Gauge("cohorts_gap_reasons", "Parked and retrying gaps, by reason.", ["platform", "reason"])
OLDEST_HELD = Gauge(
    "cohorts_oldest_held_timestamp_seconds",
    "Publication of the oldest change whose removal is held; absent without one. A removal is held when it is due, "
    "minutes after its publication.",
    ["platform"],
)
GUARD_ENABLED = Gauge("cohorts_guard_enabled", "1 if the platform is guarded, 0 if not.", ["platform"])
MEMBERSHIPS = Gauge("cohorts_memberships", "Desired memberships.", ["platform"])
COHORTS = Gauge("cohorts_cohorts", "Cohorts that the rules lead to, by state.", ["platform", "state"])
BLOCKED = Gauge(
    "cohorts_blocked_cohorts",
    "Cohorts that students belong to and that wait for a person: `foreign`, `colliding`, `refused`, `misnamed`.",
    ["platform", "why"],
)
DELETED = Gauge(
    "cohorts_deleted_cohorts",
    "Cohorts of ours that somebody deleted on Moodle, with all synchronisations of courses, and that no person has "
    "acknowledged.",
    ["platform"],
)
HELD_COHORTS = Gauge(
    "cohorts_held_cohorts",
    "Cohorts that the guard holds until a person decides, by what would be done: `creation`, `rename`.",
    ["platform", "change"],
)
PLATFORM_UP = Gauge(
    "cohorts_platform_up", "1 if the last round of calls to the platform succeeded, 0 if not.", ["platform"]
)
PLATFORM_DENIED = Gauge(
    "cohorts_platform_denied",
    "1 while a wrong token, right or address stops the platform: a person must act.",
    ["platform"],
)
LAST_SUCCESS = Gauge(
    "cohorts_last_success_timestamp_seconds",
    "When a round of calls to the platform last succeeded.",
    ["platform"],
)
RUN_ENDED = Gauge(
    "cohorts_reconciliation_ended_timestamp_seconds",
    "When the last reconciliation with this outcome (`done`, `partial`, `refused`, `failed`, `abandoned`) ended, in "
    "whichever process.",
    ["state"],
)
RUN_SECONDS = Gauge(
    "cohorts_reconciliation_duration_seconds", "Duration of the last reconciliation with this outcome.", ["state"]
)
SNAPSHOT_REFUSALS = Gauge("cohorts_snapshot_refusals", "Snapshots that the last reconciliation refused.")
SNAPSHOT_TAKEN = Gauge(
    "cohorts_snapshot_taken_timestamp_seconds", "When the last accepted snapshot was taken.", ["system"]
)
SNAPSHOT_ROWS = Gauge("cohorts_snapshot_rows", "Enrolments in the last accepted snapshot, by academic year.", ["year"])
NIGHT_READ = Gauge(
    "cohorts_reconciliation_read",
    "1 if the last reconciliation read the platform to the end, 0 if not; absent for a platform without a token.",
    ["platform"],
)
NIGHT_LEFT = Gauge(
    "cohorts_reconciliation_left",
    "Changes that could have been on the platform at the end of the last reconciliation, and weren't.",
    ["platform"],
)
PLATFORM_READ = Gauge(
    "cohorts_platform_read_timestamp_seconds",
    "When the last reading of the platform to the end began; absent before the first.",
    ["platform"],
)
NIGHT_COHORTS = Gauge(
    "cohorts_reconciliation_cohorts", "Cohorts that the last reconciliation found, by kind.", ["platform", "kind"]
)
NIGHT_MEMBERS = Gauge(
    "cohorts_reconciliation_members", "Members that the last reconciliation found in our cohorts.", ["platform"]
)
NIGHT_STRANGERS = Gauge(
    "cohorts_reconciliation_strangers",
    "Members of our cohorts whom the last reconciliation could tie to no student.",
    ["platform"],
)
NIGHT_DRIFT = Gauge(
    "cohorts_reconciliation_drift",
    "Differences that no message had announced, found by the last reconciliation.",
    ["platform", "kind"],
)
NIGHT_CHANGES = Gauge(
    "cohorts_reconciliation_changes", "Memberships that the last reconciliation changed.", ["platform", "action"]
)
NIGHT_FOREIGN = Gauge(
    "cohorts_reconciliation_foreign_changes",
    "Cohorts that aren't ours and that others changed during the last reconciliation.",
    ["platform"],
)
GUARD_REMOVALS = Gauge(
    "cohorts_guard_removals",
    "Removals at the end of the last reconciliation: `removed` within 24 h, `removed_in_month` within 30 days, "
    "`pending`, `held`.",
    ["platform", "state"],
)
GUARD_HELD = Gauge(
    "cohorts_guard_held_removals",
    "Removals held at the end of the last reconciliation, by the limit that holds them.",
    ["platform", "limit"],
)
GUARD_LIMIT = Gauge(
    "cohorts_guard_limit_removals", "Removals that the guard allows on the platform in 24 h.", ["platform"]
)
GUARD_MONTH_LIMIT = Gauge(
    "cohorts_guard_month_limit_removals", "Removals that the guard allows on the platform in 30 days.", ["platform"]
)
GUARD_WORST = Gauge(
    "cohorts_guard_worst_cohort_ratio", "Largest share of its members that a cohort loses, 0 to 1.", ["platform"]
)
MOODLE_CALLS = Counter(
    "cohorts_moodle_calls_total",
    "Calls to Moodle, by outcome: `ok` or the error's code.",
    ["platform", "function", "outcome"],
)
MOODLE_CALL_SECONDS = Histogram(
    "cohorts_moodle_call_seconds",
    "Duration of calls to Moodle.",
    ["platform", "function"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120),
)
WATCH_LOOKED = Gauge(
    "cohorts_watch_success_timestamp_seconds", "When the watched directory was last read completely.", ["source"]
)
WATCH_ENTRIES = Gauge("cohorts_watch_entries", "Entries in the watched directory.", ["source"])
WATCH_MESSAGES = Counter(
    "cohorts_watch_messages_total",
    "Messages published about a directory, by kind: `state`, `deleted`, `rekeyed`.",
    ["source", "kind"],
)
WATCH_FAILURES = Counter("cohorts_watch_failures_total", "Polls of a directory that failed.", ["source"])


class _Library(logging.Handler):
    """Logs what libraries log (librdkafka, the web server) in the same form, as an event of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger().log(record.levelno, "a library says", library=record.name, text=record.getMessage())


def _shown(_logger: object, _level: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Keep fields from controlling the terminal, as JSON does by itself. A traceback keeps its lines."""
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = "\n".join(map(printable, value.split("\n")))
    return event


def configure_logging(level: str = "info") -> None:
    """Log events with fields to standard error: for people on a terminal, JSON elsewhere."""
    logging.basicConfig(level=logging.WARNING, handlers=[_Library()], force=True)
    terminal = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            *((_shown, structlog.dev.ConsoleRenderer()) if terminal else (structlog.processors.JSONRenderer(),)),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),  # looked up at each line
    )
