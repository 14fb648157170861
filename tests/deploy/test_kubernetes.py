"""deploy/kubernetes as Kubernetes and its operators would judge it: fields, references, privileges."""

from __future__ import annotations

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
from deploy.grafana.panels import PROVISIONED
from deploy.prometheus import kubernetes as rules
from tests.deploy.documents import KUBERNETES, load
from tests.deploy.kubernetes_schema import faults
from tests.deploy.operator_definitions import FOLDER, definitions, faults_of

Objects = list[dict[str, Any]]
README = (KUBERNETES.parent / "README.md").read_text()
SECRETS = {"phema-store", "phema-ray", "phema-api"}
BY_OPERATOR = {"phema-head-svc"}
"""Services that KubeRay makes: NAME-head-svc."""


def renderer() -> list[str] | None:
    if shutil.which("kustomize"):
        return ["kustomize", "build"]
    return ["kubectl", "kustomize"] if shutil.which("kubectl") else None


@pytest.fixture(scope="module")
def base() -> Objects:
    (kustomization,) = load(KUBERNETES / "base/kustomization.yaml")
    files = [path for name in kustomization["resources"] if (path := KUBERNETES / "base" / name).is_file()]
    return [document for path in files for document in load(path)]


WITH_COMPONENTS = "cloud-s3 with components"


