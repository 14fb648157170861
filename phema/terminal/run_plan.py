"""The plan of a run, as the command prints it."""

from __future__ import annotations

from phema.client.response_models import DatasetSummary, RunPlan
from phema.terminal.formats import size
from phema.terminal.screen import Screen

_NAMES_SHOWN = 5


def show_plan(view: Screen, plan: RunPlan) -> None:
    """Print what the run would be and cost."""
    config = plan.config
    rows = [
        ("preset", plan.preset),
        ("network", f"{plan.num_parameters:,} parameters, {plan.gflops:.3g} Gflops per evaluation"),
        ("training", f"{config['total_images']:,} images in batches of {config['batch_size']:,}"),
        ("memory", f"{size(plan.worker_bytes)} per worker, beside that of PyTorch"),
        ("snapshots", f"{plan.num_snapshots:,}, {size(plan.snapshot_bytes)} in all"),
        ("checkpoint", size(plan.checkpoint_bytes)),
        ("time", _time(plan)),
    ]
    if plan.dataset is not None:
        kept = config["dataset"]["held_out"]
        rows.insert(1, ("dataset", _dataset(plan.dataset)))
        rows.insert(2, ("held out", f"{kept:,} of {plan.dataset.num_pictures:,} pictures"))
    view.say(f"{plan.explanation[0].upper()}{plan.explanation[1:]}.\n")
    view.table(("PLAN", ""), rows)
    view.say("\nNothing was started.")


def _time(plan: RunPlan) -> str:
    if plan.hours is None:
        return "not known: this service has not trained on such a device yet"
    hours = f"{plan.hours:.1f} hours" if plan.hours >= 1 else f"{60 * plan.hours:.0f} minutes"
    return f"about {hours}; {plan.hours_basis}"


def _dataset(dataset: DatasetSummary) -> str:
    names = dataset.class_names
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    listed = f" ({', '.join(names[:_NAMES_SHOWN])}{more})" if names else ""
    labels = f"{dataset.num_classes} classes{listed}" if dataset.num_classes else "no classes"
    labels = f"label vectors of {dataset.vector_size} values" if dataset.vector_size else labels
    kind = dataset.encoding if dataset.encoding == "latents" else {1: "grey", 3: "RGB"}.get(dataset.channels, "")
    return f"{dataset.num_pictures:,} of {dataset.resolution}x{dataset.resolution} {kind}, {labels}"
