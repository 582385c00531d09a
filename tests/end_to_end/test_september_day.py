"""A September day of a whole university, on a real Kafka, with workers that are killed again and again."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest

from tests.support.installation import Installation, Process, eventually, installed, pairs, platform
from tests.support.privacy import headers_of, personal_words, shown
from tests.support.servers.kafka import Kafka
from worker.domain.states import Action
from worker.kafka import Headers, Record
from worker.ledger import status
from worker.sandbox.moodle.server import Chaos, Cost, SandboxMoodle
from worker.sandbox.university.generator import University
from worker.sandbox.university.records import Message

pytestmark = pytest.mark.end_to_end

SEED = 14
STUDENTS, ETAPES, CHANGES, PARTITIONS = 35_000, 1_200, 3_000, 6
KILLS_BEFORE, KILLS_DURING = 4, 4
TIMEOUT, LATE = 2.0, 3.0  # an answer that comes late is never waited for
COST = Cost(call=0.01, added=0.0003, removed=0.0003, looked_up=0.0002, created=0.0003, cohort_read=0.00001)
TRACE: Headers = (("trace", b"31f2"), ("nothing", None))
QUIET = 400.0  # seconds until all is in step, once nothing more is killed

Members = dict[str, frozenset[str]]
Produced = tuple[bytes, bytes, Headers]


@dataclass
class Site:
    """A platform of the test: its Moodle, the étapes that it is for, and what people had made there before."""

    moodle: SandboxMoodle
    etapes: frozenset[str]
    account_field: str = "username"
    handmade: dict[int, tuple[str, frozenset[str]]] = field(default_factory=dict)

    def make(self, name: str, idnumber: str, usernames: list[str]) -> None:
        """Make a cohort by hand."""
        cohort = self.moodle.create_cohort(name=name, idnumber=idnumber)
        for username in usernames:
            self.moodle.add_member(cohort, self.moodle.user_ids[username])
        self.handmade = self.foreign([*self.handmade, cohort])

    def foreign(self, ids: list[int] | None = None) -> dict[int, tuple[str, frozenset[str]]]:
        """Return the handmade cohorts: name, idnumber and members."""
        wanted = self.handmade if ids is None else ids
        return {
            cohort.id: (f"{cohort.name} {cohort.idnumber} {cohort.description}", self._members(cohort.id))
            for cohort in self.moodle.cohorts()
            if cohort.id in wanted
        }

    def taken(self) -> frozenset[str]:
        """Return the idnumbers of handmade cohorts."""
        return frozenset(c.idnumber for c in self.moodle.cohorts() if c.id in self.handmade and c.idnumber)

    def ours(self) -> Members:
        """Return the usernames of members by idnumber, of our cohorts; checks that no idnumber is there twice."""
        ours = [cohort for cohort in self.moodle.cohorts() if cohort.id not in self.handmade]
        found = {cohort.idnumber: self._members(cohort.id) for cohort in ours}
        assert len(found) == len(ours), "a cohort was created twice"
        return found

    def expected(self, truth: Mapping[str, frozenset[str]]) -> Members:
        """Return the members that each of our cohorts must have: students with an account."""
        return {
            code: frozenset(f"e{number}" for number in numbers if f"e{number}" in self.moodle.user_ids)
            for code, numbers in truth.items()
            if code in self.etapes - self.taken()
        }

    def waiting(self, truth: Mapping[str, frozenset[str]]) -> set[tuple[str, str]]:
        """Return the memberships (étape, student) that wait for an account."""
        return {
            (code, number)
            for code, numbers in truth.items()
            if code in self.etapes - self.taken()
            for number in numbers
            if f"e{number}" not in self.moodle.user_ids
        }

    def _members(self, cohort_id: int) -> frozenset[str]:
        with self.moodle.lock:
            return frozenset(self.moodle.users[user].username for user in self.moodle.members(cohort_id))


@contextmanager
def sites(university: University) -> Iterator[dict[str, Site]]:
    """Serve the three Moodles, with everybody's accounts and some cohorts that people had made."""
    labels = university.labels()
    everything = frozenset(labels)
    health = frozenset(code for code in labels if labels[code][1] in university.health_components)
    accounts = list(university.accounts())
    truth = university.truth()
    with ExitStack() as stack:
        found = {}
        for number, (name, etapes) in enumerate(
            {"ecampus": everything, "collegium": health, "prelude": everything}.items()
        ):
            moodle = SandboxMoodle(name=name, token=f"secret-{name}", cost=COST)
            moodle.late = LATE
            moodle.add_users((username, idnumber) for username, idnumber, _ in accounts)
            stack.enter_context(moodle.serving())
            moodle.chaos = Chaos(rate=0.04, seed=SEED + number)
            found[name] = site = Site(moodle, etapes)
            some = [username for username, _, _ in accounts[:9]]
            site.make("Lecteurs de la bibliothèque", "BU", some[:5])
            site.make("Sans identifiant", "", some[5:])
            for code in sorted(truth.keys() & etapes)[:3]:
                site.make(f"Faite à la main: {code}", code, some)
        yield found


def settings(found: Mapping[str, Site]) -> dict[str, object]:
    moodles = {name: site.moodle for name, site in found.items()}
    # Collegium names its accounts by student number, in another field.
    collegium = platform(
        moodles["collegium"],
        timeout=TIMEOUT,
        routes=[{"components": ["SAN"]}],
        account={"field": "idnumber", "template": "{student_id}"},
    )
    return {
        "ecampus": platform(moodles["ecampus"], timeout=TIMEOUT),
        "collegium": collegium,
        "prelude": platform(moodles["prelude"], mode="manual"),
    }


