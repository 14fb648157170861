"""`interval`: a figure over the noise levels at which the sampler is guided."""

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
    from phema.shared.pictures.measured_curves import HorizontalAxis, measured_curves

    limited = [(row, *row.point.interval) for row in rows if row.point.interval is not None]
    over_high = len({high for _, _, high in limited}) > 1
    axis = HorizontalAxis(f"{'highest' if over_high else 'lowest'} guided noise level σ")
    several = len({(row.point.guidance, row.point.run) for row, _, _ in limited}) > 1
    by_label: dict[str, list[CurvePoint]] = {}
    for row, low, high in limited:
        fixed = f"from σ {low:g}" if over_high else f"up to σ {high:g}"
        label = f"{row.point.run}, guidance {row.point.guidance:g}, {fixed}" if several else fixed
        point = CurvePoint(high if over_high else low, measured(row), row.compared.tied)
        by_label.setdefault(label, []).append(point)
    curves = [Curve(label, points) for label, points in by_label.items()]
    for row in rows:
        if row.point.interval is None:
            guided = f"guidance {row.point.guidance:g} at all levels"
            curves.append(Curve("", [], measured(row), guided if row.point.guidance != 1 else "without guidance"))
    return measured_curves(curves, figure_name(selection), axis, theme=theme, format=format)


ANALYSIS = Analysis(
    name="interval",
    description="A figure over the noise levels between which the sampler is guided.",
    axes=frozenset({"guidance", "guidance_interval"}),
    draw=_draw,
    wanted="evaluations with guidance",
)
