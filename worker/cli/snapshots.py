"""The commands about snapshots: publish, show."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, track
from rich.table import Table

from schemas import SnapshotRow
from worker import snapshots
from worker.cli.base import DEFAULT_CONFIG, ConfigOption, JsonOption, ago, out, prepare, say, say_json
from worker.domain.errors import SettingsError
from worker.domain.snapshots import SnapshotScope
from worker.domain.words import counted
from worker.runtime import sources
from worker.runtime.messages import latest_snapshot
from worker.snapshots import CollectedSnapshot
from worker.sources.files import FileSource
from worker.sources.tables import CsvForm

SAMPLE = 12
"""Étapes that a dry run names."""

family = typer.Typer()
snapshot = typer.Typer(
    no_args_is_help=True, help="Publish snapshots of all enrolments, and look at those on the topic."
)
family.add_typer(snapshot, name="snapshot")


def _instant(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text} is not a time; write it as 2026-09-01T01:00:00+02:00") from None
    if at.tzinfo is None:
        raise typer.BadParameter(f"{text} has no offset from UTC; add it, as in {text}+02:00")
    if at > datetime.now(UTC):
        raise typer.BadParameter(f"{text} is in the future")
    return at


@snapshot.command()
def publish(
    file: Annotated[
        Path | None, typer.Argument(help="JSON lines or CSV, one enrolment per row; - for standard input.")
    ] = None,
    *,
    source: Annotated[
        str | None, typer.Option("--from", help="Name of a source in the settings, in place of a file.")
    ] = None,
    taken_at: Annotated[
        datetime | None,
        typer.Option(
            parser=_instant,
            metavar="TIME",
            help="When the export of the file began, as `date -Iseconds` prints it; other sources are read now.",
        ),
    ] = None,
    path: ConfigOption = DEFAULT_CONFIG,
    years: Annotated[
        list[int] | None, typer.Option(help="Academic years that the snapshot is complete for [default: active_years].")
    ] = None,
    uai: Annotated[
        list[str] | None,
        typer.Option(help="Universities that the snapshot is complete for [default: uais]."),
    ] = None,
    etapes: Annotated[
        list[str] | None, typer.Option(help="Étapes (globs) that the snapshot is complete for [default: all].")
    ] = None,
    count: Annotated[int | None, typer.Option(min=0, help="Number of rows that the file must have.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and count everything, send nothing.")] = False,
) -> None:
    """Publish a source as a snapshot of all enrolments; if the source is incomplete, nothing is sent."""
    settings = prepare(path)
    scope = SnapshotScope(
        uais=frozenset(uai) if uai else sources.uais_of(settings, source),
        academic_years=frozenset(years or settings.active_years),
        etapes=tuple(etapes) if etapes else None,
    )
    if (file is None) == (source is None):
        raise SettingsError("name a file, or a source with --from")
    origin = FileSource(file, CsvForm(), expected=count) if file else sources.source(settings, source or "", count)
    if isinstance(origin, FileSource) != (taken_at is not None):
        raise SettingsError(
            "a file needs --taken-at, the time when its export began; other sources are read now and take none"
        )
    taken_at = taken_at or datetime.now(UTC)
    topic = settings.kafka.snapshots
    publisher = None if dry_run else snapshots.Publisher(settings.kafka.properties(), topic)
    reading = origin.read(scope)
    with snapshots.collect(_counted(reading), scope) as collected:
        if publisher is None:
            _show(collected)
            say(f"{_sentence(collected, reading.left_out)}: whole, and not sent")
            return
        snapshot_id = snapshots.new_id(collected.system, taken_at)
        publisher.publish(
            collected,
            snapshot_id=snapshot_id,
            taken_at=taken_at,
            progress=lambda rows: track(rows, topic, total=len(collected), disable=not out.is_terminal),
        )
    counts = _sentence(collected, reading.left_out)
    say(f"{counts}: published to {topic} over {publisher.partitions} partitions as {snapshot_id}")


def _counted(rows: Iterable[SnapshotRow]) -> Iterator[SnapshotRow]:
    """Show on a terminal how many rows have been read; the total is unknown."""
    columns = SpinnerColumn(), TextColumn("reading"), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, disable=not out.is_terminal, transient=True) as progress:
        yield from progress.track(rows, total=None)


def _sentence(collected: CollectedSnapshot, left_out: Counter[str]) -> str:
    shown = ", ".join(f"{year}: {rows}" for year, rows in sorted(collected.rows_by_year.items()))
    sentence = f"{counted(collected.rows, 'enrolment')} ({shown}), {collected.repeated} of them repeated"
    for reasons, what in ((collected.unknown, "unknown, which stay as they were"), (left_out, "left out")):
        if reasons:
            counts = ", ".join(f"{reason}: {number}" for reason, number in reasons.most_common())
            sentence += f", {reasons.total()} {what} ({counts})"
    return sentence


def _show(collected: CollectedSnapshot) -> None:
    """Show enrolments by component and year, and a sample of codes from the largest étape to the smallest."""
    years = sorted(collected.rows_by_year)
    table = Table("component", *map(str, years))
    for component in sorted({component for _, component in collected.components}):
        table.add_row(escape(component) or "unknown", *(str(collected.components[year, component]) for year in years))
    out.print(table)
    ranked = collected.etapes.most_common()
    sample = ranked[:: max(1, len(ranked) // SAMPLE)][:SAMPLE]
    say(f"{len(ranked)} étapes, such as " + ", ".join(f"{code} ({number})" for code, number in sample))


@snapshot.command()
def show(path: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Show the newest complete snapshot on the topic, or why there is none. Earlier acceptances don't count."""
    settings = prepare(path)
    found = latest_snapshot(settings)(time.time(), None)
    summary = found.accepted()
    if as_json:
        say_json(
            {
                "id": found.id,
                "taken_at": found.taken_at,
                "system": found.system,
                "rows_by_year": summary.rows_by_year,
                "unknown": len(found.unknown),
                "passed_over": [asdict(refusal) for refusal in found.passed_over],
                "ignored": found.ignored,
            }
        )
        return
    for refusal in found.passed_over:
        say(f"passed over: {refusal}")
    shown = ", ".join(f"{year}: {rows}" for year, rows in sorted(summary.rows_by_year.items()))
    unknown = f", {len(found.unknown)} unknown" if found.unknown else ""
    taken = ago(time.time() - found.taken_at)
    say(f"{found.id}: whole, {counted(len(found.rows), 'enrolment')} ({shown}){unknown}, taken {taken} ago")
