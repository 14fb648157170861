"""Errors of datasets."""

from __future__ import annotations


class DatasetError(ValueError):
    """The dataset does not exist, is broken, or does not fit the request. The message is one sentence."""


class HubUnreachable(ConnectionError):
    """The hub of a VAE does not answer and there is no local copy. A retry may help. The message is one sentence."""
