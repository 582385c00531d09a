"""The client and the converging against a real Moodle: `pytest tests/live` with MOODLE_URL and MOODLE_TOKEN.

It needs a site that isn't in use, with the service account of the runbook and some hundred accounts. It leaves empty
cohorts named LIVE-…, which our service account could not delete. What needs an administrator is in `test_accounts.py`.
"""

import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from worker.domain.changes import EnrolmentChange, EtapeChange, Received
from worker.domain.errors import MoodleDenied, MoodleUnavailable
from worker.domain.guard import Guard
from worker.domain.idnumbers import fold
from worker.domain.report import PlatformReport
from worker.domain.rules import AccountField, CohortTemplate, Mapper, Mode, PlatformPolicy, Policy
from worker.domain.states import Blockage, Drift, Payment, RunState, Status
from worker.ledger import Ledger, Recorder, WorkQueue
from worker.ledger.runs import Runs
from worker.ledger.status import read_status
from worker.moodle import CallLimits, MoodleReader, MoodleWriter, Transport
from worker.sync import adoption
from worker.sync.converge.backoff import Backoff
from worker.sync.converge.lane import Lane
from worker.sync.platform_run import ReconciledPlatform
from worker.sync.reconcile import Reconciliation

UAI = "0141408E"
PEOPLE = 600
PLATFORM = PlatformPolicy(
    name="live", mode=Mode.AUTOMATIC, account_template="{login}", templates=(CohortTemplate(name="{etape_label}"),)
)
POLICY = Policy(uais=frozenset({UAI}), active_years=frozenset({2026}), platforms=(PLATFORM,))


def wire(**limits: float) -> Transport:
    values = {"calls_per_second": 50.0, **limits}
    return Transport("live", os.environ["MOODLE_URL"], os.environ["MOODLE_TOKEN"], CallLimits(**values))  # type: ignore[arg-type] # all numbers


@pytest.fixture(scope="module", autouse=True)
def _site() -> None:
    if not {"MOODLE_URL", "MOODLE_TOKEN"} <= os.environ.keys():
        pytest.skip("set MOODLE_URL and MOODLE_TOKEN to a Moodle that isn't in use")


@pytest.fixture(scope="module")
def people() -> dict[str, int]:
    """Some accounts of the site: username to id."""
    connection = wire()
    users: dict[str, int] = {}
    for first in range(3, 3 + 4 * PEOPLE, 200):
        found = connection.read("core_user_get_users_by_field", field="id", values=list(range(first, first + 200)))
        users |= {user["username"]: user["id"] for user in found if "@" not in user["username"]}
        if len(users) >= PEOPLE:
            break
    connection.close()
    return dict(list(users.items())[:PEOPLE])


class Bench:
    """A ledger, and one lane to the site."""

    def __init__(self, folder: Path, platform: PlatformPolicy = PLATFORM) -> None:
        self.platform = platform
        policy = replace(POLICY, platforms=(platform,))
        self.etape = f"LIVE-{uuid.uuid4().hex[:8]}"
        self.ledger = Ledger(f"sqlite:///{folder / 'ledger.db'}")
        self.recorder = Recorder(self.ledger, Mapper(policy), coalesce=0, removal_delay=0)
        self.wire = wire()
        self.reader = MoodleReader(self.wire)
        self.writer = MoodleWriter(self.wire, Mode.AUTOMATIC, instance=self.ledger.instance)
        self._platform = platform
        self.guard_by(Guard(enabled=False))

    def guard_by(self, guard: Guard) -> None:
        """Converge under this guard from now on."""
        book = WorkQueue(self.ledger, "live", "lane", lease=150, guard=guard)
        self.lane = Lane(self._platform, book, self.reader, self.writer, backoff=Backoff(first=300, most=86_400))

    def say(
        self,
        *usernames: str,
        status: Status = Status.ACTIVE,
        version: int = 1,
        etape: str | None = None,
        login: str | None = None,
    ) -> None:
        etape = etape or self.etape
        now = time.time()
        self.recorder.record(
            [
                Received(
                    change=EnrolmentChange(
                        uai=UAI,
                        enrolment_id=f"{etape}-{username}",
                        system="apogee",
                        version=version,
                        changed_at=now,
                        student_id=username[:32],
                        login=login or username,
                        status=status,
                        payment=Payment.PAID,
                        academic_year=2026,
                        etape=etape,
                        origin="live",
                    ),
                    published_at=now,
                )
                for username in usernames
            ],
            now=now,
        )

    def describe(self, label: str) -> None:
        now = time.time()
        change = EtapeChange(uai=UAI, etape=self.etape, etape_label=label, changed_at=now, origin="live")
        self.recorder.record([Received(change=change, published_at=now)], now=now)

    def converge(self) -> None:
        while self.lane.run_once():
            pass

    def cohort_ids(self) -> list[int]:
        return [cohort.id for cohort in self.reader.cohorts() if cohort.idnumber == self.etape]

    def members(self) -> set[int]:
        (cohort_id,) = self.cohort_ids()
        return self.reader.members([cohort_id])[cohort_id]

    def name(self) -> str:
        (cohort_id,) = self.cohort_ids()
        return self.reader.cohorts([cohort_id])[0].name


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.wire.close()
    bench.ledger.close()


