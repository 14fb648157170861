"""Run files and typed configurations: what is written is read again, and every mistake is one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import phema
from phema.client.client import Client
from phema.client.run_configurations import own_preset, without_nulls_of_preset
from phema.client.run_files import format_run_file, read_run_file
from phema.errors import InvalidArgument
from phema.shared.recipes.presets import PRESETS, resolve
from tests.phema.service import Service

Cli = Callable[..., tuple[int, str, str]]
CHANGED = ("--set", "seed=7", "--set", "network.dropout=0.1", "--set", "lr_decay_iterations=500")


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("format", ["yaml", "toml", "json"])
def test_every_preset_survives_every_format(tmp_path: Path, name: str, format: Any) -> None:
    config = resolve(name)
    document = config.model_dump(mode="json")
    file = tmp_path / f"run.{format}"
    file.write_text(format_run_file(without_nulls_of_preset(document) if format == "toml" else document, format))
    chosen, fields = own_preset(None, read_run_file(file))
    assert resolve(chosen, fields) == config
    assert phema.preset(chosen, **fields).config_hash == config.config_hash


@pytest.mark.usefixtures("service")
@pytest.mark.parametrize("format", ["yaml", "toml", "json"])
def test_a_run_is_made_from_what_presets_show_prints(cli: Cli, name: str, tmp_path: Path, format: str) -> None:
    code, text, err = cli("presets", "show", "digits-b", *CHANGED, "--format", format)
    assert (code, err) == (0, "")
    (tmp_path / f"run.{format}").write_text(text)
    code, out, err = cli("runs", "create", name, "--file", f"run.{format}", "--set", "seed=8", "--json")
    assert code == 0, err
    created = json.loads(out)
    assert (created["name"], created["preset"]) == (name, "digits-b")
    wanted = {"seed": 8, "network": {"dropout": 0.1}, "lr_decay_iterations": 500}
    assert created["config"] == resolve("digits-b", wanted).model_dump(mode="json")


FILES = {
    "list.yaml": "- 1",
    "twice.yaml": "seed: 1\nseed: 2\n",
    "tab.yaml": "seed:\n\t1",
    "named.yaml": "1: 2",
    "twice.json": '{"seed": 1, "seed": 2}',
    "cut.json": '{"seed": ',
    "cut.toml": "seed = ",
    "run.txt": "seed: 1",
    "bytes.yaml": "",
    "preset.yaml": "preset: digits-b",
    "wrong.yaml": "network: {dropuot: 0.1}\nseed: -1",
    "long.yaml": "total_images: 100",
}
MISTAKES = [
    (("--file", "list.yaml"), "run file list.yaml must hold fields of a configuration, such as total_images, not a"),
    (("--file", "twice.yaml"), "run file twice.yaml is not valid YAML: line 2, column 1: seed is given twice"),
    (("--file", "tab.yaml"), "run file tab.yaml is not valid YAML: line 2, column 1: found character '\\t'"),
    (("--file", "named.yaml"), "run file named.yaml: 1 is a number; the name of a field is a text"),
    (("--file", "twice.json"), "run file twice.json is not valid JSON: seed is given twice"),
    (("--file", "cut.json"), "run file cut.json is not valid JSON: Expecting value: line 1 column 10"),
    (("--file", "cut.toml"), "run file cut.toml is not valid TOML: Invalid value"),
    (("--file", "run.txt"), "run file run.txt has no known ending; it must be .yaml, .yml, .toml, .json"),
    (("--file", "bytes.yaml"), "run file bytes.yaml is not text in UTF-8: byte 1 is not valid"),
    (("--file", "preset.yaml", "--preset", "digits-c"), "preset 'digits-c' and the preset 'digits-b' of the config"),
    (("a-name", "--name", "another"), "NAME a-name and --name another both name the run; give one of them"),
    (("--file", "wrong.yaml"), "config.seed must be greater than or equal to 0, got -1"),
    (
        ("--file", "wrong.yaml"),
        "run file wrong.yaml: config.network.dropuot is not a field of the configuration; did you mean 'dropout'?",
    ),
]


@pytest.mark.usefixtures("service")
@pytest.mark.parametrize(("arguments", "words"), MISTAKES, ids=[" ".join(given) for given, _ in MISTAKES])
def test_a_mistake_in_a_run_file_names_the_file(
    cli: Cli, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    for file, text in FILES.items():
        (tmp_path / file).write_text(text)
    (tmp_path / "bytes.yaml").write_bytes(b"a\xff")
    code, out, err = cli("runs", "create", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err


@pytest.mark.usefixtures("service")
def test_a_mistake_of_an_option_does_not_blame_the_file(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("batch_size: 64\nseed: 1\n")
    code, _, err = cli("runs", "create", "--file", "run.yaml", "--set", "seed=-1")
    assert (code, "run file" in err, "config.seed must be" in err) == (2, False, True)


def test_numbers_are_numbers_and_text_is_text(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("learning_rate: 1e-2\nadam_eps: 1.5E-8\ntotal_images: 25_600\ndataset: {name: 2026-11-30}\n")
    found = read_run_file(file)
    assert (found["learning_rate"], found["adam_eps"], found["total_images"]) == (0.01, 1.5e-8, 25_600)
    assert found["dataset"] == {"name": "2026-11-30"}
    file.write_text("# nothing yet\n")
    assert read_run_file(file) == {}


def test_nulls_and_toml(cli: Cli) -> None:
    code, _, err = cli("presets", "show", "digits-tiny", "--set", "lr_decay_iterations=null", "--format", "toml")
    assert (code, err) == (
        2,
        "phema: lr_decay_iterations is null, which TOML cannot express; use the format yaml or json\n",
    )
    assert cli("presets", "show", "digits-tiny", "--set", "seed=-1")[2] == (
        "phema: seed must be greater than or equal to 0, got -1\n"
    )
    assert "--json and --format both" in cli("presets", "show", "digits-tiny", "--json", "--format", "yaml")[2]


def test_a_typed_configuration(service: Service, client: Client, name: str) -> None:
    network = resolve("digits-tiny").network.model_copy(update={"dropout": 0.1})
    config = phema.preset("digits-tiny", total_images=25_600, network=network)
    assert (config.total_images, config.network.dropout) == (25_600, 0.1)
    assert isinstance(config, phema.RunConfig)
    assert client.runs.create(name, config=config).config == config.model_dump(mode="json")
    with pytest.raises(InvalidArgument, match="preset 'digits-b' and the preset 'digits-tiny' of the configuration"):
        client.runs.create(name, "digits-b", config)
    with pytest.raises(InvalidArgument, match="total_image is not a field of the configuration; did you mean 'total_"):
        phema.preset("digits-tiny", total_image=3)
    with pytest.raises(InvalidArgument, match="preset 'digits-tin' is unknown; did you mean 'digits-tiny'"):
        phema.preset("digits-tin")
    with pytest.raises(InvalidArgument, match="preset is given twice"):
        phema.preset("digits-tiny", preset="digits-b")
