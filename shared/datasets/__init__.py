"""Pictures and latents in, batches out. Free of torch except for `preparation.vae`, which nothing here imports.

Start with `open_dataset`, which returns the pictures. `check_dataset` checks that a network fits a dataset without
reading it, and `EpochSampler` is the order in which a run sees the pictures.
"""

from phema.shared.datasets.dataset_checks import DATASETS, DatasetChoice, DatasetInfo, check_choice, check_dataset
from phema.shared.datasets.epoch_sampler import EpochSampler
from phema.shared.datasets.errors import DatasetError, HubUnreachable
from phema.shared.datasets.files.remote_files import OpenRemote
from phema.shared.datasets.opening import describe_dataset, open_dataset, open_files
from phema.shared.datasets.pictures import Dataset, InMemory, Pictures
from phema.shared.datasets.prefetch import Prefetcher

__all__ = [
    "DATASETS",
    "Dataset",
    "DatasetChoice",
    "DatasetError",
    "DatasetInfo",
    "EpochSampler",
    "HubUnreachable",
    "InMemory",
    "OpenRemote",
    "Pictures",
    "Prefetcher",
    "check_choice",
    "check_dataset",
    "describe_dataset",
    "open_dataset",
    "open_files",
]
