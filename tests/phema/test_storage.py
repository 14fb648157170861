"""Bases, retention and pins from Python and from the command, on a real API."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from phema.client.client import Client
from phema.client.response_models import Run
from phema.errors import Conflict, InvalidArgument, Refused
from phema.shared.catalog import JobKind
from phema.shared.snapshots.stores import object_keys as layout
from tests.phema.service import Service

Cli = Callable[..., tuple[int, str, str]]
LATEST = 25_600


def finish_basis(service: Service) -> None:
    """Do the oldest queued compaction."""
    job = service.claim(JobKind.COMPACT)
    with service.catalog.transaction() as tx:
        row = tx.bases.get(job.payload["basis_id"])
        vectors = []
        for index in range(len(row.plan["vectors"])):
            data = secrets.token_bytes(64)
            info = service.store.put(layout.basis_key(row.run_id, row.id, index, secrets.token_hex(4)), data)
            vectors.append({"key": info.key, "size": info.size, "sha256": hashlib.sha256(data).hexdigest()})
        tx.bases.complete(row.id, vectors)
    service.finish(job)


def finish_deletion(service: Service) -> None:
    """Do the oldest queued deletion."""
    job = service.claim(JobKind.RETAIN)
    with service.catalog.transaction() as tx:
        doomed = tx.snapshots.retired(str(job.run_id))
        for row in doomed:
            service.store.delete(row.key)
        tx.snapshots.remove(row.id for row in doomed)
    service.finish(job)


@pytest.fixture
def ended(service: Service, trained: Run) -> Run:
    """A run whose snapshots no trainer will write again."""
    with service.catalog.transaction() as tx:
        tx.checkpoints.add(run_id=trained.id, num_images=LATEST, key="c", size=1, sha256="0" * 64)
    return trained


def test_a_basis_from_python(service: Service, client: Client, ended: Run) -> None:
    planned = client.plan_basis(ended.name, sigma_rel_min=0.03)
    assert (planned.num_images, planned.sigma_rel_min, planned.bytes_to_read) == (LATEST, 0.03, 16 * 64)
    accepted = client.compact(ended.name, LATEST, sigma_rel_min=0.03, wait=False)
    assert (accepted.state, accepted.vectors, accepted.done) == ("queued", planned.vectors, False)
    finish_basis(service)
    made = client.compact(ended.name, LATEST, sigma_rel_min=0.03)
    assert (made.id, made.state, made.size) == (accepted.id, "succeeded", 64 * planned.vectors)
    assert [basis.id for basis in client.bases(ended.name)] == [made.id]
    with pytest.raises(Refused, match=r"sigma_rel_min 0\.3 must be less than"):
        client.compact(ended.name, sigma_rel_min=0.3)


def test_waiting_for_a_basis(service: Service, client: Client, ended: Run) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.compact, ended.name)
        while not client.jobs.list(kind="compact", state="queued", run=ended.name):
            assert not waiting.done(), waiting.result()
        finish_basis(service)
        assert waiting.result(30).state == "succeeded"


def test_retention_from_python(service: Service, client: Client, ended: Run) -> None:
    said = client.retain(ended.name, "thin", coarsest=4)
    assert (said.dry_run, said.job, said.refused) == (True, None, None)
    assert said.frees.snapshots + said.keeps.snapshots == 16
    assert [forecast.num_images for forecast in said.forecasts] == [25_600, 12_800, 6400]
    assert len(client.runs.snapshots(ended.name)) == 16
    (pinned, _) = client.pin(ended.name, 6400)
    assert pinned.pinned
    (freed,) = client.unpin(ended.name, snapshot_ids=[pinned.id])
    assert not freed.pinned
    with pytest.raises(InvalidArgument, match="either num_images or snapshot_ids"):
        client.pin(ended.name)
    with pytest.raises(Conflict, match=r"would raise the predicted error at 25600 images of sigma_rel 0\.25 from"):
        client.retain(ended.name, "latest", False, keep=2)
    applied = client.retain(ended.name, "latest", False, keep=2, force=True, wait=False)
    assert applied.job is not None
    assert (applied.job.kind, applied.frees.snapshots, applied.pinned) == ("retain", 11, 1)
    finish_deletion(service)
    assert sorted({s.num_images for s in client.runs.snapshots(ended.name)}) == [6400, 22_400, 25_600]
    assert client.retain(ended.name, "all", False).job is None


def test_compact_on_the_command_line(service: Service, cli: Cli, ended: Run) -> None:
    code, out, _ = cli("compact", ended.name, "--plan", "--tolerance", "0.001")
    assert code == 0
    assert "0.02 to 0.25" in out
    assert "1.0 KiB" in out
    assert "no basis yet" in cli("bases", ended.name)[1]
    code, out, _ = cli("compact", ended.name, "--no-wait", "--json")
    accepted = json.loads(out)
    assert (code, accepted["state"]) == (0, "queued")
    finish_basis(service)
    code, out, _ = cli("compact", ended.name)
    assert code == 0
    assert accepted["id"] in out
    assert json.loads(cli("bases", ended.name, "--json")[1])[0]["state"] == "succeeded"
    assert cli("compact", ended.name, "--at", "7")[0] == 2
    covered = json.loads(cli("compact", ended.name, "--lr-decay", "cosine:6400,linear:3200", "--plan", "--json")[1])
    assert [(p["shape"], p["length_images"]) for p in covered["profiles"]] == [("cosine", 6400), ("linear", 3200)]
    assert covered["basis_id"] is None


def test_retain_on_the_command_line(service: Service, cli: Cli, ended: Run) -> None:
    code, out, _ = cli("pin", ended.name, "--at", "6400")
    assert (code, out) == (0, "2 snapshots at 6,400 images are pinned\n")
    assert cli("runs", "snapshots", ended.name)[1].count(" pinned ") == 2
    code, out, _ = cli("retain", ended.name, "--policy", "thin", "--coarsest", "8", "--at", "25600")
    assert code == 0
    assert "thin would free 256 B (4 snapshots) and keep 768 B (12 snapshots)" in out
    assert "2 more stay because they are pinned" in out
    assert "AT 25,600" in out
    assert out.count(" → ") == 12
    assert "1-sqrt decay, 20 %" in out
    assert "nothing was deleted; --apply does it" in out
    code, out, err = cli("retain", ended.name, "--policy", "latest", "--keep", "1", "--apply")
    assert (code, out) == (2, "")
    assert "because long EMAs are made of old snapshots" in err
    assert "refused: " in cli("retain", ended.name, "--policy", "latest", "--keep", "1")[1]
    code, out, err = cli("retain", ended.name, "--policy", "thin", "--apply", "--no-wait")
    assert code == 0
    assert "4 snapshots are given up and being deleted: 256 B" in err
    assert "thin freed 256 B (4 snapshots) and kept 768 B (12 snapshots)" in out
    finish_deletion(service)
    said = json.loads(cli("retain", ended.name, "--policy", "thin", "--apply", "--json")[1])
    assert (said["job"], said["frees"]["snapshots"]) == (None, 0)
    assert "no longer pinned" in cli("pin", ended.name, "--at", "6400", "--remove")[1]
    assert cli("retain", ended.name, "--policy", "oldest")[0] == 2
