"""Every analysis gives a table, CSV, PNG and SVG of the same rows."""

from __future__ import annotations

import csv
import io
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image, ImageColor

from phema.shared.analyses.evaluated_points import EvaluatedPoint, GuideWeights
from phema.shared.analyses.kinds import ANALYSES, analyse
from phema.shared.analyses.profiles import combine
from phema.shared.analyses.selection import NothingToShow
from phema.shared.analyses.tables import COLUMNS, as_csv
from phema.shared.pictures.theme import DARK, LIGHT
from phema.shared.snapshots.planning.planner import plan
from phema.shared.snapshots.planning.stored_plan import StoredPlan
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot
from phema.shared.snapshots.profile import Profile, TensorProfile
from tests.analyses.points import point, value

WIDTHS = (0.05, 0.1, 0.2)
GUIDES = [GuideWeights("small", time, Profile.power(0.1)) for time in (3200, 6400)]


def changed(width: float) -> Profile:
    tensors = (TensorProfile(pattern="dec.*", profile=Profile.power(width)),)
    return Profile(kind="per_tensor", default=Profile.power(0.1), tensors=tensors)


POINTS: dict[str, list[EvaluatedPoint]] = {
    "ema-length": [point(s, value(0.4 + s), run=run) for run in "ab" for s in WIDTHS],
    "training-time": [point(s, value(0.4 + s), num_images=t) for t in (3200, 6400) for s in WIDTHS],
    "guidance": [point(s, value(s / w), guidance=w, guide=GUIDES[0]) for s in WIDTHS for w in (1.5, 2.0)],
    "autoguidance": [point(0.1, value(w), guidance=w, guide=guide) for guide in GUIDES for w in (1.5, 2.0)],
    "interval": [
        point(0.1, value(high), guidance=2.0, guidance_interval=[0.2, high], guide=GUIDES[0]) for high in (1.0, 5.0)
    ],
    "tensors": [point(0.1, value(0.4)), *(point(changed(s), value(0.4 + s)) for s in WIDTHS)],
}


@pytest.mark.parametrize("name", ANALYSES)
def test_every_analysis_is_drawn_for_light_and_dark_pages(name: str) -> None:
    found = analyse(ANALYSES[name], POINTS[name])
    for theme in (LIGHT, DARK):
        pixels = np.asarray(Image.open(io.BytesIO(found.picture(theme, "png"))).convert("RGB"))
        assert tuple(pixels[0, 0]) == ImageColor.getrgb(theme.background)
        assert pixels.std() > 5
    svg = found.picture(LIGHT, "svg")
    assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
    assert svg == found.picture(LIGHT, "svg")


@pytest.mark.parametrize("name", ANALYSES)
def test_rows_are_the_same_as_json_and_as_csv(name: str) -> None:
    found = analyse(ANALYSES[name], POINTS[name])
    document = found.document()["rows"]
    rows = list(csv.DictReader(io.StringIO(as_csv(found.rows))))
    assert len(rows) == len(document) == len(POINTS[name])
    assert [tuple(row) for row in document] == [COLUMNS] * len(document)
    for row, line in zip(document, rows, strict=True):
        assert float(line["value"]) == row["value"]
        assert line["best"] == str(row["best"]).lower()
        assert line["guide_run"] == (row["guide_run"] or "")
    assert [row["best"] for row in document].count(True) == 1


def test_tensors_need_a_network_to_compare_with() -> None:
    found = analyse(ANALYSES["tensors"], POINTS["tensors"][1:])
    with pytest.raises(NothingToShow, match="run a has no finished evaluation with one EMA length for all tensors"):
        found.picture(LIGHT, "png")


def test_profiles_of_several_reconstructions_share_their_snapshots() -> None:
    stored = [
        StoredSnapshot(f"{time}-{width}", time, Profile.power(width), "key", 64, "hash", "float32")
        for time in range(640, 6401, 640)
        for width in (0.05, 0.1)
    ]
    wanted = [Profile.power(width) for width in (0.05, 0.13, 0.2)]
    planned = plan(stored, wanted)
    plans = [
        (profile, StoredPlan.of(planned, output, regularize=True))
        for profile, output in zip(wanted, planned.outputs, strict=True)
    ]
    combined = combine(6400, [plans[2], plans[0], plans[1], plans[1]])
    assert [output.sigma_rel for output in combined.outputs] == [0.05, 0.13, 0.2]
    assert combined.outputs[0].snapshots == 1
    for output, (_, alone) in zip(combined.outputs, plans, strict=True):
        assert sorted(c for c in output.coefficients if c) == sorted(alone.coefficients)
        assert output.profile_error == alone.profile_error
    assert len(combined.as_csv().splitlines()) == 4
    assert combined.picture(LIGHT, "png")[:4] == b"\x89PNG"
