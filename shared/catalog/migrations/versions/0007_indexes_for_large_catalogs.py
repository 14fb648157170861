"""Indexes that keep pages, claims and metrics quick in catalogs of 100,000 jobs"""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

RESULTS = ("reconstructions", "bases", "evaluations")


def upgrade() -> None:
    op.drop_index("ix_jobs_state_priority_seq", "jobs")
    op.create_index("ix_jobs_claim", "jobs", ["state", "priority", "seq", "kind", "not_before"])
    op.create_index("ix_jobs_kind_seq", "jobs", ["kind", "seq"])
    op.create_index("ix_jobs_state_seq", "jobs", ["state", "seq"])
    op.create_index("ix_jobs_kind_state_seq", "jobs", ["kind", "state", "seq"])
    op.create_index("ix_jobs_finished_at", "jobs", ["finished_at"])
    op.create_index("ix_attempts_ended_at", "attempts", ["ended_at"])
    for table in ("jobs", *RESULTS):
        op.drop_index(f"ix_{table}_run_id", table)
        op.create_index(f"ix_{table}_run_id_seq", table, ["run_id", "seq"])


def downgrade() -> None:
    for table in ("jobs", *RESULTS):
        op.drop_index(f"ix_{table}_run_id_seq", table)
        op.create_index(f"ix_{table}_run_id", table, ["run_id"])
    op.drop_index("ix_attempts_ended_at", "attempts")
    for name in ("finished_at", "kind_state_seq", "state_seq", "kind_seq", "claim"):
        op.drop_index(f"ix_jobs_{name}", "jobs")
    op.create_index("ix_jobs_state_priority_seq", "jobs", ["state", "priority", "seq"])
