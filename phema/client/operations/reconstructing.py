"""Planning and reconstructing weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from phema.client.average_models import Plan, ProfileCurves, Reconstruction
from phema.client.operations.operations import Operations
from phema.client.resources.watched import identity_of
from phema.client.response_models import Job, Run
from phema.client.rows import Rows
from phema.client.transport import listed, route

if TYPE_CHECKING:
    # The methods that use profiles import them: most commands do not, and start faster without.
    from phema.client.reconstruction_requests import Profiles, Tensors


class Reconstructing(Operations):
    """Reconstructions of a run's weights."""

    def plan(
        self,
        run: str | Run,
        sigma_rel: float | Sequence[float] | None = None,
        num_images: int | None = None,
        *,
        profiles: Profiles | None = None,
        tensors: Tensors | None = None,
        dtype: str = "float32",
        regularize: bool = True,
        tolerance: float | None = None,
    ) -> Plan:
        """What `reconstruct` would read, and the predicted errors. Arguments as `reconstruct`. Reads no weights."""
        from phema.client.reconstruction_requests import request_body  # see the top of the file

        body = request_body(sigma_rel, profiles, tensors, num_images, dtype, regularize, tolerance)
        answer = self._transport.post(route("runs", identity_of(run), "reconstructions"), body | {"plan_only": True})
        return Plan.read(answer)

    def profile_curves(
        self,
        run: str | Run,
        sigma_rel: float | Sequence[float] | None = None,
        num_images: int | None = None,
        *,
        profiles: Profiles | None = None,
        tensors: Tensors | None = None,
        regularize: bool = True,
        tolerance: float | None = None,
        points: int = 200,
    ) -> ProfileCurves:
        """The plan of a reconstruction with its curves, for drawing. Arguments as `reconstruct`. Reads no weights.

        Each curve is the wanted and the reconstructed weighting of training history at `points` times. `shares` holds
        the coefficient of each snapshot.
        """
        from phema.client.reconstruction_requests import wanted_body  # see the top of the file

        body = wanted_body(sigma_rel, profiles, tensors, num_images)
        body |= {"regularize": regularize, "tolerance": tolerance, "points": points}
        return ProfileCurves.read(self._transport.post(route("runs", identity_of(run), "profile-curves"), body))

    def reconstruct(
        self,
        run: str | Run,
        sigma_rel: float | Sequence[float] | None = None,
        num_images: int | None = None,
        *,
        profiles: Profiles | None = None,
        tensors: Tensors | None = None,
        dtype: str = "float32",
        regularize: bool = True,
        tolerance: float | None = None,
        wait: bool = True,
        on_progress: Callable[[Job], None] | None = None,
    ) -> Rows[Reconstruction]:
        """Reconstruct weights of `run` with averages chosen after training: one result per profile, in order.

        Give either `sigma_rel`, one or more numbers, or `profiles`, one or more `phema.Profile`s (or their JSON).
        `tensors` maps patterns of tensor names to a sigma_rel or profile, in order of precedence; there must be exactly
        one profile for the other tensors then. `num_images` is a training time with a snapshot; None is the latest.
        `dtype` is float32, float16 or bfloat16. `regularize=False` is the paper's plain least squares. `tolerance` is
        a predicted relative error that is sufficient: fewer snapshots are read. With None, the prediction is as good
        as with all snapshots.

        An existing reconstruction is not computed again. With `wait`, returns when all are finished, and raises
        JobFailed if one fails. Without `wait`, returns at once; `reconstruction(id)` then returns the state. `advice`
        of a result says why a fit is poor.
        """
        from phema.client.reconstruction_requests import request_body  # see the top of the file

        body = request_body(sigma_rel, profiles, tensors, num_images, dtype, regularize, tolerance)
        answer = self._transport.post(route("runs", identity_of(run), "reconstructions"), body)
        items = Rows(Reconstruction.read(item) for item in listed(answer, "reconstructions"))
        if not wait:
            return items
        # Jobs of earlier requests may be computing some of the outputs.
        for job in dict.fromkeys(item.job_id for item in items if not item.done and item.job_id):
            self.wait(job, on_progress=on_progress)
        return Rows(self.reconstructions.get(item.id) for item in items)

    def reconstruction(self, reconstruction_id: str) -> Reconstruction:
        """The reconstruction with this id: the same as `client.reconstructions.get`."""
        return self.reconstructions.get(reconstruction_id)
