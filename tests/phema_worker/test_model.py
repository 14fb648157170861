"""From a snapshot file to the network it holds, and what is said of files that hold none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from phema.shared.edm2.networks.building import build_denoiser
from phema.shared.snapshots.errors import CorruptObject
from phema.shared.snapshots.files.network_loading import load_denoiser, load_model
from phema.shared.snapshots.files.snapshot_file import SnapshotMetadata, encode
from phema.shared.snapshots.profile import Profile
from tests.phema_worker.lab import tiny_config

CONFIG = tiny_config()


def _metadata(**changes: object) -> SnapshotMetadata:
    fields = {
        "run_id": "run-1",
        "num_images": 640,
        "profile": Profile.power(0.1),
        "dtype": "float32",
        "code_version": "test",
        "config_hash": CONFIG.config_hash,
        "config": CONFIG.model_dump(mode="json"),
    }
    return SnapshotMetadata.model_validate(fields | changes)


def test_a_loaded_network_denoises_as_the_stored_one(tmp_path: Path) -> None:
    network = build_denoiser(CONFIG.network).eval()
    with torch.no_grad():
        network.unet.out_gain.fill_(1.0)
    path = tmp_path / "weights.safetensors"
    path.write_bytes(encode(network.state_dict(), _metadata()))
    before = torch.random.get_rng_state()
    for source in (path, str(path), path.read_bytes()):
        loaded = load_model(source)
        x = torch.linspace(-1, 1, 128).reshape(2, 1, 8, 8)
        labels = torch.eye(10)[:2]
        with torch.inference_mode():
            assert torch.equal(loaded.denoiser(x, 0.5, labels), network(x, 0.5, labels))
        assert loaded.metadata == _metadata()
        assert not loaded.denoiser.training
    assert torch.equal(before, torch.random.get_rng_state()), "loading draws nothing from the caller's generator"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_weights_become_float32(dtype: str) -> None:
    network = build_denoiser(CONFIG.network)
    loaded = load_denoiser(encode(network.state_dict(), _metadata(dtype=dtype)))
    for name, parameter in loaded.named_parameters():
        assert parameter.dtype == torch.float32
        torch.testing.assert_close(parameter, network.get_parameter(name), rtol=1e-2, atol=1e-2)


def test_a_truncated_file_is_refused_in_one_sentence() -> None:
    data = encode(build_denoiser(CONFIG.network).state_dict(), _metadata())
    for length in (0, 5, 500, len(data) - 1):
        with pytest.raises(CorruptObject) as caught:
            load_denoiser(data[:length])
        assert "\n" not in str(caught.value)


def test_a_foreign_file_is_refused() -> None:
    with pytest.raises(CorruptObject, match="without phema's metadata"):
        load_denoiser(save({"weight": torch.zeros(3)}))


def test_another_network_than_described_is_refused() -> None:
    state = build_denoiser(CONFIG.network).state_dict()
    state.pop("unet.out_gain")
    with pytest.raises(CorruptObject, match=r"tensor unet.out_gain has shape none, expected \(\)"):
        load_denoiser(encode(state, _metadata()))


@pytest.mark.parametrize("config", [{}, {"network": {"img_resolution": -1}}])
def test_a_configuration_that_names_no_network_is_refused(config: dict[str, object]) -> None:
    data = encode(build_denoiser(CONFIG.network).state_dict(), _metadata(config=config))
    with pytest.raises(CorruptObject, match="describes no network phema can build: network"):
        load_denoiser(data)
