"""Situations of a student, set up on a ledger, for `explain` to answer about."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from tests.support.builders import (
    ECAMPUS,
    ETAPE,
    NOW,
    POLICY,
    STUDENT,
    UAI,
    deleted,
    described,
    merged,
    numbered,
    recorder,
    told,
    workbook,
)
from worker.domain.accounts import FoundAccount
from worker.domain.changes import Change, EnrolmentChange, Received
from worker.domain.cohorts import Gap
from worker.domain.drift import People
from worker.domain.guard import Guard, GuardLimits
from worker.domain.rules import CohortTemplate, Mapper, Mode, PlatformPolicy, Route
from worker.domain.snapshots import Snapshot, SnapshotScope
from worker.domain.states import Action, Cause, CohortState, Limit, Payment, PlatformState, Reason, Status
from worker.explain import Explanation, explain
from worker.ledger import Ledger, Recorder, adoption, decisions, deletions, proposals, student_view
from worker.ledger.observations import ObservationReport, Observer, PlatformReading
from worker.ledger.schema import cohort, membership
from worker.ledger.work_queue import Applied, Parked
from worker.sync.review import Review

OTHER, FORMER = "29900002", "19900001"
SANTE = PlatformPolicy(
    name="sante", mode=Mode.AUTOMATIC, routes=(Route(components=("MED",)),), account_template="{login}"
)
PRELUDE = PlatformPolicy(name="prelude", mode=Mode.MANUAL)
EVERYWHERE = replace(POLICY, platforms=(ECAMPUS, PRELUDE, SANTE))
HOUR, DAY = 3600.0, 86400.0


class Scene:
    """A ledger on which a situation is set up; `now` and `policy` are those of the question."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.now = NOW
        self.policy = POLICY

    def tell(self, *changes: Change, coalesce: float = 0, removal_delay: float = 0) -> None:
        """Record changes, published now."""
        writer = recorder(self.ledger, self.policy, coalesce=coalesce, removal_delay=removal_delay)
        writer.record([Received(change=change, published_at=self.now) for change in changes], now=self.now)

    def settle(self, platform: str = "ecampus", *, guard: Guard = Guard(enabled=False)) -> None:  # noqa: B008 - frozen
        """Do on an imaginary Moodle all that is due; accounts have the numbers of the students."""
        queue = workbook(self.ledger, platform=platform, guard=guard)
        work = queue.claim(self.now, limit=1000)
        new = [item for item in work.cohorts.values() if item.state is CohortState.WANTED]
        created = [(item, owned(item.id, item.idnumber) | {"owned_at": self.now}) for item in new]
        queue.write_cohorts(created, self.now, Action.CREATE_COHORT)
        sent = queue.mark_in_flight([(gap, account_of(gap)) for gap in work.gaps], self.now)
        queue.settle(applied=[Applied(gap=gap, user_id=user_id) for gap, user_id in sent], now=self.now)
        queue.release()

    def park(self, reason: str, *, platform: str = "ecampus", observed: bool | None = False) -> None:
        """Have all that is due fail, to be tried again in five minutes."""
        queue = workbook(self.ledger, platform=platform)
        work = queue.claim(self.now, limit=1000)
        retry_at = self.now + 300
        parked = [Parked(gap=gap, reason=reason, retry_at=retry_at, observed=observed) for gap in work.gaps]
        queue.settle(parked=parked, now=self.now)
        queue.release()

    def look(
        self,
        members: Mapping[str, Collection[int]],
        students: Iterable[str],
        *,
        at: float | None = None,
        run: int = 9,
        gone: frozenset[int] = frozenset(),
        remove_unmatched: bool = False,
    ) -> ObservationReport:
        """Read Moodle back, since `at`: cohorts with these members, by idnumber, and accounts of these students.

        Cohorts of ours that aren't among them were deleted.
        """
        with self.ledger.read() as connection:
            rows = connection.execute(sa.select(cohort).where(cohort.c.state == CohortState.OWNED)).all()
        shown = [row for row in rows if row.idnumber in members]
        accounts = {number: int(number) for number in students if int(number) not in gone}
        observer = Observer(self.ledger, ECAMPUS, run=run, remove_unmatched=remove_unmatched)
        reading = PlatformReading(
            at=self.now if at is None else at,
            ours=observer.owned(),
            cohorts={row.moodle_id: Remote(row.moodle_id, row.moodle_name, row.idnumber) for row in shown},
            members={row.moodle_id: {*members[row.idnumber]} for row in shown},
            people=People(accounts=accounts, students={n: s for s, n in accounts.items()}, gone=gone),
        )
        return observer.write(reading, self.now)

    def change_cohort(self, **values: object) -> None:
        """Set columns of all cohorts."""
        with self.ledger.write() as connection:
            connection.execute(sa.update(cohort).values(**values))

    def image(self, *rows: EnrolmentChange) -> None:
        """Accept a snapshot, complete for the year, taken now."""
        at = [row._replace(changed_at=self.now, origin=f"snapshot night[0]#{i}") for i, row in enumerate(rows)]
        scope = SnapshotScope(uais=frozenset({UAI}), academic_years=frozenset({2026}))
        taken = Snapshot(id="night", taken_at=self.now, system="apogee", scope=scope, rows=at)
        recorder(self.ledger, self.policy).record_snapshot(taken, run=7, now=self.now)

    def ask(self, student: str, platform: str | None, idnumber: str | None) -> Explanation:
        """Have the question answered."""
        known = student_view.read(self.ledger, self.policy, student, idnumber)
        return explain(known, self.policy, now=self.now, platform=platform, cohort=idnumber)


