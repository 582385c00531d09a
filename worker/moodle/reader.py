"""What may be read of a Moodle, in batches: cohorts, members, accounts, and what the token may do."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from worker.domain.errors import MoodleDenied, MoodleRefusesAll, MoodleRejected, MoodleUnavailable
from worker.domain.idnumbers import fold
from worker.domain.rules import AccountField
from worker.moodle.halving import MOST_ALIKE, halving
from worker.moodle.refusals import HIDDEN, LOOK_UP, TOO_MANY_FIELDS, UNCLEAN
from worker.moodle.transport import ENVELOPE_FIELDS, TRUNCATION_FIELDS, Transport

log = structlog.get_logger()

SYSTEM_CONTEXT = 1
"""Id of Moodle's system context, which is the same on every site."""
LOOKED_UP = 200
"""Accounts looked up in one call: about 4 ms each."""
ALONE = 3
"""Members who are looked up alone, to see whether Moodle shows anybody."""
SIGHT = 5
"""Members on whom the right to see accounts is tried."""
ALL_UNCLEAN = (
    "Moodle refuses to show any account, because of what it stored of them; most often their authentication plugin "
    "isn't installed (auth_cas left Moodle with 5.0): install it, or give the accounts another one"
)
_SURELY_CLEAN = "0"
"""A key that any Moodle can be asked for."""
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteInfo:
    """Whose the token is, and what it may call."""

    name: str
    release: str
    user_id: int
    functions: frozenset[str]


def owner(instance: str, platform: str) -> str:
    """Return the name of who owns the cohorts that this ledger creates for a platform.

    Two platforms that turn out to be one site take nothing from each other by that.
    """
    return f"{instance}/{platform}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteCohort:
    """A cohort as Moodle shows it."""

    id: int
    name: str
    idnumber: str
    description: str
    description_format: int

    def is_of(self, owner: str) -> bool:
        """Return whether this owner, as `owner` names it, created it: its description then carries the name."""
        return f"[{owner}]" in self.description


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundAccounts:
    """The accounts that Moodle has under some keys."""

    ids: dict[str, list[int]]
    """Ids by key; a key without an account is left out."""
    unclean: frozenset[str]
    """Keys of accounts that Moodle can't show: one of their stored values breaks its own rules."""
    near: dict[str, list[int]]
    """Ids of the accounts that Moodle returned for keys without an account: theirs is written otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundKeys:
    """What a look-up by id found. Deleted accounts are there too, renamed by Moodle."""

    keys: dict[int, str]
    """Usernames or idnumbers by id; empty where the token may not see it."""
    unclean: frozenset[int]
    """Ids of accounts that Moodle can't show."""


