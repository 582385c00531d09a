"""The closed lists: what an enrolment, a cohort, a platform or a run can be, and why."""

from enum import StrEnum


class Language(StrEnum):
    """A language of explanations and reports."""

    FR = "fr"
    EN = "en"


class Status(StrEnum):
    """The status of an enrolment at its source. A `DELETED` enrolment's row no longer exists there."""

    ACTIVE = "active"
    PENDING = "pending"
    CANCELLED = "cancelled"
    RESIGNED = "resigned"
    DELETED = "deleted"
    ABSENT = "absent"
    """It is missing from a complete snapshot that is newer than all that was known of it."""


class Payment(StrEnum):
    """Whether the enrolment's fees are paid, as far as the source knows."""

    PAID = "paid"
    DUE = "due"
    UNKNOWN = "unknown"


class Cause(StrEnum):
    """Why a membership is desired, or no longer is: the enrolment's status, or another event."""

    ACTIVE = "active"
    PENDING = "pending"
    CANCELLED = "cancelled"
    RESIGNED = "resigned"
    DELETED = "deleted"
    REKEYED = "rekeyed"
    """Two student numbers were merged, or no longer are, or an enrolment followed its person to another number."""
    DESCRIBED = "described"
    """The étape's component, which routes depend on, became known or changed."""
    ABSENT = "absent"
    """The enrolment is missing from a complete snapshot."""
    SETTINGS = "settings"
    YEAR_CLOSED = "year_closed"
    """The enrolment's year is no longer active."""
    DRIFT = "drift"
    """Moodle differed from what we had left there."""
    ADOPTED = "adopted"
    """The cohort had this member when it became ours."""
    CHANGED_HANDS = "changed_hands"
    """The account of a member turned out to be another person's, or the member to have another account."""
    LOGIN = "login"
    """The student's login changed: whether their account is still theirs is looked up anew."""
    UNDONE = "undone"
    """A person undid a removal."""
    REJECTED = "rejected"
    """A person rejected the removal."""
    ERASED = "erased"
    """A student whom only a decision had kept is to be erased."""


class Channel(StrEnum):
    """How a change reached Moodle. The promise of minutes is about `MESSAGE`: announced, and kept waiting by nobody."""

    MESSAGE = "message"
    NIGHT = "night"
    """A reconciliation found it."""
    DECISION = "decision"
    """A setting was changed, or a person decided."""
    PARKED = "parked"
    """It waited for an account, or for the end of observing."""
    APPROVED = "approved"
    """The guard held it until a person approved it."""


class CohortState(StrEnum):
    """The state of a cohort on its platform, as far as we know."""

    WANTED = "wanted"
    """Not looked for yet, or not created yet."""
    OWNED = "owned"
    """Created by us, or adopted: we may write it."""
    FOREIGN = "foreign"
    """A cohort with its idnumber, or one that Moodle's database takes for it, isn't ours: `cohorts adopt`."""
    COLLIDING = "colliding"
    """Moodle's database takes its idnumber for that of another cohort of ours: a person decides on their codes."""


BLOCKED = frozenset({CohortState.FOREIGN, CohortState.COLLIDING})
"""States of cohorts that stay as they are until a person acts, here or on Moodle."""


class Blockage(StrEnum):
    """Why a cohort that students belong to, or its new idnumber, waits for a person."""

    FOREIGN = "foreign"
    COLLIDING = "colliding"
    REFUSED = "refused"
    """Moodle refuses to create it, and no cohort that is there says why."""
    MISNAMED = "misnamed"
    """It is ours and has its members, but another cohort has its new idnumber."""


class Limit(StrEnum):
    """The limit of the guard that holds removals, or cohorts that are to be created or renamed."""

    COHORT = "cohort"
    COHORT_MONTH = "cohort_month"
    """That of a cohort in 30 days."""
    SMALL_COHORTS = "small_cohorts"
    """The floor of the platform: what always passes of one small cohort is too much of many."""
    PLATFORM = "platform"
    PLATFORM_MONTH = "platform_month"
    """That of the platform in 30 days."""
    ADOPTED = "adopted"
    """None: whoever was in a cohort when it became ours leaves it because a person said so."""
    CREATIONS = "creations"
    """That of the cohorts created on a platform."""
    RENAMES = "renames"
    """That of the cohorts renamed on a platform."""


OF_REMOVALS = tuple(limit for limit in Limit if limit not in {Limit.CREATIONS, Limit.RENAMES})
"""The limits that hold removals."""


class CohortChange(StrEnum):
    """What is done to a cohort as a whole. It can't be taken back: teachers use a cohort as soon as it has a name."""

    CREATION = "creation"
    RENAME = "rename"


