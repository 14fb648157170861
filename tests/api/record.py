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
KEPT_SERIES = ("phema_http_requests_total", "phema_queue")
CONFIG = {"total_images": 12_800, "snapshot_every": 1_600, "checkpoint_every": 6_400}
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

    def wait(self, path: str, state: str = "succeeded") -> Any:
        """Wait until the resource at `path` is in `state`; returns it. Ends the program when it cannot get there."""
        while (found := self._client.get(path).json())["state"] != state:
            if found["state"] in ("succeeded", "failed", "cancelled"):
                sys.exit(f"{path} {found['state']}: {found['error']}")
            time.sleep(0.1)
        return found

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
    if kind.startswith("text/plain"):
        lines = [line for line in response.text.splitlines() if any(name in line for name in KEPT_SERIES)]
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
    body = {"name": "digits", "preset": "digits-tiny", "config": CONFIG}
    ask("create_run", "POST", "/v1/runs", body, {"Idempotency-Key": "6f1c1d8e"})
    ask("create_run.invalid", "POST", "/v1/runs", {**body, "config": {"batch_size": 64, "num_workers": 3}})
    ask.wait("/v1/runs/digits", "running")
    ask("create_reconstructions.early", "POST", "/v1/runs/digits/reconstructions", {"sigma_rel": 0.15})
    ask.wait_for_progress("digits")
    ask("list_prometheus_targets", "GET", "/v1/prometheus/targets")
    run = ask.wait("/v1/runs/digits")
    ask("list_runs", "GET", "/v1/runs?state=succeeded&limit=1")
    ask("get_run", "GET", "/v1/runs/digits")
    ask("list_run_metrics", "GET", "/v1/runs/digits/metrics?after=6400&limit=1")
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
    question = {"reconstruction_id": subject["id"], "num_samples": 256, "num_steps": 8}
    evaluation = ask("create_evaluation", "POST", "/v1/evaluations", question).json()
    path = f"/v1/evaluations/{evaluation['id']}"
    ask.wait(path)
    # A job ends right after its result is stored.
    ask.wait(f"/v1/jobs/{evaluation['job_id']}")
    ask("list_jobs", "GET", "/v1/jobs?run=digits&kind=evaluate")
    ask("get_evaluation", "GET", path)
    ask("list_evaluations", "GET", "/v1/evaluations?run=digits&limit=1")
    ask("get_evaluation_pictures", "GET", f"{path}/pictures", headers=part)
    ask("get_job", "GET", f"/v1/jobs/{run['job']['id']}")
    _storage(ask)
    _own_training(ask, store)
    ask("get_metrics", "GET", "/metrics")
    _cancel(ask)


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
    ask("cancel_run", "POST", "/v1/runs/unwanted/cancel")
    ask("resume_run", "POST", "/v1/runs/unwanted/resume")
    del ask.exchanges["_"]
    job = ask("_", "POST", "/v1/runs", {"name": "mistaken", "preset": "digits-tiny"}).json()["job"]["id"]
    ask("cancel_job", "POST", f"/v1/jobs/{job}/cancel")
    del ask.exchanges["_"]


def _own_training(ask: Recorder, store: ObjectStore) -> None:
    """A run of another training loop, with one snapshot."""
    asked = {"name": "mine", "config": {"model": "a classifier", "learning_rate": 0.1}, "total_images": 64_000}
    run = ask("open_external_run", "POST", "/v1/runs/external", asked).json()
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
