"""`precision_recall_digits`: precision and recall in features of a classifier of digits."""

from phema.shared.metrics import metric_kinds

METRIC = metric_kinds.precision_recall(
    extractor="digits", space="features of a classifier of digits", rank=70, suffix="_digits"
)
