"""`client.preview` and `client.profile_curves`, with a real API."""

from __future__ import annotations

from pathlib import Path

import pytest

from phema.client.client import Client
from phema.errors import DownloadError, InvalidArgument, JobFailed, Refused
from phema.shared import catalog
from phema.shared.catalog import JobKind
from phema.shared.snapshots.profile import Profile
from tests.phema.service import Service
from tests.phema.test_client import steps


def test_curves_are_those_of_the_plan(client: Client, trained: catalog.Run) -> None:
    found = client.profile_curves(trained.name, [0.05, 0.15], points=30)
    assert found.plan == client.plan(trained.name, [0.05, 0.15])
    assert [(curve.label, len(curve.times)) for curve in found.curves] == [("0.05", 30), ("0.15", 30)]
    assert [share.coefficients[1] for share in found.shares] == found.plan.outputs[1].coefficients
    (window,) = client.profile_curves(trained.name, profiles=Profile(kind="uniform", window_images=3200)).curves
    assert window.wanted is not None
    assert window.wanted[0] == 0.0


def test_a_preview_is_waited_for_and_its_picture_read(
    service: Service, client: Client, trained: catalog.Run, tmp_path: Path
) -> None:
    assert client.previews.plan(trained.name, 0.08).parameters > 0
    drawing = steps(lambda: service.preview(b"sixteen digits"))
    found = client.preview(trained.name, 0.08, seeds=[0, 1], on_progress=drawing)
    assert (found.state, found.sigma_rel, found.request["seeds"]) == ("succeeded", 0.08, "0-1")
    assert client.previews.picture(found) == client.previews.picture(found.id) == b"sixteen digits"
    assert client.download(found.id, tmp_path / "grid.png").read_bytes() == b"sixteen digits"
    assert client.preview(trained.name, 0.08, seeds="0-1") == found, "not drawn again"
    with pytest.raises(DownloadError, match=f"preview {found.id} arrived damaged"):
        client.previews.picture(found.model_copy(update={"sha256": "0" * 64}))


def test_mistakes_and_failures(service: Service, client: Client, trained: catalog.Run) -> None:
    with pytest.raises(InvalidArgument, match="either sigma_rel or profiles"):
        client.preview(trained.name)
    with pytest.raises(Refused, match="a preview shows exactly one"):
        client.preview(trained.name, profiles=[0.1, 0.2])
    failing = steps(lambda: service.fail(service.claim(JobKind.PREVIEW), "no luck"))
    with pytest.raises(JobFailed, match="no luck"):
        client.preview(trained.name, 0.09, on_progress=failing)
