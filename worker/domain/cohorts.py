"""Cohorts and memberships as the ledger knows them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from worker.domain.instants import Instant
from worker.domain.sanitize import printable
from worker.domain.states import OF_DECISIONS, PARKING, Blockage, Cause, Channel, CohortState

_UNMATCHED = "#"
BLOCKED_SHOWN = 20
"""Cohorts that wait for a person and are named one by one: before the first adoption there may be a thousand."""


def unmatched_key(user_id: int) -> str:
    """Return what stands for the student id of a member whom we can't tie to a student.

    It is a key, one per account. The account itself is the membership's `user_id`, which stays set for as long as the
    membership is known, so that a removal that is undone can put it back.
    """
    return f"{_UNMATCHED}{user_id}"


def is_unmatched(student_id: str) -> bool:
    """Return whether this is a key of `unmatched_key`, not a student's number."""
    return student_id.startswith(_UNMATCHED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cohort:
    """A cohort as the ledger knows it."""

    id: int
    platform: str
    idnumber: str
    etape: str | None
    wanted_name: str | None
    state: CohortState
    moodle_id: int | None
    moodle_name: str | None
    moodle_idnumber: str | None
    name_is_ours: bool
    attempts: int
    held: bool = False
    """Whether its creation, or its new label, waits for a person, or was rejected."""
    approved: str | None = None
    """Hash of the plan that a person approved."""
    creation_at: Instant | None = None
    """When a call was last sent to create it that counts towards the guard's limit."""
    renaming_at: Instant | None = None
    """When a call was last sent to rename it that counts towards the guard's limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockedCohort:
    """A cohort that students belong to and that waits for a person: it can't be created, filled or renamed."""

    idnumber: str
    why: Blockage
    students: int
    """Who belong to it."""
    blocker: str | None
    """Idnumber of the cohort on Moodle that has its idnumber, or one that the database takes for it."""
    blocker_id: int | None
    """Moodle's id of that cohort."""
    code: str | None
    """Moodle's errorcode, where it has refused."""

    def __str__(self) -> str:
        blocker = "another cohort" if self.blocker is None else f"{printable(self.blocker)} (id {self.blocker_id})"
        match self.why:
            case Blockage.FOREIGN if self.blocker == self.idnumber:
                what = f"the cohort with id {self.blocker_id} has this idnumber and isn't ours: adopt or rename it"
            case Blockage.FOREIGN:
                what = f"Moodle takes its idnumber for that of {blocker}, which isn't ours: adopt or rename that one"
            case Blockage.COLLIDING:
                what = (
                    f"Moodle takes its idnumber for that of {blocker}, another étape's of ours: "
                    "join the two by an alias, or give one of them another idnumber"
                )
            case Blockage.REFUSED:
                what = f"Moodle refuses to create it: {self.code}"
            case Blockage.MISNAMED:
                what = f"it keeps its former idnumber, since Moodle takes this one for that of {blocker}"
        return f"{self.idnumber}, {self.students} student{'s' if self.students != 1 else ''}: {what}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeletedCohort:
    """A cohort of ours that somebody deleted on Moodle, until a person says that its courses have been seen to.

    With it, Moodle deleted the synchronisation of every course with it; the one that is made again has none.
    """

    idnumber: str
    name: str | None
    etape: str | None
    deleted_at: Instant
    """When it was noticed."""
    lost: int
    """Members whom we knew to be in it."""
    state: CohortState
    moodle_id: int | None
    """Moodle's id of the one that was made again; None while there is none."""


def blocked_sentences(blocked: Sequence[BlockedCohort]) -> Iterator[str]:
    """Yield a sentence for each of the first cohorts that wait for a person, and one for all others."""
    yield from map(str, blocked[:BLOCKED_SHOWN])
    if more := blocked[BLOCKED_SHOWN:]:
        yield f"{len(more)} more cohorts wait for a person: see `cohorts status --json`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A membership to be added (`desired`) or removed."""

    cohort_id: int
    student_id: str
    login: str | None
    desired: bool
    user_id: int | None
    cause: str
    origin: str
    since: Instant
    attempts: int
    run: int | None = None
    """The reconciliation that opened the gap."""
    approved: str | None = None
    """Hash of the plan that a person approved."""
    reason: str | None = None
    """Why the last attempt failed."""

    @property
    def is_unmatched(self) -> bool:
        """Whether it is of an account that we can't tie to a student."""
        return is_unmatched(self.student_id)

    @property
    def channel(self) -> Channel:
        """How it came, the longest wait first."""
        if self.approved is not None:
            return Channel.APPROVED
        if self.reason in PARKING:
            return Channel.PARKED
        if self.run is not None or self.cause == Cause.DRIFT:
            return Channel.NIGHT
        return Channel.DECISION if self.cause in OF_DECISIONS else Channel.MESSAGE
