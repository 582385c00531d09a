"""From a directory to a published snapshot, against `ldapsearch` that reads the same attributes over the same TLS."""

import os
import statistics
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path

from tests.support.servers.slapd import PASSWORD, READER, SUFFIX, Slapd, real_slapd
from tests.support.supann import ldif
from tools.bench import Figure, Quantity, scaled
from tools.bench.memory import peak
from tools.bench.parts import PROCESSES, command, settings
from worker import snapshots, telemetry
from worker.domain.snapshots import SnapshotScope
from worker.runtime.sources import source
from worker.sandbox.broker import EmbeddedBroker
from worker.sandbox.university.generator import University
from worker.settings.root import Settings

TITLE = "From a directory to a published snapshot"
ROUNDS = scaled(5, least=1)
PARTITIONS = 16  # the embedded broker keeps 5 MiB in each
STUDENTS = scaled(35_000)
FEW = STUDENTS // 10
BASE = f"ou=people,{SUFFIX}"


def run() -> Iterator[Figure]:
    """Measure a tenth of the university, then the whole."""
    _, few_memory, _ = _measured(FEW)
    reading, memory, bare = _measured(STUDENTS)
    plain, what = statistics.median(bare), f"{STUDENTS:,} students"
    for done, seconds in reading.items():
        median = statistics.median(seconds)
        yield Figure(
            what=f"{what}, {done}",
            figure=Quantity(median, "s"),
            against=f"{plain:.2f} s, ldapsearch",
            ratio=Quantity(median / plain, "times slower", most=2.0 if done == "published" else None),
        )
    yield Figure(
        what=what,
        figure=Quantity(memory, "MiB"),
        against=f"{few_memory:.0f} MiB with {FEW:,}",
        ratio=Quantity(1024 * (memory - few_memory) / (STUDENTS - FEW), "KiB per additional student", most=1.0),
    )


def _measured(students: int) -> tuple[dict[str, list[float]], float, list[float]]:
    """Return our seconds until read and until published, our peak memory in MiB, and the seconds of ldapsearch."""
    entries = ldif(University(students=students), BASE)
    ours: dict[str, list[float]] = {"read": [], "published": []}
    peaks, bare = [], []
    with real_slapd(entries) as slapd, EmbeddedBroker() as broker:
        for number in range(ROUNDS):
            broker.create_topic(f"snapshots-{number}", PARTITIONS)
            kafka = {"bootstrap": broker.bootstrap, "snapshots": f"snapshots-{number}"}
            receiver, sender = PROCESSES.Pipe()
            chosen = settings(ledger="sqlite://", kafka=kafka, sources={"directory": slapd.settings()})
            process = command(_publish, sender, chosen)
            sender.close()  # so that recv() fails if the process does
            read, published, memory = receiver.recv()
            process.join()
            ours["read"].append(read)
            ours["published"].append(published)
            peaks.append(memory)
            bare.append(_ldapsearch(slapd))
    return ours, max(peaks), bare


def _publish(sender: Connection, ours: Settings) -> None:
    """Do what the command does."""
    telemetry.configure_logging("warning")
    scope = SnapshotScope(uais=ours.uais, academic_years=ours.active_years)
    started, taken_at = time.perf_counter(), datetime.now(UTC)
    publisher = snapshots.Publisher(ours.kafka.properties(), ours.kafka.snapshots)
    with snapshots.collect(source(ours, "directory").read(scope), scope) as snapshot:
        read = time.perf_counter() - started
        name = snapshots.new_id(snapshot.system, taken_at)
        publisher.publish(snapshot, snapshot_id=name, taken_at=taken_at)
    sender.send((read, time.perf_counter() - started, peak()))


def _ldapsearch(slapd: Slapd) -> float:
    """Read the same pages and discard them; returns the seconds, start of the program included."""
    source = slapd.settings()
    command = ["ldapsearch", "-LLL", "-x", "-ZZ", "-H", source.uri, "-D", READER, "-w", PASSWORD, "-b", source.base]
    wanted = [source.student_id, source.login, source.composite]
    pages = f"pr={source.page_size}/noprompt"
    trusting = os.environ | {"LDAPTLS_CACERT": str(slapd.ca)}
    started = time.perf_counter()
    with Path(os.devnull).open("wb") as nothing:
        subprocess.run([*command, "-E", pages, source.filter, *wanted], env=trusting, stdout=nothing, check=True)  # noqa: S603 - our own arguments
    return time.perf_counter() - started
