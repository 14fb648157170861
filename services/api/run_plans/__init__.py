"""Plans of runs: the complete configuration, what it costs, and every mistake, before anything is queued."""
