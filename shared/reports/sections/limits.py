"""What a report does not show, and how to go on."""

from __future__ import annotations

from html import escape

from phema.shared.reports.findings import Findings

PUBLISHED = ("fid", "fd_dinov2")
"""Figures that can be compared with published ones, if the pictures are those of the publication."""


def section(findings: Findings) -> str:
    items = _limits(findings)
    listed = "".join(f"<li>{item}</li>" for item in items)
    shown = f"<h2>What this report does not show</h2><ul>{listed}</ul>" if items else ""
    return shown + _go_on(findings)


def _limits(findings: Findings) -> list[str]:
    if findings.lengths is None:
        return []
    items = []
    if len(findings.by_run) > 1:
        items.append(
            "How much two trainings of one configuration differ. Each run was trained once with one seed, and the "
            "errors contain only the sampling."
        )
    else:
        items.append("How another training with another seed would score: the errors contain only the sampling.")
    if findings.figure not in PUBLISHED:
        items.append(
            "A figure that can be compared with publications. This one ranks networks of the same data; it is not FID."
        )
    if findings.by_run and any(row.compared.value.standard_error is None for row in findings.lengths.rows):
        items.append("Errors of all figures: some evaluations have none.")
    if all(point.profile.kind != "raw" for point in findings.inputs.points):
        items.append("How the last weights score without any average: these runs stored averages only.")
    if any(one.at_the_edge for one in findings.by_run):
        items.append("Where the optimum is for runs whose best length lies at the edge of what was tried.")
    if findings.lengths.selection.left_out:
        items.append(
            f"{findings.lengths.selection.left_out:,} finished evaluations of these runs with another recipe, time or "
            "profile. <code>phema evaluations</code> lists them."
        )
    items.append("Whether the same length is best for another network, data set or duration of training.")
    return items


def _go_on(findings: Findings) -> str:
    name = escape(findings.inputs.runs[0].name)
    if findings.by_run:
        name = escape(findings.winners[0][0].run.name)
    return (
        "<h2>Go on from here</h2><p>Runs stay stored. Ask for lengths that nobody has asked for yet, and load any of "
        "them:</p>"
        f"<pre>phema reconstruct {name} --sigma-rel 0.08,0.09,...,0.15\n"
        f"phema evaluate {name} --sigma-rel 0.08,0.09,...,0.15</pre>"
        f'<pre>import phema\n\n[weights] = phema.Client().reconstruct("{name}", 0.12)\n'
        "denoiser = phema.load(phema.Client().download(weights.id))\n"
        'phema.save_grid(phema.sample(denoiser, seeds=64), "drawn.png")</pre>'
    )
