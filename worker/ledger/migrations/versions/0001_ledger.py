"""The ledger."""

import sqlalchemy as sa
from alembic import op

revision = "ledger_1"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "account",
        sa.Column("platform", sa.Text(), nullable=False),
        sa.Column(
            "key", sa.Text(), nullable=False, comment="username or idnumber, as the platform's template writes it"
        ),
        sa.Column("user_id", sa.BigInteger(), nullable=True, comment="null: no account, or several"),
        sa.Column("looked_up_at", sa.Float(), nullable=False),
        sa.Column(
            "reason",
            sa.Text(),
            nullable=True,
            comment="states.Reason why the last look-up found none that can be used; null: it did",
        ),
        sa.Column(
            "near_id", sa.BigInteger(), nullable=True, comment="account that Moodle found although its name is another"
        ),
        sa.PrimaryKeyConstraint("platform", "key", name=op.f("account_pk")),
    )
    op.create_table(
        "cohort",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("platform", sa.Text(), nullable=False),
        sa.Column("idnumber", sa.Text(), nullable=False),
        sa.Column("template", sa.Integer(), nullable=False, comment="index among the platform's templates"),
        sa.Column("etape", sa.Text(), nullable=True),
        sa.Column("component", sa.Text(), nullable=True),
        sa.Column("wanted_name", sa.Text(), nullable=True, comment="null while a label is unknown"),
        sa.Column("state", sa.Text(), nullable=False, comment="states.CohortState"),
        sa.Column("moodle_id", sa.BigInteger(), nullable=True),
        sa.Column(
            "moodle_name",
            sa.Text(),
            nullable=True,
            comment="last name that we wrote or found; a person gave any other one on Moodle",
        ),
        sa.Column(
            "moodle_idnumber",
            sa.Text(),
            nullable=True,
            comment="differs from idnumber until a renamed étape reaches Moodle",
        ),
        sa.Column("name_is_ours", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.Column(
            "refusal",
            sa.Text(),
            nullable=True,
            comment="Moodle's errorcode when it was last to be created or renamed; null once it was",
        ),
        sa.Column(
            "blocker_id",
            sa.BigInteger(),
            nullable=True,
            comment="Moodle's id of the cohort that has its idnumber, or one alike",
        ),
        sa.Column("blocker", sa.Text(), nullable=True, comment="idnumber of that cohort"),
        sa.Column(
            "unread",
            sa.Boolean(),
            server_default=sa.false(),
            nullable=False,
            comment="found with members, not yet read",
        ),
        sa.Column(
            "deleted_at",
            sa.Float(),
            nullable=True,
            comment="when its deletion on Moodle was noticed; null once a person acknowledged it",
        ),
        sa.Column("lost", sa.Integer(), nullable=True, comment="members who were lost with it then"),
        sa.Column(
            "owned_at",
            sa.Float(),
            nullable=True,
            comment="when it was first ours; stays when somebody deletes it on Moodle",
        ),
        sa.Column(
            "first_load",
            sa.Boolean(),
            server_default=sa.false(),
            nullable=False,
            comment="wanted by the first load",
        ),
        sa.Column(
            "creation_at",
            sa.Float(),
            nullable=True,
            comment="when a call was last sent to create it that counts towards the limit",
        ),
        sa.Column(
            "renaming_at",
            sa.Float(),
            nullable=True,
            comment="when a call was last sent to rename it that counts towards the limit",
        ),
        sa.Column(
            "held",
            sa.Text(),
            nullable=True,
            comment="states.Limit that holds its creation or new label, until a person approves it",
        ),
        sa.Column("approved", sa.Text(), nullable=True, comment="hash of the plan that a person approved"),
        sa.Column("approved_until", sa.Float(), nullable=True, comment="when the approval expires"),
        sa.Column(
            "rejected",
            sa.Text(),
            nullable=True,
            comment="hash of the plan that a person rejected: it isn't created, or keeps its label",
        ),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("next_attempt_at", sa.Float(), server_default="0", nullable=False),
        sa.Column("lease_holder", sa.Text(), nullable=True),
        sa.Column("lease_until", sa.Float(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("cohort_pk")),
        sa.UniqueConstraint("platform", "idnumber", name=op.f("cohort_platform_idnumber_uq")),
    )
    op.create_index(op.f("cohort_component_ix"), "cohort", ["component"], unique=False)
    op.create_index(op.f("cohort_etape_ix"), "cohort", ["etape"], unique=False)
    op.create_table(
        "component",
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("label_at", sa.Float(), nullable=False),
        sa.Column("label_origin", sa.Text(), nullable=True, comment="the newest message that gives it"),
        sa.PrimaryKeyConstraint("code", name=op.f("component_pk")),
    )
    op.create_table(
        "enrolment",
        sa.Column("uai", sa.Text(), nullable=False),
        sa.Column("enrolment_id", sa.Text(), nullable=False),
        sa.Column("system", sa.Text(), nullable=False),
        sa.Column(
            "student_id",
            sa.Text(),
            nullable=False,
            comment="as the source gives it, merges not applied; empty while its person has none",
        ),
        sa.Column(
            "cod_ind",
            sa.BigInteger(),
            nullable=True,
            comment="the person, where the source names one: it follows them",
        ),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("changed_at", sa.Float(), nullable=False, comment="instant that the message carries"),
        sa.Column("sequence", sa.Text(), nullable=False, comment="orders states of one version"),
        sa.Column(
            "status", sa.Text(), nullable=False, comment="states.Status; deleted ones stay, so that nothing comes back"
        ),
        sa.Column("payment", sa.Text(), nullable=False, comment="states.Payment"),
        sa.Column("academic_year", sa.Integer(), nullable=True),
        sa.Column("etape", sa.Text(), nullable=True),
        sa.Column("etape_version", sa.Text(), nullable=True),
        sa.Column("component", sa.Text(), nullable=True),
        sa.Column("origin", sa.Text(), nullable=False, comment="where the state was read, e.g. enrolments[3]@1042"),
        sa.Column("recorded_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("uai", "enrolment_id", "system", name=op.f("enrolment_pk")),
    )
    op.create_index(
        "enrolment_cod_ind_ix",
        "enrolment",
        ["cod_ind"],
        unique=False,
        sqlite_where=sa.text("cod_ind IS NOT NULL"),
        postgresql_where=sa.text("cod_ind IS NOT NULL"),
    )
    op.create_index(
        "enrolment_etape_ix",
        "enrolment",
        ["etape"],
        unique=False,
        sqlite_where=sa.text("component IS NULL"),
        postgresql_where=sa.text("component IS NULL"),
    )
    op.create_index(op.f("enrolment_student_id_ix"), "enrolment", ["student_id"], unique=False)
    op.create_table(
        "etape",
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), nullable=True),
        sa.Column(
            "label_version",
            sa.Text(),
            nullable=True,
            comment="version of the étape that has this label: the highest rules, * is above all",
        ),
        sa.Column("label_at", sa.Float(), nullable=True),
        sa.Column("label_origin", sa.Text(), nullable=True, comment="the newest message that gives it"),
        sa.Column("component", sa.Text(), nullable=True),
        sa.Column("component_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("code", name=op.f("etape_pk")),
    )
    op.create_table(
        "journal",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("platform", sa.Text(), nullable=False),
        sa.Column("cohort", sa.Text(), nullable=False, comment="idnumber, as it was then"),
        sa.Column("cohort_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("action", sa.Text(), nullable=False, comment="states.Action"),
        sa.Column("student_id", sa.Text(), nullable=True),
        sa.Column("user_id", sa.BigInteger(), nullable=True),
        sa.Column("cause", sa.Text(), nullable=True),
        sa.Column("origin", sa.Text(), nullable=True),
        sa.Column("source", sa.Text(), nullable=True, comment="as in membership; stays when the person is erased"),
        sa.Column(
            "detail",
            sa.Text(),
            nullable=True,
            comment="for a cohort: its name, its loss or who adopted it; for a decision: who took it",
        ),
        sa.Column("run", sa.Integer(), nullable=True, comment="the reconciliation that it follows from"),
        sa.Column("approved", sa.Text(), nullable=True, comment="hash of the approved plan that it belongs to"),
        sa.PrimaryKeyConstraint("id", name=op.f("journal_pk")),
    )
    op.create_index(op.f("journal_approved_ix"), "journal", ["approved"], unique=False)
    op.create_index(op.f("journal_at_ix"), "journal", ["at"], unique=False)
    op.create_index(
        "journal_removal_ix",
        "journal",
        ["platform", "at", "cohort_id", "source", "approved"],
        unique=False,
        sqlite_where=sa.text("action = 'remove'"),
        postgresql_where=sa.text("action = 'remove'"),
    )
    op.create_index(op.f("journal_run_ix"), "journal", ["run"], unique=False)
    op.create_index(op.f("journal_student_id_ix"), "journal", ["student_id"], unique=False)
    op.create_table(
        "merge",
        sa.Column("student_id", sa.Text(), nullable=False, comment="the number that became another at the source"),
        sa.Column("merged_into", sa.Text(), nullable=False),
        sa.Column("merged_at", sa.Float(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False, comment="the message that says so"),
        sa.Column("published_at", sa.Float(), nullable=False),
        sa.Column("family", sa.BigInteger(), nullable=False, comment="one for all that are connected with each other"),
        sa.Column("state", sa.Text(), nullable=False, comment="states.MergeState"),
        sa.Column(
            "ended_at",
            sa.Float(),
            nullable=True,
            comment="when a snapshot was taken that has enrolments under the former number",
        ),
        sa.Column(
            "verdict", sa.Text(), nullable=True, comment="states.Action: approve or reject; null: nobody has decided"
        ),
        sa.Column("decided_by", sa.Text(), nullable=True),
        sa.Column("decided_at", sa.Float(), nullable=True),
        sa.Column(
            "persons", sa.Integer(), nullable=False, comment="how many had had either number when it was approved"
        ),
        sa.PrimaryKeyConstraint("student_id", "merged_into", name=op.f("merge_pk")),
    )
    op.create_index(op.f("merge_family_ix"), "merge", ["family"], unique=False)
    op.create_index(op.f("merge_merged_into_ix"), "merge", ["merged_into"], unique=False)
    op.create_table(
        "meta",
        sa.Column("key", sa.Text(), nullable=False, comment="instance, policy, clock or halt"),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("meta_pk")),
    )
    op.create_table(
        "person",
        sa.Column("uai", sa.Text(), nullable=False),
        sa.Column("cod_ind", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("student_id", sa.Text(), nullable=False),
        sa.Column("since", sa.Float(), nullable=False, comment="the first instant at which they are known to have it"),
        sa.Column("version", sa.BigInteger(), nullable=False, comment="of the newest change that says so"),
        sa.Column("changed_at", sa.Float(), nullable=False),
        sa.Column("sequence", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("uai", "cod_ind", "student_id", name=op.f("person_pk")),
    )
    op.create_index(op.f("person_student_id_ix"), "person", ["student_id"], unique=False)
    op.create_table(
        "platform",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False, comment="states.PlatformState"),
        sa.Column("since", sa.Float(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", sa.Float(), nullable=False),
        sa.Column("code", sa.Text(), nullable=True, comment="Moodle's errorcode, or ours"),
        sa.Column("sentence", sa.Text(), nullable=True, comment="what happened, for a person"),
        sa.Column(
            "read_at",
            sa.Float(),
            nullable=True,
            comment="when the last complete reading of it began; null: there was none",
        ),
        sa.PrimaryKeyConstraint("name", name=op.f("platform_pk")),
    )
    op.create_table(
        "position",
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("next_offset", sa.BigInteger(), nullable=False, comment="first message not yet recorded"),
        sa.Column(
            "topic_id",
            sa.Text(),
            nullable=True,
            comment="the broker's id of the topic: another one means a re-created topic",
        ),
        sa.PrimaryKeyConstraint("topic", "partition", name=op.f("position_pk")),
    )
    op.create_table(
        "proposal",
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("platform", sa.Text(), nullable=False),
        sa.Column("shown_at", sa.Float(), nullable=False),
        sa.Column("removals", sa.Text(), nullable=False, comment="pairs of cohort id and student id, as JSON"),
        sa.Column("cohorts", sa.Text(), nullable=True, comment="cohorts to be changed, as JSON, in place of removals"),
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
        sa.Column("state", sa.Text(), nullable=False, comment="states.RunState"),
        sa.Column("started_at", sa.Float(), nullable=False),
        sa.Column("ended_at", sa.Float(), nullable=True),
        sa.Column("holder", sa.Text(), nullable=False, comment="process that runs it"),
        sa.Column(
            "lease_until", sa.Float(), nullable=False, comment="when a run whose process is dead counts as abandoned"
        ),
        sa.Column("report", sa.Text(), nullable=True, comment="report.Report, as JSON"),
        sa.PrimaryKeyConstraint("id", name=op.f("run_pk")),
    )
    op.create_table(
        "snapshot",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("taken_at", sa.Float(), nullable=False),
        sa.Column("system", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False, comment="snapshots.SnapshotScope, as JSON"),
        sa.Column("rows_by_year", sa.Text(), nullable=False, comment="rows by academic year, as JSON"),
        sa.Column("unknown", sa.Text(), server_default="{}", nullable=False, comment="snapshots.Unknown, as JSON"),
        sa.Column("accepted_at", sa.Float(), nullable=False),
        sa.Column("run", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("snapshot_pk")),
    )
    op.create_table(
        "student",
        sa.Column("student_id", sa.Text(), nullable=False),
        sa.Column("login", sa.Text(), nullable=True),
        sa.Column("login_at", sa.Float(), nullable=True),
        sa.Column(
            "survivor", sa.Text(), nullable=True, comment="the last number of the chain of merges; null when not merged"
        ),
        sa.PrimaryKeyConstraint("student_id", name=op.f("student_pk")),
    )
    op.create_index(op.f("student_survivor_ix"), "student", ["survivor"], unique=False)
    op.create_table(
        "watched",
        sa.Column("source", sa.Text(), nullable=False, comment="a directory, by its name in the settings"),
        sa.Column("uuid", sa.Text(), nullable=False, comment="of its entry"),
        sa.Column("csn", sa.Text(), nullable=False, comment="version of the entry that was read"),
        sa.Column("terms", sa.Text(), nullable=False, comment="hash of the settings that it was read under"),
        sa.Column("student_id", sa.Text(), nullable=True),
        sa.Column("rows", sa.Text(), nullable=False, comment="its enrolments, as JSON of EnrolmentRow"),
        sa.Column("version", sa.BigInteger(), nullable=False, comment="version of its last message"),
        sa.Column("missed_at", sa.Float(), nullable=True, comment="when a poll missed it first; null: it is there"),
        sa.Column("gone", sa.Boolean(), nullable=False, comment="whether a message said that it left"),
        sa.Column("unsure", sa.Boolean(), nullable=False, comment="whether a message about it may have been sent"),
        sa.PrimaryKeyConstraint("source", "uuid", name=op.f("watched_pk")),
    )
    op.create_index(op.f("watched_student_id_ix"), "watched", ["student_id"], unique=False)
    op.create_table(
        "inherited",
        sa.Column(
            "cohort_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False
        ),
        sa.Column("user_id", sa.BigInteger(), autoincrement=False, nullable=False, comment="Moodle account"),
        sa.ForeignKeyConstraint(["cohort_id"], ["cohort.id"], name=op.f("inherited_cohort_id_fk")),
        sa.PrimaryKeyConstraint("cohort_id", "user_id", name=op.f("inherited_pk")),
    )
    op.create_table(
        "membership",
        sa.Column(
            "cohort_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False
        ),
        sa.Column("student_id", sa.Text(), nullable=False, comment="the surviving number"),
        sa.Column("desired", sa.Boolean(), nullable=False),
        sa.Column(
            "observed",
            sa.Boolean(),
            nullable=True,
            comment="what Moodle last showed; null while a call's outcome is unknown",
        ),
        sa.Column(
            "observed_at", sa.Float(), server_default="0", nullable=False, comment="an older reading changes nothing"
        ),
        sa.Column(
            "joined_at",
            sa.Float(),
            nullable=True,
            comment="when we added them, or a reading first showed them; null: the cohort came with them",
        ),
        sa.Column("user_id", sa.BigInteger(), nullable=True, comment="Moodle account that the membership was given to"),
        sa.Column("cause", sa.Text(), nullable=False, comment="states.Cause of the desired state"),
        sa.Column(
            "origin", sa.Text(), nullable=False, comment="the message, or whatever else changed the desired state"
        ),
        sa.Column(
            "source",
            sa.Text(),
            nullable=False,
            comment="the topic of that message, or the kind of what else it was",
        ),
        sa.Column("since", sa.Float(), nullable=False, comment="when the change was published"),
        sa.Column("due_by", sa.Float(), nullable=False, comment="since plus 24 h: the promise"),
        sa.Column("priority", sa.Integer(), nullable=False, comment="0 fresh, 1 drift"),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", sa.Float(), nullable=False),
        sa.Column(
            "reason",
            sa.Text(),
            nullable=True,
            comment="states.Reason why it could not be applied, or Moodle's errorcode",
        ),
        sa.Column(
            "run",
            sa.Integer(),
            nullable=True,
            comment="the reconciliation that made the gap; null: a message or a setting did",
        ),
        sa.Column(
            "held", sa.Text(), nullable=True, comment="states.Limit that holds the removal, until a person approves it"
        ),
        sa.Column("approved", sa.Text(), nullable=True, comment="hash of the plan that a person approved"),
        sa.Column("approved_until", sa.Float(), nullable=True, comment="when the approval expires"),
        sa.Column(
            "kept", sa.Text(), nullable=True, comment="states.Kept: desired by a person's decision, not by the rules"
        ),
        sa.Column("kept_at", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(["cohort_id"], ["cohort.id"], name=op.f("membership_cohort_id_fk")),
        sa.PrimaryKeyConstraint("cohort_id", "student_id", name=op.f("membership_pk")),
    )
    op.create_index(
        "membership_gap_ix",
        "membership",
        ["priority", "due_by", "cohort_id", "next_attempt_at"],
        unique=False,
        sqlite_where=sa.text("desired IS NOT observed"),
        postgresql_where=sa.text("desired IS DISTINCT FROM observed"),
    )
    op.create_index(
        "membership_kept_ix",
        "membership",
        ["student_id"],
        unique=False,
        sqlite_where=sa.text("kept IS NOT NULL"),
        postgresql_where=sa.text("kept IS NOT NULL"),
    )
    op.create_index(op.f("membership_student_id_ix"), "membership", ["student_id"], unique=False)
