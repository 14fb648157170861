"""Choose the EMA length of a plain PyTorch classifier after its training.

A small network learns handwritten digits (scikit-learn's 1,797 pictures) with a large, constant learning rate. While it
trains, two power-function EMAs of its weights are stored. Afterwards any EMA length is reconstructed from them, so the
best one is found without training again.

Needs scikit-learn and a running service: `phema up` (or `make up`) in another terminal, in the same folder. Then:

    python examples/classifier.py
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import phema

BATCH, STEPS, SNAPSHOT_EVERY = 8, 1280, 40
CONFIG = {"model": "two layers", "learning_rate": 0.5, "batch_size": BATCH, "noise": 0.2}
SIGMA_RELS = (0.02, 0.03, 0.05, 0.075, 0.10, 0.13, 0.16, 0.20, 0.25)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training pictures [N, 64] and classes [N], then test pictures and classes."""
    data = load_digits()
    pictures, classes = torch.tensor(data.data, dtype=torch.float32) / 16, torch.tensor(data.target)
    order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(0))
    pictures, classes = pictures[order], classes[order]
    return pictures[:1000], classes[:1000], pictures[1000:], classes[1000:]


def train(run: str) -> nn.Module:
    """An ordinary training loop, with four lines for phema."""
    torch.manual_seed(0)
    pictures, classes, *_ = digits()
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=CONFIG["learning_rate"])
    ema = phema.PowerFunctionEMA(model, sigma_rels=[0.05, 0.10])
    with phema.SnapshotWriter(run, config=CONFIG, total_images=STEPS * BATCH) as writer:
        for step in range(1, STEPS + 1):
            batch = torch.randint(len(pictures), [BATCH])
            optimizer.zero_grad()
            noisy = pictures[batch] + CONFIG["noise"] * torch.randn(BATCH, 64)
            cross_entropy(model(noisy), classes[batch]).backward()
            optimizer.step()
            ema.update(step * BATCH)
            if step % SNAPSHOT_EVERY == 0:
                writer.save(ema)
        writer.finish()
    return model


@torch.no_grad()
def score(weights: dict[str, Tensor]) -> tuple[float, float]:
    """Accuracy and cross-entropy on the test pictures."""
    *_, pictures, classes = digits()
    model = network()
    model.load_state_dict(weights)
    logits = model(pictures)
    return float((logits.argmax(1) == classes).float().mean()), float(cross_entropy(logits, classes))


def compare(run: str, final: nn.Module, folder: Path) -> dict[str, tuple[float, float]]:
    """Accuracy and cross-entropy by EMA length. The weights are safetensors files, which can be read without phema."""
    scores = {"none": score(final.state_dict())}
    with phema.Client() as client:
        for chosen in client.reconstruct(run, SIGMA_RELS):
            path = client.download(chosen.id, folder / f"{chosen.sigma_rel}.safetensors")
            scores[f"{chosen.sigma_rel:g}"] = score(load_file(path))
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="classifier", help="name of the run")
    run = parser.parse_args().run
    final = train(run)
    with tempfile.TemporaryDirectory() as folder:
        scores = compare(run, final, Path(folder))
    print("sigma_rel  accuracy  cross-entropy")
    for sigma_rel, (accuracy, loss) in scores.items():
        print(f"{sigma_rel:>9}  {accuracy:8.2%}  {loss:13.4f}")
    best = min(scores, key=lambda sigma_rel: scores[sigma_rel][1])
    print(f"lowest cross-entropy: sigma_rel {best}")


if __name__ == "__main__":
    main()
