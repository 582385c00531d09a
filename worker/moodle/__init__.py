"""Moodle's web services as they really behave: the only part that speaks HTTP to a platform."""

from worker.moodle.batch_size import BatchSize
from worker.moodle.reader import FoundAccounts, MoodleReader, RemoteCohort, SiteInfo, owner
from worker.moodle.transport import CallLimits, Transport
from worker.moodle.writer import IDNUMBER_TAKEN, MoodleWriter, Outcome

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
