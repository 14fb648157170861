"""A sweep, a search and a model over the seeded runs, as their workers would leave them."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np

from phema.services.api.searches.schemas import CurvePoint, SearchResult
from phema.shared.catalog import JobKind, StudyKind
from phema.shared.datasets.digits import load_digits
from phema.shared.pictures.picture_grid import grid_png
from phema.shared.studies.search_spec import SearchSpec
from phema.shared.studies.sweep_points import SweepPoints
from phema.shared.studies.sweep_spec import StoredSweep
from tests.api import seed
from tests.api.promotable import evaluate, weights
from tests.pages.conftest import Seeded
from tests.pages.seeding import LENGTHS, RECIPE, TIMES

RUN = "digits-constant"


def add_sweep(seeded: Seeded) -> str:
    """Id of a sweep over the seeded EMA lengths, of which all but the last two are evaluated."""
    asked = {"run": RUN, "sigma_rel": list(LENGTHS), "num_images": TIMES[-1], **RECIPE}
    sweep: str = _post(seeded, "v1/sweeps", asked)["id"]
    with seeded.catalog.transaction() as tx:
        study = tx.studies.get(sweep, StudyKind.SWEEP)
        stored = StoredSweep.model_validate(study.spec)
        points = SweepPoints(stored, study.run_id)
        evaluated = {row.reconstruction.sigma_rel: row for row in tx.evaluations.finished(study.run_id, 100)}
        for number in range(stored.num_points - 2):
            point = points[number]
            row = evaluated[point.weights.profile.sigma_rel]
            tx.studies.add_point(study.id, number, point.model_dump(mode="json"))
            tx.studies.set_point(study.id, number, reconstruction_id=row.reconstruction_id, evaluation_id=row.id)
        failed = stored.num_points - 2
        tx.studies.add_point(study.id, failed, points[failed].model_dump(mode="json"))
        tx.studies.set_point(study.id, failed, error="its network is broken")
    return sweep


def add_search(seeded: Seeded) -> str:
    """Id of a finished search over the EMA length."""
    asked = {"run": RUN, "sigma_rel": [0.02, 0.25], "budget": 4000, "num_images": TIMES[-1], "figure": "frechet"}
    search: str = _post(seeded, "v1/searches", asked)["id"]
    job = seed.claim(seeded.catalog, JobKind.SEARCH)
    curve = [
        CurvePoint(
            point={"sigma_rel": length}, value=0.377 + 8 * (length - 0.13) ** 2, difference=0.0, difference_error=0.01
        )
        for length in LENGTHS
    ]
    result = SearchResult(
        figure="frechet",
        point={"sigma_rel": 0.13},
        value=0.377,
        standard_error=0.004,
        num_samples=1000,
        seed=3000,
        interval={"sigma_rel": (0.11, 0.16)},
        at_edge={},
        interval_reaches={},
        indistinguishable=[curve[4]],
        curve=curve,
        pictures=4000,
        sentence="frechet is best at sigma_rel 0.13 (0.11 to 0.16): 0.377 ± 0.004",
    )
    with seeded.catalog.transaction() as tx:
        study = tx.studies.get(search, StudyKind.SEARCH)
        spec = SearchSpec.model_validate(study.spec)
        row = next(one for one in tx.evaluations.finished(study.run_id, 100) if one.reconstruction.sigma_rel == 0.13)
        tx.studies.add_point(study.id, 0, spec.point(study.run_id, (0.13,), 300, 7).model_dump(mode="json"), stage=1)
        tx.studies.set_point(study.id, 0, reconstruction_id=row.reconstruction_id, evaluation_id=row.id)
        tx.studies.complete(study.id, result.model_dump(mode="json"))
        tx.leases.succeed(job.id, job.fence, {})
    return search


def add_model(seeded: Seeded) -> str:
    """The reference `name:version` of a model that was evaluated before its promotion."""
    row = weights(seeded, RUN, 0.14)
    seeded.store.put("pictures/model-0.png", grid_png(load_digits(held_out=0).train.batch(np.arange(16))[0], 4))
    evaluate(seeded, row, {"frechet": 0.377, "held_out_loss": 0.14}, "pictures/model-0.png", **RECIPE)
    asked = {"name": "digits", "reconstruction_id": row.id, "description": "The best of the demo."}
    reference: str = _post(seeded, "v1/models", asked)["reference"]
    return reference


def _post(seeded: Seeded, path: str, body: dict[str, Any]) -> Any:
    answer = httpx.post(f"{seeded.url}/{path}", json=body, timeout=60)
    assert answer.is_success, answer.text
    return answer.json()
