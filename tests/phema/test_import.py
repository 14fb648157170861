"""`phema import` against a real service: a folder becomes a run, twice the same one, of exactly the files' weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import phema
from phema.client.client import Client
from phema.errors import Conflict, InvalidArgument
from phema.sdk.importing import import_run, open_source
from phema.shared.recipes.run_config import RunConfig
from phema.shared.snapshots.files.snapshot_file import load_tensors
from tests.phema.service import Service
from tests.snapshots import foreign_files as foreign

Cli = Callable[..., tuple[int, str, str]]
KIMGS = [65, 131, 196]
IMAGES = [65_536, 131_072, 196_608]


@pytest.fixture(autouse=True)
def _store(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Imports write to the service's store, as they do beside `phema up`."""
    monkeypatch.setenv("PHEMA_STATE_DIR", str(service.settings.state_dir))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "files"
    path.mkdir()
    return path


def test_a_folder_of_pickles_becomes_a_run(
    cli: Cli, client: Client, service: Service, name: str, folder: Path, tmp_path: Path
) -> None:
    networks = foreign.write_run(folder, [0, *KIMGS[:2]], [0.05, 0.1], clip_act=None)
    code, out, err = cli("import", str(folder), "--name", name, "--json")
    assert (code, err.count("importing: 100%")) == (0, 1), err
    document = json.loads(out)
    assert (document["written"], document["known"]) == (4, 0)
    untrained = [f"network-snapshot-0000000-{width}.pkl" for width in ("0.050", "0.100")]
    assert document["skipped"] == untrained
    assert [line for line in err.splitlines() if line.startswith("skipped")] == [
        f"skipped {file}: at 0 images it holds the weights before training" for file in untrained
    ]
    run = document["run"]
    assert (run["origin"], run["state"], run["num_images"]) == ("imported", "succeeded", IMAGES[1])
    config = RunConfig.model_validate(run["config"])
    assert (config.preset, config.network.label_dim, config.total_images) == ("imported", 3, IMAGES[1])
    assert (config.ema_sigma_rels, config.snapshot_every, config.batch_size) == ((0.05, 0.1), 65_536, 2048)

    snapshots = client.runs.snapshots(name)
    assert sorted((s.num_images, s.sigma_rel) for s in snapshots) == [
        (images, sigma_rel) for images in IMAGES[:2] for sigma_rel in (0.05, 0.1)
    ]
    for snapshot in snapshots:
        path = client.download(snapshot.id, tmp_path / snapshot.id)
        ema = networks[f"network-snapshot-{snapshot.num_images // 1000:07d}-{snapshot.sigma_rel:.3f}.pkl"]
        wanted, found = ema.state_dict(), load_tensors(path)
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[key], wanted[key].to(found[key].dtype)) for key in wanted)
        assert {found[key].dtype for key in wanted if not key.endswith(("freqs", "phases"))} == {torch.float16}
    denoiser = phema.load(path)
    x, sigma, labels = torch.randn(2, 2, 8, 8), torch.tensor([0.3, 5.0]), torch.eye(3)[[2, 0]]
    with torch.no_grad():
        arguments = {**foreign.ARGUMENTS, "clip_act": None}
        expected = foreign.reference(ema.state_dict(), arguments, x, sigma, labels)
        torch.testing.assert_close(denoiser(x, sigma, labels), expected, rtol=1e-4, atol=1e-4)
    assert phema.sample(denoiser, seeds=2, num_steps=3).isfinite().all()
    plan = client.plan(name, [0.05])
    assert plan.outputs[0].predicted_error < 1e-3, "one of the stored averages"


def test_importing_again_writes_what_is_missing(client: Client, name: str, folder: Path) -> None:
    foreign.write_run(folder, KIMGS[:1], [0.05, 0.1])
    first = import_run(folder, name, client=client)
    assert (first.written, first.known, first.run.state) == (2, 0, "succeeded")
    again = import_run(folder, name, client=client)
    assert (again.written, again.known, again.run.id) == (0, 2, first.run.id)
    foreign.write_run(folder, KIMGS, [0.05, 0.1])
    seen: list[tuple[int, int, str]] = []
    more = import_run(folder, name, client=client, on_progress=lambda *now: seen.append(now))
    assert (more.written, more.known, more.run.id) == (4, 2, first.run.id)
    assert (more.run.state, more.run.num_images) == ("succeeded", IMAGES[2])
    assert seen[0] == (2, 6, "")
    assert seen[1] == (2, 6, "network-snapshot-0000131-0.050.pkl")
    assert seen[-1] == (6, 6, "")
    assert len(client.runs.snapshots(name)) == 6


