"""Every error, grouped by what to do about it.

CohortsError
├── InvalidMessage        a dead letter; go on
├── SettingsError         fix the file named in the sentence; nothing was started
├── ContractBroken        too many invalid messages in a row: consumption stops, converging goes on
├── BrokerError           Kafka is unreachable or refuses; consumption stops, the supervisor restarts
│   └── PositionLost      messages may be gone from the topic: a person decides, then a reconciliation
├── SnapshotRefused       not whole, not of ours, too old…: nothing changes; the next one may do
├── SourceIncomplete      what a snapshot is made from isn't whole: nothing was published
├── RunInProgress         another reconciliation is going on: wait for its end
├── DecisionRefused       the removals aren't those that were shown: look again, then decide
├── StudentPresent        who is enrolled, or still in a cohort, can't be erased: end that first
├── LeaseLost             a worker stood still for too long and others went on: drop that work, claim anew
├── LedgerError           the ledger cannot be opened, is of another version, or its database failed
└── MoodleError
    ├── MoodleUnavailable come back later (transport, 5xx, 429, maintenance, database down)
    ├── MoodleRejected    an item of the batch is refused: halve until it is alone
    ├── MoodleDenied      token or capability: a person must act on that platform
    └── MoodleReadOnly    a writing client was asked for on a platform that may not be written

No error text holds a value that came from a message, a name of a person, or a token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class CohortsError(Exception):
    """Anything that the program says on purpose; its text is meant for a person."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a message: the dotted path of the field and the error's type, never the value."""

    field: str
    type: str

    def __str__(self) -> str:
        return f"{self.field}: {self.type}"


class InvalidMessage(CohortsError):
    """A message that can never be read, whatever one waits for."""

    def __init__(self, *problems: Problem) -> None:
        self.problems = problems
        super().__init__("; ".join(map(str, problems)))


class ContractBroken(CohortsError):
    """Too many invalid messages in a row: reading on would empty the topic into the dead letters."""


class SettingsError(CohortsError):
    """The settings cannot be used; says the path of each wrong key and what would be right."""


class BrokerError(CohortsError):
    """Kafka is unreachable, refuses, or did not acknowledge."""


class PositionLost(BrokerError):
    """The position to read from no longer exists in the topic: messages may have been lost."""


class SnapshotFault(StrEnum):
    """Why a snapshot is refused."""

    ABSENT = "absent"
    """The topic holds no snapshot at all."""
    INCOMPLETE = "incomplete"
    """A begin, an end or rows are missing: its producer was stopped, or lost some."""
    FORGOTTEN = "forgotten"
    """The topic's retention has removed its head."""
    CONTRADICTORY = "contradictory"
    """Its messages don't agree with each other."""
    INVALID = "invalid"
    """Messages under its id break the contract."""
    EMPTY = "empty"
    FUTURE = "future"
    OLD = "old"
    NOT_NEWER = "not_newer"
    """It is the one that was accepted last, or was taken before it."""
    SCOPE = "scope"
    """It speaks of another university or of no active year, or its rows lie outside what it announces."""
    SHRUNK = "shrunk"
    """Too many rows fewer than in the one that was accepted last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why one snapshot can't be accepted; the sentence names partition, count or gap, and never a person."""

    snapshot_id: str
    fault: SnapshotFault
    sentence: str

    def __str__(self) -> str:
        return f"snapshot {self.snapshot_id}: {self.sentence}" if self.snapshot_id else self.sentence


class SnapshotRefused(CohortsError):
    """No snapshot of the topic can be accepted; `refusals` says why of each, newest first."""

    def __init__(self, sentence: str, *, refusals: Sequence[Refusal] = ()) -> None:
        self.refusals = tuple(refusals)
        super().__init__(sentence)


class SourceIncomplete(CohortsError):
    """The source of a snapshot isn't whole, by its own count or because rows of it can't be read."""


class RunInProgress(CohortsError):
    """Another reconciliation is going on, or this one was taken for dead."""


class DecisionRefused(CohortsError):
    """A person decided on a plan that isn't what would be done now, or that nobody was shown."""


class StudentPresent(CohortsError):
    """A person who is to be erased is enrolled, or may be in a cohort: they would come back, or be left there."""


class LeaseLost(CohortsError):
    """Others have taken over cohorts that a worker still works on: it stood still for longer than its lease."""


class LedgerError(CohortsError):
    """The ledger cannot be opened, or its database failed: nothing is left half done."""


class MoodleError(CohortsError):
    """A call to Moodle did not succeed.

    `code` is Moodle's errorcode, or `http-<status>`, `timeout`, `transport`, `not-json`: stable, never translated.
    """

    def __init__(self, code: str, sentence: str) -> None:
        self.code = code
        super().__init__(sentence)


class MoodleUnavailable(MoodleError):
    """Come back later. `retry_after` is what Moodle asked for, in seconds, when it did.

    `unknown` is true when the call may have been applied all the same (a time-out).
    """

    def __init__(self, code: str, sentence: str, *, retry_after: float | None = None, unknown: bool = False) -> None:
        self.retry_after = retry_after
        self.unknown = unknown
        super().__init__(code, sentence)


class MoodleRejected(MoodleError):
    """The request itself is refused because of something in it; repeating it whole is useless."""


class MoodleDenied(MoodleError):
    """A token, a capability, a function or an address: somebody must act on the platform."""


class MoodleReadOnly(CohortsError):
    """This platform's mode forbids writing; no writing client exists for it."""
