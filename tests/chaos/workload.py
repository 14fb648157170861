"""What the storm's users do meanwhile: train, reconstruct, compact, thin, evaluate, sweep, sample, import, cancel."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tests.chaos.imports import Imports
from tests.chaos.reference import PRESET, Fields
from tests.chaos.requests import Accepted, Requests, Stopped

UNFINISHED_RUNS = 2
UNFINISHED_JOBS = 12
"""The workload asks for nothing new while so many jobs of its requests are unfinished."""
PAUSE_SECONDS = (0.2, 1.5)
TERMINAL = ("succeeded", "failed", "cancelled")
SIGMA_RELS = (0.03, 0.05, 0.06, 0.08, 0.1, 0.13, 0.17, 0.2)
SAMPLING = {"num_samples": 32, "num_steps": 4, "metrics": ["frechet"]}


class Workload:
    """Asks for work from a thread of its own until `stop_asking`. `hold` makes it wait meanwhile."""

    def __init__(self, url: str, imports: Imports, configurations: Sequence[Fields], *, seed: int) -> None:
        self._random = random.Random(f"workload {seed}")
        self._stopping = threading.Event()
        self._may_ask = threading.Event()
        self._may_ask.set()
        self._resting = threading.Event()
        self.requests = Requests(url, self._stopping)
        self._imports, self._configurations = imports, configurations
        self.runs: dict[str, int] = {}
        """Of each training run, by name, the index of its configuration."""
        self._states: dict[str, str] = {}
        self.cancelled: set[str] = set()
        """Jobs that the workload has cancelled."""
        self._thread = threading.Thread(target=self._work, name="workload")
        self._error: BaseException | None = None

    def start(self) -> None:
        self._thread.start()

    def stop_asking(self) -> None:
        """Ask for nothing more. A request that is not answered yet counts as not accepted."""
        self._stopping.set()
        self._may_ask.set()
        self._thread.join()
        self.check()

    def check(self) -> None:
        """Raises what ended the workload too early."""
        if self._error is not None:
            raise self._error

    def hold(self) -> None:
        """Return once no request is under way."""
        self._resting.clear()
        self._may_ask.clear()
        self._resting.wait()

    def go_on(self) -> None:
        self._may_ask.set()

    def unfinished(self) -> list[Accepted]:
        """Accepted requests of which a job is not known to have ended."""
        return [
            asked for asked in self.requests.accepted if any(self._state(job) not in TERMINAL for job in asked.jobs)
        ]

    def forget(self) -> list[Accepted]:
        """After the loss of the catalog: start over with what the API has accepted, and return what was unfinished."""
        lost = self.unfinished()
        self.requests.accepted.clear()
        self._states.clear()
        self.cancelled.clear()
        return lost

    def known_runs(self) -> list[dict[str, Any]]:
        """The training runs of this workload, as the API has them now."""
        return [run for run in self._get_all("/v1/runs", name="storm-") if run["name"] in self.runs]

    def ask_again(self, lost: Iterable[Accepted]) -> int:
        """After the loss: ask for runs of which nothing was stored, resume unfinished ones, and repeat the requests of
        `lost` that name runs only. Returns how many requests were sent."""
        before = len(self.requests.accepted)
        known = {run["name"]: run for run in self.known_runs()}
        for name in self.runs:
            if name not in known:
                self._post_run(name)
            elif known[name]["state"] in ("failed", "cancelled"):
                self.requests.post("train", f"/v1/runs/{name}/resume")
        for asked in lost:
            if asked.kind in ("reconstruct", "compact", "retain", "sweep"):
                self.requests.post(asked.kind, asked.path, asked.body)
        return len(self.requests.accepted) - before

    def _state(self, job: str) -> str:
        return self._states.get(job, "queued")

    def _work(self) -> None:
        try:
            while not self._stopping.is_set():
                if not self._may_ask.is_set():
                    self._resting.set()
                    self._may_ask.wait()
                    continue
                self._step()
                self._stopping.wait(self._random.uniform(*PAUSE_SECONDS))
        except Stopped:
            pass
        except BaseException as error:
            self._error = error
        finally:
            self._resting.set()

    def _step(self) -> None:
        self._imports.look()
        self._look_at_jobs()
        runs = self.known_runs()
        if sum(run["state"] not in TERMINAL for run in runs) < UNFINISHED_RUNS:
            self._create_run()
            return
        if len(self.unfinished()) >= UNFINISHED_JOBS:
            return
        with_snapshots = [run for run in runs if run["num_images"] > 0]
        if not with_snapshots:
            self._imports.begin()
            return
        run = self._random.choice(with_snapshots)
        self._action()(run)

    def _action(self) -> Callable[[dict[str, Any]], object]:
        actions = {
            self._reconstruct: 6,
            self._compact: 1,
            self._retain: 1,
            self._evaluate: 3,
            self._sweep: 1,
            self._sample: 1,
            self._import: 1,
            self._cancel: 1,
        }
        return self._random.choices(list(actions), list(actions.values()))[0]

    def _look_at_jobs(self) -> None:
        """Ask once for the state of every job that is not known to have ended."""
        for job in {job for asked in self.unfinished() for job in asked.jobs if self._state(job) not in TERMINAL}:
            if (found := self.requests.get(f"/v1/jobs/{job}")) is not None:
                self._states[job] = found["state"]

    def _get_all(self, path: str, **params: Any) -> list[Any]:
        return list((self.requests.get(path, limit=100, **params) or {}).get("items", []))

    # Actions

    def _create_run(self) -> None:
        name = f"storm-{len(self.runs) + 1}"
        self.runs[name] = len(self.runs) % len(self._configurations)
        self._post_run(name)

    def _post_run(self, name: str) -> None:
        fields = self._configurations[self.runs[name]]
        self.requests.post("train", "/v1/runs", {"name": name, "preset": PRESET, "config": fields})

    def _time(self, run: dict[str, Any]) -> int | None:
        times = sorted({row["num_images"] for row in self._get_all(f"/v1/runs/{run['name']}/snapshots")})
        return self._random.choice(times) if times else None

    def _reconstruct(self, run: dict[str, Any]) -> None:
        if (time := self._time(run)) is None:
            return
        wanted = self._random.sample(SIGMA_RELS, self._random.randint(1, 4))
        self.requests.post(
            "reconstruct", f"/v1/runs/{run['name']}/reconstructions", {"sigma_rel": wanted, "num_images": time}
        )

    def _compact(self, run: dict[str, Any]) -> None:
        if (time := self._time(run)) is not None:
            self.requests.post("compact", f"/v1/runs/{run['name']}/bases", {"num_images": time, "tolerance": 1e-2})

    def _retain(self, run: dict[str, Any]) -> None:
        if run["state"] == "succeeded":
            self.requests.post("retain", f"/v1/runs/{run['name']}/retention", {"policy": "thin", "dry_run": False})

    def _weights(self, run: dict[str, Any]) -> str | None:
        rows = self._get_all(f"/v1/runs/{run['name']}/reconstructions")
        finished = [row["id"] for row in rows if row["state"] == "succeeded"]
        return self._random.choice(finished) if finished else None

    def _evaluate(self, run: dict[str, Any]) -> None:
        if (weights := self._weights(run)) is not None:
            recipe = {**SAMPLING, "seed": self._random.randrange(1000)}
            self.requests.post("evaluate", "/v1/evaluations", {"reconstruction_id": weights, **recipe})

    def _sweep(self, run: dict[str, Any]) -> None:
        grid = {"sigma_rel": self._random.sample(SIGMA_RELS, 2), "seed": [self._random.randrange(1000)]}
        self.requests.post("sweep", "/v1/sweeps", {"run": run["name"], **SAMPLING, **grid})

    def _sample(self, run: dict[str, Any]) -> None:
        if (weights := self._weights(run)) is not None:
            first = self._random.randrange(1000)
            seeds = f"{first}-{first + 7}"
            self.requests.post("sample", "/v1/samples", {"reconstruction_id": weights, "seeds": seeds, "num_steps": 4})

    def _import(self, run: dict[str, Any]) -> None:
        self._imports.begin()

    def _cancel(self, run: dict[str, Any]) -> None:
        """Cancel a job of an earlier request, but no training: `faults.cancels` does."""
        chosen = [asked for asked in self.unfinished() if asked.kind in ("reconstruct", "evaluate", "sweep", "sample")]
        if not chosen:
            return
        for job in self._random.choice(chosen).jobs[-1:]:
            self.requests.post("cancel", f"/v1/jobs/{job}/cancel")
            self.cancelled.add(job)
