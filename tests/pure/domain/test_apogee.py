"""Labels of APOGÉE: whatever a person has typed, the contract accepts what is left of it."""

from hypothesis import given
from hypothesis import strategies as st

from schemas import DescribedEtape
from schemas.envelope import visible
from worker.domain import apogee

NASTY = st.text(st.sampled_from("aé \t\n\r\x00\x85\u00a0\u2028\u2029\ufeff\u3000"), max_size=600)


@given(st.one_of(st.none(), st.text(max_size=600), NASTY))
def test_every_label_fits_the_contract_or_is_none(text: str | None) -> None:
    label = apogee.label(text)
    assert label is None or DescribedEtape(code="L1DROI", label=label).label == label
    assert apogee.label(label) == label


@given(st.text(st.characters(categories=["L", "N", "P"]), max_size=255))
def test_what_is_visible_stays_as_it_is(text: str) -> None:
    assert apogee.label(text) == (visible(text) or None)