@dataclass(frozen=True)
class Remote:
    """A cohort as Moodle shows it."""

    id: int
    name: str
    idnumber: str


def account_of(gap: Gap) -> int:
    """Return the account of a member: known, or numbered as the student is."""
    return gap.user_id if gap.user_id is not None else int(gap.student_id)


def owned(moodle_id: int, idnumber: str) -> dict[str, Any]:
    return {
        "state": CohortState.OWNED,
        "moodle_id": moodle_id,
        "moodle_name": f"Cohorte {idnumber}",
        "moodle_idnumber": idnumber,
    }


Setup = Callable[[Scene], None]

# Setting up


def parked_on(platform: str, reason: str, *, observed: bool | None = False) -> Setup:
    """Enrol the student, and have Moodle or the look-up of the account refuse it."""

    def setup(scene: Scene) -> None:
        scene.tell(told(component="MED"))
        scene.park(reason, platform=platform, observed=observed)

    return setup


def nothing(_scene: Scene) -> None:
    pass


def a_member(scene: Scene) -> None:
    scene.tell(told(login="exemple"), described("Licence 1", component="U99", component_label="UFR des Sciences"))
    scene.settle()


def never_told_but_a_snapshot_was_taken(scene: Scene) -> None:
    scene.image(told(student_id=OTHER))


def another_student_only(scene: Scene) -> None:
    scene.policy = EVERYWHERE
    scene.tell(told(student_id=OTHER, enrolment_id="9"), told(etape="XMATH1"))
    scene.settle()


def just_enrolled(scene: Scene) -> None:
    scene.tell(told(), coalesce=2)


def enrolled_and_due(scene: Scene) -> None:
    scene.tell(told())


def enrolled_two_days_ago(scene: Scene) -> None:
    scene.tell(told())
    scene.now += 2 * DAY


def ended(status: Status, *, removal_delay: float = 0) -> Setup:
    """Make a member, and end their enrolment an hour later."""

    def setup(scene: Scene) -> None:
        a_member(scene)
        scene.now += HOUR
        scene.tell(
            told(version=2, changed_at=scene.now, status=status, origin="enrolments[0]@2"), removal_delay=removal_delay
        )

    return setup


def resigned_and_removed(scene: Scene) -> None:
    ended(Status.RESIGNED)(scene)
    scene.now += HOUR
    scene.settle()


