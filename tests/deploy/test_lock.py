"""requirements.hashes: the versions of requirements.lock with the hashes that uv checks."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.documents import ROOT

LOCKS = ("requirements", "requirements.integrations")
HASHES = (ROOT / "requirements.hashes").read_text()
UNHASHED = {"torch", "torchvision"}
"""Their builds come from several places, each with hashes of its own."""


def hashed(hashes: str = HASHES) -> dict[str, list[str]]:
    """Pinned requirement, without its marker, to its hashes."""
    entries = re.findall(r"^([^\s#]\S*==\S+)((?:.*\\\n)*.*)$", hashes, re.MULTILINE)
    return {pin: re.findall(r"--hash=sha256:([0-9a-f]{64})", rest) for pin, rest in entries}


@pytest.mark.parametrize("lock", LOCKS)
def test_every_locked_version_has_hashes(lock: str) -> None:
    pins = {line.split(";")[0].strip() for line in (ROOT / f"{lock}.lock").read_text().splitlines()}
    found = hashed((ROOT / f"{lock}.hashes").read_text())
    assert set(found) == pins, "run deploy/lock_hashes.sh"
    assert {pin.split("==")[0] for pin, digests in found.items() if not digests} <= UNHASHED


def test_both_environments_have_the_same_torch_and_ray() -> None:
    first, second = (set((ROOT / f"{lock}.lock").read_text().splitlines()) for lock in LOCKS)
    assert {"torch", "ray", "safetensors"} <= {pin.split("==")[0] for pin in first & second}


@pytest.mark.parametrize("program", ["deploy/install.sh", "Dockerfile"])
def test_what_is_installed_is_checked(program: str) -> None:
    """uv installs with the hashes; pip installs nothing but uv itself, whose hash it checks."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / program).read_text(), flags=re.MULTILINE)
    text = text.partition("\nelse\n")[0]
    commands = re.findall(r"^.*\bpip\b.* install .*(?:\\\n.*)*", text, re.MULTILINE) + re.findall(
        r"^RUN.*\bpip install .*$", text, re.MULTILINE
    )
    assert len(commands) >= 2
    for command in commands:
        assert "--require-hashes" in command or 'uv" pip' in command or "uv pip" in command, command
    assert '--constraints "$lock.hashes"' in text or "UV_CONSTRAINT=requirements.hashes" in text


def test_a_package_with_other_bytes_is_refused(tmp_path: Path) -> None:
    uv = Path(sys.executable).parent / "uv"
    chosen = next(pin for pin in hashed() if pin.startswith("colorful=="))

    def install(constraints: str, folder: str) -> subprocess.CompletedProcess[str]:
        file = tmp_path / f"{folder}.txt"
        file.write_text(constraints)
        command = [uv, "pip", "install", "--no-deps", "--target", tmp_path / folder, "--constraints", file, "colorful"]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = install(HASHES, "good")
    assert done.returncode == 0, done.stderr
    changed = HASHES
    for digest in hashed()[chosen]:
        changed = changed.replace(digest, "0" * 8 + digest[8:])
    done = install(changed, "bad")
    assert done.returncode != 0
    assert "Hash mismatch" in done.stderr