def test_a_folder_is_imported_into_a_bucket(s3_service: Service, folder: Path, tmp_path: Path) -> None:
    networks = foreign.write_run(folder, KIMGS[:2], [0.05])
    with Client(s3_service.url, "secret") as client:
        assert import_run(folder, "remote", client=client).written == 2
        assert import_run(folder, "remote", client=client).known == 2
        latest = client.runs.snapshots("remote")[-1]
        found = load_tensors(client.download(latest.id, tmp_path / "latest"))
    wanted = networks["network-snapshot-0000131-0.050.pkl"].state_dict()
    assert all(torch.equal(found[key], wanted[key].to(found[key].dtype)) for key in wanted)
    with s3_service.catalog.transaction(read_only=True) as tx:
        rows = {row.key for row in tx.snapshots.list(latest.run_id)}
    assert {info.key for info in s3_service.store.list("runs/") if not info.key.endswith("run.json")} == rows


def test_a_dataset_comes_with_the_first_import(client: Client, name: str, folder: Path) -> None:
    foreign.write_run(folder, [65], [0.05])
    import_run(folder, name, client=client)
    with pytest.raises(InvalidArgument, match=f"dataset is not that with which run {name} was imported"):
        import_run(folder, name, dataset=str(folder), client=client)


def test_a_broken_file_ends_an_import_that_goes_on_when_it_is_mended(client: Client, name: str, folder: Path) -> None:
    foreign.write_run(folder, KIMGS, [0.05])
    last = folder / "network-snapshot-0000196-0.050.pkl"
    whole = last.read_bytes()
    last.write_bytes(whole[:-100])
    with pytest.raises(InvalidArgument, match=r"0000196-0.050.pkl is refused: .*cut off"):
        import_run(folder, name, client=client)
    assert name not in [run.name for run in client.runs.list()], "structure is checked before anything is written"
    last.write_bytes(whole.replace(b"HalfStorage", b"LongStorage", 1))
    with pytest.raises(InvalidArgument, match=r"0000196-0.050.pkl, in a storage, is refused: it names 'torch.LongSt"):
        import_run(folder, name, client=client)
    last.write_bytes(whole)
    done = import_run(folder, name, client=client)
    assert (done.written, done.known, done.run.state) == (1, 2, "succeeded")


def test_state_dicts_with_a_pattern_and_no_network(cli: Cli, client: Client, name: str, folder: Path) -> None:
    for images in (6400, 12_800):
        torch.save({"ema": {"weight": torch.full([3], float(images))}, "step": 1}, folder / f"step-{images}-0.05.pt")
    pattern = r"step-(?P<num_images>\d+)-(?P<sigma_rel>[0-9.]+)\.pt"
    code, out, _ = cli("import", str(folder), "--name", name, "--pattern", pattern, "--plan", "--json")
    assert code == 0
    (folder / "mapping.json").write_text(out)
    code, out, err = cli("import", str(folder), "--name", name, "--mapping", str(folder / "mapping.json"))
    assert (code, out) == (0, f"{name}: 2 snapshots written\n"), err
    assert "phema reconstruct" in err
    code, out, err = cli("import", str(folder), "--name", name, "--pattern", pattern)
    assert (code, out) == (0, f"{name}: 0 snapshots written, 2 were there\n"), err
    assert [(s.num_images, s.sigma_rel) for s in client.runs.snapshots(name)] == [(6400, 0.05), (12_800, 0.05)]
    torch.save({"weight": torch.ones(4)}, folder / "step-19200-0.05.pt")
    code, _, err = cli("import", str(folder), "--name", name, "--pattern", pattern)
    assert code != 0
    assert "has other tensors than the files before it: 'weight' has the shape (4,), not (3,)" in err


