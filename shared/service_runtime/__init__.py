"""What every long-running service shares: holding the lease of a job, and announcing its metrics to Prometheus."""
