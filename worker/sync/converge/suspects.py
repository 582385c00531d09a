"""Tells cohorts that a platform refuses from a platform that refuses everything."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from enum import StrEnum


class Of(StrEnum):
    """What is changed of a cohort."""

    COHORT = "cohort"
    MEMBERS = "members"


Change = tuple[Of, int]
"""What of which cohort of the ledger."""


def changes(what: Of, cohort_ids: Iterable[int]) -> set[Change]:
    """Return the changes of this of these cohorts."""
    return {(what, cohort_id) for cohort_id in cohort_ids}


@dataclass(slots=True)
class Suspects:
    """Changes that were refused whatever they consisted of, with the codes.

    A platform that has accepted another change since is not at fault: then the codes are about these cohorts, or their
    members.
    """

    _codes: dict[Change, str] = field(default_factory=dict)
    _cleared: set[Change] = field(default_factory=set)
    """Those of them since whose refusal the platform has accepted another."""

    def refused(self, refused: Collection[Change], code: str) -> None:
        """Note that all of these changes were refused."""
        self._codes.update(dict.fromkeys(refused, code))
        self._cleared.clear()

    def accepted(self, accepted: Collection[Change]) -> None:
        """Note that the platform has accepted these, at least in part."""
        if accepted:
            for change in accepted:
                self._codes.pop(change, None)
            self._cleared = set(self._codes)

    def codes_of_items(self, wanted: Collection[Change]) -> set[str]:
        """Return the codes that are about what is changed, not about the platform, if that is known of all of it."""
        return {self._codes[change] for change in wanted} if self._cleared.issuperset(wanted) else set()
