"""The ledger's tables, the same on SQLite and PostgreSQL.

Instants are seconds since the epoch (UTC). Texts that stand for choices hold the value of the enum named beside them.
A change here needs a migration; a test compares both.
"""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    bindparam,
    false,
    literal_column,
    select,
    true,
    update,
)

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pk",
        "fk": "%(table_name)s_%(column_0_name)s_fk",
        "uq": "%(table_name)s_%(column_0_N_name)s_uq",
        "ix": "%(table_name)s_%(column_0_N_name)s_ix",
    }
)

REVISION = "ledger_1"
"""The newest migration. It is not called 0001: so was another one, and its ledgers must not pass for this one's."""
REVISIONS = Table("alembic_version", MetaData(), Column("version_num", Text))
"""Where Alembic writes the newest migration that was applied."""

_Serial = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows by itself only for INTEGER

meta = Table(
    "meta",
    metadata,
    Column("key", Text, primary_key=True, comment="instance, policy, clock or halt"),
    Column("value", Text, nullable=False),
)
"""Single values; of the clock, see `worker.ledger.clock_skew`, of a halt `worker.ledger.consumption`."""

position = Table(
    "position",
    metadata,
    Column("topic", Text, primary_key=True),
    Column("partition", Integer, primary_key=True),
    Column("next_offset", BigInteger, nullable=False, comment="first message not yet recorded"),
    Column("topic_id", Text, comment="the broker's id of the topic: another one means a re-created topic"),
)


def _state() -> list[Column[Any]]:
    """Build the columns of the state of an enrolment at its source, without those that say whose it is."""
    return [
        Column("version", BigInteger, nullable=False),
        Column("changed_at", Float, nullable=False, comment="instant that the message carries"),
        Column("sequence", Text, nullable=False, comment="orders states of one version"),
        Column("status", Text, nullable=False, comment="states.Status; deleted ones stay, so that nothing comes back"),
        Column("payment", Text, nullable=False, comment="states.Payment"),
        Column("academic_year", Integer),
        Column("etape", Text),
        Column("etape_version", Text),
        Column("component", Text),
        Column("origin", Text, nullable=False, comment="where the state was read, e.g. enrolments[3]@1042"),
    ]


enrolment = Table(
    "enrolment",
    metadata,
    Column("uai", Text, primary_key=True),
    Column("enrolment_id", Text, primary_key=True),
    Column("system", Text, primary_key=True),
    Column(
        "student_id",
        Text,
        nullable=False,
        index=True,
        comment="as the source gives it, merges not applied; empty while its person has none",
    ),
    Column("cod_ind", BigInteger, comment="the person, where the source names one: it follows them"),
    *_state(),
    Column("recorded_at", Float, nullable=False),
)
NO_NUMBER = ""
"""The student number of an enrolment whose person has none that is known."""
of_person = enrolment.c.cod_ind.is_not(None)
"""An enrolment that follows a person. It must be in a condition for PostgreSQL to look them up."""
Index("enrolment_cod_ind_ix", enrolment.c.cod_ind, sqlite_where=of_person, postgresql_where=of_person)
relies_on_etape = enrolment.c.component.is_(None)
"""An enrolment that takes the component of its étape. APOGÉE's have their own, and needn't be found by étape."""
Index("enrolment_etape_ix", enrolment.c.etape, sqlite_where=relies_on_etape, postgresql_where=relies_on_etape)

person = Table(
    "person",
    metadata,
    Column("uai", Text, primary_key=True),
    Column("cod_ind", BigInteger, primary_key=True, autoincrement=False),
    Column("student_id", Text, primary_key=True, index=True),
    Column("since", Float, nullable=False, comment="the first instant at which they are known to have it"),
    Column("version", BigInteger, nullable=False, comment="of the newest change that says so"),
    Column("changed_at", Float, nullable=False),
    Column("sequence", Text, nullable=False),
)
"""Who had which student numbers, from when to when: persons of APOGÉE, whom captured enrolments name."""

