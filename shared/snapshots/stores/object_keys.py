"""Keys of the objects in the store. Each key is unique, because it contains a hash or a random token. Torch-free.

The readable parts of a key are for people. phema parses the SHA-256 back, to verify bytes, and the positions of pieces
of a log.
"""

from __future__ import annotations

import hashlib
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


def rename_prefix(run_id: str) -> str:
    """The beginning of all keys of `rename_key`."""
    return f"runs/{run_id}/names/"


def rename_key(run_id: str, number: int, token: str) -> str:
    """Of the record that a run was renamed. Later records have larger numbers."""
    return check_key(f"{rename_prefix(run_id)}{number:06d}-{token}.json")


TOMBSTONES = "deleted/"
"""Prefix of the records of deleted runs."""


def tombstone_key(run_id: str) -> str:
    """Of the record that a run was deleted. Outside `runs/`, so that it survives the objects of the run."""
    return check_key(f"{TOMBSTONES}{run_id}.json")


def logs_prefix(run_id: str) -> str:
    """The beginning of all keys of `attempt_log_key`."""
    return f"logs/{run_id}/"


def snapshot_key(run_id: str, *, num_images: int, label: str, sha256: str) -> str:
    """`label` is `Profile.label`."""
    return check_key(f"runs/{run_id}/snapshots/{num_images:012d}-{label}-{sha256}.safetensors")


def checkpoint_key(run_id: str, *, num_images: int, sha256: str) -> str:
    return check_key(f"runs/{run_id}/checkpoints/{num_images:012d}-{sha256}.pt")


def reconstruction_key(run_id: str, reconstruction_id: str, token: str) -> str:
    return check_key(f"runs/{run_id}/reconstructions/{reconstruction_id}-{token}.safetensors")


def basis_key(run_id: str, basis_id: str, index: int, token: str) -> str:
    return check_key(f"runs/{run_id}/bases/{basis_id}-{index:02d}-{token}.safetensors")


FOLDER_RUN = "folder.json"
"""Names the one run of a folder that `phema.SnapshotWriter` writes without a service."""


def basis_records_prefix(run_id: str) -> str:
    """The beginning of all keys of `basis_record_key`."""
    return f"bases/{run_id}/"


def basis_record_key(run_id: str, basis_id: str) -> str:
    """Of the record of a basis that was computed without a service: the catalog's row, as a file. Outside `runs/`, as
    each vector already describes its basis."""
    return check_key(f"{basis_records_prefix(run_id)}{basis_id}.json")


def run_prefix(run_id: str) -> str:
    """The beginning of the keys of all objects of a run."""
    return f"runs/{run_id}/"


def snapshots_prefix(run_id: str) -> str:
    """The beginning of all keys of `snapshot_key`."""
    return f"runs/{run_id}/snapshots/"


def pictures_key(evaluation_id: str, token: str) -> str:
    return check_key(f"evaluations/{evaluation_id}-{token}.png")


def archive_key(evaluation_id: str, token: str) -> str:
    return check_key(f"evaluations/{evaluation_id}-{token}.zip")


def part_object_key(part_id: str, token: str) -> str:
    return check_key(f"evaluations/parts/{part_id}-{token}.safetensors")


def sample_key(sample_id: str, token: str, suffix: str) -> str:
    return check_key(f"samples/{sample_id}-{token}.{suffix}")


def preview_key(preview_id: str, token: str) -> str:
    return check_key(f"previews/{preview_id}-{token}.png")


MODELS = "models/"
"""Prefix of the records of promoted models, which `phema db rebuild` reads."""


def model_key(model_id: str) -> str:
    return check_key(f"{MODELS}{model_id}.json")


def reference_key(extractor: str, content_hash: str) -> str:
    """Statistics of a dataset's pictures. `content_hash`: of everything that decides them."""
    return check_key(f"references/{extractor}-{content_hash}.npz")


def extractor_weights_key(extractor: str, file: str) -> str:
    """Weights of a feature extractor, under the name of their file or of their hash."""
    return check_key(f"extractors/{extractor}/{file}")


def extractor_weights_prefix(extractor: str) -> str:
    """The beginning of all keys of `extractor_weights_key`."""
    return f"extractors/{extractor}/"


def attempt_log_key(run_id: str, submission_id: str) -> str:
    """Outside `runs/`: logs are no part of a run, and the catalog is rebuilt without them."""
    return check_key(f"logs/{run_id}/{submission_id}.log")


def log_pieces_prefix(run_id: str, submission_id: str) -> str:
    """The beginning of all keys of `log_piece_key` of one attempt."""
    return f"logs/{run_id}/{submission_id}/"


def log_piece_key(run_id: str, submission_id: str, start: int, end: int) -> str:
    """Of the bytes from `start` to `end` of the log of an attempt that runs."""
    return check_key(f"{log_pieces_prefix(run_id, submission_id)}{start:015d}-{end:015d}.log")


def unlisted_prefix(run_id: str) -> str:
    """How the keys of all notes of a run begin (`unlisted_objects`). Outside `runs/`, as logs are."""
    return f"unlisted/{run_id}/"


def unlisted_key(run_id: str, key: str) -> str:
    """Of the note that names object `key`."""
    return check_key(f"{unlisted_prefix(run_id)}{hashlib.sha256(key.encode()).hexdigest()[:32]}.txt")


def sha256_of_key(key: str) -> str | None:
    """The SHA-256 in the key of a snapshot or checkpoint; None for other keys."""
    match = _SHA256.search(key)
    return match.group(1) if match else None
