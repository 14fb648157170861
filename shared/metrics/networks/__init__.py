"""The networks that compute features, in torch. `phema.shared.metrics.extractors` describes them and loads them."""
