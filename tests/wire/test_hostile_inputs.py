"""Whatever is sent to us: the corpus, and variations of it. `make fuzz` goes on where this ends."""

import pytest
from hypothesis import HealthCheck, given, settings

from tools.fuzz import corpus
from tools.fuzz.inputs import variations
from tools.fuzz.targets import TARGETS

CASES = [pytest.param(target, name, id=f"{target}/{name}") for target in TARGETS for name in corpus(target)]


@pytest.mark.parametrize(("target", "name"), CASES)
def test_every_case_of_the_corpus_is_read_or_refused(target: str, name: str) -> None:
    TARGETS[target](corpus(target)[name])


@pytest.mark.parametrize("target", TARGETS)
def test_variations_of_the_corpus_are_read_or_refused(target: str) -> None:
    @settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(variations(list(corpus(target).values())))
    def holds(case: bytes) -> None:
        TARGETS[target](case)

    holds()
