"""Jobs that need others, parts of evaluations, studies, samples, models"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

SEQ = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
STUDIES = sa.Enum("sweep", "search", "follow", name="kind", native_enum=False, create_constraint=True, length=16)
KINDS = ["train", "reconstruct", "evaluate", "compact", "retain", "external"]
NEW_KINDS = ["draw", "sample", "sweep", "search", "follow"]
OF_EVALUATIONS = ("errors", "replicates", "provenance", "archive")
TABLES = ("study_points", "samples", "models", "studies", "sample_parts", "job_dependencies")


def upgrade() -> None:
    op.create_table(
        "job_dependencies",
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("needs_id", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_job_dependencies_job_id"),
        sa.ForeignKeyConstraint(["needs_id"], ["jobs.id"], name="fk_job_dependencies_needs_id"),
        sa.PrimaryKeyConstraint("job_id", "needs_id", name="pk_job_dependencies"),
    )
    op.create_index("ix_job_dependencies_needs_id", "job_dependencies", ["needs_id"])
    op.create_table(
        "sample_parts",
        sa.Column("seq", SEQ, autoincrement=True, nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("content_key", sa.String(), nullable=False),
        sa.Column("drawing", sa.String(), nullable=False),
        sa.Column("request", sa.JSON(), nullable=False),
        sa.Column("job_id", sa.String(), nullable=True),
        sa.Column("result", sa.JSON(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_sample_parts_job_id"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_sample_parts_run_id"),
        sa.PrimaryKeyConstraint("seq", name="pk_sample_parts"),
        sa.UniqueConstraint("content_key", name="uq_sample_parts_content_key"),
        sa.UniqueConstraint("id", name="uq_sample_parts_id"),
    )
    op.create_index("ix_sample_parts_drawing", "sample_parts", ["drawing"])
    op.create_index("ix_sample_parts_job_id", "sample_parts", ["job_id"])
    op.create_index("ix_sample_parts_run_id_seq", "sample_parts", ["run_id", "seq"])
    op.create_table(
        "studies",
        sa.Column("seq", SEQ, autoincrement=True, nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("kind", STUDIES, nullable=False),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("content_key", sa.String(), nullable=False),
        sa.Column("job_id", sa.String(), nullable=True),
        sa.Column("progress", sa.JSON(), nullable=True),
        sa.Column("result", sa.JSON(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_studies_job_id"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_studies_run_id"),
        sa.PrimaryKeyConstraint("seq", name="pk_studies"),
        sa.UniqueConstraint("content_key", name="uq_studies_content_key"),
        sa.UniqueConstraint("id", name="uq_studies_id"),
    )
    op.create_index("ix_studies_job_id", "studies", ["job_id"])
    op.create_index("ix_studies_kind_seq", "studies", ["kind", "seq"])
    op.create_index("ix_studies_run_id_seq", "studies", ["run_id", "seq"])
    op.create_table(
        "models",
        sa.Column("seq", SEQ, autoincrement=True, nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("reconstruction_id", sa.String(), nullable=False),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["reconstruction_id"], ["reconstructions.id"], name="fk_models_reconstruction_id"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_models_run_id"),
        sa.PrimaryKeyConstraint("seq", name="pk_models"),
        sa.UniqueConstraint("id", name="uq_models_id"),
        sa.UniqueConstraint("name", "version", name="uq_models_name_version"),
    )
    op.create_index("ix_models_reconstruction_id", "models", ["reconstruction_id"])
    op.create_index("ix_models_run_id", "models", ["run_id"])
    op.create_table(
        "samples",
        sa.Column("seq", SEQ, autoincrement=True, nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("reconstruction_id", sa.String(), nullable=False),
        sa.Column("request", sa.JSON(), nullable=False),
        sa.Column("content_key", sa.String(), nullable=False),
        sa.Column("job_id", sa.String(), nullable=True),
        sa.Column("result", sa.JSON(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_samples_job_id"),
        sa.ForeignKeyConstraint(["reconstruction_id"], ["reconstructions.id"], name="fk_samples_reconstruction_id"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_samples_run_id"),
        sa.PrimaryKeyConstraint("seq", name="pk_samples"),
        sa.UniqueConstraint("content_key", name="uq_samples_content_key"),
        sa.UniqueConstraint("id", name="uq_samples_id"),
    )
    op.create_index("ix_samples_job_id", "samples", ["job_id"])
    op.create_index("ix_samples_reconstruction_id", "samples", ["reconstruction_id"])
    op.create_index("ix_samples_run_id_seq", "samples", ["run_id", "seq"])
    op.create_table(
        "study_points",
        sa.Column("study_id", sa.String(), nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("stage", sa.BigInteger(), nullable=False),
        sa.Column("point", sa.JSON(), nullable=False),
        sa.Column("reconstruction_id", sa.String(), nullable=True),
        sa.Column("guide_reconstruction_id", sa.String(), nullable=True),
        sa.Column("evaluation_id", sa.String(), nullable=True),
        sa.Column("error", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(["evaluation_id"], ["evaluations.id"], name="fk_study_points_evaluation_id"),
        sa.ForeignKeyConstraint(
            ["guide_reconstruction_id"], ["reconstructions.id"], name="fk_study_points_guide_reconstruction_id"
        ),
        sa.ForeignKeyConstraint(
            ["reconstruction_id"], ["reconstructions.id"], name="fk_study_points_reconstruction_id"
        ),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name="fk_study_points_study_id"),
        sa.PrimaryKeyConstraint("study_id", "number", name="pk_study_points"),
    )
    op.create_index("ix_study_points_evaluation_id", "study_points", ["evaluation_id"])
    with op.batch_alter_table("evaluations") as evaluations:
        for name in OF_EVALUATIONS:
            evaluations.add_column(sa.Column(name, sa.JSON(), nullable=True))
    with op.batch_alter_table("jobs") as jobs:
        jobs.add_column(sa.Column("parent_id", sa.String(), nullable=True))
        jobs.add_column(sa.Column("allowed_unfinished", sa.BigInteger(), nullable=False, server_default="0"))
        jobs.create_foreign_key("fk_jobs_parent_id", "jobs", ["parent_id"], ["id"])
    with op.batch_alter_table("jobs") as jobs:
        jobs.alter_column("allowed_unfinished", existing_type=sa.BigInteger(), server_default=None)
    op.create_index("ix_jobs_parent_id", "jobs", ["parent_id"])
    _allow_kinds(KINDS + NEW_KINDS)


def downgrade() -> None:
    """Studies, samples, models and the parts of evaluations are lost; their objects stay in the store."""
    for table in TABLES:
        op.drop_table(table)
    with op.batch_alter_table("evaluations") as evaluations:
        for name in OF_EVALUATIONS:
            evaluations.drop_column(name)
    op.drop_index("ix_jobs_parent_id", "jobs")
    with op.batch_alter_table("jobs") as jobs:
        jobs.drop_constraint("fk_jobs_parent_id", type_="foreignkey")
        jobs.drop_column("allowed_unfinished")
        jobs.drop_column("parent_id")
    _remove_new_kinds()
    _allow_kinds(KINDS)


def _remove_new_kinds() -> None:
    jobs = sa.table("jobs", sa.column("id"), sa.column("kind"))
    new = sa.select(jobs.c.id).where(jobs.c.kind.in_(NEW_KINDS)).scalar_subquery()
    deletions, attempts = sa.table("deletions", sa.column("job_id")), sa.table("attempts", sa.column("job_id"))
    op.execute(sa.update(deletions).where(deletions.c.job_id.in_(new)).values(job_id=None))
    op.execute(sa.delete(attempts).where(attempts.c.job_id.in_(new)))
    op.execute(sa.delete(jobs).where(jobs.c.kind.in_(NEW_KINDS)))


def _allow_kinds(kinds: list[str]) -> None:
    with op.batch_alter_table("jobs") as jobs:
        jobs.drop_constraint(op.f("ck_jobs_kind"), type_="check")
        jobs.create_check_constraint(op.f("ck_jobs_kind"), sa.column("kind").in_(kinds))
