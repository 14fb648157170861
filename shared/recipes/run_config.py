"""The complete, frozen configuration of a run. Torch-free, so that the API can validate it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from phema.shared.edm2.networks.config import FrozenModel, NetworkConfig
from phema.shared.recipes.continuous_evaluation import ContinuousEvaluation

SIGMA_REL_LIMIT = 12**-0.5
"""Supremum of sigma_rel over power functions with gamma > 0 (about 0.2887)."""

MAX_IMAGES = 2**53 - 1
"""Largest count that JSON, floats and both databases represent exactly."""

Images = Annotated[int, Field(ge=1, le=MAX_IMAGES)]
SigmaRel = Annotated[float, Field(gt=0, lt=SIGMA_REL_LIMIT)]


class DatasetConfig(FrozenModel):
    name: Annotated[str, Field(min_length=1, max_length=100)] = "digits"
    """`digits`: the 1,797 UCI pictures of 8x8 handwritten digits that ship with scikit-learn. Any other name is the
    user's name for the pictures or latents at `path`."""
    path: Annotated[str, Field(min_length=1)] | None = None
    """Folder or zip file, or s3:// URL of either; None for the built-in digits."""
    held_out: Annotated[int, Field(ge=0)] = 297
    """Number of pictures kept from training, for the held-out denoising loss; 0 trains on all pictures."""
    max_images: Images | None = None
    """Train on at most so many pictures, the first of one fixed shuffle; None trains on all that are not held out."""
    flip: bool = False
    """Mirror training pictures left to right, each with probability 1/2 every time the run sees it."""
    labels: Literal["classes", "vectors"] = "classes"
    """`vectors` for a dataset whose dataset.json lists a vector of numbers for every picture."""
    vae: Annotated[str, Field(min_length=1)] | None = None
    """For latents: folder or hub id of the AutoencoderKL that decodes them to pictures."""

    @model_serializer(mode="wrap")
    def _omit_what_older_versions_lack(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the newer fields, document and hash are those of versions that did not have them."""
        document: dict[str, Any] = handler(self)
        newer = {"max_images": None, "flip": False, "labels": "classes"}
        return {name: value for name, value in document.items() if name not in newer or value != newer[name]}


def canonical_document(document: Mapping[str, Any]) -> str:
    """The configuration's JSON in one fixed form: keys in order, no spaces."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"))


def hash_of_document(document: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON of a configuration as it was recorded, whichever fields phema had then."""
    return hashlib.sha256(canonical_document(document).encode()).hexdigest()


def hash_without_length(document: Mapping[str, Any]) -> str:
    """`hash_of_document` without `total_images`: equal for configurations that train the same weights at any time.

    Nothing in a training depends on its length: neither the learning rate nor the order of the data.
    """
    return hash_of_document({name: value for name, value in document.items() if name != "total_images"})


class RunConfig(FrozenModel):
    """Everything that determines a run's weights. All `*_images` and `*_every` fields count images seen."""

    preset: str
    network: NetworkConfig
    dataset: DatasetConfig = DatasetConfig()
    total_images: Images
    batch_size: Images = 2048
    max_batch_per_worker: Images | None = None
    """Largest number of images that a worker processes at once; larger batches use gradient accumulation."""
    num_workers: Annotated[int, Field(ge=1)] = 1
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["float32", "float16", "bfloat16"] = "float32"
    p_mean: float = -0.4
    p_std: Annotated[float, Field(gt=0)] = 1.0
    learning_rate: Annotated[float, Field(gt=0)] = 0.01
    """alpha_ref of the schedule alpha_ref / sqrt(max(t / t_ref, 1))."""
    lr_decay_iterations: Annotated[float, Field(gt=0)] | None = 70000.0
    """t_ref, in iterations of `batch_size` images; None for a constant rate (configurations A-D)."""
    lr_rampup_images: Annotated[int, Field(ge=0, le=MAX_IMAGES)] = 10_000_000
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.99
    adam_eps: Annotated[float, Field(gt=0)] = 1e-8
    loss_scaling: Annotated[float, Field(gt=0)] = 1.0
    ema_sigma_rels: Annotated[tuple[SigmaRel, ...], Field(min_length=1)] = (0.05, 0.10)
    ema_half_life_images: Images | None = None
    """Half-life of an additional, traditional exponential EMA (configuration A); None for no such EMA."""
    ema_rampup_ratio: Annotated[float, Field(gt=0, lt=math.log(2))] | None = None
    """Limits the half-life of the traditional EMA to this share of the images seen; None for no limit."""
    snapshot_every: Images = 2**23
    snapshot_dtype: Literal["float16", "float32"] = "float16"
    checkpoint_every: Images = 2**27
    status_every: Images = 2**17
    magnitudes_every: Images = 2**17
    """Magnitudes are measured at the first status at or after each multiple of this number."""
    noise_level_bins: Annotated[int, Field(ge=0, le=64)] = 0
    """Number of bins of the loss by noise level, equally likely in training; 0 for no such history."""
    compile: bool = False
    """Compile the network with torch.compile: takes minutes at the start and makes steps on GPUs faster."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    evaluation: ContinuousEvaluation | None = None
    """Evaluate the run while it trains; None does not. Its stop rule may end the run, nothing else changes weights."""

    @model_serializer(mode="wrap")
    def _omit_what_older_versions_lack(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without a continuous evaluation, document and hash are those of versions that had none."""
        document: dict[str, Any] = handler(self)
        if self.evaluation is None:
            document.pop("evaluation", None)
        return document

    @field_validator("ema_sigma_rels")
    @classmethod
    def _distinct(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(values)) != len(values):
            raise ValueError(f"{list(values)} names a sigma_rel twice; each may be tracked once")
        return values

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        """Raises ValueError, which names everything that does not agree."""
        wrong = [*self._precision_and_averages(), *self._batches(), *self._stop_rule()]
        if wrong:
            raise ValueError("; ".join(wrong))
        return self

    def _precision_and_averages(self) -> Iterator[str]:
        if self.precision != "float32" and self.device == "cpu":
            yield f"precision {self.precision} needs a GPU and device is cpu; on a CPU compute in float32"
        if self.ema_rampup_ratio is not None and self.ema_half_life_images is None:
            yield f"ema_rampup_ratio {self.ema_rampup_ratio:g} has no meaning without ema_half_life_images; give both"

    def _batches(self) -> Iterator[str]:
        if self.batch_size % self.num_workers:
            yield (
                f"batch_size {self.batch_size} is not divisible by num_workers {self.num_workers}; "
                f"use a multiple of {self.num_workers}"
            )
        for field in ("total_images", "snapshot_every", "checkpoint_every", "status_every"):
            value = getattr(self, field)
            if value % self.batch_size:
                yield (
                    f"{field} {value} is not a multiple of batch_size {self.batch_size}; the nearest is "
                    f"{max(1, round(value / self.batch_size)) * self.batch_size}"
                )

    def _stop_rule(self) -> Iterator[str]:
        if self.evaluation is None or self.evaluation.stop_after_images is None:
            return
        between = self.evaluation.every_snapshots * self.snapshot_every
        if self.evaluation.stop_after_images < between:
            yield (
                f"evaluation.stop_after_images {self.evaluation.stop_after_images} must be at least {between}, the "
                "images between two evaluated times (every_snapshots times snapshot_every)"
            )

    @property
    def microbatch(self) -> int:
        """Images that a worker processes at once: the largest divisor of its share up to `max_batch_per_worker`."""
        share = self.batch_size // self.num_workers
        limit = min(self.max_batch_per_worker or share, share)
        return max(d for d in range(1, limit + 1) if share % d == 0)

    def canonical_json(self) -> str:
        return canonical_document(self.model_dump(mode="json"))

    @property
    def config_hash(self) -> str:
        """SHA-256 of the canonical JSON: equal for equal configurations."""
        return hash_of_document(self.model_dump(mode="json"))
