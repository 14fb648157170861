"""`frechet_digits`: Fréchet distance in features of a classifier of digits."""

from phema.shared.metrics import metric_kinds

METRIC = metric_kinds.frechet(
    "frechet_digits",
    extractor="digits",
    space="features of a classifier of digits",
    rank=0,
    default_for=lambda run: run.dataset == "digits",
)
