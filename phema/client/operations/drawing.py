"""Pictures that are drawn without scoring them, and models that are promoted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Unpack

from phema.client.average_models import Preview, Reconstruction
from phema.client.operations.evaluating import Evaluating, Guide
from phema.client.recipe_fields import PreviewFields, SampleFields
from phema.client.resources.samples import sample_of
from phema.client.resources.watched import identity_of
from phema.client.response_models import Job, Model, Run, Sample
from phema.client.run_configurations import plain_fields

if TYPE_CHECKING:
    from phema.client.reconstruction_requests import Profiles, Tensors


class Drawing(Evaluating):
    """Samples and models."""

    def sample(
        self,
        weights: str | Reconstruction | Model,
        *,
        seeds: str | Sequence[int] | None = None,
        class_label: int | str | None = "random",
        format: str = "grid",
        guide: Guide | None = None,
        wait: bool = True,
        on_progress: Callable[[Job], None] | None = None,
        **settings: Unpack[SampleFields],
    ) -> Sample:
        """Draw pictures without scoring them, one per seed, into one file; `download(sample.id, path)` fetches it.

        `weights` is a finished reconstruction, its id, or a promoted model (`name` or `name:version`). `seeds` is a
        list or a text such as "0-63,100"; the default is 0 to 63. `class_label` is the number of a class, its name if
        the dataset has class folders, "random" (each seed draws its own), or None. `format` is grid (one PNG, with
        `columns`), zip (one PNG per seed), npy or npz. `settings` holds fields of the sampler: num_steps, guidance,
        guidance_interval, churn, …; `docs/samples.md` lists them. `guide` is as for `evaluate`.

        The same request is not drawn again. With `wait`, returns when the file exists, and raises JobFailed if the job
        fails.
        """
        fields = plain_fields(dict(settings))
        if guide is not None:
            fields |= self._guidance(guide, fields, on_progress)
        body: dict[str, Any] = {"class_label": class_label, "format": format, **fields}
        if seeds is not None:
            body["seeds"] = seeds if isinstance(seeds, str) else list(seeds)
        body["reconstruction_id"] = self._reconstruction_id(weights)
        found = sample_of(self._transport, self._transport.post("/v1/samples", body))
        if not wait:
            return found
        if not found.done and found.job_id:
            self.wait(found.job_id, on_progress=on_progress)
        return self.samples.get(found.id)

    def preview(
        self,
        run: str | Run,
        sigma_rel: float | None = None,
        num_images: int | None = None,
        *,
        profiles: Profiles | None = None,
        tensors: Tensors | None = None,
        wait: bool = True,
        on_progress: Callable[[Job], None] | None = None,
        **request: Unpack[PreviewFields],
    ) -> Preview:
        """Draw pictures of one average of `run` without storing its weights; `client.previews.picture` returns the PNG.

        `sigma_rel`, `profiles`, `tensors` and `num_images` are as for `reconstruct`, but name one average. `request`
        holds seeds (at most 64), class_label, columns, tolerance, regularize, guide_id and fields of the sampler:
        num_steps, guidance, …; `docs/previews.md` lists them.

        The same request is not drawn again. With `wait`, returns when the pictures exist, and raises JobFailed if the
        job fails.
        """
        return self.previews.create(
            run,
            sigma_rel,
            num_images,
            profiles=profiles,
            tensors=tensors,
            wait=wait,
            on_progress=on_progress,
            **request,
        )

    def _reconstruction_id(self, weights: str | Reconstruction | Model) -> str:
        if isinstance(weights, Reconstruction):
            return weights.id
        if isinstance(weights, str):
            if weights.startswith("rec-"):
                return weights
            weights = self.models.get(weights)
        return weights.reconstruction_id

    def promote(self, reconstruction: str | Reconstruction, name: str, *, description: str | None = None) -> Model:
        """Keep a finished reconstruction as the next version of the model `name`, with its figures and its lineage.

        `description` is Markdown for the card. If the latest version says the same of the same weights, it is returned.
        """
        identity = identity_of(reconstruction)
        body = {"name": name, "reconstruction_id": identity, "description": description}
        return Model.read(self._transport.post("/v1/models", body))
