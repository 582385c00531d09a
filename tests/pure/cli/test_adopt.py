"""What `cohorts adopt` says below its table."""

from dataclasses import replace

from worker.cli.adopt import NAMED, OBSTACLES, not_adopted, sentences
from worker.domain.departure import Departure
from worker.domain.rules import Mode
from worker.settings.platforms import GUARD_OFF, GuardSettings, PlatformSettings, Strangers
from worker.sync.adoption import AdoptionCandidate, NotAdopted, Obstacle

ADOPTED = AdoptionCandidate(
    cohort_id=1,
    moodle_id=5,
    idnumber="L1DROI",
    moodle_idnumber="L1DROI",
    name="Droit",
    new_name=None,
    is_movable=True,
    members=2,
    staying=2,
    leaving={},
    unmatched=0,
    unclean=0,
    joining=0,
    present={},
)


def said(candidate: AdoptionCandidate, *, guarded: bool = True, strangers: Strangers = Strangers.KEEP) -> list[str]:
    settings = PlatformSettings.model_construct(
        mode=Mode.AUTOMATIC, guard=GuardSettings(enabled=guarded), strangers=strangers
    )
    return [*sentences([candidate], settings)]


def test_nothing_is_said_of_a_cohort_that_stays_as_it_is() -> None:
    assert said(ADOPTED) == []


def test_whoever_is_to_leave_is_said_to_wait_for_a_person_unless_the_guard_is_off() -> None:
    leaving = replace(ADOPTED, leaving={Departure.ENDED: 3, Departure.ELSEWHERE: 6})
    (held,) = said(leaving)
    assert held.startswith("known students who have no place there: 9 members; the first reading holds")
    (unasked,) = said(leaving, guarded=False)
    assert unasked.endswith(f"they are removed after the first reading, unasked: {GUARD_OFF}")


def test_unknown_members_stay_unless_the_settings_remove_them() -> None:
    unknown = replace(ADOPTED, unmatched=4, unclean=1)
    stay, unclean = said(unknown)
    assert stay == "unknown, matching no student: 4 members; they stay"
    assert unclean.startswith("accounts that Moodle doesn't return (unclean accounts): 1 member")
    assert "holds their removal" in said(unknown, strangers=Strangers.REMOVE)[0]


def test_new_names_and_idnumbers_are_announced() -> None:
    assert said(replace(ADOPTED, new_name="Licence 1")) == ["L1DROI will be renamed from “Droit” to “Licence 1”"]
    spelled = replace(ADOPTED, moodle_idnumber="l1droi")
    assert said(spelled) == ["l1droi will get the idnumber L1DROI"]
    assert said(replace(spelled, is_movable=False)) == [
        "l1droi can't get the idnumber L1DROI: it is in a category; change it on Moodle"
    ]


def test_each_reason_for_not_adopting_is_one_sentence_that_names_the_cohorts() -> None:
    assert OBSTACLES.keys() == {*Obstacle}
    twice = NotAdopted(what="L1DROI", why=Obstacle.SEVERAL, moodle_ids=(5, 8))
    absent = [NotAdopted(what=f"E{number}", why=Obstacle.ABSENT) for number in range(NAMED + 2)]
    first, second = not_adopted([twice, *absent])
    assert first.startswith("not adopted, not on Moodle, created once a student belongs to them: E0, E1, ")
    assert first.endswith(" and 2 more")
    assert second.endswith("give all but one another: L1DROI (ids 5, 8)")
