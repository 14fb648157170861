"""Make torchvision importable where its compiled operators cannot be loaded.

PyPI's torchvision for Linux is compiled for CUDA. Beside a CPU build of torch its library does not load, and then its
import fails, because it describes two operators that nobody declared. diffusers and timm import torchvision but need
none of its operators, so it is enough to declare the two.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch

_OPERATORS = ("nms", "qnms")
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


@cache
def declare_missing_operators() -> None:
    """Call this before the first import of torchvision. Without torchvision, and with one that loads, it does nothing.

    Later calls do nothing, and are cheap.
    """
    package = find_spec("torchvision")
    if package is None or package.origin is None:
        return
    libraries = sorted(Path(package.origin).parent.glob("_C*.so"))
    try:
        for library in libraries:
            torch.ops.load_library(library)  # type: ignore[no-untyped-call]
    except OSError:
        libraries = []
    if not libraries:
        _declare()


def _declare() -> None:
    # torch keeps no reference to a library of operators, and forgets its operators with it.
    global _declared
    _declared = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for name in _OPERATORS:
        _declared.define(name + _SCHEMA)  # type: ignore[no-untyped-call]


_declared: torch.library.Library | None = None
