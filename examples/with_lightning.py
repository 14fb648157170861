"""Choose the EMA length of a classifier that PyTorch Lightning trained, without a service.

A small network learns handwritten digits (scikit-learn's 1,797 pictures) with a large, constant learning rate. The
callback stores two averages. Afterwards any EMA length is reconstructed, and the best one found. Needs
`pip install 'phema[lightning]' scikit-learn`. Then:

    python examples/with_lightning.py
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import phema
from phema.integrations.lightning import PostHocEMA

SIGMA_RELS = (0.02, 0.05, 0.10, 0.15, 0.20)


class Classifier(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def training_step(self, batch: Any, index: int) -> Tensor:
        pictures, classes = batch
        return cross_entropy(self.net(pictures + 0.2 * torch.randn_like(pictures)), classes)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="runs/lightning", help="folder for the snapshots")
    parser.add_argument("--epochs", type=int, default=8)
    options = parser.parse_args()
    seed_everything(0)
    data = load_digits()
    pictures, classes = torch.tensor(data.data, dtype=torch.float32) / 16, torch.tensor(data.target)
    order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(0))
    train, test = order[:1000], order[1000:]
    batches = DataLoader(TensorDataset(pictures[train], classes[train]), batch_size=8, shuffle=True)

    model = Classifier()
    averages = PostHocEMA(options.run, save_every=250, module="net", config={"lr": 0.5, "epochs": options.epochs})
    trainer = Trainer(
        max_epochs=options.epochs, callbacks=[averages], accelerator="cpu", logger=False, enable_checkpointing=False
    )
    trainer.fit(model, batches)

    def loss() -> float:
        with torch.no_grad():
            return float(cross_entropy(model.net(pictures[test]), classes[test]))

    print(f"last weights: {loss():.4f}")
    for chosen in phema.open(options.run).reconstruct(SIGMA_RELS, output=f"{options.run}-chosen"):
        model.net.load_state_dict(load_file(chosen.path))
        print(f"sigma_rel {chosen.label}: {loss():.4f}")


if __name__ == "__main__":
    main()
