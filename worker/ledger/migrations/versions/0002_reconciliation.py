"""Snapshots, reconciliations, held and approved removals."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "proposal",
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("platform", sa.Text(), nullable=False),
        sa.Column("shown_at", sa.Float(), nullable=False),
        sa.Column("removals", sa.Text(), nullable=False, comment="pairs of cohort id and student id, as JSON"),
        sa.Column("verdict", sa.Text(), nullable=True, comment="approved or rejected; null: neither yet"),
        sa.Column("decided_by", sa.Text(), nullable=True),
        sa.Column("decided_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("hash", name=op.f("proposal_pk")),
    )
    op.create_table(
        "run",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column(
            "night",
            sa.Text(),
            nullable=True,
            comment="local date that a scheduled run is for: one a night, across processes",
        ),
        sa.Column("state", sa.Text(), nullable=False, comment="model.RunState"),
        sa.Column("started_at", sa.Float(), nullable=False),
        sa.Column("ended_at", sa.Float(), nullable=True),
        sa.Column("holder", sa.Text(), nullable=False, comment="process that runs it"),
        sa.Column(
            "lease_until",
            sa.Float(),
            nullable=False,
            comment="a run whose process is dead is taken for abandoned then",
        ),
        sa.Column("report", sa.Text(), nullable=True, comment="report.Report, as JSON"),
        sa.PrimaryKeyConstraint("id", name=op.f("run_pk")),
    )
    op.create_table(
        "snapshot",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("taken_at", sa.Float(), nullable=False),
        sa.Column("system", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False, comment="model.SnapshotScope, as JSON"),
        sa.Column("rows_by_year", sa.Text(), nullable=False, comment="rows by academic year, as JSON"),
        sa.Column("accepted_at", sa.Float(), nullable=False),
        sa.Column("run", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("snapshot_pk")),
    )
    more: tuple[tuple[str, sa.Integer | sa.Text | sa.Float[float], str], ...] = (
        ("run", sa.Integer(), "the reconciliation that it follows from"),
        ("approved", sa.Text(), "hash of the approved plan that it belongs to"),
    )
    for name, kind, said in more:
        op.add_column("journal", sa.Column(name, kind, nullable=True, comment=said))
        op.create_index(op.f(f"journal_{name}_ix"), "journal", [name])
    op.add_column(
        "membership",
        sa.Column(
            "observed_at",
            sa.Float(),
            server_default="0",
            nullable=False,
            comment="an older reading changes nothing",
        ),
    )
    columns: tuple[tuple[str, sa.Integer | sa.Text | sa.Float[float], str | None], ...] = (
        ("run", sa.Integer(), "the reconciliation that made the gap; null: a message or a setting did"),
        ("held", sa.Text(), "model.Limit that holds the removal, until a person approves it"),
        ("approved", sa.Text(), "hash of the plan that a person approved"),
        ("approved_until", sa.Float(), "when the approval expires"),
        ("kept", sa.Text(), "model.Kept: desired by a person's decision, not by the rules"),
        ("kept_at", sa.Float(), None),
    )
    for name, kind, comment in columns:
        op.add_column("membership", sa.Column(name, kind, nullable=True, comment=comment))
    kept = sa.text("kept IS NOT NULL")
    op.create_index("membership_kept_ix", "membership", ["student_id"], sqlite_where=kept, postgresql_where=kept)
