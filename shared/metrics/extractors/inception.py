"""`inception`: Inception-v3 as the published Fréchet Inception distances use it."""

from __future__ import annotations

from phema.shared.metrics.extractor import Extractor
from phema.shared.metrics.visible_pictures import not_visible

EXTRACTOR = Extractor(
    name="inception",
    num_features=2048,
    sees_latents=False,
    description="Inception-v3, pooled features of its last layer, in torch-fidelity's definition",
    obstacle=not_visible,
    module="phema.shared.metrics.networks.inception_v3",
)
