"""`phema reproduce fig3`: what it says of the runs' histories, and, slowly, the whole way."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageColor

from phema.client.response_models import Metrics
from phema.command.main import run
from phema.demos.reproduce_magnitudes import ConfigurationRun
from phema.shared.catalog import Evaluation, Run
from phema.shared.edm2.networks.building import build_denoiser
from phema.shared.metrics.figures import FigureValue, jackknifed
from phema.shared.pictures.theme import LIGHT
from phema.shared.pictures.training_history import magnitudes_by_configuration
from phema.shared.recipes.presets import resolve
from phema.shared.snapshots.files.snapshot_file import SnapshotMetadata, encode
from phema.shared.snapshots.profile import Profile
from tests.phema.hands import hands
from tests.phema.service import Service
from tests.phema.test_cli import Cli, document


def history(activation: float, weight: float) -> list[Metrics]:
    """Magnitudes that jump to 1 and then grow by the given factors, linearly from a quarter of the run on."""
    lines = []
    for step in range(1, 9):
        grown = max(0, step - 2) / 6
        values: dict[str, float] = {"loss": 1.0}
        for bucket in ("enc/8", "enc/4", "dec/4", "dec/8"):
            start = 100.0 if step == 1 else 1.0
            values[f"activation/{bucket}/max"] = start * (1 + (activation - 1) * grown)
            values[f"weight/{bucket}/max"] = start * (1 + (weight - 1) * grown)
            values[f"activation/{bucket}/mean"] = 7.0
        lines.append(Metrics(num_images=step * 64, values=values))
    return lines


def test_growth_counts_from_a_quarter_of_the_run() -> None:
    trained = ConfigurationRun("C", "fig3-c", history(3.0, 0.5))
    assert trained.growth("activation") == pytest.approx(3.0)
    assert trained.growth("weight") == pytest.approx(0.5)


def test_the_picture_has_a_column_for_each_configuration() -> None:
    two = Image.open(io.BytesIO(magnitudes_by_configuration({"C": history(2, 1), "D": history(1, 2)})))
    four = Image.open(io.BytesIO(magnitudes_by_configuration({letter: history(2, 1) for letter in "CDEG"})))
    assert four.width == 2 * two.width
    colours = {colour for _, colour in four.convert("RGB").getcolors(2**24) or []}
    for line in (LIGHT.blue, LIGHT.orange):  # 8 x 8 and 4 x 4
        assert ImageColor.getrgb(line) in colours


def test_a_length_that_does_not_divide_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["reproduce", "fig3", "--images", "1000"]) == 2
    assert "--images 1000 must be a positive multiple of 3072" in capsys.readouterr().err


def by_everything(row: Evaluation, run: Run) -> FigureValue:
    """Better with more training, near 0.1, with guidance 1.5, and for the constant run."""
    width = row.reconstruction.sigma_rel or 0.12
    value = 1 + abs(width - 0.1) + 1e3 / row.reconstruction.num_images + abs(row.recipe["guidance"] - 1.5)
    value += run.config["lr_decay_iterations"] is not None
    return jackknifed(value, [value + block for block in (0.3, -0.4, 0.1)])


def named_tensors() -> bytes:
    """A snapshot file with the names of the preset's tensors, and one value each."""
    config = resolve("digits-tiny")
    network = build_denoiser(config.network)
    described = SnapshotMetadata(
        run_id="run-1",
        num_images=640,
        profile=Profile.power(0.05),
        dtype="float32",
        buffers=tuple(name for name, _ in network.named_buffers()),
        code_version="test",
        config_hash=config.config_hash,
        config=config.model_dump(mode="json"),
    )
    return encode({name: torch.ones(1) for name in network.state_dict()}, described)


@pytest.mark.parametrize(
    ("figure", "names", "rows"),
    [
        ("fig4", ["fig4"], [6]),
        ("fig5", ["fig5a", "fig5b", "fig5c"], [18, 22, 60]),
        ("fig6", ["fig6"], [25]),
    ],
)
def test_analyses_of_the_paper_with_hands_in_place_of_workers(
    service: Service, cli: Cli, figure: str, names: list[str], rows: list[int]
) -> None:
    with hands(service, by_everything, snapshot=named_tensors()):
        found = document(cli("reproduce", figure, "--images", "15360", "--output", "out", "--json"))
    assert list(found["analyses"]) == names
    assert [len(found["analyses"][name]["rows"]) for name in names] == rows
    files = {path.name for path in Path("out").iterdir()}
    assert files == {f"{name}.{suffix}" for name in names for suffix in ("json", "csv", "svg", "png")} | {
        f"{figure}-results.json"
    }
    assert json.loads(Path(f"out/{figure}-results.json").read_text()) == found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_whole_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PHEMA_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("PHEMA_URL", raising=False)
    assert run(["reproduce", "fig3", "--images", "3072", "--output", str(tmp_path / "out"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document == json.loads((tmp_path / "out" / "fig3.json").read_text())
    assert [one["config"] for one in document["configurations"]] == ["C", "D", "E", "G"]
    for one in document["configurations"]:
        assert [line["num_images"] for line in one["history"]] == list(range(64, 3073, 64))
        assert len(one["history"][0]) == 1 + 2 * 4
    with Image.open(tmp_path / "out" / "fig3.png") as picture:
        assert picture.width > 1000
