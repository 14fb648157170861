"""Find a constant in every module below a package. It makes a new module known without a list to edit."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import TypeVar

T = TypeVar("T")


def constants(package: ModuleType, name: str, kind: type[T]) -> Iterator[T]:
    """The constant `name` of every module below `package` that has it. Raises TypeError for one of another type."""
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        value = getattr(import_module(found.name), name, None)
        if value is None:
            continue
        if not isinstance(value, kind):
            raise TypeError(f"{found.name}.{name} must be a {kind.__name__}, not {type(value).__name__}")
        yield value