class MoodleReader:
    """What may be asked of any platform, Prelude included."""

    def __init__(self, transport: Transport) -> None:
        self.platform = transport.platform
        self.transport = transport

    def site_info(self) -> SiteInfo:
        """Read the site's name and release, and whose the token is."""
        info = self._read("core_webservice_get_site_info")
        return SiteInfo(
            name=info["sitename"],
            release=info["release"],
            user_id=info["userid"],
            functions=frozenset(function["name"] for function in info["functions"]),
        )

    def cohorts(self, ids: Collection[int] | None = None) -> list[RemoteCohort]:
        """Read these cohorts (unknown ids are left out), or all of them without `ids`."""
        if ids is None:
            return [_remote(item) for item in self._read("core_cohort_get_cohorts")]
        return [
            _remote(item)
            for some in self._slices(ids, fields=1)
            for item in self._read("core_cohort_get_cohorts", cohortids=some)
        ]

    def system_cohort_ids(self) -> set[int]:
        """Read the ids of the cohorts in the system context: an update would move any other one there."""
        found = self._read(
            "core_cohort_search_cohorts",
            query="",
            context={"contextid": SYSTEM_CONTEXT},
            includes="self",
            limitfrom=0,
            limitnum=0,  # no limit
        )
        return {item["id"] for item in found["cohorts"]}

    def members(self, ids: Collection[int]) -> dict[int, set[int]]:
        """Read user ids by cohort id. Raises MoodleRejected when one of the cohorts doesn't exist."""
        found = {
            item["cohortid"]: set(item["userids"])
            for some in self._slices(ids, fields=1)
            for item in self._read("core_cohort_get_cohort_members", cohortids=some)
        }
        self._check_complete(ids, found)
        return found

    def users(self, account_field: AccountField, keys: Collection[str]) -> FoundAccounts:
        """Read the accounts with these usernames or idnumbers.

        Raises MoodleRefusesAll when Moodle refuses to look up any key, MoodleDenied when all accounts are unclean.
        """
        found: dict[str, list[int]] = {}

        def ask(some: Sequence[str]) -> None:
            for user in self._read(LOOK_UP, field=account_field.value, values=some):
                found.setdefault(str(user.get(account_field.value, "")), []).append(user["id"])

        unclean = self._look_up(keys, ask)
        ids = {key: found.pop(key) for key in keys if key in found}
        return FoundAccounts(ids=ids, unclean=unclean, near=_near(set(keys) - ids.keys() - unclean, found))

    def account_keys(self, account_field: AccountField, user_ids: Collection[int]) -> FoundKeys:
        """Read the usernames or idnumbers of these accounts. Raises MoodleDenied when all of them are unclean."""
        keys: dict[int, str] = {}

        def ask(some: Sequence[int]) -> None:
            for user in self._read(LOOK_UP, field="id", values=some):
                keys[user["id"]] = str(user.get(account_field.value, ""))

        unclean = self._look_up(user_ids, ask)
        return FoundKeys(keys=keys, unclean=unclean)

    def sees_people(self) -> bool | None:
        """Return whether the token may see accounts; None when no cohort has a member to try it on.

        Without `moodle/user:viewdetails` and `moodle/user:viewalldetails` every look-up finds nobody. Several members
        are tried: some may be unclean, which Moodle only says of those whom it would show.
        """
        members = self._some_members()
        if not members:
            return None
        found = self.account_keys(AccountField.USERNAME, members)
        return bool(found.unclean) or any(found.keys.values())  # usernames are hidden without viewalldetails

    def fitting_fields(self) -> int:
        """Return the most fields, up to the platform's limit, of a form that PHP doesn't cut.

        It is tried by reading cohorts that don't exist. No limit below TRUNCATION_FIELDS is found.
        """
        fitting, cut = TRUNCATION_FIELDS, self.transport.limits.fields + 1
        self.transport.read("core_cohort_get_cohorts", cohortids=[0])  # whatever else is wrong is raised here
        if cut <= fitting or self._fits(cut - 1):
            return cut - 1
        while cut - fitting > 1:
            middle = (fitting + cut) // 2
            if self._fits(middle):
                fitting = middle
            else:
                cut = middle
        return fitting

    def _fits(self, fields: int) -> bool:
        try:
            self.transport.read("core_cohort_get_cohorts", cohortids=[0] * (fields - ENVELOPE_FIELDS))
        except MoodleRejected:
            return False
        return True

    def _read(self, function: str, **arguments: Any) -> Any:  # noqa: ANN401 - any JSON
        with self._learning_fields():
            return self.transport.read(function, **arguments)

    @contextmanager
    def _learning_fields(self) -> Iterator[None]:
        """Surround a call: when PHP cuts its form, all later ones have only as many fields as fit."""
        try:
            yield
        except MoodleRejected as error:
            if error.code == TOO_MANY_FIELDS and self.transport.fields == self.transport.limits.fields:
                self.transport.fields = self.fitting_fields()
                log.warning(
                    "PHP cuts forms: lower limits.fields, or raise max_input_vars on Moodle",
                    platform=self.platform, fields=self.transport.limits.fields, fitting=self.transport.fields,
                )  # fmt: skip
            raise

    def _look_up(self, keys: Collection[Item], ask: Callable[[Sequence[Item]], None]) -> frozenset[Item]:
        """Look keys up in slices, and return those of unclean accounts: one key, or account, fails a call for all."""
        unclean: set[Item] = set()
        for some in self._slices(keys, fields=1, most=LOOKED_UP):
            try:
                refused = halving(some, ask)
            except MoodleRefusesAll as error:
                if error.code == UNCLEAN:
                    self._check_shows_somebody(some)
                elif error.code != HIDDEN or self._refuses_any_key():
                    raise
                refused = halving(some, ask, of_items={error.code})
            unclean.update(key for key, code in refused.items() if code == UNCLEAN)
        return frozenset(unclean)

    def _check_shows_somebody(self, unclean: Sequence[object]) -> None:
        """Tell some unclean accounts from a site all of whose accounts are: raises MoodleDenied for that."""
        if len(unclean) < MOST_ALIKE:
            return
        for user_id in self._some_members()[:ALONE]:
            try:
                if self._read(LOOK_UP, field="id", values=[user_id]):
                    return
            except MoodleRejected:
                continue
        raise MoodleDenied("unclean_accounts", f"{self.platform}: {ALL_UNCLEAN}")

    def _refuses_any_key(self) -> bool:
        try:
            self._read(LOOK_UP, field=AccountField.IDNUMBER.value, values=[_SURELY_CLEAN])
        except MoodleRejected:
            return True
        return False

    def _some_members(self) -> list[int]:
        """Return up to SIGHT accounts that are members of cohorts."""
        found: set[int] = set()
        for some in self._slices([cohort.id for cohort in self.cohorts()], fields=1, most=50):
            found.update(*self.members(some).values())
            if len(found) >= SIGHT:
                break
        return sorted(found)[:SIGHT]

    def _check_complete(self, requested: Collection[object], returned: Collection[object]) -> None:
        """Raise MoodleUnavailable unless the response holds what was asked for, and nothing else."""
        if set(returned) != set(requested):
            sentence = "the response is about other cohorts than those asked for"
            raise MoodleUnavailable("not-moodle", f"{self.platform}: {sentence}", unknown=True)

    def _slices(self, items: Iterable[Item], *, fields: int, most: int | None = None) -> Iterator[list[Item]]:
        ordered = list(items)
        size = self._capacity(fields, most)
        for start in range(0, len(ordered), size):
            yield ordered[start : start + size]

    def _capacity(self, fields: int, most: int | None = None) -> int:
        fitting = max(1, (self.transport.fields - ENVELOPE_FIELDS) // fields)
        return fitting if most is None else min(fitting, most)


def _near(keys: Iterable[str], found: Mapping[str, list[int]]) -> dict[str, list[int]]:
    """Return what was found for these keys under other spellings, as the site's database compares them."""
    by_fold: dict[str, list[int]] = {}
    for key, ids in found.items():
        by_fold.setdefault(fold(key), []).extend(ids)
    if not by_fold:
        return {}
    return {key: by_fold[fold(key)] for key in keys if fold(key) in by_fold}


def _remote(item: dict[str, Any]) -> RemoteCohort:
    return RemoteCohort(
        id=item["id"],
        name=item["name"].replace("\0", ""),  # PostgreSQL could not keep it
        idnumber=(item["idnumber"] or "").replace("\0", ""),
        description=item.get("description") or "",
        description_format=item.get("descriptionformat", 1),
    )
