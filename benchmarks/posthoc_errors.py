"""Compare predicted and measured errors of reconstructions on the demo's training run.

    python -m benchmarks.posthoc_errors [--json] [--stored 0.05,0.10] [--picture docs/pictures/posthoc_errors.png]

Trains digits-tiny for 128 x 640 images and tracks averages of many widths directly, in addition to the stored ones.
Errors are measured at two times: at 76,800 images with the demo's 24 snapshot pairs, and at 81,920 images with 128
pairs, each stored in float32, float16 and bfloat16. `plain` is the paper's least-squares fit of the profile,
with coefficients divided by their sum (`regularize: false`), and `aware` is the default of phema. Errors are relative
L2 distances of all weights from the tracked average.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.ticker import FuncFormatter

from benchmarks.report import machine, show
from phema.services.trainer.training.batches import Batches
from phema.services.trainer.training.step import train_step
from phema.services.trainer.training.training_state import TrainingState
from phema.services.trainer.training.worker_group import WorkerGroup
from phema.shared.datasets import open_dataset
from phema.shared.edm2.averaging.ema import PowerFunctionEMA
from phema.shared.pictures.theme import LIGHT, image, page
from phema.shared.recipes.presets import resolve
from phema.shared.recipes.run_config import RunConfig
from phema.shared.snapshots.files.header import DTYPE_CODES, StoredDtype
from phema.shared.snapshots.files.weight_probe import PROBE_WEIGHTS, as_float32
from phema.shared.snapshots.planning.planner import plan
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.profile import Profile

WANTED = (0.010, 0.012, 0.015, 0.02, 0.025, 0.03, 0.04, 0.06, 0.075, 0.09, 0.12, 0.13, 0.15, 0.18, 0.20, 0.22, 0.25)
CASES = {"24 pairs": (76_800, 3200), "128 pairs": (81_920, 640)}
"""Time of the reconstruction, and images between snapshots."""
DTYPES: dict[StoredDtype, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


@dataclass(frozen=True)
class Row:
    case: str
    dtype: str
    sigma_rel: float
    plain: float
    plain_predicted: float
    aware: float
    aware_predicted: float

    @property
    def better(self) -> float:
        return self.plain / self.aware


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    options.add_argument("--stored", default="0.05,0.10", help="sigma_rel of the stored averages")
    options.add_argument("--picture", type=Path, help="draw the figures into this PNG file")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    widths = tuple(map(float, chosen.stored.split(",")))
    stored, tracked = train(resolve("digits-tiny").model_copy(update={"ema_sigma_rels": widths}))
    rows = [
        row
        for case, (end, every) in CASES.items()
        for dtype in DTYPES
        for row in compare(case, end, every, dtype, stored, tracked)
        if row.sigma_rel not in widths
    ]
    if chosen.picture:
        chosen.picture.write_bytes(draw(rows))
        chosen.picture.with_suffix(".json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    shown = [
        {
            "case": r.case,
            "dtype": r.dtype,
            "sigma_rel": str(r.sigma_rel),
            "plain": r.plain,
            "predicted/measured": r.plain_predicted / r.plain,
            "aware": r.aware,
            "predicted/measured ": r.aware_predicted / r.aware,
            "plain/aware": r.better,
        }
        for r in rows
    ]
    show(machine(), shown, as_json=chosen.json)


def train(config: RunConfig) -> tuple[dict[tuple[int, float], torch.Tensor], dict[tuple[int, float], np.ndarray]]:
    """Flattened weights of the stored averages by time and width, and of the wanted averages at the times of CASES."""
    state = TrainingState(config, torch.device("cpu"))
    kept, wanted = PowerFunctionEMA(state.denoiser, config.ema_sigma_rels), PowerFunctionEMA(state.denoiser, WANTED)
    batches = Batches(open_dataset(config.dataset), config, WorkerGroup())
    names = [name for name, _ in state.denoiser.named_parameters()]
    stored: dict[tuple[int, float], torch.Tensor] = {}
    tracked: dict[tuple[int, float], np.ndarray] = {}
    last = max(end for end, _ in CASES.values())
    while state.num_images < last:
        train_step(state, batches.at(state.num_images), config, WorkerGroup())
        now = state.num_images
        for ema in (kept, wanted):
            ema.update(now, config.batch_size)
        if any(now <= end and now % every == 0 for end, every in CASES.values()):
            stored |= {(now, s): _flat(kept.tensors(i), names) for i, s in enumerate(config.ema_sigma_rels)}
        if now in {end for end, _ in CASES.values()}:
            tracked |= {(now, s): _flat(wanted.tensors(i), names).double().numpy() for i, s in enumerate(WANTED)}
        if now % 6400 == 0:
            print(f"trained {now:,} of {last:,} images", file=sys.stderr)
    return stored, tracked


def _flat(tensors: dict[str, torch.Tensor], names: list[str]) -> torch.Tensor:
    return torch.cat([tensors[name].reshape(-1) for name in names])


def compare(
    case: str,
    end: int,
    every: int,
    dtype: StoredDtype,
    stored: dict[tuple[int, float], torch.Tensor],
    tracked: dict[tuple[int, float], np.ndarray],
) -> list[Row]:
    snapshots, probes, values = [], {}, {}
    for (time, width), weights in stored.items():
        if time > end or time % every:
            continue
        name, raw = f"{time}-{width}", weights.to(DTYPES[dtype]).view(torch.uint8).numpy().tobytes()
        values[name] = as_float32(raw, DTYPE_CODES[dtype])
        probes[name] = values[name][:: len(weights) // PROBE_WEIGHTS].astype("<f4").tobytes()
        snapshots.append(StoredSnapshot(name, time, Profile.power(width), name, len(raw), "", dtype))
    found: list[list[tuple[float, float]]] = []
    for regularize in (False, True):
        planned = plan(
            snapshots, [Profile.power(s) for s in WANTED], regularize=regularize, probes=probes, update_images=64
        )
        matrix = np.stack([values[s.id] for s in planned.snapshots])
        results = []
        for output, width in zip(planned.outputs, WANTED, strict=True):
            truth, coefficients = tracked[end, width], np.array(output.coefficients)
            made = coefficients @ matrix.astype(np.float64)
            results.append((_distance(made, truth), output.errors.predicted_error))
        found.append(results)
    return [
        Row(case, dtype, width, *plain, *aware) for width, plain, aware in zip(WANTED, found[0], found[1], strict=True)
    ]


def _distance(made: np.ndarray, truth: np.ndarray) -> float:
    return float(np.linalg.norm(made - truth) / np.linalg.norm(truth))


def draw(rows: Sequence[Row]) -> bytes:
    """Draw measured errors as lines and predicted errors as marks; one row of panels per case, one column per dtype."""
    colours = {"plain": LIGHT.orange, "aware": LIGHT.blue}
    names = {"plain": "paper's least squares", "aware": "phema"}
    with page(LIGHT, (9.6, 5.6), len(CASES), len(DTYPES), sharex=True) as (figure, panels):
        grid = [(case, dtype) for case in CASES for dtype in DTYPES]
        for axes, (case, dtype) in zip(panels, grid, strict=True):
            mine = [row for row in rows if (row.case, row.dtype) == (case, dtype)]
            x = [100 * row.sigma_rel for row in mine]
            for kind, colour in colours.items():
                measured = [getattr(row, kind) for row in mine]
                predicted = [getattr(row, f"{kind}_predicted") for row in mine]
                axes.plot(x, measured, color=colour, linewidth=1.6, label=f"{names[kind]}, measured")
                axes.plot(x, predicted, color=colour, marker="x", markersize=4, linestyle="", label="predicted")
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_xticks([1, 2, 5, 10, 25], ["1 %", "2 %", "5 %", "10 %", "25 %"])
            axes.xaxis.set_minor_formatter(FuncFormatter(lambda value, place: ""))
            axes.set_title(f"{case}, {dtype}", loc="left", fontsize=10, fontweight="bold")
        figure.supxlabel("EMA length σ_rel", fontsize=9)
        figure.supylabel("relative error of the weights", fontsize=9)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=4)
        return image(figure)


if __name__ == "__main__":
    main()
