"""Measure the memory of a reconstruction: growth of a new process's resident set, divided by its bound."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.synthetic_run import clean, combine, fill, metadata, shapes
from phema.shared.snapshots import ObjectStore, S3Options, open_store
from phema.shared.snapshots.files.header import arrange, build_header
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.profile import Profile
from phema.shared.snapshots.stores.hashed_bytes import Data
from phema.shared.snapshots.stores.interface import ObjectInfo
from phema.shared.snapshots.stores.local.store import LocalStore
from phema.shared.snapshots.stores.verification import digest

MIB = 2**20
TARGET = 1.1
PROFILES = 8
XXL_PARAMETERS = 1_500_000_000
XXL_SNAPSHOTS = 4


@dataclass(frozen=True)
class Memory:
    store: str
    snapshots: int
    mib_read: float
    bound_mib: float
    grown_mib: float

    @property
    def ratio(self) -> float:
        return self.grown_mib / self.bound_mib


def measured(
    name: str, url: str, s3: S3Options | None, stored: Sequence[StoredSnapshot], bound: int, *, keep: bool = True
) -> Memory:
    """Memory of one reconstruction of 8 profiles in its own process. Without `keep`, outputs are only counted."""
    task = {
        "url": url,
        "s3": s3 and asdict(s3),
        "stored": [{**asdict(s), "profile": s.profile.model_dump(mode="json")} for s in stored],
        "memory_bytes": bound,
        "keep": keep,
    }
    command = [sys.executable, "-m", "benchmarks.reconstruct_memory"]
    here = Path(__file__).parents[1]
    done = subprocess.run(command, input=json.dumps(task), capture_output=True, text=True, check=False, cwd=here)
    if done.returncode:
        raise RuntimeError(f"the memory probe failed:\n{done.stderr}")
    grown = int(json.loads(done.stdout)["grown_bytes"])
    return Memory(name, len(stored), sum(s.size for s in stored) / MIB, bound / MIB, grown / MIB)


def xxl(folder: Path, bound: int) -> Memory:
    """Snapshots of the size of EDM2-XXL: sparse files with a valid header, which read as zeros."""
    store = LocalStore(folder / "xxl")
    stored = []
    tensors = arrange(((name, "F16" if name != "embedding.freqs" else "F32", shape)
                       for name, shape in shapes(XXL_PARAMETERS).items()), ["embedding.freqs"])  # fmt: skip
    for index in range(XXL_SNAPSHOTS):
        num_images, key = 1000 * (index + 1), f"snapshots/{index}.safetensors"
        header = build_header(metadata(num_images, 0.1, "float16"), tensors)
        path = store.local_path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        size = len(header) + tensors[-1].end
        with path.open("wb") as file:
            file.write(header)
            file.truncate(size)
        found = digest(store, key).sha256 or ""
        stored.append(StoredSnapshot(key, num_images, Profile.power(0.1), key, size, found, "float16"))
    return measured("local, XXL", store.url, None, stored, bound, keep=False)


class CountingStore(LocalStore):
    """Hashes and counts the written bytes and discards them."""

    @contextmanager
    def writer(self, key: str) -> Iterator[Any]:  # type: ignore[override]
        yield _Counter(key)


class _Counter:
    def __init__(self, key: str) -> None:
        self._key, self._size, self._sha256 = key, 0, hashlib.sha256()

    def write(self, data: Data) -> None:
        self._sha256.update(data)
        self._size += len(data)

    @property
    def info(self) -> ObjectInfo:
        return ObjectInfo(self._key, self._size, self._sha256.hexdigest())


def probe(task: dict[str, Any]) -> int:
    """Largest growth of this process's resident set during one reconstruction, without libraries and connections.

    A reconstruction of a few tiny snapshots in a folder and one request to the store load these first.
    """
    with tempfile.TemporaryDirectory() as folder:
        tiny = open_store((Path(folder) / "store").as_uri())
        combine(tiny, fill(tiny, 6, 1000, "float16"), PROFILES, 16 * MIB)
    store: ObjectStore = open_store(task["url"], s3=S3Options(**task["s3"]) if task["s3"] else None)
    if not task["keep"]:
        assert isinstance(store, LocalStore)
        store = CountingStore(store.root)
    store.check()
    stored = [StoredSnapshot(**s | {"profile": Profile.model_validate(s["profile"])}) for s in task["stored"]]
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    before = resident("VmRSS")
    combine(store, stored, PROFILES, task["memory_bytes"])
    grown = resident("VmHWM") - before
    clean(store)
    return grown


def resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


if __name__ == "__main__":
    print(json.dumps({"grown_bytes": probe(json.loads(sys.stdin.read()))}))
