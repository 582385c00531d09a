"""Which merges of student numbers are in force, and where they lead."""

from itertools import pairwise
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from worker.domain.merges import survivors

NUMBERS = [f"{i}" for i in range(6)]
MERGES = st.dictionaries(
    st.sampled_from(NUMBERS), st.tuples(st.sampled_from(NUMBERS), st.integers(1, 4).map(float)), max_size=6
).map(lambda merges: {number: merge for number, merge in merges.items() if merge[0] != number})


def test_a_chain_of_merges_leads_to_its_end() -> None:
    assert survivors({"1": ("2", 5.0), "2": ("3", 1.0), "8": ("9", 2.0)}) == {"1": "3", "2": "3", "8": "9"}


def test_in_a_circle_the_oldest_merge_gives_way() -> None:
    assert survivors({"1": ("2", 1.0), "2": ("1", 2.0)}) == {"1": "1", "2": "1"}
    assert survivors({"1": ("2", 2.0), "2": ("1", 1.0)}) == {"1": "2", "2": "2"}
    assert survivors({"1": ("2", 3.0), "2": ("3", 1.0), "3": ("1", 2.0), "9": ("1", 0.0)}) == {
        "1": "2",
        "2": "2",
        "3": "2",
        "9": "2",
    }


@given(MERGES, st.randoms(use_true_random=False))
def test_survivors_do_not_depend_on_the_order_in_which_merges_were_learnt(
    merges: dict[str, tuple[str, float]], random: Random
) -> None:
    shuffled = dict(random.sample(sorted(merges.items()), len(merges)))
    assert survivors(shuffled) == survivors(merges)


@given(MERGES)
def test_everybody_ends_at_a_number_that_nobody_leaves(merges: dict[str, tuple[str, float]]) -> None:
    found = survivors(merges)
    assert found.keys() == merges.keys()
    for number, (into, _) in merges.items():
        survivor = found[number]
        assert found.get(survivor, survivor) == survivor
        gave_way = survivor == number
        assert gave_way or found.get(into, into) == survivor


@given(st.permutations(NUMBERS))
def test_a_whole_chain_ends_at_its_last(chain: list[str]) -> None:
    merges = {previous: (into, float(i)) for i, (previous, into) in enumerate(pairwise(chain))}
    assert set(survivors(merges).values()) == {chain[-1]}
