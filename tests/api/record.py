"""`python -m tests.api.record`: send every documented request to a real service and record the answers.

Starts `phema up` in a temporary folder, trains a small run, and writes services/api/examples.json (which the OpenAPI
document shows), docs/openapi.json and the recorded parts of docs/api.md. Takes about two minutes on two cores.
Ids, times and durations of the recording before are kept (`kept_values`), so only real changes differ. An operation or
exchange that docs/api.md does not show yet gets a place there. `--render` sends nothing: it only writes the two
documents from the examples that are there.

To document a new operation, add its request to `scenario`.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from phema.local_service.up import running_service
from phema.services.api.app import create_app
from phema.services.api.http.openapi import EXAMPLES, examples
from phema.shared.settings import Settings
from phema.shared.snapshots.stores.interface import ObjectStore
from phema.shared.wiring import store_from
from tests.api.documents import API_MD, OPENAPI_JSON, ROOT, api_page, openapi_text
from tests.api.kept_values import kept
from tests.api.seed import upload

LONGEST_LIST = 4
KEPT_ITEMS = 2
KEPT_HEADERS = ("content-type", "content-length", "content-range", "content-disposition", "etag", "accept-ranges")
KEPT_LINES = ("phema_http_requests_total", "phema_queue", "trains on cpu", "checkpoint is durable")
"""Parts of the lines of texts that are shown: metrics, and a log."""
CONFIG = {"total_images": 12_800, "snapshot_every": 1_600, "checkpoint_every": 6_400}
FOLLOWED = {"every_snapshots": 4, "num_samples": 128, "num_steps": 4}
Exchange = dict[str, Any]


class Recorder:
    """Sends requests and keeps them with their answers, by name: an operationId, or `operationId.variant`."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=60)
        self.exchanges: dict[str, Exchange] = {}

    def __call__(
        self, name: str, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        response = self._client.request(method, path, json=body, headers=headers)
        exchange: Exchange = {"method": method, "path": path}
        if headers:
            exchange["headers"] = headers
        if body is not None:
            exchange["request"] = body
        exchange["status"] = response.status_code
        exchange |= _answer(response)
        assert name not in self.exchanges, f"{name} is recorded twice"
        self.exchanges[name] = exchange
        return response

    def stream(self, name: str, path: str, number: int) -> None:
        """Record the first events of a stream, each with its data."""
        exchange: Exchange = {"method": "GET", "path": path}
        with self._client.stream("GET", path) as response:
            exchange["status"] = response.status_code
            events = (line for line in response.iter_lines() if line)
            lines = [line for _, line in zip(range(2 * number), events, strict=False)]
        pairs = [f"{kind}\n{data}\n" for kind, data in zip(lines[::2], lines[1::2], strict=True)]
        self.exchanges[name] = exchange | {"response": "\n".join(pairs)}

    def wait(self, path: str, state: str = "succeeded") -> Any:
        """Wait until the resource at `path` is in `state`; returns it. Ends the program when it cannot get there."""
        while (found := self._client.get(path).json())["state"] != state:
            if found["state"] in ("succeeded", "failed", "cancelled"):
                sys.exit(f"{path} {found['state']}: {found['error']}")
            time.sleep(0.1)
        return found

    def get(self, path: str) -> Any:
        """An answer that is not recorded."""
        return self._client.get(path).json()

    def wait_for_progress(self, run: str) -> None:
        """Wait until the run has a row of history, and until every kind of process has announced its address."""
        while not self._client.get(f"/v1/runs/{run}/metrics").json()["items"]:
            time.sleep(0.2)
        while len(self._client.get("/v1/prometheus/targets").json()) < 3:
            time.sleep(0.2)


def _answer(response: httpx.Response) -> Exchange:
    kind = response.headers["content-type"]
    if "json" in kind:
        return {"response": shortened(_ordered(response.json()))}
    if kind.startswith("text/markdown"):
        return {"response": response.text}
    if kind.startswith("text/plain"):
        lines = [line for line in response.text.splitlines() if any(part in line for part in KEPT_LINES)]
        return {"response": "\n".join(lines[:12]) + "\n"}
    return {"response_headers": {name: response.headers[name] for name in KEPT_HEADERS if name in response.headers}}


def _ordered(answer: Any) -> Any:
    """Scrape targets come in the order of their addresses, whose ports are chosen by chance: order them by kind."""
    if isinstance(answer, list):
        return sorted(answer, key=lambda group: str(group["labels"]))
    return answer


def shortened(value: Any) -> Any:
    """Long lists keep their first items: still valid answers, and short enough to read."""
    if isinstance(value, dict):
        return {name: shortened(item) for name, item in value.items()}
    if isinstance(value, list):
        is_long = len(value) > LONGEST_LIST or (len(value) > KEPT_ITEMS and isinstance(value[0], dict))
        return [shortened(item) for item in (value[:KEPT_ITEMS] if is_long else value)]
    return value


def scenario(ask: Recorder, store: ObjectStore) -> None:
    """Every operation once, in the order in which a user meets them."""
    ask("get_health", "GET", "/healthz")
    ask("get_readiness", "GET", "/readyz")
    ask("list_presets", "GET", "/v1/presets")
    body = {"name": "digits", "preset": "digits-tiny", "config": CONFIG | {"evaluation": FOLLOWED}}
    ask("create_run", "POST", "/v1/runs", body, {"Idempotency-Key": "6f1c1d8e"})
    ask("plan_run", "POST", "/v1/run-plans", {"dataset": "digits", "config": {"total_images": 131_072}})
    ask("create_run.invalid", "POST", "/v1/runs", {**body, "config": {"batch_size": 64, "num_workers": 3}})
    ask.wait("/v1/runs/digits", "running")
    ask.stream("follow_run_events", "/v1/runs/digits/events", 2)
    ask("create_reconstructions.early", "POST", "/v1/runs/digits/reconstructions", {"sigma_rel": 0.15})
    ask.wait_for_progress("digits")
    ask("list_prometheus_targets", "GET", "/v1/prometheus/targets")
    run = ask.wait("/v1/runs/digits")
    ask("list_runs", "GET", "/v1/runs?state=succeeded&sort=images&limit=1")
    ask("get_run", "GET", "/v1/runs/digits")
    ask("list_run_events", "GET", "/v1/runs/digits/event-log?limit=2")
    ask("list_run_metrics", "GET", "/v1/runs/digits/metrics?after=6400&limit=1")
    while ask.get("/v1/runs/digits/progress-curve")["state"] != "succeeded":
        time.sleep(0.2)
    ask("get_progress_curve", "GET", "/v1/runs/digits/progress-curve")
    snapshot = ask("list_snapshots", "GET", "/v1/runs/digits/snapshots?limit=2").json()["items"][0]["id"]
    part = {"Range": "bytes=0-99"}
    ask("download_snapshot", "GET", f"/v1/snapshots/{snapshot}/download", headers=part)
    plan = {"sigma_rel": [0.075, 0.15], "plan_only": True}
    ask("create_reconstructions.plan", "POST", "/v1/runs/digits/reconstructions", plan)
    several = {
        "profiles": [{"kind": "uniform", "window_images": 6400}],
        "tensors": [{"pattern": "unet.*emb*", "profile": {"sigma_rel": 0.05}}],
        "tolerance": 0.01,
        "plan_only": True,
    }
    ask("create_reconstructions.profiles", "POST", "/v1/runs/digits/reconstructions", several)
    wanted = {"sigma_rel": [0.075, 0.15], "num_images": run["num_images"], "dtype": "float32"}
    accepted = ask("create_reconstructions", "POST", "/v1/runs/digits/reconstructions", wanted).json()
    path = f"/v1/reconstructions/{accepted['reconstructions'][0]['id']}"
    subject = ask.wait(path)
    ask("list_reconstructions", "GET", "/v1/runs/digits/reconstructions?limit=1")
    ask("get_reconstruction", "GET", path)
    ask("download_reconstruction", "GET", f"{path}/download", headers=part)
    question = {"reconstruction_id": subject["id"], "num_samples": 256, "num_steps": 8, "keep_pictures": True}
    evaluation = ask("create_evaluation", "POST", "/v1/evaluations", question).json()
    path = f"/v1/evaluations/{evaluation['id']}"
    ask.wait(path)
    # A job ends right after its result is stored.
    ask.wait(f"/v1/jobs/{evaluation['job_id']}")
    ask("list_jobs", "GET", "/v1/jobs?run=digits&kind=evaluate")
    ask("get_evaluation", "GET", path)
    ask("list_evaluations", "GET", "/v1/evaluations?run=digits&limit=1")
    ask("get_evaluation_pictures", "GET", f"{path}/pictures", headers=part)
    ask("get_evaluation_archive", "GET", f"{path}/archive", headers=part)
    _samples(ask, subject["id"])
    _previews(ask)
    _models(ask, subject["id"])
    ask("get_job", "GET", f"/v1/jobs/{run['job']['id']}")
    ask("get_job_log", "GET", f"/v1/jobs/{run['job']['id']}/logs?attempt=1")
    _sweep(ask)
    _analyses(ask)

    _search(ask)
    _storage(ask)
    _own_training(ask, store)
    ask("get_system", "GET", "/v1/system")
    ask.stream("follow_events", "/v1/events", 1)
    ask("get_metrics", "GET", "/metrics")
    _cancel(ask)
    _changes(ask)


def _sweep(ask: Recorder) -> None:
    """A small sweep, and one more value."""
    grid = {"run": "digits", "sigma_rel": [0.05, 0.1, 0.15], "num_samples": 256, "num_steps": 8}
    sweep = ask("create_sweep", "POST", "/v1/sweeps", grid).json()["id"]
    ask("create_sweep.invalid", "POST", "/v1/sweeps", grid | {"num_images": [6000], "guidance": 1})
    ask.wait(f"/v1/sweeps/{sweep}")
    ask("get_sweep", "GET", f"/v1/sweeps/{sweep}")
    more = ask("extend_sweep", "POST", f"/v1/sweeps/{sweep}/extend", {"sigma_rel": [0.2]}).json()["id"]
    ask.wait(f"/v1/sweeps/{more}")
    ask("list_sweeps", "GET", "/v1/sweeps?run=digits&limit=1")


def _samples(ask: Recorder, reconstruction: str) -> None:
    """Pictures of one class, and a request that does not fit."""
    question = {"reconstruction_id": reconstruction, "seeds": "0-15", "class_label": 3, "num_steps": 8}
    path = f"/v1/samples/{ask('create_sample', 'POST', '/v1/samples', question).json()['id']}"
    ask("create_sample.invalid", "POST", "/v1/samples", {**question, "class_label": 10})
    ask.wait(path)
    ask("get_sample", "GET", path)
    ask("list_samples", "GET", "/v1/samples?run=digits&limit=1")
    ask("get_sample_file", "GET", f"{path}/file", headers={"Range": "bytes=0-99"})


def _previews(ask: Recorder) -> None:
    """What follows a slider: the curves of a plan, and pictures of an average that is not stored."""
    wanted = {"sigma_rel": 0.12, "tensors": [{"pattern": "unet.*emb*", "profile": {"sigma_rel": 0.05}}], "points": 50}
    ask("create_profile_curves", "POST", "/v1/runs/digits/profile-curves", wanted)
    question = {"sigma_rel": 0.12, "seeds": "0-15", "class_label": 3, "num_steps": 8}
    path = f"/v1/previews/{ask('create_preview', 'POST', '/v1/runs/digits/previews', question).json()['id']}"
    ask("create_preview.invalid", "POST", "/v1/runs/digits/previews", {**question, "sigma_rel": [0.1, 0.2]})
    ask.wait(path)
    ask("create_preview.plan", "POST", "/v1/runs/digits/previews", {**question, "plan_only": True})
    ask("get_preview", "GET", path)
    ask("download_preview", "GET", f"{path}/download", headers={"Range": "bytes=0-99"})


def _models(ask: Recorder, reconstruction: str) -> None:
    """A promotion and everything that can be fetched of it."""
    wanted = {"name": "digits", "reconstruction_id": reconstruction, "description": "The first model of the page."}
    ask("create_model", "POST", "/v1/models", wanted)
    ask("list_models", "GET", "/v1/models?name=digits&limit=1")
    ask("get_model", "GET", "/v1/models/digits:1")
    ask("get_model_card", "GET", "/v1/models/digits/card")
    ask("get_model_config", "GET", "/v1/models/digits/config")
    ask("download_model", "GET", "/v1/models/digits:1/download", headers={"Range": "bytes=0-99"})


def _analyses(ask: Recorder) -> None:
    """What the sweep found, as data and as a picture, and the page about the run."""
    ask("get_analysis", "GET", "/v1/analyses/ema-length?run=digits")
    ask("get_analysis.picture", "GET", "/v1/analyses/ema-length?run=digits&format=svg")
    ask("get_analysis.nothing", "GET", "/v1/analyses/guidance?run=digits&figure=fid")
    ask("get_profiles", "GET", "/v1/analyses/profiles?run=digits")
    ask("get_report", "GET", "/v1/reports?run=digits")


def _search(ask: Recorder) -> None:
    """A search with a small budget."""
    request = {"run": "digits", "sigma_rel": [0.03, 0.2], "budget": 1000, "num_steps": 8}
    search = ask("create_search", "POST", "/v1/searches", request).json()["id"]
    ask("create_search.invalid", "POST", "/v1/searches", request | {"budget": 100})
    ask.wait(f"/v1/searches/{search}")
    ask("get_search", "GET", f"/v1/searches/{search}")
    ask("list_searches", "GET", "/v1/searches?run=digits&limit=1")


def _storage(ask: Recorder) -> None:
    """A basis, a pin, and retention: first what it would do, then the deletion."""
    ask("create_basis.plan", "POST", "/v1/runs/digits/bases", {"plan_only": True})
    basis = ask("create_basis", "POST", "/v1/runs/digits/bases", {"tolerance": 1e-3}).json()["basis"]["id"]
    ask.wait(f"/v1/bases/{basis}")
    ask("list_bases", "GET", "/v1/runs/digits/bases?limit=1")
    ask("get_basis", "GET", f"/v1/bases/{basis}")
    ask("pin_snapshots", "POST", "/v1/runs/digits/pins", {"num_images": 3_200})
    ask("retain.dry_run", "POST", "/v1/runs/digits/retention", {"policy": "thin"})
    ask("retain.refused", "POST", "/v1/runs/digits/retention", {"policy": "latest", "keep": 2, "dry_run": False})
    job = ask("retain", "POST", "/v1/runs/digits/retention", {"policy": "basis", "dry_run": False}).json()["job"]["id"]
    ask.wait(f"/v1/jobs/{job}")


def _cancel(ask: Recorder) -> None:
    """Two more runs: one is cancelled by itself and resumed, the other is cancelled by its job."""
    ask("_", "POST", "/v1/runs", {"name": "unwanted", "preset": "digits-tiny"})
    ask("pause_run", "POST", "/v1/runs/unwanted/pause")
    ask("extend_run", "POST", "/v1/runs/unwanted/extend", {"total_images": 153_600}, {"Idempotency-Key": "0c5e77a1"})
    ask("extend_run.shorter", "POST", "/v1/runs/unwanted/extend", {"total_images": 6_400})
    ask("cancel_run", "POST", "/v1/runs/unwanted/cancel")
    ask("pause_run.ended", "POST", "/v1/runs/unwanted/pause")
    ask("resume_run", "POST", "/v1/runs/unwanted/resume")
    del ask.exchanges["_"]
    job = ask("_", "POST", "/v1/runs", {"name": "mistaken", "preset": "digits-tiny"}).json()["job"]["id"]
    ask("cancel_job", "POST", f"/v1/jobs/{job}/cancel")
    del ask.exchanges["_"]


def _changes(ask: Recorder) -> None:
    """A fork is started, renamed, and given up; a run that something else needs is not deleted."""
    wanted = {"name": "finer", "config": {"learning_rate": 0.002, "total_images": 25_600}}
    ask("fork_run", "POST", "/v1/runs/digits/forks", wanted, {"Idempotency-Key": "b51c77a0"})
    ask(
        "fork_run.invalid", "POST", "/v1/runs/digits/forks", {"name": "wider", "config": {"network": {"num_blocks": 5}}}
    )
    ask("list_forks", "GET", "/v1/runs/digits/forks")
    ask("rename_run", "POST", "/v1/runs/finer/rename", {"name": "digits-finer"})
    ask("delete_run.refused", "DELETE", "/v1/runs/digits?grace_hours=1")
    ask("_", "POST", "/v1/runs/digits-finer/cancel")
    del ask.exchanges["_"]
    ask.wait("/v1/runs/digits-finer", "cancelled")
    ask("delete_run.dry_run", "DELETE", "/v1/runs/digits-finer?dry_run=true")
    ask("delete_run", "DELETE", "/v1/runs/digits-finer")
    ask("restore_run", "POST", "/v1/runs/digits-finer/restore")
    job = ask("_", "DELETE", "/v1/runs/digits-finer?grace_hours=0").json()["job"]["id"]
    del ask.exchanges["_"]
    ask.wait(f"/v1/jobs/{job}")
    ask("get_run.deleted", "GET", "/v1/runs/digits-finer")


def _own_training(ask: Recorder, store: ObjectStore) -> None:
    """A run of another training loop, with one snapshot."""
    asked = {"name": "mine", "config": {"model": "a classifier", "learning_rate": 0.1}, "total_images": 64_000}
    run = ask("open_external_run", "POST", "/v1/runs/external", asked).json()
    ask("heartbeat", "POST", "/v1/runs/mine/heartbeat")
    ask("register_snapshot", "POST", "/v1/runs/mine/snapshots", upload(store, run, num_images=6_400, weights=[1, 2]))
    ask("finish_run", "POST", "/v1/runs/mine/finish")


def main() -> None:
    path = ROOT / "services" / "api" / EXAMPLES
    with tempfile.TemporaryDirectory(prefix="phema-record-") as folder:
        if "--render" not in sys.argv:
            with running_service(Path(folder)) as url:
                ask = Recorder(url)
                scenario(ask, store_from(Settings(state_dir=Path(folder))))
            path.write_text(json.dumps(kept(ask.exchanges, examples()), indent=1, ensure_ascii=False) + "\n")
        document = create_app(Settings(state_dir=Path(folder))).openapi()
    OPENAPI_JSON.write_text(openapi_text(document))
    API_MD.write_text(api_page(API_MD.read_text(), document, examples()))


if __name__ == "__main__":
    main()