class Kept(StrEnum):
    """Why a membership is kept although the rules don't desire it."""

    REJECTED = "rejected"
    """A person rejected its removal: it is kept until the desired state changes again."""
    UNDONE = "undone"
    """A person undid its removal: it is kept until a newer message or snapshot ends the enrolment."""


class MergeState(StrEnum):
    """What became of a merge: that a student number lives on as another, as a message or change capture says."""

    APPLIED = "applied"
    SET_ASIDE = "set_aside"
    """A newer merge leads the number elsewhere, or back."""
    CLAIMED = "claimed"
    """Held: more than one person has had the numbers, so that they may be two people's."""
    TOLD_AGAIN = "told_again"
    """Held: said anew after a snapshot, or a person, said that the number is in use by itself."""
    CONTRADICTED = "contradicted"
    """A newer snapshot has enrolments under the former number, or a person has said since that it is in use."""
    REJECTED = "rejected"
    """A person ended it."""


HELD_MERGES = (MergeState.CLAIMED, MergeState.TOLD_AGAIN)
"""Merges without effect until a person decides."""


class Drift(StrEnum):
    """A difference between Moodle and what we left there, that no message announced."""

    MISSING = "missing"
    """A member whom we had added is no longer there."""
    EXTRA = "extra"
    """A known student is there who isn't desired."""
    GONE_ACCOUNT = "gone_account"
    """A member is no longer there because their account was deleted."""
    CHANGED_HANDS = "changed_hands"
    """A member's account is another person's by now, or theirs is another one."""
    RENAMED = "renamed"
    """A cohort of ours has another name or idnumber."""
    VANISHED = "vanished"
    """A cohort of ours was deleted."""


class RunState(StrEnum):
    """The state of a reconciliation: running, or how it ended."""

    RUNNING = "running"
    DONE = "done"
    PARTIAL = "partial"
    """A platform could not be read or written, or gaps were left that could have been closed."""
    REFUSED = "refused"
    """No snapshot could be accepted: nothing was changed."""
    FAILED = "failed"
    ABANDONED = "abandoned"
    """Its process died; the next run took over its work."""


class PlatformState(StrEnum):
    """How the last call to a platform ended."""

    UP = "up"
    UNAVAILABLE = "unavailable"
    DENIED = "denied"


class Action(StrEnum):
    """What was done or found on Moodle, or decided by a person."""

    ADD = "add"
    REMOVE = "remove"
    CREATE_COHORT = "create_cohort"
    RENAME_COHORT = "rename_cohort"
    ADOPT_COHORT = "adopt_cohort"
    COHORT_DELETED = "cohort_deleted"
    """Somebody else deleted a cohort of ours, and we noticed."""
    ACKNOWLEDGE = "acknowledge"
    """A person said that the courses of a deleted cohort have been seen to."""
    APPROVE = "approve"
    REJECT = "reject"
    UNDO = "undo"


class Reason(StrEnum):
    """Why a membership is parked; besides these, Moodle's own errorcode."""

    NO_ACCOUNT = "no_account"
    AMBIGUOUS_ACCOUNT = "ambiguous_account"
    NO_LOGIN = "no_login"
    """The platform's accounts are named by login, and no message has brought the student's login."""
    BAD_ACCOUNT_NAME = "bad_account_name"
    """Moodle would refuse a look-up of this name, and of every other in the same call."""
    UNCLEAN_ACCOUNT = "unclean_account"
    """The account exists, but Moodle refuses to return it, because of what it stored of it."""
    NEAR_MATCH = "near_match"
    """No account has exactly this name, but Moodle found one that differs by case, accents or spaces."""
    UNCONFIRMED = "unconfirmed"
    """The member's login changed: whether the account is still theirs is being looked up."""
    OBSERVE = "observe"
    """The platform is in observe mode: this is what would be done."""
    TIMEOUT = "timeout"
    """The call's outcome is unknown; it will be repeated."""


OF_ACCOUNTS = frozenset(
    {
        Reason.NO_ACCOUNT,
        Reason.AMBIGUOUS_ACCOUNT,
        Reason.NO_LOGIN,
        Reason.BAD_ACCOUNT_NAME,
        Reason.UNCLEAN_ACCOUNT,
        Reason.NEAR_MATCH,
    }
)
"""Reasons that end when the account, or another name of it, becomes known."""
PARKING = OF_ACCOUNTS | {Reason.OBSERVE}
"""Reasons of gaps that wait for somebody else; a gap with any other reason is being retried."""
OF_DECISIONS = frozenset({Cause.SETTINGS, Cause.YEAR_CLOSED, Cause.UNDONE, Cause.REJECTED, Cause.ERASED})
"""Causes that no message announced."""
