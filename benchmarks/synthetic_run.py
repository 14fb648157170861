"""Synthetic snapshots for the benchmarks of reconstruction, and the baselines: reading only and a plain loop."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from phema.shared.snapshots import ObjectStore
from phema.shared.snapshots.combining.reconstruct import OutputSpec, reconstruct
from phema.shared.snapshots.combining.thread_pool import thread_pool
from phema.shared.snapshots.files.header import DTYPE_CODES, SnapshotMetadata, StoredDtype
from phema.shared.snapshots.files.snapshot_file import TORCH_DTYPES, encode
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.profile import Profile

LARGEST = (384, 384, 3, 3)
"""Shape of most of EDM2-XS's weights: 256 to 512 channels, 3x3."""


def shapes(parameters: int) -> dict[str, tuple[int, ...]]:
    """Name to shape: convolutions of the largest shape, one vector of the remaining parameters, gains, a buffer."""
    size = torch.Size(LARGEST).numel()
    count = parameters // (size + 1)
    found: dict[str, tuple[int, ...]] = {f"block{i:03d}.conv.weight": LARGEST for i in range(count)}
    found |= {f"block{i:03d}.gain": () for i in range(count)}
    return found | {"out.weight": (parameters - count * (size + 1),), "embedding.freqs": (64,)}


def fill(
    store: ObjectStore, snapshots: int, parameters: int, dtype: StoredDtype, *, folder: str = "snapshots"
) -> list[StoredSnapshot]:
    """Write the snapshots of a run: drifting weights of unit size, two profiles at each time."""
    generator = torch.Generator().manual_seed(0)
    code = TORCH_DTYPES[DTYPE_CODES[dtype]]
    drawn = {name: torch.randn(shape, generator=generator) for name, shape in shapes(parameters).items()}
    weights = {name: value if name == "embedding.freqs" else value.to(code) for name, value in drawn.items()}
    stored = []
    for index in range(snapshots):
        num_images, sigma_rel = 1000 * (index // 2 + 1), (0.05, 0.10)[index % 2]
        moved = {name: _moved(value, index) for name, value in weights.items()}
        key = f"{folder}/{num_images:06d}-{sigma_rel:.2f}.safetensors"
        info = store.put(key, encode(moved, metadata(num_images, sigma_rel, dtype)))
        stored.append(
            StoredSnapshot(key, num_images, Profile.power(sigma_rel), key, info.size, info.sha256 or "", dtype)
        )
    return stored


def _moved(value: Tensor, index: int) -> Tensor:
    """Different numbers for each snapshot, as cheap as a copy."""
    return value if value.dim() != 4 else value.roll(index, 0)


def metadata(num_images: int, sigma_rel: float, dtype: StoredDtype, **fields: Any) -> SnapshotMetadata:
    return SnapshotMetadata(
        run_id="run-benchmark",
        num_images=num_images,
        profile=Profile.power(sigma_rel),
        dtype=dtype,
        buffers=("embedding.freqs",),
        code_version="benchmark",
        config_hash="0" * 64,
        config={},
        **fields,
    )


def outputs(stored: Sequence[StoredSnapshot], count: int, dtype: StoredDtype) -> list[OutputSpec]:
    """`count` outputs with coefficients as large as those of short profiles; their exact values do not matter."""
    coefficients = torch.randn(count, len(stored), generator=torch.Generator().manual_seed(1)).tolist()
    described = metadata(stored[-1].num_images, 0.13, dtype, kind="reconstruction", lineage={})
    return [OutputSpec(f"out/{k}.safetensors", row, described, dtype) for k, row in enumerate(coefficients)]


def combine(
    store: ObjectStore, stored: Sequence[StoredSnapshot], count: int, memory_bytes: int, dtype: StoredDtype = "float32"
) -> None:
    reconstruct(store, stored, outputs(stored, count, dtype), memory_bytes=memory_bytes)


def naive(folder: Path, store: ObjectStore, stored: Sequence[StoredSnapshot], count: int, dtype: StoredDtype) -> None:
    """Load one snapshot after the other, add it to every profile tensor by tensor, then save the profiles."""
    rows = [spec.coefficients for spec in outputs(stored, count, dtype)]
    sums: list[dict[str, Tensor]] = [{} for _ in rows]
    for index, snapshot in enumerate(stored):
        path = store.local_path(snapshot.key)
        assert path is not None, "the naive loop reads local files"
        weights = load_file(path)
        for row, total in zip(rows, sums, strict=True):
            for name, value in weights.items():
                if name == "embedding.freqs":
                    total[name] = value
                elif index == 0:
                    total[name] = value.float() * row[index]
                else:
                    total[name] += value.float() * row[index]
    for number, total in enumerate(sums):
        code = TORCH_DTYPES[DTYPE_CODES[dtype]]
        narrow = {name: value if name == "embedding.freqs" else value.to(code) for name, value in total.items()}
        save_file(narrow, folder / f"naive-{number}.safetensors")
    os.sync()


def discard(store: ObjectStore, stored: Sequence[StoredSnapshot]) -> None:
    """Read every snapshot with the store's best block size and number of concurrent reads."""

    def read(mine: Sequence[StoredSnapshot]) -> None:
        buffer = memoryview(bytearray(store.read_bytes))
        for snapshot in mine:
            for start in range(0, snapshot.size, len(buffer)):
                store.read_into(snapshot.key, start, buffer[: min(len(buffer), snapshot.size - start)])

    lanes = store.reads_in_flight
    with thread_pool(lanes, "discard") as pool:
        for future in [pool.submit(read, stored[lane::lanes]) for lane in range(lanes)]:
            future.result()


def forget_pages(store: ObjectStore, stored: Sequence[StoredSnapshot]) -> None:
    """Drop the snapshots from the operating system's page cache, if they are local files."""
    for snapshot in stored:
        path = store.local_path(snapshot.key)
        if path is None:
            return
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def clean(store: ObjectStore, prefix: str = "out/") -> None:
    for info in list(store.list(prefix)):
        store.delete(info.key)
