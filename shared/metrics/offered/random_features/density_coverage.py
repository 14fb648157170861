"""`density_coverage`: density and coverage in random features."""

from phema.shared.metrics import metric_kinds

METRIC = metric_kinds.density_coverage(extractor="random", space="random features", rank=83)
