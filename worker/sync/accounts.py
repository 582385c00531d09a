"""Which Moodle account is whose: the one place where accounts are looked up, for converging, adoption and the night."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from worker.domain.accounts import FoundAccount
from worker.domain.errors import MoodleDenied
from worker.domain.rules import AccountField, PlatformPolicy, account_key, can_be_asked
from worker.domain.states import Reason
from worker.moodle import FoundAccounts, MoodleReader


@dataclass(frozen=True, slots=True, kw_only=True)
class LookUp:
    """What Moodle has under some keys, usernames or idnumbers."""

    found: Mapping[str, FoundAccount] = field(default_factory=dict)
    """By each key that was asked for."""

    @property
    def accounts(self) -> dict[str, int]:
        """The accounts that alone have their key, by key."""
        return {key: each.user_id for key, each in self.found.items() if each.user_id is not None}

    @property
    def is_empty(self) -> bool:
        """Whether no key has any account."""
        return all(each.reason is Reason.NO_ACCOUNT for each in self.found.values())


NONE = FoundAccount(reason=Reason.NO_ACCOUNT)


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
    shown = reader.users(field, asked)
    return LookUp(found={key: _judged(key, shown) for key in asked})


def _judged(key: str, shown: FoundAccounts) -> FoundAccount:
    if key in shown.unclean:
        return FoundAccount(reason=Reason.UNCLEAN_ACCOUNT)
    match shown.ids.get(key, []):
        case [user_id]:
            return FoundAccount(user_id=user_id)
        case []:
            near = shown.near.get(key)
            return FoundAccount(reason=Reason.NEAR_MATCH, near_id=near[0]) if near else NONE
        case _:
            return FoundAccount(reason=Reason.AMBIGUOUS_ACCOUNT)


def check_sight(reader: MoodleReader) -> None:
    """Tell a missing right from missing accounts, once none was found: raises MoodleDenied for the former."""
    if reader.sees_people() is False:
        raise accounts_hidden(reader.platform)


def by_student(keys: Mapping[str, str | None], accounts: Mapping[str, int]) -> dict[str, int]:
    """Return the accounts of students: `keys` by student, `accounts` by key."""
    return {student: accounts[key] for student, key in keys.items() if key is not None and key in accounts}
