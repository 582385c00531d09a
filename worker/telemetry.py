"""Every metric, declared once with its sentence; and the log. No label and no log field holds a person or a token."""

import logging
import sys

import structlog
from prometheus_client import Counter, Gauge, Histogram

PROMISE_BUCKETS = (1, 2, 5, 10, 30, 60, 120, 300, 900, 3600, 4 * 3600, 12 * 3600, 24 * 3600)
"""Seconds from a change to Moodle, around the promises: minutes, and 24 hours."""

CHANGES = Counter("cohorts_changes_total", "Messages read, by what became of them.", ["outcome"])
RECORD_SECONDS = Histogram("cohorts_record_seconds", "Time to record one batch of messages in the ledger.")
DEAD_LETTERS = Counter("cohorts_dead_letters_total", "Messages sent to the dead-letter topic.")
CONSUMPTION_STOPPED = Gauge(
    "cohorts_consumption_stopped",
    "1 while consumption is stopped because a person must look, by reason; converging goes on.",
    ["reason"],
)
LAG = Gauge("cohorts_lag_messages", "Messages published and not yet recorded, by topic.", ["topic"])
LAST_POLL = Gauge("cohorts_last_poll_timestamp_seconds", "When the consuming loop last came round: its heartbeat.")
APPLIED_SECONDS = Histogram(
    "cohorts_change_to_moodle_seconds",
    "Time from a change's publication to its being on Moodle.",
    ["platform", "action"],
    buckets=PROMISE_BUCKETS,
)
GAPS = Gauge("cohorts_gaps", "Memberships that differ between desired and observed, by state.", ["platform", "state"])
OLDEST_GAP = Gauge(
    "cohorts_oldest_gap_timestamp_seconds",
    "Publication of the oldest change that could be on Moodle and isn't; absent when there is none.",
    ["platform"],
)
RECONCILED = Gauge(
    "cohorts_reconciliation_success_timestamp_seconds",
    "When the last reconciliation that was done, whole or in part, ended; from the ledger, whichever process did it.",
)
GUARD_ENABLED = Gauge("cohorts_guard_enabled", "1 if removals are guarded on the platform, 0 if not.", ["platform"])
MEMBERSHIPS = Gauge("cohorts_memberships", "Desired memberships.", ["platform"])
COHORTS = Gauge("cohorts_cohorts", "Cohorts that the rules lead to, by state.", ["platform", "state"])
PLATFORM_UP = Gauge("cohorts_platform_up", "1 if the platform answered last time, 0 if not.", ["platform"])
PLATFORM_DENIED = Gauge(
    "cohorts_platform_denied",
    "1 while a token, right or address stops a platform: a person must act.",
    ["platform"],
)
LAST_SUCCESS = Gauge(
    "cohorts_last_success_timestamp_seconds",
    "When a round of calls to a platform last succeeded.",
    ["platform"],
)
MOODLE_CALLS = Counter(
    "cohorts_moodle_calls_total",
    "Calls to Moodle, by outcome: ok or the error's code.",
    ["platform", "function", "outcome"],
)
MOODLE_CALL_SECONDS = Histogram(
    "cohorts_moodle_call_seconds",
    "Time that calls to Moodle take.",
    ["platform", "function"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120),
)


def configure_logging(level: str = "info") -> None:
    """Log events with fields to standard error: for people on a terminal, JSON elsewhere."""
    terminal = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