@pytest.fixture(scope="module", params=["local", "cloud-s3", WITH_COMPONENTS])
def overlay(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Objects:
    """The overlay as it would be applied; skips where nothing renders it, unless PHEMA_REQUIRE_KUBECTL is set."""
    command = renderer()
    if command is None:
        if os.environ.get("PHEMA_REQUIRE_KUBECTL"):
            pytest.fail("PHEMA_REQUIRE_KUBECTL is set, but there is neither kustomize nor kubectl")
        pytest.skip("neither kustomize nor kubectl on this machine")
    deploy = tmp_path_factory.mktemp("deployment") / "deploy"
    shutil.copytree(KUBERNETES.parent, deploy, ignore=shutil.ignore_patterns("*.env"))
    folder = deploy / "kubernetes"
    if request.param == "local":
        subprocess.run(["bash", folder / "overlays/local/new_secrets.sh"], check=True)
    name = request.param.split()[0]
    if request.param == WITH_COMPONENTS:  # as somebody does who removes the comment signs
        file = folder / "overlays" / name / "kustomization.yaml"
        file.write_text(re.sub(r"^# (components:|  - )", r"\1", file.read_text(), flags=re.MULTILINE))
    done = subprocess.run([*command, folder / "overlays" / name], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [*yaml.safe_load_all(done.stdout)]


def pods(objects: Objects) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, pod template) of whatever makes pods."""
    for one in objects:
        name, spec = one["metadata"]["name"], one.get("spec", {})
        if one["kind"] in ("Deployment", "StatefulSet", "Job"):
            yield name, spec["template"]
        elif one["kind"] == "RayCluster":
            yield f"{name} head", spec["headGroupSpec"]["template"]
            for group in spec["workerGroupSpecs"]:
                yield f"{name} {group['groupName']}", group["template"]


def containers(objects: Objects) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, template in pods(objects):
        for container in template["spec"]["containers"]:
            yield f"{name}/{container['name']}", container


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    wanted = selector.get("matchLabels", {}).items() <= labels.items()
    return wanted and all(labels.get(rule["key"]) in rule["values"] for rule in selector.get("matchExpressions", []))


def judge(objects: Objects) -> None:
    assert [fault for one in objects for fault in faults(one)] == []
    names = [(one["kind"], one["metadata"]["name"]) for one in objects]
    assert len(names) == len(set(names))
    _judge_selectors(objects)
    _judge_references(objects)
    _judge_pods(objects)


def _judge_selectors(objects: Objects) -> None:
    templates = [template for _, template in pods(objects)]
    for one in objects:
        kind, name, spec = one["kind"], one["metadata"]["name"], one.get("spec", {})
        if kind in ("Deployment", "StatefulSet"):
            assert selects(spec["selector"], spec["template"]["metadata"]["labels"]), name
            others = [t for t in templates if selects(spec["selector"], t["metadata"]["labels"])]
            assert others == [spec["template"]], f"{name} would take over others' pods"
        selector = {"Service": {"matchLabels": spec.get("selector")}, "NetworkPolicy": spec.get("podSelector")}
        selector |= {"PodMonitor": spec.get("selector"), "PodDisruptionBudget": spec.get("selector")}
        if kind not in selector:
            continue
        chosen = [t for t in templates if selects(selector[kind] or {}, t["metadata"]["labels"])]
        assert chosen, f"{kind} {name} selects no pod"
        ports = [{p["name"] for c in t["spec"]["containers"] for p in c.get("ports", [])} for t in chosen]
        if kind == "Service":
            assert all(port["targetPort"] in open_ for port in spec["ports"] for open_ in ports), name
        if kind == "PodMonitor":
            assert all(end["port"] in open_ for end in spec["podMetricsEndpoints"] for open_ in ports), name
        for rule in spec.get("ingress", []) if kind == "NetworkPolicy" else []:
            numbers = {p["containerPort"] for t in chosen for c in t["spec"]["containers"] for p in c.get("ports", [])}
            assert {port["port"] for port in rule.get("ports", [])} <= numbers, name
            for peer in rule.get("from", []):
                if "podSelector" in peer:
                    assert any(selects(peer["podSelector"], t["metadata"]["labels"]) for t in templates), name


def _judge_references(objects: Objects) -> None:
    held = {(one["kind"], one["metadata"]["name"]): one for one in objects}
    for where, container in containers(objects):
        mounts = {mount["name"] for mount in container.get("volumeMounts", [])}
        (spec,) = [t["spec"] for n, t in pods(objects) if where.rpartition("/")[0] == n]
        claims = [one["spec"].get("volumeClaimTemplates", []) for one in objects
                  if one["kind"] == "StatefulSet" and one["spec"]["template"]["spec"] is spec]  # fmt: skip
        volumes = {volume["name"] for volume in spec.get("volumes", [])}
        volumes |= {claim["metadata"]["name"] for templates in claims for claim in templates}
        assert mounts == volumes, where
        assert ("ServiceAccount", spec.get("serviceAccountName", "phema")) in held, where
        for source in container.get("envFrom", []):
            name = next(iter(source.values()))["name"]
            assert name in {"phema-settings", *SECRETS}, where
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            port = container.get(probe, {}).get("httpGet", {}).get("port")
            assert port in {None, *(p["name"] for p in container.get("ports", []))}, where


def _judge_pods(objects: Objects) -> None:
    """Pod Security's profile `restricted`, and bounds."""
    for name, template in pods(objects):
        security = template["spec"]["securityContext"]
        assert security["runAsNonRoot"] is True, name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        head = name.endswith(" head")
        assert template["spec"]["automountServiceAccountToken"] is head, (
            f"{name}: only Ray's autoscaler needs Kubernetes"
        )
    for where, container in containers(objects):
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False, where
        assert security["capabilities"] == {"drop": ["ALL"]}, where
        assert {"cpu", "memory", "ephemeral-storage"} <= set(container["resources"]["limits"]), where
        assert set(container["resources"]["requests"]) == set(container["resources"]["limits"]), where
        assert not container["image"].endswith(":latest"), where


def test_the_base_is_sound(base: Objects) -> None:
    judge(base)


def test_the_overlays_are_sound(overlay: Objects) -> None:
    judge(overlay)
    assert {one["metadata"].get("namespace") for one in overlay if one["kind"] != "Namespace"} == {"phema"}
    images = {container["image"] for _, container in containers(overlay)}
    assert "phema" not in images, "an image without a tag is left"


@pytest.mark.parametrize("version", ["1.30", "1.37"])
def test_kubernetes_own_definitions_accept_the_overlays(overlay: Objects, version: str) -> None:
    """Of Kubernetes's own kinds, and of the pods within KubeRay's, strictly: with unknown fields refused."""
    official = pytest.importorskip("kubernetes_validate")
    foreign = ("ray.io/", "monitoring.coreos.com/")
    own = [one for one in overlay if not one["apiVersion"].startswith(foreign)]
    own += [{"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "ray"}, "template": template}
            for _, template in pods(overlay)]  # fmt: skip
    for one in own:
        official.validate(one, version, strict=True)
    assert len(own) > 15


def test_the_operators_own_definitions_accept_the_overlays(overlay: Objects) -> None:
    """Strictly: an unknown field, which an operator would drop without a word, is refused."""
    if FOLDER is None:
        pytest.skip("PHEMA_OPERATOR_DEFINITIONS names no folder with the definitions of the operators")
    known = definitions(Path(FOLDER))
    theirs = [one for one in overlay if one["apiVersion"].startswith(("ray.io/", "monitoring.coreos.com/"))]
    assert {one["kind"] for one in theirs} == {"RayCluster", "PodMonitor", "PrometheusRule", "ScrapeConfig"}
    found = [fault for one in theirs for fault in faults_of(one, known[one["apiVersion"], one["kind"]])]
    assert found == []


def test_the_rules_are_those_of_prometheus() -> None:
    assert rules.FILE.read_text() == rules.rule_object(), "run `python -m deploy.prometheus.kubernetes`"
    (made,) = load(rules.FILE)
    groups = [group for path in sorted((rules.HERE / "rules").glob("*.yml")) for group in load(path)[0]["groups"]]
    assert made["spec"]["groups"] == groups


def test_jobs_have_the_names_that_rules_and_dashboards_know(base: Objects) -> None:
    (config,) = load(rules.HERE / "prometheus.yml")
    # Servers of other projects are found by compose's names.
    wanted = {job["job_name"] for job in config["scrape_configs"] if "dns_sd_configs" not in job}
    relabelings = []
    for one in base:
        if one["kind"] == "ScrapeConfig":
            relabelings.append(one["spec"]["relabelings"])
        if one["kind"] == "PodMonitor":
            relabelings += [end["relabelings"] for end in one["spec"]["podMetricsEndpoints"]]
    given = [{rule["targetLabel"]: rule.get("replacement") for rule in each} for each in relabelings]
    assert {each["job"] for each in given} == wanted
    assert all("service" in each for each in given)
    asked = rules.FILE.read_text() + "".join(expr for _, _, expr in build.queries())
    assert set(re.findall(r'job="([^"]+)"', asked)) <= wanted


def test_grafana_s_sidecar_finds_dashboards_and_their_source(overlay: Objects) -> None:
    maps = {one["metadata"]["name"]: one for one in overlay if one["kind"] == "ConfigMap"}
    boards = [one for one in maps.values() if one["metadata"]["labels"].get("grafana_dashboard") == "1"]
    assert {name: text for one in boards for name, text in one["data"].items()} == build.files()
    source = maps["phema-datasource"]
    assert source["metadata"]["labels"]["grafana_datasource"] == "1"
    (given,) = yaml.safe_load(source["data"]["phema-datasource.yml"])["datasources"]
    assert {"type": given["type"], "uid": given["uid"]} == PROVISIONED
    assert given["isDefault"] is False, "kube-prometheus-stack's is: Grafana does not start with two"


def test_every_kind_of_pod_of_the_design_is_there(base: Objects) -> None:
    assert {(one["kind"], one["metadata"]["name"]) for one in base} >= {
        ("RayCluster", "phema"),
        ("Deployment", "phema-api"),
        ("Deployment", "phema-trainer"),
        ("Deployment", "phema-worker"),
        ("Job", "phema-prepare"),
        ("NetworkPolicy", "phema-default"),
        ("PodMonitor", "phema-api"),
        ("PodMonitor", "phema-ray"),
        ("PrometheusRule", "phema"),
        ("ScrapeConfig", "phema"),
    }


def test_ray_is_of_the_locked_version_and_scales(base: Objects) -> None:
    (cluster,) = [one for one in base if one["kind"] == "RayCluster"]
    lock = (KUBERNETES.parents[1] / "requirements.lock").read_text()
    assert f"\nray=={cluster['spec']['rayVersion']}\n" in lock
    assert cluster["spec"]["enableInTreeAutoscaling"] is True
    groups = {group["groupName"]: group for group in cluster["spec"]["workerGroupSpecs"]}
    assert groups["gpu"]["minReplicas"] == 0
    limits = groups["gpu"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == "1"
    for group in groups.values():
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


@pytest.mark.parametrize("overlay", ["local"], indirect=True)
def test_the_local_overlay_asks_for_no_more_than_the_readme_says(overlay: Objects) -> None:
    """A laptop's kind or minikube would leave pods pending without a word."""
    (cluster,) = [one for one in overlay if one["kind"] == "RayCluster"]
    asked = [container["resources"]["requests"] for _, container in containers(overlay)]
    asked.append(cluster["spec"]["autoscalerOptions"]["resources"]["requests"])
    cpus = sum(amount(one["cpu"]) for one in asked)
    memory = sum(amount(one["memory"]) for one in asked)
    assert f"requests {cpus:g} CPUs and {memory / 2**30:g} GiB" in README
    assert cpus <= 4


def amount(text: str) -> float:
    number, unit = re.fullmatch(r"([0-9.]+)(\D*)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"": 1, "m": 0.001, "Mi": 2**20, "Gi": 2**30}[unit]


def test_the_upgrade_of_the_readme_names_what_is_there(base: Objects) -> None:
    """A Job's template cannot be changed, and KubeRay keeps the pods of an old template."""
    (cluster,) = [one for one in base if one["kind"] == "RayCluster"]
    (job,) = [one for one in base if one["kind"] == "Job"]
    steps = README.partition("### Upgrade")[2].partition("```")[2].partition("```")[0]
    order = [steps.find(step) for step in (
        f"kubectl -n phema delete job {job['metadata']['name']} --ignore-not-found",
        "kubectl apply -k",
        f"kubectl -n phema wait --for=condition=complete --timeout=10m job/{job['metadata']['name']}",
        f"kubectl -n phema delete pod -l ray.io/cluster={cluster['metadata']['name']}",
    )]  # fmt: skip
    assert -1 not in order
    assert order == sorted(order)


def test_the_gate_of_trainings_knows_what_the_autoscaler_may_add(base: Objects) -> None:
    (cluster,) = [one for one in base if one["kind"] == "RayCluster"]
    most = {"cpu": 0, "nvidia.com/gpu": 0}
    for group in cluster["spec"]["workerGroupSpecs"]:
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        for name in most:
            most[name] += group["maxReplicas"] * int(limits.get(name, 0))
    (kustomization,) = load(KUBERNETES / "overlays/cloud-s3/kustomization.yaml")
    literals = dict(literal.split("=", 1) for literal in kustomization["configMapGenerator"][0]["literals"])
    assert (literals["PHEMA_CLUSTER_MAX_CPUS"], literals["PHEMA_CLUSTER_MAX_GPUS"]) == (
        str(most["cpu"]),
        str(most["nvidia.com/gpu"]),
    )


def test_the_local_cluster_s_gate_knows_its_one_worker(base: Objects) -> None:
    (cluster,) = [one for one in base if one["kind"] == "RayCluster"]
    limits = cluster["spec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["resources"]["limits"]
    (kustomization,) = load(KUBERNETES / "overlays/local/kustomization.yaml")
    literals = dict(literal.split("=", 1) for literal in kustomization["configMapGenerator"][0]["literals"])
    assert literals["PHEMA_CLUSTER_MAX_CPUS"] == limits["cpu"]


@pytest.mark.parametrize("overlay", [WITH_COMPONENTS], indirect=True)
def test_components_add_an_ingress_and_the_runtime_of_gpus(overlay: Objects) -> None:
    (ingress,) = [one for one in overlay if one["kind"] == "Ingress"]
    (service,) = [one for one in overlay if one["kind"] == "Service" and one["metadata"]["name"] == "phema-api"]
    backend = ingress["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]
    assert backend["name"] == service["metadata"]["name"]
    assert backend["port"]["name"] in {port["name"] for port in service["spec"]["ports"]}
    classes = {name: template["spec"].get("runtimeClassName") for name, template in pods(overlay)}
    assert {name for name, found in classes.items() if found} == {"phema gpu"}


def test_pods_whose_work_would_begin_again_are_not_moved_to_save_nodes(base: Objects) -> None:
    key = "cluster-autoscaler.kubernetes.io/safe-to-evict"
    kept = {name for name, template in pods(base) if template["metadata"].get("annotations", {}).get(key) == "false"}
    assert kept == {"phema head", "phema cpu", "phema gpu", "phema-worker"}


@pytest.mark.parametrize("overlay", ["cloud-s3"], indirect=True)
def test_a_drain_ends_one_pod_of_a_kind_at_a_time(overlay: Objects) -> None:
    budgets = [one["spec"] for one in overlay if one["kind"] == "PodDisruptionBudget"]
    covered = {name for name, template in pods(overlay)
               if any(selects(one["selector"], template["metadata"]["labels"]) for one in budgets)}  # fmt: skip
    assert covered == {"phema-api", "phema-worker", "phema head", "phema cpu", "phema gpu"}


@pytest.mark.parametrize("overlay", ["cloud-s3"], indirect=True)
def test_ports_outside_are_those_of_the_base_until_somebody_changes_them(overlay: Objects, base: Objects) -> None:
    (changed,), (given,) = ([one for one in objects if one["metadata"]["name"] == "phema-egress"]
                            for objects in (overlay, base))  # fmt: skip
    numbers = [[(port["protocol"], port["port"]) for port in one["spec"]["egress"][1]["ports"]]
               for one in (changed, given)]  # fmt: skip
    assert numbers[0] == numbers[1]


def test_a_process_that_hangs_is_started_again_but_not_for_an_outage_of_minutes(base: Objects) -> None:
    for where, container in containers(base):
        if where.split("/")[0] in ("phema-trainer", "phema-worker"):
            probe = container["livenessProbe"]
            assert probe["exec"]["command"] == container["readinessProbe"]["exec"]["command"]
            assert probe["periodSeconds"] * probe["failureThreshold"] >= 900


def test_addresses_name_services_that_exist(base: Objects) -> None:
    (kustomization,) = load(KUBERNETES / "base/kustomization.yaml")
    literals = dict(literal.split("=", 1) for literal in kustomization["configMapGenerator"][0]["literals"])
    made = {one["metadata"]["name"] for one in base if one["kind"] == "Service"} | BY_OPERATOR
    hosts = {literals[name].rpartition("//")[2].split(":")[0]
             for name in ("PHEMA_RAY_ADDRESS", "PHEMA_RAY_DASHBOARD_URL", "PHEMA_URL")}  # fmt: skip
    assert hosts == made
    (scrape,) = [one for one in base if one["kind"] == "ScrapeConfig"]
    assert scrape["spec"]["httpSDConfigs"][0]["url"] == "http://phema-api.phema.svc:8400/v1/prometheus/targets"


def test_secrets_come_only_from_secrets(base: Objects) -> None:
    text = "".join(path.read_text() for path in sorted((KUBERNETES / "base").glob("*.yaml")))
    for name in ("PHEMA_DATABASE_URL", "PHEMA_S3_SECRET_ACCESS_KEY", "PHEMA_API_TOKEN=", "RAY_AUTH_TOKEN="):
        assert name not in text
    assert {one["kind"] for one in base} & {"Secret"} == set()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda o: o["spec"].update(replica=1), "spec.replica"),
        (lambda o: o["spec"]["template"]["spec"]["containers"][0].update(imagePullPolice="Always"), "imagePullPolice"),
        (lambda o: o.update(apiVersion="apps/v1beta1"), "apps/v1beta1"),
        (lambda o: o["spec"]["template"]["spec"]["containers"][0].pop("image"), "image"),
        (lambda o: o["spec"].update(replicas="1"), "spec.replicas"),
        (lambda o: o["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"].update(cpu=1), "limits.cpu"),
    ],
)
def test_the_linter_sees_mistakes(base: Objects, change: Any, said: str) -> None:
    (api,) = [one for one in base if (one["kind"], one["metadata"]["name"]) == ("Deployment", "phema-api")]
    broken = yaml.safe_load(yaml.safe_dump(api))
    change(broken)
    assert said in " ".join(faults(broken))
