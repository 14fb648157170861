"""Did training stay healthy: magnitudes, loss, learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from phema.shared.reports.findings import Findings
from phema.shared.reports.inputs import ReportedRun
from phema.shared.reports.markup import drawn


def section(findings: Findings) -> str:
    trained = [run for run in findings.inputs.runs if run.history]
    parts = [_of_run(run, named=len(trained) > 1) for run in trained]
    return "".join(["<h2>Did training stay healthy?</h2>", *parts]) if parts else ""


def _of_run(run: ReportedRun, *, named: bool) -> str:
    from phema.shared.pictures.training_history import magnitudes, training

    parts = [f"<h3>{escape(run.name)}</h3>"] if named else []
    if any(name.count("/") == 3 for line in run.history for name in line.values):
        parts.append(f"<p>{_magnitudes_in_words(run)}</p>")
        parts.append(
            drawn(
                lambda theme, format: magnitudes(run.history, theme, format),
                "Magnitudes",
                "Magnitudes of activations and weights by block resolution, largest and mean feature.",
            )
        )
    if any(line.values.get("loss") is not None for line in run.history):
        parts.append(
            drawn(
                lambda theme, format: training(run.history, theme, format),
                "Loss and learning rate",
                "Uncertainty-weighted training loss and the learning rate.",
            )
        )
    return "".join(parts)


def _magnitudes_in_words(run: ReportedRun) -> str:
    weights, activations = _means(run, "weight"), _means(run, "activation")
    nonfinite = sum(line.values.get("grad_nonfinite") or 0 for line in run.history)
    lost = f"{nonfinite:,.0f} gradient values were not finite" if nonfinite else "every gradient was finite"
    if run.thinned:
        lost += f" at the {len(run.history):,} times that this report reads"
    text = ""
    if weights:
        text += f"Mean weight magnitudes stayed {_span([v for row in weights for v in row])}; "
    if activations:
        most = max(map(max, activations))
        text += f"mean activation magnitudes reached {most:.2f} at most and ended {_span(activations[-1])}; "
    return f"{text}{lost}."


def _span(values: Sequence[float]) -> str:
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return f"at {low}" if low == high else f"between {low} and {high}"


def _means(run: ReportedRun, kind: str) -> list[list[float]]:
    """Mean magnitudes of the blocks of the averaged network, [times][blocks], where they were measured."""
    rows = (
        [
            v
            for name, v in line.values.items()
            if name.startswith(f"{kind}/") and name.endswith("/mean") and v is not None
        ]
        for line in run.history
    )
    return [row for row in rows if row]
