"""Whole nights of a university and of one ten times as large in everything, that bring up drift made behind our back.

A night is the snapshot read from its topic, every cohort and member read from Moodle, both written into the ledger, and
the drift closed; Moodle's calls cost what they cost a real one. Half of the drift are members taken out, half are
students put where they weren't. The guard is off, since it would hold a twentieth of a platform. The small university's
figures are medians of several turns. What is aimed at is that ten times as many memberships cost no more than 11 times
as much, and that memory grows no faster.
"""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from tests.bench import Figure, Quantity, scaled
from tests.bench.night import load, publish, reconciled, with_topic
from tests.bench.parts import served, settings
from worker.sandbox.broker import EmbeddedBroker
from worker.sandbox.moodle import MEASURED, Cost
from worker.sandbox.university import University

TITLE = "Nights with drift, of 40,000 and of 400,000 memberships"
STUDENTS, ETAPES, TIMES = scaled(35_000), scaled(420, least=25), 10
TURNS = scaled(3, least=1)
DRIFTS = (0.0, 0.01, 0.2)
PARTITIONS = 128  # the embedded broker keeps 5 MiB in each
MOST_TIMES = 11.0

Night = tuple[float, float]
"""Seconds, and the peak of memory in MiB."""


def run() -> Iterator[Figure]:
    """Measure the small university, then the large one."""
    small = [_nights(STUDENTS, ETAPES)[1] for _ in range(TURNS)]
    memberships, large = _nights(TIMES * STUDENTS, TIMES * ETAPES)
    for share, (seconds, memory) in large.items():
        what = f"{memberships:,} memberships, {100 * share:g} % drift"
        fewer_seconds, less_memory = map(median, zip(*(nights[share] for nights in small), strict=True))
        yield Figure(
            what=what,
            figure=Quantity(seconds, "s"),
            against=f"{fewer_seconds:.1f} s, of a tenth",
            ratio=Quantity(seconds / fewer_seconds, "times", most=MOST_TIMES),
        )
        yield Figure(
            what=f"{what}: peak of memory",
            figure=Quantity(memory, "MiB"),
            against=f"{less_memory:.0f} MiB, of a tenth",
            ratio=Quantity(memory / less_memory, "times", most=MOST_TIMES),
        )


def _nights(students: int, etapes: int) -> tuple[int, dict[float, Night]]:
    """Give the memberships, and a night by share of drift."""
    university = University(students=students, etapes=etapes)
    truth = {cohort: {f"e{number}" for number in some} for cohort, some in university.truth().items()}
    memberships = sum(map(len, truth.values()))
    with ExitStack() as stack:
        broker = stack.enter_context(EmbeddedBroker())
        moodle = stack.enter_context(served(sorted(frozenset().union(*truth.values())), cost=Cost()))
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        ours = settings(
            ledger=f"sqlite:///{Path(directory) / 'ledger.db'}",
            moodle=moodle.url,
            kafka={"bootstrap": broker.bootstrap},
            guard={"enabled": False},
        )
        load(ours, university.initial())
        moodle.charge(MEASURED)
        nights: dict[float, Night] = {}
        for share in DRIFTS:
            tonight = with_topic(ours, f"snapshots-{len(nights)}")
            broker.create_topic(tonight.kafka.snapshots, PARTITIONS)
            publish(tonight, university.snapshot_rows())
            drift = 2 * round(share * memberships / 2)
            moodle.disturb(drift)
            nights[share] = reconciled(tonight, with_snapshot=True, drift=drift)
            if {cohort: members for cohort, members in moodle.memberships().items() if members} != truth:
                raise RuntimeError("Moodle is not as it must be")
    return memberships, nights
