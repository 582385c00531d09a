"""Finds the refused items of a batch in few calls, and tells them from a platform that refuses everything."""

from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from worker.domain.errors import MoodleRefusesAll, MoodleRejected
from worker.moodle.refusals import OF_SIZE, WRITE_FAILED, unavailable

Item = TypeVar("Item")

HALVES = 3
"""Refusals in a row after which single items are tried: of the batch, and of both its halves."""
MOST_ALIKE = 7
"""Refusals in a row, with one code, that are about the call: those, and of an item of each quarter alone."""


def halving(
    items: Sequence[Item], ask: Callable[[Sequence[Item]], None], *, of_items: Collection[str] = ()
) -> dict[Item, str]:
    """Call `ask` with all items and, when it is refused, with parts of them, until the refused items are alone.

    Returns the code of each item that is refused. No item is asked for again once it was accepted.

    When nothing is accepted and parts, then single items of all quarters, are refused with one code, it is about the
    call: raises MoodleRefusesAll. So it does for one item alone that can't be written, or is too large. `of_items` are
    codes that the caller knows to be about items, however many are refused.
    """
    parts = deque([list(items)] if items else [])
    refused: dict[Item, str] = {}
    suspicion = _Suspicion(of_items)
    while parts:
        part = parts.popleft()
        try:
            ask(part)
        except MoodleRejected as error:
            suspicion.refused(error)
            if len(part) == 1:
                refused[part[0]] = error.code
            else:
                middle = len(part) // 2
                parts.extend([part[:middle], part[middle:]])
                if suspicion.calls_for_single_items:
                    parts = _singles_first(parts)
        else:
            suspicion.accepted()
    suspicion.end(refused.values())
    return refused


def _singles_first(parts: deque[list[Item]]) -> deque[list[Item]]:
    """Take an item out of each part, to be asked for alone before the others: each from elsewhere in its part."""
    singles, others = [], []
    for number, part in enumerate(parts):
        at = number * len(part) // len(parts)
        singles.append([part[at]])
        if len(part) > 1:
            others.append(part[:at] + part[at + 1 :])
    return deque(singles + others)


@dataclass(slots=True)
class _Suspicion:
    """The suspicion that a refusal is about the call, not about its items."""

    of_items: Collection[str]
    alike: list[MoodleRejected] = field(default_factory=list)
    """The last refusals in a row with one code."""
    anything_accepted: bool = False

    def accepted(self) -> None:
        """Note that a part was accepted."""
        self.alike, self.anything_accepted = [], True

    def refused(self, error: MoodleRejected) -> None:
        """Note that a part was refused. Raises MoodleRefusesAll once that is about the call."""
        same = self.alike and self.alike[-1].code == error.code
        self.alike = [*self.alike, error] if same else [error]
        # After one was accepted, only a database that has just failed refuses all the others.
        possible = not self.anything_accepted or error.code == WRITE_FAILED
        if possible and error.code not in OF_SIZE and len(self.alike) >= MOST_ALIKE:
            self._conclude(error)

    @property
    def calls_for_single_items(self) -> bool:
        """Whether the batch and both its halves have been refused alike, and nothing else is known."""
        return not self.anything_accepted and len(self.alike) == HALVES and self.alike[-1].code not in OF_SIZE

    def end(self, codes: Collection[str]) -> None:
        """Conclude from the codes of all items that were refused alone."""
        if self.anything_accepted or len(set(codes)) != 1:
            return
        error = self.alike[-1]
        if len(codes) > 1 or error.code in OF_SIZE or error.code == WRITE_FAILED:
            self._conclude(error)

    def _conclude(self, error: MoodleRejected) -> None:
        if error.code in self.of_items:
            return
        where = str(error).removesuffix(f": {error.code}")
        sentence = str(error) if error.code in OF_SIZE else f"{where}: {unavailable(error.code)}"
        raise MoodleRefusesAll(error.code, sentence)
