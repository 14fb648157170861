"""Profiles of every kind, probes, pins and retirement of snapshots, bases, external runs"""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

SEQ = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
KINDS = ("train", "reconstruct", "evaluate", "compact", "retain", "external")
FIELDS_OF_KIND = {"exponential": ("half_life_images", "rampup_ratio"), "power": ("sigma_rel", "gamma")}


def upgrade() -> None:
    _profiles_of_snapshots()
    _profiles_of_reconstructions()
    with op.batch_alter_table("runs") as runs:
        runs.add_column(sa.Column("origin", sa.String(), nullable=False, server_default="trained"))
    _kinds_of_jobs()
    op.create_table(
        "bases",
        sa.Column("seq", SEQ, autoincrement=True, nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("num_images", sa.BigInteger(), nullable=False),
        sa.Column("sigma_rel_min", sa.Double(), nullable=False),
        sa.Column("sigma_rel_max", sa.Double(), nullable=False),
        sa.Column("tolerance", sa.Double(), nullable=False),
        sa.Column("content_key", sa.String(), nullable=False),
        sa.Column("plan", sa.JSON(), nullable=False),
        sa.Column("job_id", sa.String(), nullable=True),
        sa.Column("vectors", sa.JSON(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_bases"),
        sa.UniqueConstraint("id", name="uq_bases_id"),
        sa.UniqueConstraint("content_key", name="uq_bases_content_key"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_bases_run_id"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_bases_job_id"),
    )
    op.create_index("ix_bases_run_id", "bases", ["run_id"])
    op.create_index("ix_bases_job_id", "bases", ["job_id"])


def _kinds_of_jobs() -> None:
    with op.batch_alter_table("jobs") as jobs:
        jobs.drop_constraint(op.f("ck_jobs_kind"), type_="check")
        jobs.create_check_constraint(op.f("ck_jobs_kind"), sa.column("kind").in_(KINDS))


def _profiles_of_snapshots() -> None:
    op.drop_index("uq_snapshots_exponential", "snapshots")
    with op.batch_alter_table("snapshots") as snapshots:
        snapshots.add_column(sa.Column("profile", sa.JSON(), nullable=True))
        snapshots.add_column(sa.Column("profile_key", sa.String(), nullable=True))
        snapshots.add_column(sa.Column("probe", sa.LargeBinary(), nullable=True))
        snapshots.add_column(sa.Column("pinned", sa.Boolean(), nullable=False, server_default=sa.false()))
        snapshots.add_column(sa.Column("retired_at", sa.Double(), nullable=True))
    bind = op.get_bind()
    table = _table("snapshots", "id", "profile_kind", "sigma_rel", "gamma", "half_life_images", "rampup_ratio")
    table.append_column(sa.Column("profile", sa.JSON()))
    table.append_column(sa.Column("profile_key", sa.String()))
    for row in bind.execute(sa.select(table)).mappings().all():
        profile = {"kind": row["profile_kind"]} | {
            name: row[name] for name in FIELDS_OF_KIND[row["profile_kind"]] if row[name] is not None
        }
        values = {"profile": profile, "profile_key": _canonical(profile)}
        bind.execute(sa.update(table).where(table.c.id == row["id"]).values(**values))
    with op.batch_alter_table("snapshots") as snapshots:
        snapshots.alter_column("profile", existing_type=sa.JSON(), nullable=False)
        snapshots.alter_column("profile_key", existing_type=sa.String(), nullable=False)
        snapshots.alter_column("pinned", existing_type=sa.Boolean(), server_default=None)
        snapshots.drop_constraint("uq_snapshots_run_id_num_images_profile_kind_sigma_rel", type_="unique")
        for column in ("profile_kind", "gamma", "half_life_images", "rampup_ratio"):
            snapshots.drop_column(column)
        snapshots.create_unique_constraint(
            "uq_snapshots_run_id_num_images_profile_key", ["run_id", "num_images", "profile_key"]
        )


def _profiles_of_reconstructions() -> None:
    """Plans name profiles and their errors as requests made from now on do; all were plain least squares."""
    with op.batch_alter_table("reconstructions") as reconstructions:
        reconstructions.add_column(sa.Column("profile", sa.JSON(), nullable=True))
        reconstructions.alter_column("sigma_rel", existing_type=sa.Double(), nullable=True)
    bind = op.get_bind()
    table = _table("reconstructions", "id", "sigma_rel", "gamma")
    for name in ("plan", "profile"):
        table.append_column(sa.Column(name, sa.JSON()))
    snapshots = _table("snapshots", "id", "dtype")
    snapshots.append_column(sa.Column("profile", sa.JSON()))
    known = {row["id"]: row for row in bind.execute(sa.select(snapshots)).mappings().all()}
    for row in bind.execute(sa.select(table)).mappings().all():
        plan: dict[str, Any] = dict(row["plan"])
        plan["snapshots"] = [
            {name: value for name, value in entry.items() if name != "sigma_rel"}
            | {"profile": known[entry["id"]]["profile"], "dtype": known[entry["id"]]["dtype"]}
            for entry in plan["snapshots"]
        ]
        plan = {"regularize": False} | plan | {"profile_error": plan["predicted_error"], "rounding_error": None}
        profile = {"kind": "power", "sigma_rel": row["sigma_rel"], "gamma": row["gamma"]}
        bind.execute(sa.update(table).where(table.c.id == row["id"]).values(plan=plan, profile=profile))
    with op.batch_alter_table("reconstructions") as reconstructions:
        reconstructions.alter_column("profile", existing_type=sa.JSON(), nullable=False)
        reconstructions.drop_column("gamma")


def _table(name: str, *columns: str) -> sa.Table:
    return sa.Table(name, sa.MetaData(), *[sa.Column(column) for column in columns])


def _canonical(profile: dict[str, Any]) -> str:
    return json.dumps(profile, sort_keys=True, separators=(",", ":"))
