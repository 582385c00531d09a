"""APOGÉE's codes and keys, whether its tables are read by SQL or by change capture. Pure.

`INS_ADM_ETP.ETA_IAE` is E (en cours), A (annulée), R (résiliée) or C (en cours de création); `ETA_PMT_IAE` is P (payée)
or A (en attente), and other codes have no documented meaning.
"""

import re

from schemas.envelope import visible
from worker.domain.states import Payment, Status

STATUSES = {"E": Status.ACTIVE, "C": Status.PENDING, "A": Status.CANCELLED, "R": Status.RESIGNED}
_PAYMENTS = {"P": Payment.PAID, "A": Payment.DUE}
LABEL_LENGTH = 255
"""The contract's limit; APOGÉE's own is 120."""
_NO_TEXT = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff]+")


def payment(code: str | None) -> Payment:
    """Return the payment that a value of `ETA_PMT_IAE` means."""
    return _PAYMENTS.get(code or "", Payment.UNKNOWN)


def enrolment_id(*, year: int, person: int, etape: str, version: int, occurrence: int) -> str:
    """Build an id from the primary key of `INS_ADM_ETP`: COD_ANU, COD_IND, COD_ETP, COD_VRS_VET, NUM_OCC_IAE."""
    return f"{year}:{person}:{etape}:{version}:{occurrence}"


def label(text: str | None) -> str | None:
    """Return a label that fits the contract, so that no label makes an enrolment invalid.

    Control characters, which get pasted into forms, become a space; invisible ones are removed; a label that is too
    long is cut.
    """
    plain = visible(_NO_TEXT.sub(" ", text or "")).strip()
    return plain[:LABEL_LENGTH].strip() or None
