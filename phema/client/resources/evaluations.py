"""`client.evaluations`: figures and pictures of reconstructions."""

from __future__ import annotations

from typing import Any

from phema.client import downloads
from phema.client.resources.watched import Watched, filter_of, identity_of
from phema.client.response_models import Evaluation, Run
from phema.client.rows import Rows
from phema.client.transport import Transport, route


class Evaluations(Watched[Evaluation]):
    """Requests about evaluations. `client.evaluate` makes them. Calling the group is `list`."""

    def list(self, run: str | Run | None = None, limit: int | None = None) -> Rows[Evaluation]:
        """The evaluations of one run, or of all runs; at most `limit`."""
        return Rows(
            evaluation_of(self._transport, item)
            for item in self._transport.pages("/v1/evaluations", limit, run=filter_of(run))
        )

    __call__ = list

    def get(self, evaluation: str | Evaluation, /) -> Evaluation:
        """The evaluation with this id."""
        answer = self._transport.get(route("evaluations", identity_of(evaluation)))
        return evaluation_of(self._transport, answer)


def evaluation_of(transport: Transport, answer: Any) -> Evaluation:
    """The evaluation, which reads its grid of pictures from the service when a notebook shows it."""
    found = Evaluation.read(answer)
    path = route("evaluations", found.id, "pictures")
    found._picture.read = lambda: downloads.content(transport, path)
    return found