merge = Table(
    "merge",
    metadata,
    Column("student_id", Text, primary_key=True, comment="the number that became another at the source"),
    Column("merged_into", Text, primary_key=True, index=True),
    Column("merged_at", Float, nullable=False),
    Column("origin", Text, nullable=False, comment="the message that says so"),
    Column("published_at", Float, nullable=False),
    Column("family", BigInteger, nullable=False, index=True, comment="one for all that are connected with each other"),
    Column("state", Text, nullable=False, comment="states.MergeState"),
    Column("ended_at", Float, comment="when a snapshot was taken that has enrolments under the former number"),
    Column("verdict", Text, comment="states.Action: approve or reject; null: nobody has decided"),
    Column("decided_by", Text),
    Column("decided_at", Float),
    Column("persons", Integer, nullable=False, comment="how many had had either number when it was approved"),
)
"""What was said about student numbers that became others, in force or not."""

watched = Table(
    "watched",
    metadata,
    Column("source", Text, primary_key=True, comment="a directory, by its name in the settings"),
    Column("uuid", Text, primary_key=True, comment="of its entry"),
    Column("csn", Text, nullable=False, comment="version of the entry that was read"),
    Column("terms", Text, nullable=False, comment="hash of the settings that it was read under"),
    Column("student_id", Text, index=True),
    Column("rows", Text, nullable=False, comment="its enrolments, as JSON of EnrolmentRow"),
    Column("version", BigInteger, nullable=False, comment="version of its last message"),
    Column("missed_at", Float, comment="when a poll missed it first; null: it is there"),
    Column("gone", Boolean, nullable=False, comment="whether a message said that it left"),
    Column("unsure", Boolean, nullable=False, comment="whether a message about it may have been sent"),
)
"""Entries of the watched directories, as last published; those that are gone keep their version."""

snapshot = Table(
    "snapshot",
    metadata,
    Column("id", Text, primary_key=True),
    Column("taken_at", Float, nullable=False),
    Column("system", Text, nullable=False),
    Column("scope", Text, nullable=False, comment="snapshots.SnapshotScope, as JSON"),
    Column("rows_by_year", Text, nullable=False, comment="rows by academic year, as JSON"),
    Column("unknown", Text, nullable=False, server_default="{}", comment="snapshots.Unknown, as JSON"),
    Column("accepted_at", Float, nullable=False),
    Column("run", Integer, nullable=False),
)
"""Accepted snapshots: what is absent from them has ended, also for messages that come late."""

run = Table(
    "run",
    metadata,
    Column("id", _Serial, primary_key=True),
    Column("night", Text, comment="local date that a scheduled run is for: one a night, across processes"),
    Column("state", Text, nullable=False, comment="states.RunState"),
    Column("started_at", Float, nullable=False),
    Column("ended_at", Float),
    Column("holder", Text, nullable=False, comment="process that runs it"),
    Column("lease_until", Float, nullable=False, comment="when a run whose process is dead counts as abandoned"),
    Column("report", Text, comment="report.Report, as JSON"),
)
"""Reconciliations."""

student = Table(
    "student",
    metadata,
    Column("student_id", Text, primary_key=True),
    Column("login", Text),
    Column("login_at", Float),
    Column("survivor", Text, index=True, comment="the last number of the chain of merges; null when not merged"),
)

etape = Table(
    "etape",
    metadata,
    Column("code", Text, primary_key=True),
    Column("label", Text),
    Column(
        "label_version", Text, comment="version of the étape that has this label: the highest rules, * is above all"
    ),
    Column("label_at", Float),
    Column("label_origin", Text, comment="the newest message that gives it"),
    Column("component", Text),
    Column("component_at", Float),
)

component = Table(
    "component",
    metadata,
    Column("code", Text, primary_key=True),
    Column("label", Text, nullable=False),
    Column("label_at", Float, nullable=False),
    Column("label_origin", Text, comment="the newest message that gives it"),
)

