"""`client.sweep`, `phema sweep` and `phema sweeps` against a real API; the test computes the points."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from phema.client.client import Client
from phema.errors import JobFailed, Refused
from phema.shared import catalog
from phema.shared.catalog import JobKind, StudyKind
from phema.shared.recipes.continuous_evaluation import ContinuousEvaluation
from phema.shared.snapshots.profile import Profile
from phema.shared.studies.progress_curve import bracket_points
from phema.shared.studies.sweep_points import SweepPoints
from phema.shared.studies.sweep_spec import StoredSweep
from tests.phema.service import Service

Cli = Callable[..., tuple[int, str, str]]
GRID: dict[str, Any] = {"sigma_rel": [0.05, 0.1, 0.2], "num_samples": 64}
OPTIONS = ("--sigma-rel", "0.05,0.1,0.2", "--num-samples", "64")


def finish(service: Service, values: list[float] | Callable[[Any], float]) -> None:
    """Give all points of the queued sweep figures: these, or those that a function gives them."""
    job = service.claim(JobKind.SWEEP)
    with service.catalog.transaction() as tx:
        study = tx.studies.get(job.payload["study_id"])
        points = SweepPoints(StoredSweep.model_validate(study.spec), study.run_id)
        given = values if isinstance(values, list) else [values(point) for point in points]
        for number, (point, value) in enumerate(zip(points, given, strict=True)):
            tx.studies.add_point(study.id, number, point.model_dump(mode="json"))
            rec, _ = tx.reconstructions.find_or_create(
                run_id=study.run_id,
                num_images=point.weights.num_images,
                profile=point.weights.profile.model_dump(mode="json"),
                dtype="float32",
                plan={"snapshots": [], "coefficients": [], "predicted_error": 0.0, "noise_gain": 1.0},
            )
            row, _ = tx.evaluations.find_or_create(
                run_id=study.run_id, reconstruction_id=rec.id, recipe=point.recipe | {"guide_id": None}
            )
            figures = {"frechet": value, "held_out_loss": 0.4, "held_out_loss_level_1": 0.1}
            replicates = {"frechet": [value - 0.1, value + 0.1, value + 0.01 * number]}
            tx.evaluations.complete(row.id, figures, "png", errors={"frechet": 0.05}, replicates=replicates)
            tx.studies.set_point(study.id, number, evaluation_id=row.id)
        tx.studies.complete(study.id, {"best": 0, "sentence": "frechet is best somewhere"})
    service.finish(job)


def test_a_sweep_from_python(service: Service, client: Client, trained: catalog.Run) -> None:
    seen = []

    def work(job: Any) -> None:
        seen.append(job.state)
        if len(seen) == 1:
            finish(service, [0.5, 0.4, 0.45])

    sweep = client.sweep(trained.name, on_progress=work, **GRID)
    assert seen[-1] == "succeeded"
    assert (sweep.best, sweep.figure, sweep.num_points) == (1, "frechet", 3)
    assert sweep.best_point is not None
    assert sweep.best_point.weights.sigma_rel == 0.1
    assert sweep.points[0].difference == pytest.approx(0.1)
    assert client.sweep(trained.name, **GRID) == sweep
    more = client.sweeps.extend(sweep, wait=False, sigma_rel=[0.15])
    assert (more.extends, more.num_points) == (sweep.id, 4)
    assert [item.id for item in client.sweeps.list(trained.name)] == [more.id, sweep.id]
    assert client.sweeps.cancel(more).state == "cancelled"
    with pytest.raises(JobFailed):
        client.wait(more.job)


def test_profiles_and_guides_are_sent_as_json(client: Client, trained: catalog.Run) -> None:
    sweep = client.sweep(
        trained.name,
        profiles=[Profile.power(0.1), Profile(kind="uniform", window_images=6400)],
        guide={"sigma_rel": (0.2,), "num_images": 6400},
        guidance=(1, 2),
        wait=False,
    )
    assert sweep.num_points == 4
    assert sweep.spec["guide"]["num_images"] == [6400]
    with pytest.raises(Refused, match="sigma_rel"):
        client.sweep(trained.name, 0.3, wait=False)


def test_sweep_command(service: Service, cli: Cli, trained: catalog.Run) -> None:
    code, out, _ = cli("sweep", trained.name, *OPTIONS, "--no-wait")
    assert code == 0
    identity = out.split()[0]
    assert out == f"{identity} is queued; watch it with: phema sweep {identity}\n"
    finish(service, [0.5, 0.4, 0.41])
    code, out, _ = cli("sweep", trained.name, *OPTIONS)
    assert code == 0
    header, *rows = out.splitlines()
    assert header.split() == ["PROFILE", "FRECHET", "HELD_OUT_LOSS", "DIFFERENCE", "EVALUATION"]
    assert [row.split()[0] for row in rows[:3]] == ["0.1", "0.2", "0.05"]
    assert "0.4000 ± 0.05" in rows[0]
    assert "best" in rows[0]
    assert "not told from the best" in rows[1]
    assert rows[-1] == "frechet is best at sigma_rel 0.1: 0.4 ± 0.05; it cannot be told from sigma_rel 0.2"
    assert cli("sweep", identity)[1] == out
    code, out, _ = cli("sweeps", trained.name)
    assert "frechet is best somewhere" in out
    assert json.loads(cli("sweeps", trained.name, "--json")[1])[0]["id"] == identity


def test_axes_of_the_command(cli: Cli, trained: catalog.Run) -> None:
    options = ["--sigma-rel", "0.05,0.10,...,0.20", "--at", "12800,25600", "--guidance", "1,1.5,...,2.5"]
    options += ["--guidance-interval", "0.2,1.6", "--guidance-interval", "all", "--guide-sigma-rel", "0.1"]
    options += ["--guide-images", "6400", "--num-steps", "8,16", "--churn", "0,10", "--seed", "0,1"]
    code, out, err = cli("sweep", trained.name, *options, "--metric", "frechet", "--no-wait", "--json")
    assert code == 0, err
    sweep = json.loads(out)
    assert sweep["num_points"] == 4 * 2 * (1 + 3 * 2) * 8
    assert sweep["spec"]["guidance_interval"] == [[0.2, 1.6], None]
    more = json.loads(cli("sweep", sweep["id"], "--seed", "2", "--no-wait", "--json")[1])
    assert (more["extends"], more["spec"]["seed"]) == (sweep["id"], [0, 1, 2])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--sigma-rel", "0.05,..."], "--sigma-rel: the ... in '0.05,...' needs a number after it"),
        (["--sigma-rel", "0.1", "--num-steps", "8.5"], "--num-steps 8.5 must be a whole number"),
        (["--sigma-rel", "0.1", "--guidance-interval", "x"], "--guidance-interval 'x' must be two noise levels"),
        ([], "neither is given"),
        (["--sigma-rel", "0.1", "--at", "6000"], "num_images 6000 has no snapshot"),
    ],
)
def test_mistakes_are_one_sentence(cli: Cli, trained: catalog.Run, options: list[str], sentence: str) -> None:
    code, _, err = cli("sweep", trained.name, *options)
    assert code == 2
    assert sentence in err
    assert err.count("\n") == 1


def test_watching_a_run_shows_its_continuous_evaluation(service: Service, client: Client, cli: Cli, name: str) -> None:
    run = client.runs.create(name, config={"evaluation": {"every_snapshots": 1, "metrics": ["frechet"]}})
    service.progress(run.id, 3200)
    assert client.runs.progress_curve(name).points == []
    with service.catalog.transaction() as tx:
        study = tx.studies.page(StudyKind.FOLLOW, run.id).items[0]
        config = ContinuousEvaluation.model_validate(study.spec)
        for number, spec in enumerate(bracket_points(run.id, config, ["frechet"], 3200, None)):
            tx.studies.add_point(study.id, number, spec.model_dump(mode="json"))
            rec, _ = tx.reconstructions.find_or_create(
                run_id=run.id,
                num_images=3200,
                profile=spec.weights.profile.model_dump(mode="json"),
                dtype="float32",
                plan={"snapshots": [], "coefficients": [], "predicted_error": 0.0, "noise_gain": 1.0},
            )
            recipe = spec.recipe | {"guide_id": None, "seed": 0}
            row, _ = tx.evaluations.find_or_create(run_id=run.id, reconstruction_id=rec.id, recipe=recipe)
            tx.evaluations.complete(row.id, {"frechet": 0.5 - 0.1 * number}, "png", errors={"frechet": 0.02})
            tx.studies.set_point(study.id, number, evaluation_id=row.id)
    service.finish(service.claim(JobKind.TRAIN))
    curve = client.runs.progress_curve(name)
    assert [(p.num_images, p.sigma_rel, p.value, p.edge) for p in curve.points] == [(3200, 0.14, 0.3, True)]
    code, _, err = cli("runs", "watch", name)
    assert code == 0
    assert "frechet 0.3000 ± 0.02 at sigma_rel 0.14 after 3,200 images" in err
