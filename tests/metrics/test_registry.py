"""The registry of metrics: every module is found, can be computed and is documented, and requests are checked."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from phema.shared.metrics import offered
from phema.shared.metrics.errors import ScoringError
from phema.shared.metrics.extractor_registry import EXTRACTORS, check_extractor
from phema.shared.metrics.metric import ScoredRun
from phema.shared.metrics.registry import (
    FIGURES,
    METRICS,
    available_metrics,
    check_metrics,
    default_metrics,
    minimum_pictures,
    ranking_figure,
)
from tests.metrics.features import reference_from

PAGE = (Path(__file__).parents[2] / "docs" / "evaluation-metrics.md").read_text()
DIGITS = ScoredRun("digits", channels=1, resolution=8, held_out=297)
PHOTOS = ScoredRun("photos", channels=3, resolution=64)
LATENTS = ScoredRun("imagenet", channels=4, resolution=64)


def test_every_module_below_offered_is_a_metric_of_its_own() -> None:
    modules = [path for path in Path(offered.__path__[0]).rglob("*.py") if path.stem != "__init__"]
    assert len(METRICS) == len(modules)


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_computes_the_figures_that_it_names(name: str) -> None:
    metric = METRICS[name]
    if metric.compute is None:
        assert callable(import_module(str(metric.from_network)).measure_network)
        return
    assert metric.from_network is None
    num_features = 8
    random = np.random.default_rng(0)
    drawn, real = (random.standard_normal((60, num_features)).astype(np.float32) for _ in range(2))
    found = metric.compute(drawn, reference_from(real))
    assert list(found) == [figure.name for figure in metric.figures]
    assert all(value.standard_error is not None and np.isfinite(value.value) for value in found.values())


@pytest.mark.parametrize("name", EXTRACTORS)
def test_an_extractor_can_be_loaded_by_its_module(name: str) -> None:
    assert callable(import_module(EXTRACTORS[name].module).load)
    assert f"| `{name}` | {EXTRACTORS[name].num_features} |" in PAGE


def test_every_figure_is_documented() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (lower|higher) \| (\w+) \| `(\w+)` \|", PAGE, re.MULTILINE)
    assert rows == [
        (figure.name, figure.better, figure.unit or "none", metric.name)
        for metric in METRICS.values()
        for figure in metric.figures
    ]


def test_figures_have_distinct_names() -> None:
    assert len(FIGURES) == sum(len(metric.figures) for metric in METRICS.values())


def test_which_metrics_a_run_can_have() -> None:
    extractors = [
        Counter(METRICS[name].extractor for name in available_metrics(run)) for run in (DIGITS, PHOTOS, LATENTS)
    ]
    five = dict.fromkeys(("random", "inception", "dinov2"), 5)
    assert extractors == [{**five, "digits": 5, None: 1}, five, {"random": 5}]
    decoded = ScoredRun("imagenet", channels=4, resolution=64, vae="some/vae")
    assert {METRICS[name].extractor for name in available_metrics(decoded)} == {"random", "inception", "dinov2"}


def test_defaults_follow_the_dataset_and_the_number_of_pictures() -> None:
    assert default_metrics(DIGITS) == ("frechet_digits", "frechet", "held_out_loss")
    assert default_metrics(DIGITS, 65) == ("frechet_digits", "frechet", "held_out_loss")
    assert default_metrics(DIGITS, 64) == ("frechet", "held_out_loss")
    assert default_metrics(PHOTOS) == ("frechet",)
    assert default_metrics(PHOTOS, 1) == ("frechet",), "so that the check can say that 2 are needed"


def test_how_many_pictures_a_metric_needs() -> None:
    needed = {name: minimum_pictures(name) for name in METRICS if METRICS[name].extractor in ("inception", None)}
    assert needed == {
        "fid": 2049,
        "held_out_loss": 0,
        "fid_infinity": 4 * 2049,
        "kid": 4,
        "precision_recall_inception": 10,
        "density_coverage_inception": 10,
    }
    assert (minimum_pictures("frechet"), minimum_pictures("frechet_digits")) == (2, 65)


@pytest.mark.parametrize(
    ("names", "run", "num_samples", "field", "words"),
    [
        (["fidd"], DIGITS, 1000, "metrics", "metrics names 'fidd'; allowed are frechet_digits, fid, "),
        ([], DIGITS, 1000, "metrics", "metrics is empty; name at least one of frechet_digits, "),
        (
            ["held_out_loss"],
            PHOTOS,
            1000,
            "metrics",
            "metrics names held_out_loss, but dataset.held_out of the run is 0, so no pictures were kept",
        ),
        (
            ["frechet", "kid"],
            LATENTS,
            1000,
            "metrics",
            "metrics names kid, but extractor inception sees pictures of 1 or 3 channels, and these have 4: latents "
            "need dataset.vae, which decodes them; ",
        ),
        (
            ["frechet_digits"],
            PHOTOS,
            1000,
            "metrics",
            "extractor digits takes grey pictures of 8x8, and these have 3 channels and 64 pixels a side",
        ),
        (
            ["frechet_digits"],
            ScoredRun("digits", channels=1, resolution=8, held_out=598),
            1000,
            "metrics",
            "dataset.held_out 598 leaves 1199; at most 597 are allowed",
        ),
        (
            ["fid"],
            PHOTOS,
            2048,
            "num_samples",
            "num_samples is 2048, but metric fid needs at least 2049: more than its 2048 features, so that covariances "
            "have full rank",
        ),
        (
            ["fd_dinov2_infinity"],
            PHOTOS,
            4099,
            "num_samples",
            "needs at least 4100: more than its 1024 features in each of 4 groups",
        ),
        (["frechet"], PHOTOS, 1, "num_samples", "num_samples is 1, but metric frechet needs at least 2"),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    names: list[str], run: ScoredRun, num_samples: int, field: str, words: str
) -> None:
    with pytest.raises(ScoringError) as caught:
        check_metrics(names, run, num_samples)
    assert words in str(caught.value)
    assert caught.value.field == field
    assert "\n" not in str(caught.value)


def test_an_unknown_extractor_is_named() -> None:
    with pytest.raises(ScoringError, match="extractor 'vgg' is unknown; allowed are digits, dinov2, inception, random"):
        check_extractor("vgg", DIGITS)
    check_extractor("dinov2", PHOTOS)


def test_evaluations_are_ranked_by_the_first_figure_that_they_have() -> None:
    assert ranking_figure(["held_out_loss", "frechet"]) is FIGURES["frechet"]
    assert ranking_figure(["held_out_loss", "frechet", "frechet_digits"]) is FIGURES["frechet_digits"]
    assert ranking_figure(["held_out_loss"]) is FIGURES["held_out_loss"]
    assert ranking_figure(["unknown"]) is None


def test_the_registry_is_free_of_torch_and_numpy() -> None:
    code = "import sys, phema.shared.metrics.registry; sys.exit(bool({'torch', 'numpy'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)
