"""What a linter of Dockerfiles would say (hadolint's rules that apply), and what ours promises beyond."""

from __future__ import annotations

import re

from tests.deploy.documents import ROOT

_NO_COMMENTS = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
TEXT = re.sub(r"\\\n\s*", " ", _NO_COMMENTS)
LINES = [line for line in TEXT.splitlines() if line]
INSTRUCTIONS = [tuple(line.split(None, 1)) for line in LINES]
STAGES: dict[str, list[tuple[str, ...]]] = {}
for instruction in INSTRUCTIONS:
    if instruction[0] == "FROM":
        STAGES[instruction[1].split(" AS ")[1]] = []
    if STAGES:
        list(STAGES.values())[-1].append(instruction)


def said(name: str, stage: str) -> list[str]:
    """Arguments of an instruction in a stage and those that it builds on."""
    base = STAGES[stage][0][1].split(" AS ")[0]
    own = [argument for instruction, argument in STAGES[stage] if instruction == name]
    return [*(said(name, base) if base in STAGES else []), *own]


def test_every_line_begins_with_an_instruction() -> None:
    known = {"ARG", "FROM", "ENV", "RUN", "WORKDIR", "COPY", "USER", "STOPSIGNAL", "HEALTHCHECK", "CMD"}
    assert {instruction[0] for instruction in INSTRUCTIONS} <= known  # no ADD, no MAINTAINER, no SHELL


def test_the_base_is_pinned() -> None:
    (base,) = re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", TEXT, re.MULTILINE)
    assert re.fullmatch(r"python:3\.11\.\d+-slim-bookworm(@sha256:[0-9a-f]{64})?", base)
    outside = {stage[0][1].split(" AS ")[0] for stage in STAGES.values()} - set(STAGES)
    assert outside == {"${PYTHON_IMAGE}"}


def test_the_image_is_unprivileged_watched_and_holds_no_compiler_s_leavings() -> None:
    assert said("USER", "runtime")[-1] == "10001:10001"
    assert len(said("HEALTHCHECK", "runtime")) == 1
    assert said("CMD", "runtime")[-1].startswith('["')
    copied = ["--from=dependencies /opt/phema /opt/phema", "--from=package /opt/package /opt/phema"]
    assert said("COPY", "runtime") == copied


def test_a_change_of_the_sources_installs_no_dependency_again() -> None:
    before = said("COPY", "dependencies")
    assert before == ["requirements.lock requirements.hashes ./", "pyproject.toml ./"]
    assert said("RUN", "package")[-1] == "uv pip install --no-deps --no-build-isolation --prefix /opt/package ."
    (line,) = [line for line in said("RUN", "dependencies") if "--requirements pyproject.toml" in line]
    assert set(re.findall(r"--extra (\w+)", line)) == {"server", "postgres", "metrics"}


def test_the_build_of_torch_is_an_argument() -> None:
    """Old builders build every stage of the file, also those that the target does not need."""
    assert said("ARG", "dependencies")[0] == "TORCH=cpu"
    (line,) = [line for line in said("RUN", "dependencies") if "TORCH" in line]
    assert set(re.findall(r"(\w+)\) uv pip install", line)) == {"cpu", "cuda"}
    assert list(STAGES) == ["dependencies", "package", "runtime"]


def test_the_environment_is_found_by_login_shells_too() -> None:
    assert any(argument.startswith("PATH=/opt/phema/bin:${PATH}") for argument in said("ENV", "runtime"))
    assert any("echo 'PATH=/opt/phema/bin:$PATH' > /etc/profile.d/phema.sh" in line for line in said("RUN", "runtime"))


def test_bytecode_is_compiled_while_the_image_is_built() -> None:
    """The process may not write beside the packages; compiling torch and Ray at every start costs seconds."""
    build = "package"
    assert len([line for line in said("RUN", build) if "pip install" in line]) == 5
    assert "UV_COMPILE_BYTECODE=1" in str(said("ENV", build))
    assert not re.search("no-compile|NO_COMPILE|PYTHONDONTWRITEBYTECODE", str(said("RUN", build) + said("ENV", build)))
    assert not re.search("__pycache__|[.]pyc", str(said("RUN", build) + said("RUN", "runtime")))


def test_the_image_does_not_ask_for_gpus() -> None:
    assert "NVIDIA_VISIBLE_DEVICES" not in str(said("ENV", "runtime"))


def test_every_copy_between_stages_names_a_stage() -> None:
    assert set(re.findall(r"--from=(\S+)", TEXT)) <= set(STAGES)


def test_folders_are_absolute_and_changed_by_workdir() -> None:
    assert all(argument.startswith("/") for name, argument in INSTRUCTIONS if name == "WORKDIR")
    assert not re.search(r"^RUN .*\bcd ", TEXT, re.MULTILINE)


def test_no_secret_and_no_download_past_the_lock() -> None:
    assert not re.search(r"(PASSWORD|TOKEN|SECRET)\S*=", TEXT)
    assert not re.search(r"^RUN .*\b(curl|wget|git|sudo|apt|chmod 777)\b", TEXT, re.MULTILINE)
    assert "UV_CONSTRAINT=requirements.hashes" in TEXT
    assert [after for before, after in _installs() if before != "uv " and "--require-hashes" not in after] == []
    lock = (ROOT / "requirements.lock").read_text()
    assert [name for name in re.findall(r"grep '\^(\w+)==' ", TEXT) if not re.search(f"^{name}==", lock, re.M)] == []


def _installs() -> list[tuple[str, str]]:
    return re.findall(r"(\S+ )pip install ([^&\n]*)", TEXT)


def test_everything_copied_in_exists_and_is_not_ignored() -> None:
    allowed = set(re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    copied = {
        source
        for name, argument in INSTRUCTIONS
        if name == "COPY" and "--from" not in argument
        for source in argument.split()[:-1]
    }
    assert copied == allowed
    assert [source for source in copied if not (ROOT / source).exists()] == []


def test_every_package_that_is_imported_from_is_copied() -> None:
    assert {"phema", "shared", "services"} <= set(re.findall(r"^COPY (\w+) ", TEXT, re.MULTILINE))
