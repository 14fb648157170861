"""Retention policies and pins: which snapshots a run keeps."""