def test_the_service_account_sees_what_it_needs(bench: Bench, people: dict[str, int]) -> None:
    site = bench.reader.site_info()
    assert "core_cohort_add_cohort_members" in site.functions
    assert len(people) >= 10


def test_enrolled_students_join_a_new_cohort_and_leave_it(bench: Bench, people: dict[str, int]) -> None:
    bench.describe("Licence 1 Droit & « société » <b>")
    bench.say(*people)
    bench.converge()
    assert bench.members() == set(people.values())
    assert bench.name() == "Licence 1 Droit & « société » <b>"
    leavers = list(people)[: len(people) // 2]
    bench.say(*leavers, status=Status.RESIGNED, version=2)
    bench.converge()
    assert bench.members() == {people[username] for username in people if username not in leavers}
    status = read_status(bench.ledger, ["live"], time.time())
    assert sum(status.platforms[0].gaps.values()) == 0


def test_a_student_without_account_is_parked_and_the_others_join(bench: Bench, people: dict[str, int]) -> None:
    some = list(people)[:3]
    bench.say(*some, "nobody.of.that.name", "not a username")
    bench.converge()
    assert bench.members() == {people[username] for username in some}
    status = read_status(bench.ledger, ["live"], time.time())
    assert status.platforms[0].reasons == {"no_account": 1, "bad_account_name": 1}


def test_a_new_label_renames_the_cohort_unless_a_person_did(bench: Bench, people: dict[str, int]) -> None:
    bench.say(next(iter(people)))
    bench.converge()
    assert bench.name() == bench.etape
    bench.describe("Licence 1")
    bench.converge()
    assert bench.name() == "Licence 1"
    (cohort,) = bench.reader.cohorts(bench.cohort_ids())
    bench.writer.update(cohort, name="À nous", idnumber=bench.etape)
    bench.describe("Licence première année")
    bench.converge()
    assert bench.name() == "À nous"


def test_a_cohort_made_by_hand_is_left_alone(bench: Bench, people: dict[str, int]) -> None:
    by_hand = MoodleWriter(bench.wire, Mode.AUTOMATIC, instance="by hand")
    by_hand.create([(bench.etape, "À la main")])
    bench.say(*list(people)[:3])
    bench.describe("Licence 1")
    bench.converge()
    assert bench.members() == set()
    assert bench.name() == "À la main"
    assert read_status(bench.ledger, ["live"], time.time()).platforms[0].gaps["foreign"] == 3


def test_a_vanished_account_in_a_removal_is_isolated(bench: Bench, people: dict[str, int]) -> None:
    some = list(people)[:8]
    bench.say(*some)
    bench.converge()
    (cohort_id,) = bench.cohort_ids()
    gone = 2_000_000_000
    outcome = bench.writer.remove([(cohort_id, people[some[0]]), (cohort_id, gone), (cohort_id, people[some[1]])])
    assert outcome.refused == {(cohort_id, gone): "unknown_user"}
    assert bench.members() == {people[username] for username in some[2:]}


def test_an_unknown_cohort_or_account_in_an_addition_is_named(bench: Bench, people: dict[str, int]) -> None:
    bench.say(next(iter(people)))
    bench.converge()
    (cohort_id,) = bench.cohort_ids()
    user_id = list(people.values())[1]
    bad = {(cohort_id, 2_000_000_000): "unknown_user", (2_000_000_000, user_id): "unknown_cohort"}
    outcome = bench.writer.add([(cohort_id, user_id), *bad])
    assert outcome.refused == bad
    assert user_id in bench.members()


def test_one_unclean_username_does_not_hide_the_others(bench: Bench, people: dict[str, int]) -> None:
    some = list(people)[:5]
    found = bench.reader.users(AccountField.USERNAME, [*some, "Not Clean"]).ids
    assert found == {username: [people[username]] for username in some}


def test_a_form_above_the_limit_of_php_is_cut_in_two(bench: Bench, people: dict[str, int]) -> None:
    bench.say(next(iter(people)))
    bench.converge()
    (cohort_id,) = bench.cohort_ids()
    generous = wire(fields=100_000)
    pairs = [(cohort_id, user_id) for user_id in people.values()] * 10
    outcome = MoodleWriter(generous, Mode.AUTOMATIC, instance=bench.ledger.instance).add(pairs)
    generous.close()
    assert outcome.refused == {}
    assert bench.members() == set(people.values())


def test_a_call_that_timed_out_is_unknown_and_mended_by_repeating(bench: Bench, people: dict[str, int]) -> None:
    bench.say(next(iter(people)))
    bench.converge()
    (cohort_id,) = bench.cohort_ids()
    hasty = wire(timeout_seconds=0.05)
    pairs = [(cohort_id, user_id) for user_id in list(people.values())[:200]]
    with pytest.raises(MoodleUnavailable) as caught:
        MoodleWriter(hasty, Mode.AUTOMATIC, instance=bench.ledger.instance).add(pairs)
    hasty.close()
    assert caught.value.unknown
    deadline = time.monotonic() + 30
    while not {user_id for _, user_id in pairs} <= bench.members():  # the call goes on without its caller
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert bench.writer.add(pairs).refused == {}


def reconcile(bench: Bench) -> PlatformReport:
    """Read the site back, as the night does, and close what differs."""

    def pause(_seconds: float) -> bool:
        bench.converge()
        return False

    report = Reconciliation(
        bench.ledger,
        bench.recorder,
        [ReconciledPlatform(policy=bench.platform, guard=Guard(), reader=bench.reader, remove_unmatched=False)],
        Runs(bench.ledger, "live", lease=900, is_dead=lambda _: False),
        latest=None,
        wait_seconds=60,
        pause=pause,
    ).run()
    assert report is not None
    assert report.state is RunState.DONE
    (platform,) = report.platforms
    return platform


def test_the_night_mends_what_somebody_did_by_hand_and_leaves_everybody_elses_cohorts_alone(
    bench: Bench, people: dict[str, int]
) -> None:
    ours, (extra, *_) = list(people)[:20], list(people.values())[20:]
    bench.say(*ours)
    bench.converge()
    (cohort_id,) = bench.cohort_ids()
    bench.writer.remove([(cohort_id, people[ours[0]])])
    bench.writer.add([(cohort_id, extra)])
    (theirs,) = bench.writer.create([(f"{bench.etape}-THEIRS", "Chorale")])[0].values()
    bench.writer.add([(theirs, extra)])
    found = reconcile(bench)
    assert bench.members() == {people[name] for name in ours} | {extra}
    assert {kind: number for kind, number in found.drift.items() if number} == {Drift.MISSING: 1}
    assert (found.cohorts, found.strangers, found.added, found.removed) == (1, 1, 1, 0)
    assert found.foreign >= 1
    assert found.foreign_changes == ()
    assert bench.reader.members([theirs]) == {theirs: {extra}}
    assert reconcile(bench).drift == {}


SPELLINGS = ("{0}-ete", "{0}-ETE", "{0}-ÉTÉ", "{0}-ete ", "{0}-e\N{COMBINING ACUTE ACCENT}te")


def waiting(bench: Bench) -> dict[str, tuple[Blockage, str | None]]:
    """Return why cohorts wait for a person, and the idnumber of what is in their way."""
    (platform,) = read_status(bench.ledger, ["live"], time.time()).platforms
    return {cohort.idnumber: (cohort.why, cohort.blocker) for cohort in platform.blocked}


def test_etapes_whose_idnumbers_the_database_takes_for_one_collide_and_others_do_not(
    bench: Bench, people: dict[str, int]
) -> None:
    first, *others = (spelling.format(bench.etape) for spelling in SPELLINGS)
    bench.say(next(iter(people)), etape=first)
    bench.converge()
    one = [other for other in others if bench.writer.finds(other)]
    assert all(fold(other) == fold(first) for other in others)
    assert one in ([], others)  # PostgreSQL, or MariaDB
    for other in others:
        bench.say(next(iter(people)), etape=other)
    bench.converge()
    assert waiting(bench) == dict.fromkeys(one, (Blockage.COLLIDING, first))
    found = {cohort.idnumber for cohort in bench.reader.cohorts() if cohort.idnumber.startswith(bench.etape)}
    assert found == {first, *others} - set(one)


def test_a_cohort_of_somebody_else_that_the_database_takes_for_ours_is_named_and_once_it_is_gone_ours_is_created(
    bench: Bench, people: dict[str, int]
) -> None:
    by_hand = MoodleWriter(bench.wire, Mode.AUTOMATIC, instance="by hand")
    spelling = f"{bench.etape}-ÉTÉ"
    (theirs,) = by_hand.create([(spelling, "Chorale")])[0].values()
    ours = f"{bench.etape}-ete"
    username = next(iter(people))
    one = bench.writer.finds(ours)
    bench.say(username, etape=ours)
    bench.converge()
    assert waiting(bench) == ({ours: (Blockage.FOREIGN, spelling)} if one else {})
    if not one:
        return
    assert [cohort.idnumber for cohort in reconcile(bench).blocked] == [ours]
    (remote,) = bench.reader.cohorts([theirs])
    by_hand.update(remote, name="Chorale", idnumber=f"{bench.etape}-CHORALE")
    assert reconcile(bench).blocked == ()
    (cohort,) = [cohort for cohort in bench.reader.cohorts() if cohort.idnumber == ours]
    assert bench.reader.members([theirs, cohort.id]) == {theirs: set(), cohort.id: {people[username]}}


def test_an_alias_to_an_idnumber_that_the_database_finds_is_not_followed_on_moodle(
    bench: Bench, people: dict[str, int]
) -> None:
    by_hand = MoodleWriter(bench.wire, Mode.AUTOMATIC, instance="by hand")
    by_hand.create([(f"{bench.etape}-NEW", "Chorale")])
    new, username = f"{bench.etape}-new", next(iter(people))
    bench.say(username)
    bench.converge()
    one = bench.writer.finds(new)
    policy = replace(POLICY, aliases={bench.etape: new})
    Recorder(bench.ledger, Mapper(policy), coalesce=0, removal_delay=0).apply_policy(now=time.time())
    bench.converge()
    (cohort,) = [cohort for cohort in bench.reader.cohorts() if cohort.idnumber == (bench.etape if one else new)]
    assert bench.reader.members([cohort.id]) == {cohort.id: {people[username]}}
    assert waiting(bench) == ({new: (Blockage.MISNAMED, f"{bench.etape}-NEW")} if one else {})


def test_a_cohort_that_the_database_takes_for_ours_is_adopted_under_our_idnumber(
    bench: Bench, people: dict[str, int]
) -> None:
    by_hand = MoodleWriter(bench.wire, Mode.AUTOMATIC, instance="by hand")
    (theirs,) = by_hand.create([(f"{bench.etape}-ETE", "Deuxième année")])[0].values()
    ours, username = f"{bench.etape}-ete", next(iter(people))
    one = bench.writer.finds(ours)
    bench.say(username, etape=ours)
    bench.converge()
    offered = adoption.survey(bench.ledger, Mapper(POLICY), PLATFORM, bench.reader, ["*"])
    assert [(each.idnumber, each.moodle_id) for each in offered.candidates] == ([(ours, theirs)] if one else [])
    adoption.adopt(bench.ledger, PLATFORM, bench.reader, offered, by="live")
    bench.converge()
    (cohort,) = [cohort for cohort in bench.reader.cohorts() if cohort.idnumber == ours]
    assert (cohort.id == theirs) is one
    assert bench.reader.members([cohort.id]) == {cohort.id: {people[username]}}
    assert waiting(bench) == {}


def test_the_service_account_could_not_delete_a_cohort_if_it_tried(bench: Bench) -> None:
    with pytest.raises(MoodleDenied):
        bench.wire.write("core_cohort_delete_cohorts", {"cohortids": [1]})
