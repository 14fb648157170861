"""The durable queue behind runs, reconstructions, evaluations and storage."""
