"""Draws the pictures of a sample task and stores their file. Runs in the actor."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from phema.services.phema_worker.task_progress import TaskProgress
from phema.shared.datasets import OpenRemote, open_dataset
from phema.shared.datasets.label_vectors import vectors_of_seeds
from phema.shared.drawing.drawing import draw, num_evaluations
from phema.shared.drawing.picture_files import write_pictures
from phema.shared.edm2.networks.denoiser import Denoiser
from phema.shared.recipes.run_config import RunConfig
from phema.shared.recipes.sample_request import SampleRequest
from phema.shared.snapshots.stores.interface import ObjectInfo, ObjectStore


def store_sample(
    store: ObjectStore,
    key: str,
    request: SampleRequest,
    denoiser: Denoiser,
    guide: Denoiser | None,
    config: RunConfig,
    watch: TaskProgress,
    remote: OpenRemote | None = None,
) -> ObjectInfo:
    """Draw the pictures of a network that `config` trained into the object `key`.

    The dataset is opened only for a class that is given by name, and for label vectors; `remote` opens datasets behind
    S3. Raises UnknownClass, NotFinite, SamplerError, DatasetError, HubUnreachable (of the VAE), SnapshotError, and
    Cancelled at the next evaluation of a network.
    """
    watch.expect(num_evaluations(denoiser, guide, request, len(request.seeds)))
    names: tuple[str, ...] = ()
    if request.needs_names:
        watch.message = "reading the names of classes"
        names = open_dataset(config.dataset, remote=remote).info.class_names
    label: int | Literal["random"] | NDArray[np.float32] | None = request.label(config.network.label_dim, names)
    if label == "random" and config.dataset.labels == "vectors" and config.network.label_dim:
        watch.message = "reading label vectors"
        label = vectors_of_seeds(open_dataset(config.dataset, remote=remote), request.seeds)
    watch.message = "drawing"
    drawn = draw(denoiser, guide, request, label=label, vae=config.dataset.vae, on_evaluation=lambda: watch.advance(1))
    with store.writer(key) as writer:
        write_pictures(request, drawn, writer.write)
    return writer.info
