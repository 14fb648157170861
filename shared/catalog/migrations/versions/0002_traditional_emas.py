"""Snapshots of traditional EMAs, which have a half-life instead of a sigma_rel"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

EXPONENTIAL = sa.text("profile_kind = 'exponential'")


def upgrade() -> None:
    with op.batch_alter_table("snapshots") as snapshots:
        snapshots.alter_column("sigma_rel", existing_type=sa.Double(), nullable=True)
        snapshots.alter_column("gamma", existing_type=sa.Double(), nullable=True)
        snapshots.add_column(sa.Column("half_life_images", sa.BigInteger(), nullable=True))
        snapshots.add_column(sa.Column("rampup_ratio", sa.Double(), nullable=True))
    op.create_index(
        "uq_snapshots_exponential",
        "snapshots",
        ["run_id", "num_images"],
        unique=True,
        sqlite_where=EXPONENTIAL,
        postgresql_where=EXPONENTIAL,
    )
