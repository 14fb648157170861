"""Decode a dataset of latents back to pictures."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from phema.shared.datasets.decoding import LATENT_CHANNELS, normalized
from phema.shared.datasets.errors import DatasetError
from phema.shared.datasets.files.file_index import LABELS_FILE, labels_document
from phema.shared.datasets.files.files import Files
from phema.shared.datasets.preparation.conversion import Progress, numbered
from phema.shared.datasets.preparation.dataset_writer import new_dataset
from phema.shared.datasets.preparation.vae import BATCH, Vae
from phema.shared.datasets.stored_pictures import PictureReader


def decode_dataset(
    source: Files, destination: Path, vae: Vae, *, progress: Progress = lambda done, total: None
) -> tuple[int, int]:
    """Write the pictures of a dataset of latents as PNG files and dataset.json, in the order of the source's names.

    Decodes the mean of each latent, so equal sources give equal pictures. Returns the number of pictures and their
    side in pixels. Raises DatasetError.
    """
    reader = PictureReader(source)
    if reader.format.encoding != "latents":
        raise DatasetError(f"dataset {source.where} holds {reader.format}; only latents are decoded")
    side = reader.format.resolution * vae.factor
    with new_dataset(destination) as write:
        progress(0, len(reader))
        for start in range(0, len(reader), BATCH):
            chosen = range(start, min(start + BATCH, len(reader)))
            means = np.stack([latent[:LATENT_CHANNELS] for latent in reader.read_all(chosen)])
            decoded = vae.decode(torch.from_numpy(normalized(means)))
            pixels = ((decoded + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
            for picture, picture_pixels in zip(chosen, pixels, strict=True):
                file = io.BytesIO()
                Image.fromarray(picture_pixels).save(file, "PNG")
                write(numbered(picture, "png"), file.getvalue())
                progress(picture + 1, len(reader))
        names = [numbered(picture, "png") for picture in range(len(reader))]
        write(LABELS_FILE, labels_document(names, reader.index.listed_labels, reader.index.classes))
    return len(reader), side
