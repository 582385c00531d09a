"""The worker: enrolment messages become Moodle cohort memberships."""
