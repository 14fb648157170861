"""`dinov2`: the class token of DINOv2 ViT-L/14."""

from __future__ import annotations

from phema.shared.metrics.extractor import Extractor
from phema.shared.metrics.visible_pictures import not_visible

EXTRACTOR = Extractor(
    name="dinov2",
    num_features=1024,
    sees_latents=False,
    description="class token of DINOv2 ViT-L/14, in timm's definition",
    obstacle=not_visible,
    module="phema.shared.metrics.networks.dinov2_vit",
)