def told_so(**changes: Any) -> Setup:  # noqa: ANN401 - any field of a change
    """Tell one enrolment, beside one of another student that makes the cohort known."""

    def setup(scene: Scene) -> None:
        scene.policy = EVERYWHERE
        scene.tell(told(student_id=OTHER, enrolment_id="9"), told(**changes))

    return setup


def excluded(scene: Scene) -> None:
    scene.policy = replace(POLICY, exclude_etapes=("XINFO*",))
    scene.tell(told())


def deleted_at_the_source(scene: Scene) -> None:
    a_member(scene)
    scene.now += HOUR
    scene.tell(deleted(version=2, changed_at=scene.now, origin="enrolments[0]@2"))
    scene.settle()


def another_source_says_otherwise(scene: Scene) -> None:
    scene.tell(told())
    scene.tell(told(system="supann", changed_at=NOW + 60, status=Status.CANCELLED, payment=Payment.UNKNOWN))


def another_source_names_another_student(scene: Scene) -> None:
    scene.tell(told())
    scene.tell(told(system="supann", changed_at=NOW + 60, student_id=OTHER))


def the_enrolment_was_given_another_number(scene: Scene) -> None:
    a_member(scene)
    scene.now += HOUR
    scene.tell(told(version=2, student_id=OTHER, changed_at=scene.now))
    scene.settle()


def merged_after_having_joined(scene: Scene) -> None:
    scene.tell(told(student_id=FORMER))
    scene.settle()
    scene.now += HOUR
    scene.tell(merged(FORMER, STUDENT, at=scene.now))


def merged_and_reversed(scene: Scene) -> None:
    scene.tell(told(), merged(STUDENT, FORMER), merged(FORMER, STUDENT, at=NOW + 60))
    scene.settle()


def number_of_two_persons(scene: Scene) -> None:
    scene.tell(numbered(1, STUDENT, version=1), numbered(1, OTHER, version=2), numbered(2, STUDENT, version=3), told())
    scene.settle()


def merged_and_still_in_use(scene: Scene) -> None:
    scene.tell(told(), merged(STUDENT, OTHER))
    scene.now += HOUR
    scene.image(told())
    scene.settle()


def merged_again_though_in_use(scene: Scene) -> None:
    merged_and_still_in_use(scene)
    scene.now += HOUR
    scene.tell(merged(STUDENT, OTHER, at=scene.now))


def merge_ended_by_a_person(scene: Scene) -> None:
    scene.tell(told(), merged(STUDENT, OTHER))
    scene.now += HOUR
    recorder(scene.ledger).decide_merge(STUDENT, None, Action.REJECT, by="scol", now=scene.now)
    scene.settle()


def login_under_the_former_number(scene: Scene) -> None:
    scene.policy = EVERYWHERE
    scene.tell(told(student_id=FORMER, login="exemple", component="MED"), merged(FORMER, STUDENT))
    scene.park(Reason.NO_LOGIN, platform="sante")


def looked_up_and_not_found(scene: Scene) -> None:
    scene.tell(told())
    workbook(scene.ledger).accounts.remember({STUDENT: FoundAccount(reason=Reason.NO_ACCOUNT)}, scene.now)
    scene.park(Reason.NO_ACCOUNT)
    scene.now += 60


def looked_up_and_found_under_almost_that_name(scene: Scene) -> None:
    scene.tell(told())
    near = FoundAccount(reason=Reason.NEAR_MATCH, near_id=31)
    workbook(scene.ledger).accounts.remember({STUDENT: near}, scene.now)
    scene.park(Reason.NEAR_MATCH)


def a_member_whose_account_lost_its_name(scene: Scene) -> None:
    a_member(scene)
    workbook(scene.ledger).accounts.remember({STUDENT: FoundAccount(reason=Reason.NO_ACCOUNT)}, scene.now)


def a_member_whose_login_changed(scene: Scene) -> None:
    scene.policy = EVERYWHERE
    scene.tell(told(login="exemple", component="MED"))
    scene.settle("sante")
    scene.now += HOUR
    scene.tell(told(login="exemple2", component="MED", version=2, changed_at=scene.now, origin="enrolments[0]@2"))


