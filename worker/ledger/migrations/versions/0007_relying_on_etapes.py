"""The index of enrolments by étape holds those alone that are looked for by it, so that others needn't change it."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_index(op.f("enrolment_etape_ix"), "enrolment")
    op.create_index(
        op.f("enrolment_etape_ix"),
        "enrolment",
        ["etape"],
        sqlite_where=sa.text("component IS NULL"),
        postgresql_where=sa.text("component IS NULL"),
    )
