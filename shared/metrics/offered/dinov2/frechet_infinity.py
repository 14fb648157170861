"""`fd_dinov2_infinity`: Fréchet distance for infinitely many pictures in DINOv2 ViT-L/14 features."""

from phema.shared.metrics import metric_kinds

METRIC = metric_kinds.frechet_infinity(
    "fd_dinov2_infinity", extractor="dinov2", space="DINOv2 ViT-L/14 features", rank=52
)
