"""Which Moodle account is whose: the one place where accounts are looked up, for converging, adoption and the night."""

from collections.abc import Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from worker.domain.drift import People
from worker.domain.errors import MoodleDenied
from worker.domain.instants import Instant
from worker.domain.rules import AccountField, PlatformPolicy, account_key, can_be_asked
from worker.ledger.observations import Observer
from worker.moodle import MoodleReader


@dataclass(frozen=True, slots=True, kw_only=True)
class LookUp:
    """What Moodle has under some keys, usernames or idnumbers."""

    accounts: Mapping[str, int]
    """Ids of the accounts that alone have their key, by key."""
    ambiguous: frozenset[str]
    """Keys of several accounts."""
    unclean: frozenset[str]
    """Keys of unclean accounts, whose ids Moodle doesn't return."""

    @property
    def is_empty(self) -> bool:
        """Whether no key has any account."""
        return not (self.accounts or self.ambiguous or self.unclean)


def accounts_hidden(platform: str) -> MoodleDenied:
    """Return the error of a token that doesn't see the accounts there are: to it, nobody has any."""
    return MoodleDenied(
        "accounts_hidden",
        f"{platform}: the token finds nobody, not even the members of cohorts; "
        "give its role moodle/user:viewdetails and moodle/user:viewalldetails at system level",
    )


def keys_of(platform: PlatformPolicy, students: Iterable[tuple[str, str | None]]) -> dict[str, str | None]:
    """Return, by student id, what each student's account is called; None while that takes a login that is unknown.

    `students` are pairs of student id and login.
    """
    return {student: account_key(platform, student, login) for student, login in students}


def look_up(reader: MoodleReader, field: AccountField, keys: Collection[str | None]) -> LookUp:
    """Ask Moodle for the accounts with these keys; those that it would refuse, and None, aren't asked for."""
    asked = sorted(key for key in keys if key is not None and can_be_asked(field, key))
    found = reader.users(field, asked)
    return LookUp(
        accounts={key: ids[0] for key, ids in found.ids.items() if len(ids) == 1},
        ambiguous=frozenset(key for key, ids in found.ids.items() if len(ids) > 1),
        unclean=found.unclean,
    )


def by_student(keys: Mapping[str, str | None], accounts: Mapping[str, int]) -> dict[str, int]:
    """Return the accounts of students: `keys` by student, `accounts` by key."""
    return {student: accounts[key] for student, key in keys.items() if key is not None and key in accounts}


def identify(
    platform: PlatformPolicy,
    reader: MoodleReader,
    observer: Observer,
    members: Mapping[int, set[int]],
    now: Instant,
) -> People:
    """Identify the members of our cohorts, and find which accounts that we left there have been deleted.

    Remembered accounts aren't asked for again; what is found is remembered.
    """
    field = platform.account_field
    accounts = observer.accounts.all()
    found = dict(look_up(reader, field, set(observer.unplaced().values()) - accounts.keys()).accounts)
    present = set().union(*members.values())
    unmatched = present - set(accounts.values()) - set(found.values())
    missing = observer.left() - present
    shown = reader.account_keys(field, sorted(unmatched | missing))
    found |= {key: user_id for user_id, key in shown.keys.items() if key and user_id in unmatched}
    observer.accounts.remember(found, now)
    accounts |= found
    return people(
        observer.students(),
        accounts,
        # Asked by its number, Moodle returns a deleted account too, under another name.
        gone={user_id for user_id in missing - shown.unclean if accounts.get(shown.keys.get(user_id, "")) != user_id},
        unclean=unmatched & shown.unclean,
    )


def people(
    students: Mapping[str, str], accounts: Mapping[str, int], *, gone: AbstractSet[int], unclean: AbstractSet[int]
) -> People:
    """Tie students to accounts; both are given by key."""
    pairs = [(student, accounts[key]) for key, student in students.items() if key in accounts]
    return People(
        accounts=dict(pairs),
        students={user_id: student for student, user_id in pairs},
        gone=gone,
        unclean=unclean,
    )
