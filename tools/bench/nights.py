"""Whole nights of a university, and of one that is ten times as large in everything, with drift.

A night reads the snapshot from its topic and every cohort and member from Moodle, writes both into the ledger, and
closes the drift; calls to Moodle take their measured time. Half of the drift are removed members, the other half
added ones. The guard is off, because it would hold so many removals. Each night of the large university comes between
two of the small one; figures are medians of such turns. The aim: ten times as many memberships cost at most 11 times
as much time and memory.
"""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from tools.bench import Figure, Quantity, scaled
from tools.bench.night import load, publish, reconciled, with_topic
from tools.bench.parts import Moodle, served, settings
from worker.sandbox.broker import EmbeddedBroker
from worker.sandbox.moodle.server import MEASURED, Cost
from worker.sandbox.university.generator import University
from worker.settings.root import Settings

TITLE = "Nights with drift, of 40,000 and of 400,000 memberships"
STUDENTS, ETAPES, TIMES = scaled(35_000), scaled(420, least=25), 10
DRIFTS = {0.0: scaled(3, least=1), 0.01: scaled(3, least=1), 0.2: 1}
"""Turns of each share of drift: short nights vary most."""
PARTITIONS = 128  # the embedded broker keeps 5 MiB in each
MOST_TIMES = 11.0


def run() -> Iterator[Figure]:
    """Measure both universities in turns, for each share of drift."""
    with ExitStack() as stack:
        small = stack.enter_context(_running(STUDENTS, ETAPES))
        large = stack.enter_context(_running(TIMES * STUDENTS, TIMES * ETAPES))
        for share, turns in DRIFTS.items():
            few, many = [], []
            for _ in range(turns):
                few.append(small.night(share))
                many.append(large.night(share))
                few.append(small.night(share))
            fewer_seconds, less_memory = map(median, zip(*few, strict=True))
            seconds, memory = map(median, zip(*many, strict=True))
            what = f"{large.memberships:,} memberships, {100 * share:g} % drift"
            yield Figure(
                what=what,
                figure=Quantity(seconds, "s"),
                against=f"{fewer_seconds:.1f} s, a tenth of it",
                ratio=Quantity(seconds / fewer_seconds, "times", most=MOST_TIMES),
            )
            yield Figure(
                what=f"{what}: peak memory",
                figure=Quantity(memory, "MiB"),
                against=f"{less_memory:.0f} MiB, a tenth of it",
                ratio=Quantity(memory / less_memory, "times", most=MOST_TIMES),
            )


class _Running:
    """A university whose cohorts are right, with a Moodle and a broker of its own."""

    def __init__(self, university: University, ours: Settings, moodle: Moodle, broker: EmbeddedBroker) -> None:
        self._rows = [*university.snapshot_rows()]
        self._truth = _usernames(university)
        self._ours, self._moodle, self._broker = ours, moodle, broker
        self._nights = 0
        self.memberships = sum(map(len, self._truth.values()))

    def night(self, share: float) -> tuple[float, float]:
        """Change that share of the memberships and reconcile; returns seconds and peak memory in MiB."""
        tonight = with_topic(self._ours, f"snapshots-{self._nights}")
        self._nights += 1
        self._broker.create_topic(tonight.kafka.snapshots, PARTITIONS)
        publish(tonight, self._rows)
        drift = 2 * round(share * self.memberships / 2)
        self._moodle.disturb(drift)
        figures = reconciled(tonight, with_snapshot=True, drift=drift)
        if {cohort: members for cohort, members in self._moodle.memberships().items() if members} != self._truth:
            raise RuntimeError("cohorts on Moodle differ from the truth")
        return figures


@contextmanager
def _running(students: int, etapes: int) -> Iterator[_Running]:
    university = University(students=students, etapes=etapes)
    with ExitStack() as stack:
        broker = stack.enter_context(EmbeddedBroker())
        usernames = sorted(frozenset().union(*_usernames(university).values()))
        moodle = stack.enter_context(served(usernames, cost=Cost()))
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        ours = settings(
            ledger=f"sqlite:///{Path(directory) / 'ledger.db'}",
            moodle=moodle.url,
            kafka={"bootstrap": broker.bootstrap},
            guard={"enabled": False},
        )
        load(ours, university.initial())
        moodle.charge(MEASURED)
        yield _Running(university, ours, moodle, broker)


def _usernames(university: University) -> dict[str, set[str]]:
    return {cohort: {f"e{number}" for number in numbers} for cohort, numbers in university.truth().items()}
