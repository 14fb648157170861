"""The faults of the storm, one function each, in modules by kind. `registry.FAULTS` has them all."""
