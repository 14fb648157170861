"""`client.bases`: few vectors that replace the snapshots of a run."""

from __future__ import annotations

from phema.client.average_models import Basis
from phema.client.resources.watched import Watched, identity_of
from phema.client.response_models import Run
from phema.client.rows import Rows
from phema.client.transport import route


class Bases(Watched[Basis]):
    """Requests about bases. `client.compact` makes them. Calling the group is `list`."""

    def list(self, run: str | Run, limit: int | None = None) -> Rows[Basis]:
        """The bases of a run, newest first, at most `limit`."""
        return Rows(Basis.read(item) for item in self._transport.pages(route("runs", identity_of(run), "bases"), limit))

    __call__ = list

    def get(self, basis: str | Basis, /) -> Basis:
        """The basis with this id."""
        return Basis.read(self._transport.get(route("bases", identity_of(basis))))
