"""Dashboards and provisioning as Grafana would read them: by its own types, and by its documented fields."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from jsonschema import Draft202012Validator

from deploy.grafana import build, draw
from deploy.grafana.panels import PROVISIONED
from tests.deploy.documents import ROOT, load, services
from tests.deploy.kubernetes_schema import TEXT, YES_NO, fields, some

PROVISIONING = ROOT / "deploy/grafana/provisioning"
UNKNOWN_TO_THE_TYPES = {"definition", "target", "step", "titleFormat", "textFormat"}
"""What Grafana's editor writes for query variables and Prometheus's annotations, and its types leave out."""
PROVIDERS = fields(
    {
        "apiVersion": {"const": 1},
        "providers": some(
            fields(
                {"name": TEXT, "type": {"const": "file"}, "options": fields({"path": TEXT})},
                folder=TEXT,
                disableDeletion=YES_NO,
                allowUiUpdates=YES_NO,
            )
        ),
    }
)
SOURCES = fields(
    {
        "apiVersion": {"const": 1},
        "datasources": some(
            fields(
                {"name": TEXT, "uid": TEXT, "type": {"const": "prometheus"}, "access": {"const": "proxy"}, "url": TEXT},
                isDefault=YES_NO,
                editable=YES_NO,
                jsonData=fields(timeInterval=TEXT, httpMethod={"enum": ["GET", "POST"]}),
            )
        ),
    }
)


def lost(given: Any, read: Any, where: str = "") -> Iterator[str]:
    """Paths of what is in `given` and not, or not the same, in `read`."""
    if isinstance(given, dict) and isinstance(read, dict):
        for key in given:
            if key not in UNKNOWN_TO_THE_TYPES:
                yield from lost(given[key], read[key], f"{where}.{key}") if key in read else [f"{where}.{key}"]
    elif isinstance(given, list) and isinstance(read, list) and len(given) == len(read):
        for index, pair in enumerate(zip(given, read, strict=True)):
            yield from lost(*pair, f"{where}[{index}]")
    elif given != read:
        yield where


def as_grafana_reads(document: dict[str, Any]) -> Any:
    register_default_plugins()
    return json.loads(JSONEncoder().encode(Dashboard.from_json(document)))


@pytest.mark.parametrize("name", sorted(build.files()))
def test_grafana_s_types_read_every_field_of_a_dashboard(name: str) -> None:
    document = json.loads(build.files()[name])
    assert list(lost(document, as_grafana_reads(document))) == []


def test_a_misspelt_field_would_be_seen() -> None:
    document = json.loads(build.files()["phema-run.json"])
    panel = document["panels"][1]
    panel["options"]["colourMode"] = panel["options"].pop("colorMode")
    panel["fieldConfig"]["defaults"]["thresholds"]["stepz"] = []
    found = list(lost(document, as_grafana_reads(document)))
    assert found == [".panels[1].fieldConfig.defaults.thresholds.stepz", ".panels[1].options.colourMode"]


@pytest.mark.parametrize("name", sorted(build.files()))
def test_colours_are_chosen_and_not_grafana_s_default(name: str) -> None:
    """Whose numbers turn red at 80."""
    for panel in json.loads(build.files()[name])["panels"]:
        if panel["type"] != "row":
            steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
            assert steps[0]["value"] is None
            limits = [step["value"] for step in steps[1:]]
            assert limits == sorted(limits)
            assert [target["refId"] for target in panel["targets"]] == list("ABCDEFGH"[: len(panel["targets"])])


def test_annotations_are_where_new_and_old_grafanas_look() -> None:
    for text in build.files().values():
        for event in json.loads(text)["annotations"]["list"]:
            assert event["target"]["expr"] == event["expr"] != ""
            assert event["target"]["interval"] == event["step"]


def test_the_first_screen_of_a_run_is_figure_3_with_alerts_loss_throughput_and_snapshots() -> None:
    screen = 24  # rows of the grid that a screen of 1080 lines shows
    placed = json.loads(build.files()["phema-run.json"])["panels"]
    seen = {p["title"] for p in placed if p["gridPos"]["y"] + p["gridPos"]["h"] <= screen}
    magnitudes = {f"{what}, {side}" for what in ("Activations", "Weights") for side in ("encoder", "decoder")}
    assert seen >= magnitudes | {"Alerts", "Done", "Time left", "Loss", "Images per second", "Stored"}


def test_the_provisioning_files_have_grafana_s_fields() -> None:
    (providers,) = load(PROVISIONING / "dashboards/phema.yml")
    (sources,) = load(PROVISIONING / "datasources/prometheus.yml")
    Draft202012Validator(PROVIDERS).validate(providers)
    Draft202012Validator(SOURCES).validate(sources)
    (source,) = sources["datasources"]
    assert {"type": source["type"], "uid": source["uid"]} == PROVISIONED
    (config,) = load(ROOT / "deploy/prometheus/prometheus.yml")
    assert source["jsonData"]["timeInterval"] == config["global"]["scrape_interval"]
    assert float(source["jsonData"]["timeInterval"].removesuffix("s")) == draw.SCRAPE_SECONDS
    mounts = dict(mount.split(":")[:2] for mount in services()["grafana"]["volumes"])
    assert mounts["./deploy/grafana/dashboards"] == providers["providers"][0]["options"]["path"]
    assert mounts["./deploy/grafana/provisioning"] == "/etc/grafana/provisioning"
