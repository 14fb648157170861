"""How the pictures of an evaluation are cut into parts, and which parts are equal. Torch-free."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from phema.services.phema_worker.evaluation.tasks import Identities, Network
from phema.shared.catalog.content_keys import canonical
from phema.shared.recipes.evaluation_recipe import EvaluationRecipe

_SMALL_RESOLUTION = 16
"""Pictures up to this resolution are drawn so fast that the queue would take a tenth of the time of small parts."""
_FORMAT = 1
"""Raised when equal requests would draw other pictures or compute other features."""
_DRAWING = (
    *("num_steps", "sigma_min", "sigma_max", "rho", "guidance", "guidance_interval"),
    *("churn", "churn_min", "churn_max", "churn_noise", "seed", "keep_pictures"),
)
"""Fields of a recipe that decide its pictures, or what a part keeps of them."""


@dataclass(frozen=True)
class Part:
    """Pictures `first` to `first + count - 1` of a drawing."""

    first: int
    count: int
    grid: bool = False


def drawing_key(network: Network, extractors: Identities) -> str:
    """Equal for evaluations whose parts are interchangeable."""
    recipe = EvaluationRecipe.model_validate(network.recipe).model_dump(mode="json")
    content = {
        "format": _FORMAT,
        "weights": network.weights.sha256,
        "guide": None if network.guide is None else network.guide.sha256,
        "recipe": {name: recipe[name] for name in _DRAWING},
        "vae": network.config["dataset"].get("vae"),
        "extractors": extractors,
    }
    return hashlib.sha256(canonical(content).encode()).hexdigest()


def part_key(drawing: str, part: Part) -> str:
    """Content key of a part."""
    return f"part:{drawing}:{'grid' if part.grid else 'drawn'}:{part.first}:{part.count}"


def part_of_key(content_key: str) -> Part:
    """The part that `part_key` described."""
    *_, kind, first, count = content_key.split(":")
    return Part(int(first), int(count), grid=kind == "grid")


def part_size(resolution: int) -> int:
    """Most pictures of a part. It depends on nothing else, so that equal evaluations have equal parts.

    A killed process loses the work on one part: at most about two seconds of 8 x 8 pictures on a CPU core, and about
    a minute of 64 x 64 latents of the largest network on a GPU.
    """
    return 512 if resolution <= _SMALL_RESOLUTION else 128


def cut(num_samples: int, known: Iterable[Part], size: int) -> list[Part]:
    """Parts that cover pictures 0 to num_samples - 1, in order.

    `known` parts are used where they fit, so that an evaluation of more pictures draws only the new ones. Other parts
    end at multiples of `size`.
    """
    by_start: dict[int, list[int]] = {}
    for part in known:
        if not part.grid:
            by_start.setdefault(part.first, []).append(part.count)
    parts, first = [], 0
    while first < num_samples:
        fitting = [count for count in by_start.get(first, ()) if first + count <= num_samples]
        end = min((first // size + 1) * size, num_samples)
        count = max(fitting) if fitting else end - first
        parts.append(Part(first, count))
        first += count
    return parts


def grid_part(recipe: EvaluationRecipe) -> Part:
    return Part(0, recipe.grid**2, grid=True)
