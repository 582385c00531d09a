"""Paths in the checkout."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
TRANSCRIPTS = ROOT / "tests" / "moodle-transcripts.json"
"""Replies of a real Moodle 4.3, as recorded."""
