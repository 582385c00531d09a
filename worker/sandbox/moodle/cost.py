"""What calls to a Moodle cost: nothing, or what was measured."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a call costs, in seconds: once, and per member, row, or member and synchronised course."""

    call: float = 0.0
    added: float = 0.0
    removed: float = 0.0
    course_added: float = 0.0
    course_removed: float = 0.0
    looked_up: float = 0.0
    created: float = 0.0
    cohort_read: float = 0.0
    member_read: float = 0.0

    def seconds(self, spent: Mapping[str, int]) -> float:
        """Add up what a call has spent."""
        return math.fsum(getattr(self, item.name) * spent.get(item.name, 0) for item in fields(self))


MEASURED = Cost(
    # Derived from runs with one client (unless noted) against the Moodle of the transcripts, on 2 cores.
    call=0.026,  # add of 1 member a call, 29 ms, less the member
    added=0.0027,  # 350 members/s by 200 a call: 200 / 350 s = call + 200 members
    removed=0.0009,  # 2,000/s by 200 a call and 2 clients: 0.2 s = call + 200 members
    course_added=0.0037,  # 10 courses, 200 members: 7.7 s; 1 course, 134/s, would say 4.6 ms
    course_removed=0.0078,  # 10 courses, 200 members: 16 s
    looked_up=0.0038,  # 500 values: 1.6 to 2.2 s
    created=0.0009,  # 100 a call: 0.12 s
    cohort_read=0.000084,  # 1,237 cohorts: 0.13 s
    member_read=0.000022,  # 1,200 cohorts with 40,002 members: 1.0 s, less the call and the cohorts
)
