"""Small runs of snapshots, and the sums they should give, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from phema.shared.snapshots import ObjectStore
from phema.shared.snapshots.combining.reconstruct import OutputSpec
from phema.shared.snapshots.files.header import SnapshotMetadata, StoredDtype
from phema.shared.snapshots.files.snapshot_file import encode, load_tensors
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.profile import Profile

BUFFERS = ("emb.freqs", "emb.phases")


def metadata(
    num_images: int = 100, sigma_rel: float = 0.1, dtype: StoredDtype = "float16", **fields: Any
) -> SnapshotMetadata:
    return SnapshotMetadata(
        run_id="run-0123456789ab",
        num_images=num_images,
        profile=Profile.power(sigma_rel),
        dtype=dtype,
        code_version="0.1.0",
        config_hash="c" * 64,
        **({"config": {"network": {"channels": 3}}, "buffers": BUFFERS} | fields),
    )


def tensors(seed: int, size: int = 1000) -> dict[str, Tensor]:
    """Weights of odd sizes, a scalar, float32 buffers that never change and an integer that does."""
    generator = torch.Generator().manual_seed(seed)
    fixed = torch.Generator().manual_seed(1)
    return {
        "enc.conv": torch.randn(size, 3, generator=generator),
        "dec.conv": torch.randn(7, 5, 3, 3, generator=generator),
        "dec.gain": torch.randn((), generator=generator),
        "emb.freqs": torch.randn(33, generator=fixed),
        "emb.phases": torch.rand(33, generator=fixed),
        "emb.count": torch.tensor([seed, 2, 3]),
        "none": torch.zeros(0, 4),
    }


def store_run(
    store: ObjectStore, count: int, dtype: StoredDtype = "float16", *, size: int = 1000, folder: str = "snapshots"
) -> list[StoredSnapshot]:
    """`count` snapshots, two profiles at each time, in order of time."""
    stored = []
    for index in range(count):
        num_images, sigma_rel = 100 * (index // 2 + 1), (0.05, 0.1)[index % 2]
        key = f"{folder}/{num_images:06d}-{sigma_rel}.safetensors"
        info = store.put(key, encode(tensors(index, size), metadata(num_images, sigma_rel, dtype)))
        stored.append(
            StoredSnapshot(
                f"snap-{index}", num_images, Profile.power(sigma_rel), key, info.size, info.sha256 or "", dtype
            )
        )
    return stored


def output(key: str, coefficients: Sequence[float], dtype: StoredDtype = "float32", **fields: Any) -> OutputSpec:
    described = metadata(
        10_000, 0.13, dtype, kind="reconstruction", lineage={"coefficients": list(coefficients)}, **fields
    )
    return OutputSpec(key, coefficients, described, dtype)


def expected(store: ObjectStore, stored: Sequence[StoredSnapshot], coefficients: Sequence[float]) -> dict[str, Tensor]:
    """The same sums in float64 from whole files; what is no average, from the last."""
    files = [load_tensors(store.get(s.key)) for s in stored]
    sums = {}
    for name, last in files[-1].items():
        if name in BUFFERS or not last.is_floating_point():
            sums[name] = last
            continue
        stacked = torch.stack([file[name].double() for file in files])
        sums[name] = torch.tensordot(torch.tensor(coefficients, dtype=torch.float64), stacked, dims=1)
    return sums
