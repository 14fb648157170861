"""`client.search`, `phema search` and `phema searches` against a real API; the test computes the points."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from phema.client.client import Client
from phema.errors import JobFailed, Refused
from phema.shared import catalog
from phema.shared.catalog import JobKind
from phema.shared.studies.search_answer import Answer
from phema.shared.studies.search_progress import answer_document, evaluated_points
from phema.shared.studies.search_spec import SearchSpec
from phema.shared.studies.search_steps import next_step
from tests.phema.service import Service
from tests.studies.simulated_figures import SimulatedFigures, falling, steep

Cli = Callable[..., tuple[int, str, str]]
OPTIONS = ("--sigma-rel", "0.02,0.2", "--budget", "1000")


def finish(service: Service, figures: SimulatedFigures) -> None:
    """Do all steps of the queued search with simulated figures."""
    job = service.claim(JobKind.SEARCH)
    stage = 0
    while True:
        with service.catalog.transaction() as tx:
            study = tx.studies.get(job.payload["study_id"])
            spec = SearchSpec.model_validate(study.spec)
            points = tx.studies.points(study.id)
            replicates = tx.evaluations.replicates(p.evaluation_id for p in points if p.evaluation_id)
            step = next_step(spec.problem, evaluated_points(spec, points, replicates))
            if isinstance(step, Answer):
                tx.studies.complete(study.id, answer_document(spec, step))
                break
            for number, point in enumerate(step.points, len(points)):
                row = spec.point(study.run_id, point, step.num_samples, step.seed)
                tx.studies.add_point(study.id, number, row.model_dump(mode="json"), stage=stage)
                rec, _ = tx.reconstructions.find_or_create(
                    run_id=study.run_id,
                    num_images=row.weights.num_images,
                    profile=row.weights.profile.model_dump(mode="json"),
                    dtype="float32",
                    plan={"snapshots": [], "coefficients": [], "predicted_error": 0.0, "noise_gain": 1.0},
                )
                evaluation, _ = tx.evaluations.find_or_create(
                    run_id=study.run_id, reconstruction_id=rec.id, recipe=row.recipe | {"guide_id": None}
                )
                found = figures(point, step.num_samples, step.seed)
                name = str(spec.figure)
                tx.evaluations.complete(
                    evaluation.id,
                    {name: found.value},
                    "png",
                    errors={name: found.standard_error or 0.0},
                    replicates={name: list(found.replicates)},
                )
                tx.studies.set_point(study.id, number, evaluation_id=evaluation.id)
        stage += 1
    service.finish(job)


def test_a_search_from_python(service: Service, client: Client, trained: catalog.Run) -> None:
    seen = []

    def work(job: Any) -> None:
        seen.append(job.state)
        if len(seen) == 1:
            finish(service, SimulatedFigures(steep))

    search = client.search(trained.name, (0.02, 0.2), budget=1000, on_progress=work)
    assert seen[-1] == "succeeded"
    assert search.result is not None
    assert steep(search.result.point["sigma_rel"]) < 2.1
    low, high = search.result.interval["sigma_rel"]
    assert low <= search.result.point["sigma_rel"] <= high
    assert len(search.result.curve) == 41
    assert {point.step for point in search.points} == set(range(max(point.step for point in search.points) + 1))
    assert client.search(trained.name, (0.02, 0.2), budget=1000) == search
    other = client.search(trained.name, budget=2000, wait=False)
    assert [item.id for item in client.searches.list(trained.name)] == [other.id, search.id]
    assert client.searches.cancel(other).state == "cancelled"
    with pytest.raises(JobFailed):
        client.wait(other.job)


def test_the_command_shows_points_and_answer(service: Service, cli: Cli, trained: catalog.Run) -> None:
    code, out, _ = cli("search", trained.name, *OPTIONS, "--no-wait")
    assert code == 0
    identity = out.split()[0]
    assert out == f"{identity} is queued; watch it with: phema search {identity}\n"
    finish(service, SimulatedFigures(falling))
    code, out, _ = cli("search", trained.name, *OPTIONS)
    assert code == 0
    table, answer = out.split("\n\n")
    assert "FRECHET_DIGITS" in table.splitlines()[0]
    assert [line for line in table.splitlines() if " best " in line]
    assert "frechet_digits is best at sigma_rel 0.2 (" in answer
    assert "it lies at the high edge of the range of sigma_rel, so search further there" in answer
    code, out, _ = cli("searches", trained.name)
    assert identity in out
    assert "frechet_digits is best at" in out
    code, out, _ = cli("search", identity, "--json")
    document = json.loads(out)
    assert document["result"]["at_edge"] == {"sigma_rel": "high"}
    assert document["result"]["pictures"] <= 1000


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--sigma-rel", "0.1"), "--sigma-rel '0.1' must be two numbers LOW,HIGH"),
        (
            ("--guide-run", "digits"),
            "--guide-run and --guide-images need the guide's EMA length; add --guide-sigma-rel",
        ),
        (("--budget", "10"), "budget is 10 pictures; this search needs at least 608"),
    ],
)
def test_mistakes_are_one_sentence(cli: Cli, trained: catalog.Run, options: tuple[str, ...], sentence: str) -> None:
    code, _, err = cli("search", trained.name, *options)
    assert code != 0
    assert sentence in err


def test_a_search_cannot_be_changed(cli: Cli, client: Client, trained: catalog.Run) -> None:
    search = client.search(trained.name, wait=False)
    code, _, err = cli("search", search.id, "--budget", "9000")
    assert code != 0
    assert "a search cannot change; start another search of the run" in err
    with pytest.raises(Refused, match="guide is given without guidance"):
        client.search(trained.name, guide={"sigma_rel": 0.1}, wait=False)
