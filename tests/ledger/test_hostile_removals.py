"""Whatever a producer sends, no more members of yesterday leave without a person than the limits let."""

from collections.abc import Iterable

import pytest

from tests.support.builders import memberships, merged, told
from tests.support.scenes import DAY, HOUR, Scene
from worker.domain.guard import Guard, GuardLimits
from worker.domain.states import Status
from worker.ledger import Ledger, status

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
