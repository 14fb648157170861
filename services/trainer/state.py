"""All that changes while a run trains: weights, optimizer, averages and the clock."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from services.trainer.gradients import FlatGradients
from shared.edm2.ema import PowerFunctionEMA
from shared.edm2.networks import build_denoiser
from shared.recipes.config import RunConfig


class TrainingState:
    """A run at `num_images` images seen; freshly made, at 0, with weights drawn from the run's seed.

    Random numbers are no part of it: every picture and every iteration has a seed of its own (see
    `batches` and `step`).
    """

    def __init__(self, config: RunConfig, device: torch.device) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            denoiser = build_denoiser(config.network, precision=config.precision)
        self.denoiser = denoiser.to(device).train()
        self.gradients = FlatGradients(self.denoiser.parameters())
        self.optimizer = torch.optim.Adam(
            self.denoiser.parameters(),
            lr=0.0,  # set before each step
            betas=(config.adam_beta1, config.adam_beta2),
            eps=config.adam_eps,
            fused=True,
        )
        self.ema = PowerFunctionEMA(self.denoiser, config.ema_sigma_rels)
        self.num_images = 0

    @property
    def buffers(self) -> tuple[str, ...]:
        """Names of the network's tensors that are not learned, in the order of its state."""
        learned = {name for name, _ in self.denoiser.named_parameters()}
        return tuple(name for name in self.denoiser.state_dict() if name not in learned)

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers, strings, lists and dicts; no copies."""
        return {
            "num_images": self.num_images,
            "denoiser": dict(self.denoiser.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly from `state`. Raises RuntimeError or ValueError when it is another network's."""
        self.denoiser.load_state_dict(state["denoiser"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema.load_state_dict(state["ema"])
        self.num_images = int(state["num_images"])
