"""Images per second of the sampler, and the effect of each optimisation.

The sampler is the product's own (`phema.shared.edm2.sampling.sampler`). It is compared with a plain one (the same Heun
steps over `benchmarks.plain`, which normalises every weight in every evaluation and uses einsum attention, eagerly) and
with itself with one optimisation switched off at a time. Rounds of all variants alternate. Ratios are between the
fastest rounds.

    python -m benchmarks.sample [--preset digits-tiny] [--images 64] [--steps 8] [--json]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.peak import compared
from benchmarks.plain import plain_denoiser
from benchmarks.report import machine, show
from benchmarks.switches import IN_NETWORK, IN_SAMPLING, NOTHING
from phema.shared.edm2.device import prepare_device
from phema.shared.edm2.networks.building import build_denoiser
from phema.shared.edm2.networks.costs import costs
from phema.shared.edm2.networks.denoiser import Denoiser, Precision
from phema.shared.edm2.sampling.sampler import sample_batches, sigma_steps
from phema.shared.recipes.presets import network_preset


@dataclass
class Variant:
    name: str
    denoiser: Denoiser
    switch: Callable[[], AbstractContextManager[Any]]
    precision: str
    seconds: list[float] = field(default_factory=list)


def main() -> None:
    options = arguments()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(options.threads)
    prepare_device(device)
    precision: Precision = options.precision or ("float16" if device.type == "cuda" else "float32")
    variants = variants_of(options.preset, precision, device)
    for variant in variants:
        timed(variant, options, device)
        variant.seconds.clear()
    for _ in range(options.rounds):
        for variant in variants:
            timed(variant, options, device)
    gflops = (2 * options.steps - 1) * costs(network_preset(options.preset)).gflops
    rows = compared(variants, images=options.images, gflops=gflops, device=device)
    show(machine(device.type), rows, as_json=options.json)


def variants_of(preset: str, precision: Precision, device: torch.device) -> list[Variant]:
    config = network_preset(preset)
    torch.manual_seed(0)
    own = build_denoiser(config, precision=precision).to(device)
    plain = plain_denoiser(config, precision).to(device)
    plain.load_state_dict(own.state_dict())
    nothing = NOTHING[""]
    result = [Variant("plain", plain, nothing, precision), Variant("phema", own, nothing, precision)]
    for name, switch in {**IN_SAMPLING, **IN_NETWORK}.items():
        result.append(Variant(f"without {name}", own, switch, precision))
    if precision != "float32":
        result.append(Variant("in float32", build_denoiser(config).to(device), nothing, "float32"))
    return result


def timed(variant: Variant, options: argparse.Namespace, device: torch.device) -> None:
    with variant.switch():
        start = time.perf_counter()
        batches = sample_batches(
            variant.denoiser,
            seeds=range(options.images),
            sigmas=sigma_steps(options.steps),
            batch_size=options.images,
            device=device,
        )
        for _ in batches:
            pass
        variant.seconds.append(time.perf_counter() - start)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="digits-tiny", help="default %(default)s")
    parser.add_argument("--images", type=int, default=64, help="pictures per round (default %(default)s)")
    parser.add_argument("--steps", type=int, default=8, help="Heun steps (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds (default %(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--precision", choices=["float32", "float16", "bfloat16"], help="default float16 on a GPU")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    return parser.parse_args()


if __name__ == "__main__":
    main()
