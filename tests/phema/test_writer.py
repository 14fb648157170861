"""`phema.SnapshotWriter` in a plain PyTorch loop, over a real API and a real store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import phema
from phema import Profile, SnapshotWriter, errors
from phema.administration.rebuild import rebuild
from phema.client.client import Client
from phema.services.phema_worker.job_tasks import complete_job, task_of
from phema.services.phema_worker.task_outcomes import Done
from phema.services.phema_worker.task_progress import TaskProgress
from phema.services.phema_worker.task_runner import TaskRunner
from phema.shared.catalog import Catalog, JobKind
from phema.shared.edm2.averaging.ema import PowerFunctionEMA
from phema.shared.settings import Settings
from phema.shared.snapshots import CorruptObject, S3Options
from phema.shared.snapshots.errors import SnapshotError, StoreUnreachable
from phema.shared.snapshots.files.header import read_header
from phema.shared.snapshots.stores.hashed_bytes import Data
from phema.shared.snapshots.stores.interface import ObjectInfo, ObjectStore
from phema.shared.snapshots.stores.object_keys import run_key
from tests.phema.service import Service, api, process

BATCH, STEPS, EVERY = 32, 320, 20
WANTED = 0.08


@pytest.fixture
def store_around(service: Service, monkeypatch: pytest.MonkeyPatch) -> Service:
    """The environment of a user of the embedded service: its address and its state folder."""
    monkeypatch.setenv("PHEMA_STATE_DIR", str(service.settings.state_dir))
    return service


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Tanh())
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.features(x))
        return y


def train(writer: SnapshotWriter, *, direct: list[float] | None = None, stop: int = STEPS) -> tuple[Classifier, Any]:
    """A noisy regression; two EMAs stored every EVERY steps, and others tracked to compare with."""
    torch.manual_seed(0)
    model = Classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    stored, compared = PowerFunctionEMA(model, [0.05, 0.10]), PowerFunctionEMA(model, direct or [WANTED])
    generator = torch.Generator().manual_seed(1)
    for step in range(1, stop + 1):
        x = torch.randn(BATCH, 8, generator=generator)
        optimizer.zero_grad()
        (model(x) - x[:, :4].sin()).square().mean().backward()
        optimizer.step()
        stored.update(step * BATCH)
        compared.update(step * BATCH)
        if step % EVERY == 0:
            writer.save(step * BATCH, stored, dtype="float32")
    return model, compared


def reconstruct(service: Service) -> None:
    """Do the oldest queued reconstruction with the code that a worker's actor runs."""
    job = service.claim(JobKind.RECONSTRUCT)
    with service.catalog.transaction() as tx:
        task = task_of(tx, job)
    assert task is not None
    done = TaskRunner(service.settings).do(task, TaskProgress())
    assert isinstance(done, Done), done
    with service.catalog.transaction() as tx:
        complete_job(tx, job, task, done)


def test_any_ema_length_of_a_plain_loop_afterwards(
    store_around: Service, client: Client, name: str, tmp_path: Path
) -> None:
    """A reconstruction is the EMA that was tracked beside, as exactly as its prediction says."""
    with SnapshotWriter(name, config={"task": "regression"}, total_images=STEPS * BATCH) as writer:
        model, compared = train(writer)
        writer.finish()
    run = client.runs.get(name)
    assert (run.state, run.origin, run.num_images, run.config) == (
        "succeeded", "external", STEPS * BATCH, {"task": "regression"},
    )  # fmt: skip
    assert len(client.runs.snapshots(name)) == 2 * STEPS // EVERY
    (wanted,) = client.reconstruct(name, WANTED, wait=False)
    reconstruct(store_around)
    path = client.download(wanted.id, tmp_path / "chosen.safetensors")
    found, expected = load_file(path), compared.tensors(0)
    assert found.keys() == expected.keys()
    weights = [key for key in found if key not in compared.buffers]
    error = _apart(found, expected, weights)
    assert error < 1e-3
    assert error < 0.05 * _apart(model.state_dict(), expected, weights)
    for key in compared.buffers:
        assert torch.equal(found[key], expected[key])
    Classifier().load_state_dict(found, strict=True)
    assert phema.metadata(path).config == {"task": "regression"}
    with pytest.raises(CorruptObject, match=r"describes no network phema can build.*safetensors\.torch\.load_file"):
        phema.load(path)


def _apart(found: dict[str, Tensor], expected: dict[str, Tensor], names: list[str]) -> float:
    """Relative distance of all weights."""
    difference = torch.cat([(found[name] - expected[name]).flatten() for name in names]).norm()
    return float(difference / torch.cat([expected[name].flatten() for name in names]).norm())


