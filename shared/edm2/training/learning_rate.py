"""Learning rate over training (Karras et al. 2024, Eq. 67 with the linear ramp-up of Table 6). Torch-free."""

from __future__ import annotations

import math


def learning_rate(
    num_images: float, *, batch_size: int, alpha_ref: float, t_ref: float | None, rampup_images: float = 0
) -> float:
    """alpha_ref / sqrt(max(t / t_ref, 1)) after a linear ramp-up over `rampup_images`.

    `num_images` counts the images seen before the step, so with a ramp-up the first step has rate 0. `t_ref` is in
    iterations of `batch_size` images; None keeps the rate constant (configurations A-D). `rampup_images` 0 means no
    ramp-up.
    """
    rate = alpha_ref if t_ref is None else alpha_ref / math.sqrt(max(num_images / (t_ref * batch_size), 1.0))
    return rate * min(num_images / rampup_images, 1.0) if rampup_images > 0 else rate
