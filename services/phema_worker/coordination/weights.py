"""The reconstructions of a study's points, planned without a transaction and made in one pass per time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from phema.services.phema_worker.coordination.study_work import StudyWork
from phema.shared.catalog import NotFound
from phema.shared.snapshots.profile import Profile
from phema.shared.studies.point import WeightsSpec
from phema.shared.submissions import reconstructions
from phema.shared.submissions.errors import SnapshotsGone, SubmissionError
from phema.shared.submissions.reconstructions import ReconstructionRequest
from phema.shared.submissions.stored_inputs import StoredInputs, load_stored_inputs

_TRIES = 3
"""Plans of the same weights, when retention retires planned snapshots meanwhile."""


@dataclass(frozen=True)
class Weights:
    """A reconstruction, finished or under way; or why there is none, in one sentence."""

    reconstruction_id: str | None = None
    error: str | None = None

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {"reconstruction_id": self.reconstruction_id, "error": self.error}


def request_weights(work: StudyWork, wanted: Sequence[WeightsSpec]) -> list[Weights]:
    """Enqueue the reconstructions of weights of one run and time, those that exist excepted; in order."""
    run_id, num_images = wanted[0].run_id, wanted[0].num_images
    profiles = tuple(weights.profile for weights in wanted)
    try:
        return _request(work, run_id, num_images, profiles)
    except (SubmissionError, NotFound) as error:
        if len(profiles) == 1:
            return [Weights(error=str(error))]
    # One impossible profile must not keep the others from being made.
    return [found for one in wanted for found in request_weights(work, [one])]


def _request(work: StudyWork, run_id: str, num_images: int, profiles: tuple[Profile, ...]) -> list[Weights]:
    request = ReconstructionRequest(profiles, num_images, field="sigma_rel")
    for left in reversed(range(_TRIES)):
        planned = reconstructions.plan(_inputs(work, run_id), request)
        try:
            with work.write() as tx:
                made = reconstructions.submit(tx, run_id, planned, request, work.weights_options)
            return [Weights(row.id) for row in made.rows]
        except SnapshotsGone:
            if not left:
                raise
    raise AssertionError("unreachable")


def _inputs(work: StudyWork, run_id: str) -> StoredInputs:
    with work.read() as tx:
        return load_stored_inputs(tx, run_id)
