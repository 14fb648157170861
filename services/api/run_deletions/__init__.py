"""Deletion of whole runs, in two phases, and its withdrawal."""
