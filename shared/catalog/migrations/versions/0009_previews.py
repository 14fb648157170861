"""Previews"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

SEQ = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
KINDS = [
    *("train", "reconstruct", "evaluate", "compact", "retain", "external"),
    *("draw", "sample", "sweep", "search", "follow"),
]
NEW_KIND = "preview"


def upgrade() -> None:
    op.create_table(
        "previews",
        sa.Column("seq", SEQ, autoincrement=True, nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("num_images", sa.BigInteger(), nullable=False),
        sa.Column("profile", sa.JSON(), nullable=False),
        sa.Column("request", sa.JSON(), nullable=False),
        sa.Column("content_key", sa.String(), nullable=False),
        sa.Column("plan", sa.JSON(), nullable=False),
        sa.Column("job_id", sa.String(), nullable=True),
        sa.Column("result", sa.JSON(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_previews_job_id"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_previews_run_id"),
        sa.PrimaryKeyConstraint("seq", name="pk_previews"),
        sa.UniqueConstraint("content_key", name="uq_previews_content_key"),
        sa.UniqueConstraint("id", name="uq_previews_id"),
    )
    op.create_index("ix_previews_job_id", "previews", ["job_id"])
    op.create_index("ix_previews_run_id_seq", "previews", ["run_id", "seq"])
    _allow_kinds([*KINDS, NEW_KIND])


def downgrade() -> None:
    """Previews are lost; their objects stay in the store."""
    op.drop_table("previews")
    _remove_new_kind()
    _allow_kinds(KINDS)


def _remove_new_kind() -> None:
    jobs = sa.table("jobs", sa.column("id"), sa.column("kind"))
    new = sa.select(jobs.c.id).where(jobs.c.kind == NEW_KIND).scalar_subquery()
    deletions, attempts = sa.table("deletions", sa.column("job_id")), sa.table("attempts", sa.column("job_id"))
    op.execute(sa.update(deletions).where(deletions.c.job_id.in_(new)).values(job_id=None))
    op.execute(sa.delete(attempts).where(attempts.c.job_id.in_(new)))
    op.execute(sa.delete(jobs).where(jobs.c.kind == NEW_KIND))


def _allow_kinds(kinds: list[str]) -> None:
    with op.batch_alter_table("jobs") as jobs:
        jobs.drop_constraint(op.f("ck_jobs_kind"), type_="check")
        jobs.create_check_constraint(op.f("ck_jobs_kind"), sa.column("kind").in_(kinds))
