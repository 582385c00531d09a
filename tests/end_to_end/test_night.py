"""The night of a whole university, on a real Kafka: messages lost, hands on Moodle, runs that are killed."""

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
import sqlalchemy as sa

from tests.support.installation import YEAR, Installation, Process, eventually, installed, pairs, platform
from tests.support.servers.kafka import Kafka
from worker.domain.report import Report
from worker.domain.states import Action, Drift, RunState
from worker.ledger import runs, schema, status
from worker.sandbox.moodle.server import SandboxMoodle
from worker.sandbox.university.admissions import DAY
from worker.sandbox.university.generator import University
from worker.sandbox.university.records import Message

pytestmark = pytest.mark.end_to_end

SEED = 3
YEARS = (YEAR - 1, YEAR)
CHANGES, CHANGES_SINCE, PARTITIONS = 3_000, 900, 6
TAKEN_BEFORE = 14 * 3600.0  # seconds since the source was read: what it tells of afterwards lies between
# Who has no account is looked up again in the night, not before.
PATIENT: Mapping[str, Mapping[str, Any]] = {
    "converge": {"removal_delay_seconds": 2.0, "park_seconds": 36_000.0, "park_most_seconds": 86_400.0},
    "reconcile": {"confirm_accounts_nights": 1},
}
KILLS, CALLS = 20, 40  # killed when so many calls were made, at most
QUIET = 400.0  # seconds until all is in step, once nothing more is killed
Pairs = set[tuple[str, str]]


def expected(university: University, moodle: SandboxMoodle) -> Pairs:
    """Return the memberships (étape, username) of students with an account."""
    wanted = ((code, f"e{student}") for code, students in university.truth().items() for student in students)
    return {(code, username) for code, username in wanted if username in moodle.user_ids}


