"""The state: what must be, what Moodle last showed, and everything that was applied.

`Ledger` opens it; `Recorder` writes what messages say; `WorkQueue` hands out gaps and settles them; `reading` answers
questions. All of it is the same code on SQLite and PostgreSQL.
"""

from worker.ledger.database import Ledger
from worker.ledger.enrolments import Counts
from worker.ledger.recorder import Recorder
from worker.ledger.work_queue import WorkQueue

__all__ = ["Counts", "Ledger", "Recorder", "WorkQueue"]
