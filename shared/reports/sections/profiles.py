"""What was averaged, and what was wanted (the paper's Figure 4)."""

from __future__ import annotations

from phema.shared.reports.findings import Findings
from phema.shared.reports.markup import drawn


def section(findings: Findings) -> str:
    plan = findings.inputs.plan
    if plan is None or not plan.outputs:
        return ""
    times = len({snapshot.num_images for snapshot in plan.snapshots})
    text = (
        "An average of length σ_rel weights the training history by a power of time. For each wanted length, snapshots "
        f"of {times} times are combined so that the weighting comes closest to the wanted one. A stored length is "
        "returned exactly. "
    )
    known = [output for output in plan.outputs if output.profile_error is not None]
    if known:
        worst = max(known, key=lambda output: output.profile_error or 0.0)
        text += (
            f"The largest error is at σ_rel {worst.label}: {100 * (worst.profile_error or 0.0):.2g}&nbsp;% of the "
            f"profile's norm, and an expected {100 * worst.predicted_error:.2g}&nbsp;% of the weights. "
        )
    text += "These errors are known before any weights are read."
    caption = (
        "How much each moment of training weighs in the average: wanted (filled) and reconstructed from the stored "
        "snapshots (line). The time axis is images seen."
    )
    return (
        f"<h2>What was averaged, and what was wanted</h2><p>{text}</p>"
        f"{drawn(plan.picture, 'Wanted and reconstructed profiles', caption)}"
    )
