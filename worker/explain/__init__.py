"""Why is (isn't) this student in that cohort? What the ledger holds, judged by the rules and said in words.

`explain` turns what `worker.ledger.student_view` read into an `Explanation`: findings with stable codes. `render`
writes one in French or English.
"""

from worker.explain.explainer import explain
from worker.explain.findings import Answer, Explanation, Finding, JudgedEnrolment, Why
from worker.explain.text import render

__all__ = ["Answer", "Explanation", "Finding", "JudgedEnrolment", "Why", "explain", "render"]
