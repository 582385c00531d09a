"""Changes and policies, with defaults for the values that don't matter."""

from typing import Any

import sqlalchemy as sa

from worker.domain.changes import EnrolmentChange, EtapeChange, NumberChange, PersonNumbered, Received
from worker.domain.guard import Guard
from worker.domain.instants import Instant
from worker.domain.rules import CohortTemplate, Mapper, Mode, PlatformPolicy, Policy
from worker.domain.states import Payment, Status
from worker.ledger import Ledger, Recorder, WorkQueue
from worker.ledger.schema import cohort, membership, metadata

UAI, FOREIGN_UAI = "0141408E", "0751717J"
NOW: Instant = 1_788_243_000.0
STUDENT, ETAPE = "29900001", "XINFO1"
ECAMPUS = PlatformPolicy(
    name="ecampus", mode=Mode.AUTOMATIC, templates=(CohortTemplate(name="{component_label}: {etape_label}"),)
)
POLICY = Policy(uais=frozenset({UAI}), active_years=frozenset({2026}), platforms=(ECAMPUS,))

TOLD = EnrolmentChange(
    uai=UAI,
    enrolment_id="2026:104233:XINFO1:101:1",
    system="apogee",
    version=1,
    changed_at=NOW,
    student_id=STUDENT,
    status=Status.ACTIVE,
    origin="enrolments[0]@1",
    academic_year=2026,
    etape=ETAPE,
    etape_version="101",
    component="U99",
    payment=Payment.PAID,
)


def told(**changes: Any) -> EnrolmentChange:  # noqa: ANN401 - any field of it
    """Return an enrolment's change, active and paid by default."""
    return TOLD._replace(**changes)


def deleted(**changes: Any) -> EnrolmentChange:  # noqa: ANN401 - any field of it
    """Return an enrolment's deletion, with as little as a message may know of it."""
    bare = TOLD._replace(status=Status.DELETED, etape=None, etape_version=None, academic_year=None)
    return bare._replace(component=None, payment=Payment.UNKNOWN, **changes)


def merged(previous: str, into: str, *, at: Instant = NOW, uai: str = UAI) -> NumberChange:
    """Return the merge of a number into another."""
    return NumberChange(uai=uai, previous_student_id=previous, student_id=into, changed_at=at, origin=f"merge@{at:.0f}")


def numbered(person: int, number: str, *, version: int, at: Instant | None = None) -> PersonNumbered:
    """Return that a person has a number."""
    changed_at = NOW + version if at is None else at
    return PersonNumbered(
        uai=UAI,
        person=person,
        student_id=number,
        version=version,
        sequence="",
        changed_at=changed_at,
        origin=f"individu@{version}",
    )


def described(
    label: str | None = None, *, etape: str = ETAPE, at: Instant = NOW, uai: str = UAI, **more: str | None
) -> EtapeChange:
    """Return the description of an étape: its label, its component or both."""
    return EtapeChange(uai=uai, etape=etape, changed_at=at, origin=f"etapes@{at:.0f}", etape_label=label, **more)


def received(*changes: EnrolmentChange | NumberChange | EtapeChange, at: Instant = NOW) -> list[Received]:
    """Return the changes as they are received."""
    return [Received(change=change, published_at=at) for change in changes]


def recorder(ledger: Ledger, policy: Policy = POLICY, *, coalesce: float = 0, removal_delay: float = 0) -> Recorder:
    """Build a recorder, without delays by default."""
    return Recorder(ledger, Mapper(policy), coalesce=coalesce, removal_delay=removal_delay)


def workbook(
    ledger: Ledger,
    holder: str = "lane-0",
    *,
    platform: str = "ecampus",
    guard: Guard = Guard(),  # noqa: B008 - frozen
) -> WorkQueue:
    """Open the work queue of a platform, with leases of a minute."""
    return WorkQueue(ledger, platform, holder, lease=60, guard=guard)


def content(ledger: Ledger) -> dict[str, list[tuple[Any, ...]]]:
    """Return everything in the ledger, by table."""
    with ledger.read() as connection:
        return {
            table.name: sorted((tuple(row) for row in connection.execute(sa.select(table))), key=repr)
            for table in metadata.sorted_tables
        }


def names(ledger: Ledger, platform: str = "ecampus") -> dict[str, str | None]:
    """Return wanted names by idnumber, of the cohorts with desired members."""
    used = sa.select(membership.c.cohort_id).where(membership.c.desired)
    with ledger.read() as connection:
        rows = connection.execute(
            sa.select(cohort.c.idnumber, cohort.c.wanted_name).where(
                cohort.c.platform == platform, cohort.c.id.in_(used)
            )
        )
        return {row.idnumber: row.wanted_name for row in rows}


def memberships(ledger: Ledger) -> dict[tuple[str, str], sa.Row[Any]]:
    """Return every row of a membership, by (cohort idnumber, student id)."""
    with ledger.read() as connection:
        rows = connection.execute(sa.select(cohort.c.idnumber, membership).join(membership)).all()
        return {(row.idnumber, row.student_id): row for row in rows}
