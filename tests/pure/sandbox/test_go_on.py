"""The days of a university that goes on are dated by the clock, however many there have been."""

from datetime import datetime
from itertools import pairwise

from worker.sandbox.university.generator import University

NOW, DAY = 1_790_000_000.0, 30.0
AHEAD = 3_600.0
"""How far ahead of its day a change may be dated: some follow another by minutes."""


def test_days_that_go_on_begin_when_they_are_told_to_and_follow_each_other() -> None:
    university = University(students=300, etapes=20)
    for _ in range(3):
        list(university.september_day(30))
    university.go_on(since=NOW, day=DAY)
    middles = []
    for number in range(10):
        times = sorted(datetime.fromisoformat(m.value["time"]).timestamp() for m in university.september_day(30))
        assert NOW + (number - 1) * DAY <= times[0]
        assert times[-1] <= NOW + (number + 1) * DAY + AHEAD
        middles.append(times[len(times) // 2])
    assert all(before < after for before, after in pairwise(middles))
