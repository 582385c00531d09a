"""Points in time."""

Instant = float
"""Seconds since the epoch (UTC), so that SQLite and PostgreSQL store and compare them alike."""
