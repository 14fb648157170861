"""Writes drawn pictures as one file: a PNG grid, a zip of one PNG per seed, or an array."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from phema.shared.datasets.files.file_index import LABELS_FILE, labels_document
from phema.shared.datasets.preparation.conversion import numbered
from phema.shared.drawing.drawing import Drawn
from phema.shared.pictures.picture_grid import encoded_png, pixel_grid
from phema.shared.recipes.sample_request import SampleRequest

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""Modification time of all zip members, so that equal pictures give equal files."""
_BUFFER_BYTES = 2**22


def write_pictures(request: SampleRequest, drawn: Iterable[Drawn], write: Callable[[memoryview], Any]) -> None:
    """Write the file of the request through `write`, piece by piece. Equal pictures give equal bytes.

    A grid is held in memory; of the other formats, one batch is.
    """
    with _buffered(write) as file:
        if request.format == "grid":
            pixels = np.concatenate([batch.pixels for batch in drawn])
            file.write(encoded_png(pixel_grid(pixels, request.grid_columns)))
        elif request.format == "zip":
            _write_zip(file, drawn)
        elif request.format == "npy":
            _write_npy(file, request, drawn)
        else:
            _write_npz(file, request, drawn)


def _write_zip(file: IO[bytes], drawn: Iterable[Drawn]) -> None:
    """One PNG per seed, named by the seed, and `dataset.json` with their classes: a dataset that phema reads."""
    names: list[str] = []
    labels: list[int] | None = []
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for batch in drawn:
            for seed, pixels in zip(batch.seeds, batch.pixels, strict=True):
                names.append(numbered(seed, "png"))
                archive.writestr(zipfile.ZipInfo(names[-1], _EPOCH), _png(pixels))
            labels = None if labels is None or batch.labels is None else [*labels, *batch.labels]
        archive.writestr(zipfile.ZipInfo(LABELS_FILE, _EPOCH), labels_document(names, labels))


def _write_npy(file: IO[bytes], request: SampleRequest, drawn: Iterable[Drawn]) -> list[int]:
    """Pictures uint8 [N, H, W, C] as one NPY array, in the order of the seeds. Returns their classes, if any."""
    labels: list[int] = []
    for number, batch in enumerate(drawn):
        if number == 0:
            # The size of decoded latents is known only now.
            shape = (len(request.seeds), *batch.pixels.shape[1:])
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
        file.write(batch.pixels.data)
        labels += batch.labels or ()
    return labels


def _write_npz(file: IO[bytes], request: SampleRequest, drawn: Iterable[Drawn]) -> None:
    """`arr_0`: pictures uint8 [N, H, W, C]; `arr_1`: classes int64 [N], if there are any; `seeds` int64 [N].

    Programs that score ImageNet models read this layout.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        with archive.open(zipfile.ZipInfo("arr_0.npy", _EPOCH), "w", force_zip64=True) as member:
            labels = _write_npy(member, request, drawn)
        if labels:
            archive.writestr(zipfile.ZipInfo("arr_1.npy", _EPOCH), _npy(np.array(labels, np.int64)))
        archive.writestr(zipfile.ZipInfo("seeds.npy", _EPOCH), _npy(np.array(request.seeds, np.int64)))


def _npy(array: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _png(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(file, "PNG")
    return file.getvalue()


class _Sink(io.RawIOBase):
    """The end of a stream that cannot be read or sought."""

    def __init__(self, write: Callable[[memoryview], Any]) -> None:
        self._write = write
        self.is_open = True

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        if self.is_open:
            self._write(view)
        return len(view)


@contextmanager
def _buffered(write: Callable[[memoryview], Any]) -> Iterator[IO[bytes]]:
    """A file whose bytes go to `write`. An error inside drops what is still in the buffer."""
    sink = _Sink(write)
    file = io.BufferedWriter(sink, _BUFFER_BYTES)
    try:
        yield file
        file.flush()
    finally:
        sink.is_open = False
        file.detach()
