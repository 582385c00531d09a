"""Fingerprints of the cohorts that aren't ours, by which a run proves that it left them alone."""

import hashlib
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from worker.domain.report import ForeignChange, ForeignEvent
from worker.moodle import RemoteCohort


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """A cohort's idnumber, and digests of its name and of its members."""

    idnumber: str
    name: str
    members: str


def fingerprints(
    cohorts: Mapping[int, RemoteCohort], members: Mapping[int, set[int]], ours: AbstractSet[int], owner: str
) -> dict[int, Fingerprint]:
    """Return the fingerprint of every cohort that isn't ours, by Moodle's id.

    `ours` are ids. A cohort that carries our name, `owner`, is ours too: it is just being created.
    """
    return {
        number: Fingerprint(
            idnumber=cohorts[number].idnumber,
            name=_digest(cohorts[number].name),
            members=_digest(repr(sorted(users))),
        )
        for number, users in members.items()
        if number not in ours and not cohorts[number].is_of(owner)
    }


def differences(before: Mapping[int, Fingerprint], after: Mapping[int, Fingerprint]) -> Iterator[ForeignChange]:
    """Return what happened to each cohort, under the idnumber that it had before."""
    for number in sorted(before.keys() | after.keys()):
        earlier, later = before.get(number), after.get(number)
        known = earlier or later
        what = _event(earlier, later)
        if known is not None and what is not None:
            yield ForeignChange(moodle_id=number, idnumber=known.idnumber, what=what)


def _event(before: Fingerprint | None, after: Fingerprint | None) -> ForeignEvent | None:
    if before == after:
        return None
    if before is None:
        return ForeignEvent.CREATED
    if after is None:
        return ForeignEvent.DELETED
    return ForeignEvent.NAME if before.members == after.members else ForeignEvent.MEMBERS


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
