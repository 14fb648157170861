"""Forks: what a new run begins from, and which settings it may change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from phema.shared import catalog
from phema.shared.catalog import Transaction
from phema.shared.recipes.dotted_fields import dotted_fields
from phema.shared.recipes.run_config import RunConfig
from phema.shared.submissions.errors import InvalidFields, NotFinished
from phema.shared.submissions.evaluations import weights_of

_FREE_OF_NETWORK = ("network.dropout",)
"""Fields of the network that do not change its tensors or what they mean."""
_FIXED_BY_CHECKPOINT = ("ema_sigma_rels", "ema_half_life_images", "ema_rampup_ratio")
_MOST_NAMED = 5
"""Times of checkpoints that an error names."""


@dataclass(frozen=True)
class Origin:
    """The stored object from which a fork begins."""

    run: catalog.Run
    num_images: int
    """Images that the other run had seen."""
    document: dict[str, Any]
    """As `Run.parent`."""

    @property
    def continues(self) -> bool:
        """Whether the object is a checkpoint, so that clock, optimizer and averages continue."""
        return "checkpoint_id" in self.document

    @property
    def begins_at(self) -> int:
        """Images that the fork has seen when it begins."""
        return self.num_images if self.continues else 0

    @property
    def shown(self) -> str:
        what = "checkpoint" if self.continues else "reconstruction"
        return f"the {what} of run {self.run.name} at {self.num_images} images"


def origin_of(tx: Transaction, run: catalog.Run, num_images: int | None, reconstruction_id: str | None) -> Origin:
    """The object that a request names; without either, the latest checkpoint. Raises InvalidFields, NotFinished.

    Call with the run locked in the transaction that creates the fork: until the fork has a row, the checkpoint may go.
    """
    tx.jobs.refuse_to_be_deleted(run.id)
    if reconstruction_id is not None:
        row = weights_of(tx, "reconstruction_id", reconstruction_id)
        if row.run_id != run.id:
            raise InvalidFields.of(
                "reconstruction_id", f"reconstruction_id {row.id} belongs to run {row.run_id}, not to {run.name}"
            )
        found = {"reconstruction_id": row.id, "key": row.key, "size": row.size, "sha256": row.sha256}
        return Origin(run, row.num_images, {"run_id": run.id, "num_images": row.num_images, **found})
    if run.origin != "trained":
        raise InvalidFields.of(
            "reconstruction_id",
            f"reconstruction_id is missing; run {run.name} was not trained by phema and has no checkpoints",
        )
    stored = {row.num_images: row for row in tx.checkpoints.all_but_latest(run.id, 0)}
    if not stored:
        every = min(int(run.config["checkpoint_every"]), run.total_images)
        raise NotFinished(
            "num_images", f"run {run.name} has no checkpoint yet; the first is written after {every} images"
        )
    at = max(stored) if num_images is None else num_images
    if at not in stored:
        nearest = sorted(sorted(stored, key=lambda time: abs(time - at))[:_MOST_NAMED])
        raise InvalidFields.of(
            "num_images",
            f"num_images {at} has no checkpoint of run {run.name}; the nearest are at {', '.join(map(str, nearest))}; "
            "reconstruction_id begins from averaged weights at any time with snapshots",
        )
    checkpoint = stored[at]
    found = {
        "checkpoint_id": checkpoint.id,
        "key": checkpoint.key,
        "size": checkpoint.size,
        "sha256": checkpoint.sha256,
    }
    return Origin(run, at, {"run_id": run.id, "num_images": at, **found})


def check(config: RunConfig, origin: Origin) -> None:
    """Check what the fork changes. Raises InvalidFields, which names every wrong field."""
    problems = [*_fixed_fields(config, origin), *_clock(config, origin)]
    if problems:
        raise InvalidFields(problems)


def _fixed_fields(config: RunConfig, origin: Origin) -> Iterator[tuple[str, str]]:
    """The fields that must stay, because the stored tensors would not fit or would mean something else."""
    theirs = dotted_fields(RunConfig.model_validate(origin.run.config).model_dump(mode="json"))
    for name, value in dotted_fields(config.model_dump(mode="json")).items():
        of_network = name.startswith("network.") and name not in _FREE_OF_NETWORK
        if value != theirs.get(name) and (of_network or (origin.continues and name in _FIXED_BY_CHECKPOINT)):
            yield (
                f"config.{name}",
                f"config.{name} {value} must stay {theirs.get(name)}, as in {origin.shown}; leave it out",
            )


def _clock(config: RunConfig, origin: Origin) -> Iterator[tuple[str, str]]:
    begins = origin.begins_at
    if config.total_images <= begins:
        yield (
            "config.total_images",
            f"config.total_images {config.total_images} must be more than {begins}, the images that {origin.shown} has "
            "seen",
        )
    if begins % config.batch_size:
        yield (
            "config.batch_size",
            f"config.batch_size {config.batch_size} must divide {begins}, the images that {origin.shown} has seen",
        )
