"""Combines the weights of a preview in memory and stores their pictures. Runs in the actor, beside its other work."""

from __future__ import annotations

import time

import torch

from phema.services.phema_worker.evaluation.loaded_networks import LoadedNetworks, on_device
from phema.services.phema_worker.previews.input_cache import InputCache
from phema.services.phema_worker.sampling.draw_sample import store_sample
from phema.services.phema_worker.task_outcomes import Impossible, Written
from phema.services.phema_worker.task_progress import TaskProgress
from phema.services.phema_worker.tasks import PreviewDone, PreviewTask
from phema.shared.datasets import OpenRemote
from phema.shared.edm2.networks.denoiser import Denoiser
from phema.shared.recipes.drawing_cost import drawing_gflops
from phema.shared.recipes.run_config import RunConfig
from phema.shared.recipes.sample_request import SampleRequest
from phema.shared.snapshots.combining.in_memory import combine_in_memory
from phema.shared.snapshots.combining.wanted_output import output_specs
from phema.shared.snapshots.errors import CorruptObject
from phema.shared.snapshots.files.network_loading import load_model
from phema.shared.snapshots.stores.interface import ObjectStore


class PreviewDrawer:
    """Keeps inputs and guides between previews. One thread uses it.

    `cache_bytes` bounds the inputs that are kept, `memory_bytes` the buffers of a combination.
    """

    def __init__(
        self,
        store: ObjectStore,
        device: torch.device,
        remote: OpenRemote | None,
        *,
        cache_bytes: int,
        memory_bytes: int,
    ) -> None:
        self._store, self._device, self._remote = store, device, remote
        self._inputs = InputCache(store, cache_bytes)
        self._guides = LoadedNetworks(store, device)
        self._memory_bytes = memory_bytes

    def draw(self, task: PreviewTask, watch: TaskProgress) -> PreviewDone:
        """Raises what `store_sample` raises, and Impossible for weights that cannot be combined."""
        start = time.perf_counter()
        watch.message = f"reading {len(task.inputs)} snapshots"
        bytes_read = self._inputs.load(task.inputs, watch.check)
        read = time.perf_counter()
        denoiser = self._denoiser(task, watch)
        watch.check()
        guide = self._guides.get(task.guide) if task.guide is not None else None
        request, config = SampleRequest.model_validate(task.request), RunConfig.model_validate(task.config)
        drawing = time.perf_counter()
        info = store_sample(self._store, task.key, request, denoiser, guide, config, watch, self._remote)
        end = time.perf_counter()
        return PreviewDone(
            (Written.of(info),),
            end - start,
            num_sampled=len(request.seeds),
            bytes_read=bytes_read,
            read_seconds=read - start,
            gflops=drawing_gflops(request, denoiser.config, guide.config if guide else None),
            draw_seconds=end - drawing,
        )

    def _denoiser(self, task: PreviewTask, watch: TaskProgress) -> Denoiser:
        """The network with the wanted average, in evaluation mode on the device."""
        watch.message = "combining snapshots"
        (spec,) = output_specs(self._inputs, task.inputs[-1], [task.weights])
        try:
            data = combine_in_memory(
                self._inputs, task.inputs, spec, memory_bytes=self._memory_bytes, check=watch.check
            )
        except CorruptObject:
            self._inputs.forget(task.inputs)
            raise
        except ValueError as error:
            raise Impossible(str(error)) from error
        return on_device(load_model(data), self._device, task.inputs[-1].key)
