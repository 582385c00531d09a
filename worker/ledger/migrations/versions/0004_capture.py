"""Change capture: persons, and enrolments that wait for a student number."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "enrolment",
        sa.Column(
            "sequence",
            sa.Text(),
            server_default="",
            nullable=False,
            comment="orders what is said under one version",
        ),
    )
    op.create_table(
        "person",
        sa.Column("uai", sa.Text(), nullable=False),
        sa.Column("cod_ind", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("student_id", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("sequence", sa.Text(), nullable=False),
        sa.Column("changed_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("uai", "cod_ind", name=op.f("person_pk")),
    )
    op.create_table(
        "waiting",
        sa.Column("uai", sa.Text(), nullable=False),
        sa.Column("enrolment_id", sa.Text(), nullable=False),
        sa.Column("cod_ind", sa.BigInteger(), nullable=False),
        sa.Column("system", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("changed_at", sa.Float(), nullable=False),
        sa.Column("sequence", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False, comment="model.Status"),
        sa.Column("payment", sa.Text(), nullable=False, comment="model.Payment"),
        sa.Column("academic_year", sa.Integer(), nullable=True),
        sa.Column("etape", sa.Text(), nullable=True),
        sa.Column("etape_version", sa.Text(), nullable=True),
        sa.Column("component", sa.Text(), nullable=True),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("published_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("uai", "enrolment_id", name=op.f("waiting_pk")),
    )
    op.create_index(op.f("waiting_cod_ind_ix"), "waiting", ["cod_ind"])
