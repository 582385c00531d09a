"""Which cohorts the ledger lets be created and renamed, and what a person decides about others: without a Moodle."""

from collections.abc import Iterable
from dataclasses import replace

import pytest
import sqlalchemy as sa

from tests.support.builders import described, told, workbook
from tests.support.scenes import DAY, HOUR, Scene
from worker.domain.cohorts import Cohort
from worker.domain.errors import DecisionRefused, LeaseLost
from worker.domain.guard import Guard, GuardLimits
from worker.domain.states import Action, CohortChange, CohortState, Limit, Status
from worker.ledger import Ledger, WorkQueue, cohort_decisions, proposals, runs
from worker.ledger.cohort_proposals import CohortCause, PlannedChange, changes_hash
from worker.ledger.cohorts import owned
from worker.ledger.proposals import guard_report
from worker.ledger.schema import cohort, journal, proposal
from worker.ledger.work_queue import Applied
from worker.sync.review import Review

GUARD = Guard(limits=GuardLimits(new_cohorts_percent=0, new_cohorts_floor=2, renames_percent=0, renames_floor=2))
CREATION, RENAME = CohortChange.CREATION, CohortChange.RENAME


class Place(Scene):
    """A platform whose first load, of three cohorts, was two days ago; `queue` is that of its lane."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger)
        self.queue = workbook(ledger, guard=GUARD)
        self.versions = 1
        self.label("A", "B", "C", label="Licence")
        self.enrol("A", "B", "C")
        self.create(self.queue)
        self.now += 2 * DAY

    def label(self, *etapes: str, label: str) -> None:
        component = {"component": "U99", "component_label": "UFR"}
        self.tell(*(described(label, etape=code, at=self.now, **component) for code in etapes))

    def enrol(self, *etapes: str, status: Status = Status.ACTIVE) -> None:
        self.versions += 1
        for code in etapes:
            of_this = {"etape": code, "enrolment_id": code, "version": self.versions, "changed_at": self.now}
            self.tell(told(status=status, origin=f"enrolments[0]@{self.versions}", **of_this))

    def create(self, queue: WorkQueue) -> set[str]:
        """Create on an imaginary Moodle what may be, and fill it; returns the idnumbers of the new cohorts."""
        work = queue.claim(self.now, limit=100)
        wanted = [item for item in work.cohorts.values() if item.state is CohortState.WANTED]
        passing = queue.begin(CREATION, wanted, self.now).cohort_ids if wanted else frozenset()
        made = [item for item in wanted if item.id in passing]
        rows = [(item, owned(item.id, item.wanted_name or item.idnumber, item.idnumber, self.now)) for item in made]
        queue.write_cohorts(rows, self.now, Action.CREATE_COHORT)
        left = {item.id for item in wanted} - passing
        sent = queue.mark_in_flight([(gap, 31) for gap in work.gaps if gap.cohort_id not in left], self.now)
        queue.settle(applied=[Applied(gap=gap, user_id=user_id) for gap, user_id in sent], now=self.now)
        queue.release()
        return {item.idnumber for item in made}

    def claimed(self, queue: WorkQueue) -> list[Cohort]:
        return sorted(queue.claim(self.now, limit=100).cohorts.values(), key=lambda item: item.idnumber)

    def changes(self) -> list[PlannedChange]:
        with self.ledger.read() as connection:
            return list(proposals.planned(connection, "ecampus", GUARD, self.now).whole.changes)

    def column(self, name: str) -> dict[str, object]:
        with self.ledger.read() as connection:
            return {row.idnumber: getattr(row, name) for row in connection.execute(sa.select(cohort))}


@pytest.fixture
def place(ledger: Ledger) -> Place:
    return Place(ledger)


def idnumbers(changes: Iterable[PlannedChange]) -> set[str]:
    return {change.idnumber for change in changes}


# Before a call


def test_a_lane_that_claimed_earlier_cannot_exceed_what_others_have_used_meanwhile(place: Place) -> None:
    late = workbook(place.ledger, "lane-1", guard=GUARD)
    place.enrol("D", "E")
    claimed = place.claimed(late)
    assert [item.idnumber for item in claimed] == ["D", "E"]
    place.enrol("F", "G")
    assert place.create(place.queue) == set(), "four are too many"
    assert late.begin(CREATION, claimed, place.now).cohort_ids == frozenset(), "also for who claimed before"
    assert place.column("held") == dict.fromkeys("ABC") | dict.fromkeys("DEFG", Limit.CREATIONS)


def test_what_is_no_longer_wanted_or_is_wanted_otherwise_than_it_was_read_is_not_sent(place: Place) -> None:
    place.enrol("D", "E")
    claimed = place.claimed(place.queue)
    place.enrol("D", status=Status.RESIGNED)
    place.now += 1
    place.label("E", label="Master")
    assert place.queue.begin(CREATION, claimed, place.now).cohort_ids == frozenset()
    assert place.column("creation_at") == dict.fromkeys("ABCDE")


def test_nothing_is_begun_without_the_lease(place: Place) -> None:
    place.enrol("D")
    claimed = place.claimed(place.queue)
    place.now += HOUR
    place.claimed(workbook(place.ledger, "lane-1", guard=GUARD))
    with pytest.raises(LeaseLost):
        place.queue.begin(CREATION, claimed, place.now)


def test_a_call_that_is_repeated_counts_once_and_for_a_day_from_the_last(place: Place) -> None:
    place.enrol("D", "E")
    for _ in range(3):
        claimed = place.claimed(place.queue)
        assert len(place.queue.begin(CREATION, claimed, place.now).cohort_ids) == 2
        place.queue.release()
        place.now += HOUR
    place.enrol("F")
    assert place.create(place.queue) == {"D", "E"}
    assert place.column("held")["F"] == Limit.CREATIONS


def test_a_rename_is_judged_by_itself_and_counts_beside_no_creation(place: Place) -> None:
    place.enrol("D", "E")
    assert place.create(place.queue) == {"D", "E"}
    place.now += 1
    place.label("A", "B", label="Master")
    claimed = place.claimed(place.queue)
    for item in claimed:
        assert place.queue.begin(RENAME, [item], place.now).cohort_ids == {item.id}
    place.label("C", label="Master")
    place.queue.release()
    (third,) = [item for item in place.claimed(place.queue) if item.idnumber == "C"]
    permit = place.queue.begin(RENAME, [third], place.now)
    assert (permit.cohort_ids, permit.held) == (frozenset(), 1)
    place.queue.release()
    assert "C" not in [item.idnumber for item in place.claimed(place.queue)]


def test_nothing_is_judged_or_held_by_looking(place: Place) -> None:
    place.enrol("D", "E", "F")
    assert {(change.idnumber, change.held) for change in place.changes()} == {(code, Limit.CREATIONS) for code in "DEF"}
    assert set(place.column("held").values()) == {None}


# The first load


def test_cohorts_belong_to_the_first_load_while_one_of_it_waits(ledger: Ledger) -> None:
    place = Place.__new__(Place)
    Scene.__init__(place, ledger)
    place.queue, place.versions = workbook(ledger, guard=GUARD), 1
    place.enrol("A", "B", "C")
    claimed = place.claimed(place.queue)
    assert len(place.queue.begin(CREATION, claimed, place.now).cohort_ids) == 3
    place.enrol("D")  # while the call is under way
    rows = [(item, owned(item.id, item.idnumber, item.idnumber, place.now)) for item in claimed]
    place.queue.write_cohorts(rows, place.now, Action.CREATE_COHORT)
    place.queue.release()
    assert place.create(place.queue) == {"D"}
    place.enrol("E")
    assert place.column("first_load") == dict.fromkeys("ABCDE", False), "noted until it is created; E came after it"


# Decisions


def shown(place: Place) -> PlannedChange:
    place.enrol("D", "E", "F")
    place.create(place.queue)
    review = Review(place.ledger, {"ecampus": GUARD}, clock=lambda: place.now)
    (group,) = review.held().groups
    assert idnumbers(group.changes) == {*"DEF"}
    return group.changes[0]


def test_a_plan_tells_what_follows_from_what(place: Place) -> None:
    place.enrol("D")
    place.now += 1
    place.label("A", label="Master")
    new, other = place.changes()
    assert (new.change, new.idnumber, new.etape, new.name_before, new.name, new.students) == (
        CREATION, "D", "D", None, "D", 1,
    )  # fmt: skip
    assert (new.cause, new.origin) == (CohortCause.ENROLLED, "enrolments[0]@3")
    assert (other.change, other.idnumber, other.name_before, other.name) == (RENAME, "A", "UFR: Licence", "UFR: Master")
    assert (other.cause, other.origin) == (CohortCause.ETAPE_LABEL, f"etapes@{place.now:.0f}")
    assert new.hash != other.hash
    assert changes_hash([new, other]) == changes_hash([other, new])


def test_a_decision_is_journalled_with_who_took_it(place: Place) -> None:
    change = shown(place)
    decision = cohort_decisions.approve(place.ledger, change.hash, by="eve", now=place.now)
    assert (decision.cohorts, decision.created, decision.until) == (("ecampus/D",), 1, place.now + DAY)
    with place.ledger.read() as connection:
        entry = connection.execute(sa.select(journal).where(journal.c.action == Action.APPROVE)).one()
        row = connection.execute(sa.select(proposal).where(proposal.c.hash == change.hash)).one()
    assert (entry.cohort, entry.origin, entry.detail) == ("D", change.hash, "creation as D, by eve")
    assert (row.verdict, row.decided_by) == ("approve", "eve")
    place.create(place.queue)
    with place.ledger.read() as connection:
        created = connection.execute(sa.select(journal).where(journal.c.action == Action.CREATE_COHORT)).all()[-1]
    assert (created.cohort, created.approved) == ("D", change.hash)


def test_any_number_of_cohorts_is_decided_on_at_once(place: Place) -> None:
    many = [
        {"platform": "ecampus", "idnumber": f"X{number}", "template": 0, "state": "wanted", "rejected": "beef"}
        for number in range(70_000)
    ]
    with place.ledger.write() as connection:
        connection.execute(sa.insert(cohort), many)
    assert cohort_decisions.undo(place.ledger, "beef", by="eve", now=place.now).created == len(many)


def test_a_decision_that_is_in_force_is_not_taken_again_and_names_how_to_take_it_back(place: Place) -> None:
    change = shown(place)
    cohort_decisions.reject(place.ledger, change.hash, by="eve", now=place.now)
    with pytest.raises(DecisionRefused, match=f"decided already; `cohorts undo {change.hash}` withdraws"):
        cohort_decisions.approve(place.ledger, change.hash, by="bob", now=place.now)
    cohort_decisions.undo(place.ledger, change.hash, by="bob", now=place.now)
    with pytest.raises(DecisionRefused, match="nothing to undo"):
        cohort_decisions.undo(place.ledger, change.hash, by="bob", now=place.now)


def test_a_hash_that_was_not_shown_decides_nothing(place: Place) -> None:
    place.enrol("D", "E", "F")
    place.create(place.queue)
    (first, *_) = place.changes()
    for decide in (cohort_decisions.approve, cohort_decisions.reject):
        with pytest.raises(DecisionRefused, match="nothing was shown under this hash"):
            decide(place.ledger, first.hash, by="eve", now=place.now)


def test_an_approved_rename_does_not_let_the_cohort_be_created_once_it_is_deleted(place: Place) -> None:
    place.now += 1
    place.label("A", "B", "C", label="Master")
    for item in place.claimed(place.queue):
        place.queue.begin(RENAME, [item], place.now)
    review = Review(place.ledger, {"ecampus": GUARD}, clock=lambda: place.now)
    review.approve(review.held().groups[0].hash, by="eve")
    place.queue.release()
    for item in place.claimed(place.queue):
        place.queue.vanished(item, place.now)
    place.queue.release()
    assert place.create(place.queue) == set()
    assert {(change.change, change.cause) for change in place.changes()} == {(CREATION, CohortCause.DELETED)}


def test_gaps_in_cohorts_that_are_held_are_not_waited_for_by_the_night(place: Place) -> None:
    place.enrol("D", "E", "F")
    assert runs.open_gaps(place.ledger, 1, ["ecampus"], place.now, since=place.now) == {"ecampus": 3}
    place.create(place.queue)
    assert runs.open_gaps(place.ledger, 1, ["ecampus"], place.now, since=place.now) == {"ecampus": 0}


def test_a_report_has_the_figures_of_new_cohorts_and_renames(place: Place) -> None:
    place.enrol("D", "E")
    place.create(place.queue)
    place.enrol("F")
    with place.ledger.read() as connection:
        plan = proposals.planned(connection, "ecampus", GUARD, place.now)
    creations, renames = guard_report(plan).cohorts
    assert (creations.ours, creations.made, creations.pending, creations.held, creations.limit) == (3, 2, 0, 1, 2)
    assert (renames.ours, renames.made, renames.pending, renames.held, renames.limit) == (3, 0, 0, 0, 2)


def test_what_is_refused_by_moodle_counts_only_when_it_is_tried(place: Place) -> None:
    place.enrol("D", "E", "F")
    with place.ledger.write() as connection:
        refused = sa.update(cohort).where(cohort.c.idnumber.in_(["D", "E"]))
        connection.execute(refused.values(refusal="invalidparameter", attempts=1, next_attempt_at=place.now + HOUR))
    assert place.create(place.queue) == {"F"}
    place.now += HOUR
    assert place.create(place.queue) == set(), "with F they are three"


def test_of_a_guard_that_is_off_nothing_is_held(place: Place) -> None:
    off = workbook(place.ledger, guard=replace(GUARD, enabled=False))
    place.enrol("D", "E", "F")
    assert place.create(off) == {"D", "E", "F"}
