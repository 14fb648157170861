"""Reports of runs: one HTML file that loads nothing from the network. Torch-free; it needs matplotlib.

`report.report_page` writes the page from `inputs.ReportInputs`.
"""
