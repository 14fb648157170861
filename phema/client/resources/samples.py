"""`client.samples`: pictures that were drawn without scoring them."""

from __future__ import annotations

from typing import Any

from phema.client import downloads
from phema.client.resources.watched import Watched, filter_of, identity_of
from phema.client.response_models import Run, Sample
from phema.client.rows import Rows
from phema.client.transport import Transport, route


class Samples(Watched[Sample]):
    """Requests about samples. `client.sample` draws them, `client.download` fetches their files."""

    def list(self, run: str | Run | None = None, limit: int | None = None) -> Rows[Sample]:
        """The samples of one run, or of all runs, newest first; at most `limit`."""
        pages = self._transport.pages("/v1/samples", limit, run=filter_of(run))
        return Rows(sample_of(self._transport, item) for item in pages)

    def get(self, sample: str | Sample, /) -> Sample:
        """The sample with this id."""
        return sample_of(self._transport, self._transport.get(route("samples", identity_of(sample))))


def sample_of(transport: Transport, answer: Any) -> Sample:
    """The sample, which reads its grid of pictures from the service when a notebook shows it."""
    found = Sample.read(answer)
    path = route("samples", found.id, "file")
    if found.request.get("format") == "grid":
        found._picture.read = lambda: downloads.content(transport, path)
    return found
