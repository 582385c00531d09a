"""What may be changed on a Moodle, in batches; for a platform that isn't automatic no writer can be built."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from typing import Any

from worker.domain.errors import MoodleReadOnly, MoodleRejected, MoodleUnavailable
from worker.domain.rules import Mode
from worker.moodle.batch_size import BatchSize
from worker.moodle.halving import halving
from worker.moodle.reader import MoodleReader, RemoteCohort, owner
from worker.moodle.transport import Reply, Transport

CREATE = 100
"""Cohorts created in one call: 0.12 s measured."""
_ADD_FIELDS, _REMOVE_FIELDS, _CREATE_FIELDS = 4, 2, 6
_UNKNOWN, _ALREADY_MEMBER = "2", "3"
"""Codes of warnings: a cohort or an account that doesn't exist; somebody who is there already."""
_ADDING_HIDES = "Error"
"""What `core_cohort_add_cohort_members` calls every refusal of the site, of the site policy for one."""
Pair = tuple[int, int]
"""A membership on Moodle: cohort id, user id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The outcome of a batch: pairs that are now as asked, and refused ones with the code of the refusal."""

    done: frozenset[Pair] = frozenset()
    refused: dict[Pair, str] = field(default_factory=dict)


UNKNOWN_USER = "unknown_user"
UNKNOWN_COHORT = "unknown_cohort"
IDNUMBER_TAKEN = "invalidparameter"
"""What Moodle answers, among other cases, when a cohort is to be created whose idnumber its database finds already."""


