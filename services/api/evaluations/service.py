"""Evaluations as answers, and their files of pictures. `shared.submissions` checks and submits them."""

from __future__ import annotations

from phema.services.api.evaluations.schemas import Evaluation, EvaluationCreate
from phema.services.api.http.downloads import Download
from phema.services.api.http.idempotency import EndpointResult
from phema.services.api.http.problems import Damaged, Invalid, NotFinished
from phema.services.api.http.query_parameters import run_id_of
from phema.services.api.http.schema_base import Page
from phema.services.api.runs.service import finite
from phema.shared import catalog
from phema.shared.catalog import JobState, Transaction
from phema.shared.recipes.evaluation_recipe import EvaluationRecipe
from phema.shared.snapshots.profile import Profile
from phema.shared.snapshots.stores.interface import ObjectStore
from phema.shared.snapshots.stores.verification import digest
from phema.shared.submissions import evaluations
from phema.shared.submissions.evaluations import unfinished
from phema.shared.submissions.job_options import JobOptions


def create(tx: Transaction, body: EvaluationCreate, *, max_attempts: int) -> EndpointResult:
    """The evaluation with this recipe, and a job if it needs one. Raises SubmissionError."""
    row = evaluations.submit(tx, body.request, JobOptions(max_attempts), unfinished_weights=True)
    return EndpointResult(200 if row.state is JobState.SUCCEEDED else 202, to_evaluation(row))


def to_evaluation(row: catalog.Evaluation) -> Evaluation:
    done = row.state is JobState.SUCCEEDED
    return Evaluation(
        id=row.id,
        run_id=row.run_id,
        reconstruction_id=row.reconstruction_id,
        num_images=row.reconstruction.num_images,
        profile=row.reconstruction.profile,
        label=Profile.model_validate(row.reconstruction.profile).label,
        sigma_rel=row.reconstruction.sigma_rel,
        state=row.state,
        recipe=EvaluationRecipe.model_validate(row.recipe),
        figures=finite(row.figures) if row.figures is not None else None,
        errors=finite(row.errors) if row.errors is not None else None,
        provenance=row.provenance,
        archive_size=row.archive["size"] if row.archive is not None else None,
        job_id=row.job_id,
        error=row.job.error if row.job and not done else None,
        created_at=row.created_at,
    )


def page(tx: Transaction, *, run: str | None, cursor: str | None, limit: int) -> Page[Evaluation]:
    """Newest first. Raises Invalid when `run` does not exist, catalog.BadCursor."""
    found = tx.evaluations.page(run_id_of(tx, run), after=cursor, limit=limit)
    return Page(items=[to_evaluation(row) for row in found.items], next_cursor=found.next_cursor)


def pictures_key(tx: Transaction, evaluation_id: str) -> str:
    """Raises catalog.NotFound, NotFinished."""
    row = tx.evaluations.get(evaluation_id)
    if row.pictures_key is None:
        raise NotFinished(unfinished(f"evaluation {row.id}", row.state, row.job))
    return row.pictures_key


def archive(tx: Transaction, evaluation_id: str) -> Download:
    """The zip file of all pictures. Raises catalog.NotFound, NotFinished, Invalid."""
    row = tx.evaluations.get(evaluation_id)
    if row.figures is None:
        raise NotFinished(unfinished(f"evaluation {row.id}", row.state, row.job))
    if row.archive is None:
        raise Invalid.of(
            "evaluation_id",
            f"evaluation {row.id} kept no pictures; ask for the same evaluation with keep_pictures true",
        )
    file = row.archive
    return Download(file["key"], file["size"], file["sha256"], f"{evaluation_id}.zip", "application/zip")


def pictures(store: ObjectStore, evaluation_id: str, key: str) -> Download:
    """Size and hash come from the store: the catalog does not have them. Raises Damaged."""
    info = store.head(key)
    if info is None:
        raise Damaged(f"the pictures of evaluation {evaluation_id} are missing from the store")
    if info.sha256 is None and store.local_path(key) is not None:
        info = digest(store, key)
    return Download(key, info.size, info.sha256, f"{evaluation_id}.png", "image/png", inline=True)
