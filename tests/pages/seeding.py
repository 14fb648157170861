"""Fills an empty service with runs in every state, as trainers and workers would: pages of tests and screenshots."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from phema.shared.catalog import Catalog, JobKind, Reconstruction, Run
from phema.shared.datasets.digits import load_digits
from phema.shared.metrics.figures import jackknifed
from phema.shared.pictures.picture_grid import grid_png
from phema.shared.recipes.evaluation_recipe import EvaluationRecipe
from phema.shared.recipes.presets import resolve
from phema.shared.snapshots.planning.stored_plan import StoredPlan
from phema.shared.snapshots.profile import Profile
from phema.shared.snapshots.stores.interface import ObjectStore
from phema.shared.submissions import reconstructions as submissions
from phema.shared.submissions.stored_inputs import load_stored_inputs
from tests.api import seed

TOTAL = 76_800
TIMES = tuple(range(3200, TOTAL + 1, 3200))
LENGTHS = (0.03, 0.05, 0.07, 0.10, 0.13, 0.16, 0.20, 0.25)
RECIPE = {"num_samples": 1000, "num_steps": 12, "metrics": ["frechet", "held_out_loss"]}
BINS = 4
BEST = {"digits-constant": (0.377, 0.13), "digits-recipe": (0.556, 0.10), "digits-wide": (0.49, 0.16)}
"""By run: the best Fréchet distance, and its EMA length."""


def fill(catalog: Catalog, store: ObjectStore) -> dict[str, Run]:
    """The runs by name. The oldest is `digits-constant`, the most complete one.

    digits-constant, digits-recipe: finished and evaluated; digits-wide: running, second attempt; digits-hot: failed;
    digits-late: queued; my-own-loop: external; adopted: imported and ended.
    """
    runs = {
        "digits-constant": _run(catalog, "digits-constant", {"learning_rate": 0.02, "lr_decay_iterations": None}),
        "digits-recipe": _run(catalog, "digits-recipe", {}),
        "digits-wide": _run(catalog, "digits-wide", {"network": {"model_channels": 32}, "noise_level_bins": BINS}),
    }
    jobs = [seed.claim(catalog, JobKind.TRAIN) for _ in runs]
    for number, name in enumerate(("digits-constant", "digits-recipe")):
        _train(catalog, store, runs[name], TOTAL, number)
        with catalog.transaction() as tx:
            tx.leases.succeed(jobs[number].id, jobs[number].fence, {})
    wide = runs["digits-wide"]
    _train(catalog, store, wide, 32_000, 2)
    with catalog.transaction() as tx:
        tx.leases.heartbeat(jobs[2].id, jobs[2].fence, lease_seconds=-1.0)
        tx.leases.expire(reason=lambda job: "The trainer's node has sent no heartbeat for 60 s")
    again = seed.claim(catalog, JobKind.TRAIN)
    with catalog.transaction() as tx:
        tx.leases.begin_work(again.id, again.fence)
        tx.leases.heartbeat(again.id, again.fence, lease_seconds=86_400.0, progress=32_000 / TOTAL, message="training")
    for name, (best, at) in BEST.items():
        _evaluate(catalog, store, runs[name], TIMES[-1] if name != "digits-wide" else 32_000, best, at)
    hot = _run(catalog, "digits-hot", {"learning_rate": 0.5})
    job = seed.claim(catalog, JobKind.TRAIN)
    history(catalog, hot, 6400, seed_number=7, scale=9.0)
    with catalog.transaction() as tx:
        tx.runs.set_progress(hot.id, 6400)
        tx.leases.fail(job.id, job.fence, "The loss is not finite at 6,400 images; lower learning_rate.", retry=False)
    with catalog.transaction() as tx:
        late = tx.runs.create("digits-late", hot.config, hot.config_hash, hot.total_images)
        external, _ = tx.external_runs.open("my-own-loop", origin="external", config={"lr": 1e-3}, total_images=None)
        adopted, _ = tx.external_runs.open("adopted", origin="imported", config={}, total_images=TIMES[3])
    for run in (external, adopted):
        seed.snapshots(catalog, store, run.id, TIMES[:4])
        with catalog.transaction() as tx:
            tx.external_runs.seen(run.id, TIMES[3])
    with catalog.transaction() as tx:
        tx.external_runs.finish(adopted.id)
    return runs | {run.name: run for run in (hot, late, external, adopted)}


def _run(catalog: Catalog, name: str, changes: dict[str, Any]) -> Run:
    config = resolve("digits-tiny", changes)
    with catalog.transaction() as tx:
        return tx.runs.create(name, config.model_dump(mode="json"), config.config_hash, config.total_images)


def _train(catalog: Catalog, store: ObjectStore, run: Run, images: int, number: int) -> None:
    history(catalog, run, images, seed_number=number)
    seed.snapshots(catalog, store, run.id, [time for time in TIMES if time <= images])
    with catalog.transaction() as tx:
        tx.runs.set_progress(run.id, images)


def history(catalog: Catalog, run: Run, images: int, *, seed_number: int = 0, scale: float = 1.0) -> None:
    """Rows every 1,280 images, with magnitudes every 3,840; with noise-level bins where the run asks for them."""
    random = np.random.default_rng(seed_number)
    with catalog.transaction() as tx:
        for time in range(1280, images + 1, 1280):
            share = time / TOTAL
            loss = scale * (0.16 + 0.9 * math.exp(-12 * share)) * (1 + 0.03 * random.standard_normal())
            values = {
                "loss": loss,
                "denoising_loss": 2.4 * loss,
                "learning_rate": 0.02 / math.sqrt(1 + 6 * share),
                "grad_norm": scale * (58 - 20 * share) * (1 + 0.1 * random.standard_normal()),
                "grad_nonfinite": 0.0,
                "images_per_second": 640 + 30 * float(random.standard_normal()),
                "data_wait_share": 0.003,
            }
            for level in range(int(run.config["noise_level_bins"])):
                values[f"loss_by_noise/{level}"] = loss * (2.2 - 0.5 * level)
            if time % 3840 == 0:
                for bucket, size in (("enc/8", 1.0), ("enc/4", 1.4), ("dec/4", 1.8), ("dec/8", 1.2)):
                    for kind, base in (("activation", 3.0), ("weight", 1.0)):
                        top = base * size * (1 + 0.4 * share)
                        values |= {f"{kind}/{bucket}/max": top, f"{kind}/{bucket}/mean": top / 2}
            tx.history.put(run.id, time, values)


def _evaluate(catalog: Catalog, store: ObjectStore, run: Run, time: int, best: float, at: float) -> None:
    """Evaluations of eight EMA lengths at one time, with a parabola of figures and shared noise of the seeds."""
    noise = np.random.default_rng(5).standard_normal(20) / 100
    pictures, _ = load_digits(held_out=0).train.batch(np.arange(100 * len(LENGTHS)))
    found = reconstructions(catalog, store, run, time, LENGTHS)
    for number, (length, weights) in enumerate(zip(LENGTHS, found, strict=True)):
        value = best + 8 * (length - at) ** 2
        own = np.random.default_rng(number).standard_normal(20) / 1000
        figure = jackknifed(value, list(value + noise + own))
        loss = jackknifed(0.14 + (length - at) ** 2, list(0.14 + (length - at) ** 2 + noise / 20))
        grid = grid_png(pictures[100 * number : 100 * number + 100], 10)
        evaluation(
            catalog,
            store,
            weights,
            {"frechet": figure.value, "held_out_loss": loss.value},
            errors={"frechet": figure.standard_error or 0.0, "held_out_loss": loss.standard_error or 0.0},
            replicates={"frechet": list(figure.replicates), "held_out_loss": list(loss.replicates)},
            png=grid,
        )


def reconstructions(
    catalog: Catalog, store: ObjectStore, run: Run, time: int, lengths: Sequence[float]
) -> list[Reconstruction]:
    """Finished reconstructions, with real plans and a few bytes instead of weights."""
    with catalog.transaction(read_only=True) as tx:
        inputs = load_stored_inputs(tx, run.id)
    profiles = tuple(map(Profile.power, lengths))
    planned = submissions.plan(inputs, submissions.ReconstructionRequest(profiles, num_images=time))
    rows = []
    for output in planned.outputs:
        with catalog.transaction() as tx:
            row, _ = tx.reconstructions.find_or_create(
                run_id=run.id,
                num_images=time,
                profile=output.profile.model_dump(mode="json"),
                dtype="float32",
                plan=StoredPlan.of(planned, output, regularize=True).to_json(),
            )
        info = store.put(f"runs/{run.id}/reconstructions/{row.id}-0.safetensors", b"weights of " + row.id.encode())
        with catalog.transaction() as tx:
            rows.append(tx.reconstructions.complete(row.id, info.key, info.size, info.sha256 or "0" * 64))
    return rows


def evaluation(
    catalog: Catalog,
    store: ObjectStore,
    weights: Reconstruction,
    figures: Mapping[str, float],
    *,
    errors: Mapping[str, float] | None = None,
    replicates: Mapping[str, Sequence[float]] | None = None,
    png: bytes | None = None,
    recipe: Mapping[str, Any] | None = None,
) -> str:
    """Id of a finished evaluation."""
    complete = EvaluationRecipe.model_validate({**RECIPE, **(recipe or {})})
    with catalog.transaction() as tx:
        row, _ = tx.evaluations.find_or_create(
            run_id=weights.run_id, reconstruction_id=weights.id, recipe=complete.document()
        )
    key = None if png is None else f"pictures/{row.id}-0.png"
    if key is not None and png is not None:
        store.put(key, png)
    with catalog.transaction() as tx:
        tx.evaluations.complete(
            row.id,
            dict(figures),
            key,
            errors=dict(errors or {}),
            replicates={name: list(values) for name, values in (replicates or {}).items()},
            provenance={"pictures_per_second": 120.0},
        )
    return row.id