class MoodleWriter(MoodleReader):
    """What may be changed, on an automatic platform only: for any other no writer can be built.

    The caller must hold the cohorts' leases, so that no cohort is ever in two calls at once.
    """

    def __init__(self, transport: Transport, mode: Mode, *, instance: str) -> None:
        if mode is not Mode.AUTOMATIC:
            raise MoodleReadOnly(f"{transport.platform} is in {mode} mode: it is never written")
        super().__init__(transport)
        self._owner = owner(instance, transport.platform)
        self.before: Callable[[], None] = lambda: None
        seconds = transport.limits.batch_seconds
        self.additions = BatchSize(seconds=seconds, most=lambda: self._capacity(_ADD_FIELDS))
        self.removals = BatchSize(seconds=seconds, most=lambda: self._capacity(_REMOVE_FIELDS))

    def checking(self, before: Callable[[], None]) -> "MoodleWriter":
        """Return a copy that calls `before` before each call is sent, and shares the batch sizes of this writer."""
        checked = copy(self)
        checked.before = before
        return checked

    def is_ours(self, cohort: RemoteCohort) -> bool:
        """Return whether this ledger created the cohort, for this platform.

        A creation whose response was lost is recognised by that, and nothing else is ever taken for ours.
        """
        return cohort.is_of(self._owner)

    def create(
        self, cohorts: Sequence[tuple[str, str]], *, of_items: Collection[str] = ()
    ) -> tuple[dict[str, int], dict[str, str]]:
        """Create cohorts (idnumber, name) in the system context. Raises as `add` does.

        Returns the new ids by idnumber, and the code of the refusal by idnumber: any number may be taken.
        """
        created: dict[str, int] = {}

        def ask(some: Sequence[tuple[str, str]]) -> None:
            reply = self._write(
                "core_cohort_create_cohorts",
                cohorts=[
                    {
                        "categorytype": {"type": "system", "value": ""},
                        "name": name,
                        "idnumber": idnumber,
                        "description": f"Tenue par étape cohorts, ne pas modifier à la main. [{self._owner}]",
                        "descriptionformat": 1,
                    }
                    for idnumber, name in some
                ],
            )
            made = {item["idnumber"]: item["id"] for item in reply.content}
            self._check_complete([idnumber for idnumber, _ in some], made)
            created.update(made)

        refused: dict[str, str] = {}
        for batch in self._slices(cohorts, fields=_CREATE_FIELDS, most=CREATE):
            found = halving(batch, ask, of_items={IDNUMBER_TAKEN, *of_items})
            refused |= {item[0]: code for item, code in found.items()}
        return created, refused

    def update(self, cohort: RemoteCohort, *, name: str, idnumber: str, of_items: Collection[str] = ()) -> str | None:
        """Write a cohort's name and idnumber; returns the code of a refusal. Raises as `add` does.

        The cohort must be in the system context: see `system_cohort_ids`. Moodle doesn't check that the idnumber is
        free, nor the description's format, which is sent back as it was.
        """

        def ask(_: Sequence[RemoteCohort]) -> None:
            self._write(
                "core_cohort_update_cohorts",
                cohorts=[
                    {
                        "id": cohort.id,
                        "categorytype": {"type": "system", "value": ""},
                        "name": name,
                        "idnumber": idnumber,
                        "descriptionformat": cohort.description_format,
                    }
                ],
            )

        return halving([cohort], ask, of_items=of_items).get(cohort)

    def finds(self, idnumber: str) -> bool:
        """Return whether the platform's database finds a cohort by this idnumber, in its own way of comparing texts.

        It is asked to add an account that no Moodle has: then it warns, in English on every site, of the cohort or of
        the account, and changes nothing. Any other answer counts as found.
        """
        reply = self._write(
            "core_cohort_add_cohort_members",
            members=[
                {
                    "cohorttype": {"type": "idnumber", "value": idnumber},
                    "usertype": {"type": "id", "value": 0},
                }
            ],
        )
        return not any(
            warning["warningcode"] == _UNKNOWN and warning.get("message") == f"cohort idnumber={idnumber} not exists"
            for warning in reply.content["warnings"]
        )

    def add(self, pairs: Sequence[Pair], *, of_items: Collection[str] = ()) -> Outcome:
        """Add members. Raises MoodleUnavailable, also when the outcome is unknown: repeating is harmless.

        Raises MoodleRefusesAll when all of them are refused with one code that isn't one of `of_items`.
        """
        warnings: set[str] = set()

        def ask(some: Sequence[Pair]) -> None:
            reply = self._write(
                "core_cohort_add_cohort_members",
                members=[
                    {
                        "cohorttype": {"type": "id", "value": cohort_id},
                        "usertype": {"type": "id", "value": user_id},
                    }
                    for cohort_id, user_id in some
                ],
            )
            self.additions.took(len(some), reply.seconds)
            warnings.update(warning["warningcode"] for warning in reply.content["warnings"])

        with _learning(self.additions):
            try:
                refused = halving(pairs, ask, of_items=of_items)
            except MoodleUnavailable as error:
                if error.code == _ADDING_HIDES:  # a reading that is refused for the same reason names it
                    self.cohorts({cohort_id for cohort_id, _ in pairs})
                raise
        if warnings - {_ALREADY_MEMBER}:  # warnings carry no item, only a sentence: see who is there
            absent = self._absent(pair for pair in pairs if pair not in refused)
            unread = sorted(warnings - {_ALREADY_MEMBER, _UNKNOWN})
            refused |= dict.fromkeys(absent, f"warning-{unread[0]}") if unread else absent
        return Outcome(done=frozenset(pairs) - refused.keys(), refused=refused)

    def remove(self, pairs: Sequence[Pair], *, of_items: Collection[str] = ()) -> Outcome:
        """Remove members; removing somebody who isn't a member succeeds. Raises as `add` does.

        One deleted account or cohort fails the call for all. Then those who aren't members, which a deleted account
        never is, are refused as unknown without another call for them.
        """
        if not pairs:
            return Outcome()

        def ask(some: Sequence[Pair]) -> None:
            reply = self._write(
                "core_cohort_delete_cohort_members",
                members=[{"cohortid": cohort_id, "userid": user_id} for cohort_id, user_id in some],
            )
            self.removals.took(len(some), reply.seconds)

        refused: dict[Pair, str] = {}
        with _learning(self.removals):
            try:
                ask(pairs)
            except MoodleRejected:
                refused = self._absent(pairs)
                refused |= halving([pair for pair in pairs if pair not in refused], ask, of_items=of_items)
        return Outcome(done=frozenset(pairs) - refused.keys(), refused=refused)

    def _write(self, function: str, **arguments: Any) -> Reply:  # noqa: ANN401 - any argument of a call
        with self._learning_fields():
            return self.transport.write(function, arguments, before=self.before)

    def _absent(self, pairs: Iterable[Pair]) -> dict[Pair, str]:
        """Return the pairs that aren't memberships, each with what is missing as the code of a refusal."""
        asked = list(pairs)
        existing = {cohort.id for cohort in self.cohorts({cohort_id for cohort_id, _ in asked})}
        members = self.members(existing)
        refused = {}
        for cohort_id, user_id in asked:
            if cohort_id not in existing:
                refused[cohort_id, user_id] = UNKNOWN_COHORT
            elif user_id not in members[cohort_id]:
                refused[cohort_id, user_id] = UNKNOWN_USER
        return refused


@contextmanager
def _learning(batch_size: BatchSize) -> Iterator[None]:
    try:
        yield
    except MoodleUnavailable as error:
        if error.unknown:
            batch_size.gave_up()
        raise
