"""Directories that are watched."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "watched",
        sa.Column("source", sa.Text(), nullable=False, comment="a directory, by its name in the settings"),
        sa.Column("uuid", sa.Text(), nullable=False, comment="of its entry"),
        sa.Column("csn", sa.Text(), nullable=False, comment="says which state of the entry was read"),
        sa.Column("terms", sa.Text(), nullable=False, comment="hash of the settings that it was understood under"),
        sa.Column("student_id", sa.Text(), nullable=True),
        sa.Column("rows", sa.Text(), nullable=False, comment="what it said, as JSON of EnrolmentRow"),
        sa.Column("version", sa.BigInteger(), nullable=False, comment="under which it was told last"),
        sa.Column("missed_at", sa.Float(), nullable=True, comment="when a look missed it first; null: it is there"),
        sa.Column("gone", sa.Boolean(), nullable=False, comment="whether its leaving was told"),
        sa.Column("unsure", sa.Boolean(), nullable=False, comment="whether it was about to be told"),
        sa.PrimaryKeyConstraint("source", "uuid", name=op.f("watched_pk")),
    )
    op.create_index(op.f("watched_student_id_ix"), "watched", ["student_id"])
