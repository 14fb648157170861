"""The images of docker-compose.yml: built or pulled as a user does, or stand-ins on an engine that can pull none."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from deploy.local.compose import read_services
from tests.containers.engine import Engine

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
STAND_INS = Path(__file__).with_name("stand_ins")
PHEMA = "phema-test:cpu"
S3 = "phema-test/s3:stand-in"
INDEX_PORT = 47311
OFFICIAL_INDEX = "https://download.pytorch.org/whl/cpu"


def prepare_images(engine: Engine, variables: dict[str, str]) -> dict[str, str]:
    """Make every image that compose needs and cannot pull. Returns variables of compose that name them.

    `variables` are those of the .env file. On an engine that the user runs, compose pulls the images of others, and
    this builds phema's image alone.
    """
    if not engine.own:
        _build_phema(engine, ["--build-arg", f"TORCH_CPU_INDEX={OFFICIAL_INDEX}"])
        return {"PHEMA_IMAGE": PHEMA}
    base = _default("PYTHON_IMAGE")
    if _is_missing(engine, base) and not engine.succeeds("pull", base):
        print(f"{base} cannot be pulled: debootstrap makes it", flush=True)
        engine.call(base, command=["bash", str(STAND_INS / "base_image.sh")])
    images = {name: service["image"] for name, service in read_services(COMPOSE, variables).items()}
    stand_ins = {"postgres": images["postgres"], "s3": S3, "prometheus": images["prometheus"]}
    stand_ins["grafana"] = images["grafana"]
    for target, tag in stand_ins.items():
        # Cached, unless a stand-in has changed. The network of the machine reaches its package index.
        build = ("build", "--network=host", f"--build-arg=PYTHON_IMAGE={base}", f"--target={target}", f"--tag={tag}")
        engine.call(*build, str(STAND_INS))
    with _index_of_torch() as index:
        _build_phema(engine, ["--network=host", f"--build-arg=TORCH_CPU_INDEX={index}"])
    # Every change of the sources leaves an image without a name, and layers in the builder's cache.
    engine.call("image", "prune", "--force")
    engine.call("builder", "prune", "--force", "--keep-storage=6GB")
    return {"PHEMA_IMAGE": PHEMA, "MINIO_IMAGE": S3}


def _build_phema(engine: Engine, options: list[str]) -> None:
    engine.call("build", *options, f"--tag={PHEMA}", str(ROOT))


def _is_missing(engine: Engine, image: str) -> bool:
    return not engine.succeeds("image", "inspect", image)


def _default(argument: str) -> str:
    (value,) = re.findall(rf"^ARG {argument}=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    return str(value)


@contextmanager
def _index_of_torch() -> Iterator[str]:
    """URL of an index with the locked CPU builds of torch and torchvision.

    pip may find them in a folder that its settings name; an index on 127.0.0.1 then serves them to the build.
    """
    locked = re.findall(r"^torch(?:vision)?==\S+$", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    with tempfile.TemporaryDirectory() as folder:
        # No dependencies, binaries only: where the folder is missing, PyPI's build with CUDA would be gigabytes.
        simple = Path(folder) / "simple"
        if not _download(locked, simple):
            yield OFFICIAL_INDEX
            return
        handler = partial(_Quiet, directory=folder)
        with _server(handler) as server:
            thread = Thread(target=server.serve_forever)
            thread.start()
            try:
                yield f"http://127.0.0.1:{server.server_port}/simple"
            finally:
                server.shutdown()
                thread.join()


def _server(handler: partial[SimpleHTTPRequestHandler]) -> ThreadingHTTPServer:
    """On INDEX_PORT if it is free: with another URL, the build would not find its cached layers."""
    try:
        return ThreadingHTTPServer(("127.0.0.1", INDEX_PORT), handler)
    except OSError:
        return ThreadingHTTPServer(("127.0.0.1", 0), handler)


def _download(requirements: list[str], simple: Path) -> bool:
    """Lay wheels out as an index. False if pip's settings name no folder that has torch's CPU build."""
    links = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global.find-links"], capture_output=True, text=True, check=False
    ).stdout.split()
    (torch,) = [one for one in requirements if one.startswith("torch==")]
    pattern = f"torch-{torch.partition('==')[2]}+cpu-*.whl"
    if not [wheel for link in links if Path(link).is_dir() for wheel in Path(link).glob(pattern)]:
        return False
    for requirement in requirements:
        folder = simple / requirement.partition("==")[0]
        download = ("download", "--quiet", "--no-deps", "--only-binary=:all:", f"--dest={folder}", requirement)
        subprocess.run([sys.executable, "-m", "pip", *download], check=True)
    return True


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """The build's own output says what it downloads."""
