"""`kernel`: kernel distance in random features."""

from phema.shared.metrics import metric_kinds

METRIC = metric_kinds.kernel("kernel", extractor="random", space="random features", rank=63)
