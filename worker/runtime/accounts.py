"""What an administrator of Moodle does about accounts that can't be used, in sentences that name no person."""

from collections.abc import Iterator

from worker.domain.states import Reason
from worker.ledger import Ledger
from worker.ledger.accounts import UnusableAccounts, unusable

SHOWN = 10
"""Accounts that are named by their id, in a line."""
_SENTENCES = {
    Reason.UNCLEAN_ACCOUNT: "accounts that Moodle refuses to return: {number}{ids}; give them an authentication that "
    "is installed, a username without capitals, accents and spaces, a profile without `<`",
    Reason.NEAR_MATCH: "students without an account of exactly their name, but with one of almost the same (case, "
    "accents, spaces): {number}{ids}; correct it on Moodle, if it is theirs",
    Reason.AMBIGUOUS_ACCOUNT: "students with several accounts of one name: {number}{ids}; leave one of each on Moodle",
}


def account_sentences(ledger: Ledger, platform: str) -> Iterator[str]:
    """Yield a sentence for each reason for which accounts can't be used, as the last look-ups found."""
    for some in unusable(ledger, platform):
        if some.reason in _SENTENCES:
            sentence = _SENTENCES[Reason(some.reason)].format(number=some.keys, ids=_ids(some))
            yield f"{sentence} (`cohorts explain` tells of a student)"


def _ids(some: UnusableAccounts) -> str:
    if not some.user_ids:
        return ""
    more = len(some.user_ids) - SHOWN
    shown = ", ".join(map(str, some.user_ids[:SHOWN])) + (f" and {more} more" if more > 0 else "")
    return f" (Moodle's ids {shown})"
