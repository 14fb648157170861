"""Learned averages: searches on losses with a known optimum, their continuation, comparisons on held-out data."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import phema
from phema import AverageSearch, Profile, SnapshotWriter
from phema.client.client import Client
from phema.client.study_models import Sweep
from phema.errors import InvalidArgument, MissingPackages
from phema.sdk.learned_averages.comparison import compare
from phema.sdk.learned_averages.mixture_space import MixtureSpace
from phema.shared.catalog import Run
from phema.shared.edm2.averaging.weightings import PowerWeighting
from phema.shared.snapshots.planning.profile_weighting import weighting
from tests.phema.service import Service
from tests.phema.stored_training import END, Regression, train
from tests.phema.test_sweep_command import finish

WANTED = Profile(kind="mixture", profiles=(Profile.power(0.03), Profile.power(0.15)), weights=(2, -1))
"""The optimum of the losses below: outside of what an EMA of any length can be."""
TIMES = np.linspace(0, END, 4000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("learned") / "runs" / "mine"
    with SnapshotWriter(place, total_images=END) as writer:
        train(writer)
    return place


def misses(profile: Profile) -> float:
    """Squared distance of a profile's tail from that of the optimum: a loss that needs no weights."""
    gap = weighting(profile, END).tail(TIMES) - weighting(WANTED, END).tail(TIMES)
    return float((gap**2).mean())


def answer(search: AverageSearch, score: Callable[[Profile], float] = misses, most: int = 10**6) -> int:
    """Answer at most `most` rounds of questions; returns the number of answers."""
    count = 0
    while most and (profiles := search.ask()):
        search.tell([score(profile) for profile in profiles])
        count, most = count + len(profiles), most - 1
    return count


def test_coordinates_of_mixtures() -> None:
    family = [Profile.power(s) for s in (0.05, 0.02, 0.1, 0.2)]
    space = MixtureSpace(family, 0, END)
    assert space.dimensions == 3
    assert space.weights(np.zeros(3)) == (1.0, 0.0, 0.0, 0.0)
    points = np.random.default_rng(0).normal(size=(20, 3))
    assert all(math.isclose(math.fsum(space.weights(point)), 1) for point in points)
    # Steps of the same length along later directions move the weights less, and no direction is without effect.
    moved = [
        np.linalg.norm(weighting(space.mixture(p), END).tail(TIMES) - PowerWeighting(END, 0.05).tail(TIMES))
        for p in np.eye(3)
    ]
    assert moved[0] > 2 * moved[1] > 4 * moved[2] > 1e-3


def test_the_optimum_is_found_and_both_searches_have_the_same_budget() -> None:
    search = AverageSearch(END, evaluations=150)
    count = answer(search)
    assert count == len(search.scores) == search.total
    asked = [profile.kind for profile in search._asked]
    assert asked.count("power") <= 150
    assert asked.count("mixture") == 150 - 12
    assert search.best.kind == "mixture"
    assert search.best_length.sigma_rel is not None
    grid = [misses(Profile.power(float(s))) for s in np.geomspace(0.02, 0.25, 2000)]
    assert search.best_length_score < min(grid) * 1.001, "the length is the best one to 1 %"
    assert misses(search.best) == min(search.scores) < 0.06 * search.best_length_score
    exact = AverageSearch(END, profiles=[Profile.power(0.03), Profile.power(0.15)], evaluations=250)
    answer(exact)
    assert misses(exact.best) < 1e-6 * exact.best_length_score
    assert exact.best.weights is not None
    np.testing.assert_allclose(exact.best.weights, [0, 2, -1], atol=0.05)


def test_without_a_better_mixture_the_length_is_chosen() -> None:
    search = AverageSearch(END, evaluations=24)
    answer(search, lambda profile: abs(math.log(profile.sigma_rel / 0.07)) if profile.sigma_rel else math.nan)
    assert search.best == search.best_length
    assert search.best.sigma_rel == pytest.approx(0.07, rel=0.02)