def test_a_restarted_script_goes_on(store_around: Service, client: Client, name: str) -> None:
    config = {"seed": 0}
    first = SnapshotWriter(name, config=config)
    train(first, stop=3 * EVERY)
    first.close()
    before = client.runs.snapshots(name)
    with SnapshotWriter(name, config=config) as again:
        assert again.run is not None
        assert first.run is not None
        assert again.run.id == first.run.id
        train(again, stop=5 * EVERY)
        again.flush()
        assert again.counts.objects == 4
    after = client.runs.snapshots(name)
    assert [s.id for s in after[: len(before)]] == [s.id for s in before]
    assert sorted({s.num_images for s in after}) == [EVERY * BATCH * i for i in range(1, 6)]
    assert client.runs.get(name).state == "running"


def test_averages_are_saved_at_their_own_time(store_around: Service, client: Client, name: str) -> None:
    """However the training counts, and also if it saves more often than it updates."""
    module = Classifier()
    ema = PowerFunctionEMA(module, [0.05, 0.10], device="cpu")
    with SnapshotWriter(name) as writer:
        for step in range(1, 13):
            with torch.no_grad():
                module.head.bias.add_(step)
            if step % 4 == 0:
                ema.update(step * BATCH)
            if step > 3:
                writer.save(ema, dtype="float32")
        writer.finish()
        assert writer.counts.objects == 6
    assert sorted({s.num_images for s in client.runs.snapshots(name)}) == [4 * BATCH, 8 * BATCH, 12 * BATCH]


