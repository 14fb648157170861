"""Pausing and extending runs that phema trains."""
