"""Prometheus's rules and Grafana's dashboards: what they ask for exists, behaves and is explained."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.grafana import build
from deploy.grafana.panels import concrete
from deploy.grafana.run import RUN_DASHBOARD
from deploy.prometheus.write_config import write_config
from phema.shared.telemetry import METRICS
from tests.deploy.documents import services

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
GRAFANA = ROOT / "deploy" / "grafana"
FOREIGN = {
    *("up", "ALERTS", "ray_resources"),
    *("ray_node_mem_used", "ray_node_mem_total", "ray_node_cpu_utilization", "ray_node_disk_utilization_percentage"),
}
"""Prometheus's own and Ray's."""
OF_TARGETS = {"job", "service", "instance"}
VARIABLES = {"run": "run-1", "weights": "ema", "statistic": "max"}


@pytest.fixture
def promtool() -> str:
    """Debian's package `prometheus` brings it. Skips without, unless PHEMA_REQUIRE_PROMETHEUS is set."""
    path = shutil.which("promtool")
    if path is None:
        if os.environ.get("PHEMA_REQUIRE_PROMETHEUS"):
            pytest.fail("PHEMA_REQUIRE_PROMETHEUS is set, but there is no promtool; install Debian's `prometheus`")
        pytest.skip("no promtool; install Debian's `prometheus`")
    return path


def rules() -> Iterator[dict[str, Any]]:
    for path in sorted((PROMETHEUS / "rules").glob("*.yml")):
        for group in yaml.safe_load(path.read_text())["groups"]:
            yield from group["rules"]


ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}
RECORDED = {rule["record"]: rule["expr"] for rule in rules() if "record" in rule}
SERIES = {
    metric.name + suffix: {*metric.labels, *(["le"] if suffix == "_bucket" else [])}
    for metric in METRICS
    for suffix in (("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",))
}
"""Names that are scraped, each with its labels."""


