"""Gaps in the order in which they are closed: the oldest are found without reading all."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_index(op.f("membership_gap_ix"), "membership")
    op.create_index(
        op.f("membership_gap_ix"),
        "membership",
        ["priority", "due_by", "cohort_id", "next_attempt_at"],
        sqlite_where=sa.text("desired IS NOT observed"),
        postgresql_where=sa.text("desired IS DISTINCT FROM observed"),
    )
