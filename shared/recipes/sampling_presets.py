"""Sampling presets: EMA length, guide and guidance of published Fréchet distances. Torch-free.

A preset only sets values. Whether a network reaches the published figure depends on its training.

Sources: Table 6 and Figures 16-22 of Karras et al. 2024 (EDM2), Table 1 of Karras et al. 2024 (autoguidance, arXiv
2406.02507), and Kynkäänniemi et al. 2024 (guidance intervals, arXiv 2404.07724).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from phema.shared.recipes.presets import PRESETS
from phema.shared.recipes.validation_errors import closest

EDM2 = "arXiv 2312.02696"
AUTOGUIDANCE = "arXiv 2406.02507"
INTERVAL = "arXiv 2404.07724"
FigureName = Literal["fid", "fd_dinov2"]
NUM_SAMPLES = 50_000
"""Number of pictures of every published figure."""


class UnknownSamplingPreset(ValueError):
    """The name is not one of `SAMPLING_PRESETS`."""


@dataclass(frozen=True)
class PublishedGuide:
    """The network that guides: a run of `preset` at `num_images`, averaged with `sigma_rel`."""

    preset: str
    sigma_rel: float
    num_images: int | None = None
    """Training time in images; None for the end of the training."""


@dataclass(frozen=True)
class SamplingPreset:
    """One published figure, and the settings that gave it."""

    name: str
    preset: str
    """Preset of the training."""
    figure: FigureName
    value: float
    """The published value."""
    sigma_rel: float
    source: str
    guidance: float = 1.0
    guide: PublishedGuide | None = None
    interval: tuple[float, float] | None = None
    """Noise levels between which the sampler is guided; None for all."""
    note: str = ""
    """What the sources leave open."""

    @property
    def recipe(self) -> dict[str, Any]:
        """Fields of an `EvaluationRecipe`, without the guide's id."""
        fields: dict[str, Any] = {"num_samples": NUM_SAMPLES, "num_steps": 32, "metrics": [self.figure]}
        if self.guide is not None:
            fields["guidance"] = self.guidance
        if self.interval is not None:
            fields["guidance_interval"] = list(self.interval)
        return fields

    def document(self) -> dict[str, Any]:
        """As JSON."""
        guide = self.guide
        return {
            "name": self.name,
            "preset": self.preset,
            "figure": self.figure,
            "value": self.value,
            "sigma_rel": self.sigma_rel,
            "guidance": self.guidance,
            "guide_preset": None if guide is None else guide.preset,
            "guide_sigma_rel": None if guide is None else guide.sigma_rel,
            "guide_num_images": None if guide is None else guide.num_images,
            "guidance_interval": None if self.interval is None else list(self.interval),
            "num_samples": NUM_SAMPLES,
            "source": self.source,
            "note": self.note,
        }


_FIGURES: tuple[tuple[FigureName, str], ...] = (("fid", "fid"), ("fd_dinov2", "dino"))

# Table 6 of the EDM2 paper: (value, guidance weight, sigma_rel of both networks) for FID and FD_DINOv2. The guide is an
# unconditional network of size XS with the sigma_rel of the main network.
_CLASSIFIER_FREE = {
    "xs": ((2.91, 1.4, 0.045), (79.94, 1.7, 0.150)),
    "s": ((2.23, 1.4, 0.025), (52.32, 1.9, 0.085)),
    "m": ((2.01, 1.2, 0.030), (41.98, 2.0, 0.015)),
    "l": ((1.88, 1.2, 0.015), (38.20, 1.7, 0.035)),
    "xl": ((1.85, 1.2, 0.020), (35.67, 1.7, 0.030)),
    "xxl": ((1.81, 1.2, 0.015), (33.09, 1.7, 0.015)),
}
# (value, weight, sigma_rel of both networks, interval): the guide is that of classifier-free guidance.
_INTERVALS = {
    "s": ((1.68, 2.1, 0.025, (0.28, 2.90)), (46.25, 3.2, 0.085, (0.60, 5.00))),
    "xxl": ((1.40, 2.0, 0.015, (0.19, 1.61)), (29.16, 2.9, 0.015, (0.60, 5.00))),
}
# Training preset: preset and time of the guide, then (value, weight, sigma_rel, sigma_rel of the guide).
_AUTOGUIDANCE = {
    "edm2-img512-s": ("edm2-img512-xs", 2**27, ((1.34, 2.10, 0.070, 0.125), (36.67, 2.45, 0.120, 0.165))),
    "edm2-img512-xxl": ("edm2-img512-m", 2**28, ((1.25, 2.05, 0.075, 0.155), (24.18, 2.30, 0.130, 0.205))),
    "edm2-img512-s-uncond": ("edm2-img512-xs-uncond", 2**27, ((3.86, 2.85, 0.070, 0.110), (90.39, 2.90, 0.090, 0.125))),
    "edm2-img64-s": ("edm2-img64-xs", 2**27, ((1.01, 1.70, 0.045, 0.110), (31.85, 2.20, 0.105, 0.175))),
}
_GUIDE_OF_64 = "The size of the unconditional guide at 64 x 64 is not known for certain; XS is that of the 512 set."


