"""Brings the ledger's schema up to date with Alembic."""

from importlib import resources

import alembic.command
import alembic.config
import alembic.util
import sqlalchemy as sa

from worker.domain.errors import LedgerError


def configured() -> alembic.config.Config:
    """Return Alembic's settings: where the migrations are."""
    config = alembic.config.Config()
    config.set_main_option("script_location", str(resources.files("worker.ledger") / "migrations"))
    return config


def upgrade(connection: sa.Connection) -> None:
    """Run the missing migrations, within the caller's transaction.

    Raises LedgerError when the ledger was written by a version of this program whose migrations aren't among these.
    """
    config = configured()
    config.attributes["connection"] = connection
    try:
        alembic.command.upgrade(config, "head")
    except alembic.util.CommandError as error:
        remedy = "open it with that version, or name a new ledger"
        raise LedgerError(f"another version of this program wrote the ledger: {error}; {remedy}") from None