def tool(*command: str | Path) -> None:
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def selectors(expr: str) -> Iterator[tuple[str, set[str]]]:
    """Every series an expression reads, with the labels that it is chosen by."""
    bare = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", expr)
    for name, matchers in re.findall(
        r"([a-z_:A-Z]*phema_[a-z_0-9:]+|\bup\b|\bALERTS\b|\bray_\w+)(?:\{([^}]*)\})?", bare
    ):
        yield name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", re.sub(r'"[^"]*"', '""', matchers)))


def asked() -> Iterator[tuple[str, str]]:
    for rule in rules():
        yield rule.get("alert") or rule["record"], rule["expr"]
    for dashboard, panel, expr in build.queries():
        yield f"{dashboard}: {panel}", expr
    for dashboard in build.DASHBOARDS:
        for event in dashboard.events:
            yield f"{dashboard.title}: {event.name}", event.expr
        for variable in dashboard.variables:
            if variable["type"] == "query":
                yield f"{dashboard.title}: ${variable['name']}", variable["definition"]


@pytest.mark.parametrize(("where", "expr"), list(asked()))
def test_what_is_asked_for_exists(where: str, expr: str) -> None:
    found = list(selectors(expr))
    assert found, f"{where} reads nothing"
    for name, labels in found:
        assert name in SERIES or name in RECORDED or name in FOREIGN, f"{where} reads {name}, which nobody serves"
        if name in SERIES:
            assert labels <= SERIES[name] | OF_TARGETS, f"{where} chooses {name} by a label it does not have"


def test_the_reader_of_expressions_sees_what_is_not_there() -> None:
    expr = 'sum by (phema_no) (rate(phema_lost{a="x=y", b=~"z"}[5m])) / on (x) a:phema_b:c > up + ray_no{a="b"}'
    found = [("phema_lost", {"a", "b"}), ("a:phema_b:c", set()), ("up", set()), ("ray_no", {"a"})]
    assert list(selectors(expr)) == found


def test_no_metric_has_a_label_that_prometheus_gives_to_targets() -> None:
    assert not [metric.name for metric in METRICS if OF_TARGETS & set(metric.labels)]


def test_every_metric_is_in_a_panel() -> None:
    shown = {name for _, _, expr in build.queries() for name, _ in selectors(expr)}
    while shown & RECORDED.keys():  # what a recorded series is made of is shown by it
        for name in shown & RECORDED.keys():
            shown |= {part for part, _ in selectors(RECORDED[name])}
            shown.remove(name)
    missing = [m.name for m in METRICS if not shown & {m.name, f"{m.name}_bucket", f"{m.name}_count"}]
    assert missing == []


def test_the_committed_dashboards_are_those_of_the_code() -> None:
    committed = {path.name: path.read_text() for path in (GRAFANA / "dashboards").iterdir()}
    assert committed == build.files(), "run `python -m deploy.grafana.build`"


def test_dashboards_are_whole() -> None:
    provisioned = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    sources = {source["uid"] for source in provisioned}
    for text in build.files().values():
        dashboard = json.loads(text)
        assert dashboard["templating"]["list"][0]["current"]["value"] in sources
        ids = [panel["id"] for panel in dashboard["panels"]]
        assert len(set(ids)) == len(ids)
        cells: set[tuple[int, int]] = set()
        for panel in dashboard["panels"]:
            place = panel["gridPos"]
            own = {(place["x"] + i, place["y"] + j) for i in range(place["w"]) for j in range(place["h"])}
            assert not own & cells, f"{panel['title']} lies over another"
            assert max(x for x, _ in own) < 24
            cells |= own
            for target in panel.get("targets", []):
                assert target["datasource"]["uid"] == "${datasource}"
                concrete(target["expr"], **VARIABLES)


def test_a_variable_without_a_value_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no value for \$run"):
        concrete('up{run="$run"}')


def test_every_alert_has_a_section_in_the_runbook() -> None:
    sections = re.findall(r"^## (Phema\w+)$", (ROOT / "docs" / "runbook.md").read_text(), re.M)
    assert sorted(sections) == sorted(ALERTS)
    for name, rule in ALERTS.items():
        assert rule["annotations"]["runbook_url"] == (
            f"{{{{ $externalLabels.phema_docs }}}}docs/runbook.md#{name.lower()}"
        )
        assert rule["labels"]["severity"] in ("warning", "critical")


def test_the_runbook_names_commands_that_exist() -> None:
    known = set(re.findall(r"`(phema [a-z]+(?: [a-z0-9]+)?)", (ROOT / "docs" / "cli.md").read_text()))
    named = re.findall(r"`(phema [^`]+)`", (ROOT / "docs" / "runbook.md").read_text())
    assert named
    for command in named:
        words = command.split()
        assert {" ".join(words[:2]), " ".join(words[:3])} & known, command


def shown() -> dict[str, set[str]]:
    """What stands on each dashboard, by its name without `phema: `: titles of its rows and panels, its variables."""
    found = {}
    for dashboard in build.DASHBOARDS:
        titles = {row.title for row in dashboard.rows} | {panel.title for panel in dashboard.panels}
        found[dashboard.title.removeprefix("phema: ")] = titles
    return found


def misnamed(text: str) -> Iterator[str]:
    """Of *words in italics*, which name a dashboard and then what stands on it: those that do not."""
    known = shown()
    for paragraph in re.split(r"\n(?:\n|- |#)", text):
        titles: set[str] | None = None
        for named in re.findall(r"(?<![*\w])\*([^*]+)\*(?!\*)", " ".join(paragraph.split())):
            if named in known:
                titles = known[named]
            elif named not in (titles or ()):
                yield named


def test_the_runbook_names_dashboards_rows_and_panels_that_exist() -> None:
    text = (ROOT / "docs" / "runbook.md").read_text()
    assert "*GPUs and CPUs of Ray*" in text
    assert list(misnamed(text)) == []


def test_a_panel_that_does_not_exist_or_stands_elsewhere_would_be_seen() -> None:
    text = "- *Run*, *Loss* and *Lost*\n- *Fleet*, *Loss*; **bold**\n\n*Attempts* of *Fleet*,\nrow *Failures*"
    assert list(misnamed(text)) == ["Lost", "Loss", "Attempts"]


@pytest.mark.parametrize("alert", ["PhemaActivationsDrifting", "PhemaWeightsDrifting"])
def test_drift_is_shown_as_the_alert_judges_it(alert: str) -> None:
    judged, limit = ALERTS[alert]["expr"].split(" > ")
    (panel,) = [p for p in RUN_DASHBOARD.panels if any(judged in query.expr for query in p.queries)]
    assert panel.limits[1:] == ((float(limit), "red"),)


def test_routes_that_count_as_no_user_s_exist() -> None:
    left_out = set(re.findall(r'route!~"([^"]*)"', RECORDED["phema_http_requests:errors_share5m"]))
    assert len(left_out) == 1
    paths = json.loads((ROOT / "docs" / "openapi.json").read_text())["paths"]
    assert set(left_out.pop().split("|")) <= paths.keys()


def test_every_alert_is_seen_firing_and_silent_in_the_unit_tests() -> None:
    fires, silent = set(), set()
    for path in (PROMETHEUS / "tests").glob("*.yml"):
        for case in yaml.safe_load(path.read_text())["tests"]:
            for check in case.get("alert_rule_test", []):
                (fires if check["exp_alerts"] else silent).add(check["alertname"])
    assert fires == silent == ALERTS.keys()


def test_promtool_accepts_the_configuration(promtool: str, tmp_path: Path) -> None:
    tool(promtool, "check", "config", write_config(tmp_path, api="127.0.0.1:1", ray="127.0.0.1:2", interval="1s"))


def test_promtool_runs_the_unit_tests_of_the_rules(promtool: str) -> None:
    tool(promtool, "test", "rules", *sorted((PROMETHEUS / "tests").glob("*.yml")))


def committed() -> Any:
    """The configuration without the servers of other projects, which only compose has."""
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    config["scrape_configs"] = [job for job in config["scrape_configs"] if "dns_sd_configs" not in job]
    return config


def as_committed(written: Path) -> Any:
    """A configuration for elsewhere with addresses, token files and rules put back."""
    text, folder = written.read_text(), written.parent.resolve()
    for there, here in {
        "10.0.0.1:8400": "api:8400",
        "10.0.0.2:8265": "ray-head:8265",
        f"{folder}/phema_api_token": "/tmp/phema_api_token",
        f"{folder}/ray_auth_token": "/tmp/ray_auth_token",
    }.items():
        assert here not in text.replace(there, ""), f"{here} is still there"
        text = text.replace(there, here)
    config = yaml.safe_load(text)
    (rules,) = config["rule_files"]
    assert rules in (f"{PROMETHEUS}/rules/*.yml", f"{folder}/rules/*.yml")
    return config | {"rule_files": ["rules/*.yml"]}


def test_a_configuration_for_elsewhere_differs_in_addresses_only(tmp_path: Path) -> None:
    written = write_config(tmp_path, api="10.0.0.1:8400", ray="10.0.0.2:8265", api_token="t", ray_token="r")
    assert as_committed(written) == committed()
    for name, token in (("phema_api_token", "t"), ("ray_auth_token", "r")):
        assert (tmp_path / name).read_text() == token
        assert (tmp_path / name).stat().st_mode & 0o077 == 0


def test_servers_of_other_projects_are_services_of_compose() -> None:
    jobs = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["scrape_configs"]
    names = [name for job in jobs for found in job.get("dns_sd_configs", []) for name in found["names"]]
    assert names == ["minio", "postgres-exporter"]
    assert set(names) <= set(services())


def test_without_ray_only_its_job_is_left_out(tmp_path: Path) -> None:
    expected = committed()
    assert expected["scrape_configs"].pop()["job_name"] == "ray"
    assert as_committed(write_config(tmp_path, api="10.0.0.1:8400")) == expected
    assert not (tmp_path / "ray_auth_token").exists()


def test_an_interval_of_its_own_changes_nothing_else(tmp_path: Path) -> None:
    def hurried(given: Any) -> Any:
        """With 1s for every interval and every time that an alert must hold."""
        match given:
            case dict():
                times = (
                    "for",
                    "interval",
                    "scrape_interval",
                    "evaluation_interval",
                    "scrape_timeout",
                    "refresh_interval",
                )
                return {key: "1s" if key in times else hurried(value) for key, value in given.items()}
            case list():
                return [hurried(value) for value in given]
        return given

    written = write_config(tmp_path, api="10.0.0.1:8400", ray="10.0.0.2:8265", interval="1s")
    assert as_committed(written) == hurried(committed())
    assert str(tmp_path) in yaml.safe_load(written.read_text())["rule_files"][0]
    for path in (PROMETHEUS / "rules").glob("*.yml"):
        text = (tmp_path / "rules" / path.name).read_text()
        assert yaml.safe_load(text) == hurried(yaml.safe_load(path.read_text()))
