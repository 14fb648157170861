"""Learns an average of a run in a folder or bucket, with a scoring function of the user."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from phema.client.reconstruction_requests import Profiles, profile_bodies
from phema.errors import InvalidArgument
from phema.sdk.learned_averages.average_search import AverageSearch
from phema.sdk.learned_averages.comparison import Comparison, Losses, compare, losses_of
from phema.sdk.run_folders.output_files import SUFFIX
from phema.sdk.run_folders.results import ReconstructedFile
from phema.sdk.run_folders.stored_run import StoredRun
from phema.shared.snapshots.files.header import StoredDtype, is_average
from phema.shared.snapshots.files.snapshot_file import read_path
from phema.shared.snapshots.profile import Profile

Score = Callable[[dict[str, Tensor]], Losses]
Progress = Callable[[int, int, float], None]
_TOGETHER = 8
"""EMA lengths that are reconstructed in one pass. Their files exist until they are scored."""


@dataclass(frozen=True)
class LearnedAverage:
    """A learned average, and how it compares with the best EMA length."""

    file: ReconstructedFile
    profile: Profile
    """The mixture. It can be reconstructed again, also by a service: `client.reconstruct(run, profiles=profile)`."""
    best_length: Profile
    """The best EMA length."""
    score: float
    """The mixture's score on the data of the search, which flatters it."""
    best_length_score: float
    """The best EMA length's score on the data of the search."""
    evaluations: int
    """Number of scores that the search took."""
    held_out: Comparison
    """On data that the search has not seen."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {
            "file": self.file.to_json(),
            "profile": self.profile.model_dump(mode="json"),
            "best_length": self.best_length.model_dump(mode="json"),
        }


def learn_average(
    run: StoredRun,
    score: Score,
    held_out: Score,
    *,
    output: str | PathLike[str],
    num_images: int | None = None,
    sigma_rel_min: float = 0.02,
    sigma_rel_max: float = 0.25,
    profiles: Profiles = (),
    evaluations: int = 60,
    seed: int = 0,
    state: str | PathLike[str] | None = None,
    dtype: StoredDtype = "float32",
    on_progress: Progress | None = None,
) -> LearnedAverage:
    """Search for the mixture of averages with the lowest `score`, and compare it with the best EMA length.

    `run` is a run that `phema.open` opened. `score` and `held_out` take a state dict (names and shapes of the model,
    averages in float32 on the CPU). They return a number, lower is better, or one loss for each example. `held_out`
    must use data that `score` does not use; with a loss for each example, the comparison has a standard error.

    The average is written to `output`, a file that ends with .safetensors. Its lineage holds the coefficients of the
    snapshots and the search. If no mixture is better than the best EMA length, the file holds that length.

    `evaluations` is the budget of either search, for the mixture and for the EMA length. `profiles`: averages to mix,
    in place of power functions of the range. `state`: a file from which an interrupted search continues.
    `num_images`: None is the latest time at which every average is stored. `on_progress` is called with the number of
    scores, how many there will be, and the lowest score so far.

    Raises phema.errors.InvalidArgument, MissingPackages without the extra `learn`, and SnapshotError.
    """
    path = Path(output).expanduser().absolute()
    if path.suffix != SUFFIX:
        raise InvalidArgument(f"output {output} must end with {SUFFIX}")
    time = run.plan(sigma_rel_min, num_images).num_images
    search = AverageSearch(
        time,
        sigma_rel_min=sigma_rel_min,
        sigma_rel_max=sigma_rel_max,
        profiles=[Profile.model_validate(body) for body in profile_bodies(profiles)],
        evaluations=evaluations,
        seed=seed,
        state=state,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".phema-", dir=path.parent) as folder:
        weights = _AskedWeights(run, time, Path(folder))
        while asked := search.ask():
            search.tell([float(losses_of("score", score(state)).mean()) for state in weights.of(search, asked)])
            if on_progress is not None:
                on_progress(len(search.scores), search.total, min(search.scores))
        chosen, length = search.best, search.best_length
        [file] = run.write((chosen,), time, output=path, dtype=dtype, lineage={"search": search.to_json()})
        learned = {name: t.float() if t.is_floating_point() else t for name, t in load_file(path).items()}
        [plain] = weights.of(search, [length])
        compared = compare(held_out(learned), held_out(plain))
    return LearnedAverage(
        file=file,
        profile=chosen,
        best_length=length,
        score=min(search.scores),
        best_length_score=search.best_length_score,
        evaluations=len(search.scores),
        held_out=compared,
    )


class _AskedWeights:
    """The weights of asked averages. EMA lengths are reconstructed, mixtures combined from the family's files."""

    def __init__(self, run: StoredRun, num_images: int, folder: Path) -> None:
        self._run, self._time, self._folder = run, num_images, folder
        self._family: list[Path] = []

    def of(self, search: AverageSearch, profiles: Sequence[Profile]) -> Iterator[dict[str, Tensor]]:
        """Yields a state dict for each profile, in order. The last one is freed when the next is asked for."""
        plain = [profile for profile in profiles if profile.kind != "mixture"]
        for first in range(0, len(plain), _TOGETHER):
            for path in self._reconstruct(plain[first : first + _TOGETHER]):
                yield load_file(path)
                path.unlink()
        if len(plain) == len(profiles):
            return
        if not self._family:
            self._family = self._reconstruct(search.family)
        averaged = _averaged(self._family[0])
        for profile in profiles:
            assert profile.weights is not None, "lengths and mixtures are never asked together"
            yield _mixed(self._family, profile.weights, averaged)

    def _reconstruct(self, profiles: Sequence[Profile]) -> list[Path]:
        target = tempfile.mkdtemp(dir=self._folder)
        made = self._run.reconstruct(profiles=list(profiles), num_images=self._time, output=target)
        return [file.path for file in made]


def _averaged(path: Path) -> set[str]:
    """Names of the averaged tensors. The others are buffers, and the same in every average of one time."""
    header = read_path(path)
    buffers = header.metadata.buffers if header.metadata is not None else ()
    return {entry.name for entry in header.tensors if is_average(entry.name, entry.dtype, buffers)}


def _mixed(family: Sequence[Path], weights: Sequence[float], averaged: set[str]) -> dict[str, Tensor]:
    """Combine the files tensor by tensor, so that only one state dict is in memory. Buffers are the first file's."""
    with ExitStack() as stack:
        files: list[Any] = [stack.enter_context(safe_open(path, "pt")) for path in family]
        state = {}
        for name in files[0].keys():  # noqa: SIM118  # a safetensors file is no mapping
            total = files[0].get_tensor(name)
            if name in averaged:
                total = total * weights[0]
                for file, weight in zip(files[1:], weights[1:], strict=True):
                    total.add_(file.get_tensor(name), alpha=weight)
            state[name] = total
    return state
