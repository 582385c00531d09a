"""What the source of a snapshot could not tell."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "snapshot",
        sa.Column("unknown", sa.Text(), server_default="{}", nullable=False, comment="model.Unknown, as JSON"),
    )
