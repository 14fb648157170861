"""Objects listed for deletion, pinned checkpoints, trouble of running jobs"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("trouble", sa.String(), nullable=True))
    with op.batch_alter_table("checkpoints") as checkpoints:
        checkpoints.add_column(sa.Column("pinned", sa.Boolean(), nullable=False, server_default=sa.false()))
    with op.batch_alter_table("checkpoints") as checkpoints:
        checkpoints.alter_column("pinned", existing_type=sa.Boolean(), server_default=None)
    op.create_table(
        "deletions",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("job_id", sa.String(), nullable=True),
        sa.Column("claimed_at", sa.Double(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_deletions"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_deletions_job_id"),
    )
    op.create_index("ix_deletions_job_id", "deletions", ["job_id"])


def downgrade() -> None:
    """The list is lost: objects on it stay in the store."""
    op.drop_table("deletions")
    with op.batch_alter_table("checkpoints") as checkpoints:
        checkpoints.drop_column("pinned")
    with op.batch_alter_table("jobs") as jobs:
        jobs.drop_column("trouble")
