"""What a fault is, and the list of all of them."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass

from tests.chaos import faults
from tests.chaos.storm import NothingToHit, Storm

__all__ = ["FAULTS", "Fault", "NothingToHit", "fault", "load"]

Inject = Callable[[Storm], str]


@dataclass(frozen=True)
class Fault:
    """`inject` returns what it hit, once the victim is up again. Raises NothingToHit."""

    name: str
    recovery: str
    """How the work survives it, for the table."""
    inject: Inject
    weight: int
    """How often a storm chooses it, relative to the others."""
    slow: bool
    """Left out of the short storm."""


FAULTS: list[Fault] = []


def fault(name: str, recovery: str, *, weight: int = 3, slow: bool = False) -> Callable[[Inject], Inject]:
    """Adds a function to FAULTS."""

    def register(inject: Inject) -> Inject:
        FAULTS.append(Fault(name, recovery, inject, weight, slow))
        return inject

    return register


def load() -> list[Fault]:
    """FAULTS, once every module of this folder is imported; always in the same order."""
    for module in sorted(found.name for found in pkgutil.iter_modules(faults.__path__)):
        importlib.import_module(f"{faults.__name__}.{module}")
    return FAULTS
