"""Pictures of plain data: both formats, both themes, and what they must not hide."""

from __future__ import annotations

import io
import threading
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image, ImageColor

from phema.shared.pictures.measured import Curve, CurvePoint, FigureName, Measured
from phema.shared.pictures.measured_curves import HorizontalAxis, in_words, measured_curves
from phema.shared.pictures.picture_grid import grid_png
from phema.shared.pictures.run_comparison import ComparedRow, run_comparison
from phema.shared.pictures.side_by_side import Captioned, side_by_side
from phema.shared.pictures.theme import DARK, LIGHT, Theme
from phema.shared.pictures.training_history import magnitudes, magnitudes_by_configuration, training


@dataclass(frozen=True)
class Line:
    num_images: int
    values: Mapping[str, float | None]


FIGURE = FigureName("Fréchet distance")
POINTS = [CurvePoint(width, Measured(1 + abs(width - 0.1), 0.02), width == 0.1) for width in (0.01, 0.05, 0.1, 0.25)]


def colours(png: bytes) -> set[tuple[int, ...]]:
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    return {colour for _, colour in picture.getcolors(2**24) or []}


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_each_run_and_its_last_weights_have_a_colour_of_their_own(theme: Theme) -> None:
    curves = [Curve("a", POINTS, Measured(1.3, 0.1), "a: last weights"), Curve("b", POINTS)]
    seen = colours(measured_curves(curves, FIGURE, marked=[0.05], theme=theme))
    for colour in (theme.blue, theme.orange, theme.background):
        assert ImageColor.getrgb(colour) in seen


def test_a_level_without_points_is_drawn() -> None:
    level = Curve("", [], Measured(1.0), "without guidance")
    seen = colours(measured_curves([level], FIGURE, HorizontalAxis("guidance weight")))
    assert ImageColor.getrgb(LIGHT.blue) in seen


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (0.12345, 0.0234, "0.123 ± 0.023"),
        (0.12345, 0.0067, "0.123 ± 0.007"),
        (123.456, 3.4, "123 ± 3"),
        (0.12345, None, "0.1235"),
        (2.0, 0.0, "2.000"),
    ],
)
def test_values_are_rounded_to_what_their_error_decides(value: float, error: float | None, words: str) -> None:
    assert in_words(Measured(value, error)) == words


def test_rows_of_a_comparison_make_it_taller() -> None:
    best = ComparedRow("a", Measured(1.0, 0.1), None)
    others = [ComparedRow(f"run {i}", Measured(1.5, 0.1), Measured(0.5, 0.05)) for i in range(4)]
    heights = [
        Image.open(io.BytesIO(run_comparison(rows, FIGURE))).height
        for rows in ([best], [best, others[0]], [best, *others])
    ]
    assert heights == sorted(set(heights))


def test_grids_side_by_side_keep_their_pixels() -> None:
    red = np.tile(np.array([1.0, -1.0, -1.0], np.float32).reshape(1, 3, 1, 1), (4, 1, 8, 8))
    seen = colours(side_by_side([Captioned("1 %", grid_png(red, 2)), Captioned("2 %", grid_png(-red, 2))]))
    assert {(255, 0, 0), (0, 255, 255)} <= seen


def test_threads_do_not_mix_their_colours() -> None:
    """Matplotlib's style is one for the whole process."""
    alone = {theme: measured_curves([Curve("a", POINTS)], FIGURE, theme=theme) for theme in (LIGHT, DARK)}
    drawn: list[tuple[Theme, bytes]] = []

    def draw(theme: Theme) -> None:
        drawn.append((theme, measured_curves([Curve("a", POINTS)], FIGURE, theme=theme)))

    threads = [threading.Thread(target=draw, args=(theme,)) for theme in (LIGHT, DARK) * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(drawn) == 6
    assert all(png == alone[theme] for theme, png in drawn)


def test_magnitudes_that_are_never_finite_leave_their_panel_empty() -> None:
    """A run that diverges before its first status."""
    names = [f"{kind}/enc/8/{statistic}" for kind in ("activation", "weight") for statistic in ("max", "mean")]
    lost: dict[str, float | None] = dict.fromkeys(names)
    history = [Line(640, lost | {"activation/enc/8/mean": 1.0, "loss": None}), Line(1280, lost)]
    seen = colours(magnitudes(history))
    assert ImageColor.getrgb(LIGHT.blue) in seen
    assert magnitudes_by_configuration({"A": history})
    assert training(history)
