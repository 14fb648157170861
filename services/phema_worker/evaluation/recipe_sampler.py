"""Draws pictures from a network, and its guide, as an evaluation recipe says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from phema.services.phema_worker.task_progress import TaskProgress
from phema.shared.drawing.drawing import drawn_batches, num_evaluations
from phema.shared.edm2.networks.denoiser import Denoiser
from phema.shared.edm2.sampling.sampler import Labels
from phema.shared.recipes.evaluation_recipe import EvaluationRecipe


@dataclass(frozen=True)
class RecipeSampler:
    """A network, its guide and the recipe by which they are sampled."""

    denoiser: Denoiser
    guide: Denoiser | None
    recipe: EvaluationRecipe
    watch: TaskProgress

    def draw(self, seeds: Sequence[int], class_labels: Labels) -> Iterator[Tensor]:
        """Draw pictures in batches, float32 [n, C, H, W] on the CPU. Picture i depends on seeds[i] and its class only.

        Counts the evaluations of networks. Raises NotFinite, SamplerError (the guide does not fit), and Cancelled at
        the next evaluation.
        """
        self.watch.expect(num_evaluations(self.denoiser, self.guide, self.recipe, len(seeds)))
        drawn = drawn_batches(
            self.denoiser, self.guide, self.recipe, seeds, class_labels, on_evaluation=lambda: self.watch.advance(1)
        )
        for pictures in drawn:
            self.watch.check()  # what follows may be long, and need not evaluate a network
            yield pictures

    @property
    def device(self) -> torch.device:
        return next(self.denoiser.parameters()).device
