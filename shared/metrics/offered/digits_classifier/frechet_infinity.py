"""`frechet_infinity_digits`: Fréchet distance for infinitely many pictures in features of a classifier of digits."""

from phema.shared.metrics import metric_kinds

METRIC = metric_kinds.frechet_infinity(
    "frechet_infinity_digits", extractor="digits", space="features of a classifier of digits", rank=50
)