class Hands:
    """People who edit the cohorts of a Moodle, and who had made some before."""

    def __init__(self, moodle: SandboxMoodle, random: Random) -> None:
        self.moodle = moodle
        self.added: Pairs = set()
        """Students (étape, student) whom they put where they don't belong."""
        self.guests: Pairs = set()
        """Accounts (étape, username) of nobody whom the university knows."""
        self.made: dict[int, tuple[str, str, set[int]]] = {}
        """The cohorts that they made: name, idnumber and members."""
        self._random = random

    def make(self, name: str, idnumber: str, usernames: Iterable[str]) -> None:
        """Make a cohort by hand."""
        cohort = self.moodle.create_cohort(name=name, idnumber=idnumber)
        for username in usernames:
            self.moodle.add_member(cohort, self.moodle.user_ids[username])
        self.made[cohort] = name, idnumber, self.moodle.members(cohort)

    def assert_left_alone(self) -> None:
        """What they made is as they made it."""
        cohorts = {cohort.id: cohort for cohort in self.moodle.cohorts()}
        for number, known in self.made.items():
            assert (cohorts[number].name, cohorts[number].idnumber, self.moodle.members(number)) == known

    def ours(self) -> Pairs:
        """Return the memberships (étape, username) of our cohorts; checks that no idnumber is there twice."""
        cohorts = [cohort for cohort in self.moodle.cohorts() if cohort.id not in self.made]
        assert len({cohort.idnumber for cohort in cohorts}) == len(cohorts), "a cohort was created twice"
        with self.moodle.lock:
            users = self.moodle.users
            return {(c.idnumber, users[user].username) for c in cohorts for user in self.moodle.members(c.id)}

    def add_and_remove(self, count: int) -> None:
        """Put so many students where they don't belong, and take as many out of where they do."""
        members = sorted(self.ours() - self.guests)
        some = self._random.sample(members, min(3 * count, len(members) // 3 * 3))
        for (cohort, username), (other, _), (_, student) in zip(*[iter(some)] * 3, strict=True):
            self.moodle.remove_member(self.id_of(cohort), self.moodle.user_ids[username])
            if (other, student) not in members:
                self.add(other, student)

    def add(self, cohort: str, username: str) -> None:
        """Put a student where they don't belong."""
        self.moodle.add_member(self.id_of(cohort), self.moodle.user_ids[username])
        self.added.add((cohort, username.removeprefix("e")))

    def invite(self, cohort: str, username: str) -> None:
        """Put somebody there whom the university doesn't know."""
        self.moodle.add_member(self.id_of(cohort), self.moodle.add_user(username=username))
        self.guests.add((cohort, username))

    def meddle(self, university: University, crowded: str, but: set[str], busy: set[str]) -> None:
        """Do all of it in one evening; many students are put in one cohort. These cohorts are left otherwise alone.

        Of the two cohorts that are deleted, one isn't busy: the night is the first to look at it.
        """
        sizes = {code: len(students) for code, students in university.truth().items()}
        large = {code for code, size in sizes.items() if size > 8} - but
        some = self._random.sample(sorted(large), 12)
        quiet = self._random.choice(sorted(large - busy - {*some}))
        members = sorted(self.ours())
        self.add_and_remove(60)
        for _, username in self._random.sample(members, 40):
            if (crowded, username) not in members:
                self.add(crowded, username)
        for number in range(4):
            self.invite(some[number], f"a.teacher{number}")
        for _, username in self._random.sample(members, 40):
            if user_id := self.moodle.user_ids.get(username):
                self.moodle.delete_user(user_id)
        self.swap(members, but, busy)
        for number, code in enumerate(some[4:9]):
            self.moodle.rename_cohort(self.id_of(code), f"Renommée à la main {number}")
        for code in (some[9], quiet):
            self.moodle.delete_cohort(self.id_of(code))
        self.moodle.edit_cohort(self.id_of(some[11]), idnumber="DEPLACEE")

    def swap(self, members: list[tuple[str, str]], but: set[str], busy: set[str]) -> None:
        """Give two accounts each other's usernames: each is then where the other belongs."""
        places: defaultdict[str, set[str]] = defaultdict(set)
        for code, username in members:
            places[username].add(code)
        one, two = self._random.sample(
            [
                username
                for username, codes in sorted(places.items())
                if username in self.moodle.user_ids and not codes & but and username.removeprefix("e") not in busy
            ],
            2,
        )
        first, second = self.moodle.user_ids[one], self.moodle.user_ids[two]
        self.moodle.change_user(first, username="nobody")
        self.moodle.change_user(second, username=one)
        self.moodle.change_user(first, username=two)
        self.added |= {(code, two.removeprefix("e")) for code in places[one]}
        self.added |= {(code, one.removeprefix("e")) for code in places[two]}

    def id_of(self, idnumber: str) -> int:
        """Return Moodle's id of a cohort that people didn't make."""
        return next(c.id for c in self.moodle.cohorts() if c.idnumber == idnumber and c.id not in self.made)


def test_after_a_night_every_cohort_is_true_but_for_what_the_guard_holds(
    kafka: Kafka, topic: str, tmp_path: Path
) -> None:
    random = Random(SEED)
    university = University(seed=SEED)
    closed, crowded, taken = (of_size(university, size) for size in (80, 30, 12))
    with platforms(university, random, taken) as (hands, elsewhere), installed(
        tmp_path, kafka, topic, settings(hands.moodle, elsewhere.moodle), PATIENT, partitions=PARTITIONS
    ) as installation:  # fmt: skip
        worker = installation.worker()
        installation.publish(university.initial())
        eventually(settled(installation, worker), within=QUIET, every=0.5)
        arriving, lost = losing(university.september_day(CHANGES), random)
        installation.publish(arriving)
        eventually(settled(installation, worker), within=QUIET, every=0.5)

        stood = pairs(university.truth())
        university.depart(0.03)
        close(university, closed)
        before, taken_at = pairs(university.truth()), time.time() - TAKEN_BEFORE
        installation.publish_snapshot(university.snapshot_rows(), years=YEARS, taken_at=taken_at)
        since = day_after(university, taken_at)
        hands.moodle.add_users((username, "") for username, _, _ in university.late_accounts())
        news = subjects([*since, *lost]) | stood ^ before | before ^ pairs(university.truth())
        described = {message.key for message in since}  # and students
        busy = {code for code, _ in news} | described
        hands.meddle(university, crowded, but={closed, crowded}, busy=busy)
        report = reconciled(installation, hands.moodle, [*since, *lost])
        eventually(settled(installation, worker), within=QUIET, every=0.5)

        expect = {pair for pair in expected(university, hands.moodle) if pair[0] != taken} | hands.guests
        held = held_now(installation)
        assert held.keys() == {closed, crowded}
        waiting = {(cohort, f"e{student}") for cohort, (_, students) in held.items() for student in students}
        assert not waiting & expect
        assert hands.ours() == expect | waiting
        asked = university.removals_asked() | hands.added | subjects(lost)
        assert_journalled_right(installation, report, asked=asked, since=pairs(university.truth()) ^ before)
        assert_told(report, hands, elsewhere)
        assert_all_vanished_were_noticed(report, installation)

        name, students = held[closed]
        assert installation.run("approve", name).returncode == 0
        gone = {(closed, f"e{student}") for student in students}
        eventually(lambda: hands.ours() == (expect | waiting) - gone)
        assert held_now(installation).keys() == {crowded}
        assert installation.run("undo", name).returncode == 0
        eventually(lambda: hands.ours() == expect | waiting)
        for people in (hands, elsewhere):
            people.assert_left_alone()
            assert people.moodle.collisions == []
        assert not [call for call in elsewhere.moodle.calls if call.writes]
        assert worker.terminate() == 0


def of_size(university: University, size: int) -> str:
    """Return an étape with about so many members."""
    return min(university.truth().items(), key=lambda item: (abs(len(item[1]) - size), item[0]))[0]


@contextmanager
def platforms(university: University, random: Random, code: str) -> Iterator[tuple[Hands, Hands]]:
    """Serve two Moodles where everybody has an account, and people have made cohorts, one under a code of ours."""
    accounts = [(username, idnumber) for username, idnumber, _ in university.accounts()]
    some = [username for username, _ in accounts[:9]]
    with ExitStack() as stack:
        found = []
        for name in ("ecampus", "prelude"):
            moodle = SandboxMoodle(name=name, token=f"secret-of-{name}")
            moodle.add_users(accounts)
            stack.enter_context(moodle.serving())
            found.append(hands := Hands(moodle, random))
            hands.make("Lecteurs de la bibliothèque", "BU", some)
            hands.make("Sans identifiant", "", some[5:])
            hands.make("Faite à la main", code, some)
        yield found[0], found[1]


def settings(ecampus: SandboxMoodle, prelude: SandboxMoodle) -> dict[str, object]:
    """Keep the first platform, with the limits of a season that lasts all year; only look at the second."""
    season = {"first": "01-01", "last": "12-31", "platform_percent": 12}
    return {
        "ecampus": platform(ecampus, timeout=30.0, guard={"seasons": [season]}),
        "prelude": platform(prelude, timeout=30.0, mode="manual"),
    }


def settled(installation: Installation, worker: Process) -> Callable[[], bool]:
    """Wait for what has been published to be recorded, and for no gap to be open that could be closed."""
    published = installation.published()

    def is_settled() -> bool:
        worker.must_run()
        gaps = installation.state_of("ecampus").gaps
        return installation.recorded() == published and not any(
            gaps[state] for state in ("ready", "waiting", "retrying")
        )

    return is_settled


def losing(messages: Iterable[Message], random: Random) -> tuple[list[Message], list[Message]]:
    """Return the messages that arrive, and a tenth that don't; merges all arrive, since no snapshot has them."""
    day = list(messages)
    ids = sorted({message.value["id"] for message in day if "enrolment_id" in message.value["data"]})
    lost = {*random.sample(ids, len(ids) // 10)}
    return [m for m in day if m.value["id"] not in lost], [m for m in day if m.value["id"] in lost]


def subjects(messages: Iterable[Message]) -> Pairs:
    """Return (étape, student) of the messages of enrolments."""
    about = [message for message in messages if "enrolment_id" in message.value["data"]]
    return {(message.value["data"]["enrolment_id"].split("-")[2], message.key) for message in about}


def close(university: University, etape: str) -> None:
    """Delete all enrolments in an étape at the source, without a message."""
    for student in university.truth()[etape]:
        for row in university._records.current(student):
            if row.etape.code == etape:
                university._write(row.at + 1, student, row, status="deleted")


def day_after(university: University, at: float) -> list[Message]:
    """Live a day that begins after this instant."""
    university._opening = at + 5_400 - university._days * DAY
    return list(university.september_day(CHANGES_SINCE))


def reconciled(installation: Installation, moodle: SandboxMoodle, messages: list[Message]) -> Report:
    """Reconcile, while these messages are published: some at the start, some once Moodle is read, and then the rest."""
    third = len(messages) // 3
    calls = len(moodle.calls)
    process = installation.reconciliation()

    def has(function: str) -> bool:
        process.must_run()
        return any(call.function == function for call in moodle.calls[calls:])

    eventually(lambda: runs.listed(installation.ledger, most=1))
    installation.publish(messages[:third])
    eventually(lambda: has("core_cohort_get_cohort_members"), within=QUIET)
    installation.publish(messages[third : 2 * third])
    assert process.is_running()
    eventually(lambda: has("core_cohort_delete_cohort_members"), within=QUIET)
    installation.publish(messages[2 * third :])
    assert process.wait(within=QUIET) == 0, process.text()
    report = runs.report(installation.ledger)
    assert report is not None
    return report


def held_now(installation: Installation) -> dict[str, tuple[str, set[str]]]:
    """Give, by cohort, the hash and the students of the removals that are held, as the command lists them."""
    done = installation.run("held", "--json", "--students")
    assert done.returncode == 0, done.stderr
    return {
        each["cohort"]: (each["hash"], {student for students in each["removals"].values() for student in students})
        for each in json.loads(done.stdout)["cohorts"]
    }


def assert_journalled_right(installation: Installation, report: Report, *, asked: Pairs, since: Pairs) -> None:
    """Nobody was removed whom nothing had asked for; the run has undone nothing of what came `since`."""
    assert set(status.applied(installation.ledger, "ecampus", Action.REMOVE)) <= asked
    entries = sa.select(schema.journal).where(schema.journal.c.at >= report.started_at).order_by(schema.journal.c.id)
    by_messages: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    with installation.ledger.read() as connection:
        for row in connection.execute(entries):
            pair = (row.cohort, row.student_id)
            if row.run is None:
                by_messages[pair].add(row.action)
            elif pair in since:
                assert by_messages[pair] <= {row.action}


def assert_all_vanished_were_noticed(report: Report, installation: Installation) -> None:
    """Two cohorts were deleted: the night found both, but for a busy one that converging came upon, here or there."""
    by_reading = report.platforms[0].drift[Drift.VANISHED]
    lines = [line for process in installation.processes for line in process.events("cohort was deleted on Moodle")]
    by_converging = {line["cohort"] for line in lines}
    assert len(by_converging) <= 1
    assert 2 - len(by_converging) <= by_reading <= 2


def assert_told(report: Report, hands: Hands, elsewhere: Hands) -> None:
    """The report says what people have done, and that their cohorts are untouched."""
    assert report.state is RunState.DONE
    ecampus, prelude = report.platforms
    assert (ecampus.foreign, ecampus.foreign_changes) == (len(hands.made), ())
    assert (prelude.foreign, prelude.foreign_changes) == (len(elsewhere.made), ())
    assert (prelude.read, prelude.guard) == (True, None)
    assert ecampus.strangers == len(hands.guests)
    assert ecampus.drift[Drift.RENAMED] == 6
    assert all(ecampus.drift[kind] > 0 for kind in Drift)
    assert ecampus.guard is not None
    assert ecampus.guard.enabled


def test_a_reconciliation_killed_twenty_times_is_finished_by_the_next(kafka: Kafka, topic: str, tmp_path: Path) -> None:
    random = Random(SEED)
    university = University(seed=SEED, students=2_000, etapes=150)
    moodle = SandboxMoodle(name="Ecampus", token="secret-of-ecampus")
    moodle.add_users((username, idnumber) for username, idnumber, _ in university.accounts())
    hands = Hands(moodle, random)
    of_few = {"calls_per_second": 1000, "timeout_seconds": 1.0, "fields": 40}  # many calls, and short leases
    open_handed = {"cohort_percent": 100, "platform_percent": 100}
    with moodle.serving():
        settings = {"ecampus": platform(moodle, limits=of_few, guard=open_handed)}
        with installed(tmp_path, kafka, topic, settings, {}) as installation:
            killed = [killed_at_random(installation, university, hands, random) for _ in range(KILLS)]
            last = installation.run("reconcile", within=QUIET)
            assert last.returncode == 0, last.stdout + last.stderr
            approve_all(installation)  # whom somebody put into a cohort whose creation was never answered
            last = installation.run("reconcile", "--without-snapshot", within=QUIET)
            assert last.returncode == 0, last.stdout + last.stderr
            assert hands.ours() == expected(university, moodle)
            removed, added = (
                status.applied(installation.ledger, "ecampus", action) for action in (Action.REMOVE, Action.ADD)
            )
            assert set(removed) <= university.removals_asked() | hands.added
            assert set(added) <= pairs(university.truth_at_start())
            assert moodle.collisions == []
            listed = json.loads(installation.run("runs", "--json", "--most", "1000").stdout)
            states = {run["id"]: run["state"] for run in listed}
            assert {states.pop(number) for number in killed} == {"abandoned"}
            assert set(states.values()) == {"done"}


def approve_all(installation: Installation) -> None:
    """Approve whatever is held."""
    name = json.loads(installation.run("held", "--json").stdout)["hash"]
    if name is not None:
        approval = installation.run("approve", name)
        assert approval.returncode == 0, approval.stdout + approval.stderr


def killed_at_random(installation: Installation, university: University, hands: Hands, random: Random) -> int:
    """Reconcile after some edits, and kill it at a random moment; returns the number of the run."""
    calls = hands.moodle.calls
    while True:
        hands.add_and_remove(30)
        before = runs.listed(installation.ledger, most=1)
        if not before or before[0].state is RunState.DONE or random.random() < 0.3:
            university.depart(0.02)
            installation.publish_snapshot(university.snapshot_rows(), years=YEARS)
        moment = len(calls) + random.randrange(CALLS)
        process = installation.reconciliation()

        def is_time(process: Process = process, before: list[runs.Run] = before, moment: int = moment) -> bool:
            begun = runs.listed(installation.ledger, most=1) != before
            return not process.is_running() or (begun and len(calls) >= moment)

        eventually(is_time, every=0.01)
        process.kill()
        [run] = runs.listed(installation.ledger, most=1)
        assert [run] != before, process.text()
        if run.state is RunState.RUNNING:
            return run.id
        assert run.state is RunState.DONE, process.text()  # it was faster
