"""Reconstructions that were promoted: named, versioned, with their figures and lineage, and kept."""
