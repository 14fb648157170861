"""Life cycle of runs: paused jobs, deletions, forks, causes of failures, events"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

SEQ = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
KINDS = [
    *("train", "reconstruct", "evaluate", "compact", "retain", "external"),
    *("draw", "sample", "sweep", "search", "follow", "preview"),
]
NEW_KIND = "delete"
STATES = ["queued", "running", "succeeded", "failed", "cancelled"]
OUTCOMES = ["succeeded", "failed", "cancelled", "released", "expired"]
PAUSED = "paused"
LIVE = "state IN ('queued', 'running', 'succeeded')"
LIVE_OR_PAUSED = "state IN ('queued', 'running', 'paused', 'succeeded')"
FLAGS = ("pause_requested", "release_requested", "working")
OF_RUNS = {
    "parent": sa.JSON(),
    **{name: sa.Double() for name in ("written_at", "silent_since", "delete_at", "deleted_at")},
}


def upgrade() -> None:
    op.create_table(
        "run_events",
        sa.Column("seq", SEQ, autoincrement=True, nullable=False),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("job_id", sa.String(), nullable=True),
        sa.Column("attempt", sa.BigInteger(), nullable=True),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("details", sa.JSON(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_run_events_job_id"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_run_events_run_id"),
        sa.PrimaryKeyConstraint("seq", name="pk_run_events"),
    )
    op.create_index("ix_run_events_job_id", "run_events", ["job_id"])
    op.create_index("ix_run_events_run_id_seq", "run_events", ["run_id", "seq"])
    with op.batch_alter_table("attempts") as attempts:
        attempts.add_column(sa.Column("cause", sa.String(32), nullable=True))
    with op.batch_alter_table("jobs") as jobs:
        jobs.add_column(sa.Column("cause", sa.String(32), nullable=True))
        for flag in FLAGS:
            jobs.add_column(sa.Column(flag, sa.Boolean(), nullable=False, server_default=sa.false()))
    with op.batch_alter_table("jobs") as jobs:
        for flag in FLAGS:
            jobs.alter_column(flag, existing_type=sa.Boolean(), server_default=None)
    with op.batch_alter_table("deletions") as deletions:
        deletions.add_column(sa.Column("run_id", sa.String(), nullable=True))
        deletions.create_foreign_key("fk_deletions_run_id", "runs", ["run_id"], ["id"])
    op.create_index("ix_deletions_run_id", "deletions", ["run_id"])
    of_jobs = sa.table("jobs", sa.column("state"), sa.column("working", sa.Boolean()))
    op.execute(sa.update(of_jobs).where(of_jobs.c.state == "running").values(working=sa.true()))
    with op.batch_alter_table("runs") as runs:
        for name, kind in OF_RUNS.items():
            runs.add_column(sa.Column(name, kind, nullable=True))
    _allow([*KINDS, NEW_KIND], [*STATES, PAUSED], [*OUTCOMES, PAUSED], LIVE_OR_PAUSED)


def downgrade() -> None:
    """Events are lost. Paused jobs are queued, runs that wait for their deletion are kept."""
    op.drop_table("run_events")
    jobs = sa.table("jobs", sa.column("id"), sa.column("kind"), sa.column("state"))
    attempts = sa.table("attempts", sa.column("job_id"), sa.column("outcome"))
    deletions = sa.table("deletions", sa.column("job_id"))
    new = sa.select(jobs.c.id).where(jobs.c.kind == NEW_KIND).scalar_subquery()
    op.execute(sa.update(deletions).where(deletions.c.job_id.in_(new)).values(job_id=None))
    op.execute(sa.delete(attempts).where(attempts.c.job_id.in_(new)))
    op.execute(sa.delete(jobs).where(jobs.c.kind == NEW_KIND))
    op.execute(sa.update(jobs).where(jobs.c.state == PAUSED).values(state="queued"))
    op.execute(sa.update(attempts).where(attempts.c.outcome == PAUSED).values(outcome="released"))
    _allow(KINDS, STATES, OUTCOMES, LIVE)
    op.drop_index("ix_deletions_run_id", "deletions")
    with op.batch_alter_table("deletions") as batch:
        batch.drop_constraint("fk_deletions_run_id", type_="foreignkey")
        batch.drop_column("run_id")
    with op.batch_alter_table("runs") as runs:
        for name in OF_RUNS:
            runs.drop_column(name)
    with op.batch_alter_table("jobs") as batch:
        for name in ("cause", *FLAGS):
            batch.drop_column(name)
    with op.batch_alter_table("attempts") as batch:
        batch.drop_column("cause")


def _allow(kinds: list[str], states: list[str], outcomes: list[str], live: str) -> None:
    op.drop_index("uq_jobs_content_key_live", "jobs")
    with op.batch_alter_table("jobs") as jobs:
        for column, values in (("kind", kinds), ("state", states)):
            jobs.drop_constraint(op.f(f"ck_jobs_{column}"), type_="check")
            jobs.create_check_constraint(op.f(f"ck_jobs_{column}"), sa.column(column).in_(values))
    condition = sa.text(live)
    op.create_index(
        "uq_jobs_content_key_live",
        "jobs",
        ["content_key"],
        unique=True,
        sqlite_where=condition,
        postgresql_where=condition,
    )
    with op.batch_alter_table("attempts") as attempts:
        attempts.drop_constraint(op.f("ck_attempts_outcome"), type_="check")
        attempts.create_check_constraint(op.f("ck_attempts_outcome"), sa.column("outcome").in_(outcomes))
