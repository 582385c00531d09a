"""Moodle's web services, with what they really do: the only part that speaks HTTP to a platform."""

from worker.moodle.batch_size import Pace
from worker.moodle.client import MoodleReader, MoodleWriter, Outcome, RemoteCohort, SiteInfo
from worker.moodle.transport import Limits, Wire

__all__ = ["Limits", "MoodleReader", "MoodleWriter", "Outcome", "Pace", "RemoteCohort", "SiteInfo", "Wire"]