def of_another_component(scene: Scene) -> None:
    scene.policy = EVERYWHERE
    scene.tell(told())


def of_no_known_component(scene: Scene) -> None:
    scene.policy = EVERYWHERE
    scene.tell(told(component=None))


def without_a_version(scene: Scene) -> None:
    scene.policy = replace(
        POLICY, platforms=(replace(ECAMPUS, templates=(CohortTemplate(idnumber="{etape}-{version}"),)),)
    )
    scene.tell(told(etape_version=None))


def by_hand_only(scene: Scene) -> None:
    scene.policy = EVERYWHERE
    scene.tell(told())


def by_hand_from_now_on(scene: Scene) -> None:
    a_member(scene)
    scene.policy = replace(POLICY, platforms=(replace(ECAMPUS, mode=Mode.MANUAL),))


def under_the_former_code(scene: Scene) -> None:
    scene.policy = replace(POLICY, aliases={"OLD": ETAPE})
    scene.tell(told(etape="OLD"))
    scene.settle()


def under_a_code_that_was_replaced_later(scene: Scene) -> None:
    scene.tell(told(), told(student_id=OTHER, enrolment_id="9", etape="NEW"))
    scene.settle()
    scene.now += HOUR
    scene.policy = replace(POLICY, aliases={ETAPE: "NEW"})
    recorder(scene.ledger, scene.policy).apply_policy(now=scene.now)
    scene.settle()


def a_route_that_was_closed(scene: Scene) -> None:
    a_member(scene)
    scene.now += HOUR
    scene.policy = replace(POLICY, platforms=(replace(ECAMPUS, routes=(Route(etapes=("M*",)),)),))
    recorder(scene.ledger, scene.policy).apply_policy(now=scene.now)
    scene.settle()
    scene.tell(deleted(version=2, changed_at=scene.now))


def a_setting_that_was_not_applied_yet(scene: Scene) -> None:
    a_member(scene)
    scene.policy = replace(POLICY, payments=frozenset({Payment.UNKNOWN}))


def enrolled_elsewhere(scene: Scene) -> None:
    scene.policy = replace(POLICY, aliases={"OLD": ETAPE})
    scene.tell(told(student_id=OTHER, enrolment_id="9"), told(etape="XMATH1"))


def a_cohort_of_a_component(scene: Scene) -> None:
    template = CohortTemplate(idnumber="C-{component}", name="{component_label}")
    scene.policy = replace(POLICY, platforms=(replace(ECAMPUS, templates=(template,)),))
    scene.tell(told(student_id=OTHER, enrolment_id="9"), told(etape="XDROI1", component="DRT"))


def a_cohort_made_by_hand(scene: Scene) -> None:
    scene.tell(told())
    scene.change_cohort(state=CohortState.FOREIGN)


def a_cohort_that_the_database_takes_for_somebody_elses(scene: Scene) -> None:
    scene.tell(told())
    scene.change_cohort(state=CohortState.FOREIGN, blocker_id=7, blocker="xinfo1")


def one_of_many_new_cohorts(scene: Scene) -> None:
    scene.tell(told())
    scene.change_cohort(held=Limit.CREATIONS)


def a_new_cohort_that_was_rejected(scene: Scene) -> None:
    one_of_many_new_cohorts(scene)
    review = Review(scene.ledger, {"ecampus": Guard()}, clock=lambda: scene.now)
    (group,) = review.held().groups
    review.reject(group.hash, by="cemu")


def a_cohort_that_the_database_takes_for_another_etapes(scene: Scene) -> None:
    scene.tell(told())
    scene.change_cohort(state=CohortState.COLLIDING, blocker_id=7, blocker="xinfo1")


def an_adopted_cohort(scene: Scene) -> None:
    scene.tell(told())
    (cohort_id,) = (wanted.id for wanted in adoption.wanted(scene.ledger, "ecampus"))
    adoption.take(
        scene.ledger, cohort_id, platform="ecampus", values=owned(5, ETAPE), present={STUDENT: 31}, now=NOW, by="cemu"
    )


