"""Fréchet distance between drawn and training pictures in the features of fixed random convolutions."""

from __future__ import annotations

from phema.shared.metrics.moments import Moments, frechet_distance
from phema.shared.metrics.random_features import NUM_FEATURES, RandomConvFeatures
from phema.shared.metrics.scoring import ScoringInputs


def work(inputs: ScoringInputs) -> int:
    return inputs.num_samples * inputs.evaluations_per_sample


def compute(inputs: ScoringInputs) -> dict[str, float]:
    """Raises FrechetError for fewer than two samples or training pictures, or features that are not finite."""
    network, device = inputs.denoiser.config, inputs.device
    features = RandomConvFeatures(network.img_channels, network.img_resolution, device)
    drawn = Moments(NUM_FEATURES)
    for pictures in inputs.samples():
        drawn.add(features(pictures.to(device)).cpu().numpy())
    return {"frechet": frechet_distance(drawn, inputs.reference())}
