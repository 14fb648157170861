"""Runs side by side: the best length of each, the difference with its error, and what differs between the runs."""

from __future__ import annotations

import json
from html import escape
from typing import Any

from phema.shared.analyses.analysis import figure_name
from phema.shared.metrics.figures import FigureValue
from phema.shared.recipes.dotted_fields import dotted_fields
from phema.shared.reports.findings import Findings
from phema.shared.reports.markup import drawn, table
from phema.shared.reports.sections.lengths import in_words, value_in_words

_NAMES_ONLY = ("preset",)
"""Fields of a configuration that have no effect on weights."""


def section(findings: Findings) -> str:
    if len(findings.inputs.runs) < 2:
        return ""
    parts = ["<h2>The runs side by side</h2>", f"<p>{_in_words(findings)}</p>"]
    if len(findings.by_run) > 1:
        parts.append(_picture(findings))
    return "".join([*parts, _differences(findings)])


def _in_words(findings: Findings) -> str:
    if len(findings.by_run) < 2:
        return "Fewer than two of the runs have evaluations that can be compared."
    (first, _), *others = findings.winners
    text = f"<strong>{escape(first.run.name)}</strong> scores best, {value_in_words(first.best)}. "
    for one, beside in others:
        gap = in_words(FigureValue(abs(beside.difference), beside.difference_error))
        share = abs(beside.difference) / abs(one.best.compared.value.value or 1.0)
        name = escape(one.run.name)
        if beside.tied:
            text += f"The best length of {name} cannot be told from it (difference {gap}). "
        elif beside.difference_error is None:
            text += f"The best length of {name} is worse by {gap}; the error of this difference is unknown. "
        else:
            text += f"The best length of {name} is worse by {gap}, {100 * share:.0f}&nbsp;% of its value. "
    constant = [one.run for one in findings.by_run if one.run.keeps_its_learning_rate]
    if constant and len(constant) < len(findings.by_run) and findings.winners[0][0].run in constant:
        text += (
            f"{escape(first.run.name)} never lowers its learning rate: the average, whose length was chosen after "
            "training, takes the place of the decay. "
        )
    return text


def _picture(findings: Findings) -> str:
    from phema.shared.pictures.measured import Measured
    from phema.shared.pictures.run_comparison import ComparedRow, run_comparison

    assert findings.lengths is not None, "there are rows"
    rows = []
    for one, beside in findings.winners:
        value = beside.value
        gap = None if beside.is_best else Measured(beside.difference, beside.difference_error)
        label = f"{one.run.name}, {100 * (one.best.point.sigma_rel or 0):.4g} %"
        rows.append(ComparedRow(label, Measured(value.value, value.standard_error), gap))
    name = figure_name(findings.lengths.selection)
    caption = (
        "The best length of each run. Thick bars are one standard error, thin ones two. The runs draw from the same "
        "noise, which the errors of differences take into account. They do not contain the spread between trainings."
    )
    return drawn(
        lambda theme, format: run_comparison(rows, name, theme=theme, format=format), "Comparison of runs", caption
    )


def _differences(findings: Findings) -> str:
    """A table of the configuration's fields that differ."""
    runs = findings.inputs.runs
    flat = [dotted_fields(run.config) for run in runs]
    fields = sorted({name for one in flat for name in one if name not in _NAMES_ONLY})
    differing = [name for name in fields if len({json.dumps(one.get(name)) for one in flat}) > 1]
    if not differing:
        return "<p>The configurations of the runs are equal.</p>"
    headings = ["what differs", *(escape(run.name) for run in runs)]
    rows = [[f"<code>{escape(name)}</code>", *(_cell(one.get(name)) for one in flat)] for name in differing]
    return table(headings, rows)


def _cell(value: Any) -> str:
    return escape("none" if value is None else value if isinstance(value, str) else json.dumps(value))
