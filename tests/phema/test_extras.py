"""Extras: what they bring, and the sentence for one that is not installed."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from phema import extras
from phema.errors import MissingPackages

Cli = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[2]
DEVELOPMENT = ("test", "docs", "test-integrations")
"""Extras of tools that phema itself never imports."""
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[><=]", text)[0] for text in requirements} - {"phema"}


def test_every_extra_names_the_packages_that_it_brings() -> None:
    declared = {
        extra: names(texts) for extra, texts in PROJECT["optional-dependencies"].items() if extra not in DEVELOPMENT
    }
    declared["server"] |= declared["plots"] | declared["s3"]
    distributions = packages_distributions()
    imported = {
        # Libraries of phema.integrations are not installed here; their modules have the names of their packages.
        extra: {name.lower().replace("_", "-") for module in modules for name in distributions.get(module, [module])}
        for extra, modules in extras.EXTRAS.items()
    }
    brought_along = {"botocore", "psycopg-binary"}
    assert {extra: found - brought_along for extra, found in imported.items()} == declared


def test_a_module_belongs_to_the_smallest_extra_that_brings_it() -> None:
    def extra(module: str) -> str | None:
        missing = extras.missing_packages(ModuleNotFoundError("absent", name=module))
        return missing and missing.extra

    expected = {
        "boto3": "s3",
        "matplotlib.axes": "plots",
        "sqlalchemy.orm": "server",
        "diffusers": "vae",
        "lightning.pytorch": "lightning",
        "accelerate": "accelerate",
        "transformers": "transformers",
        "numpi": None,
    }
    assert {module: extra(module) for module in expected} == expected
    assert extras.missing_packages(ModuleNotFoundError("without a name")) is None


@pytest.mark.parametrize(
    "command", ["up", "doctor", "prepare", "db upgrade", "db rebuild", "store verify", "demo", "reproduce fig3"]
)
def test_a_command_names_the_extra_that_it_needs(cli: Cli, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(extras.EXTRAS, "server", ("no_such_package",))
    sentence = f"phema: phema {command} needs the server packages: pip install 'phema[server]'\n"
    assert cli(*command.split()) == (2, "", sentence)


def test_a_package_that_is_missing_later_gets_the_same_sentence(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.startswith("phema.shared.snapshots.stores.s3")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "boto3", None)
    sentence = "phema: phema dataset show needs the s3 packages: pip install 'phema[s3]'\n"
    assert cli("dataset", "show", "s3://bucket/pictures") == (2, "", sentence)
    from phema.sdk.snapshot_writer import SnapshotWriter

    monkeypatch.setenv("PHEMA_URL", "http://127.0.0.1:9")
    with pytest.raises(MissingPackages, match=r"this needs the s3 packages: pip install 'phema\[s3\]'"):
        SnapshotWriter("run", "s3://bucket")


@pytest.mark.parametrize(
    ("module", "extra"),
    [(name, name) for name in ("accelerate", "lightning", "mlflow", "transformers", "wandb")],
)
def test_an_integration_names_the_extra_that_it_needs(module: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, f"phema.integrations.{module}", raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingPackages) as caught:
        importlib.import_module(f"phema.integrations.{module}")
    assert str(caught.value) == f"phema.integrations.{module} needs the {extra} packages: pip install 'phema[{extra}]'"


def loaded(code: str) -> set[str]:
    """Top-level modules and modules of phema that a new process has imported after `code`."""
    code = f"import sys\n{code}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name if name.startswith("phema") else name.partition(".")[0] for name in done.stdout.split()}


SERVER = {"ray", "fastapi", "starlette", "uvicorn", "sqlalchemy", "alembic", "boto3", "botocore", "prometheus_client"}
PLOTS = {"matplotlib", "sklearn", "scipy"}


@pytest.mark.parametrize(
    "code",
    [
        "import phema; phema.PowerFunctionEMA, phema.SnapshotWriter, phema.import_run, phema.load, phema.sample",
        "import phema.shared.snapshots.combining.reconstruct, phema.shared.snapshots.planning.planner",
        "import phema.shared.metrics.reference_statistics, phema.shared.metrics.held_out_loss",
        "import phema.shared.datasets.preparation.conversion, phema.shared.datasets.preparation.vae",
        "import phema.shared.recipes.presets, phema.shared.wiring, phema.shared.pictures.picture_grid",
        "import phema.sdk.drawing, phema.command.subcommands.sample, phema.command.subcommands.models",
    ],
)
def test_the_light_part_imports_nothing_of_the_server(code: str) -> None:
    assert loaded(code) & (SERVER | PLOTS) == set()


def test_import_phema_loads_nothing_else() -> None:
    before, after = loaded(""), loaded("import phema")
    assert {name for name in after - before if name.startswith("phema")} == {"phema"}
    assert after & (SERVER | PLOTS | {"torch", "numpy", "pydantic", "httpx", "rich", "typer"}) == set()
    assert "torch" in loaded("import phema; phema.PowerFunctionEMA")


def test_a_command_loads_its_own_module_and_no_other() -> None:
    run = "from phema.command.main import run; run({})"
    after = loaded(run.format(["--url", "http://127.0.0.1:9", "runs", "list"]))
    prefix = "phema.command.subcommands."
    loaded_commands = {name.removeprefix(prefix) for name in after if name.startswith(prefix)}
    assert loaded_commands == {"runs", "run_changes", "run_control", "run_logs"}, "the commands of `phema runs`"
    heavy = {"torch", "numpy", "rich", "pygments", "click", "phema.shared.recipes.run_config"}
    assert after & (SERVER | PLOTS | heavy | {"phema.shared.snapshots.profile"}) == set()
