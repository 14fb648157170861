"""What can be wrong with a dataset or the way it is asked for."""

from __future__ import annotations


class DatasetError(ValueError):
    """The dataset does not exist, or does not fit what is asked of it; the message is one sentence."""


class HubUnreachable(ConnectionError):
    """A VAE's hub does not answer and no copy of the VAE is here: worth another try; the message is one sentence."""
