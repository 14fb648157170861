"""Runs that begin from a checkpoint or a reconstruction of another."""
