"""The option `--device` of commands that compute on this machine."""

from __future__ import annotations

from enum import StrEnum

from phema.errors import InvalidArgument


class Device(StrEnum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


def torch_device(device: Device) -> str:
    """The name that torch gives the device, after its arithmetic was set as for training.

    Raises InvalidArgument for a CUDA device that is not there.
    """
    import torch

    from phema.shared.edm2.device import prepare_device

    if device is Device.cuda and not torch.cuda.is_available():
        raise InvalidArgument("--device cuda, but torch finds no CUDA device; use cpu or auto")
    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device is Device.auto else device.value
    prepare_device(torch.device(chosen))
    return chosen
