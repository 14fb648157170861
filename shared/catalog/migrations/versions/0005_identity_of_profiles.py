"""The identity of a profile holds sigma_rel and not gamma, which follows from it with the rounding of a machine"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

Identity = Callable[[Any], Any]


def upgrade() -> None:
    _set_profile_keys(_without_gamma)
    _set_content_keys(old=_unchanged, new=_without_gamma)


def downgrade() -> None:
    _set_profile_keys(_unchanged)
    _set_content_keys(old=_without_gamma, new=_unchanged)


def _set_profile_keys(identity: Identity) -> None:
    """Of equal snapshots that two machines wrote with different gammas, the first gets the new key. The others keep
    theirs, because a key is unique at its time."""
    table = sa.table(
        "snapshots",
        *map(sa.column, ("id", "run_id", "num_images", "profile_key", "created_at")),
        sa.column("profile", sa.JSON()),
    )
    bind = op.get_bind()
    rows = bind.execute(sa.select(table).order_by(table.c.created_at, table.c.id)).mappings().all()
    taken = {(row["run_id"], row["num_images"], row["profile_key"]) for row in rows}
    changes = []
    for row in rows:
        key = _canonical(identity(row["profile"]))
        place = (row["run_id"], row["num_images"], key)
        if place not in taken:
            taken.add(place)
            changes.append({"row": row["id"], "value": key})
    _apply(table, "profile_key", changes)


def _set_content_keys(*, old: Identity, new: Identity) -> None:
    """Rows whose content key has another form, written by the first versions, keep it."""
    names = ("id", "run_id", "num_images", "dtype", "content_key")
    columns = (*map(sa.column, names), sa.column("profile", sa.JSON()), sa.column("plan", sa.JSON()))
    table = sa.table("reconstructions", *columns)
    bind = op.get_bind()
    taken = set(bind.scalars(sa.select(table.c.content_key)))
    changes = []
    for row in bind.execute(sa.select(table).order_by(table.c.id)).mappings():
        before, after = (_content_key(row, identity) for identity in (old, new))
        if row["content_key"] == before and after not in taken:
            taken.add(after)
            changes.append({"row": row["id"], "value": after})
    _apply(table, "content_key", changes)


def _apply(table: sa.TableClause, column: str, changes: list[dict[str, str]]) -> None:
    if changes:
        statement = sa.update(table).where(table.c.id == sa.bindparam("row")).values({column: sa.bindparam("value")})
        op.get_bind().execute(statement, changes)


def _content_key(row: sa.RowMapping, identity: Identity) -> str:
    plan = row["plan"]
    question = {
        "run_id": row["run_id"],
        "num_images": row["num_images"],
        "profile": identity(row["profile"]),
        "dtype": row["dtype"],
        "regularize": plan.get("regularize", True),
        "snapshots": [snapshot["sha256"] for snapshot in plan["snapshots"]],
        "coefficients": plan["coefficients"],
        "tensors": [[t["pattern"], t["coefficients"]] for t in plan.get("tensors", ())],
    }
    return f"reconstruction:{hashlib.sha256(_canonical(question).encode()).hexdigest()}"


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _unchanged(profile: Any) -> Any:
    return profile


def _without_gamma(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_gamma(entry) for name, entry in value.items() if name != "gamma"}
    return [_without_gamma(entry) for entry in value] if isinstance(value, list) else value
