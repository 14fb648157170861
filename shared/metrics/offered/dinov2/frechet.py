"""`fd_dinov2`: Fréchet distance in DINOv2 ViT-L/14 features."""

from phema.shared.metrics import metric_kinds

METRIC = metric_kinds.frechet("fd_dinov2", extractor="dinov2", space="DINOv2 ViT-L/14 features", rank=20)
