"""Whatever a producer sends, no more members of yesterday leave without a person than the limits let."""

from collections import Counter
from collections.abc import Iterable

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.builders import memberships, merged, told
from tests.support.scenes import DAY, HOUR, Scene
from worker.domain.guard import Guard, GuardLimits
from worker.domain.states import Limit, Status
from worker.ledger import Ledger, retention, status
from worker.ledger.schema import cohort, membership, metadata

GUARD = Guard(limits=GuardLimits(floor=0))
"""Of a cohort a fifth may leave, of the platform a twentieth."""
ETAPES = ("XINFO1", "XINFO2", "XINFO3")


def numbers(first: int, last: int) -> list[str]:
    return [str(number) for number in range(first, last + 1)]


HOMES = {"XINFO1": numbers(1, 100), "XINFO2": numbers(101, 200), "XINFO3": numbers(201, 300)}
EVERYBODY = numbers(1, 300)


class Attacked(Scene):
    """Three cohorts of a hundred honest members each, who have been there for a day."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger)
        self.version = 0
        for etape, students in HOMES.items():
            self.say(students, etape)
            self.converge()
        self.now += DAY

    def say(self, who: Iterable[str], etape: str, state: Status = Status.ACTIVE, topic: str = "enrolments") -> None:
        """Have a producer say this of these students."""
        self.version += 1
        said = [
            told(
                enrolment_id=f"{student}:{etape}",
                student_id=student,
                etape=etape,
                status=state,
                version=self.version,
                changed_at=self.now,
                origin=f"{topic}[0]@{self.version}",
            )
            for student in who
        ]
        self.tell(*said)

    def converge(self, guard: Guard = GUARD) -> None:
        self.settle(guard=guard)

    def left(self) -> int:
        """Count the honest members who left."""
        there = status.observed(self.ledger, "ecampus")
        return sum(len({*students} - {*there.get(etape, ())}) for etape, students in HOMES.items())

    def members(self, etape: str) -> int:
        return len(status.observed(self.ledger, "ecampus").get(etape, ()))


@pytest.fixture
def attacked(ledger: Ledger) -> Attacked:
    return Attacked(ledger)


def test_hostile_enrolments_of_everybody_everywhere_raise_no_limit(attacked: Attacked) -> None:
    for etape in ETAPES:
        attacked.say([student for student in EVERYBODY if student not in HOMES[etape]], etape)
        attacked.converge()
    assert attacked.members("XINFO1") == 300, "additions flow"
    attacked.now += HOUR
    for etape, students in HOMES.items():
        attacked.say(students[:16], etape, Status.RESIGNED)
    attacked.converge()
    assert attacked.left() == 0, "48 are more than a twentieth of 300"


def test_hostile_enrolments_in_one_cohort_do_not_raise_its_own_limit(attacked: Attacked) -> None:
    guard = Guard(limits=GuardLimits(platform_percent=100, floor=0))
    attacked.say(numbers(101, 300), "XINFO1")
    attacked.converge(guard)
    attacked.now += DAY - 1
    attacked.say(numbers(1, 21), "XINFO1", Status.RESIGNED)
    attacked.converge(guard)
    assert attacked.left() == 0
    attacked.say(["21"], "XINFO1")
    attacked.say(["20"], "XINFO1")
    attacked.converge(guard)
    assert attacked.members("XINFO1") == 300, "what is held stays held"


def test_hostile_churn_of_the_same_members_raises_no_limit(attacked: Attacked) -> None:
    guard = Guard(limits=GuardLimits(platform_percent=100, floor=0))
    for _ in range(5):
        attacked.say(numbers(101, 110), "XINFO1")
        attacked.converge(guard)
        attacked.now += HOUR
        attacked.say(numbers(101, 110), "XINFO1", Status.RESIGNED)
        attacked.converge(guard)
        attacked.now += HOUR
    attacked.say(numbers(1, 20), "XINFO1", Status.RESIGNED)
    attacked.converge(guard)
    assert attacked.left() == 0


def test_hostile_changes_of_accounts_raise_no_limit(attacked: Attacked) -> None:
    attacked.say(numbers(301, 400), "XINFO1")
    attacked.converge()
    attacked.tell(*(merged(str(number), str(number + 100), at=attacked.now) for number in range(301, 401)))
    attacked.converge()
    attacked.now += HOUR
    attacked.say(numbers(1, 20), "XINFO1", Status.RESIGNED)
    attacked.converge()
    assert attacked.left() == 0


def test_members_found_by_a_reading_raise_no_limit_before_a_day(attacked: Attacked) -> None:
    guard = Guard(limits=GuardLimits(platform_percent=100, floor=0))
    there = {etape: [int(student) for student in students] for etape, students in HOMES.items()}
    attacked.look(there | {"XINFO1": range(1, 151)}, EVERYBODY)
    attacked.say(numbers(101, 150), "XINFO1")
    assert all(row.observed for (etape, _), row in memberships(attacked.ledger).items() if etape == "XINFO1")
    attacked.say(numbers(1, 21), "XINFO1", Status.RESIGNED)
    attacked.converge(guard)
    assert attacked.left() == 0
    attacked.now += DAY
    attacked.say(numbers(22, 23), "XINFO1", Status.RESIGNED)
    attacked.say(numbers(1, 21), "XINFO1")
    attacked.say(numbers(24, 50), "XINFO1", Status.RESIGNED)
    attacked.converge(guard)
    assert attacked.left() == 29, "of 150"


def test_whoever_leaves_and_returns_is_no_member_of_yesterday(attacked: Attacked) -> None:
    guard = Guard(limits=GuardLimits(platform_percent=100, floor=0))
    attacked.say(numbers(1, 20), "XINFO1", Status.RESIGNED)
    attacked.converge(guard)
    assert attacked.left() == 20
    attacked.now += HOUR
    attacked.say(numbers(1, 20), "XINFO1")
    attacked.converge(guard)
    attacked.now += DAY - HOUR
    attacked.say(numbers(21, 37), "XINFO1", Status.RESIGNED)
    attacked.converge(guard)
    assert attacked.left() == 0, "of the 80 who were there a day ago, sixteen may leave"


def test_what_messages_announce_and_take_back_before_it_is_done_changes_nothing(attacked: Attacked) -> None:
    guard = Guard(limits=GuardLimits(platform_percent=100, floor=0))
    attacked.say(HOMES["XINFO1"], "XINFO1", Status.RESIGNED)
    attacked.say(HOMES["XINFO1"], "XINFO1")
    attacked.say(numbers(1, 20), "XINFO1", Status.RESIGNED)
    attacked.converge(guard)
    assert attacked.left() == 20, "they have been there all the time"


def test_on_the_first_day_of_a_platform_those_who_are_there_count(ledger: Ledger) -> None:
    scene = Attacked(ledger)
    scene.now -= DAY - HOUR
    scene.say(numbers(1, 5), "XINFO1", Status.RESIGNED)
    scene.converge()
    assert scene.left() == 5


# Several sources


def test_hostile_flood_does_not_hold_what_another_topic_removes(attacked: Attacked) -> None:
    for etape, students in HOMES.items():
        attacked.say(students[:16], etape, Status.RESIGNED, topic="hostile")
        attacked.say(students[-1:], etape, Status.RESIGNED, topic="honest")
    attacked.converge()
    assert attacked.left() == 3
    assert {row.held for row in memberships(attacked.ledger).values() if row.held} == {Limit.PLATFORM}


def test_hostile_removals_below_the_limit_leave_room_for_another_topic(attacked: Attacked) -> None:
    for day_part in range(3):
        attacked.say(numbers(1 + 4 * day_part, 4 + 4 * day_part), "XINFO1", Status.RESIGNED, topic="hostile")
        attacked.converge()
        attacked.now += HOUR
    assert attacked.left() == 12, "four fifths of fifteen"
    attacked.say(["13"], "XINFO1", Status.RESIGNED, topic="hostile")
    attacked.say(numbers(101, 103), "XINFO2", Status.RESIGNED, topic="honest")
    attacked.converge()
    assert attacked.left() == 15
    assert {student for (_, student), row in memberships(attacked.ledger).items() if row.held} == {"13"}


def test_hostile_flood_into_a_cohort_does_not_hold_what_a_snapshot_ends_there(attacked: Attacked) -> None:
    attacked.say(numbers(1, 50), "XINFO1", Status.RESIGNED, topic="hostile")
    attacked.now += HOUR
    staying = [
        told(enrolment_id=f"{student}:{etape}", student_id=student, etape=etape)
        for etape, students in HOMES.items()
        for student in students
        if student != "100"
    ]
    with_held = [row._replace(status=Status.RESIGNED) if int(row.student_id) <= 50 else row for row in staying]
    attacked.image(*with_held)
    attacked.converge()
    assert attacked.left() == 1
    assert attacked.members("XINFO1") == 99


# Many days


def drained(scene: Attacked, a_day: int, guard: Guard) -> None:
    """Have a few leave each cohort every day, for 29 days."""
    for _ in range(29):
        for etape in ETAPES:
            there = {*status.observed(scene.ledger, "ecampus")[etape]}
            waiting = {student for (_, student), row in memberships(scene.ledger).items() if not row.desired}
            scene.say(sorted(there - waiting, key=int)[:a_day], etape, Status.RESIGNED)
        scene.converge(guard)
        scene.now += DAY


def test_hostile_drain_ends_at_the_limits_of_a_month(attacked: Attacked) -> None:
    drained(attacked, 1, Guard())
    assert attacked.left() == 48, "four fifths of a fifth of 300"
    assert {row.held for row in memberships(attacked.ledger).values() if row.held} == {Limit.PLATFORM_MONTH}


def test_hostile_drain_of_one_cohort_ends_at_two_fifths_of_it(attacked: Attacked) -> None:
    drained(attacked, 2, Guard(limits=GuardLimits(platform_percent=100)))
    assert [attacked.members(etape) for etape in ETAPES] == [60, 60, 60]
    assert Limit.COHORT_MONTH in {row.held for row in memberships(attacked.ledger).values()}


def test_hostile_removals_from_many_small_cohorts_are_one_event(attacked: Attacked) -> None:
    small = [f"XMINI{rank}" for rank in range(5)]
    for rank, etape in enumerate(small):
        attacked.say(numbers(401 + 10 * rank, 410 + 10 * rank), etape)
    attacked.converge()
    attacked.now += DAY
    for rank, etape in enumerate(small):
        attacked.say(numbers(401 + 10 * rank, 410 + 10 * rank), etape, Status.RESIGNED)
    attacked.converge(Guard())
    assert [attacked.members(etape) for etape in small] == [10] * 5
    assert {row.held for row in memberships(attacked.ledger).values() if row.held} == {Limit.SMALL_COHORTS}


def test_removals_of_a_person_who_was_erased_since_count_for_their_source(attacked: Attacked) -> None:
    attacked.say(numbers(1, 12), "XINFO1", Status.RESIGNED, topic="hostile")
    attacked.converge()
    attacked.now += HOUR
    retention.erase(attacked.ledger, attacked.policy, "1", now=attacked.now)
    attacked.say(["13"], "XINFO1", Status.RESIGNED, topic="hostile")
    attacked.converge()
    assert attacked.left() == 12


# Whatever a producer sends

Step = tuple[str, str, tuple[int, int], str]
"""What is said (active, resigned, merged), the étape, of which students (first, how many), and by which topic."""
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["active", "resigned", "merged"]),
        st.sampled_from([*ETAPES, "XNEW1"]),
        st.tuples(st.integers(1, 320), st.integers(1, 120)),
        st.sampled_from(["hostile", "enrolments"]),
    ),
    max_size=20,
)


@given(STEPS, st.sampled_from([0, 60, 3600]))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_hostile_day_whatever_it_brings_removes_no_more_of_yesterday_s_members_than_the_limits_let(
    ledger: Ledger, steps: list[Step], seconds: float
) -> None:
    with ledger.write() as connection:
        for table in reversed(metadata.sorted_tables):
            connection.execute(sa.delete(table))
    attacked = Attacked(ledger)
    for what, etape, (first, many), topic in steps:
        students = numbers(first, first + many - 1)
        if what == "merged":
            attacked.tell(*(merged(one, str(int(one) + 1000), at=attacked.now) for one in students[:5]))
        else:
            attacked.say(students, etape, Status(what), topic=topic)
        attacked.converge()
        attacked.now += seconds
    removed = removals_of_yesterdays_members(attacked)
    assert removed.total() <= 15
    assert all(number <= 20 for number in removed.values())


def removals_of_yesterdays_members(attacked: Attacked) -> Counter[str]:
    """Count, by cohort, the accounts that were there at first and aren't: a merge gives them another number."""
    there = Counter[str]()
    with attacked.ledger.read() as connection:
        present = sa.select(cohort.c.idnumber, membership.c.user_id).join(membership).where(membership.c.observed)
        now = {(row.idnumber, row.user_id) for row in connection.execute(present)}
    for etape, students in HOMES.items():
        there[etape] = sum((etape, int(student)) not in now for student in students)
    return there
