"""Keys of the objects in the store. Each key is unique, because it contains a hash or a random token. Torch-free.

The readable parts of a key are for people. phema parses only the SHA-256 back, and only to verify bytes.
"""

from __future__ import annotations

import re

_KEY = re.compile(r"[A-Za-z0-9_=+\-][A-Za-z0-9_.=+\-]*(?:/[A-Za-z0-9_=+\-][A-Za-z0-9_.=+\-]*)*")
_SHA256 = re.compile(r"(?<![0-9a-f])([0-9a-f]{64})\.[a-z]+$")
MAX_KEY_BYTES = 1000


def check_key(key: str) -> str:
    """The key itself. Raises ValueError if it could leave the store's folder or if a server could change it."""
    if len(key) > MAX_KEY_BYTES or not _KEY.fullmatch(key):
        raise ValueError(
            f"object key {key[:200]!r} must be at most {MAX_KEY_BYTES} characters: parts of letters, digits and "
            "-_.=+ that do not start with a dot, separated by /"
        )
    return key


def run_key(run_id: str) -> str:
    return check_key(f"runs/{run_id}/run.json")


def snapshot_key(run_id: str, *, num_images: int, label: str, sha256: str) -> str:
    """`label` is `Profile.label`."""
    return check_key(f"runs/{run_id}/snapshots/{num_images:012d}-{label}-{sha256}.safetensors")


def checkpoint_key(run_id: str, *, num_images: int, sha256: str) -> str:
    return check_key(f"runs/{run_id}/checkpoints/{num_images:012d}-{sha256}.pt")


def reconstruction_key(run_id: str, reconstruction_id: str, token: str) -> str:
    return check_key(f"runs/{run_id}/reconstructions/{reconstruction_id}-{token}.safetensors")


def basis_key(run_id: str, basis_id: str, index: int, token: str) -> str:
    return check_key(f"runs/{run_id}/bases/{basis_id}-{index:02d}-{token}.safetensors")


def pictures_key(evaluation_id: str, token: str) -> str:
    return check_key(f"evaluations/{evaluation_id}-{token}.png")


def attempt_log_key(run_id: str, submission_id: str) -> str:
    """Outside `runs/`: logs are no part of a run, and the catalog is rebuilt without them."""
    return check_key(f"logs/{run_id}/{submission_id}.log")


def sha256_of_key(key: str) -> str | None:
    """The SHA-256 in the key of a snapshot or checkpoint; None for other keys."""
    match = _SHA256.search(key)
    return match.group(1) if match else None
