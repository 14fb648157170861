"""The wheel as a user installs it: not editable, with the light dependencies only, beside a project of the user's own.

The other tests run on an editable install with all extras, which hides missing files, missing dependencies and names
that clash with the user's.
"""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
UV = Path(sys.executable).with_name("uv")
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "phema", "shared", "services")
SERVER = ("alembic", "boto3", "fastapi", "matplotlib", "prometheus_client", "ray", "sklearn", "sqlalchemy", "uvicorn")


def call(*command: str | Path, cwd: Path, **env: str) -> str:
    """Standard output of a command that must succeed."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PHEMA_"))}
    done = subprocess.run(command, cwd=cwd, env=variables | env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(kind: str, source: Path, output: Path) -> Path:
    """Build a wheel or an sdist with this environment's setuptools; returns the file."""
    options = ["--no-build-isolation", "--python", sys.executable, "--offline", "--out-dir", str(output)]
    call(UV, "build", f"--{kind}", *options, str(source), cwd=output.parent)
    [file] = [path for path in output.iterdir() if path.suffix in (".whl", ".gz")]
    return file


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources: setuptools writes beside them."""
    copy = tmp_path_factory.mktemp("sources") / "phema-sources"
    copy.mkdir()
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(source, copy / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(source, copy / name)
    return copy


@pytest.fixture(scope="session")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", tree, tmp_path_factory.mktemp("build") / "wheel")


@pytest.fixture(scope="session")
def venv(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bare environment with the wheel and what the wheel depends on."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    call(UV, "venv", "--python", sys.executable, folder, cwd=ROOT)
    install = [UV, "pip", "install", "--python", folder / "bin/python", "--constraints", "requirements.lock"]
    call(*install, wheel, cwd=ROOT, **_find_links())
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder of the user's, with packages `shared` and `services` of their own."""
    for name in ("shared", "services"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text('raise ImportError("this package is the user\'s own")\n')
    return tmp_path


def _find_links() -> dict[str, str]:
    """uv does not read pip's settings: hand over the folders of wheels, as deploy/install.sh does."""
    configured = [sys.executable, "-m", "pip", "config", "get", "global.find-links"]
    found = os.environ.get("UV_FIND_LINKS") or os.environ.get("PIP_FIND_LINKS")
    found = found or subprocess.run(configured, capture_output=True, text=True, check=False).stdout
    return {"UV_FIND_LINKS": ",".join(re.split(r"[\s,]+", found.strip()))} if found.strip() else {}


def modules_of(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if not re.match(r"[^/]+\.dist-info/", name)}


def sources() -> set[str]:
    """Every file that the package consists of, by its path in the wheel."""
    found = set()
    for folder in ("phema", "shared", "services"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                inside = path.relative_to(ROOT)
                found.add(str(inside if folder == "phema" else Path("phema") / inside))
    return found


def test_the_wheel_holds_every_source_file_and_nothing_else(wheel: Path) -> None:
    """Migrations, templates, scripts of pages and recorded examples too."""
    assert modules_of(wheel) == sources()
    assert {Path(name).suffix for name in sources()} == {
        ".css",
        ".html",
        ".js",
        ".json",
        ".mako",
        ".py",
        ".svg",
    }


def test_the_sdist_builds_the_same_wheel(tree: Path, wheel: Path, tmp_path: Path) -> None:
    sdist = build("sdist", tree, tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        assert [member.name for member in archive if member.issym()] == []
    assert modules_of(build("wheel", sdist, tmp_path / "wheel")) == modules_of(wheel)


def test_one_package_is_installed_without_the_server(venv: Path, project: Path) -> None:
    [record] = venv.glob("lib/python*/site-packages/phema-*.dist-info/RECORD")
    with record.open(newline="") as file:
        top = {Path(row[0]).parts[0] for row in csv.reader(file) if not row[0].startswith("../")}
    assert top == {"phema", record.parent.name}
    code = f"import importlib.util as u; print([name for name in {SERVER} if u.find_spec(name)])"
    assert call(venv / "bin/python", "-c", code, cwd=project) == "[]\n"


AVERAGES = """
import torch, phema
from pathlib import Path
from phema.shared.snapshots.files.snapshot_file import encode, read_path
from phema.shared.snapshots.files.header import SnapshotMetadata

torch.manual_seed(0)
model = torch.nn.Linear(4, 2)
ema = phema.PowerFunctionEMA(model, sigma_rels=[0.05, 0.10])
for step in range(1, 4):
    with torch.no_grad():
        model.weight += 1
    ema.update(step * 100)
averages = dict(ema.items(0))
metadata = SnapshotMetadata(
    run_id="run-1", num_images=300, profile=phema.Profile.power(0.05), dtype="float32", buffers=(), code_version="1",
    config_hash="", config={},
)
Path("file.safetensors").write_bytes(encode(averages, metadata))
assert phema.metadata("file.safetensors") == metadata
from safetensors.torch import load_file
assert torch.equal(load_file("file.safetensors")["weight"], averages["weight"])
print("averaged, written, read")
"""
PLAN = """
import phema
from phema.shared.snapshots.planning.planner import plan
from phema.shared.snapshots.planning.stored_snapshot import StoredSnapshot

stored = [
    StoredSnapshot(
        id=f"{time}-{width}", num_images=time, profile=phema.Profile.power(width), key="key", size=1, sha256=""
    )
    for time in range(100, 1700, 100)
    for width in (0.05, 0.10)
]
[output] = plan(stored, [phema.Profile.power(0.08)]).outputs
assert output.errors.predicted_error < 0.05, output
print("planned")
"""


FOLDER = """
import torch, phema

torch.manual_seed(0)
model = torch.nn.Linear(4, 2)
ema, direct = phema.PowerFunctionEMA(model, sigma_rels=[0.05, 0.10]), phema.PowerFunctionEMA(model, sigma_rels=[0.08])
with phema.SnapshotWriter("runs/mine", config={"learning_rate": 0.1}) as writer:
    for step in range(1, 161):
        with torch.no_grad():
            model.weight += 0.1 * torch.randn(2, 4)
        ema.update(step * 100)
        direct.update(step * 100)
        if step % 10 == 0:
            writer.save(step * 100, ema, dtype="float32")
"""
CHOOSE = """
import sys, phema
run = phema.open("runs/mine")
[output] = run.plan(0.08).outputs
assert output.predicted_error < 0.01, output
assert "torch" not in sys.modules
assert run.compact().vectors > 2 and run.verify().sound
try:
    phema.open("s3://bucket/mine")
except phema.PhemaError as error:
    print(error)
"""


def test_a_folder_is_written_and_an_average_chosen_without_a_service(venv: Path, project: Path) -> None:
    compare = """
from safetensors.torch import load_file
found, wanted = load_file("chosen.safetensors")["weight"], dict(direct.items(0))["weight"]
print(float((found - wanted).norm() / wanted.norm()) < 0.01)
"""
    no_s3 = "this needs the s3 packages: pip install 'phema[s3]'\n"
    no_server = "phema: phema runs adopt needs the server packages: pip install 'phema[server]'\n"
    phema, ask = venv / "bin/phema", ("reconstruct", "runs/mine", "--sigma-rel", "0.08", "--output")
    call(venv / "bin/python", "-c", FOLDER, cwd=project)
    assert call(venv / "bin/python", "-c", CHOOSE, cwd=project) == no_s3
    assert "chosen.safetensors" in call(phema, *ask, "chosen.safetensors", cwd=project)
    assert "damaged or missing: 0" in call(phema, "store", "verify", "runs/mine", cwd=project)
    # The script again: nothing is written anew, and its directly tracked average is compared.
    assert call(venv / "bin/python", "-c", FOLDER + compare, cwd=project) == "True\n"
    adopt = [phema, "runs", "adopt", "runs/mine"]
    assert subprocess.run(adopt, cwd=project, capture_output=True, text=True, check=False).stderr == no_server


def test_averages_and_snapshot_files_work(venv: Path, project: Path) -> None:
    assert call(venv / "bin/python", "-c", AVERAGES, cwd=project) == "averaged, written, read\n"


def test_a_plan_is_made(venv: Path, project: Path) -> None:
    assert call(venv / "bin/python", "-c", PLAN, cwd=project) == "planned\n"


def test_the_command_works_and_names_the_extra_that_it_needs(venv: Path, project: Path) -> None:
    phema = venv / "bin/phema"
    assert re.fullmatch(r"phema \d+\.\d+\.\d+\n", call(phema, "--version", cwd=project))
    help_page = call(phema, "--help", cwd=project)
    assert all(f" {name} " in help_page for name in ("up", "runs", "reconstruct", "dataset", "demo", "reproduce"))
    assert "--port" in call(phema, "up", "--help", cwd=project)
    assert "digits-tiny" in call(phema, "presets", cwd=project)
    for command in ("up", "doctor", "demo"):
        done = subprocess.run([phema, command], cwd=project, capture_output=True, text=True, check=False)
        sentence = f"phema: phema {command} needs the server packages: pip install 'phema[server]'\n"
        assert (done.returncode, done.stdout, done.stderr) == (2, "", sentence)
