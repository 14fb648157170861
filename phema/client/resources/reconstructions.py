"""`client.reconstructions`: weights with averages chosen after training."""

from __future__ import annotations

from phema.client.average_models import Reconstruction
from phema.client.resources.watched import Watched, identity_of
from phema.client.response_models import Run
from phema.client.rows import Rows
from phema.client.transport import route


class Reconstructions(Watched[Reconstruction]):
    """Requests about reconstructions. `client.reconstruct` makes them. Calling the group is `list`."""

    def list(self, run: str | Run, limit: int | None = None) -> Rows[Reconstruction]:
        """The reconstructions of a run, at most `limit`."""
        pages = self._transport.pages(route("runs", identity_of(run), "reconstructions"), limit)
        return Rows(Reconstruction.read(item) for item in pages)

    __call__ = list

    def get(self, reconstruction: str | Reconstruction, /) -> Reconstruction:
        """The reconstruction with this id."""
        return Reconstruction.read(self._transport.get(route("reconstructions", identity_of(reconstruction))))
