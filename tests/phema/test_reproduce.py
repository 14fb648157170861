"""`phema reproduce fig3`: what it says of the runs' histories, and, slowly, the whole way."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image, ImageColor

from phema.client.response_models import Metrics
from phema.command.main import run
from phema.demos.reproduce import ConfigurationRun
from phema.shared.pictures.theme import LIGHT
from phema.shared.pictures.training_history import magnitudes_by_configuration


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
