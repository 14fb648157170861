"""`autoguidance`: a figure over the guidance weight or the guide's EMA length, one curve per guide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from phema.shared.analyses.analysis import Analysis, figure_name, measured
from phema.shared.analyses.selection import Selection
from phema.shared.analyses.tables import Row

if TYPE_CHECKING:
    from phema.shared.pictures.theme import Format, Theme


def _draw(selection: Selection, rows: Sequence[Row], theme: Theme, format: Format) -> bytes:
    from phema.shared.pictures.measured import Curve, CurvePoint
    from phema.shared.pictures.measured_curves import SIGMA_REL, HorizontalAxis, measured_curves

    guided = [row for row in rows if row.point.guide is not None]
    unguided = next((row for row in rows if row.point.guide is None), None)
    over_weight = len({row.point.guidance for row in guided}) > 1
    axis = HorizontalAxis("guidance weight") if over_weight else HorizontalAxis(f"{SIGMA_REL.label} of guide", "share")
    by_label: dict[str, list[CurvePoint]] = {}
    for row in guided:
        guide = row.point.guide
        assert guide is not None, "guided"
        several = len(selection.runs) > 1
        place = f"{row.point.run}: " if several else ""
        label = guide.label if over_weight else f"{guide.run}, {guide.num_images:,} images"
        x = row.point.guidance if over_weight else guide.profile.sigma_rel or 0.0
        by_label.setdefault(f"{place}{label}", []).append(CurvePoint(x, measured(row), row.compared.tied))
    curves = [Curve(f"guide {label}", points) for label, points in by_label.items()]
    if unguided is not None:
        curves.append(Curve("", [], measured(unguided), "without guidance"))
    return measured_curves(curves, figure_name(selection), axis, theme=theme, format=format)


ANALYSIS = Analysis(
    name="autoguidance",
    description="A figure over the guidance weight or the guide's EMA length, one curve per guide.",
    axes=frozenset({"guidance", "guide"}),
    draw=_draw,
    wanted="evaluations with a guide",
)
