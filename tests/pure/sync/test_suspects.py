"""A refusal is about the platform until it accepts something else."""

from worker.sync.converge.suspects import Of, Suspects, changes

ONE, TWO = changes(Of.MEMBERS, [1]), changes(Of.MEMBERS, [2])
RENAMING = changes(Of.COHORT, [1])


def test_what_was_refused_is_about_the_platform_until_it_accepts_another_change() -> None:
    suspects = Suspects()
    suspects.refused(ONE, "code")
    assert suspects.codes_of_items(ONE) == set()
    suspects.accepted(TWO)
    assert suspects.codes_of_items(ONE) == {"code"}
    assert suspects.codes_of_items(ONE | TWO) == set()


def test_a_platform_that_refuses_again_is_suspected_again() -> None:
    suspects = Suspects()
    suspects.refused(ONE, "code")
    suspects.accepted(TWO)
    suspects.refused(TWO, "code")
    assert suspects.codes_of_items(ONE) == set()


def test_a_cohort_that_can_be_filled_may_still_be_one_that_cannot_be_renamed() -> None:
    suspects = Suspects()
    suspects.refused(RENAMING, "code")
    suspects.accepted(ONE)
    assert suspects.codes_of_items(RENAMING) == {"code"}
    suspects.accepted(RENAMING)
    assert suspects.codes_of_items(RENAMING) == set()


def test_nothing_that_was_accepted_shows_nothing() -> None:
    suspects = Suspects()
    suspects.refused(ONE, "code")
    suspects.accepted([])
    assert suspects.codes_of_items(ONE) == set()
