"""`frechet`: Fréchet distance in random features."""

from phema.shared.metrics import metric_kinds

METRIC = metric_kinds.frechet(
    "frechet", extractor="random", space="random features", rank=30, full_rank=False, default_for=lambda run: True
)
