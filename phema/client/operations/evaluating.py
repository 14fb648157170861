"""Evaluations: pictures drawn and scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Unpack

from phema.client.average_models import Reconstruction
from phema.client.operations.reconstructing import Reconstructing
from phema.client.recipe_fields import RecipeFields
from phema.client.resources.evaluations import evaluation_of
from phema.client.resources.watched import identity_of
from phema.client.response_models import Evaluation, Job, Run
from phema.client.run_configurations import plain_fields
from phema.errors import InvalidArgument

if TYPE_CHECKING:
    from phema.client.reconstruction_requests import ProfileLike

Guide = Reconstruction | str | tuple[str | Run, int | None, float | None]
"""Weights of the guide: a finished reconstruction, its id, or (run, num_images, sigma_rel)."""


class Evaluating(Reconstructing):
    """Evaluations of weights."""

    def evaluate(
        self,
        weights: str | Reconstruction | Run,
        sigma_rel: float | None = None,
        num_images: int | None = None,
        *,
        profile: ProfileLike | None = None,
        preset: str | None = None,
        guide: Guide | None = None,
        wait: bool = True,
        on_progress: Callable[[Job], None] | None = None,
        **recipe: Unpack[RecipeFields],
    ) -> Evaluation:
        """Sample pictures from weights and compute their metrics.

        `weights` is a finished reconstruction or its id. With `sigma_rel` or `profile`, it is a run: its weights are
        reconstructed first, at `num_images`; None is the latest time.

        `recipe` holds fields of the sampling recipe: num_samples, num_steps, guidance, guidance_interval, churn, seed,
        metrics, grid, …; `docs/evaluations.md` lists them. `guide` needs `guidance`. It is a finished reconstruction,
        its id, or (run, num_images, sigma_rel), which is reconstructed first; num_images None is the latest. The guide
        may come from any run and time with the same picture shape and classes.

        `preset` names the settings of a published figure, as `phema presets sampling` lists them: sigma_rel, metrics,
        num_samples, guidance. Other arguments replace its values. With a preset, the guide's num_images and sigma_rel
        may be None: they are the preset's.

        With `wait`, the result has `figures`, and JobFailed is raised if the job fails.
        """
        fields: dict[str, Any] = dict(recipe)
        if preset is not None:
            from phema.client.sampling_presets import published_settings

            published = published_settings(preset, guided=guide is not None or "guide_id" in fields)
            fields = published.recipe | fields
            if sigma_rel is None and profile is None and not _is_reconstruction(weights):
                sigma_rel = published.sigma_rel
            if published.guide is not None and isinstance(guide, tuple):
                run, at, width = guide
                guide = (run, at or published.guide.num_images, width or published.guide.sigma_rel)
        if guide is not None:
            fields |= self._guidance(guide, fields, on_progress)
        identity = self._weights(weights, sigma_rel, profile, num_images, on_progress)
        answer = self._transport.post("/v1/evaluations", {"reconstruction_id": identity, **plain_fields(fields)})
        evaluation = evaluation_of(self._transport, answer)
        if not wait:
            return evaluation
        if not evaluation.done and evaluation.job_id:
            self.wait(evaluation.job_id, on_progress=on_progress)
        return self.evaluations.get(evaluation.id)

    def _weights(
        self,
        weights: str | Reconstruction | Run,
        sigma_rel: float | None,
        profile: ProfileLike | None,
        num_images: int | None,
        on_progress: Callable[[Job], None] | None,
    ) -> str:
        """Id of the reconstruction; that of a run is made first."""
        if sigma_rel is None and profile is None:
            if isinstance(weights, Run):
                raise InvalidArgument(f"run {weights.name} has no weights of its own; add sigma_rel or profile")
            if num_images is not None:
                raise InvalidArgument("num_images goes with a run and sigma_rel; a reconstruction has its time already")
            return identity_of(weights)
        if _is_reconstruction(weights):
            raise InvalidArgument("sigma_rel and profile go with a run; a reconstruction has its profile already")
        [made] = self.reconstruct(
            identity_of(weights), sigma_rel, num_images, profiles=profile, on_progress=on_progress
        )
        return made.id

    def _guidance(
        self, guide: Guide, recipe: Mapping[str, Any], on_progress: Callable[[Job], None] | None
    ) -> dict[str, str]:
        if "guide_id" in recipe:
            raise InvalidArgument("guide and guide_id both name the guide; give one of them")
        if recipe.get("guidance", 1) == 1:
            raise InvalidArgument("guide does nothing without guidance; give a weight such as guidance=2.0")
        if isinstance(guide, str):
            return {"guide_id": guide}
        if not isinstance(guide, Reconstruction):
            run, num_images, sigma_rel = guide
            if sigma_rel is None:
                raise InvalidArgument("guide has no sigma_rel; give it as (run, num_images, sigma_rel)")
            [guide] = self.reconstruct(run, sigma_rel, num_images, on_progress=on_progress)
        return {"guide_id": guide.id}

    def evaluation(self, evaluation_id: str) -> Evaluation:
        """The evaluation with this id: the same as `client.evaluations.get`."""
        return self.evaluations.get(evaluation_id)


def _is_reconstruction(weights: str | Reconstruction | Run) -> bool:
    return isinstance(weights, Reconstruction) or (isinstance(weights, str) and weights.startswith("rec-"))