def test_any_mapping_under_any_profile(store_around: Service, client: Client, name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    state = {"w": torch.randn(3, generator=generator).bfloat16(), "phase": torch.full([2], 1.1), "n": torch.tensor(7)}
    with SnapshotWriter(name, origin="imported") as writer:
        writer.save(100, state, profile=0.05, buffers=["phase"])
        writer.save(100, state, profile=Profile(kind="raw"), dtype="bfloat16", buffers=["phase"])
        with pytest.raises(errors.InvalidArgument, match=r"phase is averaged with shape \(2,\), .* it is copied with"):
            writer.save(200, state, profile=0.05)
        with pytest.raises(errors.InvalidArgument, match=r"n is copied with .* dtype I32, .* and dtype I64"):
            writer.save(200, state | {"n": torch.tensor(7, dtype=torch.int32)}, profile=0.05, buffers=["phase"])
        with pytest.raises(errors.InvalidArgument, match=r"tensor n is missing, in what was saved before it is copied"):
            writer.save(200, {"w": state["w"], "phase": state["phase"]}, profile=0.05, buffers=["phase"])
    assert client.runs.get(name).origin == "imported"
    rows = client.runs.snapshots(name)
    assert [(s.profile["kind"], s.num_images) for s in rows] == [("power", 100), ("raw", 100)]
    with store_around.catalog.transaction(read_only=True) as tx:
        keys = [tx.snapshots.get(s.id).key for s in rows]
    header = read_header(store_around.store, keys[0])
    assert {t.name: t.dtype for t in header.tensors} == {"w": "F16", "phase": "F32", "n": "I64"}
    assert header.metadata is not None
    assert header.metadata.buffers == ("phase",)


def test_traditional_averages_are_stored_beside(store_around: Service, client: Client, name: str) -> None:
    module = nn.Linear(2, 2)
    ema = PowerFunctionEMA(module, [0.05], half_life_images=[64, 128], rampup_ratio=0.05)
    ema.update(32)
    with SnapshotWriter(name) as writer:
        writer.save(32, ema)
    kinds = [(s.profile["kind"], s.profile.get("half_life_images")) for s in client.runs.snapshots(name)]
    assert sorted(kinds, key=str) == [("exponential", 128), ("exponential", 64), ("power", None)]


def test_the_catalog_is_rebuilt_with_the_run(store_around: Service, client: Client, name: str, tmp_path: Path) -> None:
    with SnapshotWriter(name, config={"lr": 0.1}) as writer:
        writer.save(64, {"w": torch.ones(2)}, profile=0.05)
    known = client.runs.get(name)
    empty = Catalog(f"sqlite:///{tmp_path / 'rebuilt.db'}")
    empty.upgrade()
    only = _Part(store_around.store, f"runs/{known.id}/")
    rebuilt = rebuild(empty, only)  # type: ignore[arg-type]
    assert (rebuilt.runs, rebuilt.snapshots, rebuilt.skipped) == (1, 1, {})
    with empty.transaction(read_only=True) as tx:
        run = tx.runs.get(name)
        assert (run.id, run.origin, run.config, run.state) == (known.id, "external", {"lr": 0.1}, "running")
        assert (run.config_hash, run.num_images, run.total_images) == (known.config_hash, 64, 64)
    assert rebuild(empty, only).runs == 0  # type: ignore[arg-type]
    # A run that nobody described is passed over, and what lies behind it is not.
    store_around.store.delete(run_key(known.id))
    rebuilt = rebuild(empty, only)  # type: ignore[arg-type]
    assert list(rebuilt.skipped) == [run_key(known.id)]
    empty.close()


class _Part:
    """The objects of one run in a store that tests share."""

    def __init__(self, store: ObjectStore, prefix: str) -> None:
        self._store, self._prefix = store, prefix

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        return (info for info in self._store.list(prefix) if info.key.startswith(self._prefix))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class _Flaky(_Part):
    """A store that is away for its first writes, or dies after one."""

    def __init__(self, store: ObjectStore, failures: int, error: Callable[[], Exception]) -> None:
        super().__init__(store, "")
        self._failures, self._error = failures, error

    def put(self, key: str, data: Data) -> ObjectInfo:
        info = self._store.put(key, data)
        if self._failures:
            self._failures -= 1
            raise self._error()
        return info


def test_a_store_that_comes_back_loses_nothing(store_around: Service, client: Client, name: str) -> None:
    flaky: Any = _Flaky(store_around.store, 1, lambda: StoreUnreachable("the store is away"))
    with SnapshotWriter(name, flaky) as writer:
        writer.save(64, {"w": torch.ones(2)}, profile=0.05)
        writer.flush()
        assert writer.counts.retries == 1
    assert len(client.runs.snapshots(name)) == 1


def test_death_between_object_and_row_is_mended_by_a_repeat(store_around: Service, client: Client, name: str) -> None:
    class Killed(Exception):
        pass

    dying: Any = _Flaky(store_around.store, 1, Killed)
    writer = SnapshotWriter(name, dying)
    writer.save(64, {"w": torch.ones(2)}, profile=0.05)
    with pytest.raises(Killed):
        writer.close()
    assert client.runs.snapshots(name) == []
    assert len(list(store_around.store.list(f"runs/{client.runs.get(name).id}/snapshots/"))) == 1
    with SnapshotWriter(name) as again:
        again.save(64, {"w": torch.ones(2)}, profile=0.05)
    assert len(client.runs.snapshots(name)) == 1
    assert len(list(store_around.store.list(f"runs/{client.runs.get(name).id}/snapshots/"))) == 1


def test_another_store_than_the_services_is_a_sentence(service: Service, name: str, tmp_path: Path) -> None:
    writer = SnapshotWriter(name, (tmp_path / "elsewhere").as_uri())
    writer.save(64, {"w": torch.ones(2)}, profile=0.05)
    with pytest.raises(errors.Refused, match=r"is not in the service's store .* upload it there first"):
        writer.close()


def test_mistakes_are_one_sentence(store_around: Service, client: Client, name: str) -> None:
    module = nn.Linear(2, 2)
    ema = PowerFunctionEMA(module, [0.05])
    ema.update(64)
    state = module.state_dict()
    with SnapshotWriter(name) as writer:
        wrong: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
            ((32, ema), {}, "num_images 32 is not the time of the averages' last update, 64: call save"),
            ((64,), {}, r"averages are missing: give save\(ema\), or save\(64, mapping, profile="),
            ((ema, ema), {}, r"averages are given twice; give save\(ema\), or save\(num_images, ema\)"),
            ((ema,), {"profile": 0.05}, "profile and buffers are a PowerFunctionEMA's own"),
            ((PowerFunctionEMA(module),), {}, r"averages have had no update yet; call ema.update\(num_images\) before"),
            ((64, ema), {"profile": 0.05}, "profile and buffers are a PowerFunctionEMA's own"),
            ((64, state), {}, "profile is missing: name the sigma_rel"),
            ((64, state), {"profile": 0.4}, "profile 0.4 is .*must lie strictly between 0 and"),
            (
                (64, state),
                {"profile": phema.Profile(kind="sampled", times=(5,), weights=(1.0,))},
                "profile cannot be one of 64 images: times must rise from above 0 to num_images 64",
            ),
            ((64, state), {"profile": "short"}, "profile 'short' is neither a sigma_rel nor a phema.Profile"),
            ((64, state), {"profile": 0.05, "dtype": "float8"}, "dtype 'float8' is unknown; allowed: float32, float16"),
            ((64, state), {"profile": 0.05, "buffers": ["n"]}, "buffers names 'n', which is not among the 2 tensors"),
            ((0, state), {"profile": 0.05}, "num_images 0 must be at least 1"),
            ((1.5, state), {"profile": 0.05}, "num_images 1.5 must be a whole number"),
            ((64, {}), {"profile": 0.05}, "there are no tensors to save"),
            ((64, {"epoch": 3}), {"profile": 0.05}, "epoch is a int and no tensor"),
            ((64, {"z": torch.zeros(1, dtype=torch.complex64)}), {"profile": 0.05}, "dtype torch.complex64, which a"),
        ]
        for arguments, options, sentence in wrong:
            with pytest.raises(errors.InvalidArgument, match=sentence):
                writer.save(*arguments, **options)
        writer.finish()
    for call in (lambda: writer.save(64, ema), writer.finish):
        with pytest.raises(errors.InvalidArgument, match="the writer is closed"):
            call()
    with pytest.raises(errors.InvalidArgument, match=rf"run {name} has succeeded .* `phema runs resume {name}`"):
        SnapshotWriter(name)
    with pytest.raises(errors.Conflict, match="is taken by another run, or by this one with another"):
        SnapshotWriter(name, config={"other": 1})
    with pytest.raises(errors.InvalidArgument, match="config cannot be written as JSON: Object of type Linear"):
        SnapshotWriter(name, config={"model": module})
    with pytest.raises(errors.InvalidArgument, match="origin 'mine' is unknown; allowed: external, imported"):
        SnapshotWriter(name, origin="mine")  # type: ignore[arg-type]
    with pytest.raises(errors.InvalidArgument, match=r"store url 'store' must be file:///folder or s3://bucket/prefix"):
        SnapshotWriter(name, "store")
    client.runs.resume(name)
    with SnapshotWriter(name) as again:
        again.save(64, ema)
    assert len(client.runs.snapshots(name)) == 1


