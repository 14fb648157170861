"""The paper's analyses of finished evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from phema.client.resources.watched import identity_of
from phema.client.response_models import ResponseModel, Run
from phema.client.transport import Transport, route

if TYPE_CHECKING:
    import pandas


class AnalysisRow(ResponseModel):
    """One evaluation beside the best one."""

    run: str
    num_images: int
    label: str
    """A short text for the profile. Different profiles may have the same label."""
    sigma_rel: float | None = None
    guidance: float = 1.0
    guidance_low: float | None = None
    guidance_high: float | None = None
    guide_run: str | None = None
    guide_num_images: int | None = None
    guide_sigma_rel: float | None = None
    num_samples: int | None = None
    value: float
    standard_error: float | None = None
    difference: float
    """To the best row."""
    difference_error: float | None = None
    """Standard error of the difference."""
    best: bool
    tied: bool
    """The row cannot be told from the best one."""
    reconstruction_id: str
    evaluation_id: str


class Analysis(ResponseModel):
    """Finished evaluations that differ only in what is studied, and in the run."""

    analysis: str
    figure: str
    title: str
    """The figure in words."""
    better: str
    runs: list[str]
    recipe: dict[str, Any]
    """The fields of the sampling recipe that all rows share."""
    left_out: int
    """Number of finished evaluations of the runs that cannot be compared with these."""
    rows: list[AnalysisRow]

    def to_pandas(self) -> pandas.DataFrame:
        """The rows as a data frame. Needs pandas."""
        from phema.client.display.frames import frame

        return frame(self.rows)


class Analyses:
    """`client.analyses`. `name` is ema-length, tensors, training-time, guidance, autoguidance, interval or profiles.

    `profiles` shows one run; its picture and its CSV come from `file`.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def get(
        self,
        name: str,
        runs: str | Run | Sequence[str | Run],
        *,
        figure: str | None = None,
        num_images: int | None = None,
    ) -> Analysis:
        """The analysis of the runs' finished evaluations. Nothing is evaluated.

        `figure` None is the one by which evaluations are ranked. `num_images` None is the time with most results.
        Raises Conflict if no finished evaluation fits.
        """
        found = self._transport.get(route("analyses", name), run=_listed(runs), figure=figure, num_images=num_images)
        return Analysis.read(found)

    def profiles(self, run: str | Run, *, num_images: int | None = None) -> dict[str, Any]:
        """Wanted profiles and predicted errors of a run's finished reconstructions, as the service's JSON document."""
        found: dict[str, Any] = self._transport.get(
            route("analyses", "profiles"), run=identity_of(run), num_images=num_images
        )
        return found

    def file(
        self,
        name: str,
        runs: str | Run | Sequence[str | Run],
        format: Literal["json", "csv", "svg", "png"] = "png",
        *,
        figure: str | None = None,
        num_images: int | None = None,
        dark: bool = False,
    ) -> bytes:
        """The same as a file: its picture, or its rows as CSV. `dark` draws for a dark page."""
        params: dict[str, Any] = {"run": _listed(runs), "num_images": num_images, "format": format, "dark": dark}
        if name != "profiles":
            params["figure"] = figure
        return self._transport.content(route("analyses", name), **params)


def _listed(runs: str | Run | Sequence[str | Run]) -> list[str]:
    return [identity_of(run) for run in ([runs] if isinstance(runs, str | Run) else runs)]
