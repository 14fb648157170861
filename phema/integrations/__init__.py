"""phema in the libraries people train with: one module per library, each importing only its own.

`lightning`, `transformers` and `accelerate` track averages while those libraries train, and write them as snapshots of
a run; `tracked_averages` is what they share. `diffusers` imports the averages that diffusers keeps, and writes
pipelines. `mlflow` and `wandb` log the results of a run, which `run_summary` gathers. A module whose library is not
installed raises phema.errors.MissingPackages when it is imported.
"""
