"""Drawing pictures from a network. Start with `sampler.sample`; `heun` is the solver, `guidance` the second network."""
