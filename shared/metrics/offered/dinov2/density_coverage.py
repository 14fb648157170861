"""`density_coverage_dinov2`: density and coverage in DINOv2 ViT-L/14 features."""

from phema.shared.metrics import metric_kinds

METRIC = metric_kinds.density_coverage(extractor="dinov2", space="DINOv2 ViT-L/14 features", rank=82, suffix="_dinov2")
