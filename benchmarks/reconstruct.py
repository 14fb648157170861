"""Reconstruction against reading alone: time as a ratio within one run, and memory against its bound.

    python -m benchmarks.reconstruct [--json] [--snapshots 256] [--parameters 4000000] [--memory-mib 1024] ...

Time: 8 profiles in one pass, everything included (headers, sums, SHA-256, durable outputs), over the time in which the
same store's own reader, with as many reads in flight, reads the same bytes and discards them. Target: at most 2.
`local` drops the snapshots from the page cache before each measurement, as they are when a run is much larger than
memory; `local-cached` is for information: there "reading" is a copy at memory speed, faster than any disk can take the
outputs. `s3` is a real server on this machine, which shares its cores.

Memory: growth of a fresh process's resident set during a reconstruction, over the bound it was given, for few and for
many snapshots. Target: at most 1.1.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from shared.snapshots import ObjectStore, S3Options, open_store
from shared.snapshots.file import encode
from shared.snapshots.header import SnapshotMetadata
from shared.snapshots.lanes import pool_of
from shared.snapshots.plan import StoredSnapshot, plan
from shared.snapshots.profile import Profile
from shared.snapshots.reconstruct import OutputSpec, reconstruct
from tests.servers.s3 import ministack

SIGMA_RELS = (0.06, 0.07, 0.08, 0.09, 0.11, 0.12, 0.13, 0.15)
MIB = 2**20
TIME_TARGET, MEMORY_TARGET = 2.0, 1.1


@dataclass(frozen=True)
class Timing:
    store: str
    mib_read: float
    read_seconds: float
    reconstruct_seconds: float
    ratio: float
    """Best of the rounds over best of the rounds, the two taken in turn."""


@dataclass(frozen=True)
class Memory:
    store: str
    snapshots: int
    mib_read: float
    bound_mib: float
    grown_mib: float
    ratio: float


def main() -> None:
    options = arguments()
    if options.probe:
        print(json.dumps({"grown_bytes": probe(json.loads(sys.stdin.read()))}))
        return
    timings: list[Timing] = []
    memories: list[Memory] = []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder, stores(Path(folder), options.stores) as opened:
        for name, url, s3 in opened:
            store = open_store(url, s3=s3)
            stored = fill(store, options.snapshots, options.parameters, options.dtype)
            for cached in (False, True) if name == "local" else (True,):
                label = "local-cached" if name == "local" and cached else name
                timings.append(timed(label, store, stored, options, drop=not cached))
            few, many = stored[-8:], stored
            bound = options.memory_probe_mib * MIB
            memories += [remembered(name, url, s3, chosen, bound, options) for chosen in (few, many)]
            for snapshot in stored:
                store.delete(snapshot.key)
    report(options, timings, memories)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--stores", default="local,s3", help="of local, s3 (ministack)")
    parser.add_argument("--folder", help="where the local store lies; default the temporary folder")
    parser.add_argument("--snapshots", type=int, default=256, help="two per time")
    parser.add_argument("--parameters", type=int, default=4_000_000)
    parser.add_argument(
        "--dtype", default="float16", choices=["float16", "bfloat16", "float32"], help="of the snapshots"
    )
    parser.add_argument("--output-dtype", default="float32", choices=["float16", "bfloat16", "float32"])
    parser.add_argument("--memory-mib", type=int, default=1024, help="bound while time is measured")
    parser.add_argument("--memory-probe-mib", type=int, default=64, help="bound while memory is measured")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--probe", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


@contextmanager
def stores(folder: Path, names: str) -> Iterator[list[tuple[str, str, S3Options | None]]]:
    opened: list[tuple[str, str, S3Options | None]] = []
    wanted = names.split(",")
    if "local" in wanted:
        opened.append(("local", (folder / "store").as_uri(), None))
    if "s3" not in wanted:
        yield opened
        return
    (folder / "ministack").mkdir()
    with ministack(folder / "ministack") as server:
        server.client().create_bucket(Bucket="benchmark")
        opened.append(("s3", "s3://benchmark", server.options))
        yield opened


def fill(store: ObjectStore, snapshots: int, parameters: int, dtype: Any) -> list[StoredSnapshot]:
    """A run's snapshots: weights that drift, two profiles at each time, in three tensors and a buffer."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"a": parameters // 2, "b": parameters // 4, "c": parameters - parameters // 2 - parameters // 4}
    weights = {name: torch.randn(size, generator=generator) for name, size in shapes.items()}
    stored = []
    for index in range(snapshots):
        num_images, sigma_rel = 1000 * (index // 2 + 1), (0.05, 0.10)[index % 2]
        weights = {name: value + 0.01 * value.roll(1) for name, value in weights.items()}
        key = f"snapshots/{num_images:06d}-{sigma_rel:.2f}.safetensors"
        described = metadata(num_images, sigma_rel, dtype)
        info = store.put(key, encode({**weights, "frequencies": torch.arange(64.0)}, described))
        stored.append(StoredSnapshot(key, num_images, Profile.power(sigma_rel), key, info.size, info.sha256 or ""))
    return stored


def metadata(num_images: int, sigma_rel: float, dtype: Any, **fields: Any) -> SnapshotMetadata:
    return SnapshotMetadata(
        run_id="run-benchmark",
        num_images=num_images,
        profile=Profile.power(sigma_rel),
        dtype=dtype,
        buffers=("frequencies",),
        code_version="benchmark",
        config_hash="0" * 64,
        config={},
        **fields,
    )


def combine(store: ObjectStore, stored: Sequence[StoredSnapshot], memory_bytes: int, dtype: Any) -> None:
    """Plan and write the eight profiles, then remove them."""
    planned = plan(stored, [Profile.power(value) for value in SIGMA_RELS])
    outputs = [
        OutputSpec(
            f"reconstructions/{output.profile.sigma_rel}.safetensors",
            output.coefficients,
            metadata(planned.num_images, output.profile.sigma_rel or 0.0, dtype, kind="reconstruction", lineage={}),
            dtype,
        )
        for output in planned.outputs
    ]
    reconstruct(store, planned.snapshots, outputs, memory_bytes=memory_bytes)


def clean(store: ObjectStore) -> None:
    for info in list(store.list("reconstructions/")):
        store.delete(info.key)


def discard(store: ObjectStore, stored: Sequence[StoredSnapshot]) -> None:
    """Read every snapshot in the store's best block size with its best number of reads in flight."""

    def read(mine: Sequence[StoredSnapshot]) -> None:
        buffer = memoryview(bytearray(store.read_bytes))
        for snapshot in mine:
            for start in range(0, snapshot.size, len(buffer)):
                store.read_into(snapshot.key, start, buffer[: min(len(buffer), snapshot.size - start)])

    lanes = store.reads_in_flight
    with pool_of(lanes, "discard") as pool:
        for future in [pool.submit(read, stored[lane::lanes]) for lane in range(lanes)]:
            future.result()


def forget(store: ObjectStore, stored: Sequence[StoredSnapshot]) -> None:
    """Drop the snapshots' pages from the operating system's cache."""
    for snapshot in stored:
        path = store.local_path(snapshot.key)
        assert path is not None
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def timed(
    label: str, store: ObjectStore, stored: list[StoredSnapshot], options: argparse.Namespace, *, drop: bool
) -> Timing:
    reads, sums = [], []
    for _ in range(options.rounds + 1):
        for seconds, action in (
            (reads, lambda: discard(store, stored)),
            (sums, lambda: combine(store, stored, options.memory_mib * MIB, options.output_dtype)),
        ):
            if drop and store.local_path("x"):
                forget(store, stored)
            seconds.append(seconds_of(action))
        clean(store)
    reads, sums = reads[1:], sums[1:]  # the first round loads libraries and fills caches
    mib = sum(s.size for s in stored) / MIB
    return Timing(label, mib, min(reads), min(sums), min(sums) / min(reads))


def seconds_of(action: Callable[[], None]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def remembered(
    name: str, url: str, s3: S3Options | None, stored: list[StoredSnapshot], bound: int, options: argparse.Namespace
) -> Memory:
    """Memory of one reconstruction, measured by a process of its own."""
    task = {
        "url": url,
        "s3": s3 and asdict(s3),
        "stored": [vars(s) | {"profile": s.profile.model_dump()} for s in stored],
        "memory_bytes": bound,
        "dtype": options.output_dtype,
    }
    grown = measured_in_a_process(task)
    mib = sum(s.size for s in stored) / MIB
    return Memory(name, len(stored), mib, bound / MIB, grown / MIB, grown / bound)


def measured_in_a_process(task: dict[str, Any]) -> int:
    """Bytes by which the resident set of a fresh process grows at most while it does the task of `probe`."""
    command = [sys.executable, __file__, "--probe"]
    done = subprocess.run(command, input=json.dumps(task), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the memory probe failed:\n{done.stderr}")
    return int(json.loads(done.stdout)["grown_bytes"])


def probe(task: dict[str, Any]) -> int:
    """Largest growth of this process's resident set during one reconstruction, libraries and connections excluded.

    They are brought in by a reconstruction of three tiny snapshots in a folder and by one request to the store.
    """
    with tempfile.TemporaryDirectory() as folder:
        tiny = open_store((Path(folder) / "store").as_uri())
        combine(tiny, fill(tiny, 6, 1000, "float16"), 16 * MIB, task["dtype"])
    store = open_store(task["url"], s3=S3Options(**task["s3"]) if task["s3"] else None)
    store.check()
    stored = [
        StoredSnapshot(**fields | {"profile": Profile.model_validate(fields["profile"])}) for fields in task["stored"]
    ]
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    before = resident("VmRSS")
    combine(store, stored, task["memory_bytes"], task["dtype"])
    grown = resident("VmHWM") - before
    clean(store)
    return grown


def resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def report(options: argparse.Namespace, timings: list[Timing], memories: list[Memory]) -> None:
    setting = {
        "command": " ".join([Path(sys.executable).name, *sys.orig_argv[1:]]),
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "load_1min": os.getloadavg()[0],
        "torch_threads": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("torch", "numpy", "boto3", "ministack", "phema")},
        },
        "snapshots": options.snapshots,
        "parameters": options.parameters,
        "dtype": options.dtype,
        "output_dtype": options.output_dtype,
        "profiles": len(SIGMA_RELS),
    }
    if options.json:
        figures = {"timings": [asdict(t) for t in timings], "memory": [asdict(m) for m in memories]}
        print(json.dumps({**setting, **figures, "targets": {"time": TIME_TARGET, "memory": MEMORY_TARGET}}, indent=2))
        return
    for name, value in setting.items():
        print(f"{name}: {value}")
    print(f"\n{'store':14}{'MiB read':>10}{'read s':>9}{'reconstruct s':>15}{'ratio':>8}   target <= {TIME_TARGET:g}")
    for t in timings:
        figures = f"{t.mib_read:10.0f}{t.read_seconds:9.3f}{t.reconstruct_seconds:15.3f}{t.ratio:8.2f}"
        print(f"{t.store:14}{figures}{'   for information' if t.store == 'local-cached' else ''}")
    print(f"\n{'store':14}{'snapshots':>10}{'MiB read':>10}{'bound MiB':>11}{'grown MiB':>11}{'ratio':>8}   "
          f"target <= {MEMORY_TARGET:g}")  # fmt: skip
    for m in memories:
        print(f"{m.store:14}{m.snapshots:10}{m.mib_read:10.0f}{m.bound_mib:11.0f}{m.grown_mib:11.1f}{m.ratio:8.2f}")


def cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
