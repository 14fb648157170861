"""Presets: complete run configurations by name."""
