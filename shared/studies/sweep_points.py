"""The numbered points of a sweep, made one by one when they are needed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

from phema.shared.snapshots.profile import Profile
from phema.shared.studies.point import StudyPointSpec, WeightsSpec
from phema.shared.studies.sweep_spec import SweepSpec

CHUNK = 32
"""Weights that one pass over the snapshots makes. Which weights share a pass follows from the sweep alone: it may
change the last digits of the coefficients, and a sweep that is killed and continued must get equal figures."""


class SweepPoints:
    """The points of a resolved sweep in order: times outermost, then profiles, guides, and the recipe innermost.

    A sweep is resolved when its times, its metrics, and its guide's run id and times are given.
    """

    def __init__(self, spec: SweepSpec, run_id: str) -> None:
        self._run_id = run_id
        self._averages, self._times = spec.averages, spec.num_images or ()
        self._guides = guides_of(spec)
        self._variants: list[tuple[int | None, dict[str, Any]]] = [
            (guide if fields["guidance"] != 1 else None, fields)
            for guide, fields in product(range(max(len(self._guides), 1)), spec.recipes())
            if fields["guidance"] != 1 or guide == 0
        ]
        """(index of the guide, fields of the recipe) of the points of one set of weights."""
        self._chunks_per_time = -(-len(self._averages) // CHUNK)

    def __len__(self) -> int:
        return len(self._times) * len(self._averages) * len(self._variants)

    def __getitem__(self, number: int) -> StudyPointSpec:
        """The point with this number, from 0. Raises IndexError."""
        if not 0 <= number < len(self):
            raise IndexError(number)
        weights, variant = divmod(number, len(self._variants))
        guide, fields = self._variants[variant]
        return StudyPointSpec(
            weights=self._weights(weights),
            guide=None if guide is None else self._guides[guide],
            recipe=fields,
        )

    def __iter__(self) -> Iterator[StudyPointSpec]:
        return (self[number] for number in range(len(self)))

    def guide_index(self, number: int) -> int | None:
        """Place of the point's guide in `guides`; None for a point without guidance."""
        return self._variants[number % len(self._variants)][0]

    @property
    def guides(self) -> list[WeightsSpec]:
        """The guides, each once."""
        return self._guides

    def chunk_of(self, number: int) -> tuple[int, int]:
        """(number of the chunk that holds the point's weights, their place in it)."""
        time, average = divmod(number // len(self._variants), len(self._averages))
        return time * self._chunks_per_time + average // CHUNK, average % CHUNK

    def chunk(self, index: int) -> list[WeightsSpec]:
        """The weights of one chunk, all of one time: they are made in one pass."""
        time, part = divmod(index, self._chunks_per_time)
        first = time * len(self._averages)
        last = min((part + 1) * CHUNK, len(self._averages))
        return [self._weights(first + average) for average in range(part * CHUNK, last)]

    def _weights(self, index: int) -> WeightsSpec:
        time, average = divmod(index, len(self._averages))
        return WeightsSpec(run_id=self._run_id, num_images=self._times[time], profile=self._averages[average])


def guides_of(spec: SweepSpec) -> list[WeightsSpec]:
    """The guides of a resolved sweep, each once: times outermost."""
    guide = spec.guide
    if guide is None or guide.run is None:
        return []
    return [
        WeightsSpec(run_id=guide.run, num_images=num_images, profile=Profile.power(sigma_rel))
        for num_images, sigma_rel in product(guide.num_images or (), guide.sigma_rel)
    ]