def test_a_stopped_search_continues_with_the_same_questions(tmp_path: Path) -> None:
    whole = AverageSearch(END, evaluations=60, seed=3)
    answer(whole)
    for rounds in (1, 2, 4):
        state = tmp_path / f"{rounds}.json"
        first = AverageSearch(END, evaluations=60, seed=3, state=state)
        done = answer(first, most=rounds)
        second = AverageSearch(END, evaluations=60, seed=3, state=state)
        assert second.ask() == first.ask()
        assert done + answer(second) == len(whole.scores)
        assert (second.scores, second.best) == (whole.scores, whole.best)
    assert json.loads(state.read_text()) == whole.to_json()
    with pytest.raises(InvalidArgument, match="is of a search with another seed; give the same one, or another file"):
        AverageSearch(END, evaluations=60, seed=4, state=state)
    state.write_text(json.dumps(whole.to_json() | {"scores": [*whole.scores, 1.0]}))
    with pytest.raises(InvalidArgument, match="holds 1 scores too many"):
        AverageSearch(END, evaluations=60, seed=3, state=state)
    state.write_text("[")
    with pytest.raises(InvalidArgument, match="is no file of a search"):
        AverageSearch(END, evaluations=60, seed=3, state=state)


def test_the_average_of_a_folder_is_learned_with_any_function(folder: Path, tmp_path: Path) -> None:
    """The loss is a squared distance of the weights from a mixture of the run's averages."""
    run = phema.open(folder)
    [target] = run.reconstruct(profiles=WANTED, output=tmp_path / "wanted.safetensors")
    wanted = load_file(target.path)
    names = [name for name, _ in Regression().named_parameters()]
    calls = 0

    def score(state: dict[str, Tensor]) -> Tensor:
        """One loss for each parameter of the network."""
        nonlocal calls
        calls += 1
        if calls == 70:
            raise KeyboardInterrupt
        Regression().load_state_dict(state)
        return torch.cat([(state[name] - wanted[name]).square().flatten() for name in names])

    options = {"output": tmp_path / "learned.safetensors", "evaluations": 80, "state": tmp_path / "search.json"}
    with pytest.raises(KeyboardInterrupt):
        phema.learn_average(run, score, score, **options)
    assert {path.name for path in tmp_path.iterdir()} == {"wanted.safetensors", "search.json"}
    seen: list[tuple[int, int, float]] = []
    found = phema.learn_average(run, score, score, on_progress=lambda *a: seen.append(a), **options)
    assert calls < 70 + found.evaluations, "scores of the first call are not computed again"
    assert seen[-1] == (found.evaluations, found.evaluations, found.score)
    assert found.score < 0.1 * found.best_length_score
    state, compared = load_file(found.file.path), found.held_out
    ours = np.concatenate([(state[n] - wanted[n]).square().flatten().numpy() for n in names]).astype(np.float64)
    assert compared.learned == pytest.approx(ours.mean(), rel=1e-5) == pytest.approx(found.score, rel=0.05)
    assert compared.examples == len(ours)
    [length] = run.reconstruct(profiles=found.best_length, output=tmp_path / "length.safetensors")
    plain = load_file(length.path)
    theirs = np.concatenate([(plain[n] - wanted[n]).square().flatten().numpy() for n in names]).astype(np.float64)
    assert compared.difference == pytest.approx((ours - theirs).mean(), rel=1e-4)
    assert compared.standard_error == pytest.approx((ours - theirs).std(ddof=1) / len(ours) ** 0.5, rel=1e-4)
    assert "The learned average is better" in compared.sentence
    lineage = phema.metadata(found.file.path).lineage
    assert lineage is not None
    assert len(lineage["coefficients"]) == len(lineage["snapshots"]) > 2
    assert sum(lineage["coefficients"]) == pytest.approx(1)
    assert lineage["search"] == json.loads((tmp_path / "search.json").read_text())
    # The profile alone says what it is, also to a service.
    [again] = run.reconstruct(profiles=found.profile, output=tmp_path / "again.safetensors")
    assert all(torch.equal(tensor, state[name]) for name, tensor in load_file(again.path).items())
    assert json.loads(json.dumps(found.to_json()))["held_out"]["difference"] == compared.difference


class Worked(Client):
    """A client whose sweeps are finished at once. The figure is `misses`, and a part that depends on the seed only."""

    service: Service
    asked: list[tuple[Profile, int]]

    def sweep(self, run: str, *arguments: Any, **grid: Any) -> Sweep:
        def figure(point: Any) -> float:
            self.asked.append((point.weights.profile, point.recipe["seed"]))
            return misses(point.weights.profile) + 0.01 * math.sin(point.recipe["seed"])

        sweep = super().sweep(run, *arguments, wait=False, **grid)
        if not sweep.done:
            finish(self.service, figure)
        return self.sweeps.get(sweep.id)


