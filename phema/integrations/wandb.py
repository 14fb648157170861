"""Weights & Biases: a run of phema logged as one run, with its configuration, curves, figures and lineage.

log_run("mine", project="my-project")
"""

from __future__ import annotations

import io
import json
from os import PathLike

from PIL import Image

from phema.client.client import Client
from phema.extras import missing_packages
from phema.integrations.run_summary import LoggedFigure, Scores, summarize
from phema.sdk.run_folders.stored_run import StoredRun

try:
    import wandb
except ModuleNotFoundError as error:
    raise missing_packages(error, "phema.integrations.wandb") or error from error

_COLUMNS = tuple(LoggedFigure.__dataclass_fields__)


def log_run(
    run: str | PathLike[str] | StoredRun,
    *,
    project: str | None = None,
    scores: Scores | None = None,
    client: Client | None = None,
) -> str:
    """Log a run of a service, or of a folder or bucket, and return the id of the run in Weights & Biases.

    The configuration is the run's. Curves over `images` are its history, and every figure of every average, such as
    `frechet_digits/sigma_rel_0.05`. The table `figures` has a row for each with its error, and the media have the
    picture of the figures over the EMA length. The artifact `NAME-lineage` of type `lineage` holds `lineage.json` and
    `figures.csv`. `scores` adds figures that you measured: by sigma_rel, then by name.

    The run that is open in this process is used if there is one, and stays open. Otherwise one is opened and finished.
    Its id is that of phema's run, so that a server continues the run that was logged before. `WANDB_MODE=offline`
    writes files for `wandb sync`. Raises phema.PhemaError and the errors of wandb.
    """
    summary = summarize(run, scores=scores, client=client)
    opened = wandb.run
    logged = opened or wandb.init(project=project, id=summary.run_id, name=summary.name, resume="allow")
    try:
        logged.config.update(dict(summary.config), allow_val_change=True)
        logged.define_metric("images")
        logged.define_metric("*", step_metric="images")
        for num_images, values in summary.history:
            logged.log({"images": num_images, **values})
        for figure in summary.figures:
            logged.log({"images": figure.num_images, figure.key: figure.value})
        rows = [[getattr(figure, column) for column in _COLUMNS] for figure in summary.figures]
        shown = {name: wandb.Image(Image.open(io.BytesIO(data))) for name, data in summary.pictures.items()}
        logged.log({"figures": wandb.Table(columns=list(_COLUMNS), data=rows), **shown})
        logged.summary["phema.run_id"] = summary.run_id
        artifact = wandb.Artifact(f"{summary.name}-lineage", type="lineage")
        with artifact.new_file("lineage.json") as file:
            file.write(json.dumps(dict(summary.lineage), indent=1))
        with artifact.new_file("figures.csv") as file:
            file.write(summary.figures_csv())
        logged.log_artifact(artifact)
        identity: str = logged.id
    finally:
        if opened is None:
            logged.finish()
    return identity
