"""The cohorts of the claimed work, on their platform: found, created, renamed."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from worker.domain.cohorts import Cohort
from worker.domain.idnumbers import alike
from worker.domain.instants import Instant
from worker.domain.states import Action, CohortChange, CohortState
from worker.ledger.cohorts import UNBLOCKED, UNDECIDED, owned
from worker.ledger.work_queue import Work
from worker.moodle import IDNUMBER_TAKEN, MoodleWriter, RemoteCohort
from worker.sync.converge.context import OBSERVE_RETRY_SECONDS, LaneContext
from worker.sync.converge.suspects import Of, changes

RENAMES = 50
"""Cohorts renamed in one run of a lane, each by a call: well within a lease."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CohortMatch:
    """Wanted cohorts, by what their platform has under their idnumbers."""

    created: tuple[tuple[Cohort, RemoteCohort], ...]
    """One cohort, which this ledger created: the response to an earlier call was lost."""
    foreign: tuple[tuple[Cohort, RemoteCohort], ...]
    """Any other cohort, or several, of which one isn't ours."""
    missing: tuple[Cohort, ...]


def match(
    wanted: Iterable[Cohort], remote: Iterable[RemoteCohort], is_ours: Callable[[RemoteCohort], bool]
) -> CohortMatch:
    """Match wanted cohorts with those of a platform. Pure."""
    by_idnumber: defaultdict[str, list[RemoteCohort]] = defaultdict(list)
    for each in remote:
        by_idnumber[each.idnumber].append(each)
    created, foreign, missing = [], [], []
    for cohort in wanted:
        holders = by_idnumber.get(cohort.idnumber, [])
        if not holders:
            missing.append(cohort)
        elif len(holders) == 1 and is_ours(holders[0]):
            created.append((cohort, holders[0]))
        else:
            foreign.append((cohort, next((holder for holder in holders if not is_ours(holder)), holders[0])))
    return CohortMatch(created=tuple(created), foreign=tuple(foreign), missing=tuple(missing))


@dataclass(frozen=True, slots=True, kw_only=True)
class CohortLabels:
    """What a cohort is to be called on Moodle, and whether its name is still ours to change."""

    name: str
    idnumber: str
    name_is_ours: bool


def labels(cohort: Cohort, remote: RemoteCohort, *, movable: bool, free: bool) -> CohortLabels:
    """Decide what to call a cohort. Pure.

    A cohort that isn't `movable` is outside the system context, and an update would move it there. Its idnumber is
    `free` unless another cohort has it, to Moodle's database. A name that a person changed stays.
    """
    # Its name may be the wanted one already: the response to an earlier call was lost.
    unchanged = remote.name in {cohort.moodle_name, cohort.wanted_name}
    name_is_ours = cohort.name_is_ours and unchanged and movable
    return CohortLabels(
        name=(cohort.wanted_name or remote.name) if name_is_ours else remote.name,
        idnumber=cohort.idnumber if free and movable else remote.idnumber,
        name_is_ours=name_is_ours,
    )


