"""How networks are scored.

Start with `registry`: every metric, found in `offered`, and the checks of a request. A metric compares features of
generated pictures with a `reference` (`scoring.score`), or is computed from the network (`scoring.score_network`).
Features come from an extractor, found in `extractors` (`extractor_registry.load_extractor`). `measures` are the
distances, `figures` the values with their standard errors. `registry`, `metric`, `extractor_registry` and `figures`
are free of torch.
"""
