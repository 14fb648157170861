"""`fid`: Fréchet distance in Inception-v3 features."""

from phema.shared.metrics import metric_kinds

METRIC = metric_kinds.frechet("fid", extractor="inception", space="Inception-v3 features", rank=10)
