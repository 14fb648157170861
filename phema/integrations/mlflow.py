"""MLflow: a run of phema logged as one run, with its configuration, curves, figures and lineage.

log_run("mine")  # uses MLflow's own tracking URI and experiment
"""

from __future__ import annotations

import tempfile
from os import PathLike
from pathlib import Path

from phema.client.client import Client
from phema.extras import missing_packages
from phema.integrations.run_summary import RunSummary, Scores, summarize
from phema.sdk.run_folders.stored_run import StoredRun

try:
    import mlflow
    from mlflow.entities import Metric, Param
except ModuleNotFoundError as error:
    raise missing_packages(error, "phema.integrations.mlflow") or error from error

FOLDER = "phema"
"""Folder of the artifacts."""
_RUN_TAG, _LOGGED_TAG = "phema.run_id", "phema.logged_images"
_BATCH = 1000
"""Largest number of metrics that a server of MLflow accepts at once."""
_MOST_PARAMS = 100
_LONGEST_PARAM = 500


def log_run(run: str | PathLike[str] | StoredRun, *, scores: Scores | None = None, client: Client | None = None) -> str:
    """Log a run of a service, or of a folder or bucket, and return the id of MLflow's run.

    Parameters are the fields of the configuration. Metrics are the run's history, with the images seen as the step, and
    every figure of every average, such as `frechet_digits/sigma_rel_0.05`. Artifacts, in `phema/`: `lineage.json`,
    `figures.csv`, and the picture of the figures over the EMA length. `scores` adds figures that you measured: by
    sigma_rel, then by name.

    The active run of MLflow is used if there is one; else the run that logged this run of phema before, or a new one.
    Logging again adds only what is new. Raises phema.PhemaError and MLflow's errors.
    """
    summary = summarize(run, scores=scores, client=client)
    active = mlflow.active_run()
    identity: str = active.info.run_id if active is not None else _run_of(summary)
    _log(mlflow.MlflowClient(), identity, summary)
    if active is None:
        mlflow.MlflowClient().set_terminated(identity)
    return identity


def _run_of(summary: RunSummary) -> str:
    """MLflow's run of this run of phema in the current experiment; it is created if there is none."""
    api = mlflow.MlflowClient()
    with mlflow.start_run(run_name=summary.name) as made:
        experiment = made.info.experiment_id
        found = api.search_runs([experiment], f"tags.`{_RUN_TAG}` = '{summary.run_id}'", max_results=1)
    if found:
        api.delete_run(made.info.run_id)
    identity: str = found[0].info.run_id if found else made.info.run_id
    return identity


def _log(api: mlflow.MlflowClient, identity: str, summary: RunSummary) -> None:
    before = int(api.get_run(identity).data.tags.get(_LOGGED_TAG, -1))
    created = api.get_run(identity).info.start_time
    metrics = [
        Metric(name, value, created, num_images)
        for num_images, values in summary.history
        if num_images > before
        for name, value in values.items()
    ]
    known = api.get_run(identity).data.metrics
    metrics += [
        Metric(figure.key, figure.value, created, figure.num_images)
        for figure in summary.figures
        if known.get(figure.key) != figure.value
    ]
    params = [Param(name, str(value)[:_LONGEST_PARAM]) for name, value in summary.config.items()]
    for start in range(0, len(params), _MOST_PARAMS):
        api.log_batch(identity, params=params[start : start + _MOST_PARAMS])
    for start in range(0, len(metrics), _BATCH):
        api.log_batch(identity, metrics=metrics[start : start + _BATCH])
    api.set_tag(identity, _RUN_TAG, summary.run_id)
    api.set_tag(identity, "phema.config_hash", summary.config_hash)
    if summary.history:
        api.set_tag(identity, _LOGGED_TAG, str(summary.history[-1][0]))
    api.log_dict(identity, dict(summary.lineage), f"{FOLDER}/lineage.json")
    api.log_text(identity, summary.figures_csv(), f"{FOLDER}/figures.csv")
    with tempfile.TemporaryDirectory() as folder:
        for name, content in summary.pictures.items():
            path = Path(folder, name)
            path.write_bytes(content)
            api.log_artifact(identity, str(path), FOLDER)
