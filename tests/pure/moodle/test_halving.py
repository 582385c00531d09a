"""The refused items of a batch are found; a platform that refuses everything is asked little."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.domain.errors import MoodleRefusesAll, MoodleRejected
from worker.moodle.halving import MOST_ALIKE, halving

WRITE_FAILED = "dmlwriteexception"


class Platform:
    """Refuses whatever holds one of the bad items, or everything once it has `failed` after so many calls."""

    def __init__(self, bad: dict[int, str], *, fails_after: int | None = None, code: str = WRITE_FAILED) -> None:
        self.bad = bad
        self.fails_after = fails_after
        self.code = code
        self.calls = 0
        self.accepted: list[int] = []

    def ask(self, some: Sequence[int]) -> None:
        self.calls += 1
        if self.fails_after is not None and self.calls > self.fails_after:
            raise MoodleRejected(self.code, f"ecampus: f: {self.code}")
        for item in some:
            if item in self.bad:
                raise MoodleRejected(self.bad[item], f"ecampus: f: {self.bad[item]}")
        self.accepted += some


@given(st.integers(1, 200).flatmap(lambda size: st.tuples(st.just(size), st.sets(st.integers(0, size - 1)))))
def test_every_refused_item_is_found_where_something_is_accepted_and_no_other_is_asked_twice(
    batch: tuple[int, set[int]],
) -> None:
    size, bad = batch
    platform = Platform(dict.fromkeys(bad, "invalidparameter"))
    refused = halving(range(size), platform.ask, of_items={"invalidparameter"})
    assert refused == dict.fromkeys(bad, "invalidparameter")
    assert sorted(platform.accepted) == sorted(set(range(size)) - bad)
    assert platform.calls <= 2 * size


@given(st.sampled_from(["invalidparameter", "invaliduser", WRITE_FAILED]), st.integers(2, 500))
def test_a_platform_that_refuses_everything_alike_is_asked_a_handful_of_times(code: str, size: int) -> None:
    platform = Platform({}, fails_after=0, code=code)
    with pytest.raises(MoodleRefusesAll) as caught:
        halving(range(size), platform.ask)
    assert caught.value.code == code
    assert platform.calls <= MOST_ALIKE


@pytest.mark.parametrize(
    "bad",
    [{0, 199}, {99, 100}, set(range(0, 200, 50)), set(range(0, 200, 4)), set(range(0, 200, 2)), set(range(150))],
    ids=["both ends", "the middle", "one a quarter", "every fourth", "every other", "three quarters"],
)
def test_bad_items_in_both_halves_are_not_taken_for_a_fault_of_the_call(bad: set[int]) -> None:
    platform = Platform(dict.fromkeys(bad, "invaliduser"))
    assert halving(range(200), platform.ask) == dict.fromkeys(bad, "invaliduser")
    assert sorted(platform.accepted) == sorted(set(range(200)) - bad)


@pytest.mark.parametrize("calls", [2, 4, 9])
def test_a_database_that_fails_in_the_middle_ends_it(calls: int) -> None:
    platform = Platform({0: WRITE_FAILED}, fails_after=calls)
    with pytest.raises(MoodleRefusesAll):
        halving(range(200), platform.ask)
    assert platform.calls <= calls + MOST_ALIKE


def test_a_deadlock_is_healed_by_a_single_halving() -> None:
    once = iter([True])

    def ask(_: Sequence[int]) -> None:
        if next(once, False):
            raise MoodleRejected(WRITE_FAILED, f"ecampus: f: {WRITE_FAILED}")

    assert halving(range(200), ask) == {}


@pytest.mark.parametrize("code", ["invalidparameter", "invaliduser"])
def test_an_item_alone_is_refused(code: str) -> None:
    assert halving([7], Platform({7: code}).ask) == {7: code}


@pytest.mark.parametrize("code", [WRITE_FAILED, "http-413", "too-many-fields"])
def test_a_code_that_says_nothing_of_items_is_about_the_call_even_of_one_alone(code: str) -> None:
    platform = Platform({7: code})
    with pytest.raises(MoodleRefusesAll):
        halving([7], platform.ask)
    assert platform.calls == 1


def test_different_refusals_of_all_items_are_about_the_items() -> None:
    bad = {item: "invaliduser" if item % 2 else "invalidrecord" for item in range(8)}
    assert halving(range(8), Platform(bad).ask) == bad


def test_a_call_that_is_too_large_is_halved_for_as_long_as_it_takes() -> None:
    def ask(some: Sequence[int]) -> None:
        if len(some) > 3:
            raise MoodleRejected("too-many-fields", "ecampus: f: PHP cut a form")

    assert halving(range(500), ask) == {}


def test_nothing_is_asked_for_nothing() -> None:
    platform = Platform({})
    assert halving([], platform.ask) == {}
    assert platform.calls == 0