cohort = Table(
    "cohort",
    metadata,
    Column("id", _Serial, primary_key=True),
    Column("platform", Text, nullable=False),
    Column("idnumber", Text, nullable=False),
    Column("template", Integer, nullable=False, comment="index among the platform's templates"),
    Column("etape", Text, index=True),
    Column("component", Text, index=True),
    Column("wanted_name", Text, comment="null while a label is unknown"),
    Column("state", Text, nullable=False, comment="states.CohortState"),
    Column("moodle_id", BigInteger),
    Column("moodle_name", Text, comment="last name that we wrote or found; a person gave any other one on Moodle"),
    Column("moodle_idnumber", Text, comment="differs from idnumber until a renamed étape reaches Moodle"),
    Column("name_is_ours", Boolean, nullable=False, server_default=true()),
    Column("refusal", Text, comment="Moodle's errorcode when it was last to be created or renamed; null once it was"),
    Column("blocker_id", BigInteger, comment="Moodle's id of the cohort that has its idnumber, or one alike"),
    Column("blocker", Text, comment="idnumber of that cohort"),
    Column("unread", Boolean, nullable=False, server_default=false(), comment="found with members, not yet read"),
    Column("deleted_at", Float, comment="when its deletion on Moodle was noticed; null once a person acknowledged it"),
    Column("lost", Integer, comment="members who were lost with it then"),
    Column("owned_at", Float, comment="when it was first ours; stays when somebody deletes it on Moodle"),
    Column("first_load", Boolean, nullable=False, server_default=false(), comment="wanted by the first load"),
    Column("creation_at", Float, comment="when a call was last sent to create it that counts towards the limit"),
    Column("renaming_at", Float, comment="when a call was last sent to rename it that counts towards the limit"),
    Column("held", Text, comment="states.Limit that holds its creation or new label, until a person approves it"),
    Column("approved", Text, comment="hash of the plan that a person approved"),
    Column("approved_until", Float, comment="when the approval expires"),
    Column("rejected", Text, comment="hash of the plan that a person rejected: it isn't created, or keeps its label"),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("next_attempt_at", Float, nullable=False, server_default="0"),
    Column("lease_holder", Text),
    Column("lease_until", Float, nullable=False, server_default="0"),
    UniqueConstraint("platform", "idnumber"),
)

membership = Table(
    "membership",
    metadata,
    Column("cohort_id", _Serial, ForeignKey("cohort.id"), primary_key=True, autoincrement=False),
    Column("student_id", Text, primary_key=True, index=True, comment="the surviving number"),
    Column("desired", Boolean, nullable=False),
    Column("observed", Boolean, comment="what Moodle last showed; null while a call's outcome is unknown"),
    Column("observed_at", Float, nullable=False, server_default="0", comment="an older reading changes nothing"),
    Column(
        "joined_at",
        Float,
        comment="when we added them, or a reading first showed them; null: the cohort came with them",
    ),
    Column("user_id", BigInteger, comment="Moodle account that the membership was given to"),
    Column("cause", Text, nullable=False, comment="states.Cause of the desired state"),
    Column("origin", Text, nullable=False, comment="the message, or whatever else changed the desired state"),
    Column("source", Text, nullable=False, comment="the topic of that message, or the kind of what else it was"),
    Column("since", Float, nullable=False, comment="when the change was published"),
    Column("due_by", Float, nullable=False, comment="since plus 24 h: the promise"),
    Column("priority", Integer, nullable=False, comment="0 fresh, 1 drift"),
    Column("attempts", Integer, nullable=False),
    Column("next_attempt_at", Float, nullable=False),
    Column("reason", Text, comment="states.Reason why it could not be applied, or Moodle's errorcode"),
    Column("run", Integer, comment="the reconciliation that made the gap; null: a message or a setting did"),
    Column("held", Text, comment="states.Limit that holds the removal, until a person approves it"),
    Column("approved", Text, comment="hash of the plan that a person approved"),
    Column("approved_until", Float, comment="when the approval expires"),
    Column("kept", Text, comment="states.Kept: desired by a person's decision, not by the rules"),
    Column("kept_at", Float),
)
inherited = Table(
    "inherited",
    metadata,
    Column("cohort_id", _Serial, ForeignKey("cohort.id"), primary_key=True, autoincrement=False),
    Column("user_id", BigInteger, primary_key=True, autoincrement=False, comment="Moodle account"),
)
"""Members whom a cohort had when it became ours, and who aren't desired there; a person decides on their removal."""

