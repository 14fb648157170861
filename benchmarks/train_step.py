"""Images per second of a whole training step, and the effect of each optimisation.

The step is the trainer's own (`phema.services.trainer.training.step`): loss, gradients, Adam, averages. It is compared
with a plain one (`benchmarks.plain`: weights normalised and forced in every forward pass, einsum attention, eager, one
tensor at a time in optimizer and averages) and with itself with one optimisation switched off at a time. Rounds of all
variants alternate, so that a busy machine slows down all of them. Ratios are between the fastest rounds.

    python -m benchmarks.train_step [--preset digits-tiny] [--batch 64] [--compile] [--json]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.peak import compared
from benchmarks.plain import plain_denoiser
from benchmarks.report import machine, show
from benchmarks.switches import IN_NETWORK, NOTHING
from phema.services.trainer.training.batches import Batch
from phema.services.trainer.training.step import train_step
from phema.services.trainer.training.training_state import TrainingState
from phema.services.trainer.training.worker_group import WorkerGroup
from phema.shared.edm2.averaging.power_function import beta, gamma_from_sigma_rel
from phema.shared.edm2.device import prepare_device
from phema.shared.edm2.networks.costs import costs
from phema.shared.edm2.training.loss import denoising_loss, draw_sigma
from phema.shared.recipes.presets import resolve
from phema.shared.recipes.run_config import RunConfig


@dataclass
class Variant:
    name: str
    step: Callable[[], object]
    switch: Callable[[], AbstractContextManager[Any]]
    precision: str
    seconds: list[float] = field(default_factory=list)


class PlainStep:
    """The same computation without optimisations."""

    def __init__(self, config: RunConfig, device: torch.device) -> None:
        self.config = config
        self.denoiser = plain_denoiser(config.network, config.precision).to(device).train()
        self.optimizer = torch.optim.Adam(
            self.denoiser.parameters(), lr=1e-3, betas=(config.adam_beta1, config.adam_beta2), foreach=False
        )
        self.averages = [[p.detach().clone() for p in self.denoiser.parameters()] for _ in config.ema_sigma_rels]
        self.num_images = 0

    def __call__(self, batch: Batch) -> None:
        config = self.config
        self.optimizer.zero_grad()
        for part in batch.parts(config.microbatch):
            out = denoising_loss(self.denoiser, part.images, part.labels, sigma=part.sigma, noise=part.noise)
            (out.loss.sum() / config.batch_size).backward()  # type: ignore[no-untyped-call]
        for p in self.denoiser.parameters():
            assert p.grad is not None
            torch.nan_to_num(p.grad, nan=0, posinf=0, neginf=0, out=p.grad)
        self.optimizer.step()
        self.num_images += config.batch_size
        with torch.no_grad():
            for sigma_rel, average in zip(config.ema_sigma_rels, self.averages, strict=True):
                weight = 1 - beta(gamma_from_sigma_rel(sigma_rel), self.num_images, config.batch_size)
                for p, mean in zip(self.denoiser.parameters(), average, strict=True):
                    mean.lerp_(p, weight)


def main() -> None:
    options = arguments()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(options.threads)
    prepare_device(device)
    precision = options.precision or ("float16" if device.type == "cuda" else "float32")
    fields = {"batch_size": options.batch, "max_batch_per_worker": options.microbatch, "precision": precision}
    clock = dict.fromkeys(("total_images", "snapshot_every", "checkpoint_every", "status_every"), options.batch)
    config = resolve(options.preset, fields | clock)
    variants = variants_of(config, device, compiled=options.compile)
    for variant in variants:  # warm-up: choose and compile kernels
        timed(variant, device)
        timed(variant, device)
        variant.seconds.clear()
    for _ in range(options.rounds):
        for variant in variants:
            timed(variant, device)
    gflops = 3 * costs(config.network).gflops  # the backward pass costs twice the forward pass
    rows = compared(variants, images=config.batch_size, gflops=gflops, device=device)
    show(machine(device.type), rows, as_json=options.json)


def variants_of(config: RunConfig, device: torch.device, *, compiled: bool) -> list[Variant]:
    batch = drawn(config).to(device)
    # Kernels for channels last are used if the weights or the pictures have that format.
    rows = replace(batch, images=batch.images.contiguous(), noise=batch.noise.contiguous())
    one, nothing = WorkerGroup(), NOTHING[""]

    def own(seen: Batch, layout: torch.memory_format | None = None, **changed: Any) -> Callable[[], object]:
        other = config.model_copy(update=changed)
        state = TrainingState(other, device, layout)
        return lambda: train_step(state, seen, other, one)

    plain = PlainStep(config, device)
    eager = own(batch)
    steps: list[tuple[str, Callable[[], object], Callable[[], AbstractContextManager[Any]]]] = [
        ("plain", lambda: plain(rows), nothing),
        ("phema", own(batch, compile=True) if compiled else eager, nothing),
    ]
    if compiled:
        steps.append(("without compilation", eager, nothing))
    steps += [(f"eager, without {name}", eager, switch) for name, switch in IN_NETWORK.items()]
    if device.type == "cuda":
        steps.append(("eager, without channels last", own(rows, torch.contiguous_format), nothing))
    result = [Variant(name, step, switch, config.precision) for name, step, switch in steps]
    if device.type == "cuda" and config.precision != "float32":
        result.append(Variant("eager, in float32", own(batch, precision="float32"), nothing, "float32"))
    return result


def drawn(config: RunConfig) -> Batch:
    """A batch of random data."""
    torch.manual_seed(0)
    network, n = config.network, config.batch_size
    images = 0.5 * torch.randn(n, network.img_channels, network.img_resolution, network.img_resolution)
    labels: Tensor | None = None
    if network.label_dim:
        labels = torch.eye(network.label_dim)[torch.randint(network.label_dim, [n])]
    sigma = draw_sigma(n, p_mean=config.p_mean, p_std=config.p_std, like=images)
    return Batch(images, labels, sigma, torch.randn_like(images))


def timed(variant: Variant, device: torch.device) -> None:
    with variant.switch():
        start = time.perf_counter()
        variant.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        variant.seconds.append(time.perf_counter() - start)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="digits-tiny", help="default %(default)s")
    parser.add_argument("--batch", type=int, default=64, help="images per step (default %(default)s)")
    parser.add_argument("--microbatch", type=int, default=None, help="images at once (default all)")
    parser.add_argument("--rounds", type=int, default=10, help="timed rounds (default %(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--precision", choices=["float32", "float16", "bfloat16"], help="default float16 on a GPU")
    parser.add_argument("--compile", action="store_true", help="compile the step; takes minutes")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    return parser.parse_args()


if __name__ == "__main__":
    main()