def inherited_with_an_adopted_cohort(scene: Scene) -> None:
    """Have the student resign, and somebody adopt the cohort, in which they still are: nobody removed them."""
    scene.tell(told(student_id=OTHER, enrolment_id="9"), told(status=Status.RESIGNED))
    (cohort_id,) = (wanted.id for wanted in adoption.wanted(scene.ledger, "ecampus"))
    adoption.take(scene.ledger, cohort_id, platform="ecampus", values=owned(5, ETAPE), present={}, now=NOW, by="cemu")
    scene.now += HOUR
    scene.look({ETAPE: [int(STUDENT)]}, [STUDENT, OTHER])
    queue = workbook(scene.ledger, guard=Guard())
    assert all(gap.desired for gap in queue.claim(scene.now, limit=100).gaps)
    queue.release()


def deleted_and_made_again(scene: Scene) -> None:
    """Delete the cohort, find that it is gone, and make and fill it again."""
    a_member(scene)
    scene.now += HOUR
    scene.look({}, [STUDENT])
    scene.settle()


def deleted_made_again_and_seen_to(scene: Scene) -> None:
    deleted_and_made_again(scene)
    deletions.acknowledge(scene.ledger, "ecampus", [ETAPE], by="cemu", now=scene.now)


def only_observed(scene: Scene) -> None:
    scene.policy = replace(POLICY, platforms=(replace(ECAMPUS, mode=Mode.OBSERVE),))
    scene.tell(told())
    scene.park(Reason.OBSERVE)


def a_class_leaves(scene: Scene, guard: Guard = Guard()) -> None:  # noqa: B008 - frozen
    """Make members of the student and eleven others, and have all of them leave, an hour later."""
    numbers = [STUDENT, *(str(29900100 + rank) for rank in range(11))]
    scene.tell(*(told(student_id=number, enrolment_id=number) for number in numbers))
    scene.settle()
    scene.now += HOUR
    gone = {"version": 2, "changed_at": scene.now, "status": Status.RESIGNED, "origin": "enrolments[0]@2"}
    scene.tell(*(told(student_id=number, enrolment_id=number, **gone) for number in numbers))
    assert not workbook(scene.ledger, guard=guard).claim(scene.now, limit=100)


def beyond_the_platforms_limit(scene: Scene) -> None:
    a_class_leaves(scene, Guard(limits=GuardLimits(cohort_percent=100, platform_percent=5)))


def beyond_a_limit_of_the_month(limits: GuardLimits) -> Setup:
    """Return a scene of a cohort of twelve: four others leave it, and the student two days later."""

    def setup(scene: Scene) -> None:
        numbers = [STUDENT, *(str(29900100 + rank) for rank in range(11))]
        scene.tell(*(told(student_id=number, enrolment_id=number) for number in numbers))
        scene.settle()
        for leaving in (numbers[1:5], numbers[:1]):
            scene.now += 2 * DAY
            gone = {"version": 2, "changed_at": scene.now, "status": Status.RESIGNED, "origin": "enrolments[0]@2"}
            scene.tell(*(told(student_id=number, enrolment_id=number, **gone) for number in leaving))
            scene.settle(guard=Guard(limits=limits))

    return setup


def beyond_the_limit_of_small_cohorts(scene: Scene) -> None:
    """Have the student and two others leave a small cohort, and five others another one."""
    etapes = [ETAPE] * 3 + ["XDROI1"] * 5
    numbers = [STUDENT, *(str(29900100 + rank) for rank in range(7))]
    members = [
        told(student_id=number, enrolment_id=number, etape=etape) for number, etape in zip(numbers, etapes, strict=True)
    ]
    scene.tell(*members)
    scene.settle()
    scene.now += HOUR
    for member in members:
        scene.tell(member._replace(version=2, changed_at=scene.now, status=Status.RESIGNED, origin="enrolments[0]@2"))
    limits = GuardLimits(platform_percent=100, floor=5, month_floor=5)
    assert not workbook(scene.ledger, guard=Guard(limits=limits)).claim(scene.now, limit=100)


