"""`frechet_infinity`: Fréchet distance for infinitely many pictures in random features."""

from phema.shared.metrics import metric_kinds

METRIC = metric_kinds.frechet_infinity("frechet_infinity", extractor="random", space="random features", rank=53)
