"""Lists of runs by the images that they have seen"""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_runs_num_images_seq", "runs", ["num_images", "seq"])


def downgrade() -> None:
    op.drop_index("ix_runs_num_images_seq", "runs")
