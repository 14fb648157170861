"""`kd_dinov2`: kernel distance in DINOv2 ViT-L/14 features."""

from phema.shared.metrics import metric_kinds

METRIC = metric_kinds.kernel("kd_dinov2", extractor="dinov2", space="DINOv2 ViT-L/14 features", rank=62)
