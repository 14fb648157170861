"""`kid`: kernel distance in Inception-v3 features."""

from phema.shared.metrics import metric_kinds

METRIC = metric_kinds.kernel("kid", extractor="inception", space="Inception-v3 features", rank=61)
