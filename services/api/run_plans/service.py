"""From a request for a run to its complete, checked configuration. `POST /v1/runs` and web pages use it, too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from phema.services.api.http.dependencies import Services
from phema.services.api.http.problems import FieldError, Invalid, NameTaken
from phema.services.api.http.schema_base import MAX_COUNT
from phema.services.api.run_plans.duration import estimated_duration
from phema.services.api.run_plans.schemas import DatasetSummary, RunPlan, WantedRun
from phema.shared.catalog import Catalog, NotFound, Transaction
from phema.shared.datasets import DATASETS, DatasetError, DatasetInfo, check_choice, describe_dataset
from phema.shared.recipes.completion import complete
from phema.shared.recipes.presets import InvalidConfig, UnknownPreset, preset_named
from phema.shared.recipes.proposal import (
    PROPOSED,
    PROPOSED_BEFORE,
    Proposal,
    dataset_name,
    explanation,
    fitted,
    propose,
)
from phema.shared.recipes.run_config import DatasetConfig, RunConfig
from phema.shared.recipes.run_costs import run_costs
from phema.shared.settings import Settings
from phema.shared.submissions import continuous_evaluations
from phema.shared.submissions.errors import InvalidFields
from phema.shared.wiring import remote_from


@dataclass(frozen=True)
class PlannedRun:
    """A complete, checked configuration, and how it came about."""

    config: RunConfig
    explanation: str
    dataset: DatasetInfo | None
    """The dataset that was read; None if none was named."""
    path: str | None


def configure(wanted: WantedRun, services: Services, *, name: str | None = None) -> PlannedRun:
    """The complete configuration of a request, checked against its dataset; `name` is checked to be free.

    Reads the dataset if the request names one. Raises Invalid, which lists every mistake, NameTaken if nothing else is
    wrong, and SnapshotError when S3 cannot be read.
    """
    errors = _name_errors(name, services.catalog)
    taken = bool(errors)
    errors += _preset_errors(wanted)
    info, path = None, None if wanted.dataset in DATASETS else wanted.dataset
    if wanted.dataset is not None:
        try:
            info = _read(wanted.dataset, path, services.settings)
        except DatasetError as error:
            errors.append(FieldError("body", "dataset", f"dataset: {error}"))
    if len(errors) > taken:  # without preset or dataset, nothing else can be checked
        raise Invalid(errors)
    proposal = _proposal(wanted, info, path)
    config: RunConfig | None
    try:
        config = complete(proposal.preset, proposal.fields, proposal.recipes, wanted.config)
    except InvalidConfig as error:
        errors += [field_error(place, sentence) for place, sentence in error.problems]
        config = error.rest
    if config is not None:
        errors += misfits(config, info)
    if config is None or len(errors) > taken:
        raise Invalid(errors)
    if taken:
        raise NameTaken(errors[0].detail)
    return PlannedRun(config, explanation(config, info), info, path)


def plan(tx: Transaction, planned: PlannedRun) -> RunPlan:
    """The plan as JSON, with the hours that earlier runs suggest."""
    config, info = planned.config, planned.dataset
    cost, duration = run_costs(config), estimated_duration(tx, config)
    return RunPlan(
        preset=config.preset,
        explanation=planned.explanation,
        dataset=None if info is None else _summary(info, planned.path),
        config=config.model_dump(mode="json"),
        num_parameters=cost.num_parameters,
        gflops=cost.gflops,
        training_zettaflops=cost.training_zettaflops,
        worker_bytes=cost.worker_bytes,
        num_snapshots=cost.num_snapshots,
        snapshot_bytes=cost.snapshot_bytes,
        checkpoint_bytes=cost.checkpoint_bytes,
        hours=None if duration is None else duration.hours,
        hours_basis=None if duration is None else duration.basis,
    )


def _name_errors(name: str | None, catalog: Catalog) -> list[FieldError]:
    if name is None:
        return []
    with catalog.transaction(read_only=True) as tx:
        try:
            tx.runs.get(name)
        except NotFound:
            return []
    return [FieldError("body", "name", name_taken(name))]


def name_taken(name: str) -> str:
    return f"name {name!r} is taken by another run; choose one that is free"


def _preset_errors(wanted: WantedRun) -> list[FieldError]:
    found = []
    if "preset" in wanted.config:
        sentence = "config.preset is given twice; name the preset only in the field preset"
        found.append(FieldError("body", "config.preset", sentence))
    if wanted.preset is not None and wanted.preset != PROPOSED:
        try:
            preset_named(wanted.preset)
        except UnknownPreset as error:
            found.append(FieldError("body", "preset", str(error)))
    elif wanted.dataset is None and wanted.preset is None:
        sentence = "preset is missing; name a preset, or a dataset for which a network is proposed"
        found.append(FieldError("body", "preset", sentence))
    if wanted.held_out is not None and wanted.dataset is None:
        sentence = "held_out is a share of dataset, which is missing; give dataset, or config.dataset.held_out"
        found.append(FieldError("body", "held_out", sentence))
    return found


def _read(dataset: str, path: str | None, settings: Settings) -> DatasetInfo:
    """What the dataset holds; up to 256 of its pictures are decoded. Raises DatasetError, SnapshotError."""
    if path is None:
        return DATASETS[dataset]
    check_choice(DatasetConfig(name="dataset", path=path))
    return describe_dataset(path, dataset_name(path), remote=remote_from(settings))


def _proposal(wanted: WantedRun, info: DatasetInfo | None, path: str | None) -> Proposal:
    if info is None and wanted.preset == PROPOSED:
        return PROPOSED_BEFORE
    if info is None:
        chosen = preset_named(str(wanted.preset))
        return Proposal(chosen.name, chosen.fields, chosen.recipes)
    if wanted.preset in (None, PROPOSED):
        return propose(info, path, wanted.held_out)
    return fitted(str(wanted.preset), info, path, wanted.held_out)


def misfits(config: RunConfig, info: DatasetInfo | None) -> list[FieldError]:
    """What is wrong with a configuration that is valid by itself."""
    found = list(_large_counts(config.model_dump(mode="json")))
    try:
        check_choice(config.dataset)
        known = DATASETS.get(config.dataset.name, info)
        if known is not None:
            problems = [*known.choice_problems(config.dataset), *known.network_problems(config.network)]
            found += [FieldError("body", f"config.{p.field}", f"config.{p.sentence}") for p in problems]
    except DatasetError as error:
        found.append(FieldError("body", "config.dataset", f"config.{error}"))
    try:
        continuous_evaluations.check(config)
    except InvalidFields as error:
        found += [FieldError("body", field, sentence) for field, sentence in error.problems]
    return found


def _summary(info: DatasetInfo, path: str | None) -> DatasetSummary:
    return DatasetSummary(
        path=path,
        num_pictures=info.num_pictures,
        resolution=info.resolution,
        channels=info.channels,
        encoding=info.encoding,
        num_classes=info.num_classes,
        class_names=list(info.class_names),
        vector_size=info.vector_size,
    )


def field_error(path: str, sentence: str) -> FieldError:
    field = f"config.{path}" if path else "config"
    return FieldError("body", field, f"{field} {sentence}" if path else f"config: {sentence}")


def _large_counts(config: Any, path: str = "config") -> Iterator[FieldError]:
    """Integers that a database or a float cannot represent exactly."""
    if isinstance(config, Mapping):
        for name, value in config.items():
            yield from _large_counts(value, f"{path}.{name}")
    elif isinstance(config, int) and config > MAX_COUNT:
        yield FieldError("body", path, f"{path} {config} must be at most {MAX_COUNT}")
