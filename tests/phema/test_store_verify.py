"""`phema store verify` finds changed, cut off and missing objects in real stores."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from phema.administration.store_verification import RecordedObject, Verified, verify_store
from phema.shared.catalog import Catalog, NotFound
from phema.shared.settings import Settings
from phema.shared.snapshots import ObjectStore
from phema.shared.wiring import catalog_from, store_from
from tests.api import seed
from tests.fixtures.catalog import only
from tests.snapshots.test_store import spoil

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def catalog(catalog_url: str) -> Iterator[Catalog]:
    with closing(Catalog(catalog_url)) as opened:
        yield opened


def fill(catalog: Catalog, store: ObjectStore, name: str) -> list[RecordedObject]:
    """A run with two snapshots, a checkpoint, a reconstruction, a basis of two vectors and a sample."""
    run = seed.run(catalog, name)
    seed.snapshots(catalog, store, run.id, [3200, 6400], [0.05])
    weights = seed.reconstruction(catalog, store, run.id)
    data = {part: f"{name} {part}".encode() for part in ("checkpoint", "vector-0", "vector-1", "sample")}
    infos = {part: store.put(f"runs/{run.id}/{part}", content) for part, content in data.items()}
    hashes = {part: hashlib.sha256(content).hexdigest() for part, content in data.items()}
    with catalog.transaction() as tx:
        found = [RecordedObject("snapshot", name, s.key, s.size, s.sha256) for s in tx.snapshots.list(run.id)]
        info = infos["checkpoint"]
        tx.checkpoints.add(run_id=run.id, num_images=6400, key=info.key, size=info.size, sha256=hashes["checkpoint"])
        found.append(RecordedObject("checkpoint", name, info.key, info.size, hashes["checkpoint"]))
        found.append(RecordedObject("reconstruction", name, str(weights.key), weights.size or 0, str(weights.sha256)))
        basis, _ = tx.bases.find_or_create(
            run_id=run.id,
            num_images=6400,
            sigma_rel_min=0.05,
            sigma_rel_max=0.2,
            tolerance=1e-4,
            plan={"snapshots": []},
        )
        vectors = [RecordedObject("basis", name, infos[v].key, infos[v].size, hashes[v]) for v in list(infos)[1:3]]
        tx.bases.complete(basis.id, [{"key": v.key, "size": v.size, "sha256": v.sha256} for v in vectors])
        sample, _ = tx.samples.find_or_create(run_id=run.id, reconstruction_id=weights.id, request={"seeds": "0"})
        file = infos["sample"]
        tx.samples.complete(sample.id, {"key": file.key, "size": file.size, "sha256": hashes["sample"]})
        vectors.append(RecordedObject("sample", name, file.key, file.size, hashes["sample"]))
    return found + vectors


def damaged_keys(found: Verified) -> list[str]:
    return [damaged.key for damaged in found.damaged]


@only("sqlite")
def test_every_kind_of_object_is_verified(catalog: Catalog, store: ObjectStore) -> None:
    first, second = fill(catalog, store, "first"), fill(catalog, store, "second")
    seen: list[tuple[int, int]] = []
    found = verify_store(catalog, store, None, lambda done, total: seen.append((done, total)))
    everything = sum(each.size for each in first + second)
    assert (found.objects, found.bytes, found.damaged) == (len(first + second), everything, [])
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (everything, everything)
    for each in first:
        whole = store.get(each.key)
        changed = whole[:-1] + bytes([whole[-1] ^ 1])
        for wrong, says in ((changed, "is damaged: it has SHA-256"), (whole[:-1], "bytes")):
            spoil(store, each.key, wrong)
            [damaged] = verify_store(catalog, store, "first").damaged
            assert (damaged.kind, damaged.run, damaged.key) == (each.kind, "first", each.key)
            assert says in damaged.problem
        store.delete(each.key)
        assert damaged_keys(verify_store(catalog, store)) == [each.key]
        store.put(each.key, whole)
    assert verify_store(catalog, store, "second").damaged == []
    with pytest.raises(NotFound, match="third"):
        verify_store(catalog, store, "third")


@only("sqlite")
def test_objects_that_are_deleted_meanwhile_are_not_damaged(catalog: Catalog, store: ObjectStore) -> None:
    """Retention deletes objects and rows after the rows were read."""
    recorded = fill(catalog, store, "digits")
    with catalog.transaction() as tx:
        ids = [snapshot.id for snapshot in tx.snapshots.list(tx.runs.get("digits").id)]

    def retain(done: int, total: int) -> None:
        with catalog.transaction() as tx:
            tx.snapshots.retire(ids)
        for each in recorded:
            if each.kind == "snapshot":
                store.delete(each.key)

    assert verify_store(catalog, store, "digits", retain).damaged == []
    assert verify_store(catalog, store, "digits").objects == len(recorded) - 2


def test_the_command(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings()
    with closing(catalog_from(settings)) as catalog:
        catalog.upgrade()
        store = store_from(settings)
        store.check()
        recorded = fill(catalog, store, "digits")
        fill(catalog, store, "other")
    code, out, err = cli("store", "verify")
    assert (code, out.count("\n")) == (0, 1)
    assert out.startswith("14 objects with ")
    assert out.endswith(" were read; damaged or missing: 0\n")
    assert "verifying all runs: 100%" in err
    victim = recorded[0].key
    whole = store.get(victim)
    spoil(store, victim, whole[:20] + bytes([whole[20] ^ 1]) + whole[21:])
    code, out, err = cli("store", "verify", "digits")
    assert (code, out.split(";")[1]) == (1, " damaged or missing: 1\n")
    assert f"damaged snapshot of digits: object {victim} in " in err
    code, out, _ = cli("store", "verify", "--json")
    document = json.loads(out)
    assert (code, document["objects"]) == (1, 14)
    assert [(d["kind"], d["run"], d["key"]) for d in document["damaged"]] == [("snapshot", "digits", victim)]
    assert cli("store", "verify", "other")[0] == 0
    code, _, err = cli("store", "verify", "none")
    assert (code, err.splitlines()[-1]) == (1, "phema: There is no run 'none'.")
