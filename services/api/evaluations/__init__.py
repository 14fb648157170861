"""Figures and pictures of reconstructed weights."""
