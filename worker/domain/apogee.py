"""The words of APOGÉE, whether its tables are read by SQL or by change capture. Pure.

`INS_ADM_ETP.ETA_IAE` is E (en cours), A (annulée), R (résiliée) or C (en cours de création); `ETA_PMT_IAE` is P (payée)
or A (en attente), and others whose meaning isn't documented.
"""

import re

from worker.domain.states import Payment, Status

STATUSES = {"E": Status.ACTIVE, "C": Status.PENDING, "A": Status.CANCELLED, "R": Status.RESIGNED}
_PAYMENTS = {"P": Payment.PAID, "A": Payment.DUE}
LABEL_LENGTH = 255
"""The contract's limit; APOGÉE's own is 120."""
_NO_TEXT = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff]+")


def payment(code: str | None) -> Payment:
    """Read `ETA_PMT_IAE`."""
    return _PAYMENTS.get(code or "", Payment.UNKNOWN)


def enrolment_id(*, year: int, person: int, etape: str, version: int, occurrence: int) -> str:
    """Name a row of `INS_ADM_ETP` by its primary key: COD_ANU, COD_IND, COD_ETP, COD_VRS_VET, NUM_OCC_IAE."""
    return f"{year}:{person}:{etape}:{version}:{occurrence}"


def label(text: str | None) -> str | None:
    """Make a label fit the contract: no label may make an enrolment unreadable.

    Control characters, which come from a paste into a form, become a space; what is too long is cut.
    """
    plain = _NO_TEXT.sub(" ", text or "").strip()
    return plain[:LABEL_LENGTH].strip() or None
