"""`kernel_digits`: kernel distance in features of a classifier of digits."""

from phema.shared.metrics import metric_kinds

METRIC = metric_kinds.kernel("kernel_digits", extractor="digits", space="features of a classifier of digits", rank=60)
