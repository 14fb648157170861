"""Probes for load balancers, and the metrics of the API and the queue."""
