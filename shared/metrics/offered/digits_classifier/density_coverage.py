"""`density_coverage_digits`: density and coverage in features of a classifier of digits."""

from phema.shared.metrics import metric_kinds

METRIC = metric_kinds.density_coverage(
    extractor="digits", space="features of a classifier of digits", rank=80, suffix="_digits"
)
