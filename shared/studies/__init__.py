"""Studies: many evaluations of one run. What they ask for (`sweep_spec`), their points, and which point is best.

Torch-free and without I/O. `shared.submissions.studies` makes rows and jobs of them, the worker's coordinator advances
them.
"""
