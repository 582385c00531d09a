"""Cohorts of a real Moodle that are adopted with former members, or deleted behind our back: `pytest tests/live`.

Our service account can't delete a cohort. MOODLE_CHANGE is a command that does it with an administrator's powers:
`$MOODLE_CHANGE delete-cohort IDNUMBER`.
"""

import os
import shlex
import subprocess
import time

import pytest

from tests.live.test_real_moodle import PLATFORM, POLICY, Bench, bench, people, reconcile
from worker.domain.departure import Departure
from worker.domain.guard import Guard
from worker.domain.rules import Mapper, Mode
from worker.domain.states import CohortState, Drift, Limit, Status
from worker.ledger import decisions, deletions, proposals
from worker.ledger.status import read_status
from worker.moodle import MoodleWriter
from worker.sync import adoption

__all__ = ["bench", "people"]  # fixtures


@pytest.fixture(scope="module", autouse=True)
def _site() -> None:
    if not {"MOODLE_URL", "MOODLE_TOKEN"} <= os.environ.keys():
        pytest.skip("set MOODLE_URL and MOODLE_TOKEN to a Moodle that isn't in use")


def held(bench: Bench) -> proposals.PlannedCohort:
    """Be shown what is held."""
    with bench.ledger.write() as connection:
        (cohort,) = proposals.planned(connection, PLATFORM.name, Guard(), time.time()).cohorts
        decisions.show(connection, PLATFORM.name, cohort.pairs, time.time())
    return cohort


def test_former_members_of_an_adopted_cohort_stay_until_a_person_approves_their_removal(
    bench: Bench, people: dict[str, int]
) -> None:
    bench.guard_by(Guard())
    names = list(people)
    enrolled, former, unknown = names[:3], names[3:12], names[12]
    by_hand = MoodleWriter(bench.wire, Mode.AUTOMATIC, instance="by hand")
    (theirs,) = by_hand.create([(bench.etape, "Faite à la main")])[0].values()
    by_hand.add([(theirs, people[name]) for name in (*enrolled[:2], *former, unknown)])
    bench.say(*enrolled)
    bench.say(*former, status=Status.RESIGNED)
    bench.describe("Licence 1")
    bench.converge()

    surveyed = adoption.survey(bench.ledger, Mapper(POLICY), PLATFORM, bench.reader, ["LIVE-*"])
    (told,) = surveyed.candidates
    assert (told.staying, told.leaving, told.unmatched, told.joining) == (2, {Departure.ENDED: 9}, 1, 1)
    assert told.new_name is not None
    assert adoption.adopt(bench.ledger, PLATFORM, bench.reader, surveyed, by="live") == []
    bench.converge()
    assert bench.name() == told.new_name
    report = reconcile(bench)
    bench.converge()
    everybody = {people[name] for name in (*enrolled, *former, unknown)}
    assert bench.members() == everybody
    assert (report.held, report.drift, report.strangers) == (9, {Drift.EXTRA: 9}, 1)
    cohort = held(bench)
    assert cohort.held is Limit.ADOPTED
    assert cohort.hash is not None
    decisions.approve(bench.ledger, cohort.hash, by="live", now=time.time())
    bench.say(enrolled[0], status=Status.RESIGNED, version=2)
    bench.converge()
    assert bench.members() == {people[name] for name in (*enrolled[1:], unknown)}


@pytest.mark.skipif("MOODLE_CHANGE" not in os.environ, reason="set MOODLE_CHANGE: see this file")
@pytest.mark.parametrize("noticed_by", ["the night", "an addition"])
def test_a_cohort_that_somebody_deletes_is_made_again_and_reported_until_it_is_acknowledged(
    bench: Bench, people: dict[str, int], noticed_by: str
) -> None:
    first, last = list(people)[:20], list(people)[20]
    bench.say(*first)
    bench.converge()
    (deleted,) = bench.cohort_ids()
    command = shlex.split(os.environ["MOODLE_CHANGE"])
    subprocess.run([*command, "delete-cohort", bench.etape], check=True)  # noqa: S603 - the developer's own command
    assert bench.cohort_ids() == []
    if noticed_by == "an addition":
        bench.say(last)
        bench.converge()
    report = reconcile(bench)
    (again,) = bench.cohort_ids()
    assert again != deleted
    joined = first if noticed_by == "the night" else [*first, last]
    assert bench.members() == {people[name] for name in joined}
    (found,) = report.deleted
    assert (found.idnumber, found.lost, found.state, found.moodle_id) == (bench.etape, 20, CohortState.OWNED, again)
    assert report.drift.get(Drift.VANISHED, 0) == (1 if noticed_by == "the night" else 0)
    assert len(reconcile(bench).deleted) == 1
    assert deletions.acknowledge(bench.ledger, PLATFORM.name, ["*"], by="live", now=time.time()) == [bench.etape]
    assert read_status(bench.ledger, [PLATFORM.name], time.time()).platforms[0].deleted == ()
