"""Pictures of any EMA length at once: drawn from an average whose weights are not stored."""
