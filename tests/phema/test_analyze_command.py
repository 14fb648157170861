"""`phema analyze` and `phema report` against the real API, with `hands` in place of workers."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from phema.client.client import Client
from phema.errors import Conflict
from phema.shared.catalog import Evaluation, Run
from phema.shared.metrics.figures import FigureValue, jackknifed
from tests.phema.hands import hands
from tests.phema.service import Service
from tests.phema.test_cli import Cli, document

BLOCKS = (0.3, -0.4, 0.2, -0.1)


def scored(value: float) -> FigureValue:
    return jackknifed(value, [value + block for block in BLOCKS])


def by_width(row: Evaluation, run: Run) -> FigureValue:
    return scored(0.4 + abs((row.reconstruction.sigma_rel or 0.5) - 0.1))


def by_weight(row: Evaluation, run: Run) -> FigureValue:
    return scored(by_width(row, run).value + abs(row.recipe["guidance"] - 1.5))


def test_points_are_evaluated_once_and_written_as_files(service: Service, cli: Cli, trained: Run) -> None:
    asked = ("analyze", "ema-length", trained.name, "--sigma-rel", "0.05,0.1,0.2", "--num-samples", "100")
    with hands(service, by_width):
        found = document(cli(*asked, "--output", "figures", "--json"))
    assert [(row["sigma_rel"], row["best"]) for row in found["rows"]] == [(0.05, False), (0.1, True), (0.2, False)]
    assert found["rows"][2]["difference"] == pytest.approx(0.1)
    assert sorted(path.name for path in Path("figures").iterdir()) == [
        f"ema-length.{suffix}" for suffix in ("csv", "json", "png", "svg")
    ]
    assert json.loads(Path("figures/ema-length.json").read_text())["rows"] == found["rows"]
    lines = Path("figures/ema-length.csv").read_text().splitlines()
    assert [float(row["value"]) for row in csv.DictReader(lines)] == [row["value"] for row in found["rows"]]
    # No worker is there now: everything is found, and a table is printed.
    code, out, _ = cli(*asked)
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[1:4]] == ["0.05", "0.1", "0.2"]
    assert "best" in out.splitlines()[2]
    assert document(cli("analyze", "ema-length", trained.name, "--json"))["rows"] == found["rows"]


def test_guidance_with_a_guide_of_the_run_itself(service: Service, cli: Cli, trained: Run) -> None:
    guide = ("--guide-run", trained.name, "--guide-sigma-rel", "0.05", "--guide-images", "6400")
    grid = ("--sigma-rel", "0.1,0.2", "--guidance", "1,1.5,2", "--num-samples", "100")
    with hands(service, by_weight):
        found = document(cli("analyze", "guidance", trained.name, *grid, *guide, "--json"))
        again = document(
            cli(
                *("analyze", "interval", trained.name, "--sigma-rel", "0.1", "--guidance", "1.5", "--low", "0,0.5"),
                *("--high", "0.5,5", *guide, "--num-samples", "100", "--json"),
            )
        )
    assert len(found["rows"]) == 6
    [best] = [row for row in found["rows"] if row["best"]]
    assert (best["sigma_rel"], best["guidance"], best["guide_num_images"]) == (0.1, 1.5, 6400)
    assert [row["guide_run"] for row in found["rows"] if row["guidance"] == 1] == [None, None]
    # Pairs that rise: (0, 0.5), (0, 5), (0.5, 5); guidance at all levels, with both weights of above; and none.
    ends = {(row["guidance_low"], row["guidance_high"]) for row in again["rows"]}
    assert ends == {(None, None), (0, 0.5), (0, 5), (0.5, 5)}


def test_tensors_training_time_and_profiles(service: Service, cli: Cli, trained: Run) -> None:
    with hands(service, by_width):
        times = document(
            cli(
                *("analyze", "training-time", trained.name, "--sigma-rel", "0.05,0.1", "--at", "12800,25600"),
                *("--num-samples", "100", "--json"),
            )
        )
        found = document(cli("analyze", "profiles", trained.name, "--sigma-rel", "0.13", "--json"))
    assert [(row["num_images"], row["sigma_rel"]) for row in times["rows"]] == [
        (12800, 0.05),
        (12800, 0.1),
        (25600, 0.05),
        (25600, 0.1),
    ]
    assert [row["label"] for row in found["rows"]] == ["0.05", "0.1", "0.13"]
    code, out, _ = cli("analyze", "profiles", trained.name)
    assert (code, [line.split()[0] for line in out.splitlines()]) == (0, ["PROFILE", "0.05", "0.1", "0.13"])


def test_a_report_of_two_runs(service: Service, client: Client, cli: Cli, trained: Run) -> None:
    code, out, _ = cli("report", trained.name, "--output", "mine.html")
    assert (code, out) == (0, "look at mine.html\n")
    assert trained.name in Path("mine.html").read_text()
    assert cli("report", "nothing")[0] == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["guidance", "RUN", "--sigma-rel", "0.1"], "--sigma-rel needs --guidance, too; without any of them, only"),
        (["guidance", "RUN", "--sigma-rel", "0.1", "--guidance", "2"], "--guidance needs a guide; add --guide-run"),
        (["training-time", "RUN", "--sigma-rel", "0.1", "--at", "640,x"], "--at: '640,x' contains 'x'"),
        (["ema-length", "RUN", "--sigma-rel", "0.5"], "--sigma-rel: sigma_rel 0.5 is impossible"),
        (["tensors", "RUN", "--pattern", "a"], "--pattern needs --sigma-rel and --tensor-sigma-rel, too"),
    ],
)
def test_mistakes_are_one_sentence(cli: Cli, trained: Run, arguments: list[str], sentence: str) -> None:
    code, out, err = cli("analyze", *[trained.name if one == "RUN" else one for one in arguments])
    assert (code, out) == (2, "")
    assert sentence in err


def test_nothing_to_analyse_is_said(client: Client, cli: Cli, trained: Run) -> None:
    code, _, err = cli("analyze", "ema-length", trained.name)
    assert (code, err) == (2, "phema: there are no finished evaluations of power-function EMAs\n")
    with pytest.raises(Conflict, match="no finished reconstruction"):
        client.analyses.profiles(trained.name)
