"""Measure the share of a training step that tracking power-function averages takes.

The network of the S preset at reduced width, or of `--preset`, trains on random data. Averaging is timed separately
from the rest of the same step, so that a busy machine slows down both. The bound for two averages is 5 %, and 1 % of a
compiled step (`--compile`), whose batch must fill the device. With `--offload` the averages are on the CPU; what is
timed is what the training waits for.

    python -m benchmarks.ema_update [--compile] [--offload] [--preset NAME] [--json]

Exits with status 1 if the bound is missed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from benchmarks.report import machine
from phema.shared.edm2.averaging.ema import PowerFunctionEMA
from phema.shared.edm2.device import prepare_device
from phema.shared.edm2.networks.building import build_denoiser
from phema.shared.edm2.networks.config import NetworkConfig
from phema.shared.edm2.networks.denoiser import Denoiser
from phema.shared.edm2.networks.layers import normalize_weights_
from phema.shared.edm2.training.loss import LossOutput, denoising_loss, draw_sigma
from phema.shared.recipes.presets import network_preset

LIMIT, COMPILED_LIMIT = 0.05, 0.01
WARM_UP = 2


@dataclass
class Trainer:
    """The parts of a training step that all runs have."""

    denoiser: Denoiser
    optimizer: torch.optim.Optimizer
    images: torch.Tensor
    labels: torch.Tensor
    loss: Callable[..., LossOutput] = denoising_loss

    def step(self) -> None:
        normalize_weights_(self.denoiser)
        self.optimizer.zero_grad(set_to_none=True)
        sigma = draw_sigma(len(self.images), p_mean=-0.4, p_std=1.0, generator=None, like=self.images)
        noise = torch.randn_like(self.images)
        out = self.loss(self.denoiser, self.images, self.labels, sigma=sigma, noise=noise)
        (out.loss.sum() / len(self.images)).backward()
        self.optimizer.step()


def reduced(width: int) -> NetworkConfig:
    """The S preset with `width` channels instead of 192 and attention heads scaled in proportion."""
    fields = network_preset("edm2-img512-s").model_dump()
    return NetworkConfig.model_validate({**fields, "model_channels": width, "channels_per_head": min(64, width)})


def measure(
    trainer: Trainer, module: nn.Module, sigma_rels: list[float], steps: int, offload: bool = False
) -> tuple[float, float]:
    """Median seconds of a step without averaging, and median share of that time that averaging adds."""
    ema = PowerFunctionEMA(module, sigma_rels, device="cpu" if offload else None)
    batch = len(trainer.images)
    plain: list[float] = []
    shares: list[float] = []

    def now() -> float:
        if trainer.images.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    for i in range(WARM_UP + steps):
        start = now()
        trainer.step()
        middle = now()
        ema.update((i + 1) * batch, batch)
        end = now()
        if i >= WARM_UP:
            plain.append(middle - start)
            shares.append((end - middle) / (middle - start))
    return statistics.median(plain), statistics.median(shares)


def run(options: argparse.Namespace) -> dict[str, object]:
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    prepare_device(device)
    config = reduced(options.width) if options.preset is None else network_preset(options.preset)
    denoiser = build_denoiser(config).to(device)
    images = 0.5 * torch.randn(options.batch, config.img_channels, config.img_resolution, config.img_resolution)
    labels = torch.eye(config.label_dim)[torch.randint(config.label_dim, [options.batch])]
    trainer = Trainer(
        denoiser=denoiser,
        optimizer=torch.optim.Adam(denoiser.parameters(), lr=1e-2, betas=(0.9, 0.99)),
        images=images.to(device),
        labels=labels.to(device),
        loss=torch.compile(denoising_loss, dynamic=False) if options.compile else denoising_loss,
    )
    seconds, share = measure(trainer, denoiser, options.sigma_rel, options.steps, options.offload)
    limit = COMPILED_LIMIT if options.compile else LIMIT
    return {
        **machine(device.type),
        "preset": options.preset or f"edm2-img512-s, {options.width} channels",
        "parameters": sum(p.numel() for p in denoiser.parameters()),
        "batch": options.batch,
        "steps": options.steps,
        "averages": len(options.sigma_rel),
        "step_seconds": seconds,
        "ema_share": share,
        "compiled": options.compile,
        "offloaded": options.offload,
        "limit": limit,
        "passed": share <= limit,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=32, help="model channels, S has 192 (default %(default)s)")
    parser.add_argument("--preset", help="network of this preset as it is, such as digits-tiny")
    parser.add_argument("--batch", type=int, default=4, help="pictures per step (default %(default)s)")
    parser.add_argument("--steps", type=int, default=12, help="timed steps (default %(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--sigma-rel", type=float, nargs="+", default=[0.05, 0.10], help="one average each")
    parser.add_argument("--compile", action="store_true", help="compile the network and its loss")
    parser.add_argument("--offload", action="store_true", help="keep the averages on the CPU")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    figures = run(parser.parse_args())
    if "--json" in sys.argv:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:14}{f'{value:.4f}' if isinstance(value, float) else value}")
    return 0 if figures["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
