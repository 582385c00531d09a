"""The ledger's schema brought up to date by Alembic, from whatever version wrote it."""

from importlib import resources

import alembic.command
import alembic.config
import alembic.util
import sqlalchemy as sa

from worker.domain.errors import LedgerError


def configured() -> alembic.config.Config:
    """Give Alembic's settings: where the migrations are."""
    config = alembic.config.Config()
    config.set_main_option("script_location", str(resources.files("worker.ledger") / "migrations"))
    return config


def upgrade(connection: sa.Connection) -> None:
    """Make the migrations that are missing, within the caller's transaction.

    Raises LedgerError when the ledger was written by a newer version of this program.
    """
    config = configured()
    config.attributes["connection"] = connection
    try:
        alembic.command.upgrade(config, "head")
    except alembic.util.CommandError as error:
        raise LedgerError(f"another version of this program wrote the ledger: {error}") from None
