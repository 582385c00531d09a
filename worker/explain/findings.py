"""The values of an explanation. Codes are stable and have no language; `phrases` has a sentence for each."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from worker.domain.instants import Instant
from worker.ledger.student_view import Fact

Value = str | int | float | bool | tuple[str, ...] | tuple[int, ...] | None


class Why(StrEnum):
    """What was found."""

    # The student.
    PLATFORM_UNKNOWN = "platform_unknown"
    STUDENT_UNKNOWN = "student_unknown"
    NO_ENROLMENT = "no_enrolment"
    NUMBER_MERGED = "number_merged"
    MERGE_SET_ASIDE = "merge_set_aside"
    MERGE_CLAIMED = "merge_claimed"
    """Held: more than one person has had the numbers."""
    MERGE_TOLD_AGAIN = "merge_told_again"
    """Held: said anew after the number was found to be in use by itself."""
    MERGE_CONTRADICTED = "merge_contradicted"
    """Ended: a newer snapshot has enrolments under the former number."""
    MERGE_REJECTED = "merge_rejected"
    LOGIN = "login"
    LOGIN_UNKNOWN = "login_unknown"

    # One enrolment: whether it counts, by which rule.
    COUNTS = "counts"
    FOREIGN_UAI = "foreign_uai"
    NO_ETAPE = "no_etape"
    STATUS = "status"
    YEAR_NOT_ACTIVE = "year_not_active"
    PAYMENT = "payment"
    EXCLUDED = "excluded"
    OVERRULED = "overruled"
    """Another source has spoken of it later."""
    ANOTHERS = "anothers"
    """The source that spoke last says that it is another student's."""
    CONFIRMED = "confirmed"
    """An accepted snapshot, newer than the fact, holds it still."""

    # Where an enrolment that counts leads.
    ALIAS = "alias"
    LEADS = "leads"
    NO_ROUTE = "no_route"
    COMPONENT_UNKNOWN = "component_unknown"
    NO_IDNUMBER = "no_idnumber"
    PLATFORM_MANUAL = "platform_manual"

    # One cohort: how things stand.
    MEMBER = "member"
    MEMBER_UNCONFIRMED = "member_unconfirmed"
    """They are there by an account that isn't known any more to be theirs."""
    NOT_MEMBER = "not_member"
    TO_ADD = "to_add"
    TO_REMOVE = "to_remove"
    ADDING_UNCERTAIN = "adding_uncertain"
    REMOVING_UNCERTAIN = "removing_uncertain"
    NEVER_MEMBER = "never_member"
    COHORT_UNKNOWN = "cohort_unknown"
    NOTHING_LEADS = "nothing_leads"

    # What comes before that.
    COHORT_DELETED = "cohort_deleted"
    """Somebody deleted it on Moodle, and no person has said that its courses are seen to."""

    # Why it must be so.
    BECAUSE = "because"
    WOULD_LEAD = "would_lead"
    NO_LEADING_ENROLMENT = "no_leading_enrolment"
    NO_RULE = "no_rule"
    KEPT_REJECTED = "kept_rejected"
    KEPT_UNDONE = "kept_undone"
    RULES_DIFFER = "rules_differ"
    """The ledger was derived under other settings than those in force."""
    DESIRED_SINCE = "desired_since"
    ENDED_SINCE = "ended_since"
    DRIFTED = "drifted"
    INHERITED = "inherited"
    """The cohort had this member when it became ours, and nothing wants them there."""
    FORMER_NUMBER = "former_number"

    # What was done and seen on Moodle.
    COHORT_CREATED = "cohort_created"
    COHORT_ADOPTED = "cohort_adopted"
    DELETION_FOUND = "deletion_found"
    COURSES_SEEN_TO = "courses_seen_to"
    ADDED = "added"
    REMOVED = "removed"
    DECIDED = "decided"
    SEEN = "seen"
    SEEN_ABSENT = "seen_absent"

    # What holds it.
    FOREIGN_COHORT = "foreign_cohort"
    FOREIGN_ALIKE = "foreign_alike"
    COLLIDING_COHORT = "colliding_cohort"
    OBSERVE = "observe"
    HELD_COHORT = "held_cohort"
    HELD_COHORT_MONTH = "held_cohort_month"
    HELD_SMALL_COHORTS = "held_small_cohorts"
    HELD_PLATFORM = "held_platform"
    HELD_PLATFORM_MONTH = "held_platform_month"
    HELD_ADOPTED = "held_adopted"
    APPROVED = "approved"
    APPROVAL_EXPIRED = "approval_expired"
    PLATFORM_UNAVAILABLE = "platform_unavailable"
    PLATFORM_DENIED = "platform_denied"
    NO_ACCOUNT = "no_account"
    AMBIGUOUS_ACCOUNT = "ambiguous_account"
    UNCLEAN_ACCOUNT = "unclean_account"
    NEAR_MATCH = "near_match"
    UNCONFIRMED = "unconfirmed"
    NO_LOGIN = "no_login"
    BAD_ACCOUNT_NAME = "bad_account_name"
    TIMEOUT = "timeout"
    REFUSED = "refused"
    COHORT_TO_CREATE = "cohort_to_create"
    COHORT_HELD = "cohort_held"
    COHORT_REJECTED = "cohort_rejected"
    COHORT_REFUSED = "cohort_refused"
    COHORT_BUSY = "cohort_busy"
    COHORT_RESTING = "cohort_resting"
    WAITING_ADDITION = "waiting_addition"
    WAITING_REMOVAL = "waiting_removal"
    WAITING_GRACE = "waiting_grace"
    READY = "ready"

    # What happens next.
    NEXT_ATTEMPT = "next_attempt"
    DUE_BY = "due_by"
    OVERDUE = "overdue"
    NOTHING_TO_DO = "nothing_to_do"
    LOOK_IN_COURSE = "look_in_course"


class CohortKey(NamedTuple):
    """What names a cohort."""

    platform: str
    idnumber: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was found, with the values that its sentence needs."""

    code: Why
    values: Mapping[str, Value]


def found(code: Why, **values: Value) -> Finding:
    """Build a finding from a code and its values."""
    return Finding(code=code, values=values)


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedEnrolment:
    """What one source says of one enrolment, and what the rules make of it."""

    fact: Fact
    label: str | None
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """How things stand for one cohort of one platform, and why."""

    platform: str | None
    """None when no platform has such a cohort."""
    cohort: str | None
    """Idnumber; None when nothing leads to any cohort of the platform."""
    name: str | None
    state: Finding
    findings: tuple[Finding, ...] = ()
    alarm: Finding | None = None
    """What matters more than the state: the first line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The whole answer."""

    student: str
    """The number that was asked for."""
    numbers: tuple[str, ...]
    """All numbers of this person, the surviving one first."""
    at: Instant
    about: tuple[Finding, ...]
    enrolments: tuple[JudgedEnrolment, ...] = ()
    answers: tuple[Answer, ...] = ()

    def codes(self) -> set[Why]:
        """Return every code that occurs in it."""
        groups = [self.about, *(enrolment.findings for enrolment in self.enrolments)]
        groups += [(answer.state, *answer.findings) for answer in self.answers]
        groups += [(answer.alarm,) for answer in self.answers if answer.alarm is not None]
        return {finding.code for group in groups for finding in group}
