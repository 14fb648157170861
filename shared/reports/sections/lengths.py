"""Which EMA length is best: curve with error bars, text, table."""

from __future__ import annotations

from html import escape

from phema.shared.analyses.analysis import figure_name, figure_title
from phema.shared.analyses.comparison import compare
from phema.shared.analyses.offered.ema_length import curves_by_run
from phema.shared.analyses.tables import Row
from phema.shared.metrics.figures import FigureValue
from phema.shared.metrics.registry import FIGURES
from phema.shared.reports.findings import Findings, RunRows
from phema.shared.reports.inputs import FoundOptimum
from phema.shared.reports.markup import drawn, listed, percent, table


def section(findings: Findings) -> str:
    if findings.lengths is None:
        return (
            "<h2>Which EMA length is best</h2><p>There are no evaluations yet. "
            "<code>phema evaluate RUN --sigma-rel 0.03,0.05,...,0.21</code> makes some.</p>"
        )
    parts = ["<h2>Which EMA length is best</h2>"]
    parts += [f"<p>{_in_words(findings, one)}</p>" for one in findings.by_run]
    parts.append(_curve(findings))
    parts += [f"<p>{_optimum(optimum)}</p>{_model(findings, optimum)}" for optimum in findings.inputs.optima]
    parts += [_table(findings, one) for one in findings.by_run]
    return "".join(parts)


def value_in_words(row: Row) -> str:
    """The value of the row and its standard error."""
    return in_words(row.compared.value)


def in_words(value: FigureValue) -> str:
    """A value and its standard error."""
    from phema.shared.pictures.measured import Measured
    from phema.shared.pictures.measured_curves import in_words as text

    return text(Measured(value.value, value.standard_error))


def _in_words(findings: Findings, one: RunRows) -> str:
    best = one.best
    subject = f"For <strong>{escape(one.run.name)}</strong>" if len(findings.by_run) > 1 else "On this grid"
    text = f"{subject} σ_rel {percent(best.point.sigma_rel or 0.0)} scores best ({value_in_words(best)}). "
    if one.tied:
        near = listed([percent(row.point.sigma_rel or 0.0) for row in one.tied])
        text += f"Within two standard errors of the difference, {near} cannot be told from it. "
    elif len(one.rows) > 1:
        known = all(beside.difference_error is not None for beside in one.compared if not beside.is_best)
        text += "All other lengths are worse by more than two standard errors. " if known else ""
    stored = best.point.sigma_rel in one.run.stored
    text += "It was stored during training. " if stored else "It was not stored during training. "
    if one.at_the_edge:
        text += "It lies at the edge of what was tried, so the optimum may lie beyond. "
    return text + _by_second(findings, one)


def _by_second(findings: Findings, one: RunRows) -> str:
    second = findings.second
    if second is None:
        return ""
    ranked = compare([row.point.figures[second] for row in one.rows], FIGURES[second].better)
    other = next(row for row, beside in zip(one.rows, ranked, strict=True) if beside.is_best)
    if other is one.best:
        return f"By <code>{escape(second)}</code>, the same length is best."
    where = percent(other.point.sigma_rel or 0.0)
    return f"By <code>{escape(second)}</code>, {where} is best: the figures measure different things."


def _optimum(found: FoundOptimum) -> str:
    edge = " It lies at the edge of the range that was searched." if found.at_the_edge else ""
    value = in_words(FigureValue(found.value, found.standard_error))
    return (
        f"A search on <strong>{escape(found.run)}</strong> after {found.num_images:,} images, with "
        f"{found.num_pictures:,} pictures, puts the optimum of <code>{escape(found.figure)}</code> at "
        f"<strong class='accent'>{percent(found.sigma_rel)}</strong>, between {percent(found.low)} and "
        f"{percent(found.high)}, with {value} for {found.num_samples:,} pictures.{edge}"
    )


def _model(findings: Findings, found: FoundOptimum) -> str:
    from phema.shared.pictures.measured import FigureName, Measured
    from phema.shared.pictures.search_model import search_model

    if not found.curve:
        return ""
    name = FigureName(figure_title(found.figure))
    answer, interval = Measured(found.value, found.standard_error), (found.low, found.high)
    caption = (
        "The search's model of the figure (line; band: one standard deviation), the answer from pictures of fresh "
        "seeds, and the interval in which the optimum lies with a probability of 95&nbsp;% (shaded). Other numbers of "
        "pictures and other seeds shift all values of a curve, so this one need not lie on the one above."
    )
    return drawn(
        lambda theme, format: search_model(
            found.curve, found.sigma_rel, interval, answer, name, theme=theme, format=format
        ),
        "Model of the search",
        caption,
    )


def _curve(findings: Findings) -> str:
    from phema.shared.pictures.measured_curves import measured_curves

    assert findings.lengths is not None, "checked by section"
    selection, rows = findings.lengths.selection, findings.lengths.rows
    curves, name = curves_by_run(selection, rows), figure_name(selection)
    stored = sorted({width for one in findings.by_run for width in one.run.stored})
    samples = selection.recipe.get("num_samples")
    caption = (
        f"{findings.title}, {f'{samples:,} pictures' if samples else 'pictures'} per length; {selection.better} is "
        "better. Bars are one standard error of each value. All lengths share their seeds, so differences between "
        "lengths are known better than the values: full circles are those that cannot be told from the best. "
        "Dotted: stored during training."
    )
    return drawn(
        lambda theme, format: measured_curves(curves, name, marked=stored, theme=theme, format=format),
        "Score over EMA length",
        caption,
    )


def _table(findings: Findings, one: RunRows) -> str:
    second = findings.second
    names = [f"<code>{escape(figure)}</code>" for figure in (findings.figure, second) if figure]
    headings = ["σ_rel", names[0], "difference to the best", *names[1:]]
    rows = []
    for row, beside in zip(one.rows, one.compared, strict=True):
        width = row.point.sigma_rel or 0.0
        mark = " (stored)" if width in one.run.stored else ""
        gap = FigureValue(beside.difference, beside.difference_error)
        cells = [f"{percent(width)}{mark}", value_in_words(row), "best" if beside.is_best else in_words(gap)]
        rows.append([*cells, *([in_words(row.point.figures[second])] if second else [])])
    name = f"<h3>{escape(one.run.name)}</h3>" if len(findings.by_run) > 1 else ""
    return name + table(headings, rows, [beside.is_best for beside in one.compared])