def plan_hash(scene: Scene) -> str:
    """Be shown what is held."""
    with scene.ledger.write() as connection:
        (leaving,) = proposals.planned(connection, "ecampus", Guard(), scene.now).cohorts
        name = decisions.show(connection, "ecampus", leaving.pairs, scene.now)
    assert name is not None
    return name


def approved(scene: Scene) -> None:
    a_class_leaves(scene)
    decisions.approve(scene.ledger, plan_hash(scene), by="cemu", now=scene.now)


def approved_too_long_ago(scene: Scene) -> None:
    approved(scene)
    scene.now += 2 * DAY


def approved_and_removed(scene: Scene) -> None:
    approved(scene)
    scene.settle(guard=Guard())


def rejected(scene: Scene) -> None:
    a_class_leaves(scene)
    decisions.reject(scene.ledger, plan_hash(scene), by="cemu", now=scene.now)


def rejected_and_enrolled_again(scene: Scene) -> None:
    rejected(scene)
    scene.now += HOUR
    scene.tell(told(enrolment_id=STUDENT, version=3, changed_at=scene.now))


def undone(scene: Scene) -> None:
    a_class_leaves(scene)
    name = plan_hash(scene)
    decisions.approve(scene.ledger, name, by="cemu", now=scene.now)
    scene.settle(guard=Guard())
    scene.now += HOUR
    decisions.undo(scene.ledger, name, by="scol", now=scene.now)


def platform_answers(state: PlatformState, code: str, sentence: str) -> Setup:
    """Enrol the student, and have the platform give no good answer."""

    def setup(scene: Scene) -> None:
        scene.tell(told())
        workbook(scene.ledger).availability.failed(
            state, NOW, began=NOW, code=code, sentence=sentence, pause=lambda _: 300.0
        )

    return setup


def removal_timed_out(scene: Scene) -> None:
    ended(Status.RESIGNED)(scene)
    scene.park(Reason.TIMEOUT, observed=None)
    scene.now += 60


def creation_refused(scene: Scene) -> None:
    scene.tell(told())
    scene.change_cohort(attempts=2, next_attempt_at=NOW + 600, refusal="invalidparameter")


def in_a_call_now(scene: Scene) -> None:
    a_member(scene)
    scene.tell(told(student_id=OTHER, enrolment_id="9"))
    queue = workbook(scene.ledger)
    work = queue.claim(scene.now, limit=10)
    queue.mark_in_flight([(gap, 32) for gap in work.gaps], scene.now)


def left_in_peace_after_a_time_out(scene: Scene) -> None:
    in_a_call_now(scene)
    scene.change_cohort(lease_holder=None, lease_until=scene.now + 90)


def a_year_that_was_closed(scene: Scene) -> None:
    a_member(scene)
    scene.now += HOUR
    scene.policy = replace(POLICY, active_years=frozenset({2027}))
    patient = Recorder(scene.ledger, Mapper(scene.policy), coalesce=0, removal_delay=0, grace=30 * DAY)
    patient.apply_policy(now=scene.now)


def absent_from_the_snapshot(scene: Scene) -> None:
    a_member(scene)
    scene.now += HOUR
    scene.image(told(student_id=OTHER, enrolment_id="9"))


def held_by_the_snapshot(scene: Scene) -> None:
    a_member(scene)
    scene.now += HOUR
    scene.image(told())


def drifted(*, desired: bool) -> Setup:
    """Have a reconciliation find that somebody took a member out, or put a student in."""

    def setup(scene: Scene) -> None:
        a_member(scene)
        if not desired:
            resigned_and_removed(scene)
        scene.now += HOUR
        with scene.ledger.write() as connection:
            gap = {"cause": Cause.DRIFT, "origin": "run 7", "since": scene.now, "run": 7, "due_by": scene.now + DAY}
            connection.execute(
                sa.update(membership).values(observed=not desired, observed_at=scene.now, priority=1, **gap)
            )

    return setup
