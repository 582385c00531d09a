"""What to do about the gaps of some cohorts. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from worker.domain.cohorts import Gap


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Additions and removals, each with the Moodle account that it concerns, and removals that aren't needed."""

    additions: tuple[tuple[Gap, int], ...]
    removals: tuple[tuple[Gap, int], ...]
    unneeded: tuple[tuple[Gap, int], ...]
    """Removals of an account that another desired membership of the same cohort stands for: two student numbers of
    one person, merged. The account stays; the old membership is closed without a call."""


def plan(gaps: Sequence[Gap], accounts: Mapping[str, int], staying: Iterable[tuple[int, int]] = ()) -> Plan:
    """Plan from gaps, accounts by student id, and the accounts that must stay, as (cohort id, user id).

    The gap of a student without an account isn't planned. Additions are in the order of the gaps.
    """
    additions = [(gap, accounts[gap.student_id]) for gap in gaps if gap.desired and gap.student_id in accounts]
    stays = set(staying) | {(gap.cohort_id, user_id) for gap, user_id in additions}
    removals: list[tuple[Gap, int]] = []
    unneeded: list[tuple[Gap, int]] = []
    for gap in gaps:
        user_id = accounts.get(gap.student_id) if gap.user_id is None else gap.user_id
        if gap.desired or user_id is None:
            continue
        chosen = unneeded if (gap.cohort_id, user_id) in stays else removals
        chosen.append((gap, user_id))
    return Plan(additions=tuple(additions), removals=tuple(removals), unneeded=tuple(unneeded))
