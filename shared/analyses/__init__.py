"""The paper's analyses of finished evaluations: tables with errors, and pictures. Torch-free.

`selection.select` takes evaluations and keeps those that can be compared. `kinds.ANALYSES` lists the analyses by name.
"""
