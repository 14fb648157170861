"""Service discovery for Prometheus."""