def _unguided() -> Iterator[SamplingPreset]:
    for name, training in PRESETS.items():
        for figure, short in _FIGURES:
            score = training.fid if figure == "fid" else training.fd_dinov2
            # Configuration A tracked a traditional EMA.
            if score is not None and training.network.config != "A":
                source = AUTOGUIDANCE if name.endswith("-uncond") or _is_of_the_other_paper(name, figure) else EDM2
                yield SamplingPreset(f"{name}-{short}", name, figure, score.value, score.sigma_rel, source)


def _is_of_the_other_paper(name: str, figure: FigureName) -> bool:
    """The EDM2 paper has no FD_DINOv2 at 64 x 64."""
    return name.startswith("edm2-img64") and figure == "fd_dinov2"


def _classifier_free() -> Iterator[SamplingPreset]:
    guide = "edm2-img512-xs-uncond"
    for size, found in _CLASSIFIER_FREE.items():
        for (figure, short), (value, weight, width) in zip(_FIGURES, found, strict=True):
            name = f"edm2-img512-{size}"
            guided = PublishedGuide(guide, width)
            yield SamplingPreset(f"{name}-cfg-{short}", name, figure, value, width, EDM2, weight, guided)
    for (figure, short), (value, weight, width) in zip(
        _FIGURES, ((1.48, 1.15, 0.030), (41.84, 1.85, 0.040)), strict=True
    ):
        name, guided = "edm2-img64-s", PublishedGuide("edm2-img64-xs-uncond", width)
        yield SamplingPreset(
            f"{name}-cfg-{short}", name, figure, value, width, AUTOGUIDANCE, weight, guided, note=_GUIDE_OF_64
        )
    for size, intervals in _INTERVALS.items():
        for (figure, short), (value, weight, width, interval) in zip(_FIGURES, intervals, strict=True):
            name = f"edm2-img512-{size}"
            guided = PublishedGuide(guide, width)
            yield SamplingPreset(
                f"{name}-interval-{short}", name, figure, value, width, INTERVAL, weight, guided, interval
            )


def _autoguidance() -> Iterator[SamplingPreset]:
    for name, (guide, num_images, found) in _AUTOGUIDANCE.items():
        for (figure, short), (value, weight, width, guide_width) in zip(_FIGURES, found, strict=True):
            guided = PublishedGuide(guide, guide_width, num_images)
            yield SamplingPreset(f"{name}-autog-{short}", name, figure, value, width, AUTOGUIDANCE, weight, guided)


SAMPLING_PRESETS: dict[str, SamplingPreset] = {
    preset.name: preset for family in (_unguided, _classifier_free, _autoguidance) for preset in family()
}
"""By name: `TRAINING[-cfg|-interval|-autog]-{fid,dino}`."""


def sampling_preset(name: str) -> SamplingPreset:
    """The sampling preset with this name. Raises UnknownSamplingPreset."""
    if name not in SAMPLING_PRESETS:
        hint = closest(name, list(SAMPLING_PRESETS))
        raise UnknownSamplingPreset(
            f"sampling preset {name!r} is unknown; {hint}`phema presets sampling` lists all {len(SAMPLING_PRESETS)}"
        )
    return SAMPLING_PRESETS[name]
