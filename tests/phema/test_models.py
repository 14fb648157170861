"""phema.load, sample and save_grid on a file that the real reconstruction wrote."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import phema
from phema.errors import InvalidArgument
from phema.shared.edm2.averaging.posthoc import solve
from phema.shared.edm2.averaging.weightings import PowerWeighting
from phema.shared.edm2.networks.building import build_denoiser
from phema.shared.edm2.networks.denoiser import Denoiser
from phema.shared.recipes.presets import resolve
from phema.shared.snapshots import CorruptObject, open_store
from phema.shared.snapshots.combining.reconstruct import OutputSpec, reconstruct
from phema.shared.snapshots.files.snapshot_file import SnapshotMetadata, encode
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.profile import Profile

CONFIG = resolve("digits-tiny")
WANTED = PowerWeighting(128, 0.07)
STORED = [PowerWeighting(t, s) for t in (64, 128) for s in (0.05, 0.10)]


def metadata(profile: PowerWeighting, **fields: object) -> SnapshotMetadata:
    return SnapshotMetadata(
        run_id="run-1",
        num_images=profile.num_images,
        profile=Profile.power(profile.sigma_rel),
        dtype="float32",
        buffers=tuple(name for name, _ in network(0).named_buffers()),
        code_version="test",
        config_hash=CONFIG.config_hash,
        config=CONFIG.model_dump(mode="json"),
        **fields,
    )


def network(seed: int) -> Denoiser:
    torch.manual_seed(seed)
    return build_denoiser(CONFIG.network)


@pytest.fixture(scope="module")
def reconstructed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """sigma_rel 0.07 of four stored networks, by the code that the worker runs."""
    folder = tmp_path_factory.mktemp("store")
    store = open_store(folder.as_uri())
    inputs = []
    for index, profile in enumerate(STORED):
        # The same buffers everywhere, as in one run.
        state = {**network(index).state_dict(), **dict(network(0).named_buffers())}
        info = store.put(f"{index}.safetensors", encode(state, metadata(profile)))
        inputs.append(
            StoredSnapshot(
                str(index), profile.num_images, Profile.power(profile.sigma_rel), info.key, info.size, info.sha256 or ""
            )
        )
    [coefficients] = solve(STORED, [WANTED]).coefficients
    output = OutputSpec(
        key="out.safetensors",
        coefficients=tuple(coefficients),
        metadata=metadata(WANTED, kind="reconstruction", lineage={"coefficients": list(coefficients)}),
        dtype="float32",
    )
    reconstruct(store, inputs, [output], memory_bytes=2**24, progress=lambda *_: None, cancelled=lambda: False)
    return folder / "out.safetensors"


def test_load_gives_the_combination_of_the_stored_networks(reconstructed: Path) -> None:
    denoiser = phema.load(str(reconstructed))
    assert not denoiser.training
    assert denoiser.config == CONFIG.network
    [coefficients] = solve(STORED, [WANTED]).coefficients
    states = [network(index).state_dict() for index in range(len(STORED))]
    for name, parameter in denoiser.named_parameters():
        wanted = sum(c * state[name].double() for c, state in zip(coefficients, states, strict=True))
        torch.testing.assert_close(parameter.double(), wanted, rtol=1e-5, atol=1e-6)
    x = torch.randn(2, 1, 8, 8)
    assert denoiser(x, torch.tensor([1.0, 2.0]), torch.eye(10)[:2]).shape == x.shape


def test_metadata_tells_where_the_weights_come_from(reconstructed: Path) -> None:
    found = phema.metadata(reconstructed)
    assert (found.kind, found.run_id, found.num_images, found.profile.sigma_rel) == (
        "reconstruction",
        "run-1",
        128,
        0.07,
    )


def test_a_picture_depends_on_its_seed_alone(reconstructed: Path) -> None:
    denoiser = phema.load(reconstructed)
    many = phema.sample(denoiser, seeds=5, num_steps=4)
    assert (many.shape, many.dtype) == ((5, 1, 8, 8), torch.float32)
    torch.testing.assert_close(phema.sample(denoiser, seeds=[3], num_steps=4)[0], many[3], rtol=0, atol=0)
    threes = phema.sample(denoiser, seeds=2, class_labels=3, num_steps=4)
    named = phema.sample(denoiser, seeds=range(2), class_labels=[3, 3], num_steps=4)
    torch.testing.assert_close(threes, named, rtol=0, atol=0)
    guided = phema.sample(denoiser, seeds=2, class_labels=3, num_steps=4, guide=denoiser, guidance=2.0)
    torch.testing.assert_close(guided, threes)


def test_every_option_of_the_sampler_has_its_effect(reconstructed: Path) -> None:
    denoiser = phema.load(reconstructed)
    options = {"guide": denoiser, "guidance": 2.0}
    plain = phema.sample(denoiser, seeds=2, num_steps=4)
    assert torch.equal(phema.sample(denoiser, seeds=2, num_steps=4, **options, guidance_interval=(90, 100)), plain)
    churned = phema.sample(denoiser, seeds=2, num_steps=4, churn=2.0)
    others = [
        phema.sample(denoiser, seeds=2, num_steps=4, **changed)
        for changed in (
            {"churn": 1.0},
            {"churn": 2.0, "churn_noise": 1.1},
            {"churn": 2.0, "churn_min": 1.0},
            {"churn": 2.0, "churn_max": 1.0},
            {"sigma_min": 0.01},
            {"sigma_max": 40.0},
            {"rho": 5.0},
        )
    ]
    different = [plain, churned, *others]
    assert all(not torch.equal(a, b) for i, a in enumerate(different) for b in different[:i])
    with pytest.raises(ValueError, match="guidance_interval"):
        phema.sample(denoiser, **options, guidance_interval=(2, 1))


def test_mistakes_in_sampling(reconstructed: Path) -> None:
    denoiser = phema.load(reconstructed)
    with pytest.raises(ValueError, match="between 0 and 9"):
        phema.sample(denoiser, seeds=2, class_labels=10)
    with pytest.raises(ValueError, match="num_steps 1"):
        phema.sample(denoiser, num_steps=1)
    with pytest.raises(ValueError, match="guidance 2"):
        phema.sample(denoiser, guidance=2.0)


def test_files_that_cannot_be_loaded(reconstructed: Path, tmp_path: Path) -> None:
    (tmp_path / "cut").write_bytes(reconstructed.read_bytes()[:-100])
    with pytest.raises(CorruptObject, match="cut"):
        phema.load(tmp_path / "cut")
    with pytest.raises(CorruptObject, match="cut"):
        phema.metadata(tmp_path / "cut")
    with pytest.raises(FileNotFoundError):
        phema.load(tmp_path / "none")


def test_a_cpu_computes_in_float32(reconstructed: Path) -> None:
    assert phema.load(reconstructed).precision == "float32"
    with pytest.raises(InvalidArgument, match="precision float16 needs a GPU; on a CPU compute in float32"):
        phema.load(reconstructed, precision="float16")
    with pytest.raises(InvalidArgument, match="precision 'half' is unknown; allowed: float32, float16, bfloat16"):
        phema.load(reconstructed, precision="half")  # type: ignore[arg-type]


def test_save_grid_draws_what_it_is_given(tmp_path: Path) -> None:
    pictures = torch.full((5, 1, 8, 8), -1.0)
    pictures[4, 0, 7, 7] = 3.0
    pictures[3] = 0.0
    path = phema.save_grid(pictures, tmp_path / "grid.png", columns=3)
    grid = np.asarray(Image.open(path))
    # 8 pixels become 48, 2 pixels of white between.
    assert grid.shape == (2 * 50 + 2, 3 * 50 + 2)
    assert grid[0].min() == 255
    assert grid[2:50, 2:50].max() == 0
    assert set(np.unique(grid[52:100, 2:50])) == {128}
    assert grid[99, 99] == 255
    assert grid[93, 93] == 0
    colours = phema.save_grid(torch.zeros(4, 3, 64, 64), tmp_path / "colours.png")
    assert np.asarray(Image.open(colours)).shape == (134, 134, 3)


@pytest.mark.parametrize("shape", [(8, 8), (0, 1, 8, 8), (2, 4, 8, 8)])
def test_save_grid_refuses_what_is_no_picture(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(phema.PhemaError, match="a grid needs"):
        phema.save_grid(torch.zeros(shape), tmp_path / "grid.png")
    assert list(tmp_path.iterdir()) == []


def test_names_are_loaded_when_they_are_used() -> None:
    code = "import sys, phema; assert 'torch' not in sys.modules; phema.load; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
