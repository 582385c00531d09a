"""Who is who in our cohorts: asked of Moodle again every night, a part of the accounts at a time.

An account that was found once is a guess with an age: numbers and logins change hands, on Moodle and at the source.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet

from worker.domain.accounts import FoundAccount, RememberedAccount, to_confirm
from worker.domain.drift import People
from worker.domain.instants import Instant
from worker.domain.rules import AccountField, PlatformPolicy
from worker.domain.states import Reason
from worker.ledger.observations import Called, Observer
from worker.moodle import MoodleReader
from worker.sync.accounts import check_sight, look_up


def identify(
    platform: PlatformPolicy,
    reader: MoodleReader,
    observer: Observer,
    members: Mapping[int, set[int]],
    now: Instant,
    *,
    nights: int,
) -> People:
    """Identify the members of our cohorts, and find which accounts that we left there have been deleted.

    Moodle is asked for all that isn't known, and for the remembered accounts whose turn it is, so that each is
    confirmed within so many nights. What is found is remembered. Raises MoodleDenied when the token may not see them.
    """
    remembered, called = observer.accounts.all(), observer.called()
    present: set[int] = set().union(*members.values())
    missing = observer.left() - present
    census = _Census(platform.account_field, reader, {each.key: each for each in remembered})
    census.ask((present - census.remembered_ids) | missing | to_confirm(remembered, now, nights=nights))
    census.look_up(observer.wanted(), called)
    gone = {user_id for user_id in missing - census.unclean if called.owner(census.shown.get(user_id, "")) is None}
    observer.accounts.forget(gone)
    observer.accounts.forget_keys(census.disproved - census.found.keys())
    observer.accounts.remember(census.outcome(present, called), now)
    return census.people(called, gone)


class _Census:
    """What is known of accounts, while Moodle is asked for more of them."""

    def __init__(self, key: AccountField, reader: MoodleReader, remembered: Mapping[str, RememberedAccount]) -> None:
        self._field = key
        self._reader = reader
        self._remembered = remembered
        self.shown: dict[int, str] = {}
        """The key of each account that Moodle has shown."""
        self.unclean: set[int] = {each.user_id for each in remembered.values() if each.reason == Reason.UNCLEAN_ACCOUNT}
        """Accounts that Moodle doesn't show."""
        self.found: dict[str, FoundAccount] = {}
        """What Moodle has under the keys that it was asked for."""

    @property
    def remembered_ids(self) -> set[int]:
        """The accounts that are remembered under one key; under two, one of them is wrong."""
        keys = Counter(each.user_id for each in self._remembered.values())
        return {user_id for user_id, number in keys.items() if number == 1}

    @property
    def disproved(self) -> set[str]:
        """Remembered keys that their account has no more."""
        return {key for key, each in self._remembered.items() if self.shown.get(each.user_id, key) != key}

    def ask(self, user_ids: AbstractSet[int]) -> None:
        """Ask Moodle for the keys of these accounts, and of those that it then contradicts."""
        self._ask(user_ids)
        rivals = set().union(*(bearers for bearers in self._bearers().values() if len(bearers) > 1))
        self._ask(rivals - self.shown.keys() - user_ids)

    def _ask(self, user_ids: AbstractSet[int]) -> None:
        found = self._reader.account_keys(self._field, sorted(user_ids))
        if user_ids and not found.unclean and not any(found.keys.values()):
            check_sight(self._reader)
        self.shown |= found.keys
        self.unclean = (self.unclean - user_ids) | found.unclean

    def look_up(self, wanted: AbstractSet[str], called: Called) -> None:
        """Ask Moodle for the accounts under these keys that nobody is known to have, and under students' lost ones.

        An account that is found under one key has lost the one that is remembered. Of an unclean account that is only
        known when Moodle shows another one under its key: it refuses a look-up that finds an unclean one too.
        """
        bearers = self._bearers()
        doubtful = {key for key, rivals in bearers.items() if len(rivals) > 1 and rivals & self.unclean}
        unknown = (wanted - bearers.keys()) | {
            key for key in self.disproved | doubtful if called.owner(key) is not None
        }
        while unknown:
            found = look_up(self._reader, self._field, unknown)
            self.found |= dict.fromkeys(unknown, FoundAccount(reason=Reason.BAD_ACCOUNT_NAME)) | {**found.found}
            self.shown |= {user_id: key for key, user_id in found.accounts.items()}
            unknown = {key for key in self.disproved - self.found.keys() if called.owner(key) is not None}

    def outcome(self, present: Collection[int], called: Called) -> dict[str, FoundAccount]:
        """Return what is to be remembered: what was confirmed, found, and not found."""
        outcome = {}
        for key, bearers in self._bearers().items():
            asked = [user_id for user_id in bearers if user_id in self.shown]
            if asked and key and (called.owner(key) is not None or bearers & {*present}):
                several = FoundAccount(reason=Reason.AMBIGUOUS_ACCOUNT)
                outcome[key] = FoundAccount(user_id=asked[0]) if len(bearers) == 1 else several
        for key, each in self._remembered.items():
            if each.user_id in self.unclean:
                outcome[key] = FoundAccount(user_id=each.user_id, reason=Reason.UNCLEAN_ACCOUNT)
        return outcome | self.found

    def people(self, called: Called, gone: AbstractSet[int]) -> People:
        """Return who is who, as far as it is known."""
        bearers = self._bearers()
        alone = single(bearers) | {key: each.user_id for key, each in self.found.items()}
        return tie(called, bearers, alone, gone=gone, unclean=self.unclean)

    def _bearers(self) -> dict[str, set[int]]:
        """Return the accounts that have each key: as Moodle has shown, or else as is remembered."""
        bearers: defaultdict[str, set[int]] = defaultdict(set)
        for user_id, key in self.shown.items():
            bearers[key].add(user_id)
        for key, each in self._remembered.items():
            if each.user_id not in self.shown:
                bearers[key].add(each.user_id)
        return bearers


def single(bearers: Mapping[str, AbstractSet[int]]) -> dict[str, int | None]:
    """Return the account under each key that only one has."""
    return {key: min(rivals) for key, rivals in bearers.items() if len(rivals) == 1}


def tie(
    called: Called,
    bearers: Mapping[str, AbstractSet[int]],
    alone: Mapping[str, int | None],
    *,
    gone: AbstractSet[int],
    unclean: AbstractSet[int],
) -> People:
    """Tie students to accounts.

    `bearers` are all accounts that have a key, `alone` the one of which it is known that no other has it.
    """
    accounts: dict[str, int] = {}
    students: dict[int, str] = {}
    shared: dict[int, AbstractSet[str]] = {}
    for key, rivals in bearers.items():
        owner = called.owner(key)
        if owner is None:
            continue
        students |= dict.fromkeys(rivals - unclean, owner)
        owners = called.shared.get(key, {owner})
        if len(owners) > 1:
            shared |= dict.fromkeys(rivals, owners)
        user_id = alone.get(key)
        if user_id is not None and user_id not in unclean and key in called.students:
            accounts |= dict.fromkeys(owners, user_id)
    return People(
        accounts=accounts,
        students=students,
        gone=gone,
        unclean=frozenset(unclean),
        shared=shared,
        survivors=called.survivors,
    )