def test_the_average_of_a_service_is_learned_by_a_figure(service: Service, trained: Run) -> None:
    with Worked(service.url) as client:
        client.service, client.asked = service, []
        found = phema.learn_by_figure(client, trained.name, "frechet", evaluations=150, blocks=4, num_samples=64)
        assert found.profile.kind == "mixture"
        offset = 0.01 * math.sin(0)
        assert found.score == pytest.approx(misses(found.profile) + offset)
        assert misses(found.profile) < 0.06 * misses(found.best_length)
        searched, judged = client.asked[: found.evaluations], client.asked[found.evaluations :]
        assert {seed for _, seed in searched} == {0}
        assert judged == [(p, seed) for p in (found.profile, found.best_length) for seed in (64, 128, 192, 256)]
        assert found.held_out.difference == pytest.approx(misses(found.profile) - misses(found.best_length))
        assert found.held_out.standard_error == pytest.approx(0, abs=1e-12), "paired: the seeds' own part cancels"
        made = {Profile.model_validate(e.profile): e.reconstruction_id for e in client.evaluations(trained.name)}
        assert made[found.profile] == found.reconstruction_id
        with pytest.raises(InvalidArgument, match="'held_out_loss' is no figure of drawn pictures; allowed: frechet"):
            phema.learn_by_figure(client, trained.name, "held_out_loss")
        with pytest.raises(InvalidArgument, match="metrics cannot be given: it follows from the search"):
            phema.learn_by_figure(client, trained.name, "frechet", metrics=["frechet"])


def test_comparisons() -> None:
    assert compare(1.5, 2.0).standard_error is None
    assert "unknown" in compare(1.5, 2.0).sentence
    assert "cannot be told from" in compare([1.0, 2.0, 3.0], [1.1, 1.8, 3.1]).sentence
    assert "worse" in compare([1.0, 2.0, 3.0], [0.1, 1.11, 2.1]).sentence
    with pytest.raises(InvalidArgument, match="held_out returned 2 losses, then 1; use the same examples"):
        compare([1.0, 2.0], [1.0])
    with pytest.raises(InvalidArgument, match=r"held_out must return a number or one loss for each example, got shape"):
        compare(np.ones((2, 2)), 1.0)
    with pytest.raises(InvalidArgument, match="held_out must return a number or one loss for each example"):
        compare("bad", 1.0)  # type: ignore[arg-type]


def test_mistakes(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    with pytest.raises(InvalidArgument, match="evaluations 23 must be at least 24"):
        AverageSearch(END, evaluations=23)
    with pytest.raises(InvalidArgument, match=r"sigma_rel_min 0.1 and sigma_rel_max 0.05 must rise"):
        AverageSearch(END, sigma_rel_min=0.1, sigma_rel_max=0.05)
    with pytest.raises(InvalidArgument, match="profiles holds raw; allowed: power, exponential, uniform, lr_decay"):
        AverageSearch(END, profiles=[Profile(kind="raw"), Profile.power(0.1)])
    with pytest.raises(InvalidArgument, match="profiles holds one average"):
        AverageSearch(END, profiles=[Profile.power(0.1)])
    search = AverageSearch(END)
    with pytest.raises(InvalidArgument, match="scores has 1 entries for 12 averages"):
        search.tell([1.0])
    with pytest.raises(InvalidArgument, match="scores holds no finite number"):
        search.tell([math.nan] * 12)
    with pytest.raises(InvalidArgument, match=r"output mine must end with .safetensors"):
        phema.learn_average(phema.open(folder), lambda state: 0.0, lambda state: 0.0, output="mine")
    with pytest.raises(InvalidArgument, match="score must return a number or one loss for each example"):
        phema.learn_average(phema.open(folder), lambda state: "bad", lambda state: 0.0, output="x.safetensors")  # type: ignore[arg-type, return-value]
    monkeypatch.setitem(phema.extras.EXTRAS, "learn", ("no_such_package",))
    with pytest.raises(MissingPackages, match=r"phema\[learn\]"):
        AverageSearch(END)
