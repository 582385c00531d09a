from datetime import date, datetime, time, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from worker.domain.schedule import TimeOfDay, due, time_of_day

PARIS = ZoneInfo("Europe/Paris")
ZONES = [
    PARIS,
    ZoneInfo("UTC"),
    ZoneInfo("America/St_Johns"),  # put its clock back from 00:01 to 23:01 of the day before, until 2011
    ZoneInfo("America/Sao_Paulo"),  # skipped midnight, until 2018
    ZoneInfo("Australia/Lord_Howe"),  # changes by half an hour
    ZoneInfo("Pacific/Apia"),  # left 30 December 2011 out
]
HOUR = 3600.0

times = st.times().map(lambda at: at.replace(second=0, microsecond=0))
zones = st.sampled_from(ZONES)
instants = st.floats(
    datetime(2005, 1, 1, tzinfo=PARIS).timestamp(), datetime(2030, 1, 1, tzinfo=PARIS).timestamp(), allow_nan=False
)


def instant(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize(
    ("now", "night", "at"),
    [
        ("2026-09-01T02:29:59+02:00", "2026-08-31", "2026-08-31T02:30:00+02:00"),
        ("2026-09-01T02:30:00+02:00", "2026-09-01", "2026-09-01T02:30:00+02:00"),
        ("2026-09-01T23:59:59+02:00", "2026-09-01", "2026-09-01T02:30:00+02:00"),
        ("2026-12-31T23:00:00+00:00", "2026-12-31", "2026-12-31T02:30:00+01:00"),
    ],
)
def test_a_night_is_due_from_its_time_until_that_of_the_next(now: str, night: str, at: str) -> None:
    assert due(instant(now), time(2, 30), PARIS) == (night, instant(at))


def test_a_time_that_spring_skips_is_due_when_it_would_have_been_shown() -> None:
    forward = instant("2026-03-29T01:30:00+00:00")
    assert datetime.fromtimestamp(forward, PARIS).time() == time(3, 30)
    assert due(forward - 1, time(2, 30), PARIS)[0] == "2026-03-28"
    assert due(forward, time(2, 30), PARIS) == ("2026-03-29", forward)


def test_of_a_time_that_autumn_shows_twice_the_first_is_due() -> None:
    first, second = instant("2026-10-25T02:30:00+02:00"), instant("2026-10-25T02:30:00+01:00")
    assert second - first == HOUR
    assert due(first - 1, time(2, 30), PARIS)[0] == "2026-10-24"
    for now in (first, second - 1, second, second + 1):
        assert due(now, time(2, 30), PARIS) == ("2026-10-25", first)


def test_a_clock_put_back_across_midnight_does_not_bring_yesterday_back() -> None:
    newfoundland = ZoneInfo("America/St_Johns")
    before, after = instant("2010-11-07T00:00:30-02:30"), instant("2010-11-06T23:02:00-03:30")
    assert before < after
    assert datetime.fromtimestamp(after, newfoundland).date() == date(2010, 11, 6)
    assert due(before, time(0, 0), newfoundland)[0] == "2010-11-07"
    assert due(after, time(0, 0), newfoundland)[0] == "2010-11-07"


@settings(max_examples=50, deadline=None)
@given(times)
def test_every_date_of_several_years_in_paris_has_exactly_one_night(at: time) -> None:
    # Twice a day sees every night: two runs are at least 23 hours apart.
    begin, end = instant("2024-01-01T12:00:00+01:00"), instant("2028-01-01T12:00:00+01:00")
    seen = {due(begin + halves * 12 * HOUR, at, PARIS) for halves in range(int((end - begin) // (12 * HOUR)) + 1)}
    nights = sorted(seen)
    first = date.fromisoformat(nights[0][0])
    assert [night for night, _ in nights] == [(first + timedelta(days=n)).isoformat() for n in range(len(nights))]
    assert len(nights) in {1461, 1462}, "four years, one of them a leap year"
    assert all(22.5 * HOUR < later - sooner < 25.5 * HOUR for (_, sooner), (_, later) in pairwise(nights))


@given(instants, times, zones)
def test_a_night_that_is_due_lies_in_the_past_and_less_than_a_day_and_a_bit_back(
    now: float, at: time, zone: ZoneInfo
) -> None:
    night, when = due(now, at, zone)
    assert now - 49 * HOUR < when <= now
    assert due(when, at, zone) == (night, when), "it is due from that very instant"
    assert due(when - 1, at, zone)[0] < night


@given(st.lists(instants, min_size=2, max_size=20), st.lists(st.floats(0, 3 * 24 * HOUR), max_size=20), times, zones)
def test_going_forward_no_night_comes_again(starts: list[float], steps: list[float], at: time, zone: ZoneInfo) -> None:
    walk = list(starts)
    for step in steps:
        walk.append(walk[-1] + step)
    seen = [due(now, at, zone) for now in sorted(walk)]
    for (night, when), (next_night, next_when) in pairwise(seen):
        assert (night == next_night) == (when == next_when)
        assert night <= next_night
        assert when <= next_when


@given(times)
def test_a_time_of_day_is_read_as_it_is_written_and_written_as_it_is_read(at: time) -> None:
    setting: TypeAdapter[time] = TypeAdapter(TimeOfDay)
    text = at.isoformat("minutes")
    assert setting.validate_python(text) == at
    assert setting.dump_python(at, mode="json") == text
    assert setting.validate_python(at) == at, "TOML has times of its own"


@pytest.mark.parametrize("text", ["", "2:30", "24:00", "12:60", "02:30:15", "02h30", "0230", "02:30+02:00", "٠٢:٣٠"])
def test_another_text_is_refused_with_how_to_write_it(text: str) -> None:
    with pytest.raises(ValueError, match=r'is not a time of day; write it as "02:30", from "00:00" to "23:59"'):
        time_of_day(text)


def test_a_time_with_seconds_or_a_zone_is_no_setting() -> None:
    for value in (time(2, 30, 15), time(2, 30, tzinfo=PARIS), 230, None):
        with pytest.raises(ValueError, match="is not a time of day"):
            time_of_day(value)
