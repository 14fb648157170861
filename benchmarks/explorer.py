"""Speed of what follows a slider: figures beside their targets.

- `curves`: the plan of an average with its curves, for new values of sigma_rel: processor time of the API, and time of
  the answer.
- `previews`: from the request for 16 digits to the bytes of their picture: the first preview of a run, later ones, and
  while the same actor draws a part of an evaluation.

- `browser`: in Chromium, from a step of the explorer's slider to its redrawn profile and to 16 new pictures; first
  paint and size of every page; CPU time of the services while 50 explorers are open and nothing changes.

Trains the preset in a service of its own, unless --url names a service and --run one of its runs. Times depend on what
else the machine does; the load at the start is printed.

    python -m benchmarks.explorer [--parts curves,previews,browser] [--url URL --run RUN] [--num-steps 32] [--json]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import psutil

from benchmarks.explorer_pages import OPEN_PAGES, browser
from benchmarks.report import machine, show
from benchmarks.service import Row, cpu_seconds, row
from phema.client.client import Client
from phema.local_service.up import running_service

REQUESTS = 12
LENGTHS = [round(0.04 + 0.013 * index, 3) for index in range(REQUESTS)]
"""Values of sigma_rel, each of which is asked for once."""
PART_PICTURES = 4096


def main() -> None:
    options = arguments()
    parts: dict[str, Callable[[Client, str, argparse.Namespace], Iterator[Row]]] = {
        "curves": curves,
        "previews": previews,
        "browser": browser,
    }
    facts = machine() | {"load": f"{os.getloadavg()[0]:.1f} processes at the start"}
    with ExitStack() as stack:
        url = options.url
        if url is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="phema-benchmark-"))
            url = stack.enter_context(running_service(Path(folder)))
        client = stack.enter_context(Client(url))
        if options.url is None:
            client.runs.wait(client.runs.create(preset="digits-tiny", name=options.run))
        rows = [found for name in options.parts.split(",") for found in parts[name](client, options.run, options)]
    show(facts, rows, as_json=options.json)


def arguments() -> argparse.Namespace:
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--parts", default="curves,previews,browser", help="what is measured, separated by commas")
    given.add_argument("--url", help="a running service; without it, one is started and a run is trained")
    given.add_argument("--run", default="digits", help="name of the run")
    given.add_argument("--num-steps", type=int, default=32, help="steps of the sampler in previews")
    given.add_argument("--open-pages", type=int, default=OPEN_PAGES, help="explorers that are open at once")
    given.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    return given.parse_args()


def curves(client: Client, run: str, options: argparse.Namespace) -> Iterator[Row]:
    """The API's process is found by its port, on this machine."""
    process = api_process(client.url)
    client.profile_curves(run, 0.1)
    before, walls = cpu_seconds(process), []
    for sigma_rel in LENGTHS:
        started = time.perf_counter()
        client.profile_curves(run, sigma_rel)
        walls.append(time.perf_counter() - started)
    spent = (cpu_seconds(process) - before) / len(LENGTHS)
    yield row("profile and errors of a new sigma_rel: processor time of the API", 1e3 * spent, "ms", "<= 60")
    yield row("the same, from the request to the answer (median)", 1e3 * median(walls), "ms", "<= 100")


def previews(client: Client, run: str, options: argparse.Namespace) -> Iterator[Row]:
    """Every preview is of another length, so that none is answered from the catalog."""
    # Lengths that an earlier run of this benchmark on the same service did not ask for.
    shift = 1e-6 * (time.time() % 1000)

    def picture(sigma_rel: float) -> float:
        started = time.perf_counter()
        found = client.preview(run, sigma_rel + shift, seeds="0-15", num_steps=options.num_steps)
        client.previews.picture(found)
        return time.perf_counter() - started

    yield row("16 digits, the first preview of the service", picture(0.1), "s", "-")
    yield row("16 digits, another length (median)", median(map(picture, LENGTHS)), "s", "<= 1")
    estimate = client.previews.plan(run, 0.1, seeds="0-15", num_steps=options.num_steps)
    yield row("the same as plan_only estimates it: reading and drawing", estimate.seconds or 0.0, "s", "-")
    weights = client.reconstruct(run, 0.1)[0]
    evaluation = client.evaluate(weights, num_samples=PART_PICTURES, metrics=["frechet"], wait=False)
    job = str(evaluation.job_id)
    while not any(part.state == "running" for part in client.jobs.list(kind="draw", parent=job)):
        time.sleep(0.05)
    beside = median(picture(sigma_rel + 0.005) for sigma_rel in LENGTHS)
    client.jobs.cancel(job)
    yield row("16 digits while the same actor draws a part of an evaluation (median)", beside, "s", "-")


def api_process(url: str) -> int:
    """Id of the process that listens on the port of the URL."""
    port = int(url.rstrip("/").rsplit(":", 1)[1])
    listening = (found for found in psutil.net_connections("tcp") if found.status == psutil.CONN_LISTEN)
    return next(found.pid for found in listening if found.laddr.port == port and found.pid is not None)


if __name__ == "__main__":
    main()