def test_state_dicts_of_a_preset_are_a_network(client: Client, name: str, folder: Path, tmp_path: Path) -> None:
    from phema.shared.edm2.networks.building import build_denoiser
    from phema.shared.recipes.presets import network_preset

    state = build_denoiser(network_preset("digits-tiny")).state_dict()
    torch.save(state, folder / "640.pth")
    how = {"pattern": r"(?P<num_images>\d+)\.pth", "network": "digits-tiny", "dataset": "digits"}
    done = import_run(folder, name, client=client, **how)
    assert RunConfig.model_validate(done.run.config).dataset.held_out == 297
    (snapshot,) = client.runs.snapshots(name)
    assert snapshot.profile == {"kind": "raw"}
    loaded = phema.load(client.download(snapshot.id, tmp_path / "raw.safetensors"))
    assert all(torch.equal(loaded.state_dict()[key], state[key]) for key in state)
    (tmp_path / "net.json").write_text(network_preset("digits-tiny").model_dump_json())
    source = open_source(folder, pattern=how["pattern"], network=str(tmp_path / "net.json"))
    assert source.network == network_preset("digits-tiny")


def test_mistakes_are_one_sentence_before_anything_is_written(
    cli: Cli, client: Client, name: str, folder: Path, tmp_path: Path
) -> None:
    foreign.write_run(folder, KIMGS[:1], [0.05])
    other = tmp_path / "other"
    other.mkdir()
    foreign.write_run(other, KIMGS[1:2], [0.05], res_balance=0.2)
    (tmp_path / "net.json").write_text('{"img_resolution": 8}')
    for arguments, sentence in [
        ([str(tmp_path / "none")], "it is not a folder"),
        ([str(folder), "--pattern", "x", "--mapping", "y"], "mapping and pattern are both given"),
        ([str(folder), "--pattern", "("], "it is not a regular expression"),
        ([str(folder), "--mapping", str(tmp_path / "none.json")], "none.json cannot be read: No such file"),
        ([str(folder), "--network", "digits-tiny"], "network, key and buffers are for state dicts"),
        ([str(folder), "--network", "digits-tini"], "did you mean 'digits-tiny'?"),
        ([str(folder), "--network", str(tmp_path / "net.json")], "img_channels is missing"),
        ([str(folder), "--held-out", "3"], "held_out and vae say something of a dataset"),
        ([str(folder), "--dataset", "digits"], "network.img_channels is 2, but the pictures of digits need 1"),
        ([str(folder), "--dataset", "ftp://x"], "dataset.path is ftp://x; it must be"),
    ]:
        code, out, err = cli("import", *arguments, "--name", name)
        assert (code, out) == (2, ""), err
        assert sentence in err
    (other / "network-snapshot-0000065-0.050.pkl").write_bytes(
        (folder / "network-snapshot-0000065-0.050.pkl").read_bytes()
    )
    with pytest.raises(
        InvalidArgument, match=r"another network than .*: res_balance is 0.2, not 0.35; one folder is one"
    ):
        import_run(other, name, client=client)
    torch.save({"a": torch.ones(1)}, other / "1.pt")
    with pytest.raises(InvalidArgument, match="is a pickle and other files are state dicts"):
        import_run(other, name, client=client, pattern=r"\D*(?P<num_images>\d+)\D.*")
    for path in other.iterdir():
        path.unlink()
    torch.save({"a": torch.ones([1] * 65)}, other / "1.pt")
    with pytest.raises(InvalidArgument, match="tensor a has 65 dimensions; at most 64 are allowed"):
        import_run(other, name, client=client, pattern=r"(?P<num_images>\d+)\.pt")
    assert name not in [run.name for run in client.runs.list()]


def test_files_of_other_tensors_do_not_fit(client: Client, name: str, folder: Path) -> None:
    torch.save({"a": torch.ones(1)}, folder / "1.pt")
    torch.save({"a": torch.ones(2)}, folder / "2.pt")
    with pytest.raises(InvalidArgument, match=r"2.pt has other tensors .* 'a' has the shape \(2,\), not \(1,\)"):
        import_run(folder, name, client=client, pattern=r"(?P<num_images>\d)\.pt")
    (folder / "1.pt").unlink()
    with pytest.raises(Conflict, match="another origin or config"):
        import_run(folder, name, client=client, pattern=r"(?P<num_images>\d)\.pt")


def test_a_name_that_another_run_has_is_a_conflict(client: Client, name: str, folder: Path) -> None:
    foreign.write_run(folder, KIMGS[:1], [0.05])
    client.runs.create(name)
    with pytest.raises(Conflict, match=name):
        import_run(folder, name, client=client)
