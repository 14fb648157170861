"""Time reconstruction in one pass against reading only, more profiles, a basis, and a plain loop.

    python -m benchmarks.reconstruct [--json] [--stores local,s3] [--parameters 12500000] [--pairs 32] [--rounds 3] ...

Every row is the best of its rounds; rows alternate. Times include everything (headers, sums, SHA-256, durable outputs).
Ratios are between rows of one store. The network has shapes like EDM2-XS and, by default, a tenth of its parameters;
time grows with the number of parameters. Before each row of the local store, the snapshots are dropped from the page
cache, as if the run were much larger than memory. `s3` is a real server on this machine, which shares its cores, with
an eighth of the parameters.

- `read`: read the same bytes with the store's own reader and the same number of concurrent reads. - `1`, `31`, `31
fp16`: that many profiles. 31 float32 outputs have as many bytes as 32 float16 pairs. - `basis 1`: one profile from 10
float32 vectors. `4x pairs 1`: one profile from four times the pairs, as in a whole run. - `naive 31`: load one snapshot
after the other with safetensors and add it to every profile, tensor by tensor.

Memory is the growth of a new process's resident set, divided by the bound; with --xxl also for 1.5 G parameters (sparse
files; outputs are counted and discarded).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.reconstruct_memory import MIB, Memory, measured, xxl
from benchmarks.report import machine, show
from benchmarks.synthetic_run import clean, combine, discard, fill, forget_pages, naive
from phema.shared.snapshots import ObjectStore, S3Options, open_store
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot

BASIS = 10
PROFILES = 31
S3_SHARE = 8
XS_PARAMETERS = 124_700_000


@dataclass(frozen=True)
class Target:
    """Bound of the ratio `row` / `base`: an upper bound unless `at_least`."""

    name: str
    row: str
    base: str
    bound: float
    at_least: bool = False


TARGETS = (
    Target("1 profile: share of the speed of reading", "read", "1", 0.8, at_least=True),
    Target("31 profiles over 1", "31", "1", 2.0),
    Target("31 profiles in float16 over 1", "31 fp16", "1", 2.0),
    Target("plain loop over 31 profiles", "naive 31", "31", 5.0, at_least=True),
    Target("four times the pairs over the basis", "4x pairs 1", "basis 1", 10.0, at_least=True),
)


def main() -> None:
    options = arguments()
    rows: list[dict[str, object]] = []
    memories: list[Memory] = []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder, stores(Path(folder), options.stores) as opened:
        for name, url, s3 in opened:
            store = open_store(url, s3=s3)
            parameters = options.parameters // (1 if name == "local" else S3_SHARE)
            stored = fill(store, 2 * options.pairs, parameters, "float16")
            rows += ratios(name, timed(Path(folder), store, stored, parameters, options))
            clean(store)  # the memory probes write other bytes under the same keys
            bound = options.memory_probe_mib * MIB
            memories += [measured(name, url, s3, chosen, bound) for chosen in (stored[:8], stored)]
            clean(store, "")
        if options.xxl:
            memories.append(xxl(Path(folder), options.memory_mib * MIB))
    facts = machine() | {
        "parameters": f"{options.parameters} ({options.parameters / XS_PARAMETERS:.2f} of EDM2-XS)",
        "snapshots": f"{options.pairs} pairs in float16",
    }
    shown = [{**asdict(memory), "ratio": memory.ratio} for memory in memories]
    if options.json:
        print(json.dumps({**facts, "time": rows, "memory": shown}))
        return
    show(facts, rows, as_json=False)
    show({}, shown, as_json=False)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--stores", default="local,s3", help="comma-separated list of local and s3 (ministack)")
    parser.add_argument("--folder", help="folder of the local store; default the temporary folder")
    parser.add_argument("--parameters", type=int, default=XS_PARAMETERS // 10)
    parser.add_argument("--pairs", type=int, default=32, help="number of snapshot times, with two profiles each")
    parser.add_argument("--memory-mib", type=int, default=1024, help="memory bound while time is measured")
    parser.add_argument("--memory-probe-mib", type=int, default=64, help="memory bound while memory is measured")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--xxl", action="store_true", help="also measure the memory of 1.5 G parameters")
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
    from tests.servers.s3 import ministack  # needs boto3

    (folder / "ministack").mkdir()
    with ministack(folder / "ministack") as server:
        server.client().create_bucket(Bucket="benchmark")
        opened.append(("s3", "s3://benchmark", server.options))
        yield opened


def timed(
    folder: Path, store: ObjectStore, stored: list[StoredSnapshot], parameters: int, options: argparse.Namespace
) -> dict[str, float]:
    """Seconds of each row, the best of the rounds."""
    bound = options.memory_mib * MIB
    local = store.local_path("x") is not None
    basis = fill(store, BASIS, parameters, "float32", folder="basis")
    actions: dict[str, Callable[[], None]] = {
        "read": lambda: discard(store, stored),
        "1": lambda: combine(store, stored, 1, bound),
        "31": lambda: combine(store, stored, PROFILES, bound),
        "31 fp16": lambda: combine(store, stored, PROFILES, bound, "float16"),
        "basis 1": lambda: combine(store, basis, 1, bound),
    }
    inputs = dict.fromkeys(actions, stored) | {"basis 1": basis}
    if local:
        more = stored + fill(store, 6 * options.pairs, parameters, "float16", folder="more")
        actions["4x pairs 1"] = lambda: combine(store, more, 1, bound)
        actions["naive 31"] = lambda: naive(folder, store, stored, PROFILES, "float32")
        inputs |= {"4x pairs 1": more, "naive 31": stored}
    combine(store, stored[:2], 1, bound)  # load libraries
    seconds: dict[str, float] = {}
    for _ in range(options.rounds):
        for name, action in actions.items():
            clean(store)
            forget_pages(store, inputs[name])
            start = time.perf_counter()
            action()
            seconds[name] = min(seconds.get(name, float("inf")), time.perf_counter() - start)
    return seconds


def ratios(name: str, seconds: dict[str, float]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for target in TARGETS:
        if target.row in seconds and target.base in seconds:
            sign = ">=" if target.at_least else "<="
            rows.append(
                {
                    "store": name,
                    "what": target.name,
                    "ratio": seconds[target.row] / seconds[target.base],
                    "target": f"{sign} {target.bound:g}",
                    "seconds": f"{seconds[target.row]:.2f} / {seconds[target.base]:.2f}",
                }
            )
    return rows


if __name__ == "__main__":
    main()
