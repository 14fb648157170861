"""`fid_infinity`: Fréchet distance for infinitely many pictures in Inception-v3 features."""

from phema.shared.metrics import metric_kinds

METRIC = metric_kinds.frechet_infinity("fid_infinity", extractor="inception", space="Inception-v3 features", rank=51)
