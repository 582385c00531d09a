"""The worker: enrolment messages become Moodle cohort memberships."""

from importlib.metadata import version

__version__ = version("etape-cohorts")
