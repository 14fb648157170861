"""`precision_recall`: precision and recall in random features."""

from phema.shared.metrics import metric_kinds

METRIC = metric_kinds.precision_recall(extractor="random", space="random features", rank=73)
