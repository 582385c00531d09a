"""The closed lists: what an enrolment, a cohort, a platform or a run can be, and why."""

from enum import StrEnum


class Language(StrEnum):
    """A language in which people are answered."""

    FR = "fr"
    EN = "en"


class Status(StrEnum):
    """What the source says of an enrolment. `DELETED` is the row that no longer exists at the source."""

    ACTIVE = "active"
    PENDING = "pending"
    CANCELLED = "cancelled"
    RESIGNED = "resigned"
    DELETED = "deleted"
    ABSENT = "absent"
    """A complete snapshot, newer than all that was known of it, doesn't hold it any more."""


class Payment(StrEnum):
    """Whether the enrolment's fees are paid, as far as the source knows."""

    PAID = "paid"
    DUE = "due"
    UNKNOWN = "unknown"


class Cause(StrEnum):
    """Why a membership is desired, or no longer is: the enrolment's status, or what else happened."""

    ACTIVE = "active"
    PENDING = "pending"
    CANCELLED = "cancelled"
    RESIGNED = "resigned"
    DELETED = "deleted"
    REKEYED = "rekeyed"
    """Two student numbers were merged."""
    DESCRIBED = "described"
    """The étape's component became known or changed, and routes go by it."""
    ABSENT = "absent"
    """A complete snapshot doesn't hold the enrolment any more."""
    SETTINGS = "settings"
    YEAR_CLOSED = "year_closed"
    """The enrolment's year was taken out of the active ones."""
    DRIFT = "drift"
    """Moodle showed otherwise than we left it."""
    UNDONE = "undone"
    """A person had a removal undone."""
    REJECTED = "rejected"
    """A person refused the removal."""
    ERASED = "erased"
    """A person is to be erased, whom only a decision had kept."""


class Channel(StrEnum):
    """How a change came to Moodle: those that a message announced, and that waited for nobody, are what is promised."""

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
    """What we know of a cohort on its platform."""

    WANTED = "wanted"
    """Not looked for yet, or not created yet."""
    OWNED = "owned"
    """Created by us, or adopted: we may write it."""
    FOREIGN = "foreign"
    """It exists and isn't ours: `cohorts adopt` takes it over."""


class Limit(StrEnum):
    """Which limit of the guard holds removals."""

    COHORT = "cohort"
    PLATFORM = "platform"


class Kept(StrEnum):
    """Why a membership that the rules don't desire is kept."""

    REJECTED = "rejected"
    """A person refused its removal; until the desired state changes again."""
    UNDONE = "undone"
    """A person undid its removal; until a newer message or snapshot says that the enrolment is over."""


class Drift(StrEnum):
    """A difference between Moodle and what we left there, that no message announced."""

    MISSING = "missing"
    """A member of ours is no longer there."""
    EXTRA = "extra"
    """A student whom we know is there and isn't desired."""
    GONE_ACCOUNT = "gone_account"
    """A member is no longer there because their account was deleted."""
    RENAMED = "renamed"
    """A cohort of ours has another name or idnumber."""
    VANISHED = "vanished"
    """A cohort of ours was deleted."""


class RunState(StrEnum):
    """How a reconciliation stands or ended."""

    RUNNING = "running"
    DONE = "done"
    PARTIAL = "partial"
    """A platform could not be read, or gaps were left at the limit of time."""
    REFUSED = "refused"
    """No snapshot could be accepted: nothing was changed."""
    FAILED = "failed"
    ABANDONED = "abandoned"
    """Its process died; the next run took up its work."""


class PlatformState(StrEnum):
    """How a platform answered last."""

    UP = "up"
    UNAVAILABLE = "unavailable"
    DENIED = "denied"


class Action(StrEnum):
    """What was applied on Moodle, or decided by a person."""

    ADD = "add"
    REMOVE = "remove"
    CREATE_COHORT = "create_cohort"
    RENAME_COHORT = "rename_cohort"
    ADOPT_COHORT = "adopt_cohort"
    APPROVE = "approve"
    REJECT = "reject"
    UNDO = "undo"


class Reason(StrEnum):
    """Why a membership is parked. Besides these, Moodle's own errorcode."""

    NO_ACCOUNT = "no_account"
    AMBIGUOUS_ACCOUNT = "ambiguous_account"
    NO_LOGIN = "no_login"
    """The platform's accounts are named by login, and no message has told it."""
    BAD_ACCOUNT_NAME = "bad_account_name"
    """Moodle would refuse a look-up by this name, and every other in the same call."""
    OBSERVE = "observe"
    """The platform is in observe mode: this is what would be done."""
    TIMEOUT = "timeout"
    """The call's outcome is unknown; it will be repeated."""


OF_ACCOUNTS = frozenset({Reason.NO_ACCOUNT, Reason.AMBIGUOUS_ACCOUNT, Reason.NO_LOGIN, Reason.BAD_ACCOUNT_NAME})
"""Reasons that end when an account, or another name for it, becomes known."""
PARKING = OF_ACCOUNTS | {Reason.OBSERVE}
"""Reasons that Moodle and we can do nothing about; the others are retried."""
OF_DECISIONS = frozenset({Cause.SETTINGS, Cause.YEAR_CLOSED, Cause.UNDONE, Cause.REJECTED, Cause.ERASED})
"""Causes that no message announced."""
