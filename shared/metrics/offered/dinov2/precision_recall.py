"""`precision_recall_dinov2`: precision and recall in DINOv2 ViT-L/14 features."""

from phema.shared.metrics import metric_kinds

METRIC = metric_kinds.precision_recall(extractor="dinov2", space="DINOv2 ViT-L/14 features", rank=72, suffix="_dinov2")
