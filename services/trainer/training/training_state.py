"""Everything that changes while a run trains: weights, optimizer, averages and the clock."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from phema.services.trainer.training.flat_gradients import FlatGradients
from phema.services.trainer.training.tracked_averages import tracked_profiles
from phema.shared.datasets import DatasetError
from phema.shared.edm2.averaging.ema import PowerFunctionEMA, TraditionalEMA
from phema.shared.edm2.device import memory_format
from phema.shared.edm2.networks.building import build_denoiser
from phema.shared.edm2.training.loss import denoising_loss
from phema.shared.recipes.run_config import RunConfig
from phema.shared.snapshots.profile import Profile


class TrainingState:
    """The state of a run after `num_images` images. A new one is at 0, with weights drawn from the run's seed.

    It holds no random number generators, because every picture and every iteration has its own seed (see `batches`
    and `step`).
    """

    def __init__(
        self,
        config: RunConfig,
        device: torch.device,
        format: torch.memory_format | None = None,
        *,
        dataset: str = "",
    ) -> None:
        """`format` is the memory format of convolution weights; None selects the one that suits the device.

        `dataset` is the fingerprint of the dataset that the run trains on.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            denoiser = build_denoiser(config.network, precision=config.precision)
        format = memory_format(device) if format is None else format
        self.denoiser = denoiser.to(device=device, memory_format=format).train()  # type: ignore[call-overload]
        self.loss = torch.compile(denoising_loss, dynamic=False) if config.compile else denoising_loss
        """The loss of a part of a batch. Compiled instead of the module, so that hooks on the network still work."""
        self.gradients = FlatGradients(self.denoiser.parameters())
        self.optimizer = torch.optim.Adam(
            self.denoiser.parameters(),
            lr=0.0,  # set before each step
            betas=(config.adam_beta1, config.adam_beta2),
            eps=config.adam_eps,
            fused=True,
        )
        self._config = config
        self._begin_averages()
        self._profiles = tracked_profiles(config)
        self.num_images = 0
        self.dataset = dataset

    def _begin_averages(self) -> None:
        """Averages that hold the present weights."""
        config = self._config
        self.ema = PowerFunctionEMA(self.denoiser, config.ema_sigma_rels)
        self.traditional_ema = None
        if config.ema_half_life_images is not None:
            self.traditional_ema = TraditionalEMA(self.denoiser, config.ema_half_life_images, config.ema_rampup_ratio)

    def begin_with(self, weights: Mapping[str, Tensor]) -> None:
        """Begin with these weights, in any dtype, instead of random ones. The averages begin with them too.

        Raises RuntimeError when they are of another network.
        """
        self.denoiser.load_state_dict(weights)
        self._begin_averages()

    @property
    def buffers(self) -> tuple[str, ...]:
        """Names of the network's tensors that are not parameters, in the order of its state dict."""
        learned = {name for name, _ in self.denoiser.named_parameters()}
        return tuple(name for name in self.denoiser.state_dict() if name not in learned)

    def update_averages(self, delta_images: int) -> None:
        """Update every average with the current weights, after a step of `delta_images` that ended at `num_images`."""
        self.ema.update(self.num_images, delta_images)
        if self.traditional_ema is not None:
            self.traditional_ema.update(self.num_images, delta_images)

    def averages(self) -> list[tuple[Profile, dict[str, Tensor]]]:
        """(profile, state dict) of every average. The tensors are not copies and change with the next update."""
        tensors = [self.ema.tensors(index) for index in range(len(self.ema.sigma_rels))]
        if self.traditional_ema is not None:
            tensors.append(self.traditional_ema.tensors())
        return list(zip(self._profiles, tensors, strict=True))

    def state_dict(self) -> dict[str, Any]:
        """The state as tensors, numbers, strings, lists and dicts. The tensors are not copies."""
        state = {
            "num_images": self.num_images,
            "dataset": self.dataset,
            "denoiser": dict(self.denoiser.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict(),
        }
        if self.traditional_ema is not None:
            state["traditional_ema"] = self.traditional_ema.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly from `state`.

        Raises RuntimeError or ValueError when `state` is of another network, DatasetError when it was trained on
        another dataset.
        """
        if state.get("dataset", self.dataset) != self.dataset:
            raise DatasetError(
                f"the run's dataset has changed since image {state['num_images']}: names, contents or labels of its "
                "files are others; put the old files back, or start a new run"
            )
        self.denoiser.load_state_dict(state["denoiser"])
        self.optimizer.load_state_dict(state["optimizer"])
        # The checkpoint of another run, from which a fork continues, may have other settings.
        for group in self.optimizer.param_groups:
            group.update(betas=(self._config.adam_beta1, self._config.adam_beta2), eps=self._config.adam_eps)
        # Moments saved on another kind of device may have another memory format than the parameters here.
        for parameter, moments in self.optimizer.state.items():
            for name, value in moments.items():
                # Copies in any case: the tensors of `state` may be mapped from a file.
                same = value.shape == parameter.shape
                moments[name] = torch.empty_like(parameter).copy_(value) if same else value.clone()
        self.ema.load_state_dict(state["ema"])
        if self.traditional_ema is not None:
            self.traditional_ema.load_state_dict(state["traditional_ema"])
        self.num_images = int(state["num_images"])
