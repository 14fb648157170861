"""The page of a report."""

from __future__ import annotations

from html import escape
from importlib.resources import files
from string import Template

from phema.shared.reports.findings import Findings
from phema.shared.reports.inputs import ReportInputs
from phema.shared.reports.markup import listed
from phema.shared.reports.sections import comparison, gallery, lengths, limits, overview, profiles, training

SECTIONS = (overview, comparison, lengths, gallery, profiles, training, limits)
"""In the order of the page."""


def report_page(inputs: ReportInputs) -> str:
    """HTML in one file. It contains no script and loads nothing, so that it can be opened or sent anywhere."""
    findings = Findings.of(inputs)
    template = Template(files("phema.shared.reports").joinpath("templates/report.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(listed([run.name for run in inputs.runs])),
        body="\n".join(part.section(findings) for part in SECTIONS),
    )
