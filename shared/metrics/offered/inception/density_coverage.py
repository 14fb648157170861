"""`density_coverage_inception`: density and coverage in Inception-v3 features."""

from phema.shared.metrics import metric_kinds

METRIC = metric_kinds.density_coverage(
    extractor="inception", space="Inception-v3 features", rank=81, suffix="_inception"
)