gap = membership.c.desired.is_distinct_from(membership.c.observed)
"""A membership that Moodle doesn't show as desired, or may not."""
Index(
    "membership_gap_ix",
    membership.c.priority,
    membership.c.due_by,
    membership.c.cohort_id,
    membership.c.next_attempt_at,
    sqlite_where=gap,
    postgresql_where=gap,
)
kept = membership.c.kept.is_not(None)
"""A membership that a person decided about. There are few, and every batch of messages asks for them."""
Index("membership_kept_ix", membership.c.student_id, sqlite_where=kept, postgresql_where=kept)


at_membership = update(membership).where(
    membership.c.cohort_id == bindparam("b_cohort"), membership.c.student_id == bindparam("b_student")
)
"""Updates one membership, that of the parameters `b_cohort` and `b_student`."""


def in_cohort(*conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    """Return the condition that the cohort of a membership meets these conditions.

    It is a correlated EXISTS that no planner turns into a join, because it has an OFFSET. If cohorts are joined, or
    listed, SQLite goes through them, and in each through every student that is asked for, or through all its members;
    so does PostgreSQL as long as it has no statistics.
    """
    return select(cohort.c.id).where(cohort.c.id == membership.c.cohort_id, *conditions).offset(0).exists()


account = Table(
    "account",
    metadata,
    Column("platform", Text, primary_key=True),
    Column("key", Text, primary_key=True, comment="username or idnumber, as the platform's template writes it"),
    Column("user_id", BigInteger, comment="null: no account, or several"),
    Column("looked_up_at", Float, nullable=False),
    Column("reason", Text, comment="states.Reason why the last look-up found none that can be used; null: it did"),
    Column("near_id", BigInteger, comment="account that Moodle found although its name is another"),
)

platform = Table(
    "platform",
    metadata,
    Column("name", Text, primary_key=True),
    Column("state", Text, nullable=False, comment="states.PlatformState"),
    Column("since", Float, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_attempt_at", Float, nullable=False),
    Column("code", Text, comment="Moodle's errorcode, or ours"),
    Column("sentence", Text, comment="what happened, for a person"),
    Column("read_at", Float, comment="when the last complete reading of it began; null: there was none"),
)

proposal = Table(
    "proposal",
    metadata,
    Column("hash", Text, primary_key=True),
    Column("platform", Text, nullable=False),
    Column("shown_at", Float, nullable=False),
    Column("removals", Text, nullable=False, comment="pairs of cohort id and student id, as JSON"),
    Column("cohorts", Text, comment="cohorts to be changed, as JSON, in place of removals"),
    Column("verdict", Text, comment="approved or rejected; null: neither yet"),
    Column("decided_by", Text),
    Column("decided_at", Float),
)
"""Removals, or cohorts to be changed, that a person was shown under a hash, to approve or reject exactly these."""

journal = Table(
    "journal",
    metadata,
    Column("id", _Serial, primary_key=True),
    Column("at", Float, nullable=False, index=True),
    Column("platform", Text, nullable=False),
    Column("cohort", Text, nullable=False, comment="idnumber, as it was then"),
    Column("cohort_id", _Serial, nullable=False),
    Column("action", Text, nullable=False, comment="states.Action"),
    Column("student_id", Text, index=True),
    Column("user_id", BigInteger),
    Column("cause", Text),
    Column("origin", Text),
    Column("source", Text, comment="as in membership; stays when the person is erased"),
    Column("detail", Text, comment="for a cohort: its name, its loss or who adopted it; for a decision: who took it"),
    Column("run", Integer, index=True, comment="the reconciliation that it follows from"),
    Column("approved", Text, index=True, comment="hash of the approved plan that it belongs to"),
)
is_removal = journal.c.action == literal_column("'remove'")  # no parameter, or SQLite wouldn't use the index
"""An entry about a member who was removed; the guard counts those of a month before every batch of removals."""
Index(
    "journal_removal_ix",
    journal.c.platform,
    journal.c.at,
    journal.c.cohort_id,
    journal.c.source,
    journal.c.approved,
    sqlite_where=is_removal,
    postgresql_where=is_removal,
)