class CohortProvider:
    """Prepares the cohorts that one lane writes to."""

    def __init__(self, context: LaneContext) -> None:
        self._context = context

    def ready(self, work: Work) -> dict[int, int]:
        """Return Moodle's ids of the claimed cohorts that may be written, by our ids."""
        joined = {gap.cohort_id for gap in work.gaps if gap.desired}
        ready, wanted, misnamed = {}, [], []
        for cohort in work.cohorts.values():
            if cohort.moodle_id is not None:
                ready[cohort.id] = cohort.moodle_id
            if cohort.state is CohortState.WANTED:
                wanted.append(cohort)
            elif _is_misnamed(cohort) and not cohort.held:
                misnamed.append(cohort)
        if wanted:
            ready |= self._find_or_create([cohort for cohort in wanted if cohort.id in joined])
        if misnamed:
            self._rename(misnamed)
        return ready

    def vanished(self, cohort: Cohort) -> None:
        """Note that somebody deleted a cohort of ours."""
        self._context.log.warning("cohort was deleted on Moodle", cohort=cohort.idnumber)
        self._context.queue.vanished(cohort, self._context.clock())

    def _find_or_create(self, wanted: Sequence[Cohort]) -> dict[int, int]:
        context, writer = self._context, self._context.writer
        now = context.clock()
        known = context.queue.owned()

        def is_new(remote: RemoteCohort) -> bool:
            """Whether a lost answer made it. One that is known may have been given an idnumber of ours by somebody."""
            return writer is not None and writer.is_ours(remote) and remote.id not in known

        matched = match(wanted, context.reader.cohorts(), is_new)
        if matched.foreign:
            context.log.warning("cohorts exist that we did not create: adopt them", cohorts=len(matched.foreign))
        foreign = [(cohort, context.queue.blocked_by(cohort, holder)) for cohort, holder in matched.foreign]
        # It may have been ours for days, under a ledger that was since lost: whoever is in it is unknown.
        created = [
            (cohort, owned(remote.id, remote.name, remote.idnumber, now) | {"unread": True})
            for cohort, remote in matched.created
        ]
        context.queue.write_cohorts([*foreign, *created], now)
        ready = {cohort.id: remote.id for cohort, remote in matched.created}
        if not matched.missing:
            return ready
        if writer is None:
            return ready | {cohort.id: 0 for cohort in matched.missing}  # so that what would be done in them is planned
        missing = context.permitted(CohortChange.CREATION, matched.missing)
        return ready | self._create(writer, missing) if missing else ready

    def _create(self, writer: MoodleWriter, missing: Sequence[Cohort]) -> dict[int, int]:
        context = self._context
        now = context.clock()
        names = {cohort.idnumber: cohort.wanted_name or cohort.idnumber for cohort in missing}
        ours = {cohort.id for cohort in missing}
        of_items = context.suspects.codes_of_items(changes(Of.COHORT, ours))
        with context.changing(ours):
            ids, refused = writer.create(list(names.items()), of_items=of_items)
        created = [cohort for cohort in missing if cohort.idnumber in ids]
        context.suspects.accepted(changes(Of.COHORT, (cohort.id for cohort in created)))
        rows = [
            (cohort, owned(ids[cohort.idnumber], names[cohort.idnumber], cohort.idnumber, now)) for cohort in created
        ]
        context.queue.write_cohorts(rows, now, Action.CREATE_COHORT)
        context.log.info("cohorts created", cohorts=len(created))
        if refused:
            self._refused([(cohort, refused[cohort.idnumber]) for cohort in missing if cohort.idnumber in refused])
        return {cohort.id: ids[cohort.idnumber] for cohort in created}

    def _refused(self, refused: Sequence[tuple[Cohort, str]]) -> None:
        """Write why these cohorts could not be created, each with the code of the refusal.

        Moodle refuses an idnumber that its database finds already, under whatever spelling: it is looked for among all
        cohorts, those that were created just now included.
        """
        context = self._context
        now = context.clock()
        remote = context.reader.cohorts() if any(code == IDNUMBER_TAKEN for _, code in refused) else []
        rows = []
        for cohort, code in refused:
            holders = alike(cohort.idnumber, remote) if code == IDNUMBER_TAKEN else []
            if holders:
                values = context.queue.blocked_by(cohort, holders[0])
            else:
                values = {**UNBLOCKED, "refusal": code, **self._later(cohort, now)}
            rows.append((cohort, {**values, "creation_at": cohort.creation_at}))
            context.log.error("cohort cannot be created", cohort=cohort.idnumber, code=code, alike=len(holders))
        context.queue.write_cohorts(rows, now)

    def _later(self, cohort: Cohort, now: Instant) -> dict[str, Any]:
        """Return the columns of a cohort that is to be tried again, later and later."""
        return {"attempts": cohort.attempts + 1, "next_attempt_at": now + self._context.backoff.after(cohort.attempts)}

    def _rename(self, misnamed: Sequence[Cohort]) -> None:
        context, writer = self._context, self._context.writer
        if writer is None:
            later = context.clock() + OBSERVE_RETRY_SECONDS
            context.queue.write_cohorts([(cohort, {"next_attempt_at": later}) for cohort in misnamed], context.clock())
            return
        remote = {each.id: each for each in writer.cohorts()}
        movable = writer.system_cohort_ids()
        for cohort in misnamed[:RENAMES]:
            found = remote.get(cohort.moodle_id or 0)
            if found is None:
                self.vanished(cohort)
                continue
            others = alike(cohort.idnumber, (each for each in remote.values() if each.id != found.id))
            taken = self._taken(writer, cohort, found, others)
            wanted = labels(cohort, found, movable=found.id in movable, free=not taken)
            self._relabel(writer, cohort, found, wanted, taken)

    def _taken(
        self, writer: MoodleWriter, cohort: Cohort, remote: RemoteCohort, others: Sequence[RemoteCohort]
    ) -> dict[str, Any]:
        """Return the columns that say who has a cohort's idnumber already; none when it is free. `others` are alike.

        Moodle doesn't check it in an update, and only its database can tell. It can't be asked when it would find the
        cohort itself: then any other is one too many.
        """
        if remote.idnumber == cohort.idnumber:
            return {}
        is_taken = any(other.idnumber == cohort.idnumber for other in others)
        if alike(cohort.idnumber, [remote]):
            is_taken = bool(others)
        elif not is_taken:
            with self._context.changing([cohort.id]):
                is_taken = writer.finds(cohort.idnumber)
        if not is_taken:
            return {}
        self._context.log.error("cohort cannot get its idnumber", cohort=cohort.idnumber)
        holder = next(iter(others), None)
        return {
            "refusal": IDNUMBER_TAKEN,
            "blocker_id": holder and holder.id,
            "blocker": holder and holder.idnumber,
        }

    def _relabel(
        self, writer: MoodleWriter, cohort: Cohort, remote: RemoteCohort, wanted: CohortLabels, taken: dict[str, Any]
    ) -> None:
        """Call a cohort as `wanted`. `taken` are the columns that say why its idnumber isn't."""
        context = self._context
        now = context.clock()
        values: dict[str, Any] = {
            "name_is_ours": wanted.name_is_ours,
            "moodle_name": wanted.name,
            "moodle_idnumber": wanted.idnumber,
            **UNBLOCKED,
        }
        if not taken:  # else what a person decided isn't carried out yet
            values |= {"held": None, **UNDECIDED}
        action = None
        if (wanted.name, wanted.idnumber) != (remote.name, remote.idnumber):
            if not context.permitted(CohortChange.RENAME, [cohort]):
                return
            refusal = self._update(writer, cohort, remote, wanted)
            if refusal is None:
                action = Action.RENAME_COHORT
                context.log.info("cohort renamed", cohort=cohort.idnumber)
            else:
                values = {**UNBLOCKED, "refusal": refusal, "renaming_at": cohort.renaming_at}
                context.log.error("cohort cannot be renamed", cohort=cohort.idnumber, code=refusal)
        if values.get("moodle_idnumber") != cohort.idnumber:  # refused, taken, or not ours to move
            values |= self._later(cohort, now) | taken
        context.queue.write_cohorts([(cohort, values)], now, action)

    def _update(self, writer: MoodleWriter, cohort: Cohort, remote: RemoteCohort, wanted: CohortLabels) -> str | None:
        """Rename a cohort on Moodle; returns the code of a refusal."""
        renaming = changes(Of.COHORT, [cohort.id])
        of_items = self._context.suspects.codes_of_items(renaming)
        with self._context.changing([cohort.id]):
            refusal = writer.update(remote, name=wanted.name, idnumber=wanted.idnumber, of_items=of_items)
        if refusal is None:
            self._context.suspects.accepted(renaming)
        return refusal


def _is_misnamed(cohort: Cohort) -> bool:
    return cohort.state is CohortState.OWNED and (
        cohort.moodle_idnumber != cohort.idnumber
        or (cohort.name_is_ours and cohort.wanted_name not in {None, cohort.moodle_name})
    )
