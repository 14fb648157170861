"""How networks are scored. Start with `registry`: it lists every metric, its figures and what it needs. Free of torch.

Each metric is computed in the module of its name (`frechet`, `held_out_loss`) from the `ScoringInputs` that the worker
fills in. The other modules are what metrics are made of: moments of features, features, reference statistics.
"""
