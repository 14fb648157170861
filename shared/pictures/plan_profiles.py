"""The profiles that a reconstruction plan wants, and what it reaches (the paper's Figure 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from matplotlib.ticker import FuncFormatter

from phema.shared.pictures.theme import LIGHT, WIDTH, Format, Theme, image, page, thousands
from phema.shared.snapshots.planning.profile_weighting import weighting
from phema.shared.snapshots.profile import Profile


class ProfileAtTime(Protocol):
    """A snapshot of a plan: the profile it stores, as JSON, and its time."""

    @property
    def profile(self) -> Mapping[str, Any]: ...
    @property
    def num_images(self) -> int: ...


class FittedProfile(Protocol):
    """An output of a plan: the wanted profile, as JSON, one coefficient per snapshot, and the misfit."""

    @property
    def profile(self) -> Mapping[str, Any]: ...
    @property
    def label(self) -> str: ...
    @property
    def sigma_rel(self) -> float | None: ...
    @property
    def coefficients(self) -> Sequence[float]: ...
    @property
    def profile_error(self) -> float | None: ...


class FittedPlan(Protocol):
    """A reconstruction plan, as the API and the client describe it."""

    @property
    def num_images(self) -> int: ...
    @property
    def snapshots(self) -> Sequence[ProfileAtTime]: ...
    @property
    def outputs(self) -> Sequence[FittedProfile]: ...


def plan_profiles(plan: FittedPlan, theme: Theme = LIGHT, format: Format = "png") -> bytes:
    """PNG or SVG: wanted (filled) and reconstructed (line) weighting of training history.

    One panel per output of the plan. The reconstructed profile is the sum of the stored profiles times the plan's
    coefficients.
    """
    stored = [weighting(Profile.model_validate(s.profile), s.num_images) for s in plan.snapshots]
    times = np.linspace(plan.num_images / 1000, plan.num_images, 1000)
    densities = np.stack([profile.density(times) for profile in stored])
    columns = min(3, len(plan.outputs))
    rows = -(-len(plan.outputs) // columns)
    with page(theme, (WIDTH, 1.7 * rows + 0.5), rows, columns, sharex=True) as (figure, panels):
        for axes, output in zip(panels, plan.outputs, strict=False):
            wanted = weighting(Profile.model_validate(output.profile), plan.num_images).density(times)
            found = np.asarray(output.coefficients) @ densities
            axes.fill_between(times, wanted, color=theme.faint, linewidth=0, label="wanted")
            axes.plot(times, found, color=theme.blue, linewidth=1.4, label="reconstructed")
            title = output.label if output.sigma_rel is None else f"σ_rel {100 * output.sigma_rel:g} %"
            axes.set_title(title, loc="left", fontsize=9, fontweight="bold")
            missed = output.profile_error or 0.0
            error = f"error {100 * missed:.2g} %" if missed > 1e-6 else "stored"
            axes.text(0.03, 0.9, error, transform=axes.transAxes, va="top", fontsize=8)
            axes.set_yticks([])
            axes.grid(False)
            axes.set_ylim(min(0.0, 1.05 * float(found.min())), 1.1 * float(max(wanted.max(), found.max())))
            axes.xaxis.set_major_formatter(FuncFormatter(thousands))
        for axes in panels[len(plan.outputs) :]:
            axes.set_axis_off()
        figure.supxlabel("images seen when the averaged weights were current", fontsize=9)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=2)
        return image(figure, format)
