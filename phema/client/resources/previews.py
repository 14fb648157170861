"""`client.previews`: pictures of averages whose weights are not stored."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Unpack

from phema.client import downloads
from phema.client.average_models import Preview, PreviewPlan
from phema.client.polling import wait_for_job
from phema.client.recipe_fields import PreviewFields
from phema.client.resources.watched import Watched, identity_of
from phema.client.response_models import Job, Run
from phema.client.transport import Transport, route
from phema.errors import DownloadError

if TYPE_CHECKING:
    from phema.client.reconstruction_requests import Profiles, Tensors

_POLL_SECONDS = 0.05
"""A preview takes less than a second."""


class Previews(Watched[Preview]):
    """Requests about previews. `client.download` fetches their pictures into files."""

    def create(
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
        """Draw pictures of one average. See `Client.preview`."""
        body = _body(sigma_rel, profiles, tensors, num_images, dict(request))
        found = Preview.read(self._transport.post(route("runs", identity_of(run), "previews"), body))
        if not wait:
            return found
        if not found.done and found.job_id:
            wait_for_job(self._transport, found.job_id, on_progress, None, _POLL_SECONDS)
        return self.get(found)

    def plan(
        self,
        run: str | Run,
        sigma_rel: float | None = None,
        num_images: int | None = None,
        *,
        profiles: Profiles | None = None,
        tensors: Tensors | None = None,
        **request: Unpack[PreviewFields],
    ) -> PreviewPlan:
        """What `create` would read, and how long it would take. Arguments as `Client.preview`."""
        body = _body(sigma_rel, profiles, tensors, num_images, dict(request)) | {"plan_only": True}
        return PreviewPlan.read(self._transport.post(route("runs", identity_of(run), "previews"), body))

    def get(self, preview: str | Preview, /) -> Preview:
        """The preview with this id."""
        return _shown(self._transport, self._transport.get(route("previews", identity_of(preview))))

    def picture(self, preview: str | Preview) -> bytes:
        """The PNG of a finished preview. Raises DownloadError if its SHA-256 is not the recorded one."""
        found = self.get(preview) if isinstance(preview, str) else preview
        data = downloads.content(self._transport, route("previews", found.id, "download"))
        if hashlib.sha256(data).hexdigest() != found.sha256:
            raise DownloadError(f"the pictures of preview {found.id} arrived damaged; ask for them again")
        return data


def _shown(transport: Transport, answer: Any) -> Preview:
    """The preview, which reads its pictures from the service when a notebook shows it."""
    found = Preview.read(answer)
    path = route("previews", found.id, "download")
    found._picture.read = lambda: downloads.content(transport, path)
    return found


def _body(
    sigma_rel: float | Sequence[float] | None,
    profiles: Profiles | None,
    tensors: Tensors | None,
    num_images: int | None,
    request: dict[str, Any],
) -> dict[str, Any]:
    from phema.client.reconstruction_requests import wanted_body  # most commands do not need it

    seeds = request.get("seeds")
    if seeds is not None and not isinstance(seeds, str):
        request["seeds"] = list(seeds)
    return wanted_body(sigma_rel, profiles, tensors, num_images) | request
