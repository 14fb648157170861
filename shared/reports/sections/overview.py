"""The head of a report: what was found, and the facts of the runs."""

from __future__ import annotations

from html import escape

import numpy as np
from pydantic import ValidationError

from phema.shared.edm2.networks.config import NetworkConfig
from phema.shared.edm2.networks.costs import costs
from phema.shared.reports.findings import Findings
from phema.shared.reports.inputs import ReportedRun
from phema.shared.reports.markup import SPACE, grid, listed, percent
from phema.shared.reports.sections.lengths import value_in_words


def section(findings: Findings) -> str:
    return f"<p class='lead'>{_summary(findings)}</p>{_facts(findings)}{_drawn(findings)}"


def _summary(findings: Findings) -> str:
    runs = findings.inputs.runs
    names = listed([f"<strong>{escape(run.name)}</strong>" for run in runs])
    stored = listed([percent(width) for width in sorted({width for run in runs for width in run.stored})])
    text = f"While {names} trained, only averages of σ_rel {stored} were stored. " if stored else f"Report of {names}. "
    if not findings.by_run:
        return text + "No length has been evaluated yet."
    lengths = {row.point.sigma_rel for one in findings.by_run for row in one.rows}
    best, _ = findings.winners[0]
    where = percent(best.best.point.sigma_rel or 0.0)
    text += f"Afterwards {len(lengths)} lengths were reconstructed from those snapshots and compared: "
    text += f"<strong class='accent'>{where}</strong> "
    text += f"of {escape(best.run.name)} scores best" if len(findings.by_run) > 1 else "scores best"
    return f"{text}. {findings.title}: {value_in_words(best.best)}."


def _facts(findings: Findings) -> str:
    run = findings.winners[0][0].run if findings.by_run else findings.inputs.runs[0]
    speeds = [line.values.get("images_per_second") for line in run.history]
    known = [speed for speed in speeds if speed is not None]
    facts = {"Parameters": _parameters(run), "Images seen": f"{run.num_images:,}"}
    if known:
        facts["Images per second"] = f"{float(np.median(known)):,.0f}"
    if findings.by_run:
        best = findings.winners[0][0].best
        facts["Best σ_rel"] = percent(best.point.sigma_rel or 0.0)
        facts["Its score"] = value_in_words(best)
        facts["Pictures per length"] = f"{best.point.recipe.get('num_samples', 0):,}"
    return f"<dl class='facts'>{''.join(f'<div><dt>{k}</dt><dd>{v}</dd></div>' for k, v in facts.items())}</dl>"


def _parameters(run: ReportedRun) -> str:
    """Number of the network's parameters; a dash for networks of other training loops."""
    try:
        return f"{costs(NetworkConfig.model_validate(dict(run.network))).num_parameters:,}"
    except ValidationError:
        return "–"


def _drawn(findings: Findings) -> str:
    """Drawn pictures of the best length beside real ones."""
    if not findings.by_run:
        return ""
    best = findings.winners[0][0].best
    png = findings.inputs.grid_of(best.point)
    if png is None:
        return ""
    steps = best.point.recipe.get("num_steps")
    guided = "no guidance" if best.point.guidance == 1 else f"guidance {best.point.guidance:g}"
    caption = f"Drawn at σ_rel {percent(best.point.sigma_rel or 0.0)}, {steps} sampler steps, {guided}."
    rows = "Each row is one class." if findings.inputs.runs[0].network.get("label_dim") else ""
    drawn = grid(png, "Drawn pictures", caption)
    if findings.inputs.real is None:
        return f"<h2>What the network draws</h2><p>Pictures of the length that scored best. {rows}</p>{drawn}"
    real = grid(findings.inputs.real, "Real pictures", "Real: from the training set.")
    return (
        "<h2>What the network draws</h2><p>On the left, real pictures from the training set; on the right, pictures "
        f"that the network drew from noise, with the length that scored best.{SPACE}{rows}</p>"
        f"<div class='pair'>{real}{drawn}</div>"
    )
