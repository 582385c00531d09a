"""Moodle's web services as they really behave: the only part that speaks HTTP to a platform."""

from worker.moodle.batch_size import BatchSize
from worker.moodle.client import (
    IDNUMBER_TAKEN,
    FoundAccounts,
    MoodleReader,
    MoodleWriter,
    Outcome,
    RemoteCohort,
    SiteInfo,
    owner,
)
from worker.moodle.transport import CallLimits, Transport

__all__ = [
    "IDNUMBER_TAKEN",
    "BatchSize",
    "CallLimits",
    "FoundAccounts",
    "MoodleReader",
    "MoodleWriter",
    "Outcome",
    "RemoteCohort",
    "SiteInfo",
    "Transport",
    "owner",
]
