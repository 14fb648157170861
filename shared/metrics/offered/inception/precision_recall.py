"""`precision_recall_inception`: precision and recall in Inception-v3 features."""

from phema.shared.metrics import metric_kinds

METRIC = metric_kinds.precision_recall(
    extractor="inception", space="Inception-v3 features", rank=71, suffix="_inception"
)
