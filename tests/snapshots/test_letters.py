"""A snapshot of any configuration is loaded as the network it holds."""

from __future__ import annotations

import pytest
import torch

from phema.shared.edm2.networks.building import build_denoiser
from phema.shared.recipes.presets import resolve
from phema.shared.snapshots.files.network_loading import load_model
from phema.shared.snapshots.files.snapshot_file import SnapshotMetadata, encode
from phema.shared.snapshots.profile import Profile


@pytest.mark.parametrize("letter", "ABCDEFG")
def test_every_letter_comes_back(letter: str) -> None:
    run = resolve("digits-tiny", {"network": {"config": letter}})
    torch.manual_seed(3)
    network = build_denoiser(run.network).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    learned = {name for name, _ in network.named_parameters()}
    metadata = SnapshotMetadata(
        run_id="run-1", num_images=640, profile=Profile.power(0.1), dtype="float32",
        buffers=tuple(name for name in network.state_dict() if name not in learned), code_version="test",
        config_hash=run.config_hash, config=run.model_dump(mode="json"),
    )  # fmt: skip
    loaded = load_model(encode(network.state_dict(), metadata))
    assert loaded.denoiser.config == run.network
    assert loaded.metadata.config["network"]["config"] == letter
    x, labels = torch.linspace(-1, 1, 128).reshape(2, 1, 8, 8), torch.eye(10)[:2]
    with torch.inference_mode():
        assert torch.equal(loaded.denoiser(x, 0.5, labels), network(x, 0.5, labels))