def test_a_run_of_unknown_length_shows_no_share(
    store_around: Service, client: Client, name: str, cli: Callable[..., tuple[int, str, str]]
) -> None:
    def shown() -> list[str]:
        return next(line.split() for line in cli("runs", "list")[1].splitlines() if line.split()[0] == name)

    with SnapshotWriter(name) as writer:
        assert shown()[3:5] == ["0", "-"]
        writer.save(64, {"w": torch.ones(2)}, profile=0.05)
        writer.flush()
        assert shown()[3:5] == ["64", "-"]
        assert "of 64" not in cli("runs", "show", name)[1]
        writer.finish()
    assert shown()[3:5] == ["64", "100%"]


def test_weights_too_large_for_the_dtype_are_reported(store_around: Service, name: str) -> None:
    writer = SnapshotWriter(name)
    writer.save(64, {"w": torch.full([2], 1e6)}, profile=0.05)
    with pytest.raises(ValueError, match="tensor w holds values beyond float16's 65504; store this run as float32"):
        writer.close()


def test_weights_that_diverged_are_reported(store_around: Service, client: Client, name: str) -> None:
    writer = SnapshotWriter(name)
    writer.save(64, {"w": torch.ones(2), "limit": torch.tensor([torch.inf])}, profile=0.05, buffers=["limit"])
    writer.save(128, {"w": torch.tensor([1.0, torch.nan]), "limit": torch.ones(1)}, profile=0.05, buffers=["limit"])
    with pytest.raises(errors.InvalidArgument, match="tensor w at 128 images holds NaN or an infinity"):
        writer.close()
    assert [s.num_images for s in client.runs.snapshots(name)] == [64]


def test_to_s3_through_a_guarded_api(
    s3_options: tuple[str, S3Options], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Weights go to the bucket, the row through the API; both from the environment alone."""
    url, options = s3_options
    variables = {
        "PHEMA_API_TOKEN": "secret",
        "PHEMA_STORE_URL": url,
        "PHEMA_S3_ENDPOINT_URL": options.endpoint_url or "",
        "PHEMA_S3_ACCESS_KEY_ID": options.access_key_id or "",
        "PHEMA_S3_SECRET_ACCESS_KEY": options.secret_access_key or "",
    }
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    with api(Settings(state_dir=tmp_path / "state")) as service, Client(service.url) as client:
        monkeypatch.setenv("PHEMA_URL", service.url)
        weights = {"w": torch.arange(5.0)}
        with SnapshotWriter(name) as writer:
            writer.save(64, weights, profile=0.05)
        (row,) = client.runs.snapshots(name)
        assert torch.equal(load_file(client.download(row.id, tmp_path / "w"))["w"].float(), weights["w"])
        monkeypatch.setenv("PHEMA_STORE_URL", "s3://no-such-bucket")
        with pytest.raises(SnapshotError, match="no-such-bucket"):
            SnapshotWriter(name)


@pytest.mark.slow
def test_outlives_a_restart_of_the_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    settings = Settings(state_dir=tmp_path / "state")
    monkeypatch.setenv("PHEMA_STATE_DIR", str(settings.state_dir))
    with api(settings) as service, Client(service.url) as client:
        writer = SnapshotWriter(name, client=client)
        service.process.kill()
        service.process.wait()
        writer.save(64, {"w": torch.ones(2)}, profile=0.05)
        with process(settings, port=int(service.url.rsplit(":", 1)[1])):
            writer.close()
            assert len(client.runs.snapshots(name)) == 1