def test_after_a_september_day_with_killed_workers_and_a_flaky_moodle_every_cohort_is_true(
    kafka: Kafka, topic: str, tmp_path: Path
) -> None:
    random = Random(SEED)
    university = University(seed=SEED, students=STUDENTS, etapes=ETAPES)
    initial: list[Produced] = [(message.key.encode(), message.payload(), ()) for message in university.initial()]
    patience = {"converge": {"removal_delay_seconds": 20.0, "park_seconds": 2.0, "park_most_seconds": 10.0}}
    with (
        sites(university) as found,
        installed(tmp_path, kafka, topic, settings(found), patience, partitions=PARTITIONS) as installation,
    ):
        worker = installation.worker()
        installation.produce(initial)
        for _ in range(KILLS_BEFORE):
            worker = killed_and_replaced(installation, found, worker, after=random.randint(10, 110))
        poison: list[Produced] = [(key.encode(), payload, TRACE) for key, payload in university.poison()]
        day = list(university.september_day(CHANGES))
        records: list[Produced] = [(message.key.encode(), message.payload(), ()) for message in day]
        installation.produce(shuffled_in(records, poison, random))
        for number in range(KILLS_DURING):
            worker = killed_and_replaced(installation, found, worker, after=random.randint(10, 70))
            if number == 0:
                for site in found.values():
                    site.moodle.add_users((username, idnumber) for username, idnumber, _ in university.late_accounts())
        truth = university.truth()

        def in_step() -> bool:
            worker.must_run()
            assert installation.recorded() == published
            for name in ("ecampus", "collegium"):
                site = found[name]
                differing = pairs(site.ours()) ^ pairs(site.expected(truth))
                assert not differing, f"{name}: {len(differing)} memberships differ, as {sorted(differing)[:3]}"
                assert installation.missing(name) - pairs(truth_of(site, truth)) == set()
                assert waiting_here(installation, name, site) == site.waiting(truth)
            return True

        published = installation.published()
        eventually(in_step, within=QUIET, every=1.0)
        page = worker.get("metrics").text
        assert worker.terminate() == 0
        assert [process.wait() for process in installation.processes[:-1]] == [-9] * (KILLS_BEFORE + KILLS_DURING)

        enrolments = [message for message in [*university.initial(), *day] if "enrolment_id" in message.value["data"]]
        assert installation.status().enrolments == len({enrolment(message) for message in enrolments})
        letters = installation.letters()
        assert_dead_letters_are(letters, poison, installation)
        outside = [page, *(process.text() for process in installation.processes), *headers_of(letters)]
        assert shown(outside, personal_words([*university.initial(), *day])) == set()
        assert not any(site.moodle.token in text for site in found.values() for text in outside)
        for name in ("ecampus", "collegium"):
            assert set(status.applied(installation.ledger, name, Action.REMOVE)) <= university.removals_asked()
            assert found[name].moodle.collisions == []
            assert installation.state_of(name).reasons == {"no_account": len(found[name].waiting(truth))}
        assert {name: site.foreign() for name, site in found.items()} == {
            name: site.handmade for name, site in found.items()
        }
        assert found["prelude"].moodle.calls == []


def killed_and_replaced(
    installation: Installation, found: Mapping[str, Site], worker: Process, *, after: int
) -> Process:
    """Kill the worker once it has done so much more, whatever it is doing then, and start another."""

    def done() -> int:
        worker.must_run()
        recorded = sum(int(offset) for offset in installation.status().positions.values())
        return sum(len(site.moodle.calls) for site in found.values()) + recorded // 500

    before = done()
    eventually(lambda: done() >= before + after, within=QUIET, every=0.02)
    worker.kill()
    return installation.worker()


def shuffled_in(records: list[Produced], poison: list[Produced], random: Random) -> list[Produced]:
    """Put each of the poison somewhere among the records, which stay in their order."""
    mixed = list(records)
    for record in poison:
        mixed.insert(random.randrange(len(mixed) + 1), record)
    return mixed


def enrolment(message: Message) -> tuple[str, str, str]:
    data = message.value["data"]
    return data["source"]["uai"], data["enrolment_id"], data["source"]["system"]


def truth_of(site: Site, truth: Mapping[str, frozenset[str]]) -> Members:
    return {code: members for code, members in truth.items() if code in site.etapes}


def waiting_here(installation: Installation, name: str, site: Site) -> set[tuple[str, str]]:
    return {pair for pair in installation.missing(name) if pair[0] not in site.taken()}


def assert_dead_letters_are(letters: list[Record], poison: list[Produced], installation: Installation) -> None:
    """Check that the dead letters are exactly the poison messages, whole and with their origin."""
    messages: dict[tuple[str, ...], tuple[bytes | None, bytes | None]] = {}
    for letter in letters:
        origin = origin_of(letter)
        assert origin[0] == installation.topic
        assert messages.setdefault(origin, (letter.key, letter.value)) == (letter.key, letter.value)
    assert sorted(messages.values()) == sorted((key, value) for key, value, _ in poison)


def origin_of(letter: Record) -> tuple[str, ...]:
    """Return topic, partition and offset in the headers of a dead letter; checks that there are no other headers."""
    assert letter.headers[: len(TRACE)] == TRACE
    about = {name: (value or b"").decode() for name, value in letter.headers[len(TRACE) :]}
    assert about.pop("__connect.errors.stage") == "VALUE_CONVERTER"
    assert about.pop("__connect.errors.exception.class.name") == "InvalidMessage"
    assert about.pop("__connect.errors.exception.message")
    origin = tuple(about.pop(f"__connect.errors.{name}") for name in ("topic", "partition", "offset"))
    assert about == {}
    return origin
