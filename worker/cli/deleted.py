"""What is said of cohorts that were deleted on Moodle, before anything else."""

from collections.abc import Iterator, Sequence

from worker.cli.base import when
from worker.domain.cohorts import DeletedCohort
from worker.domain.sanitize import printable
from worker.domain.states import BLOCKED
from worker.domain.words import counted
from worker.settings.root import Settings

NAMED = 20
"""Deleted cohorts that are named; of more, only their number is told."""


def deleted_sentences(platform: str, deleted: Sequence[DeletedCohort], settings: Settings) -> Iterator[str]:
    """Yield a sentence for each of the first deleted cohorts, and what a person must do."""
    for cohort in deleted[:NAMED]:
        name = f" “{printable(cohort.name)}”" if cohort.name else ""
        etape = f", étape {cohort.etape}" if cohort.etape else ""
        yield (
            f"{platform}: COHORT DELETED ON MOODLE: {cohort.idnumber}{name}{etape}, noticed "
            f"{when(cohort.deleted_at, settings)}, {counted(cohort.lost, 'member')} lost; {_since(cohort)}"
        )
    if deleted[NAMED:]:
        yield f"{platform}: {len(deleted) - NAMED} more cohorts were deleted: see `cohorts status --json`"
    if deleted:
        yield (
            f"{platform}: EVERY COURSE HAS LOST ITS SYNCHRONISATION with {'it' if len(deleted) == 1 else 'them'}: its "
            "teachers must add the enrolment method “Cohort sync” anew, by hand; then `cohorts acknowledge "
            f"{platform} {deleted[0].idnumber if len(deleted) == 1 else 'IDNUMBER'}` ends this report"
        )


def _since(cohort: DeletedCohort) -> str:
    if cohort.moodle_id is not None:
        return f"made again (id {cohort.moodle_id})"
    if cohort.state in BLOCKED:
        return "not made again: another cohort is in its way, see below"
    return "not made again yet"
