"""`held_out_loss`: denoising loss on pictures that were kept from training. It needs no sampling."""

from __future__ import annotations

from phema.shared.metrics.metric import Figure, Metric

NUM_LEVELS = 8


METRIC = Metric(
    name="held_out_loss",
    figures=(
        Figure("held_out_loss", "lower", "", "Weighted denoising loss on pictures that were kept from training"),
        *(
            Figure(f"held_out_loss_level_{level}", "lower", "", f"The same at noise level {level} of {NUM_LEVELS}")
            for level in range(1, NUM_LEVELS + 1)
        ),
    ),
    rank=40,
    needs=frozenset({"held_out"}),
    default_for=lambda run: True,
    from_network="phema.shared.metrics.held_out_loss",
    network_work=lambda held_out: held_out * NUM_LEVELS,
)
