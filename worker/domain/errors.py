"""Every error, grouped by what to do about it.

CohortsError
├── InvalidMessage        dead letter; go on
├── SettingsError         fix the file named in the sentence; nothing was started
├── ContractBroken        too many invalid messages in a row: consumption stops, converging goes on
├── BrokerError           Kafka is unreachable or refuses: consumption stops, the supervisor restarts
│   └── PositionLost      messages may be gone from the topic: a person decides, then a reconciliation
├── SnapshotRefused       incomplete, of another university, too old…: nothing changes; the next one may be accepted
├── SourceIncomplete      the source of a snapshot is incomplete: nothing was published
├── RunInProgress         another reconciliation is running: wait for its end
├── DecisionRefused       the removals aren't those that were shown: look again, then decide
├── StudentPresent        a student who is enrolled, or still in a cohort, can't be erased: end that first
├── LeaseLost             a worker's lease expired and another took over: discard the work, claim anew
├── LedgerError           the ledger cannot be opened, is of another version, or its database failed
└── MoodleError
    ├── MoodleUnavailable retry later (transport, 5xx, 429, maintenance, database down, any code that isn't known)
    │   └── MoodleRefusesAll   every item of a batch is refused alike: it isn't about the items
    ├── MoodleRejected    an item of the batch is refused: halve the batch until it is alone
    ├── MoodleDenied      token, capability, service account or address: a person must act on that platform
    └── MoodleReadOnly    a platform in another mode than automatic is never written

No error text holds a value from a message, the name of a person, or a token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class CohortsError(Exception):
    """Any error that the program raises on purpose; its text is meant for a person."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault of a message: the dotted path of the field and the error's type, never the value."""

    field: str
    type: str

    def __str__(self) -> str:
        return f"{self.field}: {self.type}"


class InvalidMessage(CohortsError):
    """A message that can never be read, now or later."""

    def __init__(self, *problems: Problem) -> None:
        self.problems = problems
        super().__init__("; ".join(map(str, problems)))


class ContractBroken(CohortsError):
    """Too many invalid messages in a row: reading on would empty the topic into the dead letters."""


class SettingsError(CohortsError):
    """The settings cannot be used; the text names each wrong key and what would be right."""


class BrokerError(CohortsError):
    """Kafka is unreachable, refuses, or didn't acknowledge."""


class PositionLost(BrokerError):
    """The position to read from no longer exists in the topic: messages may have been lost."""


class SnapshotFault(StrEnum):
    """Why a snapshot is refused."""

    ABSENT = "absent"
    """The topic holds no snapshot at all."""
    INCOMPLETE = "incomplete"
    """Its begin, its end or rows are missing: its producer was stopped, or lost some."""
    FORGOTTEN = "forgotten"
    """The topic's retention has removed its head."""
    CONTRADICTORY = "contradictory"
    """Its messages contradict each other."""
    INVALID = "invalid"
    """Messages with its id break the contract."""
    EMPTY = "empty"
    FUTURE = "future"
    OLD = "old"
    NOT_NEWER = "not_newer"
    """It is the snapshot that was accepted last, or was taken before it."""
    SCOPE = "scope"
    """It is about another university or no active year, or its rows lie outside the scope that it announces."""
    SHRUNK = "shrunk"
    """It has far fewer rows than the snapshot that was accepted last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why one snapshot can't be accepted. The sentence names the partition, count or missing row, never a person."""

    snapshot_id: str
    fault: SnapshotFault
    sentence: str

    def __str__(self) -> str:
        return f"snapshot {self.snapshot_id}: {self.sentence}" if self.snapshot_id else self.sentence


class SnapshotRefused(CohortsError):
    """No snapshot of the topic can be accepted; `refusals` has the reason for each, newest first."""

    def __init__(self, sentence: str, *, refusals: Sequence[Refusal] = ()) -> None:
        self.refusals = tuple(refusals)
        super().__init__(sentence)


class SourceIncomplete(CohortsError):
    """The source of a snapshot is incomplete, by its own count or because some of its rows can't be read."""


class RunInProgress(CohortsError):
    """Another reconciliation is running, or this one was given up as dead."""


class DecisionRefused(CohortsError):
    """A person decided on removals that aren't those that would be made now, or that were never shown."""


class StudentPresent(CohortsError):
    """A student who is to be erased is enrolled and would come back, or may be in a cohort and would be left there."""


class LeaseLost(CohortsError):
    """A worker's lease expired while it worked on some cohorts, and another worker has taken them over."""


class LedgerError(CohortsError):
    """The ledger cannot be opened, or its database failed: nothing is left half done."""


class MoodleError(CohortsError):
    """A call to Moodle failed.

    `code` is Moodle's errorcode, or `http-<status>`, `timeout`, `transport`, `not-json`…: stable, never translated.
    """

    def __init__(self, code: str, sentence: str) -> None:
        self.code = code
        super().__init__(sentence)


class MoodleUnavailable(MoodleError):
    """Retry later: after `retry_after` seconds, when the platform asked for that.

    `unknown` is true when the call may have been applied all the same, as after a time-out.
    """

    def __init__(self, code: str, sentence: str, *, retry_after: float | None = None, unknown: bool = False) -> None:
        self.retry_after = retry_after
        self.unknown = unknown
        super().__init__(code, sentence)


class MoodleRefusesAll(MoodleUnavailable):
    """Items of a batch are refused with one code, even alone, and none is accepted: it is about the call.

    `cohort_ids` are the ledger's ids of the cohorts that it would have changed, for whoever knows them.
    """

    cohort_ids: frozenset[int] = frozenset()


class MoodleRejected(MoodleError):
    """The request is refused because of something in it; repeating it unchanged is useless."""


class MoodleDenied(MoodleError):
    """The token, a capability, a function, the service account or the address: a person must act on the platform."""


class MoodleReadOnly(CohortsError):
    """The platform's mode forbids writing; no writing client can be built for it."""
