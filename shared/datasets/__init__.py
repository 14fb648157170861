"""Pictures in, batches out. Torch-free but for `statistics` and `vae`, which nothing here imports.

`check_dataset` says whether a network fits a dataset without reading it, `open_dataset` gives the pictures,
`EpochSampler` the order in which a run sees them.
"""

from shared.datasets.errors import DatasetError, HubUnreachable
from shared.datasets.facts import DATASETS, DatasetChoice, DatasetFacts, check_choice, check_dataset
from shared.datasets.opening import open_dataset, open_files
from shared.datasets.pictures import Dataset, InMemory, Pictures
from shared.datasets.prefetch import Prefetcher
from shared.datasets.remote import OpenRemote
from shared.datasets.sampler import EpochSampler

__all__ = [
    "DATASETS",
    "Dataset",
    "DatasetChoice",
    "DatasetError",
    "DatasetFacts",
    "EpochSampler",
    "HubUnreachable",
    "InMemory",
    "OpenRemote",
    "Pictures",
    "Prefetcher",
    "check_choice",
    "check_dataset",
    "open_dataset",
    "open_files",
]
