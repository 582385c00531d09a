from worker.ledger import Ledger
from worker.ledger.consumption import Halt, halt, resume
from worker.ledger.status import read_status

HALT = Halt(since=1_000.0, reason="contract_broken", sentence="50 messages in a row are invalid")


def halted(ledger: Ledger) -> Halt | None:
    return read_status(ledger, [], 2_000.0).halt


def test_that_no_message_is_read_is_known_until_a_worker_starts_again(ledger: Ledger) -> None:
    assert halted(ledger) is None
    halt(ledger, HALT)
    assert halted(ledger) == HALT
    resume(ledger)
    assert halted(ledger) is None


def test_the_last_of_two_workers_that_stop_says_why(ledger: Ledger) -> None:
    later = Halt(since=1_500.0, reason="position_lost", sentence="position 3 no longer exists")
    halt(ledger, HALT)
    halt(ledger, later)
    assert halted(ledger) == later
